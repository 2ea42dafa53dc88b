"mmpkd.arms: what a name says, and every arm by its name from beginning to end"
import numpy as np, pandas as pd, pytest
from conftest import TINY, altered
from safetensors.numpy import load_file
from scipy.special import logit

from mmpkd.arms import (ARMS, CONTROL_ARMS, EPS, WITHOUT_TEACHER, Arm, arm_labels, arm_title, arms_for, has_soft_labels,
                        is_control, needs_teacher, read_arm)
from mmpkd.results import Experiment
from mmpkd.settings import MATCHED, Settings, make_config
from mmpkd.experiment import run_experiment
from mmpkd.images import Pixels
from mmpkd.soft_labels import CONTROLS, HOW, label_distance, soften
from mmpkd.student import Student, train_student
from mmpkd.teachers import TEACHERS, ForestTeacher


# Names

NAMES = [
    ('baseline', 'baseline', {}, 'Baseline'),
    ('in-sample', 'in-sample', {}, 'MMPKD (in-sample)'),
    ('shuffled T=2', 'shuffled', dict(T=2.), 'Control: shuffled within class, T = 2'),
    ('out-of-fold lam=0.3 T=2', 'out-of-fold', dict(lam=.3, T=2.), 'MMPKD (out-of-fold), λ = 0.3, T = 2'),
    ('out-of-fold T=valid', 'out-of-fold', dict(T='valid'), 'MMPKD (out-of-fold), T = valid'),
    ('out-of-fold share=0.25', 'out-of-fold', dict(share=.25), 'MMPKD (out-of-fold), share = 0.25'),
    ('in-sample share=1', 'in-sample', dict(share=1.), 'MMPKD (in-sample), share = 1'),
    ('from baseline', 'from baseline', {}, 'From Baseline'),
    ('from out-of-fold lam=0.3', 'from out-of-fold lam=0.3', {}, 'From MMPKD (out-of-fold), λ = 0.3'),
    ('label-smoothing eps=0.25 lam=0.3', 'label-smoothing', dict(eps=.25, lam=.3),
     'Control: label smoothing, ε = 0.25, λ = 0.3'),
    ('from from permuted', 'from from permuted', {}, 'From From Control: permuted')]

@pytest.mark.parametrize('arm,kind,changes,title', NAMES)
def test_names(arm, kind, changes, title):
    assert read_arm(arm) == (kind, changes) and arm_title(arm) == title
    assert list(Arm.read(arm).changes) == list(changes)                    # in the order of the name

@pytest.mark.parametrize('arm', [arm for arm, *_ in NAMES])
def test_an_arm_is_the_same_by_name_and_by_value(arm):
    "Read, printed, made again without its spelling, and read from the name that it then has"
    read = Arm.read(arm)
    assert (read.name, str(read), Arm.read(read)) == (arm, arm, read) and eval(repr(read)) == read
    made = Arm(read.kind, **read.changes, source=read.source)
    assert made == read and Arm.read(made.name) == read

def test_an_arm_made_by_value_is_checked():
    for bad in (dict(kind='out-of-hand'), dict(kind='baseline', lam=.3),
                dict(kind='from', source=Arm('permuted'), T=2.),
                dict(kind='out-of-fold', lam=2.), dict(kind='out-of-fold', T=0.), dict(kind='shuffled', eps=.1)):
        with pytest.raises(ValueError, match='no arm|cannot change|lam|T must|eps goes'): Arm(**bad)

@pytest.mark.parametrize('arm,message', [
    ('', "no arm ''; the arms are baseline, in-sample"), ('Baseline', "no arm 'Baseline'"),
    ('out-of-fold in-sample', 'no arm'), ('lam=0.3', "no arm ''"), ('from', "no arm 'from'"),
    ('from out-of-hand', "no arm 'out-of-hand'"), ('baseline T=2', "cannot change 'T'"),
    ('from baseline T=2', "cannot change 'T'"), ('out-of-fold lr=1', "cannot change 'lr'"),
    ('out-of-fold =1', "cannot change ''"), ('out-of-fold lam=', "lam must be a number, not ''"),
    ('out-of-fold lam=valid', "lam must be a number, not 'valid'"),
    ('out-of-fold lam=2', 'lam must be in .* not 2, in'),
    ('in-sample T=0', 'T must be above 0, not 0'), ('in-sample T=nan', 'T must be above 0'),
    ('out-of-fold share=valid', 'share must be a number'), ('out-of-fold T=2=3', "not '2=3'"),
    ('label-smoothing eps=0', 'eps must be above 0'), ('label-smoothing eps=nan', 'eps must be'),
    ('label-smoothing eps=much', 'eps must be a number'), ('shuffled eps=0.1', "eps goes with 'label-smoothing'"),
    ('baseline eps=0.1', "cannot change 'eps'"), ('label-smoothing eps=0.1 T=2', 'T does nothing'),
    ('out-of-fold share=1.5', 'share must be above 0 and at most 1'), ('out-of-fold share=nan', 'share must be'),
    ('permuted share=0.5', "share goes with 'out-of-fold', not with 'permuted'")])
def test_names_that_say_nothing(arm, message):
    for f in (Arm.read, read_arm, arm_title, is_control):
        with pytest.raises(ValueError, match=message.replace('(', r'\(')): f(arm)

@pytest.mark.parametrize('arm,folder', [
    ('out-of-fold lam=0.3 T=2', 'out-of-fold_lam=0.3_T=2'), ('out-of-fold\tlam=1.', 'out-of-fold_lam=1'),
    ('in-sample  T=1e-1', 'in-sample_T=1e-1'), ('in-sample lam=٣', 'in-sample_lam=_663'),
    ('from out-of-fold', 'from_out-of-fold')])
def test_folders_have_names_that_every_file_system_takes(arm, folder):
    if '٣' not in arm: assert Arm.read(arm).slug == folder
    else: assert Arm(kind='in-sample', spelling=arm).slug == folder

def test_controls_are_marked():
    assert [a for a in ARMS if is_control(a)] == list(CONTROL_ARMS) == [*CONTROLS, 'self-distillation']
    assert [a for a in ARMS if not is_control(a) and has_soft_labels(a)] == list(HOW) == list(MATCHED)
    assert is_control('self-distillation T=2')
    assert is_control('from shuffled')
    assert not is_control('from out-of-fold lam=0.3')
    assert all(('Control' in ARMS[a]) == is_control(a) for a in ARMS)

@pytest.mark.parametrize('teacher', TEACHERS)
def test_arms_of_a_teacher(teacher):
    assert [a for a in ARMS if a not in arms_for(teacher)] == ([] if teacher == 'forest' else ['out-of-bag'])

def test_arms_without_a_teacher():
    "What can be run where nothing is privileged, and which of the arms have a table of soft labels"
    assert arms_for('none') == list(WITHOUT_TEACHER) == ['baseline', 'label-smoothing', 'self-distillation']
    assert [a for a in ARMS if not needs_teacher(a)] == arms_for('none')
    assert [a for a in ARMS if not has_soft_labels(a)] == ['baseline', 'self-distillation']
    assert needs_teacher('out-of-fold lam=0.3')
    assert not needs_teacher('label-smoothing eps=0.2')
    assert not has_soft_labels('from out-of-fold')


# Soft labels

index = pd.Index([f'im{i}' for i in range(8)], name='image_id')
z = pd.DataFrame(dict(a=[3., 1., .5, np.nan, -.5, -1., -3., .2], b=np.arange(8) - 4.), index)
y = pd.DataFrame(dict(a=[1., 1., 1., 1., 0., 0., 0., np.nan], b=[0., 1.]*4), index)

@pytest.mark.parametrize('kind', [a for a in ARMS if a not in ('baseline', 'self-distillation')])
def test_soft_labels_of_each_arm(kind):
    s, own = arm_labels(kind, z, y), pd.DataFrame(soften(z), z.index, z.columns)
    assert s.index.equals(index) and list(s) == ['a', 'b'] and s.isna().equals(z.isna())  # no answer stays no answer
    assert s.stack().dropna().between(0, 1).all() and s.equals(own) == (kind not in CONTROLS)
    # the order of the rows does not matter
    pd.testing.assert_frame_equal(arm_labels(kind, z.iloc[::-1], y).loc[index], s)

@pytest.mark.parametrize('task,k', [('multilabel', 2), ('multiclass', 3)])
def test_smoothing_without_a_teacher(task, k):
    "By hand: 1 - eps + eps/k for what is there, eps/k for what is not; a blank stays blank"
    hard = pd.DataFrame(np.eye(3), list('xyz'), list('abc')).rename_axis('image_id')
    hard.loc['w'] = np.nan
    for arm, eps in (('label-smoothing', EPS), ('label-smoothing eps=0.4', .4)):
        s = arm_labels(arm, None, hard, task=task)
        assert s.isna().equals(hard.isna()) and np.allclose(s.to_numpy()[:3], np.eye(3)*(1 - eps) + eps/k)
    # not matched to a teacher that is there
    pd.testing.assert_frame_equal(arm_labels('label-smoothing eps=0.4', hard*3, hard, task=task), s)

@pytest.mark.parametrize('arm', [a for a in ARMS if needs_teacher(a)])
def test_no_teacher_no_labels(arm):
    with pytest.raises(ValueError, match=f"arm '{arm}' needs a teacher"): arm_labels(arm, None, y)

def test_a_temperature_in_the_name_comes_first():
    hot = pd.DataFrame(soften(z, 3.), z.index, z.columns)
    pd.testing.assert_frame_equal(arm_labels('out-of-fold T=3', z, y, T=7.), hot)
    pd.testing.assert_frame_equal(arm_labels('out-of-fold T=valid', z, y, T=3.), hot)  # the caller knows which that is
    pd.testing.assert_frame_equal(arm_labels('out-of-fold lam=0.1', z, y, T=3.), hot)
    assert sorted(arm_labels('permuted T=3', z, y).b) == sorted(hot.b)

def test_soft_labels_of_one_class_out_of_several():
    z3 = pd.DataFrame(np.random.default_rng(0).normal(size=(8, 3)), index, list('abc'))
    y3 = pd.DataFrame(np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]], index, list('abc'))
    for kind in ('in-sample', *CONTROLS):
        assert np.allclose(arm_labels(kind, z3, y3, 2., 'multiclass').sum(axis=1), 1), kind


# From beginning to end

class FewTrees(ForestTeacher):
    def __init__(self, seed=0): super().__init__(20, seed=seed)

@pytest.fixture(scope='module')
def run(phantom, tmp_path_factory):
    "All nine arms and one with settings of its own, one seed; read only"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TEACHERS, 'forest', FewTrees)
        config = make_config(teacher='forest', **TINY, T=2., controls_from='out-of-bag')
        arms = (*arms_for('forest'), 'out-of-fold lam=0.9 T=5', 'self-distillation T=4')
        return run_experiment(phantom, tmp_path_factory.mktemp('arms')/'run', config, arms, seeds=1, progress=False)

def weights(run, arm, seed=0): return load_file(run.run_folder(arm, seed)/'student.safetensors')

def same(a, b): return all(np.array_equal(a[k], b[k]) for k in a)

def test_every_arm_runs(run):
    assert run.arms[:9] == list(ARMS)
    assert run.controls == [*CONTROL_ARMS, 'self-distillation T=4']
    assert run.reference == 'baseline'
    t = run.per_seed().set_index('arm')
    assert t.index.tolist() == run.arms
    measured = ['auroc', 'pixel_auroc', 'iou', 'shuffled_auroc', 'pooled_auroc', 'auprc', 'hit', 'mass']
    assert t[measured].notna().all(axis=None)
    all_weights = [weights(run, a) for a in run.arms]
    # each arm is a training of its own
    assert not any(same(a, b) for i, a in enumerate(all_weights) for b in all_weights[:i])

def test_verdicts_know_the_controls(run):
    comparison = run.comparison()
    assert comparison.controls == run.controls and set(comparison.arm) == set(run.arms) - {'baseline'}
    assert all(('a control; ' in text) == is_control(arm) for arm, text in run.verdicts().items())
    assert not any('No control arm was run' in text for text in run.verdicts().values())

def test_soft_labels_on_disk(run):
    kept = {p.stem for p in (run.folder/'teachers/seed-0/soft_labels').iterdir()}
    assert kept == {*(a.replace(' ', '_') for a in run.arms if a != 'baseline' and 'self-dis' not in a),
                    'logits_in-sample', 'logits_out-of-bag', 'logits_out-of-fold'}
    y = run.labels('train')
    def logits(how): return pd.read_parquet(run.folder/f'teachers/seed-0/soft_labels/logits_{how}.parquet')
    for arm, how, T in (('in-sample', 'in-sample', 2.), ('out-of-bag', 'out-of-bag', 2.),
                        ('out-of-fold', 'out-of-fold', 2.), ('out-of-fold lam=0.9 T=5', 'out-of-fold', 5.)):
        assert np.array_equal(run.soft_labels(arm), soften(logits(how), T)), arm
    s = run.soft_labels('out-of-bag')                                                               # `controls_from`
    for kind in CONTROLS:
        pd.testing.assert_frame_equal(run.soft_labels(kind), arm_labels(kind, logits('out-of-bag'), y, 2.))
    assert label_distance(y, run.soft_labels('label-smoothing')) == pytest.approx(label_distance(y, s))
    assert label_distance(y, run.soft_labels('in-sample')) < label_distance(y, s)

def test_self_distillation_learns_from_the_baseline_of_its_seed(tiny_run, phantom, tiny, tmp_path):
    "The student trained by hand on what the baseline of the same seed says of the training images has the same weights"
    config = make_config(**tiny)
    run = run_experiment(phantom, tmp_path/'run', config, ('self-distillation', 'baseline'), seeds=2, progress=False)
    pixels = Pixels(next((run.folder/'pixels').glob('pixels-*')))
    def by_hand(teacher_seed, seed):
        ids = phantom.split('train').items.image_id
        p = Student.load(run.run_folder('baseline', teacher_seed)).predict(pixels, ids).clip(1e-6, 1 - 1e-6)
        soft = pd.DataFrame(soften(logit(p)), p.index, p.columns)
        student = train_student(phantom, pixels, soft, .5, Settings.from_dict(config).training, seed)
        return {k: v.numpy() for k, v in student.model.state_dict().items()}
    assert same(by_hand(1, 1), weights(run, 'self-distillation', 1))
    assert not same(by_hand(0, 1), weights(run, 'self-distillation', 1))
    # no privileged information was touched
    assert not list(run.folder.rglob('teacher')) and run.teacher == dict(auroc={}, per='image', T_valid=None)
    assert all(same(weights(run, 'baseline', s), weights(tiny_run, 'baseline', s)) for s in range(2))

def test_self_distillation_waits_for_its_teacher(phantom, tiny, tmp_path):
    "Several units at a time, and the student that learns from another is named first; nothing privileged is needed"
    run = run_experiment(altered(phantom, text=None, tabular=()), tmp_path/'run', make_config(**tiny),
                         ('self-distillation', 'baseline'), seeds=1, n_jobs=2, progress=False)
    assert len(Experiment(run.folder).per_seed()) == 2
