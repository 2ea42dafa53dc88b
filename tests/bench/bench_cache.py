"Images per second and memory of the pixel cache, on a phantom of DICOM files"
import argparse, resource, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np
from pydicom import dcmread

from mmpkd.images import cache_pixels
from mmpkd.phantom import phantom_cohort, write_phantom


def memory(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024   # highest so far, in MiB (Linux)


def enlarge(path, factor):
    "Make a DICOM file as large as real ones are"
    ds = dcmread(path)
    a = np.kron(ds.pixel_array, np.ones((factor, factor), np.uint16))
    ds.Rows, ds.Columns, ds.PixelData = *a.shape, a.tobytes()
    ds.save_as(path)


def measure(folder, size, jobs):
    "A line of the table; in a process of its own, so that its memory is its own"
    cohort, before, start = phantom_cohort(folder/'phantom'), memory(), time.perf_counter()
    pixels = cache_pixels(cohort, size, folder/f'pixels-{jobs}', n_jobs=jobs)
    t = time.perf_counter() - start
    print(f'| {jobs} | {len(pixels)/t:.0f} | {t:.1f} | {before:.0f} | {memory() - before:.0f} | {pixels.array.nbytes/2**20:.0f} |', flush=True)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--n', type=int, default=2000, help='DICOM files')
    p.add_argument('--size', type=int, default=224, help='side of the square in pixels')
    p.add_argument('--factor', type=int, default=1, help='enlarge the files of about 110 x 96 pixels so many times along each side')
    p.add_argument('--child', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child: measure(Path(a.child), a.size, a.n)
    else:
        with tempfile.TemporaryDirectory() as folder:
            images = (write_phantom(Path(folder)/'phantom', n=a.n, seed=0)/'images').glob('*.dcm')
            if a.factor > 1:
                for f in images: enlarge(f, a.factor)
            print(f'{a.n} DICOM files of about {110*a.factor} x {96*a.factor} pixels, cached at {a.size} px\n\n'
                  '| threads | images/s | s | MiB before | MiB more | MiB on disk |\n|---|---|---|---|---|---|', flush=True)
            for jobs in (1, 2): subprocess.run([sys.executable, __file__, '--child', folder, '--size', str(a.size), '--n', str(jobs)], check=True)
