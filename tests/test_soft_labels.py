"Corner cases of mmpkd.soft_labels: leakage, temperatures, images with several parts, files, calibration, controls"
from itertools import product

import matplotlib.pyplot as plt
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from mmpkd.cohort import Cohort
from mmpkd.soft_labels import (CONTROLS, HOW, best_temperature, calibration, control_labels, label_distance,
                               matched_eps, reliability_curve, show_calibration, smooth, soft_label_quality,
                               soft_labels, soften)
from mmpkd.teachers import BagOfWordsTeacher, ForestTeacher, class_auroc, macro_auroc, noisy_or, out_of_fold, pool_parts

N = 40

def cohort(n=N, per_patient=3, task='multilabel', seed=0):
    "Images in a shuffled order, up to three of each patient, so that no order gives the folds away"
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    labels = dict(mass=(x > 0)*1., calc=(x <= 0)*1.)
    ids, patients = [f'im{i}' for i in range(n)], [f'p{i//per_patient}' for i in range(n)]
    devices = rng.choice(['A', 'B'], n)
    reports = np.where(x + rng.normal(0, .5, n) > 0, 'large shadow', 'all clear')
    t = pd.DataFrame(labels | dict(image_id=ids, patient_id=patients, split='train', image='x.png',
                                   grade=np.rint(2*x), device=devices, report=reports))
    return Cohort(t.sample(frac=1, random_state=seed), ['mass', 'calc'], text='report', tabular=['grade', 'device'],
                  task=task)

class Spy:
    "Answers with the number of the image, and keeps a list of whom it saw before it was asked about whom"
    log = []
    def fit(self, cohort): self.seen = cohort; return self
    def logits(self, cohort):
        self.log.append((self.seen, cohort))
        k = cohort.items.image_id.str[2:].astype(float).to_numpy()
        return pd.DataFrame(dict(mass=k, calc=-k), cohort.items.image_id)

@pytest.fixture
def log():
    Spy.log.clear()
    return Spy.log

forest = ForestTeacher(30, 1)


# Out of fold

@settings(max_examples=25)
@given(st.integers(2, 7), st.integers(1, 4), st.integers(0, 99))
def test_no_teacher_saw_the_patient(folds, per_patient, seed):
    Spy.log.clear()
    c = cohort(per_patient=per_patient, seed=seed)
    z = out_of_fold(Spy(), c, folds, seed)
    assert len(Spy.log) == folds
    for seen, asked in Spy.log:
        assert not set(seen.items.patient_id) & set(asked.items.patient_id)
        # all others were learned from
        assert sorted([*seen.items.image_id, *asked.items.image_id]) == sorted(c.items.image_id)
    # each is asked about once
    assert sorted(i for _, asked in Spy.log for i in asked.items.image_id) == sorted(c.items.image_id)
    assert z.index.tolist() == c.items.image_id.tolist()
    assert (z.mass == c.items.image_id.str[2:].astype(float).to_numpy()).all()

def test_the_teacher_stays_as_it_was():
    c = cohort()
    t = ForestTeacher(50).fit(c)
    before = t.oob_logits(c)
    models = dict(t.models)
    out_of_fold(t, c, 3)
    assert t.models == models and t.fitted_on['mass'] == c.items.image_id.tolist()
    pd.testing.assert_frame_equal(t.oob_logits(c), before)
    assert not hasattr(fresh := ForestTeacher(50), 'models') and out_of_fold(fresh, c, 3).notna().all(axis=None)
    assert not hasattr(fresh, 'models')

def test_out_of_fold_is_a_teacher_trained_without_the_fold(log):
    c = cohort()
    out_of_fold(Spy(), c, 4, seed=2)
    z = out_of_fold(forest, c, 4, seed=2)
    for seen, asked in log:
        np.testing.assert_allclose(z.loc[asked.items.image_id], ForestTeacher(30, 1).fit(seen).logits(asked), rtol=1e-9)

def test_seeds_of_the_folds(log):
    c = cohort()
    parts = []
    for seed in (0, 0, 1):
        out_of_fold(Spy(), c, 5, seed)
        parts.append([frozenset(a.items.image_id) for _, a in log]); log.clear()
    assert parts[0] == parts[1] and set(parts[0]) != set(parts[2])

@pytest.mark.parametrize('folds', [1, 0, -3, 15])
def test_folds_that_cannot_be(folds):
    with pytest.raises(ValueError, match=f'between 2 and the number of patients, 14, not {folds}'):
        out_of_fold(Spy(), cohort(), folds)

@pytest.mark.parametrize('folds', [2, 14])
def test_folds_that_just_can(log, folds):                                    # 14: leave one patient out
    out_of_fold(Spy(), cohort(), folds)
    assert len(log) == folds

def test_one_patient_is_too_few():
    with pytest.raises(ValueError, match='the number of patients, 1, not 5'):
        soft_labels(forest, cohort(3), 'out-of-fold')

def test_a_fold_with_one_answer_only():
    c = cohort(6, per_patient=3)
    items = c.items.assign(mass=(c.items.patient_id == 'p0')*1., calc=(c.items.patient_id == 'p1')*1.)
    with pytest.raises(ValueError, match='at least two different ones'):
        out_of_fold(forest, Cohort(items, c.labels, tabular=c.tabular), 2)

def test_without_a_report_there_is_no_soft_label():
    c = cohort()
    items = c.items.assign(report=c.items.report.where(c.items.image_id != 'im7'))
    c = Cohort(items, c.labels, text='report')
    for how in ('in-sample', 'out-of-fold'):
        s = soft_labels(BagOfWordsTeacher().fit(c), c, how, folds=3)
        assert s.index[s.isna().any(axis=1)].tolist() == s.index[s.isna().all(axis=1)].tolist() == ['im7']


# Temperature

finite = arrays(float, st.tuples(st.integers(1, 5), st.integers(2, 4)), elements=st.floats(-20, 20))
tasks, temperatures = st.sampled_from(['multilabel', 'multiclass']), st.floats(.1, 50)

@given(finite, temperatures, temperatures, tasks)
def test_hotter_is_softer(z, T1, T2, task):
    "The order stays, and each answer moves monotonically towards not knowing"
    cold, hot = (soften(z, T, task) for T in sorted((T1, T2)))
    assert ((cold > 0) & (cold <= 1)).all() and cold.shape == z.shape
    for s in (cold, hot): assert (np.diff(np.take_along_axis(s, z.argsort(axis=-1), -1)) >= 0).all()
    if task == 'multilabel': assert (abs(hot - .5) <= abs(cold - .5) + 1e-12).all()
    else:
        np.testing.assert_allclose(hot.sum(axis=-1), 1); np.testing.assert_allclose(cold.sum(axis=-1), 1)
        assert (hot.max(axis=-1) <= cold.max(axis=-1) + 1e-12).all()
        assert (hot.min(axis=-1) >= cold.min(axis=-1) - 1e-12).all()

@given(st.floats(-10, 10), st.floats(.5, 50))
def test_temperature_divides_the_logit(z, T): assert logit(soften([[z]], T)).item() == pytest.approx(z/T, abs=1e-6)

@given(st.floats(-15, 15), temperatures)
def test_two_classes_are_one_question(z, T):
    assert soften([[z, 0.]], T, 'multiclass')[0, 0] == pytest.approx(expit(z/T))

@given(finite)
def test_a_constant_changes_nothing_among_classes(z):
    np.testing.assert_allclose(soften(z + 1000, 1., 'multiclass'), soften(z, 1., 'multiclass'), atol=1e-9)

@pytest.mark.parametrize('T', [0, -1, np.nan, -np.inf])
def test_temperatures_that_cannot_be(T):
    with pytest.raises(ValueError, match='T must be above 0'): soften([[1.]], T)
    with pytest.raises(ValueError, match='T must be above 0'):
        soft_labels(ForestTeacher(50).fit(cohort()), cohort(), 'in-sample', T=T)

def test_soften_edges():
    s = soften([[1e4, -1e4], [np.nan, np.nan], [0, 0]])
    np.testing.assert_array_equal(s, [[1, 0], [np.nan, np.nan], [.5, .5]])
    np.testing.assert_array_equal(soften([[1e4, -1e4], [np.nan, np.nan], [0, 0]], 1., 'multiclass'), s)
    with pytest.raises(ValueError, match="not 'regression'"): soften([[1.]], 1., 'regression')


# The table

@pytest.mark.parametrize('how', HOW)
@pytest.mark.parametrize('task', ['multilabel', 'multiclass'])
def test_the_table(how, task):
    c = cohort(task=task)
    t = ForestTeacher(40, 1).fit(c)
    s, cool = soft_labels(t, c, how, T=2., folds=3), soft_labels(t, c, how, T=1., folds=3)
    assert s.index.equals(c.y().index) and s.columns.tolist() == c.labels and ((s > 0) & (s < 1)).all(axis=None)
    if task == 'multiclass': np.testing.assert_allclose(s.sum(axis=1), 1)
    assert (abs(s - .5) <= abs(cool - .5) + 1e-9).all(axis=None)
    assert s.attrs == dict(how=how, T=2., teacher='ForestTeacher')

@pytest.mark.parametrize('how', HOW)
def test_attributes_survive_a_file(tmp_path, how):
    s = soft_labels(ForestTeacher(50).fit(cohort()), cohort(), how, T=1.5, folds=2)
    s.to_parquet(tmp_path/'s.parquet')
    again = pd.read_parquet(tmp_path/'s.parquet')
    assert again.attrs == s.attrs == dict(how=how, T=1.5, teacher='ForestTeacher') and again.index.name == 'image_id'
    pd.testing.assert_frame_equal(again, s)

def test_out_of_bag_needs_the_forests_own_images():
    t = ForestTeacher(50).fit(cohort())
    other = cohort()
    other.items['image_id'] = 'other' + other.items.image_id
    with pytest.raises(ValueError, match='not fitted on any image'): soft_labels(t, other, 'out-of-bag')

def test_a_forest_that_remembers_patients_looks_good_out_of_bag():
    "Two images of each patient are alike, and nothing else tells the label: only out of fold is that found out"
    rng, n = np.random.default_rng(0), 200
    who = np.repeat(np.arange(n), 2)
    ids, patients = [f'im{i}' for i in range(2*n)], [f'p{k}' for k in who]
    t = pd.DataFrame(dict(image_id=ids, patient_id=patients, split='train', image='x.png',
                          mass=rng.integers(0, 2, n)[who]*1., height=rng.normal(size=n)[who],
                          weight=rng.normal(size=n)[who]))
    c = Cohort(t, ['mass'], tabular=['height', 'weight'])
    known = {how: macro_auroc(c.y(), soft_labels(ForestTeacher(100, 1).fit(c), c, how)) for how in HOW}
    assert known['out-of-bag'] > .9 and abs(known['out-of-fold'] - .5) < .15

@pytest.mark.parametrize('task', ['multilabel', 'multiclass'])
def test_soft_labels_in_one_row(task):
    c = cohort(task=task)
    y, s = c.y(), soft_labels(forest.fit(c), c, 'out-of-fold', folds=3)
    q = soft_label_quality(y, s)
    assert q['AUROC'] == macro_auroc(y, s) and q['mean |s - y|'] == label_distance(y, s)
    for k in ('log loss', 'Brier', 'ECE'): assert q[k] == pytest.approx(calibration(y, s)[k].mean())

def test_gap():
    y = pd.DataFrame(dict(a=[0., 1., np.nan], b=[1., np.nan, 0.]), list('ijk'))
    s = pd.DataFrame(dict(b=[.5, .9, np.nan], a=[.25, 1., .7]), list('ijk'))
    # known in both, joined by name
    assert label_distance(y, y) == 0 and label_distance(y, s.iloc[::-1]) == pytest.approx((.25 + 0 + .5)/3)
    with pytest.raises(KeyError): label_distance(y, s.iloc[:2])


# Images with several parts

CLASSES = ['none', 'benign', 'cancer']

def probabilities(rows):
    return pd.DataFrame(softmax(np.array(rows, float), axis=1), [f'part{k}' for k in range(len(rows))], CLASSES)

def of_image(p, names): return pd.Series(list(names), p.index, name='image_id')

three = arrays(float, (3, 3), elements=st.floats(-6, 6))

@given(three)
def test_the_worst_of_three_parts_by_enumeration(z):
    "Sum over all 27 combinations of classes, and over all 8 of yes and no"
    p = probabilities(z)
    worst = np.zeros(3)
    for k in product(range(3), repeat=3): worst[max(k)] += np.prod([p.iloc[j, c] for j, c in enumerate(k)])
    np.testing.assert_allclose(noisy_or(p, of_image(p, 'aaa'), 'multiclass').loc['a'], worst, atol=1e-12)
    any_ = np.zeros(3)
    for k in product([0, 1], repeat=3):
        if max(k): any_ += np.prod([p.to_numpy()[j] if c else 1 - p.to_numpy()[j] for j, c in enumerate(k)], axis=0)
    np.testing.assert_allclose(noisy_or(p, of_image(p, 'aaa')).loc['a'], any_, atol=1e-12)

@given(three, st.sampled_from(['multilabel', 'multiclass']))
def test_one_part_is_the_image(z, task):
    p = probabilities(z)
    np.testing.assert_allclose(noisy_or(p, of_image(p, 'cab'), task).loc[['c', 'a', 'b']], p, atol=1e-12)

@given(st.lists(st.sampled_from(range(3)), min_size=1, max_size=6))
def test_certain_parts(classes):
    p = pd.DataFrame(np.eye(3)[classes], [f'part{k}' for k in range(len(classes))], CLASSES)
    assert noisy_or(p, of_image(p, 'a'*len(p)), 'multiclass').loc['a'].tolist() == np.eye(3)[max(classes)].tolist()
    assert noisy_or(p, of_image(p, 'a'*len(p))).loc['a'].tolist() == p.max().tolist()

@given(st.integers(1, 40).flatmap(lambda n: st.tuples(arrays(float, (n, 3), elements=st.floats(-700, 700)),
                                                      st.lists(st.sampled_from('abcd'), min_size=n,
                                                               max_size=n))), st.randoms())
def test_probabilities_stay_probabilities(case, random):
    "However extreme, and in whatever order the parts come; one more part never makes an image better"
    p, of = probabilities(case[0]), case[1]
    order = list(p.index); random.shuffle(order)
    for task in ('multilabel', 'multiclass'):
        s = noisy_or(p, of_image(p, of), task)
        assert set(s.index) == set(of) and ((s >= 0) & (s <= 1)).all(axis=None)
        if task == 'multiclass': np.testing.assert_allclose(s.sum(axis=1), 1)
        pd.testing.assert_frame_equal(noisy_or(p.loc[order], of_image(p, of), task).loc[s.index], s, atol=1e-12)
        if len(p) > 1:
            fewer = noisy_or(p.iloc[1:], of_image(p, of).iloc[1:], task)
            assert (s.cancer.loc[fewer.index] >= fewer.cancer - 1e-12).all()

def test_parts_that_cannot_be_read():
    "They are passed over; an image with no other has no label"
    p = probabilities([[1, 2, 3], [3, 2, 1], [0, 0, 1], [1, 1, 0]])
    q = p.copy(); q.iloc[[1, 3]] = np.nan
    for task in ('multilabel', 'multiclass'):
        s = noisy_or(q, of_image(p, 'aabc'), task)
        np.testing.assert_allclose(s.loc['a'], p.iloc[0]); np.testing.assert_allclose(s.loc['b'], p.iloc[2])
        assert s.loc['c'].isna().all() and s.index.tolist() == ['a', 'b', 'c']

def test_parts_and_images_must_match():
    p = probabilities([[1, 2, 3], [3, 2, 1]])
    for of in (of_image(p, 'aa').iloc[:1], of_image(p, 'aa').rename(index=dict(part0='other'))):
        with pytest.raises(ValueError, match='one row for each part'): noisy_or(p, of)

def with_parts(task='multiclass', n=60, seed=0):
    "Images of one to three parts; two images have none"
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    of = np.sort(rng.integers(0, n//2, n))
    if task == 'multiclass': y = np.eye(3)[np.digitize(x + rng.normal(0, .5, n), [-.5, .7])]
    else: y = rng.integers(0, 2, (n, 3))
    ids, images, patients = [f'part{i}' for i in range(n)], [f'im{k}' for k in of], [f'p{k//2}' for k in of]
    parts = pd.DataFrame(y, columns=CLASSES).assign(image_id=ids, of=images, patient_id=patients, split='train',
                                                    image='x.png', grade=np.rint(2*x), device=rng.choice(['A', 'B'], n))
    parts = Cohort(parts.sample(frac=1, random_state=seed), CLASSES, tabular=['grade', 'device'], task=task)
    ids = [f'im{k}' for k in range(n//2)] + ['bare1', 'bare2']
    items = pd.DataFrame(dict(image_id=ids, patient_id=[f'p{k//2}' for k in range(len(ids))], split='train',
                              image='x.png')).assign(**dict.fromkeys(CLASSES, np.nan))
    return Cohort(items.sample(frac=1, random_state=seed), CLASSES, task=task, parts=parts)

@pytest.mark.parametrize('how', HOW)
@pytest.mark.parametrize('task', ['multilabel', 'multiclass'])
def test_soft_labels_of_images_with_parts(how, task):
    c = with_parts(task)
    t = ForestTeacher(40, 1).fit(c.parts)
    s = soft_labels(t, c, how, folds=3)
    assert s.index.tolist() == c.items.image_id.tolist() and s.columns.tolist() == CLASSES
    bare = ~s.index.isin(c.parts.items.of)
    assert {'bare1', 'bare2'} <= set(s.index[bare]) and s[bare].isna().all(axis=None)
    assert s[~bare].notna().all(axis=None)
    of_part = soft_labels(t, c.parts, how, folds=3)
    of = c.parts.items.set_index('image_id').of
    pd.testing.assert_frame_equal(s[~bare], noisy_or(of_part, of, task).loc[s.index[~bare]], check_names=False,
                                  atol=1e-12)
    assert s.attrs == dict(how=how, T=1., teacher='ForestTeacher')

@pytest.mark.parametrize('task', ['multilabel', 'multiclass'])
def test_temperature_softens_the_image(task):
    "Towards not knowing, however many parts it has; and for one part as if it were the image"
    c = with_parts(task)
    t = ForestTeacher(40).fit(c.parts)
    hot, warm, z = soft_labels(t, c, 'in-sample', T=1e6), soft_labels(t, c, 'in-sample', T=2.), t.logits(c.parts)
    assert abs(hot.dropna() - (.5 if task == 'multilabel' else 1/3)).max(axis=None) < 1e-4
    n = c.parts.items.of.value_counts()
    single = c.parts.items[c.parts.items.of.isin(n.index[n == 1])]
    assert len(single) > 5
    np.testing.assert_allclose(warm.loc[single.of], soften(z.loc[single.image_id], 2., task), atol=1e-9)

def test_a_certain_part_is_not_a_nan():
    "A language model may answer beyond what a probability can hold"
    c = with_parts()
    z = pd.DataFrame(0., c.parts.items.image_id, CLASSES).assign(cancer=2000.)
    s = soften(pool_parts(z, c), 3., 'multiclass')
    assert np.nanmin(s[:, 2]) == 1 and np.isnan(s).any(axis=1).sum() == (~c.items.image_id.isin(c.parts.items.of)).sum()

def test_folds_are_made_of_the_parts_patients(log):
    c = with_parts()
    class PartSpy(Spy):
        def logits(self, cohort):
            self.log.append((self.seen, cohort))
            return pd.DataFrame(0., cohort.items.image_id, CLASSES)
    soft_labels(PartSpy(), c, 'out-of-fold', folds=4)
    assert len(log) == 4
    for seen, asked in log:
        assert not set(seen.items.patient_id) & set(asked.items.patient_id)
        assert not set(seen.items.of) & set(asked.items.of)


# Controls

TASKS = ['multilabel', 'multiclass']

def labelled(seed=0, n=40, C=3, task='multilabel', blank_y=.2, blank_s=.2):
    "Soft labels that follow the hard ones a little; blanks in both, in 'multiclass' by whole rows; in another order"
    rng = np.random.default_rng(seed)
    ids, names = [f'im{i}' for i in rng.permutation(n)], [f'c{k}' for k in range(C)]
    if task == 'multilabel':
        y = (rng.random((n, C)) < .4)*1.
        s = expit(rng.normal(2*y - 1, 1))
        y[rng.random((n, C)) < blank_y], s[rng.random((n, C)) < blank_s] = np.nan, np.nan
    else:
        y = np.eye(C)[rng.integers(0, C, n)]
        s = softmax(rng.normal(2*y, 1), axis=1)
        y[rng.random(n) < blank_y], s[rng.random(n) < blank_s] = np.nan, np.nan
    s, y = (pd.DataFrame(v, pd.Index(ids, name='image_id'), names) for v in (s, y))
    s.attrs = dict(how='out-of-bag', T=2., teacher='ForestTeacher')
    return s, y.sample(frac=1, random_state=seed)[names[::-1]]

any_table = st.fixed_dictionaries(dict(seed=st.integers(0, 999), n=st.integers(1, 60), C=st.integers(1, 5),
                                       task=st.sampled_from(TASKS),
                                       blank_y=st.sampled_from([0, .2, 1]), blank_s=st.sampled_from([0, .2, 1])))

@settings(max_examples=30)
@given(any_table, st.sampled_from(CONTROLS), st.integers(0, 9))
def test_a_control_looks_like_the_teacher(how, kind, seed):
    (s, y), task = labelled(**how), how['task']
    before = s.copy(), y.copy()
    c = control_labels(kind, s, y, task, seed)
    assert c.index.equals(s.index) and c.index.name == 'image_id' and c.columns.equals(s.columns)
    assert (c.dtypes == float).all()
    pd.testing.assert_frame_equal(c.isna(), s.isna())
    assert not ((c < 0) | (c > 1)).any(axis=None)
    if task == 'multiclass': np.testing.assert_allclose(c.dropna().sum(axis=1), 1)
    assert c.attrs == dict(how=kind, matched='out-of-bag', T=2., teacher='ForestTeacher')
    pd.testing.assert_frame_equal(c, control_labels(kind, s, y, task, seed))
    # neither table was written to
    for a, b in zip(before, (s, y)): pd.testing.assert_frame_equal(a, b)

def grouped(s, y, c, task):
    "Rows of teacher and control by hard label, as sorted lists of tuples; one finding at a time in 'multilabel'"
    for columns in [[c] for c in s] if task == 'multilabel' else [list(s)]:
        label = y.loc[s.index, columns].fillna(-1).apply(tuple, axis=1)
        for v in set(label):
            ids = label.index[label == v]
            yield v, *(sorted(map(tuple, t.loc[ids, columns].dropna().to_numpy().tolist())) for t in (s, c))

@settings(max_examples=30)
@given(any_table)
def test_shuffled_keeps_what_each_hard_label_has(how):
    (s, y), task = labelled(**how), how['task']
    c = control_labels('shuffled', s, y, task)
    for _, theirs, mine in grouped(s, y, c, task): assert theirs == mine
    if task == 'multilabel':
        pd.testing.assert_series_equal(class_auroc(y, c[y.columns]), class_auroc(y, s[y.columns]), rtol=1e-12)

@settings(max_examples=30)
@given(any_table)
def test_class_mean_is_the_mean(how):
    (s, y), task = labelled(**how), how['task']
    c = control_labels('class-mean', s, y, task)
    for v, theirs, mine in grouped(s, y, c, task):
        if theirs: np.testing.assert_allclose(mine, np.tile(np.mean(theirs, axis=0), (len(theirs), 1)), atol=1e-12)
        # the gap of each label
        if theirs and set(v) <= {0, 1}:
            np.testing.assert_allclose(abs(np.array(mine) - v).mean(), abs(np.array(theirs) - v).mean(), atol=1e-12)
    pd.testing.assert_frame_equal(control_labels('class-mean', c, y, task), c, atol=1e-12)

@settings(max_examples=30)
@given(any_table)
def test_permuted_keeps_whole_rows(how):
    (s, y), task = labelled(**how), how['task']
    c = control_labels('permuted', s, y, task)
    rows = [sorted(map(tuple, t.fillna(-1).to_numpy().tolist())) for t in (s, c)]
    assert rows[0] == rows[1]
    other = y.where(y.isna(), 1 - y) if task == 'multilabel' else y.set_axis(np.roll(y.columns, 1), axis=1)
    # it never looks at the hard label
    pd.testing.assert_frame_equal(c, control_labels('permuted', s, other, task))

@settings(max_examples=30)
@given(any_table)
def test_smoothing_moves_labels_as_far_as_the_teacher(how):
    (s, y), task = labelled(**how), how['task']
    eps, c = matched_eps(s, y, task), control_labels('label-smoothing', s, y, task)
    assert not (eps < 0).any() and not (eps > 1).any()
    if task == 'multiclass': assert eps.nunique() <= 1
    for k in s if task == 'multilabel' else [list(s)]:
        theirs, mine = (np.nanmean(d) if d.notna().any(axis=None) else np.nan
                        for d in ((s[k] - y[k]).abs(), (c[k] - y[k]).abs()))
        if (np.atleast_1d(eps[k]) < 1).all() or np.isnan(theirs): np.testing.assert_allclose(mine, theirs, atol=1e-12)
        # the cap: it never turns the label round
        else: assert mine <= theirs + 1e-12
    unknown = y.loc[s.index, s.columns].isna() & s.notna()
    np.testing.assert_allclose(c.to_numpy()[unknown], 1/2 if task == 'multilabel' else 1/how['C'])

def test_smoothing_by_hand():
    y = pd.DataFrame(dict(a=[1., 0., np.nan, 1.], b=[0., 0., 1., 1.]), list('ijkl'))
    s = pd.DataFrame(dict(a=[.9, .3, .6, np.nan], b=[.9, .8, .1, .4]), list('ijkl'))
    # b is wrong more often than right
    np.testing.assert_allclose(matched_eps(s, y), [.4, 1])
    np.testing.assert_allclose(control_labels('label-smoothing', s, y), [[.8, .5], [.2, .5], [.5, .5], [np.nan, .5]])
    y3 = pd.DataFrame(np.eye(3), list('ijk'), list('abc'))
    # smoothing by .3 in another guise
    s3 = y3*.7 + .1
    np.testing.assert_allclose(control_labels('label-smoothing', s3, y3, 'multiclass'), s3)
    np.testing.assert_allclose(smooth(y3, pd.Series(.3, list('abc')), 'multiclass'), s3)

@settings(max_examples=20)
@given(st.integers(0, 99), st.sampled_from(TASKS), st.sampled_from(CONTROLS))
def test_the_order_of_rows_is_no_matter(seed, task, kind):
    s, y = labelled(seed, task=task)
    c = control_labels(kind, s.sample(frac=1, random_state=seed), y.iloc[::-1], task, seed)
    pd.testing.assert_frame_equal(c.loc[s.index], control_labels(kind, s, y, task, seed))

@pytest.mark.parametrize('task', TASKS)
def test_seeds_exchange_differently(task):
    s, y = labelled(n=200, task=task)
    for kind in ('shuffled', 'permuted'):
        a, b = (control_labels(kind, s, y, task, seed) for seed in (0, 1))
        moved = (a != s) & s.notna()
        assert not a.equals(b) and moved.to_numpy().mean() > .5*s.notna().to_numpy().mean()
    for kind in ('label-smoothing', 'class-mean'):
        pd.testing.assert_frame_equal(*(control_labels(kind, s, y, task, seed) for seed in (0, 1)))

def test_findings_are_shuffled_apart():
    "In one piece they would stay together, image by image"
    s, _ = labelled(n=500, C=2, blank_s=0)
    s['c1'] = s['c0']
    y = pd.DataFrame(0., s.index, s.columns)
    apart, together = control_labels('shuffled', s, y), control_labels('permuted', s, y)
    assert abs(apart.corr().iloc[0, 1]) < .2 and (together.c0 == together.c1).all()

@settings(max_examples=20)
@given(st.integers(0, 99), st.sampled_from(TASKS), arrays(float, (2, 3), elements=st.floats(-5, 5)))
def test_to_a_student_that_knows_the_label_only_the_class_mean_is_the_teacher(seed, task, logits):
    "The cross-entropy is linear in its target"
    s, y = labelled(seed, task=task, blank_y=0, blank_s=0)
    z = logits[0] + y.loc[s.index, s.columns].to_numpy()*logits[1]
    c = control_labels('class-mean', s, y, task).to_numpy()
    def loss(t):
        if task == 'multiclass': return -(t*log_softmax(z, axis=1)).sum(axis=1).mean()
        return -(t*np.log(expit(z)) + (1 - t)*np.log(expit(-z))).mean()
    assert loss(c) == pytest.approx(loss(s.to_numpy()))

@pytest.mark.parametrize('c', [cohort(), with_parts()], ids=['images', 'parts'])
def test_controls_of_a_real_teacher_survive_a_file(tmp_path, c):
    s = soft_labels(ForestTeacher(50, 1).fit(c.parts or c), c, 'out-of-bag', T=1.5)
    for kind in CONTROLS:
        r = control_labels(kind, s, c.y(), c.task)
        r.to_parquet(tmp_path/'c.parquet')
        again = pd.read_parquet(tmp_path/'c.parquet')
        pd.testing.assert_frame_equal(again, r)
        assert again.attrs == dict(how=kind, matched='out-of-bag', T=1.5, teacher='ForestTeacher')
        pd.testing.assert_frame_equal(r.isna(), s.isna())

def test_controls_that_cannot_be():
    s, y = labelled()
    with pytest.raises(ValueError, match='kind must be one of label-smoothing, class-mean, shuffled, permuted'):
        control_labels('smoothing', s, y)
    with pytest.raises(ValueError, match="task must be 'multilabel' or 'multiclass'"):
        control_labels('shuffled', s, y, 'regression')
    with pytest.raises(ValueError, match='s must be soft labels between 0 and 1, not logits; they go from -5 to'):
        control_labels('shuffled', s.fillna(-5), y)
    with pytest.raises(ValueError, match='y and s must be of the same images; 1 are in one'):
        control_labels('shuffled', s, y.drop(index='im3'))
    with pytest.raises(ValueError, match="y and s must be of the same images; 1 are in one of .*, such as 'im3'"):
        control_labels('shuffled', s.drop(index='im3'), y)
    with pytest.raises(ValueError, match='y and s must have the same classes'):
        control_labels('shuffled', s, y.rename(columns=dict(c0='other')))
    with pytest.raises(ValueError, match="s has image 'im3' more than once"):
        control_labels('shuffled', pd.concat([s, s.loc[['im3']]]), y)
    with pytest.raises(ValueError, match="y has image 'im3' more than once"):
        control_labels('shuffled', s, pd.concat([y, y.loc[['im3']]]))
    with pytest.raises(ValueError, match="label 'c1' of image 'im[0-9]+' is 0.5; a label must be 0, 1 or blank"):
        control_labels('shuffled', s, y.assign(c1=.5).sort_index())
    s, y = labelled(task='multiclass', blank_s=0)
    with pytest.raises(ValueError, match="image 'im[0-9]+' in s do not add up to 1"):
        control_labels('shuffled', s*.9, y, 'multiclass')
    with pytest.raises(ValueError, match="image 'im7' in s do not add up to 1"):
        control_labels('shuffled', s.assign(c0=s.c0.where(s.index != 'im7')), y, 'multiclass')
    with pytest.raises(ValueError, match='must belong to exactly one of'):
        control_labels('shuffled', s, y.fillna(0).clip(lower=1), 'multiclass')

@pytest.mark.parametrize('kind', CONTROLS)
def test_a_teacher_that_could_not_read_anything(kind):
    s, y = labelled()
    assert control_labels(kind, s*np.nan, y).isna().all(axis=None)
    assert control_labels(kind, s.iloc[:0], y.iloc[:0]).shape == (0, 3)


# A temperature that fits

def cross_entropy_at(z, y, T, task):
    z, y = z.to_numpy()/T, y.loc[z.index, z.columns].to_numpy()
    if task == 'multilabel':
        known = ~np.isnan(z + y); return np.mean([-np.log(expit(a if b else -a)) for a, b in zip(z[known], y[known])])
    known = ~np.isnan(z + y).any(axis=1)
    return -(y*log_softmax(z, axis=1))[known].sum(axis=1).mean()

@settings(max_examples=15)
@given(st.integers(0, 999), st.sampled_from(TASKS), st.floats(.3, 3))
def test_no_temperature_of_a_grid_is_better(seed, task, loud):
    s, y = labelled(seed, n=120, task=task)
    z = loud*(logit(s) if task == 'multilabel' else np.log(s))
    T = best_temperature(z, y, task)
    best = min(cross_entropy_at(z, y, t, task) for t in np.geomspace(.05, 20, 200))
    assert .05 <= T <= 20 and cross_entropy_at(z, y, T, task) <= best + 1e-9
    assert best_temperature(z.iloc[::-1], y, task) == pytest.approx(T, rel=1e-3)
    if .1 < T < 5: assert best_temperature(2*z, y, task) == pytest.approx(2*T, rel=1e-3)

def test_two_classes_have_the_temperature_of_one_question():
    s, y = labelled(1, C=1, n=200)
    z = 2.5*logit(s.c0)
    two = pd.DataFrame(dict(yes=z, no=0*z))
    truth = pd.DataFrame(dict(yes=y.c0, no=1 - y.c0))
    T = best_temperature(z.to_frame(), y)
    for same in (two, two + 7): assert best_temperature(same, truth, 'multiclass') == pytest.approx(T, rel=1e-4)

def test_temperatures_at_the_bounds():
    y = pd.DataFrame(dict(a=[0., 1, 0, 1]), list('ijkl'))
    z = 4*y - 2
    # always right, always wrong
    assert best_temperature(z, y) == pytest.approx(.05) and best_temperature(-z, y) == pytest.approx(20)
    assert best_temperature(z, y, bounds=(.5, 3)) == pytest.approx(.5)
    assert best_temperature(-z, y, bounds=(.5, 3)) == pytest.approx(3)

def test_a_class_that_is_out_of_the_question():
    "Pooled parts may be certain; that is no harm where they are right"
    y = pd.DataFrame(np.eye(3)[[0, 1, 2, 1]], list('ijkl'), list('abc'))
    z = pd.DataFrame([[0, -np.inf, -1], [0, 1, -np.inf], [0, 0, -1], [1, 0, 0]], y.index, y.columns)
    assert .05 < best_temperature(z, y, 'multiclass') <= 20
    with pytest.raises(ValueError, match='z is infinite'): best_temperature(z.assign(c=-np.inf), y, 'multiclass')
    with pytest.raises(ValueError, match='z is infinite'):
        best_temperature(pd.DataFrame(dict(a=[np.inf, 1.]), list('ij')), pd.DataFrame(dict(a=[0, 1]), list('ij')))

def test_temperatures_that_cannot_be_found():
    s, y = labelled(blank_y=0)
    z = logit(s)
    with pytest.raises(ValueError, match='all known hard labels in y are 0'): best_temperature(z, y*0)
    with pytest.raises(ValueError, match='all known hard labels in y are 1'): best_temperature(z, y*0 + 1)
    for a, b in ((z*np.nan, y), (z, y*np.nan), (z.iloc[:0], y.iloc[:0])):
        with pytest.raises(ValueError, match='z and y have no image'): best_temperature(a, b)
    with pytest.raises(ValueError, match='y and z must be of the same images'): best_temperature(z, y.iloc[1:])
    for bounds in ((0, 1), (2, 1), (1, 1), (-1, 2), (1, np.inf), (np.nan, 2)):
        with pytest.raises(ValueError, match='bounds must be'): best_temperature(z, y, bounds=bounds)
    with pytest.raises(ValueError, match='must belong to exactly one'): best_temperature(z, y, 'multiclass')
    s, y = labelled(task='multiclass')
    one = y.where(y.isna(), 0).assign(c1=y.c1.where(y.isna().any(axis=1), 1))
    with pytest.raises(ValueError, match='in y are of one class'): best_temperature(np.log(s), one, 'multiclass')


# Calibration

@settings(max_examples=30)
@given(any_table, st.integers(1, 15))
def test_calibration_is_scikit_learns(how, bins):
    p, y = labelled(**how)
    table = calibration(y, p, bins)
    assert table.index.tolist() == p.columns.tolist()
    assert table.columns.tolist() == ['n', 'prevalence', 'mean p', 'log loss', 'Brier', 'ECE']
    assert table.attrs == dict(bins=bins)
    for c in p:
        t, q = y[c].loc[p.index].to_numpy(), p[c].to_numpy()
        known = ~np.isnan(t + q)
        t, q = t[known], q[known]
        assert table.n[c] == len(t)
        if not len(t): assert table.loc[c].drop('n').isna().all(); continue
        # (0, 1/bins], (1/bins, 2/bins], ...
        bin_of = np.ceil(q*bins).clip(1, bins)
        ece = sum((bin_of == k).mean()*abs(q[bin_of == k].mean() - t[bin_of == k].mean()) for k in set(bin_of))
        np.testing.assert_allclose(table.loc[c].astype(float),
                                   [len(t), t.mean(), q.mean(), log_loss(t, q, labels=[0, 1]),
                                    brier_score_loss(t, q, pos_label=1), ece], atol=1e-9)
        share, said = calibration_curve(t, q, n_bins=bins)
        r = reliability_curve(y[c].loc[p.index], p[c], bins)
        np.testing.assert_allclose(r['prevalence'], share)
        np.testing.assert_allclose(r['mean p'], said)
        assert r.n.sum() == len(t)

def test_calibration_at_the_edges():
    y, p = pd.Series([0., 0, 1, 1, 1]), pd.Series([0, .5, .5, .50001, 1])
    r = reliability_curve(y, p, 2)
    assert r.index.tolist() == [0, 1] and r.n.tolist() == [3, 2]
    perfect = calibration(y.to_frame('a'), y.to_frame('a')).loc['a', ['log loss', 'Brier', 'ECE']]
    assert perfect.max() == pytest.approx(0, abs=1e-9)
    assert calibration(y.to_frame('a'), 1 - y.to_frame('a')).ECE['a'] == 1
    assert np.isfinite(calibration(y.to_frame('a'), 1 - y.to_frame('a'))).all(axis=None)

def test_calibration_that_cannot_be():
    p, y = labelled()
    with pytest.raises(ValueError, match='p must be probabilities between 0 and 1; they go from'):
        calibration(y, logit(p))
    with pytest.raises(ValueError, match='y and p must be of the same images'): calibration(y.iloc[1:], p)
    for bins in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f'bins must be a whole number from 1 on, not {bins}'):
            calibration(y, p, bins)

def test_the_diagram_shows_the_table():
    p, y = labelled()
    p['c2'] = np.nan
    ax = show_calibration(y, p, 5, title='a forest')
    # the first is the diagonal
    lines = {line.get_label().split(',')[0]: line for line in ax.lines[1:]}
    assert set(lines) == {'c0', 'c1'} and ax.get_title() == 'a forest' and len(ax.get_legend().texts) == 2
    for c, line in lines.items():
        curve = reliability_curve(y[c].loc[p.index], p[c], 5)
        np.testing.assert_allclose(line.get_xydata(), curve[['mean p', 'prevalence']])
    own = plt.figure().subplots()
    assert show_calibration(y, p*np.nan, ax=own) is own and len(own.lines) == 1
    plt.close('all')
