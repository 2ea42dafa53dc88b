"Seconds that each step of scoring takes for one large image, that many images take under one convention and under several, and that their maps take"
import argparse, tempfile, time
from pathlib import Path

import numpy as np, pandas as pd
from PIL import Image

from mmpkd.attention import attention_maps, several_maps
from mmpkd.cohort import Cohort
from mmpkd.images import Geometry
from mmpkd.image_files import mask_box, read_mask
from mmpkd.convention import CONVENTIONS, Convention
from mmpkd.scoring import PooledAUROC, Regions, score_conventions, score_maps, truth_of
from mmpkd.localization import best_iou, box_fpr, pixel_auroc, pixel_scores, predicted_boxes, saliency_of
from mmpkd.training import VIT_TINY
from mmpkd.student import Student
from mmpkd.networks import create_student


def seconds(f, repeats):
    "The fastest of some calls"
    def once(): start = time.perf_counter(); f(); return time.perf_counter() - start
    return min(once() for _ in range(repeats))


def example(root, h, w, size, g, n=1):
    "A cohort of n images with one elliptic lesion each, their geometries, and maps that are warm there"
    rng, rois, maps, u = np.random.default_rng(0), [], [], (np.arange(g) + .5)/g
    y, x = np.ogrid[:h, :w]
    for i in range(n):
        cy, cx = (.4, .6) if n == 1 else rng.normal(.5, .1, 2)
        mask = ((y - cy*h)/(.1*h))**2 + ((x - cx*w)/(.08*w))**2 < 1
        Image.fromarray(mask.astype(np.uint8)*255).save(root/f'mask{i}.png')
        rois.append(dict(zip(('x0', 'y0', 'x1', 'y1'), mask_box(mask)), image_id=f'i{i}', label='y', mask=f'mask{i}.png'))
        maps.append(np.exp(-((u[:, None] - cy)**2 + (u - cx)**2)/.02) + .3*rng.random((g, g)))
    ids = [r['image_id'] for r in rois]
    items = pd.DataFrame(dict(image_id=ids, patient_id=ids, split='test', image=ids, y=1))
    return Cohort(items, ['y'], pd.DataFrame(rois), root=root), ids, [Geometry(h, w, size)]*n, np.array(maps, np.float32)


def one_image(a, folder):
    "Each step, for one image"
    cohort, ids, (geometry,), (m,) = example(folder, a.height, a.width, a.size, a.grid)
    heat, shape = saliency_of(m, geometry), (a.height, a.width)
    regions, pool = Regions(cohort, ids, [geometry]), PooledAUROC(m.min(), m.max())
    regions.grid += 1                                                         # as if there were others, everywhere
    mask, boxes, elsewhere = regions.of(ids[0])
    pred = predicted_boxes(heat)
    steps = dict(read_mask=lambda: read_mask(folder/'mask0.png'), truth_of=lambda: truth_of(cohort, ids[0], shape), heat_of=lambda: saliency_of(m, geometry),
                 predicted_boxes=lambda: predicted_boxes(heat), pixel_auroc=lambda: pixel_auroc(heat, mask), pixel_scores=lambda: pixel_scores(heat, mask, elsewhere),
                 pooled=lambda: pool.add(heat, mask), best_iou=lambda: best_iou(pred, boxes), box_fpr=lambda: box_fpr(pred, mask),
                 score_maps=lambda: score_maps(m[None], ids, [geometry], cohort))
    notes = dict(pixel_scores=' (five scores, pixel AUROC among them)', score_maps=' (all of these)')
    print(f'{a.height} x {a.width} pixels, map of {a.grid} x {a.grid}, {len(pred)} predicted boxes; fastest of {a.repeats}\n\n| step | s |\n|---|---|')
    for name, f in steps.items(): print(f'| `{name}`{notes.get(name, "")} | {seconds(f, a.repeats):.4f} |', flush=True)


def many_images(a, folder):
    "A cohort of smaller images, one convention and several"
    cohort, ids, geometries, maps = example(folder, a.small[0], a.small[1], a.size, a.grid, a.n)
    mine = [c.tuned(.4) if c.rule == 'tuned' else c for c in CONVENTIONS if c.maps_args() == Convention().maps_args()]
    one_by_one = lambda: [score_maps(maps, ids, geometries, cohort, c) for c in mine]
    rows = {'1 convention': lambda: score_maps(maps, ids, geometries, cohort), '1 convention, 2 threads': lambda: score_maps(maps, ids, geometries, cohort, n_jobs=2),
            f'{len(mine)} conventions, one by one': one_by_one, f'{len(mine)} conventions together': lambda: score_conventions(maps, ids, geometries, cohort, mine)}
    print_times(f'{a.n} images of {a.small[0]} x {a.small[1]} pixels', rows)


def print_times(title, rows):
    "Each of some calls, once"
    print(f'\n{title}; once, seconds by the clock and of computing\n\n| what | s | CPU s |\n|---|---|---|')
    for name, f in rows.items():
        start = time.process_time()
        print(f'| {name} | {seconds(f, 1):.1f} |', end=' ', flush=True)
        print(f'{time.process_time() - start:.1f} |', flush=True)


class Noise:
    "Stands for a pixel cache"
    def __init__(self, size): self.size = size
    def __getitem__(self, k): return np.random.default_rng(int(k)).integers(0, 256, (self.size, self.size), dtype=np.uint8)
    def geometry(self, k): return Geometry(self.size, self.size, self.size)


def maps(a):
    "The maps that the conventions of `CONVENTIONS` read, one kind after another and from one pass"
    student = Student(create_student(1, a.size, 'none'), dict(labels=['y'], task='multilabel', size=a.size, arch=VIT_TINY, arch_kwargs={}))
    ids, hows = [str(i) for i in range(a.maps)], list({tuple(c.maps_args().items()): c.maps_args() for c in CONVENTIONS}.values())
    by_gradient = [h for h in hows if h['method'] in ('gradient', 'gradcam')]
    rows = {f'{len(hows)} kinds, one after another': lambda: [attention_maps(student, Noise(a.size), ids, **h) for h in hows], f'{len(hows)} kinds together': lambda: several_maps(student, Noise(a.size), ids, hows),
            f'{len(by_gradient)} of them, which need gradients': lambda: several_maps(student, Noise(a.size), ids, by_gradient)}
    print_times(f'Maps of {a.maps} images by a ViT-Tiny, {a.size} px', rows)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    for name, default in (('height', 3000), ('width', 2500), ('size', 224), ('grid', 14), ('repeats', 5), ('n', 400), ('maps', 128)): p.add_argument(f'--{name}', type=int, default=default)
    p.add_argument('--small', type=int, nargs=2, default=(500, 400), help='height and width of the many')
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder: one_image(a, Path(folder))
    with tempfile.TemporaryDirectory() as folder: many_images(a, Path(folder))
    maps(a)
