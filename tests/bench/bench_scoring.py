"Seconds that each step of scoring takes for one large image"
import argparse, tempfile, time
from pathlib import Path

import numpy as np, pandas as pd
from PIL import Image

from mmpkd.cohort import Cohort
from mmpkd.images import Geometry, mask_box, read_mask
from mmpkd.localization import best_iou, box_fpr, pixel_auroc, predicted_boxes, score_maps, truth_of


def seconds(f, repeats):
    "The fastest of some calls"
    def once(): start = time.perf_counter(); f(); return time.perf_counter() - start
    return min(once() for _ in range(repeats))


def example(root, h, w, size, g):
    "A cohort of one image with one elliptic lesion, and a map that is warm there"
    y, x = np.ogrid[:h, :w]
    mask = ((y - .4*h)/(.1*h))**2 + ((x - .6*w)/(.08*w))**2 < 1
    Image.fromarray(mask.astype(np.uint8)*255).save(root/'mask.png')
    items = pd.DataFrame([dict(image_id='a', patient_id='a', split='test', image='a.png', y=1)])
    rois = pd.DataFrame([dict(zip(('x0', 'y0', 'x1', 'y1'), mask_box(mask)), image_id='a', label='y', mask='mask.png')])
    u = (np.arange(g) + .5)/g
    m = np.exp(-((u[:, None] - .4)**2 + (u - .6)**2)/.02) + .3*np.random.default_rng(0).random((g, g))
    return Cohort(items, ['y'], rois, root=root), Geometry(h, w, size), m.astype(np.float32)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    for name, default in (('height', 3000), ('width', 2500), ('size', 224), ('grid', 14), ('repeats', 5)): p.add_argument(f'--{name}', type=int, default=default)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cohort, geometry, m = example(Path(folder), a.height, a.width, a.size, a.grid)
        heat, shape = geometry.map_to_original(m), (a.height, a.width)
        mask, boxes = truth_of(cohort, 'a', shape)
        pred = predicted_boxes(heat)
        steps = dict(read_mask=lambda: read_mask(Path(folder)/'mask.png'), truth_of=lambda: truth_of(cohort, 'a', shape),
                     map_to_original=lambda: geometry.map_to_original(m), predicted_boxes=lambda: predicted_boxes(heat), pixel_auroc=lambda: pixel_auroc(heat, mask),
                     best_iou=lambda: best_iou(pred, boxes), box_fpr=lambda: box_fpr(pred, mask), score_maps=lambda: score_maps(m[None], ['a'], [geometry], cohort))
        print(f'{a.height} x {a.width} pixels, map of {a.grid} x {a.grid}, {len(pred)} predicted boxes; fastest of {a.repeats}\n\n| step | s |\n|---|---|')
        for name, f in steps.items(): print(f'| {name}{" (all of these)" if name == "score_maps" else ""} | {seconds(f, a.repeats):.4f} |', flush=True)
