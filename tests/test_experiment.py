"Faults and corner cases of mmpkd.experiment: a killed process, folders that hold something else, data that cannot be worked with"
import json, os, re, shutil, signal, subprocess, sys, time, zipfile
from importlib.metadata import version
from pathlib import Path

import huggingface_hub.constants
import numpy as np, pandas as pd, pytest, torch
from conftest import DEMO_CALL, TINY, altered, times
from PIL import Image

import mmpkd
from mmpkd import experiment
from mmpkd.arms import arm_labels
from mmpkd.attention import AttentionMaps
from mmpkd.experiment import Run, environment, make_config, run_experiment, teach
from mmpkd.images import Pixels, cache_pixels
from mmpkd.localization import Convention
from mmpkd.phantom import METADATA
from mmpkd.soft_labels import gap, soften, training_logits
from mmpkd.student import Student, train_student
from mmpkd.teachers import TEACHERS, ForestTeacher, load_teacher


def tables(run): return run.per_seed().sort_values(['arm', 'seed'], ignore_index=True)

def equal(a, b): pd.testing.assert_frame_equal(a, b, check_exact=True)

def go_on(cohort, out, tiny, **kwargs): return run_experiment(cohort, out, make_config(**tiny), **dict(seeds=2, progress=False) | kwargs)

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
    return subprocess.Popen([sys.executable, '-c', code, *DEMO_CALL, '--out', str(out)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

def test_a_killed_process_is_continued_as_if_nothing_had_happened(demo, tmp_path):
    whole, out = Run(demo[0]/'run'), tmp_path/'demo'
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
    with pytest.raises(FileNotFoundError, match='no finished run'): Run(out/'run')
    before = {p: times(p) for p in finished}
    again = start(out)
    said, _ = again.communicate()
    assert again.returncode == 0, said
    assert {p: times(p) for p in finished} == before
    equal(Run(out/'run').per_seed(), whole.per_seed())
    equal(Run(out/'run').scores(), whole.scores())
    equal(Run(out/'run').trivial(), whole.trivial())

def test_what_a_killed_unit_left_is_thrown_away(copy, phantom, tiny, tiny_run):
    unit = copy/'units/baseline/seed-1'
    part = unit.rename(unit.with_name('seed-1.part'))
    (part/'scores.parquet').write_bytes(b'half of it')
    (part/'unit.json').unlink()
    run = go_on(phantom, copy, tiny)
    assert not part.exists() and sorted(p.name for p in unit.iterdir()) == sorted(p.name for p in tiny_run.unit('baseline', 1).iterdir())
    equal(tables(run), tables(tiny_run))

@pytest.mark.parametrize('gone', ['asked.json', 'trivial.parquet', 'teacher.json', 'soft_labels/out-of-fold.parquet', 'labels.parquet', 'environment.json', 'pixels'])
def test_any_part_is_made_again(copy, phantom, tiny, tiny_run, gone):
    before = times(copy/'units')
    shutil.rmtree(copy/gone) if (copy/gone).is_dir() else (copy/gone).unlink()
    run = go_on(phantom, copy, tiny)
    assert (copy/gone).exists() and times(copy/'units') == before
    equal(tables(run), tables(tiny_run))
    equal(run.trivial(), tiny_run.trivial())
    soft = 'soft_labels/out-of-fold.parquet'
    equal(pd.read_parquet(copy/soft), pd.read_parquet(tiny_run.folder/soft))


# More of the same

def test_seeds_can_be_added(copy, phantom, tiny, tiny_run):
    before = times(copy/'units')
    run = go_on(phantom, copy, tiny, seeds=3)
    after = times(copy/'units')
    assert {k: after[k] for k in before} == before and len(after) == len(before)*3//2
    equal(run.per_seed().query('seed < 2').reset_index(drop=True), tiny_run.per_seed())
    assert run.unit('baseline', 2).is_dir() and len(run.per_seed()) == 6

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
    before, soft = times(copy/'units'), times(copy/'soft_labels')
    run = go_on(phantom, copy, tiny, arms=('baseline', 'label-smoothing', 'self-distillation', 'out-of-fold'), seeds=1)
    after, soft_after = times(copy/'units'), times(copy/'soft_labels')
    assert {k: after[k] for k in before} == before and {k: soft_after[k] for k in soft} == soft
    assert {k.split('/')[0] for k in set(after) - set(before)} == {'label-smoothing', 'self-distillation'} and set(soft_after) - set(soft) == {'label-smoothing.parquet'}
    assert run.controls == ['label-smoothing', 'self-distillation']
    equal(tables(run).query("arm in ['baseline', 'out-of-fold']").reset_index(drop=True), tables(tiny_run).query('seed < 1').reset_index(drop=True))

def test_an_arm_named_twice_is_one_arm(copy, phantom, tiny):
    assert go_on(phantom, copy, tiny, arms=('baseline', 'out-of-fold', 'baseline')).arms == ['baseline', 'out-of-fold']

def test_several_at_a_time(phantom, tiny, tmp_path, tiny_run):
    run = go_on(phantom, tmp_path/'run', tiny, n_jobs=2, seeds=1)
    assert sorted(p.relative_to(run.folder).as_posix() for p in run.folder.glob('units/*/*')) == ['units/baseline/seed-0', 'units/out-of-fold/seed-0']
    for arm in run.arms:
        a, b = (pd.read_parquet(r.unit(arm, 0)/'predictions.parquet') for r in (run, tiny_run))
        pd.testing.assert_frame_equal(a, b, atol=1e-3, rtol=0)              # another number of threads may round otherwise


# Refusals, each before anything was trained

@pytest.mark.parametrize('bad', [dict(lam=-.1), dict(lam=1.5), dict(lam=np.nan), dict(T=0.), dict(T=-1.), dict(T=np.nan), dict(size=0), dict(epochs=1.5),
                                 dict(bs=0), dict(lr=0.), dict(precision='fp8'), dict(augment='mixup'), dict(teacher='oracle'), dict(matched='shuffled'),
                                 dict(convention=dict(tau=2.)), dict(convention=dict(layer=.5)), dict(convention=dict(method='saliency'))], ids=str)
def test_settings_that_make_no_sense(bad):
    name = next(iter(bad.get('convention', bad)))
    with pytest.raises(ValueError, match=rf'\b{name}\b'): make_config(**bad)

def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.pth.*'imagenet', 'none' or"): make_config(weights=str(tmp_path/'nothing.pth'))

@pytest.mark.parametrize('kwargs,message', [
    (dict(arms=('baseline', 'out-of-hand')), "no arm 'out-of-hand'; the arms are baseline, in-sample"),
    (dict(arms=('in-sample', 'out-of-fold')), "'baseline' and at least one other, not in-sample, out-of-fold"),
    (dict(arms=('baseline',)), 'at least one other'),
    (dict(arms=()), 'at least one other'),
    (dict(arms=('baseline', 'out-of-bag')), "'bow' has no out-of-bag predictions; take 'out-of-fold'"),
    (dict(arms=('baseline', 'shuffled'), config=dict(matched='out-of-bag')), "'bow' has no out-of-bag predictions"),
    (dict(arms=('baseline', 'out-of-fold lam=2')), 'lam must be in .* not 2'),
    (dict(arms=('baseline', 'out-of-fold lam=much')), "lam must be a number, not 'much', in the arm 'out-of-fold lam=much'"),
    (dict(arms=('baseline', 'out-of-fold lam=valid')), "lam must be a number, not 'valid'"),
    (dict(arms=('baseline', 'in-sample T=0')), "T must be above 0, not 0, in the arm 'in-sample T=0'"),
    (dict(arms=('baseline', 'in-sample T=nan')), 'T must be above 0'),
    (dict(arms=('baseline', 'out-of-fold share=0')), 'share must be above 0'),
    (dict(arms=('baseline', 'in-sample share=0.5')), "share goes with 'out-of-fold'"),
    (dict(arms=('baseline', 'baseline lam=0.3')), "cannot change 'lam'"),
    (dict(arms=('baseline', 'from baseline')), "'from baseline' needs `start`"),
    (dict(config=dict(convention=dict(heads=7))), 'heads'),
    (dict(seeds=0), 'seeds .*above 0, not 0'),
    (dict(n_jobs=0), 'n_jobs'),
    (dict(config=dict(convention=dict(layer=2))), 'layer'),
    (dict(config=dict(size=100)), 'size|100'),
    (dict(config=dict(arch='vit_tinny')), "no model 'vit_tinny'"),
    (dict(config=dict(teacher='forest'), tabular=()), 'ForestTeacher reads tabular columns'),
    (dict(text=None), 'BagOfWordsTeacher reads text columns')], ids=lambda v: str(v) if isinstance(v, dict) else '')
def test_arguments_that_make_no_sense(phantom, tiny, tmp_path, kwargs, message):
    names = {k: kwargs.pop(k) for k in ('text', 'tabular') if k in kwargs}
    with pytest.raises(ValueError, match=message): go_on(altered(phantom, **names), tmp_path/'run', tiny | kwargs.pop('config', {}), **kwargs)
    assert not (tmp_path/'run').exists()

def no_regions(study): return altered(study, rois=study.rois[study.rois.image_id.isin(study.split('train').items.image_id)])

def no_test_split(study): return altered(study, study.items[study.items.split != 'test'], study.rois[~study.rois.image_id.isin(study.split('test').items.image_id)])

def test_a_threshold_can_be_tuned_only_where_there_are_regions(study, tiny, tmp_path):
    bad = altered(study, rois=study.rois[~study.rois.image_id.isin(study.split('valid').items.image_id)])
    with pytest.raises(ValueError, match="the rule 'tuned' needs regions of interest in the validation split"): go_on(bad, tmp_path/'run', tiny | dict(convention=dict(rule='tuned')))
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

def box_outside(study): return altered(study, rois=study.rois.assign(x1=study.rois.x1.where(study.rois.index > 0, 1000.)))

def one_label(study): return altered(study, study.items.assign(**{study.labels[1]: 0}))

FAULTS = {no_regions: 'no test image has a region', no_test_split: "'test' has no images", missing_image: r'1 of \d+ files are missing', unreadable_image: 'cannot be read',
          cut_image: 'cannot be read', other_mask: '1 of .* masks do not fit their image:\n.*7 x 9 pixels', empty_mask: 'mask of image .* cannot be used: empty', unreadable_mask: 'masks do not fit their image', box_outside: 'leaves the image', one_label: 'only the value 0'}

@pytest.mark.parametrize('fault,message', FAULTS.items(), ids=lambda v: getattr(v, '__name__', ''))
def test_data_that_cannot_be_worked_with(study, tiny, tmp_path, fault, message):
    bad = fault(study)
    with pytest.raises((ValueError, FileNotFoundError), match=message): go_on(bad, tmp_path/'run', tiny)
    assert not (tmp_path/'run/units').exists() and not (tmp_path/'run/teacher').exists()

@pytest.mark.parametrize('fault', [unreadable_image, cut_image])
def test_an_unreadable_image_is_named_and_can_be_mended(study, phantom, tiny, tmp_path, fault):
    bad = fault(study)
    with pytest.raises(ValueError, match=f'1 of 60 images cannot be read .*--skip-unreadable.*\n{study.items.image_id[3]}: '): go_on(bad, tmp_path/'run', tiny)
    shutil.copy2(phantom.root/study.items.image[3], study.root/study.items.image[3])
    assert go_on(study, tmp_path/'run', tiny, seeds=1).seeds == 1

def test_one_may_follow_the_advice(phantom, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path/'hub'))
    with pytest.raises(ConnectionError, match='--weights none'): go_on(phantom, tmp_path/'run', tiny | dict(weights='imagenet', arch_kwargs={}))
    assert not (tmp_path/'run/units').exists()
    go_on(phantom, tmp_path/'run', tiny, seeds=1)                           # in the same folder


# Folders that hold something else

@pytest.mark.parametrize('change', [dict(lam=.4), dict(T=2.), dict(lr=2e-3), dict(bs=8), dict(augment='none'), dict(matched='in-sample'), dict(convention=dict(layer=0)), dict(convention=dict(tau=.7)), dict(teacher='forest')], ids=str)
def test_other_settings_are_refused(copy, phantom, tiny, change):
    name, before = next(iter(change)), times(copy)
    with pytest.raises(ValueError, match=f'other settings: {name} is .* there and .* here'): go_on(phantom, copy, tiny | change)
    assert times(copy) == before

def test_another_checkpoint_of_the_same_name_is_refused(phantom, tiny, tmp_path):
    (tmp_path/'w.pth').write_bytes(b'one')
    (tmp_path/'run').mkdir()
    (tmp_path/'run/config.json').write_text(json.dumps(make_config(**tiny | dict(weights=str(tmp_path/'w.pth')))))
    (tmp_path/'w.pth').write_bytes(b'other')
    with pytest.raises(ValueError, match='weights_sha256 is'): go_on(phantom, tmp_path/'run', tiny | dict(weights=str(tmp_path/'w.pth')))

def other_label(study): return altered(study, study.items.assign(Consolidation=(study.items.Consolidation != (study.items.index == 0)).astype(int)))

def other_report(study): return altered(study, study.items.assign(report=study.items.report.where(study.items.index > 0, 'clear')))

def other_box(study): return altered(study, rois=study.rois.assign(x0=study.rois.x0 + (study.rois.index == 0)))

def other_pixels(study): shutil.copy(study.root/study.items.image[1], study.root/study.items.image[0]); return study

def fewer_images(study): return study.take(study.items.image_id[study.items.image_id != study.split('train').items.image_id[0]])

@pytest.mark.parametrize('change', [other_label, other_report, other_box, other_pixels, fewer_images], ids=lambda f: f.__name__)
def test_other_data_are_refused(copy, study, tiny, change, tiny_run):
    before, other = times(copy/'units'), change(study)
    with pytest.raises(ValueError, match='run on other data: .* there, .* here'): go_on(other, copy, tiny, seeds=3)
    assert times(copy/'units') == before and (copy/'labels.parquet').read_bytes() == (tiny_run.folder/'labels.parquet').read_bytes()
    assert len(json.loads((copy/'environment.json').read_text())) == 1

def test_the_same_data_in_another_place_are_the_same(copy, study, tiny, tiny_run):
    before = times(copy/'units')
    equal(go_on(study, copy, tiny).per_seed(), tiny_run.per_seed())
    assert times(copy/'units') == before

def test_the_same_checkpoint_in_another_place_is_the_same(phantom, tiny, tmp_path):
    (tmp_path/'run').mkdir()
    for name in ('a.pth', 'b.pth'): (tmp_path/name).write_bytes(b'not a checkpoint, but the same')
    (tmp_path/'run/config.json').write_text(json.dumps(make_config(**tiny | dict(weights=str(tmp_path/'a.pth')))))
    with pytest.raises(ValueError, match='b.pth does not fit'): go_on(phantom, tmp_path/'run', tiny | dict(weights=str(tmp_path/'b.pth')))

def test_other_peoples_folders_are_safe(phantom, tiny, tmp_path):
    (tmp_path/'mine.txt').write_text('mine')
    with pytest.raises(ValueError, match='not empty and holds no run of mmpkd'): go_on(phantom, tmp_path, tiny)
    assert [p.name for p in tmp_path.iterdir()] == ['mine.txt'] and (tmp_path/'mine.txt').read_text() == 'mine'
    with pytest.raises(FileNotFoundError, match='no finished run'): Run(tmp_path)


# What the folder says

def test_the_folder_is_enough_to_do_it_again(tiny_run, phantom, tiny):
    assert json.loads((tiny_run.folder/'config.json').read_text()) == make_config(**tiny) == tiny_run.config
    assert {'lam', 'T', 'matched', 'size', 'epochs', 'lr', 'wd', 'bs', 'augment', 'weights', 'weights_sha256', 'arch', 'arch_kwargs', 'precision', 'convention', 'start', 'start_sha256', 'teacher', 'teacher_per_seed'} <= set(tiny_run.config)
    assert tiny_run.config['convention'] == Convention().to_dict()
    assert make_config(**{k: v for k, v in tiny_run.config.items() if k not in ('weights_sha256', 'start_sha256')}) == tiny_run.config
    [env] = tiny_run.environments
    assert env['mmpkd'] == mmpkd.__version__ and env['python'] == '.'.join(map(str, sys.version_info[:3])) and env['device']
    assert all(version(p) == v for p, v in env['packages'].items()) and {'torch', 'timm', 'fastai', 'scikit-learn'} <= set(env['packages'])
    [cache] = [p for p in (tiny_run.folder/'pixels').iterdir() if p.is_dir()]
    assert env['data'] == dict(cohort='phantom', images=60, tables=phantom.fingerprint(), pixels=Pixels(cache).digest())
    assert (tiny_run.asked['arms'], tiny_run.asked['seeds'], tiny_run.asked['labels']) == (['baseline', 'out-of-fold'], 2, phantom.labels)

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
        unit = tiny_run.unit(arm, 1)
        p, maps, scores = pd.read_parquet(unit/'predictions.parquet'), AttentionMaps.load(unit/'attention.npz'), pd.read_parquet(unit/'scores.parquet')
        assert p.index.tolist() == [k for k in phantom.items.image_id if k in {*valid, *test}] and maps.image_ids == test      # nothing of the training images
        assert scores.image_id.tolist() == [k for k in test if k in set(phantom.rois.image_id)]
        pd.testing.assert_frame_equal(Student.load(unit).predict(pixels, test), p.loc[test], atol=1e-6)
        assert {k: json.loads((unit/'unit.json').read_text())[k] for k in ('arm', 'seed', 'convention')} == dict(arm=arm, seed=1, convention=Convention().to_dict())
        assert scores.attrs['convention'] == Convention().to_dict() and 0 < scores.attrs['pooled_auroc'] < 1
        assert len(pd.read_csv(unit/'history.csv')) == TINY['epochs']

def test_the_teacher_is_kept(tiny_run, phantom):
    train, test = phantom.split('train'), phantom.split('test')
    s = pd.read_parquet(tiny_run.folder/'soft_labels/out-of-fold.parquet')
    assert s.index.tolist() == train.items.image_id.tolist() and list(s) == phantom.labels and s.to_numpy().min() > 0 and s.to_numpy().max() < 1
    assert load_teacher(tiny_run.folder/'teacher').logits(test).shape == (len(test), 4)
    assert set(tiny_run.teacher['auroc']) == {'in-sample', 'valid', 'test'} and tiny_run.teacher['T_valid'] is None
    z = pd.read_parquet(tiny_run.folder/'soft_labels/logits_out-of-fold.parquet')
    equal(s, pd.DataFrame(soften(z, tiny_run.config['T']), z.index, z.columns))
    equal(s, tiny_run.soft_labels('out-of-fold'))

@pytest.fixture(scope='module')
def each(phantom, tiny, tmp_path_factory):
    "A teacher for each of two seeds; read only"
    config = make_config(**tiny, teacher_per_seed=True, T='valid')
    return run_experiment(phantom, tmp_path_factory.mktemp('each')/'run', config, ('baseline', 'in-sample', 'out-of-fold', 'shuffled'), seeds=2, progress=False)

def test_a_teacher_for_each_seed(each, phantom):
    "Its folds and its controls are drawn anew; what the students of a seed learn from is what `teach` makes with that seed"
    assert not (each.folder/'teacher').exists() and each.teacher_seeds == [0, 1] and each.taught_arms == ['in-sample', 'out-of-fold', 'shuffled']
    for arm in ('out-of-fold', 'shuffled'): assert not each.soft_labels(arm, 0).equals(each.soft_labels(arm, 1))
    equal(each.soft_labels('in-sample', 0), each.soft_labels('in-sample', 1))        # where nothing is drawn, nothing differs
    for seed in range(2):
        z = training_logits(load_teacher(each.folder/f'teachers/seed-{seed}/teacher'), phantom.split('train'), 'out-of-fold', seed=seed)
        T = json.loads((each.folder/f'teachers/seed-{seed}/teacher.json').read_text())['T_valid']
        equal(each.soft_labels('out-of-fold', seed), arm_labels('out-of-fold', z, each.labels('train'), T))
        equal(each.soft_labels('shuffled', seed), arm_labels('shuffled', z, each.labels('train'), T, seed=seed))

def test_what_is_said_of_several_teachers_is_their_mean(each):
    y, files = each.labels('train'), [json.loads((each.folder/f'teachers/seed-{s}/teacher.json').read_text()) for s in range(2)]
    assert each.teacher['auroc']['test'] == np.mean([f['auroc']['test'] for f in files]) and each.teacher['T_valid'] == np.mean([f['T_valid'] for f in files])
    gaps = [gap(y, each.soft_labels('out-of-fold', s)) for s in range(2)]
    assert each.over_teachers('out-of-fold', gap) == np.mean(gaps) and gaps[0] != gaps[1]

def test_students_learn_from_the_teacher_of_their_seed(each, phantom):
    "The student trained by hand on the soft labels of its seed has the same weights, on those of the other seed it has not"
    pixels, keys = Pixels(next((each.folder/'pixels').glob('pixels-*'))), ('epochs', 'lr', 'wd', 'bs', 'augment', 'weights', 'arch', 'arch_kwargs', 'precision')
    kept = Student.load(each.unit('shuffled', 1)).model.state_dict()
    for seed in range(2):
        by_hand = train_student(phantom, pixels, each.soft_labels('shuffled', seed), .5, 1, **{k: each.config[k] for k in keys}).model.state_dict()
        assert all(torch.equal(kept[k], by_hand[k]) for k in kept) == (seed == 1)

def test_a_seed_added_later_has_a_teacher_of_its_own(each, phantom, tiny, tmp_path):
    out = shutil.copytree(each.folder, tmp_path/'run')
    before = times(out/'teachers')
    more = run_experiment(phantom, out, each.config, ('baseline', 'out-of-fold'), seeds=3, progress=False)
    after = times(out/'teachers')
    assert {k: after[k] for k in before} == before and (out/'teachers/seed-2/teacher.json').is_file() and more.teacher_seeds == [0, 1, 2]
    equal(more.per_seed().query('seed < 2').reset_index(drop=True), each.per_seed().query("arm in ['baseline', 'out-of-fold']").reset_index(drop=True))
    with pytest.raises(ValueError, match='teacher_per_seed is True there and False here'): go_on(phantom, out, tiny | dict(T='valid'))
    old = {k: v for k, v in each.config.items() if k != 'teacher_per_seed'}                # as if written before there was such a setting
    with pytest.raises(ValueError, match='teacher_per_seed is True there and None here'): run_experiment(phantom, out, old, seeds=2, progress=False)

@pytest.mark.parametrize('step', ['save_teacher', 'write_text', 'write_table'])
def test_killed_while_an_arm_is_taught(copy, phantom, tiny, tmp_path, monkeypatch, step):
    "Wherever teaching stops, the next call makes what an undisturbed one makes"
    arms = ('baseline', 'out-of-fold', 'out-of-fold T=valid')
    teach(phantom, arms, make_config(**tiny), tmp_path/'whole')
    class Killed(BaseException): pass
    def stop(*args): raise Killed
    with monkeypatch.context() as patch:
        patch.setattr(experiment, step, stop)
        with pytest.raises(Killed): teach(phantom, arms, make_config(**tiny), copy)
    soft = teach(phantom, arms, make_config(**tiny), copy)
    for arm, s in teach(phantom, arms, make_config(**tiny), tmp_path/'whole').items(): equal(soft[arm], s)
    assert (copy/'teacher.json').read_text() == (tmp_path/'whole/teacher.json').read_text() and json.loads((copy/'teacher.json').read_text())['T_valid'] > 0

def blobs(folder):
    "Everything in a folder as text, archives unpacked"
    for path in filter(Path.is_file, folder.rglob('*')):
        name = path.relative_to(folder).as_posix()
        if path.suffix == '.parquet': yield name, pd.read_parquet(path).reset_index().to_csv()
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as z: yield from ((f'{name}/{m}', z.read(m).decode('latin-1')) for m in z.namelist())
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
    run = run_experiment(altered(phantom, secret), tmp_path/'run', make_config(**TINY), ('baseline', 'out-of-bag'), seeds=1, progress=False)
    assert 'out-of-bag' in run.teacher['auroc'] and len(run.per_seed()) == 2
    assert {name.partition('/')[0] for name, _ in leaks(run.folder, ['Secret-'])} == {'teacher'}
    columns = {c for p in run.folder.rglob('*.parquet') for c in pd.read_parquet(p).reset_index()}
    assert not columns & {'report', *METADATA} and columns >= {'image_id', 'split', *phantom.labels}
