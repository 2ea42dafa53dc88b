"What the tools write is up to date, and they lose nothing."
import base64, io, json, re
from pathlib import Path

import figures, links, pages, readme
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
TERMS = [ # of the field, in prose at their first use and in the glossary
    'noisy-OR', 'letterboxing', 'energy-based pointing game', 'cross-fitting', 'temperature scaling',
    'model-parameter randomization test', 'target encoding', 'center prior', 'shuffled AUC', 'confidence interval',
    'saliency map', 'overfitting', 'ablation', 'hyperparameter', 'atomic write', 'resume', 'fine-tune', 'reproduce',
    'knowledge distillation', 'soft label', 'label smoothing', 'calibration', 'intersection over union', 'bootstrap',
    'power']


def test_pages_are_up_to_date():
    for path, text in pages.render().items():
        assert path.read_text(encoding='utf-8') == text, f'{path.name}: run python tools/pages.py'


def test_api_index_has_every_public_name_once():
    text = (NBS/'api.md').read_text(encoding='utf-8')
    for page, path in pages.modules():
        for name, *_ in pages.symbols(path):
            row = re.findall(rf'^\| \[`{re.escape(name)}`\]\({page}', text, flags=re.M)
            assert len(row) == 1, f'{name} of {path.stem}'


def test_first_page_shows_titles():
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    assert not re.findall(r'\[\d\d_\w+\]', text), 'a link says the title of a page, not the name of its file'
    first_screen = text[:text.index('## Start')]
    assert 'not a medical device' in first_screen and '![' in first_screen
    assert text.index('```python') < text.index('\n|'), 'Python before the tables'


def test_the_first_lines_of_python_are_eight_and_name_what_exists():
    import mmpkd
    code = re.search(r'```python\n(.*?)```', (ROOT/'README.md').read_text(encoding='utf-8'), flags=re.S)[1]
    assert len([line for line in code.splitlines() if line.strip()]) == 8
    assert set(re.findall(r'mmpkd\.(\w+)', code)) <= set(mmpkd.__all__)


def test_the_first_lines_of_python_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r'```python\n(.*?)```', (ROOT/'README.md').read_text(encoding='utf-8'), flags=re.S)[1]
    for line, smaller in [('n=300', 'n=60'), ('epochs=6', 'epochs=1')]:
        assert line in code
        code = code.replace(line, smaller)
    exec(code, {})
    assert (tmp_path/'my-run/report.html').is_file()


def words_of(path):
    "The prose of a notebook, and its code, in which docstrings stand"
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return '\n'.join(''.join(cell['source']) for cell in cells)


def test_terms_of_the_field_occur_and_are_explained():
    glossary = (NBS/'glossary.md').read_text(encoding='utf-8').lower()
    prose = '\n'.join(map(words_of, NBS.glob('*.ipynb'))).lower()
    explained = set(re.findall(r'^\| \*\*(.+?)\*\*', glossary, flags=re.M))
    unexplained = [term for term in TERMS if not any(term.lower() in entry for entry in explained)]
    unused = [term for term in TERMS if not re.search(rf'\b{re.escape(term.lower())}', prose)]
    assert not unexplained, 'not in the glossary'
    assert not unused, 'on no page'


def test_glossary_is_a_table_of_four_columns():
    rows = re.findall(r'^\| \*\*.*$', (NBS/'glossary.md').read_text(encoding='utf-8'), flags=re.M)
    assert len(rows) > 40
    for row in rows:
        assert row.count('|') == 5 and row.count('.ipynb)') == 1, row


def test_citation_names_the_paper():
    import yaml
    cited = yaml.safe_load((ROOT/'CITATION.cff').read_text(encoding='utf-8'))
    assert '2508.06558' in cited['preferred-citation']['url']
    assert cited['preferred-citation']['title'].split()[-2:] == ['diagnostic', 'applications']
    assert '2508.06558' in (NBS/'cite.md').read_text(encoding='utf-8')


def test_readme_keeps_words_beside_a_picture():
    pictures = {}
    out = {'data': {'image/png': 'AAAA'}}
    said = readme.show_output(out, 'a.png', pictures, {'fig-alt': '"drawn"', 'fig-cap': '"seen"'})
    assert said == '![drawn](a.png)\n\n*seen*' and list(pictures) == ['a.png']


def test_links_of_markdown_copies(tmp_path):
    "To the copy of a page where there is one, else to the page; what is elsewhere stays"
    for name in ('cohort.html.md', 'cohort.html', 'cli.html'):
        (tmp_path/name).touch()
    text = '[a](00_cohort.ipynb#cohort.y) [b](43_cli.ipynb) [c](https://x.org/a.ipynb) [d](gone.md) `f](43_cli.ipynb`'
    said = links.relink(text, tmp_path)
    assert said.startswith('[a](cohort.html.md#cohort.y) [b](cli.html) [c](https://x.org/a.ipynb) [d](gone.md)')
    assert links.relink(said, tmp_path) == said


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, 'PNG')
    return out.getvalue()


def test_a_chart_becomes_a_palette_and_stays_the_same():
    chart = np.full((60, 2000, 4), 255, np.uint8)
    chart[20:30, ::3] = (200, 0, 0, 255)
    small = figures.small_png(png(chart))
    found = Image.open(io.BytesIO(small))
    assert found.mode == 'P' and found.width == max(figures.WIDTHS)
    assert figures.small_png(small) == small, 'a second call changes nothing'
    narrow = figures.small_png(png(chart[:, :800]))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(narrow)).convert('RGBA')), chart[:, :800])


def test_a_figure_that_would_change_visibly_keeps_its_colours():
    rng = np.random.default_rng(0)
    stripes = rng.integers(0, 256, (64, 1, 3)).astype(np.uint8).repeat(64, axis=1)
    colours = np.concatenate([stripes, rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)], axis=1)
    small = Image.open(io.BytesIO(figures.small_png(png(colours))))
    assert figures.looks_equal(figures.opaque(Image.fromarray(colours)), small.convert('RGB'))


def test_a_notebook_with_small_figures_is_clean(tmp_path):
    "Only picture data change, and the file is laid out as nbdev-clean does"
    chart = np.full((50, 400, 3), 255, np.uint8)
    chart[10:12] = 0
    noisy = io.BytesIO()
    Image.fromarray(chart).save(noisy, 'PNG', compress_level=0)
    data = {'image/png': base64.b64encode(noisy.getvalue()).decode(), 'text/plain': ['<Figure>']}
    out = dict(data=data, metadata={}, output_type='display_data')
    cell = dict(cell_type='code', id='a', execution_count=None, metadata={}, outputs=[out], source=['plot()'])
    nb = dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5)
    path = tmp_path/'a.ipynb'
    path.write_text(json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    before, after = figures.shrink(path)
    assert after < before/10 and path.stat().st_size == after
    found = json.loads(path.read_text(encoding='utf-8'))
    found['cells'][0]['outputs'][0]['data']['image/png'] = data['image/png']
    assert found == nb
