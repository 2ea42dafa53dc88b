"Corner cases of mmpkd.intervals: missing values, runs on other images, a double loop as its twin, and its level"
import numpy as np, pandas as pd, pytest
from scipy.stats import binom, ttest_ind, ttest_rel

from mmpkd.intervals import _resample, auroc_by_image, differences, two_level_bootstrap
from mmpkd.teachers import macro_auroc

def images_of(seeds, patients=7, draw=0, nan=0., shift=0.):
    "Scores of one arm; patient k has k % 3 + 1 images"
    rng = np.random.default_rng(draw)
    rows = [dict(seed=s, patient_id=f'p{k}', image_id=f'p{k}-{i}') for s in seeds for k in range(patients)
            for i in range(k % 3 + 1)]
    t = pd.DataFrame(rows).assign(iou=lambda d: rng.random(len(d)) + shift)
    return t.assign(iou=t.iou.where(rng.random(len(t)) >= nan)).sample(frac=1, random_state=draw)

def loop(cells, seeds, patients):
    "Mean over the drawn seeds of the mean over the images of the drawn patients, in the plainest way"
    means = []
    for s in seeds:
        v = [x for k in patients for x in cells[s, k] if x == x]
        if v: means.append(sum(v)/len(v))
    return sum(means)/len(means)

@pytest.mark.parametrize('nan', [0., .3])
@pytest.mark.parametrize('paired', [False, True])
def test_bootstrap_is_the_double_loop(nan, paired):
    a, b = images_of([3, 1, 2], draw=1, nan=nan), images_of([1, 2, 3] if paired else [1, 2, 3, 9], draw=2, nan=nan,
                                                            shift=.1)
    patients, (sa, sb), D = np.sort(a.patient_id.unique()), (np.sort(t.seed.unique()) for t in (a, b)), 60
    va, vb = ({k: g.tolist() for k,g in t.groupby(['seed','patient_id']).iou} for t in (a, b))
    picks = list(zip(*_resample(len(sa), len(sb), 7, D, 5, paired, False)))
    draws = np.array([loop(va, sa[i], patients[k]) - loop(vb, sb[j], patients[k]) for i,j,k in picks])
    got = two_level_bootstrap(a, b, 'iou', draws=D, seed=5, paired=paired, method='percentile')
    assert (got['lo'], got['hi']) == pytest.approx(np.quantile(draws, [.025, .975]), abs=1e-6)
    assert got['difference'] == pytest.approx(loop(va, sa, patients) - loop(vb, sb, patients), abs=1e-6)

    f, g = (len(sa)/(len(sa)-1))**.5, (len(sb)/(len(sb)-1))**.5            # the default, as plainly
    def enlarged(cells, all_seeds, seeds, patients, factor):
        return factor*(loop(cells, seeds, patients) - loop(cells, all_seeds, patients))
    patient = np.array([loop(va, sa, patients[k]) - loop(vb, sb, patients[k]) for _,_,k in picks])
    seed = np.array([enlarged(va, sa, sa[i], patients, f) - enlarged(vb, sb, sb[j], patients, g) for i,j,_ in picks])
    both = patient + [enlarged(va, sa, sa[i], patients[k], f) - enlarged(vb, sb, sb[j], patients[k], g) for i,j,
                      k in picks]
    x, y = (np.array([loop(v, [s], patients) for s in seeds]) for v,seeds in ((va, sa), (vb, sb)))
    seeds = (x-y).var(ddof=1)/3 if paired else x.var(ddof=1)/len(x) + y.var(ddof=1)/len(y)
    total = seeds + max(patient.var() - max(both.var() - patient.var() - seed.var(), 0), 0)
    assert two_level_bootstrap(a, b, 'iou', draws=D, seed=5, paired=paired)['se'] == pytest.approx(total**.5, abs=1e-6)

def test_with_fixed_images_it_is_welchs_test():
    a, b = images_of(range(4), draw=1), images_of(range(6), draw=2, shift=.05)
    x, y = (t.groupby('seed').iou.mean() for t in (a, b))
    got, twin = two_level_bootstrap(a, b, 'iou', fixed_images=True), ttest_ind(x, y, equal_var=False)
    assert (got['p'], got['df'], got['lo'], got['hi']) == pytest.approx((twin.pvalue, twin.df,
                                                                         *twin.confidence_interval()))
    got, twin = two_level_bootstrap(a, b[b.seed < 4], 'iou', fixed_images=True, paired=True), ttest_rel(x, y[:4])
    assert (got['p'], got['df']) == pytest.approx((twin.pvalue, 3))

def test_bootstrap_repeats_and_mirrors():
    a, b = images_of(range(5), draw=1), images_of(range(5), draw=2)
    got, back = two_level_bootstrap(a, b, 'iou', draws=20000), two_level_bootstrap(b, a, 'iou', draws=20000)
    assert back['difference'] == -got['difference'] and back['se'] == pytest.approx(got['se'], rel=.05)
    assert (got['p'] <= .05) == (not got['lo'] <= 0 <= got['hi'])
    # the order of the rows is nothing
    again = two_level_bootstrap(a.sample(frac=1, random_state=9), b, 'iou', draws=20000)
    assert list(again.values())[:6] == pytest.approx(list(got.values())[:6])

def test_bootstrap_needs_two_runs_with_values():
    a, b = images_of([0]), images_of(range(3), draw=1)
    got = two_level_bootstrap(a, b, 'iou')
    assert np.isnan([got['lo'], got['hi'], got['p']]).all()
    assert got['difference'] == pytest.approx(a.iou.mean() - b.groupby('seed').iou.mean().mean())
    silent = b.assign(iou=b.iou.where(b.seed > 0))                         # one run has no value at all
    assert two_level_bootstrap(silent, b, 'iou')['n_arm'] == 2
    assert np.isfinite(two_level_bootstrap(silent, b, 'iou')['lo'])
    assert np.isnan(two_level_bootstrap(b.assign(iou=np.nan), b, 'iou')['difference'])

@pytest.mark.filterwarnings('error')
def test_bootstrap_where_few_patients_have_a_value():
    a, b = (images_of(range(3), draw=k) for k in (1, 2))
    # run 0 knows one patient, whom many draws leave out
    rare = a.assign(iou=a.iou.where((a.patient_id == 'p0') | (a.seed > 0)))
    for method in ('two-way', 'percentile'):
        got = two_level_bootstrap(rare, b, 'iou', method=method)
        assert got['n_arm'] == 3 and got['lo'] < got['difference'] < got['hi']

def test_bootstrap_without_any_spread():
    a = images_of(range(3)).assign(iou=.5)
    same, other = two_level_bootstrap(a, a, 'iou'), two_level_bootstrap(a.assign(iou=.6), a, 'iou')
    assert (same['difference'], same['p']) == (0, 1) and np.isnan(other['p']) and np.isnan(other['lo'])

def test_bootstrap_refuses():
    a, b = images_of(range(3)), images_of(range(3), draw=1)
    with pytest.raises(ValueError, match="'patient_id'"): two_level_bootstrap(a.drop(columns='patient_id'), b, 'iou')
    with pytest.raises(ValueError, match='several rows'): two_level_bootstrap(pd.concat([a, a]), b, 'iou')
    for arm, baseline in ((a.iloc[1:], b), (a, b.iloc[1:]), (a[a.image_id != 'p2-1'], b),
                          (a.drop(columns='image_id').iloc[1:], b)):
        with pytest.raises(ValueError, match='same image'): two_level_bootstrap(arm, baseline, 'iou')
    with pytest.raises(ValueError, match='several patients'): two_level_bootstrap(a.assign(patient_id='p0'), b, 'iou')
    with pytest.raises(ValueError, match='same seeds'):
        two_level_bootstrap(a, b.assign(seed=b.seed+1), 'iou', paired=True)
    with pytest.raises(ValueError, match="'bca'"): two_level_bootstrap(a, b, 'iou', method='bca')
    with pytest.raises(ValueError, match='missing'):
        two_level_bootstrap(a.assign(seed=a.seed.where(a.seed > 0)), b, 'iou')
    with pytest.raises(ValueError, match='`baseline` has no rows'): two_level_bootstrap(a, b.iloc[:0], 'iou')

def test_differences():
    scores = pd.concat([images_of(range(3), draw=k).assign(arm=arm, auprc=.5) for k,
                        arm in enumerate(['baseline','a','b'])])
    t = differences(scores, draws=50, alpha=.2)
    by_arm = dict(list(scores.groupby('arm')))
    assert t.arm.tolist() == ['a','b'] and t.metric.tolist() == ['iou']*2
    assert t.iloc[0, 2:].to_dict() == two_level_bootstrap(by_arm['a'], by_arm['baseline'], 'iou', draws=50, alpha=.2)
    assert differences(scores, 'a', ['iou','auprc'], draws=50).metric.tolist() == ['iou','auprc']*2
    with pytest.raises(ValueError, match="no arm is called 'base'"): differences(scores, 'base')
    with pytest.raises(ValueError, match='no metrics'): differences(scores.drop(columns=['iou','auprc']))

def test_a_single_patient_says_nothing_about_others():
    a, b = (images_of(range(4), draw=k).query("patient_id == 'p2'") for k in (1, 2))
    others, fixed = (two_level_bootstrap(a, b, 'iou', fixed_images=f) for f in (False, True))
    assert np.isnan([others['lo'], others['hi'], others['p']]).all() and others['difference'] == fixed['difference']
    assert fixed['lo'] < fixed['hi']

def missed(n, m, repetitions, patients=50, draws=150, noise=.1):
    "How many intervals of `n` runs against `m`, without a difference, do not hold 0"
    rng = np.random.default_rng(n)
    def arm(n):
        keys = pd.MultiIndex.from_product([range(n), range(patients)], names=['seed','patient_id'])
        luck, patient = rng.normal(0, .05, (n, 1)), rng.normal(0, noise, patients)
        iou = luck + patient + rng.normal(0, noise, (n, patients))
        return pd.DataFrame(dict(iou=iou.ravel()), keys).reset_index()
    return sum(two_level_bootstrap(arm(n), arm(m), 'iou', draws)['p'] <= .05 for _ in range(repetitions))

def test_patients_without_a_value_are_no_evidence():
    "Patients without an FPR in any run count for nothing, as if they were not in the table"
    a, b = (images_of(range(4), draw=k) for k in (1, 2))
    some = sorted(a.patient_id.unique())[:5]
    for few in (some, some[:1], []):
        with_blanks, alone = ([t.assign(iou=t.iou.where(t.patient_id.isin(few))) for t in (a, b)],
                              [t[t.patient_id.isin(few)] for t in (a, b)])
        for fixed in (False, True):
            got = two_level_bootstrap(*with_blanks, 'iou', draws=200, fixed_images=fixed)
            assert got['patients'] == len(few)
            if few:
                assert got == pytest.approx(two_level_bootstrap(*alone, 'iou', draws=200, fixed_images=fixed),
                                            nan_ok=True)
            else: assert np.isnan([got[k] for k in ('difference', 'lo', 'hi', 'p')]).all()

@pytest.mark.parametrize('n', [3, 5, 6, 10])
def test_bootstrap_holds_its_level(n): assert missed(n, n, 300) <= binom.ppf(.995, 300, .05)

def test_unequal_numbers_of_runs_are_slightly_liberal():
    "Three against twenty: more misses than 5 %, but not many more; ten against twenty: none too many"
    few, more = missed(3, 20, 1000, patients=10, draws=50, noise=.02), missed(10, 20, 300, patients=10, draws=50,
                                                                              noise=.02)
    assert binom.ppf(.995, 1000, .05) < few < .1*1000 and more <= binom.ppf(.995, 300, .05)


# Prediction

def predicted(n=40, blank=.2, draw=0):
    "Labels of three classes, one of them all negative, and predictions with ties"
    rng = np.random.default_rng(draw)
    y = pd.DataFrame(rng.integers(0, 2, (n, 3)), columns=list('abc')).astype(float)
    y = y.assign(c=0.).mask(rng.random(y.shape) < blank)
    return y, pd.DataFrame(rng.integers(0, 6, y.shape)/6 + .1*y.fillna(0).to_numpy(), columns=list('abc'))

@pytest.mark.parametrize('blank', [0., .4])
def test_shares_of_an_auroc_add_up_to_it(blank):
    y, p = predicted(blank=blank)
    shares = auroc_by_image(y, p)
    assert shares.mean() == pytest.approx(macro_auroc(y, p)) and shares.index.equals(y.index) and shares.name == 'auroc'

def test_shares_by_hand():
    "Each pair of a positive and a negative image, one after another"
    y, p = predicted(blank=0.)
    pos, neg = p.a[y.a == 1], p.a[y.a == 0]
    wins = pd.DataFrame([[(v > w) + (v == w)/2 for w in neg] for v in pos], pos.index, neg.index)
    A, N = wins.to_numpy().mean(), len(y)
    hand = pd.concat([A + (wins.mean(axis=1) - A)*N/len(pos), A + (wins.mean() - A)*N/len(neg)]).loc[y.index]
    np.testing.assert_allclose(auroc_by_image(y[['a']], p[['a']]), hand)

def test_an_auroc_of_one_kind_of_label_has_no_shares():
    y, p = predicted()
    assert auroc_by_image(y[['c']], p[['c']]).isna().all()
    with pytest.raises(ValueError, match='same order'): auroc_by_image(y, p.iloc[::-1])

def test_an_image_without_a_label_moves_nothing():
    y, p = predicted(blank=.4)
    other = p.mask(y.isna(), .99)
    np.testing.assert_array_equal(auroc_by_image(y, p), auroc_by_image(y, other))
