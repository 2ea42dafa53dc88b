"The `mmpkd` command: its help, its errors, a miniature BUS-BRA from beginning to end, and one new image"
import json, os, re, shutil, subprocess, sys
from dataclasses import fields
from inspect import signature
from pathlib import Path

import numpy as np, pandas as pd, pytest, timm, torch, typer
from conftest import DEMO_CALL
from PIL import Image
from typer.testing import CliRunner

import mmpkd
from mmpkd.arms import ARMS
from mmpkd.cli import (SOURCES, TRAINING, _blocks, _column_roles, app, console, main, print_columns, print_table,
                       read_convention, read_jobs, tell)
from mmpkd.results import Experiment
from mmpkd.settings import Settings, default_arms, make_config
from mmpkd.convention import CONVENTIONS
from mmpkd.reference_maps import CEILING, TRIVIAL
from mmpkd.report import table1
from mmpkd.soft_labels import calibration, label_distance, soft_labels, training_logits
from mmpkd.teachers import macro_auroc
from mmpkd.training import Training

ROOT = Path(mmpkd.__file__).parents[1]

@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory, monkeypatch):
    "What a command leaves in the folder it is called in does no harm"
    monkeypatch.chdir(tmp_path_factory.mktemp('here'))

def invoke(*args):
    return CliRunner(env=dict(COLUMNS='200', TERMINAL_WIDTH='200', NO_COLOR='1')).invoke(app, [str(a) for a in args])

def fails_long(capsys, monkeypatch, *args):
    "What `mmpkd` says on stderr as it exits with code 2, in as many lines as there are bad files"
    monkeypatch.setattr(sys, 'argv', ['mmpkd', *map(str, args)])
    with pytest.raises(SystemExit) as stop: main()
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith('error: ') and 'Traceback' not in err, err[:300]
    return err

def fails(capsys, monkeypatch, *args):
    "The same, of an error that has one line"
    err = fails_long(capsys, monkeypatch, *args)
    assert err.count('\n') == 1, err[:300]
    return err


# Help

def commands(command=None, path=()):
    command = command or typer.main.get_command(app)
    yield path, command
    for name, sub in getattr(command, 'commands', {}).items(): yield from commands(sub, (*path, name))

@pytest.mark.parametrize('path,command', list(commands()), ids=lambda v: ' '.join(v) if isinstance(v, tuple) else '')
def test_help_tells_everything(path, command):
    result = invoke(*path, '--help')
    said = re.sub(r'[\s│]+', ' ', result.output)
    assert result.exit_code == 0 and command.help.split('.')[0] in said
    for name in getattr(command, 'commands', {}): assert f' {name} ' in said
    for p in command.params:
        if p.name == 'help': continue
        if p.param_type_name == 'argument': assert p.name in said.lower(), p.name
        for o in p.opts if p.param_type_name == 'option' else []: assert o in said, o
        if p.param_type_name == 'argument' and p.help is None:
            continue                 # older versions of typer keep it elsewhere
        assert p.help and p.help.split(',')[0].split(';')[0] in said, p.name
        if p.default not in (None, '') and p.param_type_name == 'option' and not p.is_flag:
            assert f'[default: {p.default}]' in said, p.name

def test_there_are_commands():
    verbs, sources = ('run', 'grid', 'quality', 'transfer', 'audit', 'teacher'), ('busbra', 'mimic', 'cbis', 'table')
    others = [('demo',), ('predict',), ('reliability',), ('ensemble',), ('table',), ('score',), ('phantom', 'mimic'),
              ('phantom', 'cbis')]
    assert {p for p, _ in commands()} >= {(v, s) for v in verbs for s in sources} | {*others}

def test_no_command_is_a_question():
    assert 'Usage' in invoke().output and 'busbra' in invoke('run').output

def test_the_console_script(tmp_path):
    "As installed: the name in settings.ini, in a process of its own, that does not load torch to answer"
    line = [s for s in (ROOT/'settings.ini').read_text().splitlines() if 'mmpkd = ' in s]
    assert [s.split('=')[1].strip() for s in line] == ['mmpkd.cli:main']
    code = ("import sys, mmpkd.cli as c; sys.argv[1:] = ['--help']\n"
            "try: c.main()\nfinally: print('torch' in sys.modules)")
    run = subprocess.run([sys.executable, '-c', code], env=os.environ | dict(PYTHONPATH=str(ROOT)), capture_output=True,
                         text=True)
    assert run.returncode == 0 and 'demo' in run.stdout and run.stdout.endswith('False\n') and run.stderr == ''


# BUS-BRA in miniature

def ellipse(rng, size):
    y, x = np.mgrid[:size, :size]
    cy, cx, a, b = *rng.uniform(20, 44, 2), *rng.uniform(6, 16, 2)
    return ((y - cy)/a)**2 + ((x - cx)/b)**2 < 1

@pytest.fixture(scope='session')
def busbra(tmp_path_factory):
    "Forty dark ellipses in noise; the malignant ones are darker, and their BI-RADS is higher"
    root, rng, rows = tmp_path_factory.mktemp('busbra')/'BUSBRA', np.random.default_rng(0), []
    for d in ('Images', 'Masks'): (root/d).mkdir(parents=True)
    for i in range(40):
        bad, name, mask = i % 3 == 0, f'{i//2:04d}-{"lr"[i % 2]}', ellipse(rng, 64)
        pixels = rng.normal(140, 25, (64, 64)) - mask*(100 if bad else 50)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root/f'Images/bus_{name}.png')
        Image.fromarray(mask.astype(np.uint8)*255).save(root/f'Masks/mask_{name}.png')
        rows.append(dict(ID=f'bus_{name}', Case=i//2, Histology='cyst', Pathology='malignant' if bad else 'benign',
                         BIRADS=2 + 2*bad + i % 2, Device=f'device {i % 4}', Side='left', kFold=1 + i//2 % 5))
    data = pd.DataFrame(rows)
    data.drop(columns='kFold').to_csv(root/'bus_data.csv', index=False)
    data[['ID', 'kFold']].to_csv(root/'5-fold-cv.csv', index=False)
    return root

CALL = ['--weights', 'none', '--size', '32', '--epochs', '1', '--seeds', '2', '--bs', '8']

@pytest.fixture(scope='session')
def ultrasound(busbra, tmp_path_factory):
    "The folder that `mmpkd run busbra` made, and what it printed; read only"
    out = tmp_path_factory.mktemp('ultrasound')/'run'
    result = invoke('run', 'busbra', '--root', busbra, '--out', out, *CALL)
    assert result.exit_code == 0, result.output
    return out, result.output

def times(folder): return {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}

def test_busbra_from_beginning_to_end(ultrasound, busbra):
    out, said = ultrasound
    run = Experiment(out)
    assert run.arms == ['baseline', 'out-of-fold'] and run.seeds == 2 and len(run.labels('test')) == 8
    assert (run.config['size'], run.config['epochs'], run.config['bs'], run.config['weights'],
            run.config['lam']) == (32, 1, 8, 'none', .5)
    for name in ('table1.md', 'table1.csv', 'table1.html', 'figure1.png', 'figure2.png', 'report.html'):
        assert (out/name).stat().st_size > 100
    for row in table1(run).itertuples(): assert row.Index in said and row.IoU in said
    assert 'Traceback' not in said and 'no evidence at this n' in said and str(out/'report.html') in said
    assert run.environments[0]['data']['images'] == 40

def test_a_run_says_how_good_the_labels_are_that_were_taught(ultrasound):
    "The AUROC of the teacher out of fold beside those in-sample and on other images, and the calibration of the labels"
    out, said = ultrasound
    run, said = Experiment(out), ' '.join(said.split())
    y, taught = run.labels('train'), [run.soft_labels('out-of-fold', seed) for seed in run.teacher_seeds]
    auroc = np.mean([macro_auroc(y, s) for s in taught])
    errors = pd.concat([calibration(y, s)[['log loss', 'Brier', 'ECE']].mean() for s in taught], axis=1).mean(axis=1)
    of_teacher = said.partition('Teacher AUROC, mean of 2 teachers: ')[2].partition('Labels taught')[0]
    assert f'{auroc:.3f} out-of-fold' in of_teacher
    told = said.partition('Labels taught, out-of-fold: ')[2]
    distance = np.mean([label_distance(y, s) for s in taught])
    assert told.startswith(f"AUROC {auroc:.3f}, mean |s - y| {distance:.3f}, log loss {errors['log loss']:.3f}, "
                           f"Brier {errors.Brier:.3f}, ECE {errors.ECE:.3f}")

def test_out_of_bag_is_no_default():
    "Its bootstrap is drawn by image, so it has to be named"
    named = {(*path, p.name): str(p.default) for path, command in commands() for p in command.params
             if p.name in ('arms', 'arm', 'controls_from')}
    assert ('run', 'busbra', 'controls_from') in named
    assert ('grid', 'busbra', 'arm') in named
    assert not any('out-of-bag' in d for d in named.values())
    assert make_config()['controls_from'] == 'out-of-fold'
    assert default_arms(make_config()) == ('baseline', 'out-of-fold')
    for f, name in ((training_logits, 'how'), (soft_labels, 'how')):
        default = str(signature(f).parameters[name].default)
        assert 'out-of-fold' in default and 'out-of-bag' not in default, f
    assert 'by image' in ARMS['out-of-bag']

def test_a_second_call_trains_nothing(ultrasound, busbra):
    out, said = ultrasound
    before = times(out/'units')
    result = invoke('run', 'busbra', '--root', busbra, '--out', out, *CALL)
    assert result.exit_code == 0 and times(out/'units') == before
    assert result.output[result.output.index('Method'):] == said[said.index('Method'):]
    assert ', seed 0 (' not in result.output

def test_options_arrive(busbra, tmp_path):
    result = invoke('run', 'busbra', '--root', busbra, '--out', tmp_path/'run', *CALL[:-4], '--seeds', 1, '--bs', 4,
                    '--lam', .25, '-T', 3, '--lr', 1e-3, '--tau', .75,
                    '--precision', 'fp32', '--test-fold', 2, '--valid-fold', 1, '--arms', 'baseline, in-sample')
    assert result.exit_code == 0, result.output
    run = Experiment(tmp_path/'run')
    assert {k: run.config[k] for k in ('lam', 'T', 'lr', 'bs', 'precision')} == dict(lam=.25, T=3., lr=1e-3, bs=4,
                                                                                     precision='fp32')
    assert run.config['convention']['tau'] == .75 and run.arms == ['baseline', 'in-sample'] and run.seeds == 1
    folds = pd.read_csv(busbra/'5-fold-cv.csv').set_index('ID').kFold
    assert set(run.labels('test').index) == set(folds.index[folds == 2])
    assert set(run.labels('valid').index) == set(folds.index[folds == 1])


def test_a_convention_from_the_command_line(busbra, tmp_path):
    assert read_convention('rule=otsu layer=-2 tau=.3 heads=max') == dict(rule='otsu', layer=-2, tau=.3, heads='max')
    assert read_convention('') == {}
    result = invoke('run', 'busbra', '--root', busbra, '--out', tmp_path/'run', *CALL[:-4], '--seeds', 1, '--bs', 8,
                    '--convention', 'rule=tuned layer=-2', '--temperature', 'valid',
                    '--arms', 'baseline, out-of-bag lam=0.3')
    assert result.exit_code == 0, result.output
    run = Experiment(tmp_path/'run')
    # chosen for each student, not 0.5
    assert {k: run.config['convention'][k] for k in ('rule', 'layer', 'tau')} == dict(rule='tuned', layer=-2, tau=None)
    assert run.config['T'] == 'valid' and run.teacher['T_valid'] > 0 and run.arms == ['baseline', 'out-of-bag lam=0.3']
    assert run.config['teacher_per_seed']
    assert (run.folder/'teachers/seed-0/teacher').is_dir()
    assert not (run.folder/'teacher').exists()
    again = ['run', 'busbra', '--root', busbra, '--out', tmp_path/'run', *CALL[:-4], '--seeds', 1, '--bs', 8,
             '--convention', 'rule=tuned layer=-2', '--temperature', 'valid', '--one-teacher']
    assert 'Each seed has a teacher of its own there: to go on so, --teacher-per-seed' in str(invoke(*again).exception)
    tau = pd.read_parquet(run.run_folder('baseline', 0)/'scores.parquet').attrs['convention']['tau']
    row = pd.read_parquet(run.run_folder('baseline', 0)/'scores.parquet').iloc[0]
    boxes = said(invoke('predict', run.run_folder('baseline', 0), busbra/'Images'/f'{row.image_id}.png', '--out',
                        tmp_path/'a.png').output)[1]
    assert 0 < tau <= 1 and len(boxes) == row.n_boxes                       # drawn with the threshold that was chosen


# Settings from a file

def settings_of(*args):
    "The settings of `mmpkd run`, without the run"
    seen = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr('mmpkd.cli.finish', lambda cohort, config, options: seen.append(config))
        result = invoke('run', *args)
    assert result.exit_code == 0, (result.output, result.exception)
    return seen[0]

def test_a_run_is_repeated_from_its_own_file(busbra, tmp_path):
    "Folds and convention, too, which another option changes"
    call = ['busbra', '--root', busbra]
    first = settings_of(*call, '--weights', 'none', '--size', 32, '--lam', .25, '--test-fold', 2, '--valid-fold', 1,
                        '--convention', 'layer=-2', '--tau', .7, '--one-teacher', '--temperature', 'valid')
    (tmp_path/'config.json').write_text(json.dumps(first))
    assert settings_of(*call, '--config', tmp_path/'config.json') == first
    other = settings_of(*call, '--config', tmp_path/'config.json', '--epochs', 7, '--valid-fold', 3, '--lam', .5)
    assert other == first | dict(epochs=7, lam=.5, data=first['data'] | dict(valid_fold=3))
    otsu = settings_of(*call, '--config', tmp_path/'config.json', '--convention', 'rule=otsu')['convention']
    assert (otsu['rule'], otsu['tau'], otsu['layer']) == ('otsu', None, -2)

def test_a_file_names_some_settings(busbra, tmp_path):
    "All others are those of the command, such as the small images of BUS-BRA"
    (tmp_path/'mine.yaml').write_text('epochs: 3\nweights: none\nlr: 1e-3\nwd: 0.1\n')
    settings = settings_of('busbra', '--root', busbra, '--config', tmp_path/'mine.yaml', '--bs', 4)
    usual = settings_of('busbra', '--root', busbra, '--weights', 'none')
    assert settings == usual | dict(epochs=3, lr=1e-3, wd=.1, bs=4) and settings['size'] == 160

def test_another_teacher_takes_nothing_of_the_first(busbra, tmp_path):
    config = make_config('bow', dict(C=.5), teacher_per_seed=False, weights='none')
    (tmp_path/'config.json').write_text(json.dumps(config))
    settings = settings_of('busbra', '--root', busbra, '--config', tmp_path/'config.json', '--teacher', 'forest')
    assert (settings['teacher'], settings['teacher_args'], settings['teacher_per_seed']) == ('forest', {}, True)

@pytest.mark.parametrize('text,message',
                         [('epoch: 3', "no setting 'epoch'; did you mean 'epochs'"), ('[1', 'mine.yaml'),
                                          ('epochs: 0', 'mine.yaml: epochs must be'), ('- 1', 'mine.yaml')])
def test_files_that_hold_something_else(capsys, monkeypatch, busbra, tmp_path, text, message):
    call = ['run', 'busbra', '--root', busbra, '--out', tmp_path/'out', '--config', tmp_path/'mine.yaml']
    assert 'mine.yaml' in fails(capsys, monkeypatch, *call)
    (tmp_path/'mine.yaml').write_text(text)
    assert message in fails(capsys, monkeypatch, *call) and not (tmp_path/'out').exists()

def test_options_are_the_fields_of_the_settings(busbra):
    "Their help begins with the sentence of the field, and their default is that of the field"
    known = {f.name: f for cls in (Settings, Training) for f in fields(cls)}
    own = ('text_model', 'grid', 'tau', 'convention')                       # which say it in another way
    for option in [f for cls in TRAINING.values() for f in fields(cls) if f.name not in own]:
        f = known[dict(temperature='T').get(option.name, option.name)]
        assert option.metadata['help'].startswith(f.metadata['help']), option.name
        if option.name != 'teacher':
            assert option.default == (f'{f.default:g}' if option.name in ('lam', 'temperature') else f.default)


# All arms, and studies

@pytest.fixture(scope='session')
def everything(busbra, tmp_path_factory):
    "What `mmpkd run busbra --arms all --report` made and printed; read only"
    out = tmp_path_factory.mktemp('everything')/'run'
    result = invoke('run', 'busbra', '--root', busbra, '--out', out, *CALL, '--arms', 'all', '--report')
    assert result.exit_code == 0, result.output
    return out, result.output

def test_all_arms_with_the_whole_report(everything):
    "All parts of the study are in the report: arms, reference maps, conventions, intervals, agreement, randomisation"
    out, printed = everything
    run, page = Experiment(out), (out/'report.html').read_text()
    assert run.arms == list(ARMS) and len(ARMS) == 9 and run.controls == [a for a in ARMS if 'Control' in ARMS[a]]
    first = table1(run)
    together = [f'Ensemble of {run.seeds}: {title}' for title in ARMS.values() if 'Control' not in title]
    titles = [*ARMS.values(), *together, *TRIVIAL.values(), 'Untrained ViT', *CEILING.values()]
    assert first.index.tolist() == titles
    for title in titles:
        assert f'<td>{title}</td>' in page and title in printed and title in (out/'table1.md').read_text()
    headings = re.findall('<h2>(.*?)</h2>', page)
    intervals = ('Differences from the baseline, with seeds and patients drawn anew '
                 '(95 % each; p not corrected for their number)')
    for heading in ('Table 1', 'Table 2: further scores, not tested', 'Limits of these numbers', 'Figure 1', 'Figure 2',
                    intervals, 'Tests', 'Other conventions, counted', 'Other conventions', 'Agreement between seeds',
                    'Weight randomisation', 'Teacher and soft labels', 'Settings to reproduce this run'):
        assert heading in headings, heading
    t = pd.read_csv(out/'other_conventions.csv')
    assert set(t.convention) == {str(c) for c in CONVENTIONS}
    assert set(t.arm) == set(ARMS) - {'baseline'}
    assert all(f'<td>{c}</td>' in page for c in CONVENTIONS)
    f = pd.read_csv(out/'other_conventions_counted.csv').set_index(['arm', 'metric'])
    assert len(f) == 8*3
    assert f.loc[('shuffled', 'iou'),
                 'better'] == (t.query("arm == 'shuffled' and metric == 'iou'").difference > 0).sum()
    assert len(pd.read_csv(out/'agreement_between_seeds.csv', header=[0, 1])) >= 9
    assert pd.read_csv(out/'weight_randomisation.csv').stage.iloc[0] == 'head'
    for text in run.verdicts().values():
        assert text in re.sub(r'\s+', ' ', page.replace('&#x27;', "'").replace('&lt;', '<').replace('&amp;', '&'))

def test_the_whole_report_again_trains_and_scores_nothing(everything, busbra):
    out, printed = everything
    kept = lambda: {p: t for f in ('units', 'conventions', 'soft_labels') for p, t in times(out/f).items()}
    before = kept()
    result = invoke('run', 'busbra', '--root', busbra, '--out', out, *CALL, '--arms', 'all', '--report')
    assert result.exit_code == 0 and kept() == before and len(before) > 50

def test_a_grid(busbra, tmp_path):
    result = invoke('grid', 'busbra', '--root', busbra, '--out', tmp_path/'run', *CALL[:-4], '--seeds', 1, '--bs', 8,
                    '--lams', '0.3,0.7', '--temperatures', '1, 2')
    assert result.exit_code == 0, result.output
    run = Experiment(tmp_path/'run')
    assert run.arms == ['baseline', *[f'out-of-fold lam={l} T={T}' for l in (.3, .7) for T in (1, 2)]]
    assert all(arm in result.output for arm in run.arms)
    assert 'chosen' in result.output
    assert result.output.count('True') >= 2
    assert 'front_pixel_auroc' in result.output and 'front_iou' in result.output
    assert {'iou', 'iou_sd', 'front_iou'} <= set(pd.read_csv(run.folder/'sensitivity.csv'))
    for name in ('grid.csv', 'grid.png', 'sensitivity.csv', 'sensitivity.png', 'report.html'):
        assert (run.folder/name).stat().st_size > 100

@pytest.fixture(scope='module')
def gridded(busbra, tmp_path_factory):
    "The folder in which `mmpkd grid busbra --preset paper` left its folder, and what it printed; read only"
    here = tmp_path_factory.mktemp('gridded')
    result = invoke('grid', 'busbra', '--root', busbra, '--out', here/'mmpkd-grid-busbra', *CALL[:-4], '--seeds', 1,
                    '--bs', 8, '--preset', 'paper', '--lams', '0.3,0.7', '--temperatures', '2')
    assert result.exit_code == 0, result.output
    return here, result.output

def test_the_paper_is_a_preset(gridded):
    "Its soft labels are in-sample"
    run = Experiment(gridded[0]/'mmpkd-grid-busbra')
    assert run.arms == ['baseline', 'in-sample lam=0.3 T=2', 'in-sample lam=0.7 T=2']
    assert run.config['controls_from'] == 'in-sample'
    assert run.config['preset'] == 'paper'
    assert run.config['teacher'] == 'forest' and f'--lam valid --grid {run.folder}' in gridded[1]

def test_a_run_takes_what_a_grid_chose(gridded, busbra, tmp_path, monkeypatch):
    "λ and T, from the folder that a grid of this source has by default; an option that is given wins over the preset"
    monkeypatch.chdir(gridded[0])
    call = ['run', 'busbra', '--root', busbra, *CALL[:-4], '--bs', 8, '--lam', 'valid', '--preset', 'paper', '--seeds',
            1]
    result = invoke(*call, '--out', tmp_path/'run')
    assert result.exit_code == 0, result.output
    run, best = Experiment(tmp_path/'run'), json.loads((gridded[0]/'mmpkd-grid-busbra/choice.json').read_text())
    assert run.arms == ['baseline', 'in-sample'] and (run.config['lam'], run.config['T']) == (best['lam'], 2.)
    assert run.config['grid'] == best | dict(folder='mmpkd-grid-busbra', differs=[])
    said = ' '.join(result.output.split())
    chosen = f"λ = {best['lam']:g} and T = 2 were chosen by AUROC on validation images in the grid 'mmpkd-grid-busbra'"
    assert chosen in said
    assert "preset='paper' sets what the paper states, except for: seeds, weights. Not stated in the paper, " in said
    assert ', and chosen here: size 32, epochs 1' in said
    given = invoke(*call[:-4], '--lam', .5, '--preset', 'paper', '--seeds', 1, '--arms', 'baseline,out-of-fold',
                   '--controls-from', 'out-of-fold', '--out', tmp_path/'given')
    assert given.exit_code == 0, given.output
    run = Experiment(tmp_path/'given')
    assert run.arms == ['baseline', 'out-of-fold']
    assert run.config['controls_from'] == 'out-of-fold'
    assert 'except for: arms, seeds, weights' in ' '.join(given.output.split())

def test_a_grid_that_is_not_there(capsys, monkeypatch, gridded, busbra, tmp_path):
    call = ['run', 'busbra', '--root', busbra, *CALL[:-4], '--bs', 8, '--lam', 'valid', '--out', tmp_path/'run']
    assert '`mmpkd grid busbra --out mmpkd-grid-busbra`' in fails(capsys, monkeypatch, *call)
    assert f'there is none in {tmp_path}' in fails(capsys, monkeypatch, *call, '--grid', tmp_path)
    assert 'leave T out' in fails(capsys, monkeypatch, *call, '--grid', gridded[0]/'mmpkd-grid-busbra', '-T', 3)
    assert "grid goes with lam='valid'" in fails(capsys, monkeypatch, *call[:-4], '--out', tmp_path/'run', '--grid',
                                                 gridded[0]/'mmpkd-grid-busbra')
    other = [*call, '--grid', gridded[0]/'mmpkd-grid-busbra', '--test-fold', 2]
    assert 'were chosen in the grid mmpkd-grid-busbra on other data' in fails(capsys, monkeypatch, *other)
    assert not (tmp_path/'run/units').exists()

def test_runs_join_into_one_table(capsys, monkeypatch, ultrasound, gridded, tmp_path):
    runs = [ultrasound[0], gridded[0]/'mmpkd-grid-busbra']
    result = invoke('table', *runs, '--out', tmp_path/'t.md')
    assert result.exit_code == 0, result.output
    rows = [line.split('|')[1:3] for line in (tmp_path/'t.md').read_text().splitlines() if line.startswith('| BUS-BRA')]
    assert len(rows) == sum(len(table1(Experiment(r))) for r in runs)
    assert 'Dataset' in result.output
    assert 'Centred Gaussian' in result.output
    assert 'no finished run in' in fails(capsys, monkeypatch, 'table', tmp_path)
    assert 'ends in .md, .html or .csv' in fails(capsys, monkeypatch, 'table', *runs, '--out', tmp_path/'t.docx')

def test_a_run_is_scored_on_other_regions(capsys, monkeypatch, ultrasound, busbra, tmp_path):
    out = shutil.copytree(ultrasound[0], tmp_path/'run')
    run = Experiment(out)
    ids = run.labels('test').index
    t = pd.DataFrame(dict(image_id=ids, x0=1, y0=2, x1=20, y1=30))                       # one label, so none is named
    t.to_csv(tmp_path/'corner.csv', index=False)
    before = times(out)
    result = invoke('score', out, '--rois', tmp_path/'corner.csv')
    assert result.exit_code == 0, result.output
    assert '8 regions on 8 of 8 test images' in result.output
    assert 'Mean training ROI' not in result.output
    assert 'no evidence at this n' in result.output
    assert {p: v for p, v in times(out).items() if p in before} == before
    assert {p.name for p in (out/'scores-corner').iterdir()} >= {'table1.md', 'table1.csv', 'table1.html', 'tests.csv',
                                                                 'verdict.txt', 'trivial.parquet', 'regions.json'}
    t.assign(x1=999).to_csv(tmp_path/'far.csv', index=False)
    assert 'leaves the image' in fails(capsys, monkeypatch, 'score', out, '--rois', tmp_path/'far.csv')
    t.assign(image_id='nobody').to_csv(tmp_path/'who.csv', index=False)
    assert 'nobody' in fails(capsys, monkeypatch, 'score', out, '--rois', tmp_path/'who.csv')
    t.assign(label=[run.about['labels'][0]]*7 + ['cyst']).to_csv(tmp_path/'what.csv', index=False)
    assert "does not know, such as 'cyst'" in fails(capsys, monkeypatch, 'score', out, '--rois', tmp_path/'what.csv')
    assert 'no table of regions at' in fails(capsys, monkeypatch, 'score', out, '--rois', tmp_path/'none.csv')
    assert not list(out.glob('scores-far*')) and not list(out.glob('*.part'))

def test_teachers_of_growing_quality(busbra, tmp_path):
    result = invoke('quality', 'busbra', '--root', busbra, '--out', tmp_path/'run', *CALL[:-4], '--seeds', 1, '--bs', 8,
                    '--shares', '0.5,1')
    assert result.exit_code == 0, result.output
    assert Experiment(tmp_path/'run').arms == ['baseline', 'out-of-fold share=0.5', 'out-of-fold share=1']
    assert len(pd.read_csv(tmp_path/'run/quality.csv')) == 3
    assert 'teacher' in result.output and (tmp_path/'run/quality.png').stat().st_size > 1000
    assert 'with one seed no threshold can be told from luck' in ' '.join(result.output.split())
    assert len(pd.read_csv(tmp_path/'run/quality_threshold.csv')) == 2

def test_a_transfer(busbra, ultrasound, tmp_path):
    call = ['transfer', 'busbra', '--root', busbra, '--out', tmp_path/'run', *CALL[:-4], '--bs', 8, '--from',
            ultrasound[0], '--test-fold', 2, '--valid-fold', 1]
    refused = invoke(*call)                                                  # other folds of the same patients
    assert refused.exit_code and 'were in an earlier split' in str(refused.exception) and not (tmp_path/'run').exists()
    result = invoke(*call, '--known', 'keep')
    assert result.exit_code == 0, result.output
    run = Experiment(tmp_path/'run')
    assert run.arms == ['baseline', 'from baseline', 'from out-of-fold']
    assert run.seeds == 2
    assert not list(run.folder.rglob('teacher'))
    assert all(s in result.output
               for s in ('Never saw A', 'From Baseline', 'From MMPKD (out-of-fold)', 'no evidence at this n'))
    assert (run.folder/'transfer.png').stat().st_size > 1000

def test_agreement_between_seeds(ultrasound):
    result = invoke('reliability', ultrasound[0])
    assert result.exit_code == 0
    assert 'agreement between seeds' in result.output
    assert 'MMPKD (out-of-fold)' in result.output
    assert 'spearman' in result.output
    for name in ('reliability.csv', 'reliability.png'): assert (ultrasound[0]/name).stat().st_size > 100

def test_wide_tables_are_not_cut(capsys):
    names = [f'a column of thirty characters {i}' for i in range(8)]
    print_table(pd.DataFrame([[.5]*8], ['row'], names))
    said = capsys.readouterr().out
    assert '…' not in said and all(n in said for n in names)

def test_errors_of_studies_are_one_line(capsys, monkeypatch, busbra, ultrasound, tmp_path):
    call = ['--root', busbra, '--out', tmp_path/'out', '--weights', 'none', '--size', 32]
    assert "--lams must be numbers separated by commas, not 'few'" in fails(capsys, monkeypatch, 'grid', 'busbra',
                                                                            *call, '--lams', 'few')
    assert '--temperatures must be numbers' in fails(capsys, monkeypatch, 'grid', 'busbra', *call, '--temperatures',
                                                     '1,')
    assert "no arm 'out-of-hand'" in fails(capsys, monkeypatch, 'grid', 'busbra', *call, '--arm', 'out-of-hand')
    assert 'lam must be in' in fails(capsys, monkeypatch, 'grid', 'busbra', *call, '--lams', '0.5,1.5')
    assert 'share must be' in fails(capsys, monkeypatch, 'quality', 'busbra', *call, '--shares', '2')
    assert '--shares must be' in fails(capsys, monkeypatch, 'quality', 'busbra', *call, '--shares', 'half')
    assert 'no finished run in' in fails(capsys, monkeypatch, 'transfer', 'busbra', *call, '--from', tmp_path/'nothing')
    assert 'needs the student of seed 2' in fails(capsys, monkeypatch, 'transfer', 'busbra', *call, '--from',
                                                  ultrasound[0], '--seeds', 3)
    assert 'no finished run in' in fails(capsys, monkeypatch, 'reliability', tmp_path)
    assert not (tmp_path/'out').exists()


# Errors

def busbra_call(busbra, tmp_path, **options):
    options = dict(root=busbra, out=tmp_path/'out', weights='none', size=32) | options
    return ['run', 'busbra', *[s for k, v in options.items() for s in (f'--{k}', v)]]

@pytest.mark.parametrize('options,message', [
    (dict(root='/no/such/folder'), 'bus_data.csv'), (dict(lam=1.5), 'lam must be in [0, 1], not 1.5'),
    (dict(lam='nan'), 'lam must be in [0, 1]'), (dict(lam='much'), "--lam must be a number or 'valid', not 'much'"),
    (dict(temperature=0), 'T must be above 0'),
    (dict(weights='vit.pth'), "no checkpoint at vit.pth; weights must be 'imagenet', 'none' or"),
    (dict(arms='baseline,out-of-hand'), "no arm 'out-of-hand'"), (dict(arms='baseline'), 'at least one other'),
    (dict(arms='baseline,out-of-bag lam=much'), "lam must be a number, not 'much'"),
    (dict(temperature='hot'), "--temperature must be a number or 'valid', not 'hot'"),
    ({'controls-from': 'shuffled'},
     "controls_from must be 'in-sample', 'out-of-bag' or 'out-of-fold', not 'shuffled'"),
    (dict(convention='cut=otsu'), "--convention knows no 'cut'; its fields are method, layer, heads"),
    (dict(convention='otsu'), "knows no 'otsu'"), (dict(convention='rule=median'), 'rule must be one of'),
    (dict(convention='layer=last'), 'layer must be'),
    (dict(convention='rule=otsu tau=.3'), "tau does nothing under the rule 'otsu'"),
    (dict(convention='tau=half'), "tau must be a number, not 'half'"),
    (dict(convention='tau'), 'tau must be a number'),
    (dict(convention='min_area=small'), "min_area must be a number, not 'small'"),
    (dict(convention='tau=2'), 'tau must be'), (dict(convention='layer=12'), 'layer'),
    (dict(convention='heads=3'), 'heads'), (dict(arms='baseline,from baseline'), 'needs `start`'),
    ({'teacher': 'boosting', 'arms': 'all', 'controls-from': 'out-of-bag'}, "'boosting' has no out-of-bag predictions"),
    (dict(size=0), 'size must be'), (dict(epochs=-1), 'epochs must be'), (dict(bs=0), 'bs must be'),
    (dict(lr=0), 'lr must be'), (dict(tau=2), 'tau must be'), (dict(precision='fp8'), "not 'fp8'"),
    ({'test-fold': 4}, 'two different folds'), ({'test-fold': 9}, 'two different folds')], ids=str)
def test_errors_are_one_line(capsys, monkeypatch, busbra, tmp_path, options, message):
    assert message in fails(capsys, monkeypatch, *busbra_call(busbra, tmp_path, **options))
    assert not (tmp_path/'out').exists()

def test_a_checkpoint_that_does_not_fit_is_one_line(capsys, monkeypatch, busbra,
                                                    tmp_path): # though torch's own message has hundreds
    torch.save(timm.create_model('vit_small_patch16_224').state_dict(), tmp_path/'other.pth')
    assert 'other.pth does not fit' in fails(capsys, monkeypatch,
                                             *busbra_call(busbra, tmp_path, weights=tmp_path/'other.pth'))
    assert not (tmp_path/'out').exists()

def test_a_folder_with_something_else_in_it(capsys, monkeypatch, busbra, tmp_path):
    (tmp_path/'mine.txt').write_text('mine')
    assert 'holds no run of mmpkd' in fails(capsys, monkeypatch, *busbra_call(busbra, tmp_path, out=tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ['mine.txt']

def test_other_settings_in_a_finished_folder(capsys, monkeypatch, busbra, ultrasound):
    before = times(ultrasound[0])
    assert 'epochs is 1 there and 5 here' in fails(capsys, monkeypatch, 'run', 'busbra', '--root', busbra, '--out',
                                                   ultrasound[0], *CALL, '--epochs', 5)
    assert times(ultrasound[0]) == before

def test_other_folds_in_a_finished_folder(capsys, monkeypatch, busbra, ultrasound):
    assert 'holds a run' in fails(capsys, monkeypatch, 'run', 'busbra', '--root', busbra, '--out', ultrasound[0], *CALL,
                                  '--test-fold', 1)

def test_no_network_no_traceback(busbra, tmp_path):
    "In a process of its own, since a library may write to stderr too"
    env = os.environ | dict(PYTHONPATH=str(ROOT), HF_HUB_OFFLINE='1', HF_HOME=str(tmp_path/'hub'))
    args = ['run', 'busbra', '--root', str(busbra), '--out', str(tmp_path/'run')]
    run = subprocess.run([sys.executable, '-c', 'from mmpkd.cli import main; main()', *args], env=env,
                         capture_output=True, text=True)
    expected = 'error: cannot get the ImageNet weights .*--weights PATH.*--weights none.*\n'
    assert run.returncode == 2 and re.fullmatch(expected, run.stderr), run.stderr

def test_options_that_do_not_go_together(capsys, monkeypatch, busbra, ultrasound, tmp_path):
    call = 'run', 'busbra', '--root', busbra, '--out', tmp_path/'run', *CALL
    assert "the teacher 'forest' has no 'model'" in fails(capsys, monkeypatch, *call, '--text-model', 'some/bert')
    assert '--tau does nothing under the rules mean and otsu' in fails(capsys, monkeypatch, *call, '--tau', .3,
                                                                       '--convention', 'rule=otsu')
    unit = shutil.copytree(ultrasound[0]/'units/baseline/seed-0', tmp_path/'unit')
    known = json.loads((unit/'unit.json').read_text())
    (unit/'unit.json').write_text(json.dumps(known | dict(convention=known['convention'] | dict(rule='otsu',
                                                                                                tau=None))))
    image = next((busbra/'Images').iterdir())
    assert "by the rule 'otsu'" in fails(capsys, monkeypatch, 'predict', unit, image, '--tau', .3, '--out',
                                         tmp_path/'a.png')
    assert invoke('predict', unit, image, '--out', tmp_path/'a.png').exit_code == 0

def test_options_that_typer_refuses(busbra):
    for args in (['--seeds', 0], ['--seeds', 'five'], ['--jobs', 0], ['--no-such-option']):
        result = invoke('run', 'busbra', '--root', busbra, *args)
        assert result.exit_code == 2 and 'Usage' in result.output and 'Traceback' not in result.output
    assert invoke('run', 'busbra').exit_code == 2                           # no --root

def test_demo_of_another_phantom(capsys, monkeypatch, demo):
    assert 'another phantom' in fails(capsys, monkeypatch, *DEMO_CALL, '--n', 80, '--out', demo[0])
    assert 'n must be at least 20' in fails(capsys, monkeypatch, 'demo', '--n', 5, '--out', demo[0]/'new')
    assert 'informative must be' in fails(capsys, monkeypatch, 'demo', '--informative', 2, '--out', demo[0]/'new')

def test_demo_says_that_it_is_one(demo):
    assert 'The phantom is synthetic' in demo[1] and 'no evidence at this n' in demo[1]


# The downloads, as phantoms with all their dirt

TINY_CALL = ['--weights', 'none', '--size', '32', '--epochs', '1', '--seeds', '1', '--bs', '8']

def download(tmp_path_factory, kind):
    "A phantom download, written by the command"
    root = tmp_path_factory.mktemp(kind)/'download'
    assert invoke('phantom', kind, root, '--n', 80).exit_code == 0
    return root

@pytest.fixture(scope='session')
def mimic(tmp_path_factory): return download(tmp_path_factory, 'mimic')

@pytest.fixture(scope='session')
def cbis(tmp_path_factory): return download(tmp_path_factory, 'cbis')

def private(root):
    "All that only the tables and the file names of a download may know: patients, studies, sentences of reports"
    names = {part for f in root.rglob('*') for part in f.relative_to(root).parts
             if re.fullmatch(r'[ps]\d{8}(\.txt)?', part)}
    names |= {n.removesuffix('.txt')[1:] for n in names}
    sentences = {s.strip() for f in (root/'files').rglob('s*.txt')
                 for s in re.split(r'[.\n:]', f.read_text(errors='replace')) if len(s.strip()) > 25}
    return names | sentences

@pytest.fixture(scope='session')
def radiographs(mimic, tmp_path_factory):
    "The folder that `mmpkd run mimic --report` made of it, and what it printed; read only"
    out = tmp_path_factory.mktemp('radiographs')/'run'
    result = invoke('run', 'mimic', '--root', mimic, '--rois', mimic/'ms-cxr', '--teacher', 'bow', '--out', out,
                    *TINY_CALL, '--skip-unreadable', '--report')
    assert result.exit_code == 0, result.output
    return out, result.output

def test_mimic_from_beginning_to_end(radiographs):
    out, said = radiographs
    run = Experiment(out)
    assert run.config['data']['source'] == 'mimic' and run.config['teacher'] == 'bow' and len(run.labels('test')) > 5
    n = len(run.about['unreadable'])
    assert n > 0 and f'{n} images could not be decoded and were left out' in said
    page = (out/'report.html').read_text()
    assert f'{n} images could not be decoded' in page and all(kind in page for kind in run.about['repairs'])
    assert 'Other conventions' in page and 'Agreement between seeds' not in page        # of one seed

def test_what_cannot_be_decoded_is_an_error(capsys, monkeypatch, mimic, radiographs, tmp_path):
    said = fails_long(capsys, monkeypatch, 'run', 'mimic', '--root', mimic, '--rois', mimic/'ms-cxr', '--teacher',
                      'bow', '--out', tmp_path/'run', *TINY_CALL)
    assert '--skip-unreadable' in said or 'are missing' in said
    assert not (tmp_path/'run/units').exists()

def test_audit_of_mimic(mimic, tmp_path):
    result = invoke('audit', 'mimic', '--root', mimic, '--rois', mimic/'ms-cxr', '--json', tmp_path/'audit.json')
    found = json.loads((tmp_path/'audit.json').read_text())
    assert result.exit_code == 1
    assert 'ERROR: unreadable image' in result.output
    assert 'regions in training' in result.output
    assert not found['ok'] and 'NaN' not in (tmp_path/'audit.json').read_text()

def test_nothing_private_is_printed_or_reported(capsys, monkeypatch, mimic, radiographs, tmp_path):
    secrets = private(mimic)
    assert len(secrets) > 150
    out, said = radiographs
    audit = invoke('audit', 'mimic', '--root', mimic, '--rois', mimic/'ms-cxr', '--json', tmp_path/'audit.json').output
    error = fails_long(capsys, monkeypatch, 'run', 'mimic', '--root', mimic, '--rois', mimic/'ms-cxr', '--teacher',
                       'bow', '--out', tmp_path/'run', *TINY_CALL)
    texts = dict(run=said, audit=audit, json=(tmp_path/'audit.json').read_text(), error=error)
    written = [p for p in out.rglob('*') if p.suffix in ('.html', '.md', '.csv', '.json')]
    texts |= {p.name: p.read_text() for p in written}
    for name, text in texts.items():
        text = re.sub(r'data:image/png;base64,[^"]*', '', text)
        assert not (leak := [s for s in secrets if s in text]), (name, leak[:3])

def test_cbis_from_beginning_to_end(cbis, tmp_path):
    result = invoke('run', 'cbis', '--root', cbis, '--cache', tmp_path/'masks', '--out', tmp_path/'run', *TINY_CALL,
                    '--skip-unreadable')
    assert result.exit_code == 0, result.output
    run = Experiment(tmp_path/'run')
    assert run.config['teacher'] == 'forest' and run.about['task'] == 'multiclass' and len(run.about['labels']) == 3
    assert run.about['repairs'] and (tmp_path/'masks').is_dir()

def test_audit_and_teacher_of_cbis(cbis):
    result = invoke('audit', 'cbis', '--root', cbis, '--task', 'calc')
    assert result.exit_code in (0, 1)
    assert 'Repairs of the loader' in result.output
    assert 'Parts of images' in result.output
    result = invoke('teacher', 'cbis', '--root', cbis, '--preset', 'paper', '--seeds', 2, '--folds', 2)
    assert result.exit_code == 0 and re.search(r'out-of-fold\s+\d\.\d{3} ± \d\.\d{3}', result.output), result.output

def test_the_teacher_of_the_paper(shared_data):
    "The forest on the real metadata of CBIS-DDSM: 0.86 for masses, 0.90 for calcifications"
    for task, expected in dict(mass=.86, calc=.90).items():
        result = invoke('teacher', 'cbis', '--root', shared_data/'cbis_csv', '--task', task, '--preset', 'paper')
        assert abs(float(re.search(r'test\s+(\d\.\d{3}) ±', result.output)[1]) - expected) <= .01


# A table of one's own

@pytest.fixture
def spreadsheet(phantom, tmp_path):
    "The phantom's table as a spreadsheet program exports it, with names of its own and no split"
    t = phantom.items.rename(columns=dict(image_id='File', patient_id='Person', image='Path')).drop(columns='split')
    t.to_csv(tmp_path/'scans.csv', sep=';', decimal=',', index=False, encoding='utf-8-sig')
    r = phantom.rois[phantom.rois.label == 'Pleural Effusion']
    boxes = r.assign(w=r.x1 - r.x0, h=r.y1 - r.y0).rename(columns=dict(x0='x', y0='y'))
    boxes[['image_id', 'x', 'y', 'w', 'h']].to_parquet(tmp_path/'boxes.parquet')
    return ['--table', tmp_path/'scans.csv', '--root', phantom.root, '--label', 'Pleural Effusion', '--image-id',
            'File', '--patient', 'Person', '--image', 'Path', '--test', .4]

def test_a_table_from_beginning_to_end(spreadsheet, tmp_path):
    result = invoke('run', 'table', *spreadsheet, '--boxes', tmp_path/'boxes.parquet', '--text', 'report', '--tabular',
                    'age', '--tabular', 'pleural_effusion_grade', '--out', tmp_path/'run', *TINY_CALL)
    assert result.exit_code == 0, result.output
    assert result.output.index('Looks like') < result.output.index('Baseline') and 'No split is given' in result.output
    assert re.search(r'age\s+metadata\s+amount', result.output) and re.search(r'report\s+report\s+text', result.output)
    assert Experiment(tmp_path/'run').config['teacher'] == 'stacked'

def test_the_teacher_of_a_table_needs_no_regions(spreadsheet):
    result = invoke('teacher', 'table', *spreadsheet, '--text', 'report', '--seeds', 1)
    assert result.exit_code == 0 and re.search(r'test\s+\d', result.output), result.output

def test_words_can_be_hidden_from_the_teacher(phantom, tmp_path):
    phantom.items.to_csv(tmp_path/'scans.csv', index=False)
    def said(hide):
        source = SOURCES['table'](tmp_path/'scans.csv', ['Pneumothorax'], phantom.root, text='report', hide=hide)
        return ' '.join(source.load().items.report).lower()
    assert 'pneumothorax' in said(None) and 'effusion' in said(['pneumothorax'])
    assert 'pneumothora' not in said(['pneumothorax']) and 'costophrenic angle' not in said(['costophrenic angle'])

def test_masks_of_a_table(spreadsheet, phantom, tmp_path):
    t = pd.read_csv(tmp_path/'scans.csv', sep=';', encoding='utf-8-sig')
    m = phantom.rois[phantom.rois.label == 'Pleural Effusion'].set_index('image_id')['mask']
    t.assign(outline=t.File.map(m)).to_csv(tmp_path/'scans.csv', sep=';', index=False)
    result = invoke('audit', 'table', *spreadsheet, '--masks', 'outline', '--tabular', 'pleural_effusion_grade')
    assert 'Audit of' in result.output and re.search(r'outline\s+mask path', result.output)
    with_roi = re.search(r'with ROI\s+(\d+)\s+(\d+)\s+(\d+)', result.output)
    assert sum(map(int, with_roi.groups())) == len(m)

@pytest.mark.parametrize('extra,message', [
    (['--boxes', 'b.csv', '--masks', 'm'], 'one of them'),
    (['--boxes', 'b.csv', '--text', 'note'], "no column 'note'"), (['--boxes', 'b.csv', '--text', 'report'],
                                                                   'no table at b.csv'),
    (['--masks', 'report', '--label', 'Pneumothorax', '--text', 'report'],
     'one 0/1 label'), (['--boxes', 'b.csv', '--text', 'report', '--split', 'fold'], "no column 'fold'")], ids=str)
def test_tables_that_cannot_be_worked_with(capsys, monkeypatch, spreadsheet, extra, message):
    assert message in fails(capsys, monkeypatch, 'audit', 'table', *spreadsheet, *extra)

def test_a_table_without_privileged_columns(capsys, monkeypatch, spreadsheet, tmp_path):
    "No teacher can learn from it, but it can be audited"
    assert 'Audit of' in invoke('audit', 'table', *spreadsheet).output
    for call in (['run', 'table', *spreadsheet, '--out', tmp_path/'run'], ['teacher', 'table', *spreadsheet]):
        assert 'nothing is privileged: name a report with --text' in fails_long(capsys, monkeypatch, *call)
    assert not (tmp_path/'run').exists()

def test_a_transfer_needs_nothing_privileged(spreadsheet, tmp_path):
    call = [*spreadsheet, '--boxes', tmp_path/'boxes.parquet', *TINY_CALL[:-4], '--bs', 8]
    assert invoke('run', 'table', *call, '--seeds', 1, '--text', 'report', '--out', tmp_path/'a').exit_code == 0
    result = invoke('transfer', 'table', *call, '--from', tmp_path/'a', '--out', tmp_path/'b')
    assert result.exit_code == 0, result.output
    assert Experiment(tmp_path/'b').arms == ['baseline', 'from baseline', 'from out-of-fold']
    assert not (tmp_path/'b/teacher').exists()

# One new image

def said(output): # {label: probability}, boxes
    boxes = re.findall(r'^box x0=(\d+) y0=(\d+) x1=(\d+) y1=(\d+)$', output, re.M)
    return dict(re.findall(r'^(.+): (\d\.\d{3})$', output, re.M)), [tuple(map(int, b)) for b in boxes]

@pytest.mark.parametrize('kind', ['png', 'dicom'])
def test_predict_repeats_the_run(kind, request, tmp_path):
    "What the command says of a test image is what was kept of it: probabilities, and boxes as good as their score"
    arm = 'out-of-fold'
    if kind == 'png':
        folder = request.getfixturevalue('ultrasound')[0]
        images, suffix = request.getfixturevalue('busbra')/'Images', '.png'
    else:
        made = request.getfixturevalue('demo')[0]
        folder, images, suffix = made/'run', made/'phantom/images', '.dcm'
    run = Experiment(folder)
    p, scores = (pd.read_parquet(run.run_folder(arm, 1)/f'{f}.parquet') for f in ('predictions', 'scores'))
    for row in scores.head(3).itertuples():
        image = images/(row.image_id + suffix)
        result = invoke('predict', run.run_folder(arm, 1), image, '--out', tmp_path/'drawn.png')
        values, boxes = said(result.output)
        assert result.exit_code == 0, result.output
        assert {k: float(v) for k, v in values.items()} == pytest.approx(p.loc[row.image_id].to_dict(), abs=6e-4)
        assert len(boxes) == row.n_boxes and all(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in boxes)
        with Image.open(tmp_path/'drawn.png') as im: assert im.format == 'PNG' and np.asarray(im.convert('L')).std() > 5

def test_predict_with_another_threshold(ultrasound, busbra, tmp_path):
    unit, image = ultrasound[0]/'units/baseline/seed-0', busbra/'Images/bus_0000-l.png'
    def area(tau):
        boxes = said(invoke('predict', unit, image, '--tau', tau, '--out', tmp_path/'a.png').output)[1]
        return sum((x1 - x0)*(y1 - y0) for x0, y0, x1, y1 in boxes)
    areas = [area(tau) for tau in (.2, .9)]
    assert areas[0] > areas[1] > 0

def test_predict_errors(capsys, monkeypatch, ultrasound, busbra, tmp_path):
    unit, image = ultrasound[0]/'units/baseline/seed-0', busbra/'Images/bus_0000-l.png'
    assert 'no student in' in fails(capsys, monkeypatch, 'predict', tmp_path, image)
    assert 'none.png: missing file' in fails(capsys, monkeypatch, 'predict', unit, tmp_path/'none.png')
    (tmp_path/'text.png').write_text('not an image')
    assert 'cannot read the image' in fails(capsys, monkeypatch, 'predict', unit, tmp_path/'text.png')
    assert 'tau must be' in fails(capsys, monkeypatch, 'predict', unit, image, '--tau', 0)
    assert 'nowhere' in fails(capsys, monkeypatch, 'predict', unit, image, '--out', tmp_path/'nowhere/drawn.png')

def test_predict_of_a_damaged_student(capsys, monkeypatch, ultrasound, busbra, tmp_path):
    image, folder = busbra/'Images/bus_0000-l.png', shutil.copytree(ultrasound[0]/'units/baseline/seed-0',
                                                                    tmp_path/'student')
    (folder/'student.safetensors').write_bytes((folder/'student.safetensors').read_bytes()[:1000])
    assert 'student.safetensors' in fails(capsys, monkeypatch, 'predict', folder, image)
    (folder/'student.safetensors').unlink()
    assert 'student.safetensors' in fails(capsys, monkeypatch, 'predict', folder, image)

def test_predict_keeps_no_figure_open(ultrasound, busbra, tmp_path):
    import matplotlib.pyplot as plt
    before = plt.get_fignums()
    assert invoke('predict', ultrasound[0]/'units/baseline/seed-0', busbra/'Images/bus_0000-l.png', '--out',
                  tmp_path/'a.png').exit_code == 0
    assert plt.get_fignums() == before


# Words as they are

NASTY = 'size [mm] [/kg] [red]a|b[/] :smile: <b>x</b> $a_b$ "q" 肿瘤'

def test_user_text_is_no_markup(capsys, monkeypatch):
    monkeypatch.setattr(console, '_width', 400)
    tell(NASTY)
    print_columns(pd.DataFrame({NASTY: range(40)}), {NASTY: 'metadata'})
    print_table(pd.DataFrame({NASTY: [NASTY]}, pd.Index(['[b]'], name='[i]')), NASTY)
    said = capsys.readouterr().out
    assert said.count(NASTY) == 5 and '[b]' in said and '[i]' in said and '\x1b' not in said

def test_errors_show_names_as_they_are(capsys, monkeypatch, spreadsheet):
    assert NASTY in fails(capsys, monkeypatch, 'audit', 'table', *spreadsheet, '--text', NASTY)
    assert NASTY in fails(capsys, monkeypatch, 'run', 'busbra', '--root', '/nowhere', f'--{NASTY}')

@pytest.mark.parametrize('width', [40, 80, 200])
def test_tables_fit_the_terminal(capsys, monkeypatch, width):
    "No word and no number is broken, and no line is longer than the terminal"
    monkeypatch.setattr(console, '_width', width)
    rows, columns = [f'Control: number {i}' for i in range(3)], [f'Score {j}' for j in range(9)]
    t = pd.DataFrame([[f'{i}.{j}23 ± 0.045**' for j in range(9)] for i in range(3)], pd.Index(rows, name='Method'),
                     columns)
    print_table(t, 'Scores')
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert all(sum(cell in line for line in lines) == 1 for cell in t.to_numpy().ravel())
    heads = [line for line in lines if line.startswith('Method')]
    assert len(heads) == {40: 9, 80: 3, 200: 1}[width] and sum(line.count('Score ') for line in heads) == 9

def test_columns_without_room_stand_below():
    assert _blocks([20, 30, 30, 30], 80) == [[0, 1], [0, 2], [0, 3]]
    assert _blocks([20, 29, 29, 30], 80) == [[0, 1, 2], [0, 3]]
    assert _blocks([10, 10, 30, 30], 60, keys=2) == [[0, 1, 2], [0, 1, 3]]

def test_roles_of_columns():
    source = SOURCES['table'](Path('t.csv'), ['lesion'], tabular=['scanner'], text='report', image='images/{file}.png')
    assert _column_roles(source) == dict(image_id='image name', lesion='label', scanner='metadata', report='report')

def test_wide_characters_take_their_room(capsys, monkeypatch):
    monkeypatch.setattr(console, '_width', 40)
    print_table(pd.DataFrame({'类别'*6: ['x'], '数'*6: ['y']}, pd.Index(['肿瘤'*4], name='n')))
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith('n ')]
    assert len(heads) == 2                                                  # 16 + 24 + 12 columns

def test_numbers_stand_at_the_right(capsys):
    print_table(pd.DataFrame({'IoU': [.25], 'what': ['word']}, pd.Index(['ours'], name='Method')), words=('what',))
    head, line = capsys.readouterr().out.splitlines()
    assert line.index('0.250') + 5 >= head.index('IoU') + 3 and line.index('word') == head.index('what')


# Any terminal, any pipe

def script(code, **env):
    "What a process says that runs this before anything heavy is imported"
    names = os.environ | dict(PYTHONPATH=str(ROOT)) | env
    return subprocess.run([sys.executable, '-c', code], env={k: v for k, v in names.items() if v is not None},
                          capture_output=True)

@pytest.mark.parametrize('encoding', ['ascii', 'cp1252', 'latin-1', 'utf-8'])
def test_what_a_pipe_cannot_show_is_a_question_mark(encoding):
    code = ("import mmpkd.cli as c, sys\n"
            "c.app = lambda **k: c.tell('p \u2264 0.05, \u03bb \u00b1 \u80bf')\nsys.exit(c.main())")
    run = script(code, PYTHONIOENCODING=encoding)
    assert run.returncode == 0
    assert run.stderr == b''
    assert run.stdout.strip() == 'p ≤ 0.05, λ ± 肿'.encode(encoding, 'replace')

def test_an_error_goes_through_such_a_pipe_too():
    code = "import mmpkd.cli as c\ndef app(**k): raise ValueError('no column \u2264')\nc.app = app; c.main()"
    run = script(code, PYTHONIOENCODING='ascii')
    assert run.returncode == 2 and run.stdout == b'' and run.stderr == b'error: no column ?\n'

CLOSED = '''import mmpkd.cli as c, os, sys
def app(**k):
    for _ in range(9000): c.tell('a line'); print('another', flush=True)
    open(sys.argv[1], 'w').close()
    return int(sys.argv[2])
c.app = app
c.main()'''

@pytest.mark.parametrize('code', [0, 1])
def test_a_reader_that_leaves_early_stops_nothing(tmp_path, code):
    "As `mmpkd ... | head -1`: the work is finished, and the exit code is its own"
    run = subprocess.Popen([sys.executable, '-c', CLOSED, tmp_path/'done', str(code)], stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, env=os.environ | dict(PYTHONPATH=str(ROOT)))
    assert run.stdout.readline().strip() == b'a line'
    run.stdout.close()
    assert run.stderr.read() == b'' and run.wait() == code and (tmp_path/'done').is_file()

WARNING = """import mmpkd.cli as c, warnings, logging, subprocess, sys
def app(**k):
    warnings.warn('of a library', FutureWarning); logging.getLogger('library').warning('of its log')
    subprocess.run([sys.executable, '-c', "import warnings; warnings.warn('of a worker', FutureWarning)"])
c.app = app
c.main()"""

@pytest.mark.parametrize('asked,silent', [(None, True), ('default', False), ('ignore', True)])
def test_warnings_of_libraries_stay_off_the_terminal(asked, silent):
    "Also those of other processes; not where somebody asks for them"
    run = script(WARNING, PYTHONWARNINGS=asked)
    assert run.returncode == 0 and (run.stderr == b'') == silent and (b'of a worker' in run.stderr) != silent

def test_the_functions_silence_nothing():
    "Whoever calls them from a notebook sees the warnings"
    run = script("import mmpkd.cli, warnings; warnings.warn('mine', FutureWarning)", PYTHONWARNINGS=None)
    assert b'mine' in run.stderr


# Exit codes

@pytest.mark.parametrize('args', [
    ('--seeds', 0), ('--seeds', 'five'), ('--jobs', 0), ('--jobs', 'all'), ('--jobs', -1), ('--no-such-option',),
    ('stray',), ('--lam',)], ids=str)
def test_typers_own_errors_are_one_line_too(capsys, monkeypatch, busbra, args):
    assert '--help' in fails(capsys, monkeypatch, 'run', 'busbra', '--root', busbra, *args)

def test_no_command_and_no_option(capsys, monkeypatch):
    assert "'fly'" in fails(capsys, monkeypatch, 'fly') and '--root' in fails(capsys, monkeypatch, 'run', 'busbra')
    for args in ((), ('run',)):
        monkeypatch.setattr(sys, 'argv', ['mmpkd', *args])
        with pytest.raises(SystemExit) as stop: main()
        said = capsys.readouterr()
        assert 'Usage' in said.out + said.err and stop.value.code in (0, 2) and 'error: ' not in said.err

@pytest.mark.parametrize('error,said', [
    (KeyError('column'), "error: KeyError: 'column' (not foreseen"),
    (TypeError('two\nlines'), 'error: TypeError: two lines (not foreseen'),
    (ZeroDivisionError(), 'error: ZeroDivisionError'),
    (PermissionError(13, 'Permission denied', '/a/b'), 'error: Permission denied: /a/b\n'),
    (IsADirectoryError(21, 'Is a directory', 'x'), 'error: Is a directory: x\n'),
    (FileNotFoundError('no table at x'), 'error: no table at x\n'),
    (ModuleNotFoundError('install openpyxl'), 'error: install openpyxl\n'),
    (MemoryError(), 'error: MemoryError')], ids=repr)
def test_every_error_is_a_line(capsys, monkeypatch, error, said):
    def app(**kwargs): raise error
    monkeypatch.setattr('mmpkd.cli.app', app)
    assert fails(capsys, monkeypatch).startswith(said)
    monkeypatch.setenv('MMPKD_TRACEBACK', '1')
    with pytest.raises(type(error)): main()

def test_stopped_by_hand(monkeypatch):
    def app(**kwargs): raise KeyboardInterrupt
    monkeypatch.setattr('mmpkd.cli.app', app)
    with pytest.raises(SystemExit) as stop: main()
    assert stop.value.code == 130

def test_an_audit_that_is_not_ok_is_no_error(capsys, monkeypatch, mimic):
    monkeypatch.setattr(sys, 'argv', ['mmpkd', 'audit', 'mimic', '--root', str(mimic), '--rois', str(mimic/'ms-cxr')])
    with pytest.raises(SystemExit) as stop: main()
    said = capsys.readouterr()
    assert stop.value.code == 1 and said.err == '' and 'not ok' in said.out

def test_places_that_are_something_else(capsys, monkeypatch, busbra, ultrasound, spreadsheet, tmp_path):
    (tmp_path/'file').write_text('mine')
    assert f'no table at {tmp_path}' in fails(capsys, monkeypatch, 'audit', 'table', '--table', tmp_path,
                                              *spreadsheet[2:])
    assert 'file is a file' in fails(capsys, monkeypatch, *busbra_call(busbra, tmp_path, out=tmp_path/'file'))
    assert 'file/run' in fails(capsys, monkeypatch, *busbra_call(busbra, tmp_path, out=tmp_path/'file/run'))
    assert 'no finished run in' in fails(capsys, monkeypatch, 'reliability', tmp_path/'file')
    assert 'no student in' in fails(capsys, monkeypatch, 'predict', tmp_path/'file', tmp_path/'file')
    assert tmp_path.name in fails(capsys, monkeypatch, 'predict', ultrasound[0]/'units/baseline/seed-0', tmp_path)
    assert 'nowhere' in fails(capsys, monkeypatch, 'audit', 'busbra', '--root', busbra, '--sheet',
                              tmp_path/'nowhere/sheet.png')

@pytest.mark.parametrize('name,content', [
    ('unit.json', '{"conv'), ('unit.json', '[]'), ('unit.json', '{"convention": {"rool": 1}}'),
    ('student.json', '{"labels'), ('student.json', '{}'), ('student.json', '[]')])
def test_a_student_whose_notes_are_damaged(capsys, monkeypatch, busbra, ultrasound, tmp_path, name, content):
    folder = shutil.copytree(ultrasound[0]/'units/baseline/seed-0', tmp_path/'student')
    (folder/name).write_text(content)
    assert name in fails(capsys, monkeypatch, 'predict', folder, busbra/'Images/bus_0000-l.png')

@pytest.mark.parametrize('text,n', [('auto', 'auto'), ('1', 1), ('16', 16)])
def test_jobs(text, n): assert read_jobs(text) == n


# Tables of every kind

@pytest.fixture
def mine(tmp_path):
    "Twenty pictures of noise, every other one with a bright square, and a table of them; call it to change columns"
    rng, rows, boxes = np.random.default_rng(0), [], []
    (tmp_path/'img').mkdir()
    for i in range(20):
        a, name, sick = rng.integers(0, 90, (48, 48)).astype(np.uint8), f'i{i:02}', i % 2
        if sick: a[10:22, 20:32] += 140
        if sick: boxes.append(dict(image_id=name, kind='mass', x0=20, y0=10, x1=32, y1=22))
        Image.fromarray(a).save(tmp_path/f'img/{name}.png')
        mask = np.zeros((48, 48), np.uint8)
        mask[10:22, 20:32] = 255*sick
        Image.fromarray(mask).save(tmp_path/f'img/{name}-mask.png')
        rows.append(dict(image_id=name, patient_id=f'p{i}', image=f'img/{name}.png', sick=sick,
                         mask=f'img/{name}-mask.png', kind='mass|cyst' if sick else 'none of it',
                         report='a lession, a lesion' if sick else 'clear'))
    pd.DataFrame(boxes).to_csv(tmp_path/'b.csv', index=False)
    def write(name='t.csv', **columns):
        t = pd.DataFrame(rows).assign(**columns)
        t.to_excel(tmp_path/name, index=False) if name.endswith('xlsx') else t.to_csv(tmp_path/name, index=False)
        return ['--table', tmp_path/name, '--root', tmp_path]
    return write

def loaded(*args, **kwargs): return SOURCES['table'](args[1], root=args[3], **kwargs).load()

def test_each_image_its_own_patient(mine, capsys):
    call = mine(split=['train']*12 + ['valid']*4 + ['test']*4)
    c = loaded(*call, label=['sick'], patient='none')
    assert c.items.patient_id.tolist() == c.items.image_id.tolist()
    assert 'each image is its own patient' in capsys.readouterr().out
    (call[1]).write_text(call[1].read_text().replace('patient_id', 'who'))
    assert loaded(*call, label=['sick']).items.patient_id.nunique() == 20
    assert 'each image is its own patient' in capsys.readouterr().out
    with pytest.raises(ValueError, match="no column 'person'"): loaded(*call, label=['sick'], patient='person')

def test_a_split_that_is_not_to_be_used(mine, capsys):
    call = mine(split=['train']*19 + ['test'])
    assert (loaded(*call, label=['sick']).items.split == 'test').sum() == 1
    assert 'No split' not in capsys.readouterr().out
    assert (loaded(*call, label=['sick'], split='none').items.split == 'test').sum() == 4
    assert 'No split is given' in capsys.readouterr().out

def test_several_classes_in_a_column(mine):
    call = mine()
    c = loaded(*call, label=['kind'], label_sep='|', classes=['mass', 'cyst'], boxes=call[3]/'b.csv', box_label='kind')
    assert c.labels == ['mass', 'cyst']
    assert c.y().sum().tolist() == [10, 10]
    assert (c.rois.label == 'mass').all()
    assert len(c.rois) == 10

@pytest.mark.parametrize('kwargs', [dict(label=['sick']), dict(label=['diagnosis'], task='multiclass')], ids=str)
def test_masks_empty_and_several(mine, kwargs):
    "An empty mask means no lesion; two files of one image are two regions; the class of a mask is that of its image"
    call = mine(diagnosis=['ill' if i % 2 else 'well' for i in range(20)])
    t = pd.read_csv(call[1])
    t.loc[1, 'mask'] = 'img/i03-mask.png;img/i01-mask.png'
    t.loc[5, 'mask'] = None
    t.to_csv(call[1], index=False)
    c = loaded(*call, masks='mask', **kwargs)
    n = c.rois.image_id.value_counts()
    assert n['i01'] == 2
    assert 'i05' not in n
    assert 'i00' not in n
    assert len(c.rois) == 10
    assert set(c.rois.label) == {'ill' if 'task' in kwargs else 'sick'}

def test_masks_that_do_not_say_of_what(mine):
    call = mine(other=0)
    with pytest.raises(ValueError, match='one 0/1 label'): loaded(*call, label=['sick', 'other'], masks='mask')
    with pytest.raises(ValueError, match='--masks does not say'):
        loaded(*call, label=['kind'], label_sep='|', masks='mask')

def test_hidden_words_are_counted(mine, capsys):
    loaded(*mine(), label=['sick'], text='report', hide=['lesion', 'tumour'])
    said = ' '.join(capsys.readouterr().out.split())
    assert "Hidden: 'lesion', in 10 reports" in said
    assert "WARNING: 'tumour' is to be hidden, and no report has it" in said
    assert 'lession (10)' in said

def test_hidden_words_stay_with_the_cohort(mine, tmp_path, capsys):
    c = loaded(*mine(), label=['sick'], text='report', hide=['lesion', 'tumour'])
    assert c.split('train').hidden.reports.tolist() == [10, 0]
    invoke('audit', 'table', *mine(), '--label', 'sick', '--text', 'report', '--hide', 'lesion', '--json',
           tmp_path/'a.json',
           '--sheet', tmp_path/'s.png')
    found = json.loads((tmp_path/'a.json').read_text(encoding='utf-8'))['findings']
    assert "'lesion' in 10 reports" in next(f['text'] for f in found if f['name'] == 'words hidden')

@pytest.mark.parametrize('options,said', [(['--hide', 'x'], '--text'), (['--box-label', 'x'], '--boxes'),
                                          (['--label-sep', ''], '--label-sep'), (['--split-seed', '-1'],
                                                                                 '--split-seed')])
def test_options_that_would_do_nothing(mine, capsys, monkeypatch, options, said):
    assert said in fails(capsys, monkeypatch, 'audit', 'table', *mine(), '--label', 'sick', *options)

def test_a_workbook(mine):
    pytest.importorskip('openpyxl')
    assert len(loaded(*mine('t.xlsx'), label=['sick'])) == 20

def test_files_named_by_numbers(mine, capsys):
    "0001 is a name: neither the image nor its path becomes 1"
    call = mine(image_id=[f'{i:04}' for i in range(20)], image=[f'{i:04}' for i in range(20)])
    for i in range(20): shutil.copy(call[3]/f'img/i{i:02}.png', call[3]/f'{i:04}')
    c = loaded(*call, label=['sick'])
    assert c.items.image.tolist() == c.items.image_id.tolist() == [f'{i:04}' for i in range(20)] and c.check()

def test_an_audit_tells_why_there_is_no_cohort(mine, capsys, monkeypatch, tmp_path):
    "On both streams: boxes in shares of the image"
    call = mine()
    b = pd.read_csv(tmp_path/'b.csv')
    b[['x0', 'y0', 'x1', 'y1']] /= 48
    b.to_csv(tmp_path/'b.csv', index=False)
    monkeypatch.setattr(sys, 'argv',
                        ['mmpkd', 'audit', 'table', *map(str, call), '--label', 'sick',
                         '--boxes', str(tmp_path/'b.csv')])
    with pytest.raises(SystemExit) as stop: main()
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert 'smaller than a pixel' in said.out
    assert 'smaller than a pixel' in said.err
    assert said.err.count('\n') == 1


# Data that lack something, from beginning to end

def test_the_sheet_of_images(mine, tmp_path):
    call = [*mine(), '--label', 'sick', '--boxes', tmp_path/'b.csv']
    result = invoke('audit', 'table', *call, '--sheet', tmp_path/'sheet.png')
    assert f'Images with their boxes, to look at: {tmp_path}/sheet.png' in result.output
    with Image.open(tmp_path/'sheet.png') as im: assert im.format == 'PNG' and min(im.size) > 200
    assert not (tmp_path/'none.png').exists()
    assert invoke('audit', 'table', *call, '--no-pixels', '--sheet', tmp_path/'none.png').exit_code in (0, 1)
    assert not (tmp_path/'none.png').exists()

@pytest.mark.parametrize('given,written', [('', 'contact_sheet.png'), ('look', 'look.png'), ('look.pdf', 'look.pdf')])
def test_where_the_sheet_is(mine, tmp_path, given, written):
    (tmp_path/'out').mkdir()
    said = invoke('audit', 'table', *mine(), '--label', 'sick', '--sheet', tmp_path/'out'/given).output
    assert [f.name for f in (tmp_path/'out').iterdir()] == [written] and written in said

def test_a_run_leaves_one_too(ultrasound):
    out, said = ultrasound
    assert f'to look at: {out}/contact_sheet.png' in said
    assert (out/'contact_sheet.png').stat().st_size > 1000
    assert (out/'audit.json').is_file()
    assert said.index('Audit of') < said.index('Teacher and soft labels')

@pytest.fixture(scope='session')
def unmarked(busbra, tmp_path_factory):
    "The options of a table of the same images without regions, with and without a privileged column"
    data, call = pd.read_csv(busbra/'bus_data.csv'), ['--root', busbra, '--label', 'bad', '--split', 'part', *CALL[:-4],
                                                      '--bs', 8]
    parts = pd.read_csv(busbra/'5-fold-cv.csv').kFold.map({4: 'valid', 5: 'test'}).fillna('train')
    path = tmp_path_factory.mktemp('unmarked')/'t.csv'
    t = pd.DataFrame(dict(image_id=data.ID, patient_id=data.Case, image='Images/' + data.ID + '.png',
                          bad=(data.Pathology == 'malignant').astype(int), birads=data.BIRADS, part=parts))
    t.to_csv(path, index=False)
    return ['--table', path, *call]

def test_a_run_without_regions(unmarked, tmp_path):
    result = invoke('run', 'table', *unmarked, '--tabular', 'birads', '--seeds', 2, '--out', tmp_path/'run', '--report')
    assert result.exit_code == 0, result.output
    assert 'No test image has a region of interest' in result.output
    assert 'IoU' not in result.output
    assert 'no regions' in result.output
    result = invoke('reliability', tmp_path/'run')
    assert result.exit_code == 0 and 'spearman' in result.output

def test_studies_without_regions(unmarked, tmp_path):
    result = invoke('grid', 'table', *unmarked, '--tabular', 'birads', '--seeds', 1, '--lams', '0.3,0.7', '--out',
                    tmp_path/'grid')
    assert result.exit_code == 0 and 'chosen' in result.output, result.output
    assert 'prediction is not held against localization' in ' '.join(result.output.split())
    result = invoke('quality', 'table', *unmarked, '--tabular', 'birads', '--seeds', 1, '--shares', '1', '--out',
                    tmp_path/'quality')
    assert result.exit_code == 0 and 'auroc_sd' in result.output and 'pixel' not in result.output, result.output
    result = invoke('transfer', 'table', *unmarked, '--from', tmp_path/'quality', '--out', tmp_path/'b')
    assert result.exit_code == 1 or 'Never saw A' in result.output, result.output

def test_a_run_without_anything_privileged(capsys, monkeypatch, unmarked, tmp_path):
    result = invoke('run', 'table', *unmarked, '--seeds', 1, '--arms', 'all', '--out', tmp_path/'run')
    assert result.exit_code == 0, result.output
    assert Experiment(tmp_path/'run').arms == ['baseline', 'label-smoothing', 'self-distillation']
    assert 'Nothing is privileged' in result.output
    assert 'Teacher AUROC' not in result.output
    for call in (['run', '--arms', 'baseline,class-mean'], ['grid'], ['quality']):
        said = fails_long(capsys, monkeypatch, call[0], 'table', *unmarked, *call[1:], '--out', tmp_path/'other')
        assert 'nothing is privileged: name a report with --text' in said and said.count('\n') == 1
    assert not (tmp_path/'other').exists()

def test_an_audit_can_be_ignored(capsys, monkeypatch, unmarked, tmp_path):
    t = pd.read_csv(unmarked[1])
    t.loc[t.part == 'test', 'bad'] = 0
    t.to_csv(tmp_path/'t.csv', index=False)
    call = ['run', 'table', '--table', tmp_path/'t.csv', *unmarked[2:], '--tabular', 'birads', '--seeds', 1, '--out',
            tmp_path/'run']
    assert 'one value in test' in fails(capsys, monkeypatch, *call) and not (tmp_path/'run').exists()
    result = invoke(*call, '--ignore-audit')
    assert result.exit_code == 0, result.output
    assert 'the run went on all the same: one value in test (1)' in ' '.join(result.output.split())


# The comparison under gradient-weighted attention

@pytest.mark.parametrize('flag,asked', [([], True), (['--no-gradient'], False)])
def test_gradient_maps_can_be_left_out(tiny_run, monkeypatch, tmp_path, flag, asked):
    seen = []
    monkeypatch.setattr('mmpkd.experiment.run_experiment', lambda *args, **kwargs: tiny_run)
    monkeypatch.setattr('mmpkd.report.write_report', lambda *args, **kwargs: seen.append(kwargs['gradient'])
                        or tiny_run.folder/'report.html')
    result = CliRunner().invoke(app, ['demo', '--n', '20', '--out', str(tmp_path/'demo'), *flag])
    assert result.exit_code == 0, result.output
    assert seen == [asked]

@pytest.mark.parametrize('verb', ['run', 'grid', 'quality', 'transfer'])
def test_each_training_verb_can_leave_gradient_maps_out(verb):
    options = [o for p in typer.main.get_command(app).commands[verb].commands['table'].params
               for o in (*p.opts, *p.secondary_opts)]
    assert {'--gradient', '--no-gradient'} <= {*options}

def test_the_terminal_says_what_the_report_says(tiny_run, monkeypatch):
    "The verdict under gradient-weighted attention, and the signs that were found"
    from mmpkd.cli import print_run
    from mmpkd.report import caveats, gradient_words
    monkeypatch.setattr(console, '_width', 10_000)
    with console.capture() as printed: print_run(tiny_run, tiny_run.folder/'report.html')
    said = [*gradient_words(tiny_run), *caveats(tiny_run)]
    assert said[0].startswith('Under gradient-weighted attention') and all(text in printed.get() for text in said)

def helps(command, path='mmpkd'):
    "Every help text, with the command it belongs to"
    yield path, command.help or ''
    for p in command.params: yield f'{path} {p.opts[0]}', getattr(p, 'help', None) or ''
    for name, part in getattr(command, 'commands', {}).items(): yield from helps(part, f'{path} {name}')

def test_help_begins_with_its_subject():
    texts = dict(helps(typer.main.get_command(app)))
    fronted = {k: v for k, v in texts.items() if re.match(r'(What|Who|Whose|Whether|That|Of|Kept|Also out) ', v)}
    assert len(texts) > 200 and not fronted
