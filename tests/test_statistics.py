"Corner cases of mmpkd.statistics: ties, missing runs, small designs, and words that must follow from numbers"
import copy, pickle
from itertools import combinations, product

import numpy as np, pandas as pd, pytest
from hypothesis import given, strategies as st
from scipy.stats import PermutationMethod, binom, binomtest, mannwhitneyu, t as student_t

from mmpkd.statistics import (DIRECTIONS, SCORES, TITLES, attainable_level, attainable_p, cliffs_delta, compare_arms,
                              delta_interval, holm, mann_whitney, metrics_of, per_run, plus_minus, power, power_table,
                              seeds_needed, sign_flip, summarize, vargha_delaney, verdict, with_intervals)

grid = st.integers(0, 4).map(lambda i: i/4)         # few values, so many ties
sample = st.lists(grid, min_size=1, max_size=5)
probs = st.lists(st.floats(0, 1), min_size=1, max_size=12)

def runs(**arms):
    "A table of runs: arm=dict(metric=[values by seed])"
    return pd.concat([pd.DataFrame(m).assign(arm=a, seed=range(len(next(iter(m.values()))))) for a,m in arms.items()],
                     ignore_index=True)

def five(shift=0.): return list(np.arange(5)/100 + shift)


# The exact test

pair = st.lists(grid, min_size=2, max_size=5)       # scipy's permutation test wants two of each

@given(pair, pair)
def test_mann_whitney_is_the_full_permutation_test(x, y):
    u, p = mann_whitney(x, y)
    twin = mannwhitneyu(x, y, method=PermutationMethod(n_resamples=np.inf))
    assert u == twin.statistic and p == pytest.approx(twin.pvalue)

@given(sample, sample)
def test_mann_whitney_by_hand(x, y):
    "Every way of dealing the scores out, one after another"
    both, n = x + y, len(x)
    def u(first):
        return sum((both[i] > both[j]) + (both[i] == both[j])/2 for i in first
                   for j in set(range(len(both))) - set(first))
    all_u, seen = [u(c) for c in combinations(range(len(both)), n)], u(range(n))
    tails = np.mean(np.array(all_u) <= seen), np.mean(np.array(all_u) >= seen)
    assert mann_whitney(x, y) == pytest.approx((seen, min(1, 2*min(tails))))

@pytest.mark.parametrize('n,m', [(1, 1), (1, 7), (5, 6), (9, 4), (20, 20)])
def test_mann_whitney_is_scipys_exact_test_without_ties(n, m):
    rng = np.random.default_rng(n*100+m)
    x, y = rng.normal(size=n), rng.normal(.5, size=m)
    twin = mannwhitneyu(x, y, method='exact')
    assert mann_whitney(x, y) == pytest.approx((twin.statistic, twin.pvalue))

@given(sample, sample)
def test_mann_whitney_mirror_bounds_and_monotone_maps(x, y):
    u, p = mann_whitney(x, y)
    v, q = mann_whitney(y, x)
    assert u + v == len(x)*len(y) and p == pytest.approx(q)
    assert p >= attainable_p(len(x), len(y)) - 1e-12 and p <= 1
    assert mann_whitney(np.exp(x), np.exp(y)) == (u, p)
    assert cliffs_delta(x, y) == pytest.approx(2*u/(len(x)*len(y)) - 1)

def test_all_scores_equal_is_no_evidence():
    assert mann_whitney([.5]*5, [.5]*5) == (12.5, 1.)

def test_ties_of_three_and_of_two():
    "Three that tie share a whole rank, two a half one, which is counted in halves"
    for x, y in (([1, 1, 2, 5], [1, 3, 4]), ([1, 2, 5], [1, 3, 4])):
        twin = mannwhitneyu(x, y, method=PermutationMethod(n_resamples=np.inf))
        assert mann_whitney(x, y) == pytest.approx((twin.statistic, twin.pvalue))

def test_largest_allowed_sample_is_finite():
    p = mann_whitney(np.arange(100.), np.arange(100.)+200)[1]
    assert 0 < p < 1e-50

@pytest.mark.parametrize('x', [[], [[1., 2.]], [1., np.nan]])
def test_mann_whitney_refuses(x):
    with pytest.raises(ValueError, match='`x`'): mann_whitney(x, [1., 2.])
    with pytest.raises(ValueError, match='`y`'): cliffs_delta([1., 2.], x)

def test_attainable_p():
    assert attainable_p(1, 1) == 1 and attainable_p(4, 6) == 2/210
    with pytest.raises(ValueError, match='at least one run'): attainable_p(0, 5)

signs = st.lists(st.integers(-4, 4).map(lambda i: i/10), min_size=1, max_size=8)

@given(signs)
def test_sign_flip_by_hand(d):
    sums = [abs(sum(s*v for s,v in zip(pattern, d))) for pattern in product((-1, 1), repeat=len(d))]
    assert sign_flip(d) == pytest.approx((np.mean(d), np.mean([s >= abs(sum(d)) - 1e-9 for s in sums])))

def test_sign_flip_edges():
    assert sign_flip([0., 0.])[1] == 1 and sign_flip(np.ones(20))[1] == 2/2**20 and sign_flip([.3])[1] == 1
    assert sign_flip([1e-300, 2e-300, 3e-300])[1] == .25 == sign_flip([1e300, 2e300, 3e300])[1]
    with pytest.raises(ValueError, match='at most 20'): sign_flip(np.ones(21))
    with pytest.raises(ValueError, match='NaN'): sign_flip([.1, np.nan])

@pytest.mark.parametrize('n,m', [(1, 1), (2, 4), (3, 3), (4, 5), (5, 5)])
@pytest.mark.parametrize('alpha', [.01, .05, .0317460317460318, .2, 1.])
def test_attainable_level_is_the_rate_of_false_alarms(n, m, alpha):
    "Over all orders of n + m runs, and all signs of n differences, which are equally likely without an effect"
    p = np.array([mann_whitney(c, sorted(set(range(n+m)) - set(c)))[1] for c in combinations(range(n+m), n)])
    assert attainable_level('mann_whitney', n, m, alpha) == pytest.approx((p <= alpha).mean())
    sizes = 2.**np.arange(n)                                               # no two sums are equal
    p = np.array([sign_flip(sizes*pattern)[1] for pattern in product((-1, 1), repeat=n)])
    assert attainable_level(sign_flip, n, alpha=alpha) == pytest.approx((p <= alpha).mean())

def test_attainable_level_refuses():
    with pytest.raises(ValueError, match="not 't_test'"): attainable_level('t_test', 5)
    with pytest.raises(ValueError, match='at least one run'): attainable_level('sign_flip', 0)


# Holm

@given(probs)
def test_holm_never_lowers_and_keeps_the_order(p):
    adj = holm(p)
    assert (adj >= np.array(p)).all() and (adj <= 1).all()
    assert (np.diff(adj[np.argsort(p)]) >= 0).all()
    assert (adj <= np.minimum(1, len(p)*np.array(p)) + 1e-12).all()       # never worse than Bonferroni

@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_holm_rises_with_every_p(pairs):
    lo, hi = np.sort(np.array(pairs), axis=1).T
    assert (holm(lo) <= holm(hi) + 1e-12).all()                            # why attainable_holm is a bound

def test_holm_edges():
    assert len(holm([])) == 0 and holm([.03])[0] == .03
    np.testing.assert_allclose(holm([np.nan, .02, .01, np.nan]), [np.nan, .02, .02, np.nan])
    np.testing.assert_allclose(holm(pd.Series([.01, .01], index=[7, 3])), [.02, .02])
    for bad in (-.1, 1.1):
        with pytest.raises(ValueError, match=r'\[0, 1\]'): holm([bad])


# From images to runs

def test_per_run_skips_undefined_fpr_and_counts_silence():
    images = pd.DataFrame(dict(arm='a', seed=0, image_id=list('wxyz'), iou=[.4, .2, 0, 0],
                               fpr=[.5, .7, np.nan, np.nan], n_boxes=[1, 2, 0, 0]))
    r = per_run(images).iloc[0]
    assert (r.iou, r.fpr, r.no_box, r.images) == (pytest.approx(.15), pytest.approx(.6), .5, 4)

def test_per_run_counts_boxes_and_what_silence_costs():
    images = pd.DataFrame(dict(arm='a', seed=0, image_id=list('wxyz'), iou=[.4, .2, 0, 0],
                               fpr=[.5, .7, np.nan, np.nan], n_boxes=[1, 5, 0, 0]))
    r = per_run(images).iloc[0]
    assert (r.boxes, r.fpr_all) == (1.5, pytest.approx((.5 + .7 + 1 + 1)/4))
    assert list(per_run(images, ['iou'])) == ['arm', 'seed', 'iou', 'no_box', 'boxes', 'images']
    # an older file
    assert list(per_run(images.drop(columns='n_boxes'))) == ['arm', 'seed', 'iou', 'fpr', 'images']

def test_per_run_where_no_image_has_a_box():
    r = per_run(pd.DataFrame(dict(arm='a', seed=0, iou=[0., 0.], fpr=[np.nan]*2, n_boxes=[0, 0]))).iloc[0]
    assert np.isnan(r.fpr) and r.no_box == 1

def test_summarize_single_seed_missing_values_and_more_groups():
    d = pd.DataFrame(dict(data=['cxr','cxr','mass'], arm='a', seed=[0, 1, 0], iou=[.2, np.nan, .4]))
    s = summarize(d, by=['data','arm']).set_index('data')
    assert list(s.n) == [1, 1] and s.sd.isna().all() and s['mean'].tolist() == [.2, .4]
    assert summarize(d, 'iou').n.item() == 2
    with pytest.raises(ValueError, match="'auprc'"): summarize(d, ['auprc'])
    with pytest.raises(ValueError, match='no metrics'): summarize(d[['arm','seed']])

def test_metrics_of():
    d = pd.DataFrame(dict(arm='a', seed=[0], mass=[.2], iou=[.4]))
    assert metrics_of(d) == metrics_of(d, 'iou') == ['iou'] and metrics_of(d, known=SCORES) == ['iou','mass']
    assert metrics_of(d, ('x','y')) == ['x','y']
    for nothing in (None, ()):
        with pytest.raises(ValueError, match="no metrics to work on: scores has"): metrics_of(d[['arm']], nothing)

def test_plus_minus():
    assert plus_minus(.7249, .0351) == '0.72 ± 0.04' and plus_minus(.5, digits=3) == '0.500'
    assert plus_minus(np.nan, np.nan) == '–'

def test_per_run_averages_all_known_scores_and_tests_few():
    rng = np.random.default_rng(0)
    images = pd.DataFrame({m: rng.random(80) for m in SCORES}
                          | dict(arm=np.repeat(['baseline','a'], 40), seed=np.tile(np.arange(10), 8), n_boxes=1))
    assert set(SCORES) <= set(TITLES) and set(SCORES) <= set(per_run(images))
    assert set(compare_arms(per_run(images)).metric) == set(DIRECTIONS)


# Effect sizes

@given(sample, sample, st.sampled_from([.01, .05, .3]))
def test_delta_interval_holds_the_estimate_and_is_a_mirror(x, y, alpha):
    lo, hi = delta_interval(x, y, alpha)
    assert -1 <= lo <= cliffs_delta(x, y) + 1e-9 and cliffs_delta(x, y) - 1e-9 <= hi <= 1 and lo < hi
    assert delta_interval(y, x, alpha) == pytest.approx((-hi, -lo))
    assert vargha_delaney(x, y) == pytest.approx(mann_whitney(x, y)[0]/(len(x)*len(y)))
    assert vargha_delaney(x, y) + vargha_delaney(y, x) == pytest.approx(1)

@pytest.mark.parametrize('wins', range(7))
def test_delta_interval_is_the_exact_binomial_in_its_worst_case(wins):
    "Six runs above or below a baseline that never varies: A12 is a proportion of six"
    ci = binomtest(wins, 6).proportion_ci(.95)
    assert delta_interval(np.where(np.arange(6) < wins, 1., -1.),
                          np.zeros(6)) == pytest.approx((2*ci.low-1, 2*ci.high-1))

@pytest.mark.parametrize('n', [3, 5, 6, 10])
@pytest.mark.parametrize('shape', ['exponential', 'tenfold', 'heavy'])
def test_delta_interval_covers(n, shape):
    rng = np.random.default_rng(n)
    def draw(k):
        return dict(exponential=lambda: (rng.exponential(size=k), rng.exponential(size=k)),
                    tenfold=lambda: (rng.normal(0, 10, k), rng.normal(size=k)),
                             heavy=lambda: (rng.standard_t(2, k), rng.standard_t(2, k)))[shape]()
    x, y = draw(4000)
    for shift in (0, 1, 3):
        delta = cliffs_delta(x + shift, y)
        held = [lo <= delta <= hi for lo,hi in (delta_interval(a + shift, b) for a,b in (draw(n) for _ in range(300)))]
        assert np.mean(held) >= .95


# Power

@pytest.mark.parametrize('n,m,tests', [(5, 5, 1), (4, 7, 1), (6, 6, 3)])
def test_power_is_what_the_test_does(n, m, tests):
    rng = np.random.default_rng(0)
    fired = [mann_whitney(rng.normal(.1, .05, n), rng.normal(0, .05, m))[1] <= .05/tests for _ in range(2000)]
    assert power(.1, .05, n, m, tests=tests) == pytest.approx(np.mean(fired),
                                                              abs=.035) == power(-.1, .05, n, m, tests=tests)

@pytest.mark.parametrize('n', [3, 5, 6, 10])
def test_power_without_effect_is_the_level(n):
    assert power(0, 1, n) == pytest.approx(attainable_level('mann_whitney', n), abs=.005)

def test_seeds_needed():
    n = seeds_needed(2, 1)
    assert power(2, 1, n, draws=5000) >= .8 > power(2, 1, n-1, draws=5000)
    assert seeds_needed(2, 1, chance=.5) < n < seeds_needed(2, 1, chance=.99)
    assert seeds_needed(.01, 1, most=6) == np.inf and seeds_needed(99, 1) == 4 and seeds_needed(99, 1, tests=9) == 6
    with pytest.raises(ValueError, match='sd'): power(1, 0, 5)

def test_power_table():
    scores = runs(baseline=dict(iou=five(), fpr=[.5]*5), a=dict(iou=five(.3)[:3] + [np.nan]*2, fpr=[.5]*5))
    t = power_table(scores, seeds=(5, 6))
    # an FPR that never varies has no spread to plan with
    assert t.metric.tolist() == ['iou']
    v = (4*np.var(five(), ddof=1) + 2*np.var(five()[:3], ddof=1))/6
    assert t.sd.item() == pytest.approx(v**.5) and t['n=6'].item() == power(.11, v**.5, 6, tests=2)


# Comparing arms

def test_family_is_all_localisation_tests_and_auroc_is_outside():
    m = dict(pixel_auroc=five(.5), iou=five(.5), fpr=five(.5), auroc=five(.5))
    better = {k: five(.7) for k in m}
    c = compare_arms(runs(baseline=m, a=better, b=better))
    assert c.tests == 6
    assert c[c.metric == 'auroc'].p_holm.isna().all() and c[c.metric != 'auroc'].p_holm.notna().all()
    assert set(c[c.metric == 'fpr'].finding) == {'gets worse'} and set(c[c.metric != 'fpr'].finding) == {'improves'}
    np.testing.assert_allclose(c.p_holm.dropna(), 6*2/252)
    assert 'uncorrected p = 0.0079' in verdict(c)['a'] and 'ets worse in FPR' in verdict(c)['a']
    assert 'mixed' in verdict(c)['a']

def test_a_fourth_arm_takes_the_findings_away():
    m, better = {k: five(.5) for k in ('pixel_auroc','iou','fpr')}, {k: five(.7) for k in ('pixel_auroc','iou','fpr')}
    c = compare_arms(runs(baseline=m, a=better, b=better, c=better))        # nine tests, five seeds
    assert set(c.finding) == {'out of reach'}
    v = verdict(c)['a']
    assert 'no evidence at this n' in v and '0.0079, 0.071 after Holm' in v and 'improves' not in v

def test_missing_seeds_and_values():
    scores = runs(baseline=dict(iou=five(), fpr=[.5, np.nan, .4, .3, .2]), a=dict(iou=five(.3)[:4], fpr=[np.nan]*4))
    comparison = compare_arms(scores)
    c = comparison.table.set_index('metric')
    assert (c.n_arm['iou'], c.n_baseline['iou']) == (4, 5) and c.attainable['iou'] == 2/126
    assert c.finding['fpr'] == 'no values' and np.isnan(c.p['fpr'])
    assert c.n_baseline['fpr'] == 4 and c.mean_baseline['fpr'] == pytest.approx(.35)
    assert comparison.tests == 1 and c.p_holm['iou'] == c.p['iou']
    assert 'o values in FPR' in verdict(comparison)['a']

def test_partly_missing_values_are_told():
    scores = runs(baseline=dict(iou=five(), fpr=five(.5)), a=dict(iou=five(.3), fpr=[.1, .12, .13, .14, np.nan]))
    assert 'FPR (0.52 to 0.12, p = 0.016, n = 4 against 5)' in verdict(compare_arms(scores))['a']

def test_single_seed():
    c = compare_arms(runs(baseline=dict(iou=[.1]), a=dict(iou=[.9])))
    assert c.finding.item() == 'out of reach' and 'smallest attainable 1' in verdict(c)['a']

def test_no_run_has_a_value():
    c = compare_arms(runs(baseline=dict(iou=[np.nan]*3), a=dict(iou=[np.nan]*3)))
    assert c.finding.item() == 'no values' and c.tests == 0 and 'no values in IoU' in verdict(c)['a']

def test_an_outlier_may_not_turn_the_verdict():
    lower = [.10, .11, .12, .13, .14, 9.]                                    # mean up, ranks down
    c = compare_arms(runs(baseline=dict(iou=[.5, .51, .52, .53, .54, .55, .56]), a=dict(iou=lower)), alpha=.2)
    assert c.p.item() < .2 and c.better.item() and c.finding.item() == 'mixed'
    assert 'improves' not in verdict(c)['a'] and 'ean and ranks move in opposite directions in IoU' in verdict(c)['a']

def test_equal_arms():
    c = compare_arms(runs(baseline=dict(iou=five()), a=dict(iou=five())))
    assert c.difference.item() == 0 and not c.better.item() and c.p.item() == 1
    assert c.finding.item() == 'no difference found'

@given(st.lists(st.tuples(grid, grid, grid), min_size=1, max_size=7),
       st.lists(st.tuples(grid, grid, grid), min_size=1, max_size=7))
def test_words_follow_from_numbers(x, y):
    table = lambda v: dict(zip(['iou','fpr','auroc'], map(list, zip(*v))))
    c = compare_arms(runs(baseline=table(y), a=table(x)))
    said = verdict(c)['a']
    p = c.p_holm.fillna(c.p)
    assert ('improves' in said) == ((p <= .05) & c.better & (c.difference*c.cliffs_delta > 0)).any()
    if (p > .05).all(): assert not any(w in said for w in ('improves', 'gets worse', 'opposite'))
    assert (p >= c.attainable_holm.fillna(c.attainable) - 1e-12).all()
    assert 'No control arm was run' in said

def test_another_baseline_and_metric():
    scores = runs(plain=dict(auprc=five(.5)), a=dict(auprc=five(.6)))
    c = compare_arms(scores, baseline='plain', metrics=dict(auprc='higher'))
    assert c.tests == 1 and c.finding.item() == 'improves'          # an unknown metric belongs to the family

def test_compare_arms_refuses():
    scores = runs(baseline=dict(iou=five()), a=dict(iou=five(.3)))
    with pytest.raises(ValueError, match="'seed'"): compare_arms(scores.drop(columns='seed'))
    with pytest.raises(ValueError, match="no arm is called 'base'"): compare_arms(scores, baseline='base')
    with pytest.raises(ValueError, match='only arm'): compare_arms(scores[scores.arm == 'baseline'])
    with pytest.raises(ValueError, match="'up'"): compare_arms(scores, metrics=dict(iou='up'))
    with pytest.raises(ValueError, match="'auroc'"): compare_arms(scores, metrics=dict(auroc='higher'))
    with pytest.raises(ValueError, match="arm 'a', seed 2"): compare_arms(pd.concat([scores, scores.iloc[[7]]]))


# The verdict

def test_controls():
    gain, none, half = dict(iou=five(.5), fpr=five(.1)), dict(iou=five(),
                                                              fpr=five(.5)), dict(iou=five(.5), fpr=five(.5))
    c = compare_arms(runs(baseline=none, mmpkd=gain, shuffled=half), controls=['shuffled'])
    v = verdict(c, controls=['shuffled'])
    assert 'improves, but so do shuffled soft labels, in IoU (' in v['mmpkd']
    assert 'improves, and beats the controls, in FPR (' in v['mmpkd'] and 'No control' not in ''.join(v.values())
    assert v['shuffled'].startswith('shuffled (a control; 5 runs against 5, Holm over 2 tests): improves IoU (')
    assert (c.tests, c.tests_controls) == (2, 2) and c[c.arm == 'shuffled'].p_controls.isna().all()
    with pytest.raises(ValueError, match="'noise'"): verdict(c, controls=['noise'])
    for wrong in ('noise', 'baseline'):
        with pytest.raises(ValueError, match=f"'{wrong}'"):
            compare_arms(runs(baseline=none, mmpkd=gain), controls=[wrong])

def test_controls_do_not_enlarge_the_family():
    none, gain = {k: five(.5) for k in ('pixel_auroc','iou')}, {k: five(.7) for k in ('pixel_auroc','iou')}
    alone = compare_arms(runs(baseline=none, a=gain))
    many = compare_arms(runs(baseline=none, a=gain, c1=none, c2=none, c3=gain), controls=['c1','c2','c3'])
    cols = ['p_holm', 'attainable_holm', 'finding']
    pd.testing.assert_frame_equal(alone[cols], many.loc[many.arm == 'a', cols])
    np.testing.assert_allclose(many[many.arm == 'c3'].p_holm, 6*2/252)      # six tests of controls
    assert 'improves, but so does c3, in Pixel AUROC' in verdict(many)['a']

def test_the_worst_control_counts():
    scores = runs(baseline=dict(iou=five()), a=dict(iou=five(.5)), low=dict(iou=five(.1)), near=dict(iou=five(.493)),
                  high=dict(iou=five(.7)))
    def row(controls): return compare_arms(scores, controls=controls).set_index('arm').loc['a']
    one, two, three = row(['low']), row(['low','near']), row(['near','high','low'])
    assert (one.worst_control, two.worst_control, three.worst_control) == ('low', 'near', 'high')
    assert one.p_controls == 2/252 and two.p_controls == mann_whitney(five(.5), five(.493))[1] > .05
    assert three.p_controls == 1
    # three arms are no controls
    assert two.mean_control == pytest.approx(.513) and one.p_controls_holm == 3*one.p_controls

def test_lower_is_better_against_controls_too():
    scores = runs(baseline=dict(fpr=five(.9)), a=dict(fpr=five(.3)), c=dict(fpr=five(.6)))
    assert 'improves, and beats the controls, in FPR' in verdict(compare_arms(scores, controls=['c']))['a']
    swapped = verdict(compare_arms(scores.assign(arm=scores.arm.map(dict(baseline='baseline', a='c', c='a'))),
                                   controls=['c']))['a']
    assert 'improves, but so does c, in FPR' in swapped

def test_a_control_that_cannot_tell():
    "Two runs of a control, or none with a value: the arm improves, and no more can be said"
    none, gain = dict(iou=five()), dict(iou=five(.5))
    for few, words in (([.01, .02], 'no evidence at this n that it beats the controls, in IoU'),
                       ([np.nan]*5, 'there are no values of c to compare with, in IoU')):
        said = verdict(compare_arms(runs(baseline=none, a=gain, c=dict(iou=few)), controls=['c']))['a']
        assert f'improves, but {words}' in said
    said = verdict(compare_arms(runs(baseline=none, a=gain, c=dict(iou=[.01, .5, .51, .52, .53])), controls=['c'],
                                alpha=.05))['a']
    assert 'beats the controls' not in said

def test_the_order_of_controls_is_nothing():
    "Not even if one has no value, and so could not have been beaten"
    scores = runs(baseline=dict(iou=five()), a=dict(iou=five(.5)), low=dict(iou=five(.1)), silent=dict(iou=[np.nan]*5))
    for controls in (['low','silent'], ['silent','low']):
        row = compare_arms(scores, controls=controls).set_index('arm').loc['a']
        assert (row.worst_control, row.p_controls, row.attainable_controls) == ('silent', 1, 1)

def test_prediction_is_held_against_the_controls_uncorrected():
    none, gain = dict(auroc=five(.5), iou=five()), dict(auroc=five(.7), iou=five())
    c = compare_arms(runs(baseline=none, a=gain, c=gain), controls=['c']).set_index(['arm','metric'])
    assert np.isnan(c.p_controls_holm['a', 'auroc']) and c.p_controls['a', 'auroc'] == 1
    c = compare_arms(runs(baseline=none, a=gain, c=none), controls=['c'])
    assert 'improves, and beats the controls, in AUROC (0.52 to 0.72, uncorrected p = 0.0079)' in verdict(c)['a']

def test_only_controls_or_only_prediction():
    c = compare_arms(runs(baseline=dict(iou=five()), c=dict(iou=five(.5))), controls='c')
    assert (c.tests, c.tests_controls) == (0, 1) and 'improves IoU' in verdict(c)['c']
    c = compare_arms(runs(baseline=dict(auroc=five()), a=dict(auroc=five(.5)), c=dict(auroc=five(.5))), controls=['c'])
    assert c.p_holm.isna().all() and 'Holm' not in verdict(c)['a']

def test_five_metrics_and_five_controls_stay_readable():
    names = ['pixel_auroc','iou','auprc','hit','mass']
    level = dict(baseline=[0]*5, a=[5, 5, 5, -5, 0], c1=[5, 0, 0, 0, 0], c2=[5, 5, 0, 0, 0], c3=[0]*5, c4=[0]*5,
                 c5=[0, 0, 5, 0, 0])
    scores = runs(**{a: {m: .5 + (np.arange(8) + 10*k)/1000 for m,k in zip(names, v)} for a,v in level.items()})
    said = verdict(compare_arms(scores, controls=['c1','c2','c3','c4','c5'],
                                metrics=dict.fromkeys(names, 'higher')))['a']
    assert len(said) < 700 and said.count('. ') <= 3 and 'The picture is mixed: gets worse in Pointing hit' in said
    assert 'but so do c1 and c2, in Pixel AUROC' in said and 'but so does c2, in IoU' in said
    assert 'but so does c5, in AUPRC' in said

def test_arms_that_do_not_differ_are_left_in_peace():
    "150 experiments without any effect: the family-wise rate of any claim, for the arms and for the controls"
    rng, claims = np.random.default_rng(0), []
    for _ in range(150):
        luck = rng.normal(0, .05, (4, 6, 1)) + rng.normal(0, .03, (4, 6, 3))  # arms, seeds, metrics that go together
        scores = runs(**{a: dict(zip(('pixel_auroc','iou','fpr'), v.T)) for a,v in zip(('baseline','a','b','c'), luck)})
        t = compare_arms(scores, controls=['c'])
        claims.append((t.finding.isin(['improves','gets worse']) & (t.arm != 'c')).any())
    assert np.mean(claims) <= binom.ppf(.995, 150, .05)/150

def test_a_comparison_reads_like_its_table_and_stores_as_one(tmp_path):
    c = compare_arms(runs(baseline=dict(iou=five()), a=dict(iou=five(.3))))
    assert len(c) == 1 and list(c) == list(c.table) and 'iou' in c.metric.tolist() and 'finding' in c
    assert c[c.arm == 'a'].equals(c.table) and next(c.itertuples()).finding == 'improves'
    assert c.assign(data='cxr').data.tolist() == ['cxr']
    assert pickle.loads(pickle.dumps(c)).table.equals(c.table) and copy.deepcopy(c).tests == c.tests
    c.to_parquet(tmp_path/'c.parquet')
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path/'c.parquet'), c.table)
    with pytest.raises(AttributeError, match='colour'): c.colour

def test_a_comparison_shows_itself():
    c = compare_arms(runs(baseline=dict(iou=five()), a=dict(iou=five(.3)), c=dict(iou=five())), controls='c')
    for shown in (repr(c), c._repr_html_()):
        assert "Against 'baseline', α = 0.05" in shown and '(Holm): 1, 1 of controls' in shown and 'improves' in shown
    assert max(map(len, repr(c).split('\n'))) <= 100

def test_verdict_takes_no_table_alone():
    c = compare_arms(runs(baseline=dict(iou=five()), a=dict(iou=five(.3))))
    with pytest.raises(ValueError, match='compare_arms'): verdict(c.table)


# Arms that have no values

def silent_runs(n=5):
    "An arm that improves FPR and a control that does not; a third arm never draws a box, so it has no FPR"
    rng = np.random.default_rng(0)
    means = dict(baseline=.8, mmpkd=.5, other=np.nan, shuffled=.8)
    return pd.DataFrame([dict(arm=a, seed=s, fpr=m + rng.normal(0, .01)) for a, m in means.items() for s in range(n)])

def test_an_arm_without_values_costs_the_others_nothing():
    "Neither a place in the family of the baseline's tests, nor in that of the controls'"
    runs = silent_runs()
    both, alone = (compare_arms(r, controls=['shuffled'], metrics=dict(fpr='lower'),
                                predictive=()).set_index('arm').loc['mmpkd'] for r in (runs, runs[runs.arm != 'other']))
    assert both.p_controls_holm == alone.p_controls_holm == both.p_controls <= .05
    # one name will do
    told = verdict(compare_arms(runs, controls=['shuffled'], metrics=dict(fpr='lower'), predictive=()), 'shuffled')
    assert 'improves, and beats the controls, in FPR' in told['mmpkd'] and 'no values in FPR' in told['other']

def test_a_control_without_values_beats_nobody_and_is_not_beaten():
    runs = silent_runs().assign(fpr=lambda d: d.fpr.where(d.arm != 'shuffled'))
    told = verdict(compare_arms(runs, controls=['shuffled'], metrics=dict(fpr='lower'), predictive=()))
    assert 'improves, but there are no values of shuffled soft labels to compare with, in FPR' in told['mmpkd']

def test_power_is_not_weakened_by_an_arm_without_values():
    runs = silent_runs()
    both, alone = (power_table(r, dict(fpr=.1), tests=3) for r in (runs, runs[runs.arm != 'other']))
    pd.testing.assert_frame_equal(both, alone)
    assert np.isfinite(both.sd).all()


# Silence

def hushed(before, after, fpr=(.8, .6), **more):
    "Two arms of six runs; `before`, `after`: the share of images without a box"
    rng = np.random.default_rng(0)
    def arm(f, s):
        noisy = f + rng.normal(0, .01, 6)
        return dict(fpr=noisy, no_box=np.full(6, s), fpr_all=noisy*(1 - s) + s, boxes=np.full(6, 2.))
    return compare_arms(runs(baseline=arm(fpr[0], before), a=arm(fpr[1], after)), metrics=dict(fpr='lower'), **more)

@pytest.mark.parametrize('before,after,finding', [(0, 0, 'improves'), (.1, .1, 'improves'), (.3, .1, 'improves'),
                                                  (0, .01, 'mixed'), (.1, .5, 'mixed')])
def test_an_fpr_bought_by_silence_is_mixed(before, after, finding):
    c = hushed(before, after)
    assert c.finding.tolist() == [finding] and c.boxes_arm[0] == 2
    assert (c.no_box_baseline[0], c.no_box_arm[0]) == pytest.approx((before, after))
    said = verdict(c)['a']
    assert ('mixed, since more images got no box, in FPR (' in said) == (finding == 'mixed')
    assert ('improves' in said) == (finding == 'improves')
    if before == after == 0: assert 'every image got a box' in said
    else:
        assert f'no box in {before:.1%} to {after:.1%} of the images, and ' in said
        assert f'{c.fpr_all_baseline[0]:.2f} to {c.fpr_all_arm[0]:.2f} if these count as 1' in said

def test_silence_excuses_no_loss():
    "A worse FPR is worse, however many images got a box"
    for after in (0, .2, .5): assert hushed(.2, after, fpr=(.6, .8)).finding.tolist() == ['gets worse']

def test_a_silent_control_gains_nothing():
    "So it takes no credit from an arm that draws its boxes"
    rng = np.random.default_rng(0)
    arms = dict(baseline=(.8, .1), a=(.5, .1), shuffled=(.6, .6))
    values = {a: dict(fpr=f + rng.normal(0, .01, 6), no_box=[s]*6, fpr_all=[f]*6, boxes=[1.]*6) for a,
              (f, s) in arms.items()}
    scores = runs(**values)
    c = compare_arms(scores, controls=['shuffled'], metrics=dict(fpr='lower'))
    assert c.set_index('arm').finding.to_dict() == dict(a='improves', shuffled='mixed')
    assert 'improves, and beats the controls, in FPR' in verdict(c)['a']
    assert 'mixed, since more images got no box' in verdict(c)['shuffled']

def test_silence_is_said_of_what_was_not_found():
    rng = np.random.default_rng(0)
    def arm(s): return dict(fpr=.7 + rng.normal(0, .01, 2), no_box=[s, s], fpr_all=[.7, .7], boxes=[1., 1.])
    few = runs(baseline=arm(.1), a=arm(.3))
    assert 'FPR (no box in 10.0% to 30.0% of the images), where no test could' in verdict(compare_arms(few))['a']
    none = few.assign(fpr=few.fpr.where(few.arm == 'baseline'))
    assert 'no values in FPR (no box in' in verdict(compare_arms(none))['a']

def test_other_scores_say_nothing_of_silence():
    "And a table that does not know it says nothing at all"
    before, after = dict(iou=five(), no_box=[.1]*5, boxes=[3.]*5), dict(iou=five(.5), no_box=[.9]*5, boxes=[4.]*5)
    c = compare_arms(runs(baseline=before, a=after))
    assert c.finding.tolist() == ['improves'] and (c.boxes_baseline[0], c.boxes_arm[0]) == (3, 4)
    assert 'box' not in verdict(c)['a']
    assert 'box' not in verdict(compare_arms(runs(baseline=dict(fpr=five(.5)), a=dict(fpr=five(.1)))))['a']

def test_silence_does_not_change_a_p():
    "What stands beside a score is no test: the family is as large as before"
    c, bare = hushed(.1, .5), hushed(.1, .1)
    assert c.tests == bare.tests == 1 and c.p_holm[0] == bare.p_holm[0]


# How far a claim reaches

def ends(**metrics):
    "A table of intervals of the arm 'a': metric=(lo, hi)"
    return pd.DataFrame([dict(arm='a', metric=m, lo=lo, hi=hi) for m, (lo, hi) in metrics.items()])

def test_a_claim_is_held_against_its_interval():
    c = compare_arms(runs(baseline=dict(iou=five(.2), fpr=five(.2)), a=dict(iou=five(.5), fpr=five(.5))))
    bare, said = verdict(c)['a'], verdict(c, intervals=ends(iou=(-.01, .61), fpr=(.1, .5)))['a']
    doubt = ', but the interval over seeds and patients contains zero'
    assert f'improves IoU (0.22 to 0.52, p = 0.016){doubt} (-0.01 to 0.61).' in said
    assert said.count('contains zero') == 1 and 'contains zero' not in bare
    assert said.replace(', but the interval over seeds and patients contains zero (-0.01 to 0.61)', '') == bare
    both = verdict(c, intervals=ends(iou=(.1, .5), fpr=(-.2, .8)))['a']
    assert f'gets worse in FPR (0.22 to 0.52, p = 0.016){doubt} (-0.2 to 0.8)' in both
    assert verdict(c, intervals=ends(iou=(.1, .5), fpr=(.1, .5)))['a'] == bare

def test_claims_that_share_a_doubt_share_a_clause():
    none, gain = {k: five(.2) for k in ('pixel_auroc','iou','auprc')}, {k: five(.7)
                                                                        for k in ('pixel_auroc','iou','auprc')}
    c = compare_arms(runs(baseline=none, a=gain), metrics=dict.fromkeys(none, 'higher'))
    said = verdict(c, intervals=ends(pixel_auroc=(-.1, .9), iou=(.2, .8), auprc=(-.2, .7)))['a']
    doubt = 'but the intervals over seeds and patients contain zero (-0.1 to 0.9 and -0.2 to 0.7)'
    assert f' and AUPRC (0.22 to 0.72, p = 0.024), {doubt}; improves IoU (' in said

@pytest.mark.parametrize('lo,hi,zero', [(-1., 1., True), (0., 1., True), (-1., 0., True), (.1, 1., False),
                                        (-1., -.1, False), (np.nan, np.nan, False)])
def test_an_interval_contains_zero_or_not(lo, hi, zero):
    c = compare_arms(runs(baseline=dict(iou=five()), a=dict(iou=five(.5))))
    held = with_intervals(c, ends(iou=(lo, hi)))
    assert held.contains_zero.tolist() == [zero] and held.tests == c.tests
    assert ('zero' in verdict(c, intervals=ends(iou=(lo, hi)))['a']) == zero
    pd.testing.assert_frame_equal(held[list(c)], c.table)

def test_a_metric_without_an_interval_is_left_as_it_is():
    c = compare_arms(runs(baseline=dict(iou=five(), auroc=five()), a=dict(iou=five(.5), auroc=five(.5))))
    assert with_intervals(c, ends(iou=(-1, 1))).contains_zero.tolist() == [True, False]
    with pytest.raises(ValueError, match="'hi'"): with_intervals(c, ends(iou=(0, 1)).drop(columns='hi'))
    with pytest.raises(ValueError, match='one'): with_intervals(c, pd.concat([ends(iou=(0, 1))]*2))

def test_nothing_is_doubted_where_nothing_is_claimed():
    c = compare_arms(runs(baseline=dict(iou=five()), a=dict(iou=five())))
    assert verdict(c, intervals=ends(iou=(-1, 1))) == verdict(c)

def test_one_teacher_is_said():
    "Only of the arms that it taught, and no number changes"
    none, gain = dict(iou=five()), dict(iou=five(.5))
    scores = runs(baseline=none, a=gain, smooth=none)
    c, plain = compare_arms(scores, controls=['smooth'], one_teacher='a'), compare_arms(scores, controls=['smooth'])
    pd.testing.assert_frame_equal(c.table, plain.table)
    assert c.one_teacher == ['a'] and plain.one_teacher == []
    said, without = verdict(c), verdict(plain)
    assert ': with this teacher, improves, and beats the controls, in IoU (' in said['a']
    assert said['a'].replace('with this teacher, ', '') == without['a']
    assert said['smooth'] == without['smooth'] and 'with this teacher' not in said['smooth']
    with pytest.raises(ValueError, match="one_teacher names .'b'."): compare_arms(scores, one_teacher=['b'])

def test_intervals_of_a_family_hold_together():
    "They are as wide as Bonferroni asks for, as the tests are corrected by Holm; prediction stands alone"
    names = ('pixel_auroc', 'iou', 'auroc')
    c = compare_arms(runs(baseline={m: five(.2) for m in names}, a={m: five(.5) for m in names}))
    se, df = .1, 8.
    t = pd.DataFrame([dict(arm='a', metric=m, lo=.3 - student_t.ppf(.975, df)*se, hi=.3 + student_t.ppf(.975, df)*se,
                           se=se, df=df) for m in names])
    held = with_intervals(c, t).set_index('metric')
    assert held.together.tolist() == [2, 2, 1]
    assert 0 < held.lo['auroc'] == pytest.approx(t.lo[2])
    for m in names[:2]:
        assert (held.lo[m], held.hi[m]) == pytest.approx((.3 - student_t.ppf(1 - .0125, df)*se,
                                                          .3 + student_t.ppf(1 - .0125, df)*se))
    wide = with_intervals(c, t.assign(se=.115)).iloc[0]
    said, ends = verdict(c, intervals=t.assign(se=.115))['a'], f'{wide.lo:.2g} to {wide.hi:.2g}'
    assert wide.lo < 0 < t.lo[0] and f'contain zero ({ends} and {ends}; 95% for 2 tests together)' in said
    assert said.count('zero') == 1
