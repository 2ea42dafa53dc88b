"Corner cases of mmpkd.teachers: what is left out, what was never seen, and what a folder may hold"
import json, os, pickle, shutil, subprocess, sys, tempfile, zipfile
from copy import deepcopy
from pathlib import Path

import numpy as np, pandas as pd, pytest, scipy.sparse, skops.io, torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file, save_file
from scipy.special import expit, softmax
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import FunctionTransformer

from mmpkd.cohort import Cohort
from mmpkd.phantoms.chest import FINDINGS, METADATA, phantom_cases, phantom_table
from mmpkd import teachers
from mmpkd.teachers import (BagOfWordsTeacher, BoostedTeacher, ForestTeacher, MAX_COLUMNS, PRESETS, StackedTeacher,
                            TEACHERS, TextTeacher, class_auroc, image_logits, load_teacher, load_text_model,
                            macro_auroc, make_teacher, masked_loss, out_of_fold, pool_to_images, privileged_cases,
                            save_teacher, small_bert, tabular_features, targets, teacher_table)

N = 60

def cohort(n=N, seed=0, task='multilabel', ids='im', **changes):
    "Two findings that the metadata and the report know something of; or three classes"
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    kind = np.digitize(x + rng.normal(0, .5, n), [-.5, .5])
    labels = dict(mass=(x > 0).astype(float), calc=(kind == 2).astype(float))
    if task == 'multiclass':
        labels = {c: (kind == k).astype(float) for k, c in enumerate(['none', 'benign', 'cancer'])}
    t = pd.DataFrame(labels | dict(
        image_id=[f'{ids}{i}' for i in range(n)], patient_id=[f'{ids}{i//2}' for i in range(n)], split='train',
        image='x.png', grade=np.rint(x) + 0., size=x + rng.normal(size=n), device=rng.choice(['A', 'B'], n),
        report=np.where(x + rng.normal(0, .5, n) > 0, 'a large shadow', 'all clear')))
    return Cohort(t.assign(**changes), list(labels), text='report', tabular=['grade', 'size', 'device'], task=task)

def forest(**kwargs): return ForestTeacher(**dict(n_estimators=30, min_samples_leaf=2) | kwargs)

def boosted(**kwargs): return BoostedTeacher(**dict(max_iter=5) | kwargs)

def stack(**kwargs): return StackedTeacher(**dict(teachers=[boosted(), BagOfWordsTeacher()], folds=2) | kwargs)

MAKE = [forest, boosted, BagOfWordsTeacher, stack]

def but(column, rows, value): # A column of `cohort` with other values
    x = cohort().items[column].astype(object)
    x[rows] = value
    return {column: x}


# What is left out

@pytest.mark.parametrize('make', MAKE)
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

@pytest.mark.parametrize('make,columns', [(forest, ['grade', 'size', 'device']), (boosted, ['grade', 'size', 'device']),
                                          (BagOfWordsTeacher, ['report']),
                                          (stack, ['grade', 'size', 'device', 'report'])])
def test_without_privileged_information_there_is_no_answer(make, columns):
    items = cohort().items.copy()
    for c in columns:
        items[c] = items[c].astype(object)
        items.loc[[2, 9], c] = None
        if c in ('grade', 'size'): items[c] = items[c].astype(float)
    c = Cohort(items, ['mass', 'calc'], text='report', tabular=['grade', 'size', 'device'])
    teacher = make().fit(c)
    z = teacher.logits(c)
    assert z.index.tolist() == c.items.image_id.tolist()
    assert z.isna().all(axis=1).to_numpy().nonzero()[0].tolist() == [2, 9]
    assert z.isna().any(axis=1).sum() == 2
    assert 'im2' not in teacher.fitted_on['mass']
    assert teacher.logits(c.take(['im2', 'im9'])).isna().all(axis=None)
    if hasattr(teacher, 'oob_logits'): assert teacher.oob_logits(c).isna().all(axis=1).sum() == 2

@pytest.mark.parametrize('make', MAKE)
@pytest.mark.parametrize('value', [0., 1.])
def test_all_answers_the_same(make, value):
    with pytest.raises(ValueError, match=rf"all 60 known answers for 'calc' are \[{value:.0f}\]; .* at least two"):
        make().fit(cohort(calc=value))
    y = np.where(np.arange(N) < 50, value, np.nan)
    with pytest.raises(ValueError, match="all 50 known answers for 'calc'"): make().fit(cohort(calc=y))
    with pytest.raises(ValueError, match="all 0 known answers for 'calc' are"): make().fit(cohort(calc=np.nan))

def test_one_class_only():
    c = cohort(task='multiclass', none=0., benign=1., cancer=0.)
    with pytest.raises(ValueError, match=r"all 60 known answers for 'class' are \['benign'\]"): forest().fit(c)

def test_nothing_to_read():
    c = cohort()
    for make, what in ((forest, 'tabular'), (boosted, 'tabular'), (BagOfWordsTeacher, 'text'), (stack, 'tabular'),
                       (TextTeacher, 'text')):
        for act in ('fit', 'check', 'inputs'):
            with pytest.raises(ValueError, match=f"reads {what} columns, and cohort 'dumb' names none"):
                getattr(make(), act)(Cohort(c.items, c.labels, name='dumb'))

@pytest.mark.parametrize('blank', ['', '  ', '\n', None])
def test_an_empty_report_is_no_report(blank):
    c = cohort(**but('report', [4, 7], blank))
    t = BagOfWordsTeacher().fit(c)
    assert t.logits(c).mass.isna().to_numpy().nonzero()[0].tolist() == [4, 7] and len(t.fitted_on['mass']) == N - 2


# Several classes

def test_targets_of_several_classes():
    c = cohort(task='multiclass')
    items = c.items.copy()
    items.loc[4, c.labels] = np.nan
    q = targets(Cohort(items, c.labels, task='multiclass'))
    assert list(q) == ['class'] and q['class'].index.tolist() == c.items.image_id.tolist()
    assert pd.isna(q['class']['im4'])
    for i in ('im0', 'im7', 'im59'): assert c.y().loc[i, q['class'][i]] == 1

@pytest.mark.parametrize('order', [['none', 'benign', 'cancer'], ['cancer', 'none', 'benign']])
def test_classes_keep_their_names(order):
    "Softmax of the logits is scikit-learn's predict_proba, class by class, up to the clipping"
    c = cohort(task='multiclass')
    c = Cohort(c.items, order, text='report', tabular=c.tabular, task='multiclass')
    for make in MAKE:
        t = make().fit(c)
        z, model = t.logits(c), t.models['class']
        x = t.inputs(c) if make is not stack else t.side_by_side([part.logits(c) for part in t.parts])
        p = pd.DataFrame(model.predict_proba(t.select_inputs(x, 'class')), z.index, model.classes_)[order]
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
    if task == 'multilabel':
        np.testing.assert_allclose(expit(z[:, 0]), t.models['mass'].predict_proba(t.inputs(c))[:, 1],
                                   atol=t.eps + 1e-12)


# Metadata as they come

@pytest.mark.parametrize('train,test', [
    (dict(device=['A', 'B']*30), dict(device=['C', None]*30)),  # unseen, and missing only now
    (dict(device=['A', None]*30), dict(device=['A', 'C']*30)),
    (dict(grade=[1., 2.]*30), dict(grade=[3., np.nan]*30)),
    (dict(), dict(size=np.nan)),  # an amount that is missing only now
    (dict(size=np.where(np.arange(N) % 3, np.arange(N), np.nan)), dict()),
    (dict(size=np.nan), dict()),  # nothing at all to learn from
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
    assert {'device_nan',
            'missingindicator_size'} <= set(tabular_features(missing).fit(missing).get_feature_names_out())
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
    items = cohort().items.copy()
    items.loc[[5, 6], 'mass'] = np.nan
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
    assert t.oob_logits(c)[t.classes_of(name)][unjudged].isna().all(axis=None)

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
    for make in MAKE: np.testing.assert_allclose(make().fit(d).fit(c).logits(c), make().fit(c).logits(c), rtol=1e-9)

def test_make_teacher():
    assert vars(make_teacher('forest', seed=7, n_estimators=3)) == dict(n_estimators=3, min_samples_leaf=5, seed=7)
    assert isinstance(make_teacher('bow', C=2.), BagOfWordsTeacher)
    with pytest.raises(ValueError, match="one of forest, boosting, bow, bert, stacked, not 'oracle'"):
        make_teacher('oracle')
    with pytest.raises(ValueError, match="no 'trees'; it has n_estimators, min_samples_leaf, seed"):
        make_teacher('forest', trees=3)


# AUROC

values = st.lists(st.tuples(st.sampled_from([0., 1., np.nan]), st.sampled_from([.1, .2, .3, np.nan])), min_size=1,
                  max_size=15)

@given(values, st.randoms())
def test_class_auroc_is_sklearns(rows, random):
    y, p = (pd.DataFrame(dict(a=list(v), b=1.), [f'i{k}' for k in range(len(rows))]) for v in zip(*rows))
    known = [(t, q) for t, q in rows if t == t and q == q]
    expected = roc_auc_score(*zip(*known)) if len({t for t, _ in known}) == 2 else np.nan
    order = list(y.index)
    random.shuffle(order)
    a = class_auroc(y, p.loc[order])
    assert a.index.tolist() == ['a', 'b'] and np.isnan(a.b)
    np.testing.assert_equal(a.a, expected)
    np.testing.assert_equal(macro_auroc(y, p), expected)  # the class without an answer is left out of the mean

def test_class_auroc_of_other_images():
    y = pd.DataFrame(dict(a=[0., 1.]), ['i', 'j'])
    for index in (['i', 'k'], ['i', 'j', 'k'], ['i'], ['i', 'i']):
        with pytest.raises(ValueError, match='must be of the same images'):
            class_auroc(y, pd.DataFrame(dict(a=.5), index))

def test_macro_is_the_mean_of_the_classes():
    y = pd.DataFrame(dict(a=[0., 1, 1, 0], b=[1., 0, 0, 1]))
    p = pd.DataFrame(dict(a=[.1, .2, .3, .4], b=[.9, .1, .2, .8]))
    assert macro_auroc(y, p) == (.5 + 1)/2 and np.isnan(macro_auroc(y*0, p))


# Presets and tables

def test_presets():
    assert vars(make_teacher('forest', 3, 'paper')) == dict(n_estimators=100, min_samples_leaf=1, seed=3)
    assert make_teacher('forest', preset='paper', n_estimators=7).n_estimators == 7
    assert make_teacher('bert', preset='paper').model == PRESETS['paper']['bert']['model'] == TextTeacher().model
    with pytest.raises(ValueError, match="for the teachers forest, bert, not 'boosting'"):
        make_teacher('boosting', preset='paper')
    with pytest.raises(ValueError, match="preset must be one of paper, not 'book'"):
        make_teacher('forest', preset='book')

@pytest.mark.parametrize('name', TEACHERS)
def test_settings_that_a_teacher_does_not_have(name):
    "A language model for a forest, say; the message has what there is"
    with pytest.raises(ValueError, match=f"the teacher '{name}' has no 'depht'; it has .*seed"):
        make_teacher(name, depht=3)

def test_a_finding_of_one_patient_stops_out_of_fold_by_name():
    c = cohort()
    rare = Cohort(c.items.assign(mass=(c.items.patient_id == c.items.patient_id[0]).astype(float)), c.labels,
                  tabular=c.tabular, text=c.text)
    forest().fit(rare)                                                      # all of them together are enough
    with pytest.raises(ValueError, match=r"without the patients of fold \d of 5: .*'mass'"): out_of_fold(forest(), rare)

def test_the_best_epoch_is_judged_by_what_is_predicted(small, tmp_path):
    "Of three classes: the AUROC of each epoch is that of `logits`, which are logarithms of probabilities"
    words = np.random.default_rng(0).choice(['a', 'large', 'shadow', 'all', 'clear'], (N, 4))
    c = cohort(task='multiclass', report=[' '.join(w) for w in words])
    t = bert(small, epochs=1).fit(c)
    [history] = t.train_network(tmp_path, c, c)
    with torch.inference_mode():
        raw = pd.DataFrame(t.network.eval()(**t.encode(t.inputs(c))).logits.numpy(), c.items.image_id, c.labels)
    assert history['auroc'] == pytest.approx(macro_auroc(c.y(), t.logits(c)), abs=1e-6)
    assert history['auroc'] != pytest.approx(macro_auroc(c.y(), raw), abs=1e-4)

def test_a_teacher_without_a_name_is_not_saved(tmp_path):
    class Mine(ForestTeacher): pass
    with pytest.raises(ValueError, match='Mine has no name .* add it to `TEACHERS`'):
        save_teacher(Mine(5).fit(cohort()), tmp_path/'t')
    assert list(tmp_path.iterdir()) == []

def with_parts(n=N, seed=0):
    "Images that show one, two or three abnormalities, and are as bad as the worst"
    parts = cohort(n, seed, task='multiclass')
    parts.items['of'] = [f'whole{i//3 if i % 2 else i//2}' for i in range(n)]
    parts.items['patient_id'] = parts.items.of
    how = dict.fromkeys(['image_id', 'patient_id', 'split', 'image'], 'first') | dict.fromkeys(parts.labels, 'max')
    items = parts.items.assign(image_id=parts.items.of).groupby('of', sort=False).agg(how).reset_index(drop=True)
    for k, c in enumerate(parts.labels): items[c] = items[c]*(1 - items[parts.labels[k+1:]].max(axis=1).fillna(0))
    return Cohort(items, parts.labels, task='multiclass', parts=parts)

def test_evidence():
    c = with_parts()
    assert privileged_cases(c) is c.parts and privileged_cases(c.parts) is c.parts
    few = c.take(c.items.image_id[:4])
    assert set(privileged_cases(few).items.of) == set(few.items.image_id)

def test_teacher_table():
    c = cohort(90)
    c.items['split'] = ['train']*60 + ['valid']*10 + ['test']*20
    t = teacher_table(c, 'forest', seeds=3, folds=3, n_estimators=30)
    assert t.index.tolist() == [0, 1, 2, 'mean', 'sd']
    assert t.columns.tolist() == ['in-sample', 'out-of-bag', 'out-of-fold', 'valid', 'test']
    np.testing.assert_allclose(t.loc['mean'], t.loc[[0, 1, 2]].mean())
    np.testing.assert_allclose(t.loc['sd'], t.loc[[0, 1, 2]].std())
    train, test = c.split('train'), c.split('test')
    one = ForestTeacher(30, seed=1).fit(train)
    np.testing.assert_allclose(t.loc[1, ['in-sample', 'out-of-bag', 'out-of-fold', 'test']].astype(float),
        [macro_auroc(train.y(), one.logits(train)), macro_auroc(train.y(), one.oob_logits(train)),
         macro_auroc(train.y(), out_of_fold(one, train, 3, 1)), macro_auroc(test.y(), one.logits(test))])

def test_teacher_table_of_what_there_is():
    c = cohort()
    t = teacher_table(c, 'bow', seeds=1)
    assert t.columns.tolist() == ['in-sample'] and np.isnan(t.loc['sd', 'in-sample'])
    with pytest.raises(ValueError, match='seeds must be above 0, not 0'): teacher_table(c, seeds=0)
    with pytest.raises(ValueError, match='teacher must be one of'): teacher_table(c, 'oracle')

def test_a_table_is_about_images_and_names_the_parts():
    c = with_parts(90)
    t, parts = (teacher_table(x, 'forest', seeds=1, folds=3, n_estimators=30) for x in (c, c.parts))
    assert t.columns.tolist() == [*parts.columns, *(f'{k} (parts)' for k in parts)]
    for k in parts: assert t.loc[0, f'{k} (parts)'] == pytest.approx(parts.loc[0, k])
    one = ForestTeacher(30).fit(c.parts)
    assert t.loc[0, 'in-sample'] == pytest.approx(macro_auroc(c.y(), image_logits(one, c)))
    assert t.loc[0, 'out-of-bag'] == pytest.approx(macro_auroc(c.y(), pool_to_images(one.oob_logits(c.parts), c)))
    assert t.loc[0, 'out-of-bag'] != pytest.approx(t.loc[0, 'out-of-bag (parts)'])

@pytest.mark.parametrize('task,auroc,better', [('mass', .86, .88), ('calc', .90, .91)])
def test_the_papers_forest_on_cbis(shared_data, task, auroc, better):
    "All official training abnormalities, five seeds; and what larger leaves and boosting give"
    from mmpkd.cbis import cbis_cohort
    c = cbis_cohort(shared_data/'cbis_csv', task=task, valid=0, progress=False)
    paper = teacher_table(c, 'forest', preset='paper')
    assert len(paper) == 7 and paper.loc['mean', 'test (parts)'] == pytest.approx(auroc, abs=.01)
    assert paper.loc['mean', 'in-sample (parts)'] > paper.loc['mean', 'out-of-bag (parts)'] + .05
    least = max(better - .01, paper.loc['mean', 'test (parts)'])
    for name in ('forest', 'boosting'):
        assert teacher_table(c, name, seeds=1).loc['mean', 'test (parts)'] > least


# The language model

REPORTS = ['a large shadow', 'all clear']

@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "A very small BERT with the words of `cohort`"
    return small_bert(cohort().items.report, tmp_path_factory.mktemp('bert')/'model', hidden=32, layers=1,
                      max_length=64)

def bert(model, **kwargs): return TextTeacher(model, **dict(epochs=2, lr=5e-3, max_length=32, holdout=0) | kwargs)

LOGITS, KNOWN_OR_NOT = st.floats(-8, 8, width=32), st.sampled_from([0., 1., np.nan])

def of_images_with_three_findings(n):
    return st.tuples(*(arrays(np.float32, (n, 3), elements=values) for values in (LOGITS, KNOWN_OR_NOT)))

labels_and_logits = st.integers(1, 5).flatmap(of_images_with_three_findings)

@given(labels_and_logits)
def test_masked_loss_of_findings_is_sklearns(case):
    z, y = case
    known = ~np.isnan(y)
    if not known.any(): return
    p = expit(z[known].astype(float))
    expected = log_loss(y[known], p, labels=[0, 1])
    assert masked_loss(torch.tensor(z), torch.tensor(y)).item() == pytest.approx(expected, rel=1e-3, abs=1e-4)

@given(arrays(np.float32, (4, 3), elements=st.floats(-8, 8, width=32)),
       st.lists(st.sampled_from([0, 1, 2, None]), min_size=4, max_size=4).filter(any))
def test_masked_loss_of_classes(z, classes):
    y = np.array([np.full(3, np.nan) if k is None else np.eye(3)[k] for k in classes], np.float32)
    expected = np.mean([-np.log(softmax(z[i].astype(float))[k]) for i, k in enumerate(classes) if k is not None])
    loss = masked_loss(torch.tensor(z), torch.tensor(y), 'multiclass')
    assert loss.item() == pytest.approx(expected, rel=1e-3, abs=1e-4)

def test_a_blank_label_gives_no_gradient():
    z = torch.zeros(2, 2, requires_grad=True)
    masked_loss(z, torch.tensor([[1., torch.nan], [0., 1.]])).backward()
    assert z.grad[0, 1] == 0 and (z.grad.flatten()[[0, 2, 3]] != 0).all()

@pytest.mark.parametrize('task', ['multilabel', 'multiclass'])
def test_it_reads(small, task):
    "Two reports that tell the classes apart are learned; classes without training images become improbable"
    y = np.arange(N) % 2
    labels = dict(mass=y, calc=1 - y) if task == 'multilabel' else dict(none=1 - y, benign=y, cancer=0)
    c = cohort(task=task, report=np.array(REPORTS)[1 - y], **labels)
    t = bert(small, epochs=8).fit(c)
    z = t.logits(c)
    assert macro_auroc(c.y(), z) == 1 and z.index.tolist() == c.items.image_id.tolist()
    assert z.columns.tolist() == c.labels
    p = expit(z) if task == 'multilabel' else np.exp(z)
    assert abs(p - c.y()).max(axis=None) < .3
    if task == 'multiclass': np.testing.assert_allclose(p.sum(axis=1), 1)
    assert len(z.drop_duplicates()) == 2

def test_blank_labels_teach_nothing(small):
    "What is written where the other label is blank does not matter; a report without any label is not read"
    c = cohort()
    items = c.items.astype(dict(mass=float, calc=float))
    items.loc[[3, 8], ['mass', 'calc']] = np.nan
    items.loc[[20, 21], 'calc'] = np.nan
    b = Cohort(items, c.labels, text='report')
    t = bert(small)
    read = t.unique_reports(b)
    assert not {'im3', 'im8'} & set(read.items.image_id)
    assert not read.y().isna().all(axis=1).any()
    assert t.fit(b).logits(b).notna().all(axis=None)
    other = Cohort(items.assign(report=items.report.where(~items.index.isin([3, 8]), 'a shadow all large')), c.labels,
                   text='report')
    pd.testing.assert_frame_equal(bert(small).fit(other).logits(c), t.logits(c))

def test_a_report_is_read_once_per_patient(small):
    c = Cohort(pd.DataFrame(dict(image_id=list('abcdef'), patient_id=[1, 1, 1, 2, 2, 3], split='train', image='x',
                                 mass=[1, 1, 0, 1, 1, np.nan], calc=[np.nan, np.nan, 0, 0, 0, np.nan],
                                 report=['x', 'x', 'x', 'x', 'y', 'z'])), ['mass', 'calc'], text='report')
    # b says what a says; c has other labels; f has none
    assert bert(small).unique_reports(c).items.image_id.tolist() == ['a', 'c', 'd', 'e']

@pytest.mark.parametrize('blank', ['', ' \n', None])
def test_it_is_silent_where_there_is_no_report(small, blank):
    c = cohort(**but('report', [2, 9], blank))
    t = bert(small).fit(c)
    z = t.logits(c)
    assert z.isna().all(axis=1).to_numpy().nonzero()[0].tolist() == [2, 9] and z.notna().all(axis=1).sum() == N - 2
    assert t.logits(c.take(['im2', 'im9'])).isna().all(axis=None)
    empty = cohort(report=blank)
    with pytest.raises(ValueError, match="all 0 known answers for 'mass'"): bert(small).fit(empty)
    with pytest.raises(ValueError, match="all 0 known answers for 'mass'"): bert(small, holdout=.2).fit(empty)

def test_answers_do_not_depend_on_the_company(small):
    c = cohort(report=[' '.join(['large']*(1 + i % 7)) for i in range(N)])
    t = bert(small).fit(c)
    z = t.logits(c)
    back = c.take(c.items.image_id[::-1])
    pd.testing.assert_frame_equal(t.logits(back).loc[z.index], z, atol=1e-5)
    pd.testing.assert_frame_equal(t.logits(c.take(['im6'])), z.loc[['im6']], atol=1e-5)

@settings(max_examples=8)
@given(st.integers(0, 99), st.floats(.05, .5))
def test_held_out_are_patients(seed, share):
    c = cohort(120)
    train, valid = TextTeacher('unused', holdout=share, seed=seed).hold_out(c)
    assert not set(train.items.patient_id) & set(valid.items.patient_id) and len(train) + len(valid) == 120
    assert abs(len(valid)/120 - share) < .12 and valid.y().nunique().min() == 2

@pytest.mark.parametrize('seed', range(3))
def test_the_best_epoch_is_kept(small, seed):
    "With steps so large that later epochs are worse again"
    train, valid = cohort(80), cohort(60, seed=7, ids='v')
    valid.items['patient_id'] = valid.items.image_id                                  # so that no report counts twice
    t = bert(small, epochs=8, lr=.05, patience=2, seed=seed).fit(train, valid)
    history = pd.DataFrame(t.history).set_index('epoch').auroc
    assert macro_auroc(valid.y(), t.logits(valid)) == pytest.approx(history.max())
    assert len(history) == min(8, history.idxmax() + 2) and history.index.tolist() == list(range(1, len(history) + 1))

def test_without_anyone_to_judge_all_epochs_are_run(small):
    t = bert(small, epochs=3).fit(cohort())
    assert t.history == []

@pytest.mark.parametrize('holdout', [0, .2])
def test_the_same_seed_is_the_same_network(small, holdout):
    c = cohort()
    a, b, other = (bert(small, holdout=holdout, seed=s).fit(c) for s in (3, 3, 4))
    np.testing.assert_array_equal(a.logits(c), b.logits(c))
    assert a.history == b.history and (a.logits(c) != other.logits(c)).any(axis=None)
    np.testing.assert_array_equal(a.fit(cohort(seed=5)).fit(c).logits(c), b.logits(c))  # fitting twice is fitting once

def test_a_vocabulary_does_not_depend_on_the_process(small, tmp_path):
    texts, again = cohort().items.report.tolist()[::-1], str(tmp_path/'again')
    arguments = f'{texts!r}, {again!r}, hidden=32, layers=1, max_length=64'
    code = f'from mmpkd.teachers import small_bert; small_bert({arguments})'
    subprocess.run([sys.executable, '-c', code], check=True, env=os.environ | dict(PYTHONHASHSEED='7'))
    for f in ('tokenizer.json', 'model.safetensors'): assert (small/f).read_bytes() == (tmp_path/'again'/f).read_bytes()

def test_out_of_fold_copies_it(small):
    c = cohort()
    fitted = bert(small).fit(c)
    before = fitted.logits(c)
    z, fresh = out_of_fold(fitted, c, 2), out_of_fold(bert(small), c, 2)
    pd.testing.assert_frame_equal(z, fresh)
    pd.testing.assert_frame_equal(fitted.logits(c), before)
    pd.testing.assert_frame_equal(deepcopy(fitted).logits(c), before)

def test_transformers_reports_again_afterwards():
    get_verbosity = teachers.transformers.utils.logging.get_verbosity
    before = get_verbosity()
    with teachers._quiet():
        assert get_verbosity() == teachers.transformers.logging.ERROR
    assert get_verbosity() == before

def test_it_leaves_nothing_and_says_nothing(small, tmp_path, monkeypatch, capfd):
    work = tmp_path/'work'; work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(tempfile, 'tempdir', str(work))
    c = cohort()
    bert(small, holdout=.2).fit(c).logits(c)
    with pytest.raises(TypeError): bert(small, lr='fast', holdout=.2).fit(c)                 # also after a failure
    assert not list(work.iterdir()) and capfd.readouterr() == ('', '')

def test_the_end_of_a_long_report_is_read(small):
    t = bert(small, max_length=8).fit(cohort())
    ids = t.encode(['all clear ' * 30 + 'a large shadow', 'a large shadow']).input_ids
    assert ids.shape == (2, 8) and t.tokenizer.decode(ids[0]).endswith('a large shadow [SEP]')
    assert t.tokenizer.decode(ids[0]).startswith('[CLS]')

def test_one_kind_of_label_to_judge_by(small):
    c, valid = cohort(), cohort(ids='v', mass=1., calc=0.)
    with pytest.raises(ValueError,
                       match='reports for validation have only one kind of label in each class; take a larger holdout'):
        bert(small).fit(c, valid)
    with pytest.raises(ValueError, match="all .* known answers for 'calc' are"): bert(small).fit(cohort(calc=1.))
    with pytest.raises(ValueError, match='a teacher needs at least two different ones'):
        bert(small, holdout=.9).fit(c.take(['im0', 'im2']))

@pytest.mark.parametrize('argument', [dict(epochs=0), dict(bs=0), dict(max_length=0), dict(patience=0),
                                      dict(holdout=1.), dict(holdout=-.1)], ids=str)
def test_arguments_that_cannot_be(argument):
    name, value = *argument, *argument.values()
    with pytest.raises(ValueError, match=f'{name} must be at least .* not {value}'): TextTeacher('unused', **argument)

def test_a_stored_classifier_may_be_the_start(small, tmp_path):
    "Of as many classes or of others"
    save_teacher(bert(small).fit(cohort()), tmp_path/'first')
    for c in (cohort(), cohort(task='multiclass')):
        assert bert(tmp_path/'first').fit(c).logits(c).notna().all(axis=None)


# A language model that is not there

HUB = '''
from mmpkd.cohort import Cohort
from mmpkd.teachers import make_teacher
import pandas as pd
items = dict(image_id=['a'], patient_id=['a'], split='train', image='x', mass=[1], report=['private words'])
c = Cohort(pd.DataFrame(items), ['mass'], text='report')
for act in ('check', 'fit'):
    try: getattr(make_teacher('bert', preset='paper', holdout=0), act)(c)
    except (OSError, ValueError) as e: print(type(e).__name__, e)
'''

def test_the_hub_is_out_of_reach(tmp_path):
    "One error that says what to do, before any work"
    run = subprocess.run([sys.executable, '-c', HUB], capture_output=True, text=True,
                         env=os.environ | dict(HF_HUB_OFFLINE='1', HF_HOME=str(tmp_path)))
    assert run.returncode == 0, run.stderr
    check, fit = run.stdout.splitlines()
    assert check.startswith(f"OSError cannot load the language model '{PRESETS['paper']['bert']['model']}':")
    assert 'there is no such folder, and the model hub does not give it' in check
    assert 'save_pretrained(FOLDER)' in check and 'private' not in run.stdout + run.stderr
    assert fit.startswith("ValueError all 1 known answers for 'mass'")  # the cheaper question is asked first

def damage(small, folder, how):
    shutil.copytree(small, folder)
    weights, config = folder/'model.safetensors', json.loads((folder/'config.json').read_text())
    def write(**changes): (folder/'config.json').write_text(json.dumps(config | changes))
    if how == 'no weights': weights.unlink()
    if how == 'pickled weights':
        torch.save(load_file(weights), folder/'pytorch_model.bin')
        weights.unlink()
    if how == 'half the weights': weights.write_bytes(weights.read_bytes()[:5000])
    if how == 'other weights':
        save_file({f'other.{k}': v for k, v in load_file(weights).items()}, weights, metadata=dict(format='pt'))
    if how == 'one weight less':
        save_file({k: v for k, v in load_file(weights).items() if 'query.weight' not in k}, weights,
                  metadata=dict(format='pt'))
    if how == 'another vocabulary': write(vocab_size=config['vocab_size'] + 9)
    if how == 'a smaller vocabulary': write(vocab_size=config['vocab_size'] - 9)
    if how == 'no tokenizer':
        for f in [*folder.glob('*token*.json'), *folder.glob('vocab.txt')]: f.unlink()
    if how == 'no config': (folder/'config.json').unlink()
    if how == 'broken config': (folder/'config.json').write_text('{"model')
    if how == 'code of its own':
        write(model_type='mine', auto_map=dict(AutoConfig='mine.C', AutoModelForSequenceClassification='mine.M'))
        (folder/'mine.py').write_text(f'open({str(folder/"ran")!r}, "w")')
    return folder

@pytest.mark.parametrize('how', ['no weights', 'pickled weights', 'half the weights', 'other weights',
                                 'one weight less', 'another vocabulary', 'a smaller vocabulary',
                                 'no tokenizer', 'no config', 'broken config', 'code of its own'])
def test_a_damaged_folder(small, tmp_path, how):
    "Never a network of random numbers, and never a pickle"
    folder = damage(small, tmp_path/'model', how)
    needed = 'the folder cannot be used .* A model is a folder with a tokenizer, config.json and model.safetensors'
    with pytest.raises(OSError, match=needed): TextTeacher(folder, max_length=32).check(cohort())
    assert not (folder/'ran').exists()

def test_a_missing_folder(tmp_path):
    with pytest.raises(OSError, match=r"language model '.*gone': there is no such folder.*FOLDER"):
        load_text_model(tmp_path/'gone')

def test_reports_longer_than_the_model_reads(small):
    with pytest.raises(ValueError, match='max_length must be at most 64 for the language model .*, not 65'):
        bert(small, max_length=65).check(cohort())
    assert bert(small, max_length=64).check(cohort()).max_length == 64


# Two kinds of evidence

@pytest.fixture(scope='module')
def study():
    "The phantom's table, with grades as metadata and reports"
    t = phantom_table(phantom_cases(900, seed=2, label_noise=.1, split=(.5, .05, .45)), seed=2)
    return Cohort(t, FINDINGS[1:3], text='report', tabular=METADATA)

def test_the_stack_is_as_good_as_the_better_part(study):
    train, test = study.split('train'), study.split('test')
    parts = [ForestTeacher(40), BagOfWordsTeacher()]
    alone = [macro_auroc(test.y(), t.fit(train).logits(test)) for t in parts]
    assert macro_auroc(test.y(), StackedTeacher(parts, folds=3).fit(train).logits(test)) > max(alone) - .005

@pytest.mark.parametrize('useless', ['report', 'metadata'])
def test_useless_evidence_does_no_harm(study, useless):
    "Reports or metadata of others; a teacher that memorises them is not believed"
    columns = ['report'] if useless == 'report' else METADATA
    items = study.items.copy()
    items[columns] = items[columns].sample(frac=1, random_state=0).to_numpy()
    c = Cohort(items.astype({m: study.items[m].dtype for m in METADATA}), study.labels, text='report', tabular=METADATA)
    train, test = c.split('train'), c.split('test')
    parts = [ForestTeacher(40, min_samples_leaf=1), BagOfWordsTeacher(C=100.)]
    alone = [macro_auroc(test.y(), t.fit(train).logits(test)) for t in parts]
    assert min(alone) < .6
    assert macro_auroc(test.y(), StackedTeacher(parts, folds=3).fit(train).logits(test)) > max(alone) - .01

def test_the_weights_are_learned_out_of_fold():
    "The regression is the one on the parts' out-of-fold logits, whatever they say in-sample"
    c = cohort()
    t = stack(folds=3, seed=4).fit(c)
    z = np.stack([out_of_fold(p, c, 3, 4).mass for p in t.teachers], axis=1)
    from sklearn.linear_model import LogisticRegression
    np.testing.assert_allclose(LogisticRegression(max_iter=1000).fit(z, c.y().mass).coef_,
                               t.models['mass']['model'].coef_, rtol=1e-6)

def test_either_evidence_may_be_missing(study):
    items = study.items.copy()
    items.loc[items.index % 3 == 0, 'report'] = None
    items[METADATA] = items[METADATA].mask(items.index.to_series() % 4 == 0)
    c = Cohort(items, study.labels, text='report', tabular=METADATA)
    t = StackedTeacher([boosted(), BagOfWordsTeacher()], folds=2).fit(c.split('train'))
    test = c.split('test')
    z, k = t.logits(test), test.items.image_id.map(dict(zip(items.image_id, items.index))).to_numpy()
    neither = k % 12 == 0
    assert z[neither].isna().all(axis=None) and z[~neither].notna().all(axis=None)
    for missing in (k % 3 == 0, k % 4 == 0):
        some = z.index[missing & ~neither]
        assert macro_auroc(test.y().loc[some], z.loc[some]) > .8
    # never saw a gap in training
    whole = StackedTeacher([boosted(), BagOfWordsTeacher()], folds=2).fit(study.split('train'))
    assert whole.logits(test)[~neither].notna().all(axis=None)

def test_how_a_stack_is_put_together():
    t = make_teacher('stacked', seed=6)
    assert [type(p) for p in t.teachers] == [ForestTeacher, BagOfWordsTeacher]
    assert [p.seed for p in t.teachers] == [6, 6]
    t = make_teacher('stacked', teachers=dict(forest=dict(n_estimators=7), bert=dict(model='mine')), folds=3)
    assert t.teachers[0].n_estimators == 7 and t.teachers[1].model == 'mine' and t.folds == 3
    with pytest.raises(ValueError, match='at least two teachers, not 1'): StackedTeacher(['bow'])
    with pytest.raises(ValueError, match="not 'oracle'"): StackedTeacher(['bow', 'oracle'])

def test_the_teachers_given_stay_unfitted():
    parts = [boosted(), BagOfWordsTeacher()]
    StackedTeacher(parts, folds=2).fit(cohort())
    assert not any(hasattr(p, 'models') for p in parts)

def test_a_stack_out_of_fold_and_with_a_language_model(small):
    c = cohort()
    t = StackedTeacher([boosted(), bert(small)], folds=2)
    z = out_of_fold(t, c, 2)
    assert z.notna().all(axis=None) and macro_auroc(c.y(), z) > .6
    with pytest.raises(OSError, match='no such folder'): StackedTeacher([boosted(), TextTeacher('/no/where')]).check(c)


# Folders

def contents(folder): return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()}

@pytest.mark.parametrize('task', ['multilabel', 'multiclass'])
@pytest.mark.parametrize('make', MAKE)
def test_round_trip(tmp_path, make, task):
    c = cohort(task=task, device=['A', None, 'B']*20)
    t = make(seed=5).fit(c)
    save_teacher(t, tmp_path/'t')
    again = load_teacher(tmp_path/'t')
    assert type(again) is type(t) and again.seed == 5 and again.labels == t.labels and again.task == task
    assert again.fitted_on == t.fitted_on
    np.testing.assert_allclose(again.logits(c), t.logits(c), rtol=1e-9)
    np.testing.assert_allclose(again.fit(c).logits(c), t.logits(c), rtol=1e-9)  # and it can learn once more
    assert [p.name for p in tmp_path.iterdir()] == ['t']

@pytest.mark.parametrize('task', ['multilabel', 'multiclass'])
def test_round_trip_of_a_language_model(tmp_path, small, task):
    c = cohort(task=task)
    for name, t in dict(bert=bert(small, holdout=.2), stack=StackedTeacher([boosted(), bert(small)], folds=2)).items():
        save_teacher(t.fit(c), tmp_path/name)
        again = load_teacher(tmp_path/name)
        pd.testing.assert_frame_equal(again.logits(c), t.logits(c))
        pd.testing.assert_frame_equal(again.fit(c).logits(c), t.logits(c))
    state = {k: v for k, v in vars(load_teacher(tmp_path/'bert')).items() if k not in ('network', 'tokenizer')}
    assert state == {k: v for k, v in vars(bert(small, holdout=.2).fit(c)).items() if k not in ('network', 'tokenizer')}

def test_nothing_is_unpickled(tmp_path, small):
    c = cohort()
    save_teacher(StackedTeacher([forest(), boosted(), bert(small)], folds=2).fit(c), tmp_path/'t')
    # transformers 4 writes a list of words, too
    assert {p.suffix for p in contents(tmp_path)} - {'.txt'} == {'.json', '.skops', '.safetensors'}
    for p in tmp_path.rglob('*.skops'):
        with zipfile.ZipFile(p) as z: assert not [n for n in z.namelist() if n.endswith(('.pkl', '.pickle'))]

def test_an_interrupted_save_leaves_no_teacher(tmp_path):
    "The old one stays; half a new one is not taken for one, and is in nobody's way"
    t = forest().fit(cohort())
    save_teacher(t, tmp_path/'t')
    before = contents(tmp_path/'t')
    broken = forest().fit(cohort())
    broken.models['calc'] = (k for k in ())  # skops cannot write this
    for folder in (tmp_path/'t', tmp_path/'new'):
        with pytest.raises(Exception, match='(?i)not supported|generator'): save_teacher(broken, folder)
    assert contents(tmp_path/'t') == before and not (tmp_path/'new').exists() and (tmp_path/'new.part').exists()
    with pytest.raises(FileNotFoundError, match='no teacher in'): load_teacher(tmp_path/'new')
    other = BagOfWordsTeacher().fit(cohort())
    for folder in (tmp_path/'t', tmp_path/'new'):
        save_teacher(other, folder)
        assert type(load_teacher(folder)) is BagOfWordsTeacher
    assert sorted(p.name for p in tmp_path.iterdir()) == ['new', 't']

def test_a_folder_of_other_things_stays(tmp_path):
    (tmp_path/'mine').mkdir(); (tmp_path/'mine/thesis.txt').write_text('...')
    (tmp_path/'file').write_text('...')
    for name in ('mine', 'file'):
        with pytest.raises(FileExistsError, match=f'{name} is there already and holds no teacher'):
            save_teacher(forest().fit(cohort()), tmp_path/name)
    assert contents(tmp_path) == {Path('mine/thesis.txt'): b'...', Path('file'): b'...'}

def test_no_teacher_there(tmp_path):
    (tmp_path/'t.skops').write_bytes(b'')
    for name in ('gone', '.', 't.skops'):
        with pytest.raises(FileNotFoundError, match='there is no teacher.json'): load_teacher(tmp_path/name)

def saved(folder, **state):
    save_teacher(forest().fit(cohort()), folder)
    (folder/'teacher.json').write_text(json.dumps(dict(teacher='forest') | state))
    return folder

def test_an_untrusted_type_is_refused(tmp_path):
    for k, stranger in enumerate([FunctionTransformer(func=np.savetxt), class_auroc, zipfile.ZipInfo]):
        skops.io.dump(dict(models=dict(mass=stranger)), saved(tmp_path/f'{k}')/'teacher.skops')
        with pytest.raises(Exception, match='(?i)untrusted'): load_teacher(tmp_path/f'{k}')

def test_a_pickle_is_refused(tmp_path):
    (saved(tmp_path/'t')/'teacher.skops').write_bytes(pickle.dumps(dict(teacher='forest')))
    with pytest.raises(zipfile.BadZipFile): load_teacher(tmp_path/'t')

def test_an_unknown_teacher_on_file(tmp_path):
    with pytest.raises(ValueError, match="not 'oracle'"): load_teacher(saved(tmp_path/'t', teacher='oracle'))

def test_a_stored_language_model_that_lost_its_answers(tmp_path, small):
    save_teacher(bert(small).fit(cohort()), tmp_path/'t')
    weights = tmp_path/'t/model.safetensors'
    save_file({k: v for k, v in load_file(weights).items() if not k.startswith('classifier')}, weights,
              metadata=dict(format='pt'))
    with pytest.raises(OSError, match='2 weights are missing or of another shape, such as classifier.bias'):
        load_teacher(tmp_path/'t')

def test_every_teacher_can_be_named():
    assert {make_teacher(name).check for name in TEACHERS}
    assert [type(make_teacher(n)) for n in TEACHERS] == list(TEACHERS.values())


# Categories with many values

def many(n, levels):
    "A cohort whose column `code` has so many values, one of them in half of the rows"
    rng = np.random.default_rng(0)
    y, code = np.arange(n) % 2, rng.integers(0, levels, n)
    code[::2] = 0
    ids = [f'i{k}' for k in range(n)]
    items = pd.DataFrame(dict(image_id=ids, patient_id=ids, split='train', image='x.png', y=y,
                              code=[f'A{k:06}' for k in code], birads=y + rng.integers(0, 3, n)))
    return Cohort(items, ['y'], tabular=['code', 'birads'])

@pytest.mark.parametrize('teacher', ['forest', 'boosting'])
def test_a_value_per_row_takes_memory_by_rows_and_not_by_their_square(teacher):
    c = many(4000, 3900)
    t = make_teacher(teacher, **(dict(n_estimators=5) if teacher == 'forest' else dict(max_iter=5))).fit(c)
    x = t.models['y']['features'].transform(t.inputs(c))
    assert x.shape[1] <= 2*MAX_COLUMNS
    assert scipy.sparse.issparse(x) == (teacher == 'forest')
    assert t.logits(c).notna().all(axis=None)

@pytest.mark.parametrize('levels', [1, 2, MAX_COLUMNS - 1, MAX_COLUMNS])
def test_up_to_the_limit_each_value_is_a_feature(levels):
    x = pd.DataFrame(dict(code=[f'v{k % levels}' for k in range(400)]))
    assert tabular_features(x).fit_transform(x).shape == (400, levels)

def test_values_above_the_limit_share_a_feature_and_so_do_unseen_ones():
    x = pd.DataFrame(dict(code=['often']*300 + [f'v{k}' for k in range(300)]))
    f = tabular_features(x).fit(x)
    counts = sorted(f.transform(x).sum(axis=0))
    assert counts == [1]*(MAX_COLUMNS - 2) + [300 - (MAX_COLUMNS - 2), 300]
    unseen = f.transform(pd.DataFrame(dict(code=['never seen'])))
    assert f.transform(x)[:, unseen[0].argmax()].sum() == 300 - (MAX_COLUMNS - 2)

def test_a_forest_is_the_same_on_a_dense_matrix(monkeypatch):
    c = many(600, 30)
    sparse = make_teacher('forest', n_estimators=20).fit(c).logits(c)
    monkeypatch.setattr(teachers, 'tabular_features', lambda x, sparse=False: tabular_features(x))
    pd.testing.assert_frame_equal(make_teacher('forest', n_estimators=20).fit(c).logits(c), sparse, rtol=1e-12)
