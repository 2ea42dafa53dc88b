"Corner cases of mmpkd.soft_labels: who has seen whom, temperatures, images with several parts, files"
from itertools import product

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, logit, softmax

from mmpkd.cohort import Cohort
from mmpkd.soft_labels import HOW, gap, out_of_fold, pool_parts, soft_labels, soften, worst_of
from mmpkd.teachers import BagOfWordsTeacher, ForestTeacher

N = 40

def cohort(n=N, per_patient=3, task='multilabel', seed=0):
    "Images in a shuffled order, up to three of each patient, so that no order gives the folds away"
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    labels = dict(mass=(x > 0)*1., calc=(x <= 0)*1.)
    t = pd.DataFrame(labels | dict(image_id=[f'im{i}' for i in range(n)], patient_id=[f'p{i//per_patient}' for i in range(n)], split='train', image='x.png',
                                   grade=np.rint(2*x), device=rng.choice(['A', 'B'], n), report=np.where(x + rng.normal(0, .5, n) > 0, 'large shadow', 'all clear')))
    return Cohort(t.sample(frac=1, random_state=seed), ['mass', 'calc'], text='report', tabular=['grade', 'device'], task=task)

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
        assert sorted([*seen.items.image_id, *asked.items.image_id]) == sorted(c.items.image_id)      # all others were learned from
    assert sorted(i for _, asked in Spy.log for i in asked.items.image_id) == sorted(c.items.image_id)  # each is asked about once
    assert z.index.tolist() == c.items.image_id.tolist() and (z.mass == c.items.image_id.str[2:].astype(float).to_numpy()).all()

def test_the_teacher_stays_as_it_was():
    c = cohort()
    t = ForestTeacher(50).fit(c)
    before = t.oob_logits(c)
    models = dict(t.models)
    out_of_fold(t, c, 3)
    assert t.models == models and t.fitted_on['mass'] == c.items.image_id.tolist()
    pd.testing.assert_frame_equal(t.oob_logits(c), before)
    assert not hasattr(fresh := ForestTeacher(50), 'models') and out_of_fold(fresh, c, 3).notna().all(axis=None) and not hasattr(fresh, 'models')

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
    with pytest.raises(ValueError, match=f'between 2 and the number of patients, 14, not {folds}'): out_of_fold(Spy(), cohort(), folds)

@pytest.mark.parametrize('folds', [2, 14])
def test_folds_that_just_can(log, folds):                                    # 14: leave one patient out
    out_of_fold(Spy(), cohort(), folds)
    assert len(log) == folds

def test_one_patient_is_too_few():
    with pytest.raises(ValueError, match='the number of patients, 1, not 5'): soft_labels(forest, cohort(3), 'out-of-fold')

def test_a_fold_with_one_answer_only():
    c = cohort(6, per_patient=3)
    items = c.items.assign(mass=(c.items.patient_id == 'p0')*1., calc=(c.items.patient_id == 'p1')*1.)
    with pytest.raises(ValueError, match='at least two different ones'): out_of_fold(forest, Cohort(items, c.labels, tabular=c.tabular), 2)

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
        assert (hot.max(axis=-1) <= cold.max(axis=-1) + 1e-12).all() and (hot.min(axis=-1) >= cold.min(axis=-1) - 1e-12).all()

@given(st.floats(-10, 10), st.floats(.5, 50))
def test_temperature_divides_the_logit(z, T): assert logit(soften([[z]], T)).item() == pytest.approx(z/T, abs=1e-6)

@given(st.floats(-15, 15), temperatures)
def test_two_classes_are_one_question(z, T): assert soften([[z, 0.]], T, 'multiclass')[0, 0] == pytest.approx(expit(z/T))

@given(finite)
def test_a_constant_changes_nothing_among_classes(z): np.testing.assert_allclose(soften(z + 1000, 1., 'multiclass'), soften(z, 1., 'multiclass'), atol=1e-9)

@pytest.mark.parametrize('T', [0, -1, np.nan, -np.inf])
def test_temperatures_that_cannot_be(T):
    with pytest.raises(ValueError, match='T must be above 0'): soften([[1.]], T)
    with pytest.raises(ValueError, match='T must be above 0'): soft_labels(ForestTeacher(50).fit(cohort()), cohort(), 'in-sample', T=T)

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

def test_gap():
    y = pd.DataFrame(dict(a=[0., 1., np.nan], b=[1., np.nan, 0.]), list('ijk'))
    s = pd.DataFrame(dict(b=[.5, .9, np.nan], a=[.25, 1., .7]), list('ijk'))
    assert gap(y, y) == 0 and gap(y, s.iloc[::-1]) == pytest.approx((.25 + 0 + .5)/3)           # known in both, joined by name
    with pytest.raises(KeyError): gap(y, s.iloc[:2])


# Images with several parts

CLASSES = ['none', 'benign', 'cancer']

def probabilities(rows): return pd.DataFrame(softmax(np.array(rows, float), axis=1), [f'part{k}' for k in range(len(rows))], CLASSES)

def of_image(p, names): return pd.Series(list(names), p.index, name='image_id')

three = arrays(float, (3, 3), elements=st.floats(-6, 6))

@given(three)
def test_the_worst_of_three_parts_by_enumeration(z):
    "Sum over all 27 combinations of classes, and over all 8 of yes and no"
    p = probabilities(z)
    worst = np.zeros(3)
    for k in product(range(3), repeat=3): worst[max(k)] += np.prod([p.iloc[j, c] for j, c in enumerate(k)])
    np.testing.assert_allclose(worst_of(p, of_image(p, 'aaa'), 'multiclass').loc['a'], worst, atol=1e-12)
    any_ = np.zeros(3)
    for k in product([0, 1], repeat=3):
        if max(k): any_ += np.prod([p.to_numpy()[j] if c else 1 - p.to_numpy()[j] for j, c in enumerate(k)], axis=0)
    np.testing.assert_allclose(worst_of(p, of_image(p, 'aaa')).loc['a'], any_, atol=1e-12)

@given(three, st.sampled_from(['multilabel', 'multiclass']))
def test_one_part_is_the_image(z, task):
    p = probabilities(z)
    np.testing.assert_allclose(worst_of(p, of_image(p, 'cab'), task).loc[['c', 'a', 'b']], p, atol=1e-12)

@given(st.lists(st.sampled_from(range(3)), min_size=1, max_size=6))
def test_certain_parts(classes):
    p = pd.DataFrame(np.eye(3)[classes], [f'part{k}' for k in range(len(classes))], CLASSES)
    assert worst_of(p, of_image(p, 'a'*len(p)), 'multiclass').loc['a'].tolist() == np.eye(3)[max(classes)].tolist()
    assert worst_of(p, of_image(p, 'a'*len(p))).loc['a'].tolist() == p.max().tolist()

@given(st.integers(1, 40).flatmap(lambda n: st.tuples(arrays(float, (n, 3), elements=st.floats(-700, 700)), st.lists(st.sampled_from('abcd'), min_size=n, max_size=n))), st.randoms())
def test_probabilities_stay_probabilities(case, random):
    "However extreme, and in whatever order the parts come; one more part never makes an image better"
    p, of = probabilities(case[0]), case[1]
    order = list(p.index); random.shuffle(order)
    for task in ('multilabel', 'multiclass'):
        s = worst_of(p, of_image(p, of), task)
        assert set(s.index) == set(of) and ((s >= 0) & (s <= 1)).all(axis=None)
        if task == 'multiclass': np.testing.assert_allclose(s.sum(axis=1), 1)
        pd.testing.assert_frame_equal(worst_of(p.loc[order], of_image(p, of), task).loc[s.index], s, atol=1e-12)
        if len(p) > 1:
            fewer = worst_of(p.iloc[1:], of_image(p, of).iloc[1:], task)
            assert (s.cancer.loc[fewer.index] >= fewer.cancer - 1e-12).all()

def test_parts_that_cannot_be_read():
    "They are passed over; an image with no other has no label"
    p = probabilities([[1, 2, 3], [3, 2, 1], [0, 0, 1], [1, 1, 0]])
    q = p.copy(); q.iloc[[1, 3]] = np.nan
    for task in ('multilabel', 'multiclass'):
        s = worst_of(q, of_image(p, 'aabc'), task)
        np.testing.assert_allclose(s.loc['a'], p.iloc[0]); np.testing.assert_allclose(s.loc['b'], p.iloc[2])
        assert s.loc['c'].isna().all() and s.index.tolist() == ['a', 'b', 'c']

def test_parts_and_images_must_match():
    p = probabilities([[1, 2, 3], [3, 2, 1]])
    for of in (of_image(p, 'aa').iloc[:1], of_image(p, 'aa').rename(index=dict(part0='other'))):
        with pytest.raises(ValueError, match='one row for each part'): worst_of(p, of)

def with_parts(task='multiclass', n=60, seed=0):
    "Images of one to three parts; two images have none"
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    of = np.sort(rng.integers(0, n//2, n))
    y = np.eye(3)[np.digitize(x + rng.normal(0, .5, n), [-.5, .7])] if task == 'multiclass' else rng.integers(0, 2, (n, 3))
    parts = pd.DataFrame(y, columns=CLASSES).assign(image_id=[f'part{i}' for i in range(n)], of=[f'im{k}' for k in of], patient_id=[f'p{k//2}' for k in of], split='train', image='x.png', grade=np.rint(2*x), device=rng.choice(['A', 'B'], n))
    parts = Cohort(parts.sample(frac=1, random_state=seed), CLASSES, tabular=['grade', 'device'], task=task)
    ids = [f'im{k}' for k in range(n//2)] + ['bare1', 'bare2']
    items = pd.DataFrame(dict(image_id=ids, patient_id=[f'p{k//2}' for k in range(len(ids))], split='train', image='x.png')).assign(**dict.fromkeys(CLASSES, np.nan))
    return Cohort(items.sample(frac=1, random_state=seed), CLASSES, task=task, parts=parts)

@pytest.mark.parametrize('how', HOW)
@pytest.mark.parametrize('task', ['multilabel', 'multiclass'])
def test_soft_labels_of_images_with_parts(how, task):
    c = with_parts(task)
    t = ForestTeacher(40, 1).fit(c.parts)
    s = soft_labels(t, c, how, folds=3)
    assert s.index.tolist() == c.items.image_id.tolist() and s.columns.tolist() == CLASSES
    bare = ~s.index.isin(c.parts.items.of)
    assert {'bare1', 'bare2'} <= set(s.index[bare]) and s[bare].isna().all(axis=None) and s[~bare].notna().all(axis=None)
    of_part = soft_labels(t, c.parts, how, folds=3)
    of = c.parts.items.set_index('image_id').of
    pd.testing.assert_frame_equal(s[~bare], worst_of(of_part, of, task).loc[s.index[~bare]], check_names=False, atol=1e-12)
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
        assert not set(seen.items.patient_id) & set(asked.items.patient_id) and not set(seen.items.of) & set(asked.items.of)
