"Images per second and memory of the audit, on phantoms of DICOM files"
import argparse, resource, subprocess, sys, tempfile, time
from pathlib import Path

from mmpkd.audit import audit
from mmpkd.phantoms.chest import phantom_cohort, write_phantom


def memory(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024   # highest so far, in MiB (Linux)


def measure(folder, jobs):
    "A line of the table; in a process of its own, so that its memory is its own"
    cohort, before, start = phantom_cohort(folder), memory(), time.perf_counter()
    a = audit(cohort, n_jobs=jobs)
    t = time.perf_counter() - start
    files = len(cohort) + cohort.rois['mask'].nunique()
    assert a.ok, a
    print(f'| {len(cohort)} + {files - len(cohort)} | {jobs} | {files/t:.0f} | {t:.1f} | {before:.0f} | {memory() - before:.0f} |', flush=True)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--n', type=int, nargs='+', default=[500, 2000], help='DICOM files of each phantom')
    p.add_argument('--jobs', type=int, default=2, help='threads')
    p.add_argument('--child', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child: measure(Path(a.child), a.jobs)
    else:
        with tempfile.TemporaryDirectory() as folder:
            print('| DICOM + masks | threads | files/s | s | MiB before | MiB more |\n|---|---|---|---|---|---|', flush=True)
            for n in a.n:
                phantom = write_phantom(Path(folder)/str(n), n=n, seed=0)
                subprocess.run([sys.executable, __file__, '--child', phantom, '--jobs', str(a.jobs)], check=True)
