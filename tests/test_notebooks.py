"Every notebook runs from top to bottom, leaves nothing behind, and stores nothing that could not be published."
import json, os, re, subprocess, sys, tempfile
from pathlib import Path

import pytest
import torch
from fastcore.nbio import nb2str
from nbdev.clean import clean_nb

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
RUN = '''import sys
from nbdev.test import test_nb
sys.exit(not test_nb(sys.argv[1], skip_flags=sys.argv[2:], profile=False)[0])'''
MACHINE_PATH = re.compile(r'(?<![\w.:/-])/(root|home|work|tmp|mnt|Users|private|var/folders)/\S*')

each_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)


def skip_flags():
    "Directives of cells not run here: `cuda` without a GPU, `slow` unless MMPKD_SLOW=1"
    slow = set() if os.environ.get('MMPKD_SLOW') == '1' else {'slow'}
    return slow if torch.cuda.is_available() else slow | {'cuda'}


def files(): return {p for p in (ROOT/'nbs').rglob('*') if '.ipynb_checkpoints' not in p.parts}


def stored(path):
    "The text of each stored output, without picture data"
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        for out in cell.get('outputs', []):
            for kind, value in [('text', out.get('text', '')), *out.get('data', {}).items()]:
                text = ''.join(value) if isinstance(value, list) else str(value)
                if kind not in ('image/png', 'image/jpeg'): yield re.sub(r'data:image/[^"\')]*', '', text)


@each_notebook
def test_runs(path):
    before = files()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as tmp:
        env = os.environ | dict(PYTHONPATH=str(ROOT), TMPDIR=tmp, IPYTHONDIR=tmp)
        if 'slow' in skip_flags(): env['HF_HUB_OFFLINE'] = '1'  # what is not slow downloads nothing
        command = [sys.executable, '-c', RUN, path, *skip_flags()]
        run = subprocess.run(command, cwd=path.parent, env=env, capture_output=True, text=True)
    if run.returncode: pytest.fail(f'{path.name} fails:\n{run.stdout}{run.stderr}', pytrace=False)
    assert not files() - before, 'the notebook leaves files behind'


@each_notebook
def test_name(path):
    assert re.fullmatch(r'index|\d\d_[a-z0-9_]+', path.stem), 'a name is two digits and a word, such as 12_losses.ipynb'


@each_notebook
def test_first_cell(path):
    "What stands in the title cell besides title and `>` line would not appear on the page"
    cell = json.loads(path.read_text(encoding='utf-8'))['cells'][0]
    assert cell['cell_type'] == 'markdown'
    is_title = re.fullmatch(r'# \S.*\n\n?> \S.*\n*', ''.join(cell['source']))
    assert is_title, 'the first cell is `# Title`, then one `>` line, no more'


@each_notebook
def test_is_clean(path):
    text = path.read_text(encoding='utf-8')
    nb = json.loads(text)
    clean_nb(nb)
    is_clean = nb2str(nb) == text
    assert is_clean, 'run nbdev-clean'


@each_notebook
def test_outputs_can_be_published(path):
    for text in stored(path):
        assert not (found := MACHINE_PATH.search(text)), f'a path of one machine: {found[0]}'
        assert 'Warning' not in text
        assert 'Traceback (most recent call last)' not in text
    outputs = [o for c in json.loads(path.read_text(encoding='utf-8'))['cells'] for o in c.get('outputs', [])]
    assert all(o['output_type'] != 'error' for o in outputs), 'a cell that failed'
