"A page explains its figures, fits its column, runs from its own imports, and uses each name for one thing."
import ast, json, re, subprocess, sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT/'nbs').glob('*.ipynb'))
CODE = sorted([*NOTEBOOKS, *(ROOT/'tests').rglob('*.py'), *(ROOT/'tools').glob('*.py'), ROOT/'mmpkd/__init__.py'])
WIDEST = 100 # characters of an output
HIDDEN = re.compile(r'^#\s*\|\s*(exporti?\b(?!s)|hide\b|hide_input|default_exp|(echo|include|eval):\s*false)', re.M)
CAPTION = re.compile(r'^#\| fig-cap: "[^"\n]{15,}"$', re.M)
ALTERNATIVE = re.compile(r'^#\| fig-alt: "[^"\n]{15,}"$', re.M)

each_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    "(id, source, outputs) of each code cell"
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [(c['id'], ''.join(c['source']), c['outputs']) for c in cells if c['cell_type'] == 'code']


def shown(out):
    "The text of an output as the page shows it; none where there is a picture or a table"
    data = out.get('data', {})
    if any(kind in data for kind in ('image/png', 'text/html', 'text/markdown')): return ''
    text = ''.join(data.get('text/plain', out.get('text', '')))
    return re.sub(r'\x1b\[[0-9;]*m', '', text)


@each_notebook
def test_figures_are_explained(path):
    "`fig-cap` says what to see, `fig-alt` what is drawn; both as `#| fig-cap: \"...\"`"
    visible = [found for found in code_cells(path) if not re.search(r'^#\| hide$', found[1], re.M)]
    drawn = [(i, source) for i, source, outputs in visible
             if any('image/png' in out.get('data', {}) for out in outputs)]
    without = [i for i, source in drawn if not CAPTION.search(source) or not ALTERNATIVE.search(source)]
    assert not without, 'cells with a figure and without #| fig-cap or #| fig-alt'


@each_notebook
def test_outputs_fit_the_page(path):
    wide = {}
    for i, _, outputs in code_cells(path):
        width = max((len(line) for out in outputs for line in shown(out).splitlines()), default=0)
        if width > WIDEST: wide[i] = width
    assert not wide, f'outputs wider than {WIDEST} characters, by cell'


@each_notebook
def test_visible_code_runs_from_its_own_imports(path):
    "A reader who pastes what the page shows has every name; exported and hidden cells are not shown"
    from pyflakes.checker import Checker
    from pyflakes.messages import UndefinedName
    visible = [source for _, source, _ in code_cells(path) if not HIDDEN.search(source)]
    text = '\n'.join(re.sub(r'^[%!].*$', 'pass', source, flags=re.M) for source in visible)
    unknown = {m.message_args[0] for m in Checker(ast.parse(text)).messages if isinstance(m, UndefinedName)}
    assert not unknown, 'names that the visible cells use, and neither import nor define'


@pytest.fixture(scope='module')
def complaints():
    "{file: what ruff says about it}"
    command = [sys.executable, '-m', 'ruff', 'check', '--no-cache', '--output-format', 'json', *map(str, CODE)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode in (0, 1), run.stderr
    said = {}
    for found in json.loads(run.stdout):
        where = f"cell {found['cell']}, " if found['cell'] else ''
        line = f"{where}line {found['location']['row']}: {found['code']} {found['message']}"
        said.setdefault(Path(found['filename']), []).append(line)
    return said


@pytest.mark.parametrize('path', CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_ruff(path, complaints):
    if path in complaints: pytest.fail('\n'.join(complaints[path]), pytrace=False)


def exported(path):
    "The names in `__all__` of a module"
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__':
            return ast.literal_eval(node.value)
    return []


def test_no_exported_name_stands_in_two_modules():
    modules = [p for p in (ROOT/'mmpkd').rglob('*.py') if p.stem not in ('__init__', '_modidx')]
    counts = Counter(name for module in modules for name in exported(module))
    twice = {name: [p.stem for p in modules if name in exported(p)] for name, n in counts.items() if n > 1}
    assert not twice
