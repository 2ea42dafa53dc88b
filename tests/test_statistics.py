"Corner cases of mmpkd.statistics: ties, missing runs, small designs, and words that must follow from numbers"
import numpy as np, pandas as pd, pytest
from hypothesis import given, strategies as st
from scipy.stats import PermutationMethod, mannwhitneyu

from mmpkd.statistics import attainable_p, cliffs_delta, compare_arms, holm, mann_whitney, per_run, plus_minus, summarize, verdict

grid = st.integers(0, 4).map(lambda i: i/4)         # few values, so many ties
sample = st.lists(grid, min_size=1, max_size=5)
probs = st.lists(st.floats(0, 1), min_size=1, max_size=12)

def runs(**arms):
    "A table of runs: arm=dict(metric=[values by seed])"
    return pd.concat([pd.DataFrame(m).assign(arm=a, seed=range(len(next(iter(m.values()))))) for a,m in arms.items()], ignore_index=True)

def five(shift=0.): return list(np.arange(5)/100 + shift)


# The exact test

pair = st.lists(grid, min_size=2, max_size=5)       # scipy's permutation test wants two of each

@given(pair, pair)
def test_mann_whitney_is_the_full_permutation_test(x, y):
    u, p = mann_whitney(x, y)
    twin = mannwhitneyu(x, y, method=PermutationMethod(n_resamples=np.inf))
    assert u == twin.statistic and p == pytest.approx(twin.pvalue)

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
    images = pd.DataFrame(dict(arm='a', seed=0, image_id=list('wxyz'), iou=[.4, .2, 0, 0], fpr=[.5, .7, np.nan, np.nan], n_boxes=[1, 2, 0, 0]))
    r = per_run(images).iloc[0]
    assert (r.iou, r.fpr, r.no_box, r.images) == (pytest.approx(.15), pytest.approx(.6), .5, 4)

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

def test_plus_minus():
    assert plus_minus(.7249, .0351) == '0.72 ± 0.04' and plus_minus(.5, digits=3) == '0.500' and plus_minus(np.nan, np.nan) == '–'


# Comparing arms

def test_family_is_all_localisation_tests_and_auroc_is_outside():
    m = dict(pixel_auroc=five(.5), iou=five(.5), fpr=five(.5), auroc=five(.5))
    better = {k: five(.7) for k in m}
    c = compare_arms(runs(baseline=m, a=better, b=better))
    assert c.attrs['tests'] == 6
    assert c[c.metric == 'auroc'].p_holm.isna().all() and c[c.metric != 'auroc'].p_holm.notna().all()
    assert set(c[c.metric == 'fpr'].finding) == {'gets worse'} and set(c[c.metric != 'fpr'].finding) == {'improves'}
    np.testing.assert_allclose(c.p_holm.dropna(), 6*2/252)
    assert 'uncorrected p = 0.0079' in verdict(c)['a'] and 'gets worse in fpr' in verdict(c)['a']

def test_a_fourth_arm_takes_the_findings_away():
    m, better = {k: five(.5) for k in ('pixel_auroc','iou','fpr')}, {k: five(.7) for k in ('pixel_auroc','iou','fpr')}
    c = compare_arms(runs(baseline=m, a=better, b=better, c=better))        # nine tests, five seeds
    assert set(c.finding) == {'out of reach'}
    v = verdict(c)['a']
    assert 'no evidence at this n' in v and '0.0079, 0.071 after Holm' in v and 'improves' not in v

def test_missing_seeds_and_values():
    scores = runs(baseline=dict(iou=five(), fpr=[.5, np.nan, .4, .3, .2]), a=dict(iou=five(.3)[:4], fpr=[np.nan]*4))
    c = compare_arms(scores).set_index('metric')
    assert (c.n_arm['iou'], c.n_baseline['iou']) == (4, 5) and c.attainable['iou'] == 2/126
    assert c.finding['fpr'] == 'no values' and np.isnan(c.p['fpr']) and c.n_baseline['fpr'] == 4 and c.mean_baseline['fpr'] == pytest.approx(.35)
    assert c.attrs['tests'] == 1 and c.p_holm['iou'] == c.p['iou']
    assert 'no values in fpr' in verdict(c.reset_index())['a']

def test_partly_missing_values_are_told():
    scores = runs(baseline=dict(iou=five(), fpr=five(.5)), a=dict(iou=five(.3), fpr=[.1, .12, .13, .14, np.nan]))
    assert 'fpr (0.52 to 0.12, p = 0.016, n = 4 against 5)' in verdict(compare_arms(scores))['a']

def test_single_seed():
    c = compare_arms(runs(baseline=dict(iou=[.1]), a=dict(iou=[.9])))
    assert c.finding.item() == 'out of reach' and 'smallest attainable 1' in verdict(c)['a']

def test_no_run_has_a_value():
    c = compare_arms(runs(baseline=dict(iou=[np.nan]*3), a=dict(iou=[np.nan]*3)))
    assert c.finding.item() == 'no values' and c.attrs['tests'] == 0 and 'no values in iou' in verdict(c)['a']

def test_an_outlier_may_not_turn_the_verdict():
    lower = [.10, .11, .12, .13, .14, 9.]                                    # mean up, ranks down
    c = compare_arms(runs(baseline=dict(iou=[.5, .51, .52, .53, .54, .55, .56]), a=dict(iou=lower)), alpha=.2)
    assert c.p.item() < .2 and c.better.item() and c.finding.item() == 'mixed'
    assert 'improves' not in verdict(c)['a'] and 'opposite directions' in verdict(c)['a']

def test_equal_arms():
    c = compare_arms(runs(baseline=dict(iou=five()), a=dict(iou=five())))
    assert c.difference.item() == 0 and not c.better.item() and c.p.item() == 1 and c.finding.item() == 'no difference found'

@given(st.lists(st.tuples(grid, grid, grid), min_size=1, max_size=7), st.lists(st.tuples(grid, grid, grid), min_size=1, max_size=7))
def test_words_follow_from_numbers(x, y):
    table = lambda v: dict(zip(['iou','fpr','auroc'], map(list, zip(*v))))
    c = compare_arms(runs(baseline=table(y), a=table(x)))
    said = verdict(c)['a']
    p = c.p_holm.fillna(c.p)
    assert ('improves' in said) == ((p < .05) & c.better & (c.difference*c.cliffs_delta > 0)).any()
    if (p >= .05).all(): assert not any(w in said for w in ('improves', 'gets worse', 'opposite'))
    assert (p >= c.attainable_holm.fillna(c.attainable) - 1e-12).all()
    assert 'No control arm was run' in said

def test_another_baseline_and_metric():
    scores = runs(plain=dict(auprc=five(.5)), a=dict(auprc=five(.6)))
    c = compare_arms(scores, baseline='plain', metrics=dict(auprc='higher'))
    assert c.attrs['tests'] == 1 and c.finding.item() == 'improves'          # an unknown metric belongs to the family

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
    gain, none = dict(iou=five(.5), fpr=five(.1)), dict(iou=five(), fpr=five(.5))
    half = dict(iou=five(.5), fpr=five(.5))
    c = compare_arms(runs(baseline=none, mmpkd=gain, shuffled=half))
    v = verdict(c, controls=['shuffled'])
    assert 'The control shuffled improves iou too' in v['mmpkd'] and 'No gain in fpr was found for the control shuffled' in v['mmpkd']
    assert 'control' not in v['shuffled']
    with pytest.raises(ValueError, match="'noise'"): verdict(c, controls=['noise'])

def test_verdict_survives_parquet_and_asks_for_its_attrs(tmp_path):
    c = compare_arms(runs(baseline=dict(iou=five()), a=dict(iou=five(.3))))
    c.to_parquet(tmp_path/'c.parquet')
    assert verdict(pd.read_parquet(tmp_path/'c.parquet')) == verdict(c)
    c.to_csv(tmp_path/'c.csv', index=False)
    with pytest.raises(ValueError, match='compare_arms'): verdict(pd.read_csv(tmp_path/'c.csv'))
