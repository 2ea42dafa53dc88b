"mmpkd.signs: each sign where it is and where it is not, and what is kept for a reader without the data"
import json, shutil

import numpy as np, pandas as pd, pytest
from conftest import altered
from scipy.stats import spearmanr

from mmpkd.attention import AttentionMaps
from mmpkd.sanity_checks import agreement
from mmpkd.cohort import Cohort
from mmpkd.results import Experiment
from mmpkd.settings import make_config
from mmpkd.experiment import run_experiment
from mmpkd.images import Geometry, cache_pixels
from mmpkd.signs import (FOUND, different_images, failure_signs, gain_of, high_lam, lesion_places, map_agreement,
                         no_place, patient_interval, place_words, privileged_features, save_place, seed_maps, sign_row,
                         teacher_reads, weak_teacher)
from mmpkd.statistics import compare_arms

SIGNS = ['weak teacher', 'λ too high', 'maps of the seed', 'nothing about place']


@pytest.fixture
def copy(tiny_run, tmp_path): return Experiment(shutil.copytree(tiny_run.folder, tmp_path/'copy'))


# Teacher

@pytest.mark.parametrize('teacher,baseline,found',
                         [(.484, .6, 'yes'), (.65, .6, 'yes'), (.8, .6, 'no'), (.99, .95, 'yes'),
                          (np.nan, .6, 'unknown'), (.6, np.nan, 'unknown')])
def test_a_teacher_has_to_be_ahead(teacher, baseline, found):
    row = weak_teacher(teacher, baseline, 50)
    assert row['found'] == found and bool(row['advice']) == (found == 'yes')
    if found == 'yes': assert f'{teacher:.3f}' in row['meaning'] and f'{baseline:.3f}' in row['meaning']

def test_a_teacher_below_the_baseline_is_called_that():
    assert 'is below that of' in weak_teacher(.484, .6, 50)['meaning']
    assert 'only 0.050 above' in weak_teacher(.65, .6, 50)['meaning']

def test_a_row_has_one_of_three_answers():
    with pytest.raises(ValueError, match='found must be one of'): sign_row('sign', 'maybe', '', '')


# λ

def predicted(seeds, loss, arm='out-of-fold'):
    auroc = .8 + .002*np.arange(seeds)
    return compare_arms(pd.concat([pd.DataFrame(dict(arm=a, seed=range(seeds), auroc=auroc - d)) for a,
                                   d in (('baseline', 0), (arm, loss))]))

@pytest.mark.parametrize('seeds,loss,lam,found',
                         [(5, .05, .5, 'yes'), (5, .05, .3, 'no'), (5, -.05, .9, 'no'), (5, 0., .9, 'no'),
                          (3, .05, .9, 'unknown'), (3, -.05, .9, 'no')])
def test_high_lam(seeds, loss, lam, found):
    row = high_lam(predicted(seeds, loss), {'out-of-fold': lam})
    assert row['found'] == found and ('mmpkd grid' in row['advice']) == (found == 'yes')

def test_controls_may_predict_worse():
    assert high_lam(predicted(5, .05, 'shuffled'), {})['found'] == 'unknown'


# Maps

def maps_of(stack, sizes=None):
    "(S, N, g, g) -> `AttentionMaps` of each student"
    sizes = sizes or [(64, 64)]*stack.shape[1]
    return [AttentionMaps(m, [f'i{k}' for k in range(len(m))], [Geometry(h, w, 64) for h, w in sizes]) for m in stack]

def test_two_images_by_hand():
    rng = np.random.default_rng(0)
    stack = rng.random((3, 2, 8, 8))
    by_hand = np.mean([spearmanr(a.ravel(), b.ravel()).statistic for a, b in stack])
    np.testing.assert_allclose(different_images(maps_of(stack)), [by_hand, by_hand], atol=1e-6)

def test_only_patches_that_show_both_are_compared():
    stack = np.random.default_rng(0).random((1, 2, 8, 8))
    maps = maps_of(stack, [(64, 32), (32, 64)])                                # upright and lying: the middle is common
    middle = [m[2:6, 2:6].ravel() for m in stack[0]]
    np.testing.assert_allclose(different_images(maps), spearmanr(*middle).statistic, atol=1e-6)

def test_odd_numbers_of_images():
    rng = np.random.default_rng(0)
    assert np.isnan(different_images(maps_of(rng.random((2, 1, 4, 4))))).all()
    for n in (2, 3, 4, 30): assert np.isfinite(different_images(maps_of(rng.random((2, n, 4, 4))))).all()
    assert (different_images(maps_of(np.ones((2, 5, 4, 4)))) == 0).all()       # flat maps agree in nothing

def test_the_null_is_the_same_every_time(tiny_run):
    maps = [tiny_run.maps('baseline', seed) for seed in range(2)]
    np.testing.assert_array_equal(different_images(maps), different_images(maps))
    pd.testing.assert_frame_equal(map_agreement(maps).drop(columns='different'), agreement(maps))

@pytest.mark.parametrize('image,seed,found', [(1., .1, 'no'), (.1, 1., 'yes')])
def test_maps_of_the_seed(image, seed, found):
    rng = np.random.default_rng(1)
    stack = rng.normal(size=(8, 8)) + image*rng.normal(size=(1, 30, 8, 8)) + seed*rng.normal(size=(3, 1, 8, 8))
    table = map_agreement(maps_of(stack)).assign(arm='baseline', patient_id=np.arange(30)//2)
    row = seed_maps(table)
    assert row['found'] == found and ('Baseline' in row['meaning']) == (found == 'yes')

def test_one_patient_is_too_few():
    table = pd.DataFrame(dict(arm='baseline', patient_id='p', spearman=[.9, .8], different=.1))
    assert seed_maps(table)['found'] == 'unknown'

def test_an_interval_over_patients():
    mean, lo, hi = patient_interval(pd.Series([1., 3., 2., 4., 9., 9.]), ['a', 'a', 'b', 'c', 'd', 'd'])
    assert mean == pytest.approx((2 + 2 + 4 + 9)/4) and lo < mean < hi
    assert patient_interval(pd.Series([1., 1.]), ['a', 'b']) == (1., 1., 1.)


# Place

N = 120

def marked(report=None, side=None, **more):
    "A lesion on the left or on the right of each image; who tells?"
    rng = np.random.default_rng(0)
    right = rng.random(N) < .5
    ids = [f'i{k}' for k in range(N)]
    items = pd.DataFrame(dict(image_id=ids, patient_id=[f'p{k//2}' for k in range(N)],
                              split=(['train']*16 + ['valid']*2 + ['test']*2)*(N//20), image=ids, y=1.,
                              age=rng.integers(20, 90, N)))
    x = np.where(right, 60, 10) + rng.integers(0, 10, N)
    rois = pd.DataFrame(dict(image_id=ids, label='y', x0=x, y0=40, x1=x + 10, y1=60))
    if report: items['report'] = [report(r) for r in right]
    if side: items['side'] = [side(r) for r in right]
    return Cohort(items, ['y'], rois, **more)

class Sizes: index = pd.DataFrame(dict(h=100, w=100), [f'i{k}' for k in range(N)])

def telling(r): return f"opacity on the {'right' if r else 'left'}"

CASES = [('bow', dict(report=telling, text='report'), 'no'),
         ('bow', dict(report=lambda r: 'an opacity is seen', text='report'), 'yes'),
         ('forest', dict(side=lambda r: 'RL'[int(r)], tabular=['side', 'age']),
          'no'), ('forest', dict(tabular=['age']), 'yes'),
         # a forest reads no reports
         ('forest', dict(report=telling, text='report', tabular=['age']), 'yes'),
         ('stacked', dict(report=telling, text='report', tabular=['age']), 'no')]

@pytest.mark.parametrize('teacher,told,found', CASES)
def test_can_the_place_be_told(teacher, told, found):
    cohort = marked(**told)
    places = lesion_places(cohort, Sizes)
    gain = gain_of(cohort, places, teacher)
    assert no_place(dict(privileged=True) | place_words(cohort, teacher) | gain)['found'] == found, gain

def test_places_are_shares_of_the_image():
    cohort = marked(tabular=['age'])
    first, r = lesion_places(cohort, Sizes).iloc[0], cohort.rois.iloc[0]
    assert (first.x, first.y) == ((r.x0 + r.x1)/200, .5)

def test_labels_that_name_the_side_leave_nothing_to_tell():
    cohort = marked(report=telling, text='report')
    right = (lesion_places(cohort, Sizes).x > .5).to_numpy().astype(float)
    items = cohort.items.drop(columns='y').assign(on_right=right, on_left=1 - right)
    rois = cohort.rois.assign(label=np.where(right == 1, 'on_right', 'on_left'))
    sided = Cohort(items, ['on_right', 'on_left'], rois, text='report')
    assert gain_of(sided, lesion_places(sided, Sizes),
                   'bow')['hi'] < .1 < gain_of(cohort, lesion_places(cohort, Sizes), 'bow')['lo']

def test_few_regions_cannot_tell():
    cohort = marked(report=telling, text='report')
    few = altered(cohort, rois=cohort.rois[:20])
    found = dict(privileged=True) | place_words(few, 'bow') | gain_of(few, lesion_places(few, Sizes), 'bow')
    row = no_place(found)
    assert row['found'] == 'unknown' and '10 patients with regions are too few' in row['meaning']
    assert '100% of the reports' in row['figures']
    bare = altered(cohort, rois=cohort.rois[:0])
    assert gain_of(bare, lesion_places(bare, Sizes), 'bow') == dict(images=0, patients=0)

def test_an_interval_that_holds_the_limit_cannot_tell():
    found = dict(privileged=True, words=.5, columns=[], images=50, patients=40, share=.1, lo=-.05, hi=.25)
    assert no_place(found)['found'] == 'unknown' and no_place({})['found'] == 'unknown'
    assert no_place(dict(privileged=False))['found'] == 'unknown'

def test_lesions_at_one_place():
    cohort = marked(report=telling, text='report')
    same = altered(cohort, rois=cohort.rois.assign(x0=10., x1=20.))
    assert abs(gain_of(same, lesion_places(same, Sizes), 'bow')['share']) < 1e-6

def test_words_and_columns_of_place():
    items = dict(side=lambda r: 'RL'[int(r)], tabular=['side', 'age'], report=telling, text='report')
    assert place_words(marked(**items), 'stacked') == dict(words=1., columns=['side'])
    assert place_words(marked(**items), 'bow')['columns'] == []
    cohort = marked(report=lambda r: None if r else "an opacity at 3 o'clock", text='report')
    assert 0 < place_words(cohort, 'bow')['words'] < 1
    breasts = altered(cohort, cohort.items.assign(breast=['LEFT', 'RIGHT']*(N//2)), text=None,
                      tabular=['breast', 'age'])
    assert place_words(breasts, 'forest')['columns'] == ['breast']             # by its values

def test_what_a_teacher_reads():
    cohort = marked(report=telling, text='report', tabular=['age'])
    assert teacher_reads(cohort, 'bow') == ('report', []) and teacher_reads(cohort, 'forest') == (None, ['age'])
    assert teacher_reads(cohort, 'stacked') == ('report', ['age']) and teacher_reads(cohort, 'none') == (None, [])

def test_blank_privileged_information():
    cohort = marked(report=lambda r: None, text='report')
    items = cohort.items.assign(age=np.nan, sex=pd.Series(['F', None]*(N//2), dtype='category'))
    cohort = altered(cohort, items, tabular=['age', 'sex'])
    assert privileged_features(cohort, items.image_id, 'bow').shape == (N, 0)
    assert gain_of(cohort, lesion_places(cohort, Sizes), 'stacked')['hi'] < .1

def test_an_image_has_the_mean_of_its_parts():
    cohort = marked(tabular=[])
    parts = pd.DataFrame(dict(image_id=['a', 'b', 'c'], of=['i0', 'i0', 'i3'], patient_id=['p0', 'p0', 'p1'],
                              split='train', image=['i0', 'i0', 'i3'], y=1., kind=['u', 'v', 'v']))
    cohort.parts = Cohort(parts, ['y'], tabular=['kind'])
    x = privileged_features(cohort, ['i3', 'i0', 'i5'], 'forest').toarray()
    u, v = np.argsort(x[0])
    assert x[0, u] == 0 < x[0, v] and x[1, v] == pytest.approx(x[0, v]/2) and (x[2] == 0).all()


# A run

def test_signs_of_a_run(tiny_run):
    t = failure_signs(tiny_run)
    assert t.sign.tolist() == SIGNS and set(t.found) <= {*FOUND} and (t.meaning != '').all()
    assert t.advice.astype(bool).tolist() == (t.found == 'yes').tolist()

def test_signs_need_no_data(tiny_run, phantom, copy):
    "What needs the data is kept in the folder, and made once"
    (copy.folder/'place.json').unlink()
    assert failure_signs(copy).set_index('sign').found['nothing about place'] == 'unknown'
    pixels = cache_pixels(phantom, copy.config['size'], copy.folder/'pixels')
    found = save_place(copy, phantom, pixels)
    assert found['images'] == phantom.rois.image_id.nunique()
    assert json.loads((copy.folder/'place.json').read_text()) == found
    (copy.folder/'place.json').write_text(json.dumps(found | dict(share=0., lo=-.01, hi=.01)))
    assert save_place(copy, phantom, pixels)['share'] == 0
    assert failure_signs(copy).set_index('sign').found['nothing about place'] == 'yes'

def test_a_useless_teacher_is_found(copy):
    files = [copy.folder/f'teachers/seed-{seed}/teacher.json' for seed in range(2)]
    assert all(f.is_file() for f in files)
    for f in files: f.write_text(json.dumps(dict(auroc=dict(valid=.2), T_valid=None)))
    assert failure_signs(copy).found[0] == 'yes'
    for f in files: f.write_text(json.dumps(dict(auroc=dict(valid=1.), T_valid=None)))
    assert failure_signs(copy).found[0] == 'no'

def test_signs_without_a_teacher_and_with_one_seed(phantom, tiny, tmp_path):
    nothing = altered(phantom, text=None, tabular=())
    run = run_experiment(nothing, tmp_path/'run', make_config(**tiny | dict(teacher='none')),
                         ('baseline', 'label-smoothing'), seeds=1, progress=False)
    assert save_place(run, nothing, cache_pixels(nothing, 32, run.folder/'pixels')) == dict(privileged=False)
    assert failure_signs(run).found.tolist() == ['unknown']*4
