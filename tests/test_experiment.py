"Faults and corner cases of mmpkd.experiment: a killed process, folders that hold something else, unusable data"
import json, os, re, shutil, signal, subprocess, sys, time, zipfile
from importlib.metadata import version
from pathlib import Path

import huggingface_hub.constants
import numpy as np, pandas as pd, pytest, torch
from conftest import DEMO_CALL, TINY, altered, times
from PIL import Image

import mmpkd
from mmpkd import experiment, results
from mmpkd.arms import Arm, arm_labels
from mmpkd.attention import AttentionMaps
from mmpkd.cohort import Cohort
from mmpkd.settings import OPEN, PAPER, Settings, default_arms, make_config, read_json
from mmpkd.experiment import SHORT, environment, jobs_for, make_soft_labels, one_thread, run_experiment, usable
from mmpkd.results import Experiment
from mmpkd.images import Pixels, cache_pixels
from mmpkd.convention import Convention
from mmpkd.phantoms.chest import METADATA
from mmpkd.report import teacher_note
from mmpkd.soft_labels import calibration, label_distance, soften, training_logits
from mmpkd.statistics import compare_arms
from mmpkd.student import Student, train_student
from mmpkd.teachers import TEACHERS, ForestTeacher, image_logits, load_teacher, macro_auroc


def tables(run): return run.per_seed().sort_values(['arm', 'seed'], ignore_index=True)

def equal(a, b): pd.testing.assert_frame_equal(a, b, check_exact=True)

def go_on(cohort, out, tiny, **kwargs):
    return run_experiment(cohort, out, make_config(**tiny), **dict(seeds=2, progress=False) | kwargs)

@pytest.fixture
def copy(tiny_run, tmp_path):
    "The finished run in another place, free to be changed"
    return Path(shutil.copytree(tiny_run.folder, tmp_path/'copy'))

@pytest.fixture
def study(phantom, tmp_path):
    "The phantom in another place, free to be changed"
    return altered(phantom, root=Path(shutil.copytree(phantom.root, tmp_path/'study')))


# Interruptions

def start(out):
    code = 'from mmpkd.cli import main; main()'
    env = os.environ | dict(PYTHONPATH=str(Path(mmpkd.__file__).parents[1]))
    return subprocess.Popen([sys.executable, '-c', code, *DEMO_CALL, '--out', str(out)], env=env,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

def test_a_killed_process_is_continued_as_if_nothing_had_happened(demo, tmp_path):
    whole, out = Experiment(demo[0]/'run'), tmp_path/'demo'
    first, process = out/'run/units/baseline/seed-0', start(out)
    try:
        while not first.is_dir() and process.poll() is None: time.sleep(.02)
        assert process.poll() is None, process.communicate()[0]
        time.sleep(.5*json.loads((first/'unit.json').read_text())['seconds'])   # into the training of the next
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    finished = [p.parent for p in out.glob('run/units/*/seed-?/unit.json')]
    assert 1 <= len(finished) < 4, 'killed too late'
    with pytest.raises(FileNotFoundError, match='no finished run'): Experiment(out/'run')
    before = {p: times(p) for p in finished}
    again = start(out)
    said, _ = again.communicate()
    assert again.returncode == 0, said
    assert {p: times(p) for p in finished} == before
    equal(Experiment(out/'run').per_seed(), whole.per_seed())
    equal(Experiment(out/'run').scores(), whole.scores())
    equal(Experiment(out/'run').trivial(), whole.trivial())

def test_what_a_killed_unit_left_is_thrown_away(copy, phantom, tiny, tiny_run):
    unit = copy/'units/baseline/seed-1'
    part = unit.rename(unit.with_name('seed-1.part'))
    (part/'scores.parquet').write_bytes(b'half of it')
    (part/'unit.json').unlink()
    run = go_on(phantom, copy, tiny)
    assert not part.exists()
    there = tiny_run.run_folder('baseline', 1)
    assert sorted(p.name for p in unit.iterdir()) == sorted(p.name for p in there.iterdir())
    equal(tables(run), tables(tiny_run))

@pytest.mark.parametrize('gone', [
    'experiment.json', 'trivial.parquet', 'teachers/seed-1/teacher.json',
    'teachers/seed-0/soft_labels/out-of-fold.parquet', 'labels.parquet', 'environment.json', 'pixels'])
def test_any_part_is_made_again(copy, phantom, tiny, tiny_run, gone):
    before = times(copy/'units')
    shutil.rmtree(copy/gone) if (copy/gone).is_dir() else (copy/gone).unlink()
    run = go_on(phantom, copy, tiny)
    assert (copy/gone).exists() and times(copy/'units') == before
    equal(tables(run), tables(tiny_run))
    equal(run.trivial(), tiny_run.trivial())
    soft = 'teachers/seed-0/soft_labels/out-of-fold.parquet'
    equal(pd.read_parquet(copy/soft), pd.read_parquet(tiny_run.folder/soft))


# More of the same

def test_seeds_can_be_added(copy, phantom, tiny, tiny_run):
    before = times(copy/'units')
    run = go_on(phantom, copy, tiny, seeds=3)
    after = times(copy/'units')
    assert {k: after[k] for k in before} == before and len(after) == len(before)*3//2
    equal(run.per_seed().query('seed < 2').reset_index(drop=True), tiny_run.per_seed())
    assert run.run_folder('baseline', 2).is_dir() and len(run.per_seed()) == 6

def test_arms_can_be_added(copy, phantom, tiny, tiny_run):
    before = times(copy/'units')
    run = go_on(phantom, copy, tiny, arms=('baseline', 'in-sample', 'out-of-fold'))
    after = times(copy/'units')
    assert {k: after[k] for k in before} == before and run.arms == ['baseline', 'in-sample', 'out-of-fold']
    equal(tables(run).query("arm != 'in-sample'").reset_index(drop=True), tables(tiny_run))

def test_fewer_can_be_looked_at(copy, phantom, tiny, tiny_run):
    before = times(copy/'units')
    run = go_on(phantom, copy, tiny, seeds=1)
    assert times(copy/'units') == before and run.seeds == 1
    equal(run.per_seed(), tiny_run.per_seed().query('seed < 1').reset_index(drop=True))

def test_controls_can_be_added(copy, phantom, tiny, tiny_run):
    "To a finished run, without training its students again; the teacher's answers are kept for them"
    before, soft = times(copy/'units'), times(copy/'teachers/seed-0/soft_labels')
    run = go_on(phantom, copy, tiny, arms=('baseline', 'label-smoothing', 'self-distillation', 'out-of-fold'), seeds=1)
    after, soft_after = times(copy/'units'), times(copy/'teachers/seed-0/soft_labels')
    assert {k: after[k] for k in before} == before and {k: soft_after[k] for k in soft} == soft
    assert {k.split('/')[0] for k in set(after) - set(before)} == {'label-smoothing', 'self-distillation'}
    assert set(soft_after) - set(soft) == {'label-smoothing.parquet'}
    assert run.controls == ['label-smoothing', 'self-distillation']
    equal(tables(run).query("arm in ['baseline', 'out-of-fold']").reset_index(drop=True),
          tables(tiny_run).query('seed < 1').reset_index(drop=True))

def test_an_arm_named_twice_is_one_arm(copy, phantom, tiny):
    assert go_on(phantom, copy, tiny, arms=('baseline', 'out-of-fold', 'baseline')).arms == ['baseline', 'out-of-fold']

def weights(run, arm): return (run.run_folder(arm, 0)/'student.safetensors').read_bytes()

def test_several_at_a_time_are_the_same_to_the_bit(phantom, tiny, tmp_path, tiny_run):
    run = go_on(phantom, tmp_path/'run', tiny, n_jobs=2, seeds=1)
    assert sorted(p.relative_to(run.folder).as_posix()
                  for p in run.folder.glob('units/*/*')) == ['units/baseline/seed-0', 'units/out-of-fold/seed-0']
    for arm in run.arms: assert weights(run, arm) == weights(tiny_run, arm)
    equal(tables(run), tables(tiny_run).query('seed == 0').reset_index(drop=True))

def test_the_threads_of_the_caller_do_not_matter(phantom, tiny, tmp_path, tiny_run):
    "With more of them sums would be added in another order; they are given back"
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        run = go_on(phantom, tmp_path/'run', tiny, n_jobs=1, seeds=1)
        assert torch.get_num_threads() == 3
    finally: torch.set_num_threads(before)
    for arm in run.arms: assert weights(run, arm) == weights(tiny_run, arm)
    with pytest.raises(KeyError), one_thread(): raise KeyError
    assert torch.get_num_threads() == before

@pytest.mark.parametrize('n_jobs,units,passes,device,expected', [
    ('auto', 10, SHORT, 'cpu', 4), ('auto', 10, SHORT - 1, 'cpu', 1), ('auto', 3, 10**9, 'cpu', 3),
    ('auto', 0, 10**9, 'cpu', 1), ('auto', 10, 10**9, 'cuda', 1), (1, 10, 10**9, 'cpu', 1), (7, 2, 0, 'cpu', 7),
    (2, 10, 10**9, 'cuda', 2)])
def test_how_many_at_a_time(n_jobs, units, passes, device, expected):
    assert jobs_for(n_jobs, units, passes, 4, device) == expected

@pytest.mark.parametrize('several', [False, True])
def test_it_is_said_how_far_it_is(monkeypatch, capsys, several):
    "One after another, or in parallel: a line for each, in words that are no markup"
    def parallel(n, **kwargs): return lambda work: (f(*args, **kw) for f, args, kw in work)
    monkeypatch.setattr(experiment, 'Parallel', parallel)
    todo = [(Arm.read(arm), 0, None) for arm in ('self-distillation', 'baseline', 'out-of-fold lam=0.3')]
    experiment._work(todo, 3, lambda *args, **how: None, 1, 2 if several else 1, True)
    lines = capsys.readouterr().out.splitlines()
    said = [line.partition(', seed')[0] for line in lines]
    assert said == ['Baseline', 'MMPKD (out-of-fold), λ = 0.3', 'Control: self-distillation']
    assert '3 of 3' in lines[-1]


# Refusals, each before anything was trained

@pytest.mark.parametrize('bad', [
    dict(lam=-.1), dict(lam=1.5), dict(lam=np.nan), dict(lam='much'), dict(T=0.), dict(T=-1.), dict(T=np.nan),
    dict(T=np.inf), dict(lr=np.inf), dict(size=0), dict(epochs=1.5), dict(bs=0), dict(lr=0.), dict(precision='fp8'),
    dict(augment='mixup'), dict(teacher='oracle'), dict(controls_from='shuffled'), dict(convention=dict(tau=2.)),
    dict(convention=dict(layer=.5)), dict(convention=dict(method='saliency')), dict(convention=dict(rules='max')),
    dict(teacher_args='bert'), dict(epoch=3)], ids=str)
def test_settings_that_make_no_sense(bad):
    name = next(iter(bad.get('convention', bad)))
    with pytest.raises(ValueError, match=rf'\b{name}\b'): make_config(**bad)

def test_the_preset_of_the_paper_fills_in_what_is_not_named():
    paper = make_config(teacher='forest', preset='paper')
    assert paper['controls_from'] == 'in-sample'
    assert default_arms(paper) == ('baseline', 'in-sample')
    assert (paper['arch'], paper['weights']) == (PAPER['arch'][0], 'imagenet')
    named = make_config(teacher='forest', preset='paper', controls_from='out-of-fold')
    assert named['controls_from'] == make_config()['controls_from'] == 'out-of-fold'
    assert default_arms(make_config()) == ('baseline', 'out-of-fold') and PAPER['seeds'][0] == 5
    named = {*PAPER, *OPEN} - {'arms', 'seeds'}
    assert named <= set(paper) and not set(PAPER) & set(OPEN)
    plain = make_config(teacher='forest')
    # the rest is the paper's already, or open
    assert {k for k in paper if paper[k] != plain[k]} == {'preset', 'controls_from'}

def test_a_run_of_the_preset_is_in_sample(phantom, tiny, tmp_path):
    run = run_experiment(phantom, tmp_path/'run', make_config(**tiny | dict(teacher='forest', preset='paper')),
                         seeds=1, progress=False)
    assert run.arms == ['baseline', 'in-sample']
    assert (run.folder/'teachers/seed-0/soft_labels/in-sample.parquet').is_file()

def test_a_choice_that_cannot_be_taken(tiny, tmp_path):
    with pytest.raises(FileNotFoundError,
                       match='none in mmpkd-grid-busbra: `mmpkd grid busbra --out mmpkd-grid-busbra`'):
        make_config(**tiny, lam='valid', data=dict(source='busbra'))
    with pytest.raises(FileNotFoundError, match=f'none in {tmp_path}'): make_config(**tiny, lam='valid', grid=tmp_path)
    with pytest.raises(ValueError, match='leave T out'): make_config(**tiny, lam='valid', T='valid', grid=tmp_path)
    with pytest.raises(ValueError, match="grid goes with lam='valid'"): make_config(**tiny, grid=tmp_path)
    (tmp_path/'choice.json').write_text('[')
    with pytest.raises(ValueError, match='choice.json is damaged'): make_config(**tiny, lam='valid', grid=tmp_path)

def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.pth.*'imagenet', 'none' or"):
        make_config(weights=str(tmp_path/'nothing.pth'))

@pytest.mark.parametrize('kwargs,message', [
    (dict(arms=('baseline', 'out-of-hand')), "no arm 'out-of-hand'; the arms are baseline, in-sample"),
    (dict(arms=('in-sample', 'out-of-fold')), "'baseline' and at least one other, not in-sample, out-of-fold"),
    (dict(arms=('baseline',)), 'at least one other'),
    (dict(arms=()), 'at least one other'),
    (dict(arms=('baseline', 'out-of-bag')), "'bow' has no out-of-bag predictions; take 'out-of-fold'"),
    (dict(arms=('baseline', 'shuffled'), config=dict(controls_from='out-of-bag')),
     "'bow' has no out-of-bag predictions"),
    (dict(arms=('baseline', 'out-of-fold lam=2')), 'lam must be in .* not 2'),
    (dict(arms=('baseline', 'out-of-fold lam=much')),
     "lam must be a number, not 'much', in the arm 'out-of-fold lam=much'"),
    (dict(arms=('baseline', 'out-of-fold lam=valid')), "lam must be a number, not 'valid'"),
    (dict(arms=('baseline', 'in-sample T=0')), "T must be above 0, not 0, in the arm 'in-sample T=0'"),
    (dict(arms=('baseline', 'in-sample T=nan')), 'T must be above 0'),
    (dict(arms=('baseline', 'out-of-fold share=0')), 'share must be above 0'),
    (dict(arms=('baseline', 'in-sample share=0.5')), "share goes with 'out-of-fold'"),
    (dict(arms=('baseline', 'baseline lam=0.3')), "cannot change 'lam'"),
    (dict(arms=('baseline', 'from baseline')), "'from baseline' needs `start`"),
    (dict(config=dict(convention=dict(heads=7))), 'heads'),
    (dict(seeds=0), 'seeds .*above 0, not 0'),
    (dict(n_jobs=0), 'n_jobs'), (dict(n_jobs=1.5), 'n_jobs'),
    (dict(n_jobs='all'), "n_jobs must be a whole number above 0, not 'all'"),
    (dict(config=dict(teacher='none')), "nothing is privileged: .* for the arm 'out-of-fold'"),
    (dict(config=dict(convention=dict(layer=2))), 'layer'),
    (dict(config=dict(size=100)), 'size|100'),
    (dict(config=dict(arch='vit_tinny')), "no model 'vit_tinny'"),
    (dict(config=dict(teacher='forest'), tabular=()), 'ForestTeacher reads tabular columns'),
    (dict(text=None), 'BagOfWordsTeacher reads text columns')], ids=lambda v: str(v) if isinstance(v, dict) else '')
def test_arguments_that_make_no_sense(phantom, tiny, tmp_path, kwargs, message):
    names = {k: kwargs.pop(k) for k in ('text', 'tabular') if k in kwargs}
    with pytest.raises(ValueError, match=message):
        go_on(altered(phantom, **names), tmp_path/'run', tiny | kwargs.pop('config', {}), **kwargs)
    assert not (tmp_path/'run').exists()

def no_regions(study):
    return altered(study, rois=study.rois[study.rois.image_id.isin(study.split('train').items.image_id)])

def no_test_split(study):
    return altered(study, study.items[study.items.split != 'test'],
                   study.rois[~study.rois.image_id.isin(study.split('test').items.image_id)])

def test_a_threshold_can_be_tuned_only_where_there_are_regions(study, tiny, tmp_path):
    bad = altered(study, rois=study.rois[~study.rois.image_id.isin(study.split('valid').items.image_id)])
    with pytest.raises(ValueError, match="the rule 'tuned' needs regions of interest in the validation split"):
        go_on(bad, tmp_path/'run', tiny | dict(convention=dict(rule='tuned')))
    assert not (tmp_path/'run').exists()

def missing_image(study): (study.root/study.items.image[3]).unlink(); return study

def unreadable_image(study): (study.root/study.items.image[3]).write_bytes(b'not an image'); return study

def cut_image(study):
    path = study.root/study.items.image[3]
    path.write_bytes(path.read_bytes()[:2000])
    return study

def other_mask(study): Image.new('L', (7, 9), 255).save(study.root/study.rois['mask'][0]); return study

def empty_mask(study):
    path = study.root/study.split('test').rois['mask'].iloc[0]
    Image.new('L', Image.open(path).size).save(path)
    return study

def unreadable_mask(study): (study.root/study.rois['mask'][0]).write_bytes(b'not an image'); return study

def box_outside(study):
    return altered(study, rois=study.rois.assign(x1=study.rois.x1.where(study.rois.index > 0, 1000.)))

def one_label(study): return altered(study, study.items.assign(**{study.labels[1]: 0}))

FAULTS = {
    no_regions: 'no region in test .*No test image has a region of interest.*--ignore-audit',
    no_test_split: "'test' has no images", missing_image: r'1 of \d+ files are missing',
    unreadable_image: 'cannot be read', cut_image: 'cannot be read',
    other_mask: '1 of .* masks do not fit their image:\n.*7 x 9 pixels',
    empty_mask: 'mask of image .* cannot be used: empty', unreadable_mask: 'masks do not fit their image',
    box_outside: 'leaves the image', one_label: 'only the value 0'}

@pytest.mark.parametrize('fault,message', FAULTS.items(), ids=lambda v: getattr(v, '__name__', ''))
def test_data_that_cannot_be_worked_with(study, tiny, tmp_path, fault, message):
    bad = fault(study)
    with pytest.raises((ValueError, FileNotFoundError), match=message): go_on(bad, tmp_path/'run', tiny)
    assert not (tmp_path/'run/units').exists() and not (tmp_path/'run/teacher').exists()

@pytest.mark.parametrize('fault', [unreadable_image, cut_image])
def test_an_unreadable_image_is_named_and_can_be_mended(study, phantom, tiny, tmp_path, fault):
    bad = fault(study)
    with pytest.raises(ValueError,
                       match=f'1 of 60 images cannot be read .*--skip-unreadable.*\n{study.items.image_id[3]}: '):
        go_on(bad, tmp_path/'run', tiny)
    shutil.copy2(phantom.root/study.items.image[3], study.root/study.items.image[3])
    assert go_on(study, tmp_path/'run', tiny, seeds=1).seeds == 1

def test_one_may_follow_the_advice(phantom, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path/'hub'))
    with pytest.raises(ConnectionError, match='--weights none'):
        go_on(phantom, tmp_path/'run', tiny | dict(weights='imagenet', arch_kwargs={}))
    assert not (tmp_path/'run/units').exists()
    go_on(phantom, tmp_path/'run', tiny, seeds=1)                           # in the same folder


# Folders that hold something else

@pytest.mark.parametrize('change', [
    dict(lam=.4), dict(T=2.), dict(lr=2e-3), dict(bs=8), dict(augment='none'), dict(controls_from='in-sample'),
    dict(convention=dict(layer=0)), dict(convention=dict(tau=.7)), dict(teacher='forest')], ids=str)
def test_other_settings_are_refused(copy, phantom, tiny, change):
    name, before = next(iter(change)), times(copy)
    with pytest.raises(ValueError, match=f'other settings: {name} is .* there and .* here'):
        go_on(phantom, copy, tiny | change)
    assert times(copy) == before

def test_another_checkpoint_of_the_same_name_is_refused(phantom, tiny, tmp_path):
    (tmp_path/'w.pth').write_bytes(b'one')
    (tmp_path/'run').mkdir()
    (tmp_path/'run/config.json').write_text(json.dumps(make_config(**tiny | dict(weights=str(tmp_path/'w.pth')))))
    (tmp_path/'w.pth').write_bytes(b'other')
    with pytest.raises(ValueError, match='weights_sha256 is'):
        go_on(phantom, tmp_path/'run', tiny | dict(weights=str(tmp_path/'w.pth')))

def other_label(study):
    turned = study.items.Consolidation != (study.items.index == 0)
    return altered(study, study.items.assign(Consolidation=turned.astype(int)))

def other_report(study):
    return altered(study, study.items.assign(report=study.items.report.where(study.items.index > 0, 'clear')))

def other_box(study): return altered(study, rois=study.rois.assign(x0=study.rois.x0 + (study.rois.index == 0)))

def other_pixels(study): shutil.copy(study.root/study.items.image[1], study.root/study.items.image[0]); return study

def fewer_images(study):
    return study.take(study.items.image_id[study.items.image_id != study.split('train').items.image_id[0]])

@pytest.mark.parametrize('change', [other_label, other_report, other_box, other_pixels, fewer_images],
                         ids=lambda f: f.__name__)
def test_other_data_are_refused(copy, study, tiny, change, tiny_run):
    before, other = times(copy/'units'), change(study)
    with pytest.raises(ValueError, match='run on other data: .* there, .* here'): go_on(other, copy, tiny, seeds=3)
    assert times(copy/'units') == before
    assert (copy/'labels.parquet').read_bytes() == (tiny_run.folder/'labels.parquet').read_bytes()
    assert len(json.loads((copy/'environment.json').read_text())) == 1

def test_the_same_data_in_another_place_are_the_same(copy, study, tiny, tiny_run):
    before = times(copy/'units')
    equal(go_on(study, copy, tiny).per_seed(), tiny_run.per_seed())
    assert times(copy/'units') == before

def test_the_same_checkpoint_in_another_place_is_the_same(phantom, tiny, tmp_path):
    (tmp_path/'run').mkdir()
    torch.save(dict(alien=torch.zeros(1)), tmp_path/'a.pth')
    shutil.copy(tmp_path/'a.pth', tmp_path/'b.pth')
    (tmp_path/'run/config.json').write_text(json.dumps(make_config(**tiny | dict(weights=str(tmp_path/'a.pth')))))
    with pytest.raises(ValueError, match='b.pth does not fit'):
        go_on(phantom, tmp_path/'run', tiny | dict(weights=str(tmp_path/'b.pth')))

def test_other_peoples_folders_are_safe(phantom, tiny, tmp_path):
    (tmp_path/'mine.txt').write_text('mine')
    with pytest.raises(ValueError, match='not empty and holds no run of mmpkd'): go_on(phantom, tmp_path, tiny)
    assert [p.name for p in tmp_path.iterdir()] == ['mine.txt'] and (tmp_path/'mine.txt').read_text() == 'mine'
    with pytest.raises(FileNotFoundError, match='no finished run'): Experiment(tmp_path)


# What the folder says

def test_the_folder_is_enough_to_do_it_again(tiny_run, phantom, tiny):
    assert json.loads((tiny_run.folder/'config.json').read_text()) == make_config(**tiny) == tiny_run.config
    assert Settings.from_dict(tiny_run.config).to_dict() == tiny_run.config
    assert tiny_run.config['convention'] == Convention().to_dict()
    known = {k: v for k, v in tiny_run.config.items() if k not in ('weights_sha256', 'start_sha256')}
    assert make_config(**known) == tiny_run.config
    [env] = tiny_run.environments
    assert env['mmpkd'] == mmpkd.__version__
    assert env['python'] == '.'.join(map(str, sys.version_info[:3]))
    assert env['device']
    assert all(version(p) == v for p, v in env['packages'].items())
    assert {'torch', 'timm', 'fastai', 'scikit-learn'} <= set(env['packages'])
    [cache] = [p for p in (tiny_run.folder/'pixels').iterdir() if p.is_dir()]
    assert env['data'] == dict(cohort='phantom', images=60, tables=phantom.fingerprint(), pixels=Pixels(cache).digest())
    asked = [tiny_run.about[k] for k in ('arms', 'seeds', 'labels')]
    assert asked == [['baseline', 'out-of-fold'], 2, phantom.labels]

def test_another_version_is_noted_once(copy, phantom, tiny, monkeypatch):
    monkeypatch.setattr(mmpkd, '__version__', '9.9')
    for _ in range(2): run = go_on(phantom, copy, tiny)
    assert [e['mmpkd'] for e in run.environments][1:] == ['9.9']

def test_a_machine_without_git(phantom, tmp_path, monkeypatch):
    pixels = cache_pixels(phantom, 8, tmp_path/'pixels')
    monkeypatch.setenv('PATH', str(tmp_path))
    assert environment(phantom, pixels)['commit'] is None

def test_units_hold_what_they_say(tiny_run, phantom):
    valid, test = (phantom.split(s).items.image_id.tolist() for s in ('valid', 'test'))
    pixels = Pixels(next((tiny_run.folder/'pixels').glob('pixels-*')))
    for arm in tiny_run.arms:
        unit = tiny_run.run_folder(arm, 1)
        p, scores = pd.read_parquet(unit/'predictions.parquet'), pd.read_parquet(unit/'scores.parquet')
        maps = AttentionMaps.load(unit/'attention.npz')
        # nothing of the training images
        assert p.index.tolist() == [k for k in phantom.items.image_id if k in {*valid, *test}]
        assert maps.image_ids == test
        assert scores.image_id.tolist() == [k for k in test if k in set(phantom.rois.image_id)]
        pd.testing.assert_frame_equal(Student.load(unit).predict(pixels, test), p.loc[test], atol=1e-6)
        about = json.loads((unit/'unit.json').read_text())
        assert [about[k] for k in ('arm', 'seed', 'convention')] == [arm, 1, Convention().to_dict()]
        assert scores.attrs['convention'] == Convention().to_dict() and 0 < scores.attrs['pooled_auroc'] < 1
        assert len(pd.read_csv(unit/'history.csv')) == TINY['epochs']

def test_the_teacher_is_kept(tiny_run, phantom):
    train, test = phantom.split('train'), phantom.split('test')
    mine = tiny_run.folder/'teachers/seed-0'
    s = pd.read_parquet(mine/'soft_labels/out-of-fold.parquet')
    assert s.index.tolist() == train.items.image_id.tolist()
    assert list(s) == phantom.labels
    assert s.to_numpy().min() > 0
    assert s.to_numpy().max() < 1
    assert load_teacher(mine/'teacher').logits(test).shape == (len(test), 4)
    assert list(tiny_run.teacher['auroc']) == ['in-sample', 'out-of-fold', 'valid', 'test']
    assert tiny_run.teacher['T_valid'] is None
    z = pd.read_parquet(mine/'soft_labels/logits_out-of-fold.parquet')
    equal(s, pd.DataFrame(soften(z, tiny_run.config['T']), z.index, z.columns))
    equal(s, tiny_run.soft_labels('out-of-fold'))

@pytest.fixture(scope='module')
def each(phantom, tiny, tmp_path_factory):
    "A teacher for each of two seeds; read only"
    config = make_config(**tiny, T='valid')
    return run_experiment(phantom, tmp_path_factory.mktemp('each')/'run', config,
                          ('baseline', 'in-sample', 'out-of-fold', 'shuffled'), seeds=2, progress=False)

def test_a_teacher_for_each_seed(each, phantom):
    "Its folds and its controls are drawn anew; the students of a seed learn from the labels of that seed"
    assert not (each.folder/'teacher').exists()
    assert each.teacher_seeds == [0, 1]
    assert each.arms_with_soft_labels == ['in-sample', 'out-of-fold', 'shuffled']
    for arm in ('out-of-fold', 'shuffled'): assert not each.soft_labels(arm, 0).equals(each.soft_labels(arm, 1))
    equal(each.soft_labels('in-sample', 0), each.soft_labels('in-sample', 1))  # where nothing is drawn, nothing differs
    for seed in range(2):
        z = training_logits(load_teacher(each.folder/f'teachers/seed-{seed}/teacher'), phantom.split('train'),
                            'out-of-fold', seed=seed)
        T = json.loads((each.folder/f'teachers/seed-{seed}/teacher.json').read_text())['T_valid']
        equal(each.soft_labels('out-of-fold', seed), arm_labels('out-of-fold', z, each.labels('train'), T))
        equal(each.soft_labels('shuffled', seed), arm_labels('shuffled', z, each.labels('train'), T, seed=seed))

def test_what_is_said_of_several_teachers_is_their_mean(each):
    y, paths = each.labels('train'), [each.folder/f'teachers/seed-{s}/teacher.json' for s in range(2)]
    files = [json.loads(path.read_text()) for path in paths]
    assert each.teacher['auroc']['test'] == np.mean([f['auroc']['test'] for f in files])
    assert each.teacher['T_valid'] == np.mean([f['T_valid'] for f in files])
    gaps = [label_distance(y, each.soft_labels('out-of-fold', s)) for s in range(2)]
    assert each.over_teachers('out-of-fold', label_distance) == np.mean(gaps) and gaps[0] != gaps[1]

def with_parts(cohort):
    "Each image with two parts, the second of which shows nothing and is described as such"
    noise = np.random.default_rng(0).integers(0, 3, len(cohort))
    t = cohort.items.assign(grade=cohort.items[cohort.labels].sum(axis=1) + noise, of=cohort.items.image_id)
    nothing = t.assign(**dict.fromkeys(cohort.labels, 0.), grade=-1.)
    parts = pd.concat([t.assign(image_id=t.image_id + '-a'), nothing.assign(image_id=t.image_id + '-b')])
    return Cohort(cohort.items, cohort.labels, cohort.rois, root=cohort.root, name='parts',
                  parts=Cohort(parts, cohort.labels, tabular=['grade']))

def test_the_teacher_is_measured_on_images_as_its_students_are(phantom, tiny, tmp_path):
    "And on parts under another name, from which it learns"
    c, config = with_parts(phantom), make_config(**tiny | dict(teacher='forest', teacher_args=dict(n_estimators=20)))
    make_soft_labels(c, ('baseline', 'out-of-fold'), config, tmp_path)
    told, teacher = json.loads((tmp_path/'teacher.json').read_text()), load_teacher(tmp_path/'teacher')
    for split in ('valid', 'test'):
        images = c.split(split)
        assert told['auroc'][split] == pytest.approx(macro_auroc(images.y(), image_logits(teacher, images)))
        of_parts = macro_auroc(images.parts.y(), teacher.logits(images.parts))
        assert told['auroc'][f'{split} (parts)'] == pytest.approx(of_parts)
        # that nothing is there is easily said of half of them
        assert told['auroc'][f'{split} (parts)'] > told['auroc'][split] + .01
    assert told['per'] == 'image' and list(told['auroc'])[:2] == ['in-sample', 'out-of-bag']

def test_a_folder_of_an_older_version_does_not_say_of_what_its_teacher_was_measured(copy, phantom, tiny):
    "It is read, and measured again when an arm is added"
    files = [copy/f'teachers/seed-{seed}/teacher.json' for seed in range(2)]
    now = [json.loads(f.read_text()) for f in files]
    for f, t in zip(files, now): f.write_text(json.dumps({k: v for k, v in t.items() if k != 'per'}))
    old = Experiment(copy)
    assert old.teacher['per'] is None
    assert 'older version' in teacher_note(old)
    assert old.teacher['auroc']['test'] == np.mean([t['auroc']['test'] for t in now])
    run = go_on(phantom, copy, tiny, arms=('baseline', 'out-of-fold', 'in-sample'), seeds=2)
    assert [json.loads(f.read_text()) for f in files] == now
    assert run.teacher['per'] == 'image'
    assert 'older' not in teacher_note(run)

def test_labels_taught_are_measured(each):
    "Per arm, mean over the teachers; the AUROC of each way of asking is that of its labels"
    t, y = each.soft_label_quality(), each.labels('train')
    assert t.index.tolist() == each.arms_with_soft_labels
    assert list(t) == ['AUROC', 'mean |s - y|', 'log loss', 'Brier', 'ECE']
    by_seed = [macro_auroc(y, each.soft_labels('out-of-fold', s)) for s in range(2)]
    assert t.AUROC['out-of-fold'] == each.teacher['auroc']['out-of-fold'] == np.mean(by_seed)
    errors = [calibration(y, each.soft_labels('shuffled', s))['log loss'].mean() for s in range(2)]
    assert t['log loss']['shuffled'] == pytest.approx(np.mean(errors))

def test_students_learn_from_the_teacher_of_their_seed(each, phantom):
    "A student trained by hand on the soft labels of its seed has the same weights, on those of another seed it has not"
    pixels, how = Pixels(next((each.folder/'pixels').glob('pixels-*'))), Settings.from_dict(each.config).training
    kept = Student.load(each.run_folder('shuffled', 1)).model.state_dict()
    for seed in range(2):
        soft = each.soft_labels('shuffled', seed)
        by_hand = train_student(phantom, pixels, soft, .5, how, seed=1).model.state_dict()
        assert all(torch.equal(kept[k], by_hand[k]) for k in kept) == (seed == 1)

def test_a_seed_added_later_has_a_teacher_of_its_own(each, phantom, tiny, tmp_path):
    out = shutil.copytree(each.folder, tmp_path/'run')
    before = times(out/'teachers')
    more = run_experiment(phantom, out, each.config, ('baseline', 'out-of-fold'), seeds=3, progress=False)
    after = times(out/'teachers')
    assert {k: after[k] for k in before} == before
    assert (out/'teachers/seed-2/teacher.json').is_file()
    assert more.teacher_seeds == [0, 1, 2]
    equal(more.per_seed().query('seed < 2').reset_index(drop=True),
          each.per_seed().query("arm in ['baseline', 'out-of-fold']").reset_index(drop=True))
    with pytest.raises(ValueError, match='teacher_per_seed is True there and False here'):
        go_on(phantom, out, tiny | dict(T='valid', teacher_per_seed=False))
    # as if written before there was such a setting
    old = {k: v for k, v in each.config.items() if k != 'teacher_per_seed'}
    assert Settings.from_dict(old).teacher_per_seed is False
    with pytest.raises(ValueError, match='teacher_per_seed is True there and False here'):
        run_experiment(phantom, out, old, seeds=2, progress=False)

# One teacher, or one for each seed

@pytest.mark.parametrize('teacher,args,quick', [
    ('forest', {}, True), ('boosting', {}, True), ('bow', {}, True), ('stacked', {}, True), ('bert', {}, False),
    ('stacked', dict(teachers=['forest', 'bert']), False), ('none', {}, False)])
def test_teachers_that_take_seconds_are_one_for_each_seed(teacher, args, quick):
    assert make_config(teacher=teacher, teacher_args=args)['teacher_per_seed'] is quick
    if teacher == 'none': return
    for asked in (True, False):
        assert make_config(teacher=teacher, teacher_args=args, teacher_per_seed=asked)['teacher_per_seed'] is asked

@pytest.fixture(scope='module')
def one(phantom, tiny, tmp_path_factory):
    "One teacher for two seeds of a few arms; read only"
    config = make_config(**tiny, teacher_per_seed=False)
    arms = ('baseline', 'out-of-fold', 'label-smoothing', 'shuffled', 'self-distillation')
    return run_experiment(phantom, tmp_path_factory.mktemp('one')/'run', config, arms, seeds=2, progress=False)

def test_a_folder_with_one_teacher_says_how_to_go_on(one, phantom, tiny, tmp_path):
    with pytest.raises(ValueError,
                       match='teacher_per_seed is False there and True here.* to go on with it, --one-teacher'):
        go_on(phantom, one.folder, tiny)
    old = shutil.copytree(one.folder, tmp_path/'old')  # as if written before there was such a setting
    (old/'config.json').write_text(json.dumps({k: v for k, v in one.config.items() if k != 'teacher_per_seed'}))
    with pytest.raises(ValueError,
                       match='teacher_per_seed is None there and True here.* to go on with it, --one-teacher'):
        go_on(phantom, old, tiny)
    before = times(old/'units')
    go_on(phantom, old, tiny | dict(teacher_per_seed=False), arms=('baseline', 'out-of-fold'))
    assert times(old/'units') == before

def test_the_verdict_says_that_one_teacher_taught_all_seeds(one, tiny_run):
    "Of the arms that learned from it; label smoothing and self-distillation did not"
    assert one.one_teacher == ['out-of-fold', 'shuffled'] == one.comparison().one_teacher
    assert tiny_run.one_teacher == []
    assert {a for a, said in one.verdicts().items() if 'with this teacher' in said} == {'out-of-fold', 'shuffled'}
    assert not any('with this teacher' in said for said in tiny_run.verdicts().values())

def test_a_teacher_that_draws_nothing_is_one_teacher(each):
    "In-sample labels of a bag of words are the same in each seed; its folds and its shuffling are not"
    assert each.config['teacher_per_seed'] and each.one_teacher == ['in-sample']

def test_a_verdict_is_held_against_the_intervals_of_its_run(tiny_run, monkeypatch):
    "Whatever is claimed"
    means = {'baseline': .2, 'out-of-fold': .5}
    claims = pd.DataFrame([dict(arm=a, seed=s, iou=v + s/100) for a, v in means.items() for s in range(5)])
    monkeypatch.setattr(Experiment, 'comparison', lambda self: compare_arms(claims))
    for lo, hi, doubted in ((-.1, .7, True), (.1, .5, False)):
        interval = pd.DataFrame([dict(arm='out-of-fold', metric='iou', lo=lo, hi=hi)])
        monkeypatch.setattr(Experiment, 'intervals', lambda self, found=interval: found)
        [said] = tiny_run.verdicts().values()
        assert 'improves IoU' in said and ('but the interval over seeds and patients contains zero' in said) == doubted

def test_intervals_are_of_what_is_tested_and_computed_once(tiny_run, monkeypatch):
    run, asked, differences = Experiment(tiny_run.folder), [], results.differences
    monkeypatch.setattr(results, 'differences', lambda *args: asked.append(args) or differences(*args))
    t = run.intervals()
    assert t.metric.tolist() == ['pixel_auroc', 'iou', 'fpr', 'auroc'] and len(asked) == 2
    tested = run.comparison().set_index('metric').difference
    assert t.set_index('metric').difference.to_dict() == pytest.approx(tested.to_dict()) and t.p_sign_flip.notna().all()
    t['lo'] = 0.                                                             # what is handed out is a copy
    run.verdicts()
    assert len(asked) == 2 and (run.intervals().lo != 0).all()
    assert run.intervals(['iou']).metric.tolist() == ['iou'] and len(asked) == 3

LATER = ('in-sample', 'out-of-bag', 'out-of-fold share=0.5', 'shuffled', 'out-of-fold T=2')

def without_text(folder, *but):
    return {f: f.read_bytes() for f in sorted(folder.rglob('*')) if f.is_file() and f.name not in but}

@pytest.mark.parametrize('arm', LATER)
def test_a_new_arm_asks_the_teacher_that_taught_the_others(phantom, tiny, tmp_path, monkeypatch, arm):
    "It is not fitted again, even where a new fit would be another, and each file of the others stays the same"
    few = dict(teacher='forest', teacher_args=dict(n_estimators=20), controls_from='out-of-bag')
    config, arms = make_config(**tiny | few), ('baseline', 'in-sample T=3')
    make_soft_labels(phantom, arms, config, tmp_path/'taught')
    whole = make_soft_labels(phantom, (*arms, arm), config, tmp_path/'whole')
    before, teacher = without_text(tmp_path/'taught'), load_teacher(tmp_path/'taught'/'teacher')
    fits, fit = [], type(teacher).fit
    monkeypatch.setattr(type(teacher), 'fit', lambda self, cohort: fits.append(len(cohort)) or fit(self, cohort))
    soft = make_soft_labels(phantom, (*arms, arm), config, tmp_path/'taught')
    assert len(fits) == (5 if 'out-of-fold' in arm else 0)
    assert {f: f.read_bytes() for f in before} == before
    pd.testing.assert_frame_equal(soft[arm], whole[arm])                    # a forest adds up in any order

def test_an_arm_added_to_a_run_changes_no_file_of_the_others(copy, phantom, tiny, monkeypatch):
    "A fresh fit of the teacher would be another one here, as that of a BERT on another machine is"
    before = without_text(copy, 'experiment.json', 'environment.json', 'audit.json')
    broken = {f for f in before if 'pixels' in f.parts}
    monkeypatch.setattr(experiment, 'save_teacher', lambda *args: pytest.fail('the teacher was stored again'))
    z = image_logits(load_teacher(copy/'teachers/seed-0/teacher'), phantom.split('train'))
    go_on(phantom, copy, tiny, arms=('baseline', 'in-sample', 'out-of-fold'), seeds=1)
    assert all(f.read_bytes() == b for f, b in before.items() if f not in broken)
    equal(pd.read_parquet(copy/'teachers/seed-0/soft_labels/logits_in-sample.parquet'), z)

def test_a_damaged_teacher_is_named(copy, phantom, tiny):
    (copy/'teachers/seed-0/teacher/teacher.skops').write_bytes(b'garbage')
    with pytest.raises(ValueError, match='teacher is damaged'):
        go_on(phantom, copy, tiny, arms=('baseline', 'in-sample', 'out-of-fold'))

@pytest.mark.parametrize('step', ['save_teacher', 'write_text', 'write_table'])
def test_killed_while_an_arm_is_taught(copy, phantom, tiny, tmp_path, monkeypatch, step):
    "Wherever teaching stops, the next call makes what an undisturbed one makes"
    arms = ('baseline', 'out-of-fold', 'out-of-fold T=valid')
    copy = copy/'teachers/seed-0' if step != 'save_teacher' else tmp_path/'new'  # a kept teacher is not saved again
    make_soft_labels(phantom, arms, make_config(**tiny), tmp_path/'whole')
    class Killed(BaseException): pass
    def stop(*args): raise Killed
    with monkeypatch.context() as patch:
        patch.setattr(experiment, step, stop)
        with pytest.raises(Killed): make_soft_labels(phantom, arms, make_config(**tiny), copy)
    soft = make_soft_labels(phantom, arms, make_config(**tiny), copy)
    for arm, s in make_soft_labels(phantom, arms, make_config(**tiny), tmp_path/'whole').items(): equal(soft[arm], s)
    assert (copy/'teacher.json').read_text() == (tmp_path/'whole/teacher.json').read_text()
    assert json.loads((copy/'teacher.json').read_text())['T_valid'] > 0

def blobs(folder):
    "Everything in a folder as text, archives unpacked"
    for path in filter(Path.is_file, folder.rglob('*')):
        name = path.relative_to(folder).as_posix()
        if path.suffix == '.parquet': yield name, pd.read_parquet(path).reset_index().to_csv()
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as z:
                yield from ((f'{name}/{m}', z.read(m).decode('latin-1')) for m in z.namelist())
        else: yield name, path.read_bytes().decode('latin-1')

def leaks(folder, secrets):
    found = re.compile('|'.join(map(re.escape, secrets)), re.I)
    return [(name, m[0]) for name, text in blobs(folder) if (m := found.search(text))]

def test_no_report_is_in_the_folder(tiny_run, phantom, tmp_path):
    sentences = {s for r in phantom.items.report for s in re.split(r'[.:\n]+ *', r) if len(s.split()) > 3}
    assert len(sentences) > 30 and leaks(tiny_run.folder, sentences) == []
    phantom.items.iloc[:1].to_parquet(tmp_path/'careless.parquet')
    assert leaks(tmp_path, sentences)                                       # it would have been found

class FewTrees(ForestTeacher):
    def __init__(self, seed=0): super().__init__(20, seed=seed)

def test_a_forest_keeps_metadata_to_itself(phantom, tmp_path, monkeypatch):
    "One seed, out of bag; metadata may be in the teacher's own file only, as the categories it knows"
    monkeypatch.setitem(TEACHERS, 'forest', FewTrees)
    secret = phantom.items.assign(sex='Secret-' + phantom.items.sex.astype(str))
    run = run_experiment(altered(phantom, secret), tmp_path/'run', make_config(**TINY), ('baseline', 'out-of-bag'),
                         seeds=1, progress=False)
    assert 'out-of-bag' in run.teacher['auroc'] and len(run.per_seed()) == 2
    assert {name.partition('/')[0] for name, _ in leaks(run.folder, ['Secret-'])} == {'teachers'}
    columns = {c for p in run.folder.rglob('*.parquet') for c in pd.read_parquet(p).reset_index()}
    assert not columns & {'report', *METADATA} and columns >= {'image_id', 'split', *phantom.labels}


# Data without regions, and without anything privileged

def bare(phantom, **names): return altered(phantom, rois=phantom.rois[:0], **names)

@pytest.fixture(scope='module')
def blind(phantom, tiny, tmp_path_factory):
    "A run of two seeds on images of which no region is known; read only"
    return go_on(bare(phantom), tmp_path_factory.mktemp('blind')/'run', tiny)

def test_without_regions_students_are_the_same(blind, tiny_run):
    for arm in blind.arms: assert weights(blind, arm) == weights(tiny_run, arm)
    equal(blind.auroc('test'), tiny_run.auroc('test'))

def test_without_regions_only_prediction_is_measured(blind):
    assert not blind.localizes
    assert list(blind.per_seed()) == ['arm', 'seed', 'auroc']
    assert not len(blind.scores())
    assert not len(blind.trivial())
    t = blind.comparison()
    assert t.metric.tolist() == ['auroc'] and t.tests == 0 and blind.intervals().metric.tolist() == ['auroc']
    [said] = blind.verdicts().values()
    assert 'AUROC' in said and 'IoU' not in said and 'Holm' not in said
    assert not list(blind.folder.rglob('scores.parquet')) + list(blind.folder.glob('trivial.parquet'))
    assert blind.maps('baseline', 1).maps.shape[0] == len(blind.labels('test'))

@pytest.mark.parametrize('fields', [dict(rule='tuned'), dict(classes='each'), dict(artefacts='mask')], ids=str)
def test_without_regions_any_convention_will_do(phantom, tiny, tmp_path, fields):
    assert not go_on(bare(phantom), tmp_path/'run', tiny | dict(convention=fields), seeds=1).localizes

def test_regions_that_come_later_are_other_data(blind, phantom, tiny, tmp_path):
    copy = shutil.copytree(blind.folder, tmp_path/'copy')
    with pytest.raises(ValueError, match='other data'): go_on(phantom, copy, tiny)

def test_without_anything_privileged(phantom, tiny, tmp_path, blind):
    "Baseline, label smoothing and self-distillation; the baseline is that of any other run"
    nothing = bare(phantom, text=None, tabular=())
    run = go_on(nothing, tmp_path/'run', tiny | dict(teacher='none'),
                arms=('baseline', 'label-smoothing', 'label-smoothing eps=0.5', 'self-distillation'), seeds=1)
    y = run.labels('train')
    assert run.teacher == dict(auroc={}, per='image', T_valid=None) and not list(run.folder.rglob('teacher'))
    assert run.arms_with_soft_labels == ['label-smoothing', 'label-smoothing eps=0.5']
    for arm, eps in (('label-smoothing', .1), ('label-smoothing eps=0.5', .5)):
        equal(run.soft_labels(arm), (y*(1 - eps) + eps/2))
    assert weights(run, 'baseline') == weights(blind, 'baseline') and len({weights(run, a) for a in run.arms}) == 4
    before = times(run.folder/'units')
    go_on(nothing, run.folder, tiny | dict(teacher='none'), arms=('baseline', 'label-smoothing'), seeds=1)
    assert times(run.folder/'units') == before
    with pytest.raises(ValueError, match="nothing is privileged: .* for the arm 'shuffled'"):
        go_on(nothing, run.folder, tiny | dict(teacher='none'), arms=('baseline', 'shuffled'))

def test_settings_without_a_teacher():
    assert make_config(teacher='none')['teacher'] == 'none'
    for bad in (dict(T='valid'), dict(preset='paper'), dict(teacher_args=dict(seed=1))):
        with pytest.raises(ValueError, match='without a teacher'): make_config(teacher='none', **bad)

def test_smoothing_with_a_strength_needs_no_answers_of_the_teacher(phantom, tiny, tmp_path):
    soft = make_soft_labels(phantom, ('label-smoothing eps=0.2', 'label-smoothing'), make_config(**tiny), tmp_path)
    y = phantom.split('train').y()
    equal(soft['label-smoothing eps=0.2'], y*.8 + .1)
    # matched to a teacher that knows little
    assert label_distance(y, soft['label-smoothing']) > label_distance(y, soft['label-smoothing eps=0.2'])


# What the audit knows

class Started(BaseException): "Training would have begun"

@pytest.fixture
def untrained(monkeypatch):
    "Nothing is trained or taught: what gets that far stops there"
    def stop(*args, **kwargs): raise Started
    monkeypatch.setattr(experiment, 'make_soft_labels', stop)

def same_file(study): # one picture under two names of a path, in two splits
    items = study.items.copy()
    items.loc[items.split == 'test', 'image'] = items.image[items.split == 'train'].iloc[0]
    return altered(study, items, study.rois[~study.rois.image_id.isin(items.image_id[items.split == 'test'])])

def same_pixels(study): # two files with the same picture, in two splits
    train, test = (study.split(s).items.image.iloc[0] for s in ('train', 'test'))
    shutil.copy(study.root/train, study.root/test)
    return bare(study)

def one_value_in_test(study):
    items = study.items.copy()
    items.loc[items.split == 'test', study.labels[0]] = 0
    return bare(study, items=items)

def two_spellings(study): # of one patient, in two splits
    items = study.items.copy()
    who = {split: items.index[items.split == split][0] for split in ('train', 'test')}
    same = items.patient_id == items.patient_id[who['test']]
    items.loc[same, 'patient_id'] = items.patient_id[who['train']].lower() + ' '
    return bare(study, items=items)

WRONG = {same_file: 'same picture in two splits', same_pixels: 'same picture in two splits',
         one_value_in_test: 'one value in test', two_spellings: 'patient in two splits'}

@pytest.mark.parametrize('fault,name', WRONG.items(), ids=lambda v: getattr(v, '__name__', ''))
def test_errors_of_the_audit_stop_a_run(study, tiny, tmp_path, untrained, fault, name):
    "Before anything is taught or trained; whoever insists gets further"
    bad = fault(study)
    with pytest.raises(ValueError, match=rf'audit of .* found .*{name} \(\d+\): .*--ignore-audit'):
        go_on(bad, tmp_path/'run', tiny)
    with pytest.raises(Started): go_on(bad, tmp_path/'other', tiny, ignore_audit=True)
    assert name in {f['name'] for f in read_json(tmp_path/'other/audit.json')['findings']}

def test_tables_are_audited_before_a_picture_is_read(study, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, 'cache_pixels', lambda *args, **kwargs: pytest.fail('too late'))
    with pytest.raises(ValueError, match='one value in test'): go_on(one_value_in_test(study), tmp_path/'run', tiny)
    assert not (tmp_path/'run').exists()

def test_warnings_stop_nothing(study, tiny, tmp_path, untrained):
    "A column that repeats the label, and a flat picture: both are kept for the report"
    Image.fromarray(np.full((64, 64), 7, np.uint8)).save(study.root/'flat.png')
    first = study.items.image_id == study.split('train').items.image_id.iloc[0]
    items = study.items.assign(copy=study.items[study.labels[0]], image=study.items.image.mask(first, 'flat.png'))
    leaking = bare(study, items=items, tabular=['copy'])
    with pytest.raises(Started): go_on(leaking, tmp_path/'run', tiny)
    names = {f['name']: f['severity'] for f in read_json(tmp_path/'run/audit.json')['findings']}
    assert names['column repeats the label'] == names['image of one grey value'] == 'warning'

def test_the_audit_is_kept_and_shown_before_training(phantom, tiny, tmp_path, untrained):
    seen = []
    def note(cohort, pixels, found): seen.append((len(cohort), len(pixels), found))
    with pytest.raises(Started): go_on(phantom, tmp_path/'run', tiny, before=note)
    [(n, m, found)] = seen
    assert n == m == len(phantom)
    assert found.ok
    assert read_json(tmp_path/'run/audit.json') == json.loads(json.dumps(found.to_dict()))

def test_a_finished_run_is_shown_whatever_the_audit_says(copy, phantom, tiny, monkeypatch):
    monkeypatch.setattr(experiment, 'audit', lambda *args: pytest.fail('nothing is to be trained'))
    assert go_on(phantom, copy, tiny).seeds == 2

def test_an_image_left_out_is_no_error_of_the_audit(study, tiny, tmp_path, untrained):
    (study.root/study.items.image[3]).unlink()
    with pytest.raises(Started): go_on(study, tmp_path/'run', tiny, skip_unreadable=True)

def test_boxes_a_little_outside_are_cut(study, tiny, tmp_path):
    "Half a pixel, as rounding leaves it: the run and what works on it later see the same boxes"
    from mmpkd.studies import convention_scores
    pixels = cache_pixels(study, 32, tmp_path/'pixels')
    where = study.rois.index[study.rois.image_id.isin(study.split('test').items.image_id)][0]
    rois = study.rois.copy()
    rois.loc[where, 'x1'] = pixels.geometry(rois.image_id[where]).w + .5
    wide = altered(study, rois=rois.drop(columns='mask'))
    assert usable(wide, pixels).rois.x1[where] == rois.x1[where] - .5
    assert usable(study, pixels).fingerprint() == study.fingerprint()
    run = go_on(wide, tmp_path/'run', tiny, seeds=1)
    assert run.about['repairs'] == {'box clipped to its image': 1}
    assert len(convention_scores(run, wide, (Convention(tau=.7),)))


# Folders that were damaged, and names

@pytest.mark.parametrize('name', [
    'experiment.json', 'config.json', 'environment.json', 'labels.parquet', 'trivial.parquet', 'audit.json',
    'teachers/seed-1/teacher.json', 'teachers/seed-0/soft_labels/out-of-fold.parquet',
    'units/baseline/seed-0/scores.parquet', 'units/baseline/seed-0/predictions.parquet',
    'units/baseline/seed-0/unit.json', 'units/baseline/seed-0/attention.npz'])
@pytest.mark.parametrize('content', [b'', b'{"arms": ["base', bytes(range(256))*20], ids=['empty', 'cut', 'other'])
def test_a_damaged_file_is_named(copy, name, content):
    def read():
        run = Experiment(copy)
        tables = run.verdicts(), run.trivial(), run.soft_labels('out-of-fold'), run.peaks(), run.maps('baseline', 0)
        return tables, run.teacher, run.audit
    read()
    (copy/name).write_bytes(content)
    with pytest.raises(ValueError, match=f'{Path(name).name} is damaged'): read()

@pytest.mark.parametrize('content', ['[]', '{}', '3', '{"arms": []}'])
def test_json_of_something_else(copy, content):
    (copy/'experiment.json').write_text(content)
    with pytest.raises(ValueError, match='experiment.json is not what'): Experiment(copy)

@pytest.mark.parametrize('name', ['config.json', 'environment.json', 'teachers/seed-1/teacher.json', 'audit.json',
                                  'units/baseline/seed-0/unit.json'])
def test_json_of_something_else_anywhere(copy, name):
    (copy/name).write_text('{}' if name == 'environment.json' else '[]')
    def read():
        run = Experiment(copy)
        return run.teacher, run.audit, run.peaks()
    with pytest.raises(ValueError, match=f'{Path(name).name} is not what'): read()

def test_a_missing_file_of_a_unit_says_how_it_comes_back(copy):
    (copy/'units/baseline/seed-0/scores.parquet').unlink()
    with pytest.raises(FileNotFoundError, match='once .*baseline/seed-0 is removed'): Experiment(copy).scores()

def test_no_advice_to_unpickle(copy):
    (copy/'units/baseline/seed-0/attention.npz').write_bytes(b'abc')
    with pytest.raises(ValueError, match="attention.npz is damaged: it is no archive"):
        Experiment(copy).maps('baseline', 0)

def test_a_folder_of_an_older_version_is_read(copy):
    now = Experiment(copy)
    (copy/'experiment.json').rename(copy/'asked.json')
    old = {'matched' if k == 'controls_from' else k: v for k, v in now.config.items()}
    (copy/'config.json').write_text(json.dumps(old))
    assert (Experiment(copy).config, Experiment(copy).about) == (now.config, now.about)

def test_a_file_in_place_of_the_folder(phantom, tiny, tmp_path):
    (tmp_path/'run').write_text('mine')
    with pytest.raises(ValueError, match='run is a file'): go_on(phantom, tmp_path/'run', tiny)

def test_a_missing_unit_is_named(copy):
    shutil.rmtree(copy/'units/baseline/seed-1')
    with pytest.raises(FileNotFoundError, match='seed-1.*is missing'): Experiment(copy).verdicts()

def test_text_is_utf8_whatever_the_locale(copy, tmp_path):
    "Written and read by a process whose own encoding is ASCII"
    code = f"""from pathlib import Path; import locale
from mmpkd.experiment import write_text, read_json
assert locale.getpreferredencoding(False).lower() not in ('utf-8', 'utf8')
path = Path({str(tmp_path/'a.json')!r})
write_text(path, '{{"says": "b\\u00f6sartig \\u80bf \\u2264"}}')
print(ascii(read_json(path)['says']))"""
    env = os.environ | dict(LC_ALL='C', PYTHONCOERCECLOCALE='0', PYTHONUTF8='0',
                            PYTHONPATH=str(Path(mmpkd.__file__).parents[1]))
    run = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], env=env, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.strip() == ascii('bösartig \u80bf \u2264'), run.stderr
