"The page that answers the review has an answer for each of its items, and names calls that exist."
import re
from pathlib import Path

import pytest
import typer
from fastcore.nbio import read_nb

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT/'nbs/55_review_answered.ipynb'
SECTIONS = { # item of the review: its heading on the page
    'mechanism: soft labels': 'Does meaning reach the map?',
    'mechanism: temperature': 'Does the temperature carry relations between classes?',
    'mechanism: two losses': 'Do two losses keep each other in balance?',
    'trade-off: lambda': 'More λ',
    'trade-off: temperature': 'More temperature',
    'trade-off: student': 'A larger student',
    'trade-off: teacher': 'Reports or metadata',
    'failure: localization': 'The localization does not improve',
    'failure: AUROC': 'The prediction gets worse',
    'failure: variance': 'The maps differ from run to run',
    'failure: gap': 'The teacher is hardly better than the student',
    'experiment: baseline': 'A baseline beside chance levels',
    'experiment: teacher': 'The teacher before any distillation',
    'experiment: sweep': 'A sweep over λ',
    'quick check: soft labels': 'What does a hard label lose?',
    'quick check: class token': "Does the class token's attention explain the decision?",
    'quick check: privileged': 'Why does privileged information help in training only?',
    'check: boxes': 'Attention against boxes, over seeds',
    'check: threshold': 'How good must the teacher be?',
    'check: transfer': 'Another domain'}
ROWS = { # item: how its row begins
    'critical: teacher': "the teacher's quality decides",
    'critical: place': 'the information has to say where',
    'critical: attention': 'the student must show its attention',
    'limit: domain': 'gains in one domain',
    'limit: variability': 'maps that vary',
    'limit: temperature': 'a temperature that',
    'confidence: AUROC': 'an AUROC that stays the same'}


def parts():
    "{heading: all source below it, code included}"
    text = '\n\n'.join(cell.source for cell in read_nb(PAGE).cells)
    found = re.split(r'^#{2,3} (.+?) *$', text, flags=re.M)[1:]
    return dict(zip(found[::2], found[1::2]))


def commands():
    from mmpkd.cli import app
    return set(typer.main.get_command(app).commands)


def names():
    "Every exported function, class and method, by its last name"
    from mmpkd._modidx import d
    return {name.rpartition('.')[2] for module in d['syms'].values() for name in module}


def calls(text):
    "What of a text is a call of the package: commands, and names in code"
    said = {f'mmpkd {verb}' for verb in re.findall(r'mmpkd (\w+)', text)}
    return said | set(re.findall(r'\b([a-zA-Z_]\w+)\(', text)) | set(re.findall(r'`(?:\w+\.)?(\w+)`', text))


def known(): return names() | {f'mmpkd {c}' for c in commands()}


@pytest.mark.parametrize('heading', SECTIONS.values(), ids=SECTIONS.keys())
def test_each_item_has_a_section_with_a_call(heading):
    text = parts()[heading]
    assert calls(text) & known(), 'no command and no function of the package answers it'
    assert len(text.split()) > 30, 'an answer takes a few sentences'


@pytest.mark.parametrize('start', ROWS.values(), ids=ROWS.keys())
def test_each_item_has_a_row_with_a_call(start):
    rows = [line for text in parts().values() for line in text.splitlines() if line.startswith(f'| {start}')]
    assert len(rows) == 1 and calls(rows[0]) & known()


def test_commands_of_the_page_exist():
    text = '\n'.join(cell.source for cell in read_nb(PAGE).cells)
    assert set(re.findall(r'(?:`|^)mmpkd (\w+)', text, flags=re.M)) <= commands()
    options = {o for _, p in walk() for o in p}
    assert set(re.findall(r'(--[a-z][\w-]+)', text)) <= options


def walk():
    "(command, its options) of all commands"
    def inner(c):
        yield c.name, [o for p in c.params for o in p.opts + p.secondary_opts]
        for part in getattr(c, 'commands', {}).values(): yield from inner(part)
    from mmpkd.cli import app
    return inner(typer.main.get_command(app))


def test_the_overview_links_to_every_part():
    first = read_nb(PAGE).cells[1].source
    parts_named = [h for h in re.findall(r'^## (.+)$', '\n'.join(c.source for c in read_nb(PAGE).cells), flags=re.M)]
    assert 'In short' in first and first.count('\n| ') >= 11 and len(parts_named) >= 7
