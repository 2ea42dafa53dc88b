"The simulations at full size: four cases with a known answer, arms without a difference, and planted effects"
import numpy as np, pandas as pd, pytest
import torch
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression

from mmpkd.simulations import (CASES, PRINTED, PROCEDURES, SHAPES, band, coverage, draw_arms, draw_points,
                               expected_rate, fit_soft, lopez_paz, lopez_paz_runs, lopez_paz_table, run_sd, show_cases,
                               show_type_i_error, simulated_power, type_i_error, type_i_error_table)
from mmpkd.intervals import two_level_bootstrap
from mmpkd.losses import distillation_loss
from mmpkd.statistics import attainable_level

SEEDS = (3, 5, 6, 10)


# Lopez-Paz et al. (2016), 100 repetitions

@pytest.fixture(scope='module')
def runs(): return lopez_paz_runs(100, controls=['shuffled'])

@pytest.fixture(scope='module')
def table(runs): return lopez_paz_table(runs, controls=['shuffled'])

def test_accuracies_are_those_printed(runs, table):
    assert (runs.groupby(['case','arm']).size() == 100).all()
    assert ((table[list(PRINTED)] - PRINTED).loc[1:3].abs() < .03).all(axis=None)
    assert abs(table.distilled[4] - table.regular[4]) < .02

def test_findings_and_verdicts_are_those_known(table):
    assert list(table.finding) == ['improves', 'no difference found', 'improves', 'no difference found']
    for case in (1, 3): assert 'improves, and beats the controls' in table.verdict[case]
    for case in (2, 4): assert 'improves' not in table.verdict[case] and 'no difference found' in table.verdict[case]

def test_without_a_control_nothing_is_credited(runs):
    said = lopez_paz_table(runs[(runs.case == 1) & (runs.arm != 'shuffled')]).verdict[1]
    assert 'improves' in said and 'beats' not in said

def test_a_table_of_few_runs():
    few = lopez_paz_table(lopez_paz_runs(3, cases=(1,), n_test=200))
    assert list(few.index) == [1] and few.finding[1] == 'out of reach' and list(few.columns[:3]) == list(PRINTED)

def test_shuffled_soft_labels_do_not_help(runs):
    means = runs.groupby(['case','arm']).accuracy.mean().unstack()
    assert (means.shuffled < means.regular + .01).all()

def test_cases_can_be_drawn_as_a_figure(runs):
    fig = show_cases(runs)
    assert [ax.get_title() for ax in fig.axes] == [f'{c} {n}' for c,n in CASES.items()]


# Its parts

@pytest.mark.parametrize('case,width', [(1, 1), (2, 50), (3, 3), (4, 3)])
def test_labels_follow_from_what_the_teacher_sees(case, width):
    a = np.random.default_rng(1).standard_normal(50)
    x_star, x, y = draw_points(case, 4000, a, np.random.default_rng(2))
    assert x_star.shape == (4000, width) and x.shape == (4000, 50) and set(y) == {0, 1}
    clean = (x_star[:, 0] if case == 1 else x_star @ a[:width]) > 0
    if case == 1: assert 0 < (clean != y).mean() < .15
    else: assert (clean == y).all()
    if case == 2: assert (x - x_star).std() == pytest.approx(1, abs=.02)
    if case == 3: assert (x_star == x[:, :3]).all()

@pytest.mark.parametrize('per_set', [False, True])
def test_case_4_takes_three_different_columns(per_set):
    a = np.ones(50)
    x_star, x, _ = draw_points(4, 300, a, np.random.default_rng(0), per_set)
    columns = np.array([[np.flatnonzero(x[i] == v)[0] for v in x_star[i]] for i in range(300)])
    assert all(len(set(c)) == 3 for c in columns)
    assert len({tuple(c) for c in columns}) == 1 if per_set else len({tuple(c) for c in columns}) > 290

def test_draw_points_refuses_an_unknown_case():
    with pytest.raises(ValueError, match='case must be one of'):
        draw_points(5, 10, np.ones(50), np.random.default_rng(0))

def test_fit_soft_minimises_equation_1():
    rng = np.random.default_rng(3)
    x, y, s = rng.standard_normal((150, 8)), rng.integers(0, 2, 150), rng.random(150)
    for lam in (0., .4, 1.):
        student = fit_soft(x, (1-lam)*y + lam*s, C=2.)
        w, b = (torch.tensor(v, requires_grad=True) for v in (student.coef_.T, student.intercept_))
        loss = 150*distillation_loss(torch.tensor(x) @ w + b, torch.tensor(1.*y[:, None]), torch.tensor(s[:, None]),
                                     lam) + (w**2).sum()/(2*2.)
        loss.backward()
        assert w.grad.abs().max() < .02 and b.grad.abs().max() < .02

def test_fit_soft_on_hard_labels_is_plain_logistic_regression():
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((200, 10)), rng.integers(0, 2, 200)
    assert np.allclose(fit_soft(x, y, 5.).coef_, LogisticRegression(C=5.).fit(x, y).coef_, atol=2e-3)

def test_lopez_paz_is_reproducible_and_lam_0_is_the_regular_student():
    one = lopez_paz(1, 7, controls=['class-mean'], n_test=500)
    assert one == lopez_paz(1, 7, controls=['class-mean'],
                            n_test=500) != lopez_paz(1, 8, controls=['class-mean'], n_test=500)
    assert list(one) == ['privileged', 'regular', 'distilled', 'class-mean']
    none = lopez_paz(1, 7, lam=0., n_test=500)
    assert none['regular'] == none['distilled'] == one['regular']

def test_a_control_does_not_change_the_other_arms():
    with_control, without = (lopez_paz(3, 2, controls=c, n_test=500) for c in (['permuted'], []))
    assert {k: with_control[k] for k in without} == without


# Two arms that are the same: at least 500 repetitions

def check(test, n, **how):
    found = type_i_error(test, n, **how)
    assert found['says'] == 'holds', found

@pytest.mark.parametrize('n', SEEDS)
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('test', ['mann_whitney', 'sign_flip'])
def test_exact_tests_hold_their_attainable_level(test, shape, n): check(test, n, repetitions=2000, shape=shape)

@pytest.mark.parametrize('n', SEEDS)
def test_the_family_holds_its_level(n): check('compare_arms', n)

@pytest.mark.parametrize('n', [5, 10])
def test_beating_a_control_holds_its_level(n): check('against a control', n)

@pytest.mark.parametrize('n', SEEDS)
def test_the_default_bootstrap_does_not_exceed_its_level(n):
    found = type_i_error('two-way bootstrap', n)
    assert found['says'] in ('holds', 'below') and found['rate'] > .01, found

def test_the_percentile_bootstrap_is_caught():
    assert type_i_error('percentile bootstrap', 3, repetitions=200)['says'] == 'exceeds'

def test_arms_that_differ_on_these_patients_only():
    assert type_i_error('mann_whitney', 10, uneven=.1)['says'] == 'exceeds'


@pytest.mark.parametrize('test', ['interval for AUROC', 'claim and interval'])
def test_what_else_a_verdict_uses_does_not_exceed_its_level(test):
    found = type_i_error(test, 6, 300)
    assert found['says'] != 'exceeds' and 0 < found['rate'], found

@pytest.mark.parametrize('one_teacher', [True, False])
@pytest.mark.parametrize('test', ['mann_whitney', 'sign_flip'])
def test_only_a_teacher_for_each_seed_is_part_of_the_runs(test, one_teacher):
    "The luck of one teacher looks like an effect of the arm"
    found = type_i_error(test, 10, 1000, teacher=1., one_teacher=one_teacher)
    assert found['says'] == ('exceeds' if one_teacher else 'holds') and (found['rate'] > .3) == one_teacher, found

def test_no_interval_knows_of_other_teachers_either():
    said = [type_i_error('two-way bootstrap', 6, 150, teacher=1., one_teacher=one)['says'] for one in (True, False)]
    assert said[0] == 'exceeds' != said[1]

def test_a_claim_with_its_interval_holds_for_other_patients():
    "Where the arms suit patients differently, the claim alone does not"
    claim, both = (type_i_error(test, 10, 100, uneven=.1) for test in ('compare_arms', 'claim and interval'))
    assert claim['says'] == 'exceeds' and claim['rate'] > .2 and both['says'] != 'exceeds', (claim, both)


# Its parts

def test_band_is_the_binomial_one():
    lo, hi = band(.05, 500)
    assert binom.cdf(500*lo-1, 500, .05) < .005 <= binom.cdf(500*lo, 500, .05)
    assert binom.cdf(500*hi, 500, .05) >= .995 > binom.cdf(500*hi-1, 500, .05)
    assert band(0., 500) == (0., 0.) and band(1., 500) == (1., 1.)

def test_expected_rates():
    assert expected_rate('mann_whitney', 5) == attainable_level('mann_whitney', 5)
    assert expected_rate('sign_flip', 5) == 0 and expected_rate('compare_arms', 3) == 0
    assert expected_rate('two-way bootstrap', 3, alpha=.1) == .1
    for n in (5, 6, 10): assert 0 < expected_rate('against a control', n) < expected_rate('compare_arms', n) <= .05
    with pytest.raises(ValueError, match='test must be one of'): expected_rate('t-test', 5)
    with pytest.raises(ValueError, match='test must be one of'): type_i_error('t-test', 5, repetitions=1)

def test_draw_arms():
    scores = draw_arms(4, np.random.default_rng(0), arms=3, patients=300, images=2)
    assert scores.shape == (3, 4, 600)
    pairs = scores.mean((0, 1)).reshape(300, 2)
    assert np.corrcoef(pairs.T)[0, 1] > .3                                    # images of one patient are alike
    moved = draw_arms(4, np.random.default_rng(0), effect=.2, arms=3, patients=300, images=2)
    assert np.allclose(moved[0], scores[0] + .2) and (moved[1:] == scores[1:]).all()
    iou = draw_arms(10, np.random.default_rng(0), shape='iou')
    assert iou.min() == 0 and iou.max() <= 1 and .05 < (iou == 0).mean() < .5 and iou.mean() > np.median(iou)
    with pytest.raises(ValueError, match='shape must be one of'): draw_arms(3, np.random.default_rng(0), shape='beta')

def test_a_teacher_moves_the_first_arm():
    "All of its runs by the same, or each by its own; by 0 on average"
    plain = draw_arms(6, np.random.default_rng(0))
    for one in (True, False):
        moved = draw_arms(6, np.random.default_rng(0), teacher=2., one_teacher=one) - plain
        assert np.allclose(moved[1], 0) and np.allclose(moved[0].std(axis=1), 0)
        assert (moved[0, :, 0].std() < 1e-9) == one
        luck = [(draw_arms(6, np.random.default_rng(s), teacher=2.,
                           one_teacher=one) - draw_arms(6, np.random.default_rng(s)))[0, 0, 0] for s in range(300)]
        assert np.mean(luck) == pytest.approx(0, abs=.015) and np.std(luck) == pytest.approx(.06, rel=.15)
    with pytest.raises(ValueError, match="goes with the shape 'normal', not with 'iou'"):
        draw_arms(3, np.random.default_rng(0), shape='iou', teacher=1.)

def test_type_i_error_table_and_its_figure():
    table = type_i_error_table(['mann_whitney', 'sign_flip'], seeds=(3, 6), repetitions=10)
    assert list(table.test) == ['mann_whitney']*2 + ['sign_flip']*2 and list(table.n) == [3, 6]*2
    assert (table.repetitions == 40).all()
    ax = show_type_i_error(table)
    assert [t.get_text() for t in ax.get_xticklabels()] == ['mann_whitney', 'sign_flip']
    assert [t.get_text() for t in ax.get_xticklabels(minor=True)] == ['3', '6']*2

@pytest.mark.parametrize('seeds', [(5,), (3, 5, 6), (3, 4, 5, 6, 8, 10, 15)])
def test_any_number_of_seeds_stands_around_its_test(seeds):
    table = pd.DataFrame([dict(test=t, n=n, rate=.05, lo=.04, hi=.06, says='holds') for t in PROCEDURES for n in seeds])
    ax = show_type_i_error(table)
    ax.figure.canvas.draw()
    ticks = ax.xaxis.get_minor_ticks()
    places = np.reshape([t.get_loc() for t in ticks], (len(PROCEDURES), len(seeds)))
    assert [t.label1.get_text() for t in ticks] == [str(n) for _ in PROCEDURES for n in seeds]
    assert places.mean(1) == pytest.approx(range(len(PROCEDURES))) and (np.diff(places.ravel()) > 0).all()

def test_type_i_error_is_reproducible():
    assert type_i_error('mann_whitney', 6, 50, seed=1) == type_i_error('mann_whitney', 6, 50, seed=1)

def test_the_interval_is_that_of_per_image_tables():
    "`PROCEDURES` shapes arrays into tables; the interval must be that of the tables themselves"
    scores = draw_arms(3, np.random.default_rng(5), effect=.1, patients=8, images=2)
    tables = [pd.DataFrame([dict(seed=s, patient_id=i//2, image_id=i, score=v[s, i]) for s in range(3)
                            for i in range(16)]) for v in scores]
    found = two_level_bootstrap(*tables, 'score', draws=400)
    assert PROCEDURES['two-way bootstrap'](lambda images: scores, .05) == (not found['lo'] <= 0 <= found['hi'])


# Effects that were planted

@pytest.mark.parametrize('n', SEEDS)
def test_power_is_as_predicted(n):
    for effect in (0., .04, .08):
        found = simulated_power(n, effect, repetitions=1000)
        assert found['says'] == 'holds', found

def test_run_sd_is_the_spread_of_runs():
    for patients, images in ((50, 2), (5, 1)):
        runs = draw_arms(4000, np.random.default_rng(0), patients=patients, images=images).mean(-1)
        assert runs.std(axis=1) == pytest.approx([run_sd(patients, images)]*2, rel=.04)

@pytest.mark.parametrize('n', [5, 10])
def test_the_interval_holds_the_planted_effect(n):
    found = coverage(n, effect=.06, uneven=.1, repetitions=200)
    assert found['hold'] >= found['lo'] and found['centre'] == pytest.approx(.06, abs=.01)

def test_coverage_needs_a_known_effect():
    with pytest.raises(ValueError, match="'normal' only, not for 'iou'"): coverage(3, repetitions=1, shape='iou')
