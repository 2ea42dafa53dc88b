"Images per second and memory of the pixel cache, and of looking for unreadable images, on phantoms of DICOM files"
import argparse, resource, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np
from pydicom import dcmread

from mmpkd.images import cache_pixels, unreadable
from mmpkd.phantoms.chest import phantom_cohort, write_phantom


def memory(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024   # highest so far, in MiB (Linux)


def enlarge(path, factor):
    "Make a DICOM file as large as real ones are"
    ds = dcmread(path)
    a = np.kron(ds.pixel_array, np.ones((factor, factor), np.uint16))
    ds.Rows, ds.Columns, ds.PixelData = *a.shape, a.tobytes()
    ds.save_as(path)


def measure(folder, what, size, jobs):
    "A line of the table; in a process of its own, so that its memory is its own"
    cohort, before, start = phantom_cohort(folder/'phantom'), memory(), time.perf_counter()
    if what == 'unreadable': assert not len(unreadable(cohort, jobs))
    else: cache_pixels(cohort, size, folder/f'pixels-{jobs}', n_jobs=jobs).digest()
    t, disk = time.perf_counter() - start, len(cohort)*size**2/2**20 if what == 'cache' else 0
    print(f'| {len(cohort)} | {what} | {jobs} | {len(cohort)/t:.0f} | {before:.0f} | {memory():.0f} | {disk:.0f} |', flush=True)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--n', type=int, nargs='+', default=[500, 2000], help='DICOM files of each phantom')
    p.add_argument('--size', type=int, default=224, help='side of the square in pixels')
    p.add_argument('--factor', type=int, default=1, help='enlarge the files of about 110 x 96 pixels so many times along each side')
    p.add_argument('--child', nargs=3, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child: measure(Path(a.child[0]), a.child[1], a.size, int(a.child[2]))
    else:
        print(f'DICOM files of about {110*a.factor} x {96*a.factor} pixels, cached at {a.size} px\n\n'
              '| files | step | threads | images/s | MiB before | MiB at most | MiB on disk |\n|---|---|---|---|---|---|---|', flush=True)
        for n in a.n:
            with tempfile.TemporaryDirectory() as folder:
                files = (write_phantom(Path(folder)/'phantom', n=n, seed=0)/'images').glob('*.dcm')
                if a.factor > 1:
                    for f in files: enlarge(f, a.factor)
                for what in ('unreadable', 'cache'):
                    for jobs in (1, 2): subprocess.run([sys.executable, __file__, '--size', str(a.size), '--child', folder, what, str(jobs)], check=True)
