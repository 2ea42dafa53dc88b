"""Digests of what a small fixed run produces, to show that a change of names or structure changes no number.

    python tools/digest.py FOLDER > before.txt      # makes the runs in FOLDER where they are missing
    git checkout ...; python tools/digest.py OTHER > after.txt; diff before.txt after.txt

Two runs: chest radiographs with reports in the layout of MIMIC-CXR, and mammograms with metadata in that of
CBIS-DDSM, two seeds each. Contents are hashed, not files: rows and columns of tables, arrays, tensors.
"""
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

ARMS = {'mimic': 'baseline,out-of-fold,label-smoothing,shuffled,self-distillation',
        'cbis': 'baseline,in-sample,out-of-fold lam=0.3 T=2,class-mean'}
N = {'mimic': '320', 'cbis': '160'}
EXTRA = {'mimic': ['--teacher', 'bow', '--skip-unreadable', '--label', 'Pneumothorax', '--label', 'Cardiomegaly'], 
         'cbis': ['--task', 'mass', '--skip-unreadable', '--convention', 'method=rollout classes=each']}


def make(folder):
    "The two runs, by the command that users type"
    for kind, arms in ARMS.items():
        data, run = folder/f'data-{kind}', folder/f'run-{kind}'
        if not data.is_dir():
            mmpkd('phantom', kind, data, '--n', N[kind], '--seed', '1')
        rois = ['--rois', data/'ms-cxr'] if kind == 'mimic' else []
        size = ['--size', '32', '--epochs', '1', '--bs', '16', '--weights', 'none', '--precision', 'fp32']
        how = ['--arms', arms, '--seeds', '2', '--jobs', '1', *size, *rois, *EXTRA[kind]]
        mmpkd('run', kind, '--root', data, '--out', run, *how)


def mmpkd(*args):
    start = 'from mmpkd.cli import main; main()'
    subprocess.run([sys.executable, '-W', 'ignore', '-c', start, *map(str, args)], check=True, stdout=sys.stderr)


def rounded(values):
    "Numbers to ten digits: the trees of a forest are summed in the order in which threads finish"
    return [float(f'{v:.10g}') if isinstance(v, float) else v for v in values]


def table_digest(table):
    "Of the values, by column name"
    table = table.reset_index()
    columns = {c: rounded(table[c].tolist()) for c in sorted(map(str, table.columns))}
    return hashlib.sha256(repr(columns).encode()).hexdigest()


def array_digest(arrays):
    digest = hashlib.sha256()
    for name in sorted(arrays):
        a = np.asarray(arrays[name])
        digest.update(f'{name} {a.dtype} {a.shape}'.encode() + a.tobytes())
    return digest.hexdigest()


READ = {'.parquet': lambda f: table_digest(pd.read_parquet(f)), '.csv': lambda f: table_digest(pd.read_csv(f)),
        '.npz': lambda f: array_digest(dict(np.load(f))), '.npy': lambda f: array_digest({'': np.load(f)}),
        '.safetensors': lambda f: array_digest(load_file(f))}


def digests(folder):
    "One line for each file that holds numbers; learning curves without their times"
    for path in sorted(folder.rglob('*')):
        if path.name == 'notes.npy':  # when each file was changed
            continue
        if path.name == 'history.csv':
            history = pd.read_csv(path)
            yield path, table_digest(history.drop(columns=[c for c in history if 'time' in c]))
        elif path.suffix in READ:
            yield path, READ[path.suffix](path)


if __name__ == '__main__':
    top = Path(sys.argv[1])
    make(top)
    for path, digest in digests(top):
        name = re.sub(r'pixels-(\d+)-\w+', r'pixels-\1', str(path.relative_to(top)))
        print(digest[:16], name)
