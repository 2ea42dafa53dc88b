"Corner cases of mmpkd.teachers: what is left out, what was never seen, and what a file may hold"
import zipfile

import numpy as np, pandas as pd, pytest, skops.io
from hypothesis import given, strategies as st
from scipy.special import expit, softmax
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import FunctionTransformer

from mmpkd.cohort import Cohort
from mmpkd.teachers import (BagOfWordsTeacher, ForestTeacher, class_auroc, load_teacher, macro_auroc, make_teacher, questions, save_teacher,
                            tabular_features)

N = 60

def cohort(n=N, seed=0, task='multilabel', ids='im', **changes):
    "Two findings that the metadata and the report know something of; or three classes"
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    kind = np.digitize(x + rng.normal(0, .5, n), [-.5, .5])
    labels = {c: (kind == k).astype(float) for k, c in enumerate(['none', 'benign', 'cancer'])} if task == 'multiclass' else dict(mass=(x > 0).astype(float), calc=(kind == 2).astype(float))
    t = pd.DataFrame(labels | dict(image_id=[f'{ids}{i}' for i in range(n)], patient_id=[f'{ids}{i//2}' for i in range(n)], split='train', image='x.png',
                                   grade=np.rint(x) + 0., size=x + rng.normal(size=n), device=rng.choice(['A', 'B'], n),
                                   report=np.where(x + rng.normal(0, .5, n) > 0, 'a large shadow', 'all clear')))
    return Cohort(t.assign(**changes), list(labels), text='report', tabular=['grade', 'size', 'device'], task=task)

def forest(**kwargs): return ForestTeacher(**dict(n_estimators=30, min_samples_leaf=2) | kwargs)

TEACHERS = [forest, BagOfWordsTeacher]

def but(column, rows, value): # A column of `cohort` with other values
    x = cohort().items[column].astype(object)
    x[rows] = value
    return {column: x}


# What is left out

@pytest.mark.parametrize('make', TEACHERS)
@pytest.mark.parametrize('task', ['multilabel', 'multiclass'])
def test_images_without_a_label_teach_nothing(make, task):
    "Training with a blank label is training without the image"
    c = cohort(task=task)
    y = c.labels if task == 'multiclass' else ['mass']
    blank = c.items.copy()
    blank.loc[[3, 8, 30], y] = np.nan
    b = Cohort(blank, c.labels, text='report', tabular=c.tabular, task=task)
    fewer = c.take(c.items.image_id.drop([3, 8, 30]))
    pd.testing.assert_frame_equal(make().fit(b).logits(c)[y], make().fit(fewer).logits(c)[y])
    for name, ids in make().fit(b).fitted_on.items(): assert len(ids) == (57 if name in ('mass', 'class') else 60)
    assert make().fit(b).logits(b).notna().all(axis=None)                    # it answers for them all the same

@pytest.mark.parametrize('make,columns', [(forest, ['grade', 'size', 'device']), (BagOfWordsTeacher, ['report'])])
def test_without_privileged_information_there_is_no_answer(make, columns):
    items = cohort().items.copy()
    for c in columns:
        items[c] = items[c].astype(object)
        items.loc[[2, 9], c] = None
        if c in ('grade', 'size'): items[c] = items[c].astype(float)
    c = Cohort(items, ['mass', 'calc'], text='report', tabular=['grade', 'size', 'device'])
    teacher = make().fit(c)
    z = teacher.logits(c)
    assert z.index.tolist() == c.items.image_id.tolist() and z.isna().all(axis=1).to_numpy().nonzero()[0].tolist() == [2, 9] and z.isna().any(axis=1).sum() == 2
    assert 'im2' not in teacher.fitted_on['mass']
    assert teacher.logits(c.take(['im2', 'im9'])).isna().all(axis=None)
    if hasattr(teacher, 'oob_logits'): assert teacher.oob_logits(c).isna().all(axis=1).sum() == 2

@pytest.mark.parametrize('make', TEACHERS)
@pytest.mark.parametrize('value', [0., 1.])
def test_all_answers_the_same(make, value):
    with pytest.raises(ValueError, match=rf"all 60 known answers for 'calc' are \[{value:.0f}\]; .* at least two"): make().fit(cohort(calc=value))
    y = np.where(np.arange(N) < 50, value, np.nan)
    with pytest.raises(ValueError, match="all 50 known answers for 'calc'"): make().fit(cohort(calc=y))
    with pytest.raises(ValueError, match="all 0 known answers for 'calc' are"): make().fit(cohort(calc=np.nan))

def test_one_class_only():
    c = cohort(task='multiclass', none=0., benign=1., cancer=0.)
    with pytest.raises(ValueError, match=r"all 60 known answers for 'class' are \['benign'\]"): forest().fit(c)

def test_nothing_to_read():
    c = cohort()
    for make, what in ((forest, 'tabular'), (BagOfWordsTeacher, 'text')):
        with pytest.raises(ValueError, match=f"reads {what} columns, and cohort 'dumb' names none"): make().fit(Cohort(c.items, c.labels, name='dumb'))


# Several classes

def test_questions_of_several_classes():
    c = cohort(task='multiclass')
    items = c.items.copy(); items.loc[4, c.labels] = np.nan
    q = questions(Cohort(items, c.labels, task='multiclass'))
    assert list(q) == ['class'] and q['class'].index.tolist() == c.items.image_id.tolist() and pd.isna(q['class']['im4'])
    for i in ('im0', 'im7', 'im59'): assert c.y().loc[i, q['class'][i]] == 1

@pytest.mark.parametrize('order', [['none', 'benign', 'cancer'], ['cancer', 'none', 'benign']])
def test_classes_keep_their_names(order):
    "Softmax of the logits is scikit-learn's predict_proba, class by class, up to the clipping"
    c = cohort(task='multiclass')
    c = Cohort(c.items, order, text='report', tabular=c.tabular, task='multiclass')
    for make in TEACHERS:
        t = make().fit(c)
        z, model = t.logits(c), t.models['class']
        p = pd.DataFrame(model.predict_proba(t.inputs(c)), z.index, model.classes_)[order]
        assert z.columns.tolist() == order
        np.testing.assert_allclose(softmax(z.to_numpy(), axis=1), p, atol=3*t.eps)
        assert macro_auroc(c.y(), z) > .6
    z = forest().fit(c).oob_logits(c)
    assert z.columns.tolist() == order and .6 < macro_auroc(c.y(), z) < .999

def test_a_class_nobody_showed():
    "A class without training images is improbable, not an error"
    c = cohort(task='multiclass')
    t = forest().fit(c.take(c.items.image_id[c.items.cancer == 0]))
    assert t.labels == c.labels and (t.logits(c).cancer == np.log(t.eps)).all()

@pytest.mark.parametrize('task', ['multilabel', 'multiclass'])
def test_no_logit_is_infinite(task):
    c = cohort(task=task)
    t = forest(min_samples_leaf=1).fit(c)
    z = t.logits(c).to_numpy()
    assert np.isfinite(z).all() and (abs(z) <= abs(np.log(t.eps)) + 1e-6).all()
    if task == 'multilabel': np.testing.assert_allclose(expit(z[:, 0]), t.models['mass'].predict_proba(t.inputs(c))[:, 1], atol=t.eps + 1e-12)


# Metadata as they come

@pytest.mark.parametrize('train,test', [
    (dict(device=['A', 'B']*30), dict(device=['C', None]*30)),                                                      # unseen, and missing only now
    (dict(device=['A', None]*30), dict(device=['A', 'C']*30)),
    (dict(grade=[1., 2.]*30), dict(grade=[3., np.nan]*30)),
    (dict(), dict(size=np.nan)),                                                                                    # an amount that is missing only now
    (dict(size=np.where(np.arange(N) % 3, np.arange(N), np.nan)), dict()),
    (dict(size=np.nan), dict()),                                                                                    # nothing at all to learn from
    (dict(grade=pd.array([1, None]*30, dtype='Int64')), dict(grade=pd.array([2, None]*30, dtype='Int64'))),
    (dict(device=[True, False]*30), dict(device=[False, True]*30)),
    (dict(device=pd.Categorical(['A', None]*30)), dict(device=pd.Categorical(['C', None]*30))),
    (dict(device=pd.array(['A', None]*30, dtype='string')), dict(device=pd.array(['C', None]*30, dtype='string')))])
def test_a_forest_takes_what_it_never_saw(train, test):
    t = forest().fit(cohort(**train))
    z = t.logits(cohort(seed=1, **test))
    assert z.shape == (N, 2) and np.isfinite(z.to_numpy()).all()
    assert np.isfinite(t.oob_logits(cohort(**train)).to_numpy()).all()

def test_codes_are_categories_and_amounts_are_amounts():
    x = cohort().items[['grade', 'size', 'device']]
    names = tabular_features(x).fit(x).get_feature_names_out().tolist()
    assert 'size' in names and 'grade' not in names and {'device_A', 'device_B', 'grade_0.0'} <= set(names)
    missing = x.assign(device=x.device.where(x.index > 3), size=x['size'].where(x.index > 3))
    assert {'device_nan', 'missingindicator_size'} <= set(tabular_features(missing).fit(missing).get_feature_names_out())
    assert 'grade' in tabular_features(x, max_levels=2).fit(x).get_feature_names_out()

def test_columns_are_found_by_name():
    c = cohort()
    back = Cohort(c.items[c.items.columns[::-1]], c.labels, tabular=c.tabular[::-1])
    t = forest().fit(c)
    pd.testing.assert_frame_equal(t.logits(back), t.logits(c))


# Out of bag

def test_out_of_bag_joins_by_id():
    c = cohort()
    t = forest().fit(c)
    back = c.take(c.items.image_id[::-1])
    pd.testing.assert_frame_equal(t.oob_logits(back).loc[c.items.image_id], t.oob_logits(c))
    p = t.models['mass']['model'].oob_decision_function_[:, 1]
    np.testing.assert_allclose(expit(t.oob_logits(c).mass), p.clip(t.eps, 1 - t.eps))

def test_out_of_bag_falls_back_for_images_without_a_label():
    items = cohort().items.copy(); items.loc[[5, 6], 'mass'] = np.nan
    c = Cohort(items, ['mass', 'calc'], tabular=['grade', 'size', 'device'])
    t = forest().fit(c)
    z, all_trees = t.oob_logits(c), t.logits(c)
    same = np.isclose(z.mass, all_trees.mass)
    assert same[[5, 6]].all() and same.mean() < .5 and not np.isclose(z.calc, all_trees.calc)[[5, 6]].all()

def test_out_of_bag_of_strangers():
    t = forest().fit(cohort())
    with pytest.raises(ValueError, match='was not fitted on any image'): t.oob_logits(cohort(ids='other'))

def test_out_of_bag_of_a_part():
    "Either the part gets its answers, or the error says what is wrong"
    c = cohort()
    t = forest().fit(c)
    part = c.take(c.items.image_id[:20])
    try: z = t.oob_logits(part)
    except ValueError as e: assert 'fitted' in str(e)
    else: pd.testing.assert_frame_equal(z, t.oob_logits(c).iloc[:20])

@pytest.mark.filterwarnings('ignore:Some inputs do not have OOB scores')
@pytest.mark.parametrize('task', ['multilabel', 'multiclass'])
def test_an_image_in_every_bag_has_no_out_of_bag_answer(task):
    "No tree can judge it: not a confident no"
    c = cohort(task=task)
    t = forest(n_estimators=2).fit(c)
    name = 'mass' if task == 'multilabel' else 'class'
    unjudged = t.models[name]['model'].oob_decision_function_.sum(axis=1) == 0
    assert 0 < unjudged.sum() < N
    assert t.oob_logits(c)[t.columns(name)][unjudged].isna().all(axis=None)

def test_out_of_bag_knows_less_than_in_sample():
    rng = np.random.default_rng(0)
    c = cohort(mass=rng.integers(0, 2, N), calc=rng.integers(0, 2, N))                       # nothing to be known
    t = forest(n_estimators=100, min_samples_leaf=1).fit(c)
    assert macro_auroc(c.y(), t.logits(c)) == 1 and macro_auroc(c.y(), t.oob_logits(c)) < .7


# Seeds

def test_the_same_seed_is_the_same_forest():
    c = cohort()
    a, b, other = (forest(seed=s).fit(c) for s in (3, 3, 4))
    np.testing.assert_allclose(a.logits(c), b.logits(c), rtol=1e-9)
    np.testing.assert_array_equal(a.oob_logits(c), b.oob_logits(c))
    assert (a.oob_logits(c) != other.oob_logits(c)).any(axis=None)

def test_fitting_twice_is_fitting_once():
    c, d = cohort(), cohort(seed=9)
    for make in TEACHERS: np.testing.assert_allclose(make().fit(d).fit(c).logits(c), make().fit(c).logits(c), rtol=1e-9)

def test_make_teacher():
    assert vars(make_teacher('forest', seed=7, n_estimators=3)) == dict(n_estimators=3, min_samples_leaf=5, seed=7)
    assert isinstance(make_teacher('bow', C=2.), BagOfWordsTeacher)
    with pytest.raises(ValueError, match="one of forest, bow, not 'bert'"): make_teacher('bert')
    with pytest.raises(TypeError, match='trees'): make_teacher('forest', trees=3)


# AUROC

values = st.lists(st.tuples(st.sampled_from([0., 1., np.nan]), st.sampled_from([.1, .2, .3, np.nan])), min_size=1, max_size=15)

@given(values, st.randoms())
def test_class_auroc_is_sklearns(rows, random):
    y, p = (pd.DataFrame(dict(a=list(v), b=1.), [f'i{k}' for k in range(len(rows))]) for v in zip(*rows))
    known = [(t, q) for t, q in rows if t == t and q == q]
    expected = roc_auc_score(*zip(*known)) if len({t for t, _ in known}) == 2 else np.nan
    order = list(y.index); random.shuffle(order)
    a = class_auroc(y, p.loc[order])
    assert a.index.tolist() == ['a', 'b'] and np.isnan(a.b)
    np.testing.assert_equal(a.a, expected)
    np.testing.assert_equal(macro_auroc(y, p), expected)                     # the class without an answer is left out of the mean

def test_class_auroc_of_other_images():
    y = pd.DataFrame(dict(a=[0., 1.]), ['i', 'j'])
    for index in (['i', 'k'], ['i', 'j', 'k'], ['i'], ['i', 'i']):
        with pytest.raises(ValueError, match='must be of the same images'): class_auroc(y, pd.DataFrame(dict(a=.5), index))

def test_macro_is_the_mean_of_the_classes():
    y = pd.DataFrame(dict(a=[0., 1, 1, 0], b=[1., 0, 0, 1]))
    p = pd.DataFrame(dict(a=[.1, .2, .3, .4], b=[.9, .1, .2, .8]))
    assert macro_auroc(y, p) == (.5 + 1)/2 and np.isnan(macro_auroc(y*0, p))


# Files

@pytest.mark.parametrize('task', ['multilabel', 'multiclass'])
@pytest.mark.parametrize('make', TEACHERS)
def test_round_trip(tmp_path, make, task):
    c = cohort(task=task, device=['A', None, 'B']*20)
    t = make(seed=5).fit(c)
    save_teacher(t, tmp_path/'t.skops')
    again = load_teacher(tmp_path/'t.skops')
    assert type(again) is type(t) and again.seed == 5 and again.labels == t.labels and again.task == task and again.fitted_on == t.fitted_on
    np.testing.assert_allclose(again.logits(c), t.logits(c), rtol=1e-9)

def test_nothing_is_unpickled(tmp_path):
    save_teacher(forest().fit(cohort()), tmp_path/'t.skops')
    with zipfile.ZipFile(tmp_path/'t.skops') as z: assert not [n for n in z.namelist() if n.endswith(('.pkl', '.pickle'))]

def test_an_untrusted_type_is_refused(tmp_path):
    for k, stranger in enumerate([FunctionTransformer(func=np.savetxt), class_auroc, zipfile.ZipInfo]):
        skops.io.dump(dict(teacher='forest', models=dict(mass=stranger)), tmp_path/f'{k}.skops')
        with pytest.raises(Exception, match='(?i)untrusted'): load_teacher(tmp_path/f'{k}.skops')

def test_a_pickle_is_refused(tmp_path):
    import pickle
    (tmp_path/'t.skops').write_bytes(pickle.dumps(dict(teacher='forest')))
    with pytest.raises(zipfile.BadZipFile): load_teacher(tmp_path/'t.skops')
    with pytest.raises(FileNotFoundError, match='gone.skops'): load_teacher(tmp_path/'gone.skops')

def test_an_unknown_teacher_on_file(tmp_path):
    skops.io.dump(dict(teacher='oracle'), tmp_path/'t.skops')
    with pytest.raises(ValueError, match="not 'oracle'"): load_teacher(tmp_path/'t.skops')
