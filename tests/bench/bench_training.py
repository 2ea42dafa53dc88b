"Images per second in training a ViT-Tiny, with everything around it: data loader, flips, optimiser, one-cycle schedule"
import argparse, time

import numpy as np, pandas as pd, torch

from mmpkd.cohort import Cohort
from mmpkd.student import bf16_is_fast, train_student


class Noise:
    "Stands for a pixel cache"
    def __init__(self, size): self.size, self.image = size, np.random.default_rng(0).integers(0, 256, (size, size), dtype=np.uint8)
    def __getitem__(self, image_id): return self.image


def cohort(n):
    "`n` training images and two for validation"
    ids = [f'im{i}' for i in range(n + 2)]
    return Cohort(pd.DataFrame(dict(image_id=ids, patient_id=ids, split=['train']*n + ['valid']*2, image='none', y=[i % 2 for i in range(n + 2)])), ['y'])


def rate(device, precision, size, n, bs):
    "Images per second, without the first epoch"
    ends = []
    def stamp():
        if device == 'cuda': torch.cuda.synchronize()
        ends.append(time.perf_counter())
    train_student(cohort(n), Noise(size), lam=0., epochs=3, bs=bs, weights="none", augment="flip", precision=precision, device=device, after_epoch=stamp)
    return 2*n/(ends[-1] - ends[0])


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--size', type=int, default=160, help='side of the image in pixels')
    p.add_argument('--bs', type=int, default=32, help='images per batch')
    p.add_argument('--n', type=int, default=320, help='images per epoch on a CPU, ten times as many on a GPU')
    a = p.parse_args()
    print(f'torch {torch.__version__}, ViT-Tiny/16, {a.size} px, batches of {a.bs}\n\n| device | precision | native | images/s |\n|---|---|---|---|')
    for device in ['cpu'] + ['cuda']*torch.cuda.is_available():
        name = torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
        for precision in ('fp32', 'bf16'):
            native = 'yes' if precision == 'fp32' or bf16_is_fast(device) else 'no'
            print(f'| {name} | {precision} | {native} | {rate(device, precision, a.size, a.n*(10 if device == "cuda" else 1), a.bs):.0f} |', flush=True)
