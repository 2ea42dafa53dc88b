"The pages can be made without Quarto, the sidebar is complete, and every link and reference leads somewhere."
import os, re, shutil, subprocess, sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from fastcore.nbio import read_nb
from readme import FENCE, render

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
NOTEBOOKS = sorted(NBS.glob('*.ipynb'))
PLAIN = sorted(NBS.glob('*.md')) # pages without code
PAGES = [*NOTEBOOKS, *PLAIN, *sorted(ROOT.glob('*.md'))]
PROCESS = '''from nbdev.serve import proc_nbs
if __name__ == '__main__': proc_nbs(n_workers=1)
'''
LINK = re.compile(r'\]\(([^)\s]+)')
HEADING = re.compile(r'^#+ +(.+?) *$', flags=re.M)
LABEL = re.compile(r'\{#([\w-]+)|^#\| *label: *([\w-]+)', flags=re.M)
REFERENCE = re.compile(r'(?<![\w`])@((?:fig|tbl|eq|sec)-[\w-]+)')
NOTEBOOK_NAME = re.compile(r'\b\d\d_[a-z]\w*\b')
SYMBOL = re.compile(r'`(?:mmpkd\.)?([A-Za-z_][\w.]*)\.([A-Za-z_]\w*)(?:\(\))?`')
FILES = {'txt', 'csv', 'json', 'md', 'html', 'parquet', 'png', 'ini'} # `verdict.txt` is no attribute

each_page = pytest.mark.parametrize('path', PAGES, ids=lambda path: path.name)


def prose(path):
    "The markdown of a page, without its code"
    if path.suffix == '.md':
        text = path.read_text(encoding='utf-8')
    else:
        text = '\n\n'.join(cell.source for cell in read_nb(path).cells if cell.cell_type == 'markdown')
    return FENCE.sub('', text)


def source(path):
    "All source of a page"
    if path.suffix == '.md': return prose(path)
    return '\n'.join(cell.source for cell in read_nb(path).cells)


@cache
def names_of():
    "{'cohort': {'Cohort.y', ...}}: every function, class and method of each module"
    from mmpkd._modidx import d
    return {module.removeprefix('mmpkd.'): {name.removeprefix(f'{module}.') for name in names}
            for module, names in d['syms'].items()}


def symbols(): return {name: module for module, names in names_of().items() for name in names}


@cache
def exported_by(path):
    "The module that a notebook exports, as a set"
    named = re.search(r'^#\| *default_exp +(\S+)', source(path), flags=re.M)
    return {named[1]} & names_of().keys() if named else set()


def anchors(path):
    "Ids on a page: its headings as pandoc names them, its labels, and the symbols it documents"
    headings = [re.sub(r'[^\w\s.-]', '', h.lower()).replace(' ', '-') for h in HEADING.findall(prose(path))]
    slugs = {re.sub(r'^[^a-z]+', '', h) for h in headings}
    documented = {name.lower() for module in exported_by(path) for name in names_of()[module]}
    return slugs | documented | {a or b for a, b in LABEL.findall(source(path))}


def test_pages_without_quarto(tmp_path):
    for folder in ('nbs', 'mmpkd'): shutil.copytree(ROOT/folder, tmp_path/folder, symlinks=True)
    for name in ('pyproject.toml', '_quarto.yml'): shutil.copy(ROOT/name, tmp_path)
    (tmp_path/'process.py').write_text(PROCESS)
    env = os.environ | dict(PYTHONPATH=str(tmp_path), IPYTHONDIR=str(tmp_path/'ipython'))
    run = subprocess.run([sys.executable, 'process.py'], cwd=tmp_path, env=env, capture_output=True, text=True)
    if run.returncode: pytest.fail(run.stdout + run.stderr, pytrace=False)
    assert 'Found cells containing imports and other code' not in run.stdout + run.stderr, run.stderr
    made = tmp_path/'_proc'
    assert {p.name for p in made.glob('*.ipynb')} == {p.name for p in NOTEBOOKS}
    assert {p.name for p in made.glob('*.md')} == {p.name for p in PLAIN}
    assert (made/'_quarto.yml').read_text() == (ROOT/'_quarto.yml').read_text()
    settings = yaml.safe_load((made/'_quarto.yml').read_text())
    website, html = settings['website'], settings['format']['html']
    for name in [*settings['metadata-files'], *settings['project']['resources'], website['favicon'], html['css']]:
        assert (made/name).exists(), name
    for name in hrefs(website):
        assert (made/name).exists(), f'{name}, named in _quarto.yml'


def hrefs(settings):
    "The files of the site that its navigation names"
    if isinstance(settings, list): return [name for item in settings for name in hrefs(item)]
    if not isinstance(settings, dict): return []
    own = [settings['href']] if 'href' in settings else []
    return [name for name in own if not name.startswith('http')] + hrefs(list(settings.values()))


def test_sidebar_lists_every_page():
    first, *sections = yaml.safe_load((NBS/'sidebar.yml').read_text())['website']['sidebar']['contents']
    assert first == 'index.ipynb'
    assert [s['section'] for s in sections][:2] == ['Tutorials', 'Studies']
    listed = [name for section in sections for name in section['contents']]
    assert sorted([first, *listed]) == sorted(p.name for p in [*NOTEBOOKS, *PLAIN])
    for section in sections:
        notebooks = [name for name in section['contents'] if name.endswith('.ipynb')]
        assert notebooks == sorted(notebooks), 'pages follow their numbers'


@each_page
def test_links_lead_somewhere(path):
    for link in LINK.findall(prose(path)):
        if re.match(r'\w+:', link): continue
        target, _, anchor = link.partition('#')
        page = path.parent/target if target else path
        assert page.exists(), f'{link}: no such file (a link to a page names its notebook)'
        if anchor: assert anchor in anchors(page), f'{link}: no such heading or symbol'


@each_page
def test_references_lead_somewhere(path):
    text = prose(path)
    assert set(REFERENCE.findall(text)) <= anchors(path)
    assert set(NOTEBOOK_NAME.findall(text)) <= {p.stem for p in NOTEBOOKS}


@each_page
def test_symbols_exist(path):
    "`Cohort.y` and `mmpkd.cohort.Cohort` in prose; an attribute need only occur in the module's code"
    known = symbols()
    for owner, name in SYMBOL.findall(prose(path)):
        module = owner if owner in known.values() else known.get(owner)
        if module is None or name in FILES: continue
        code = (ROOT/'mmpkd'/f'{module.replace(".", "/")}.py').read_text(encoding='utf-8')
        assert f'{owner}.{name}' in known or re.search(rf'\b{name}\b', code), f'`{owner}.{name}`'


def test_readme_is_the_index():
    text, pictures = render()
    assert (ROOT/'README.md').read_text(encoding='utf-8') == text, 'run python tools/readme.py'
    for name, data in pictures.items():
        assert (ROOT/name).read_bytes() == data, name
    stored = {p.relative_to(ROOT).as_posix() for p in (ROOT/'nbs').glob('index_files/*')}
    assert stored == pictures.keys(), 'pictures that README.md does not show'


def test_the_first_page_says_what_transfer_does_about_known_patients():
    line = next(line for line in prose(ROOT/'README.md').splitlines() if 'mmpkd transfer' in line)
    assert '--known drop' in line and '--known keep' in line
