"mmpkd.studies: grid, quality of teachers, transfer, seeds, conventions; and that no choice looks at test images"
import json, re, shutil
from pathlib import Path

import matplotlib
import numpy as np, pandas as pd, pytest
from conftest import altered, times
from safetensors.numpy import load_file
from scipy.stats import spearmanr

from mmpkd import studies
from mmpkd.attention import AttentionMaps
from mmpkd.sanity_checks import agreement
from mmpkd.settings import CHOICE, default_arms, make_config
from mmpkd.results import Experiment
from mmpkd.experiment import run_experiment
from mmpkd.images import Pixels
from mmpkd.convention import Convention
from mmpkd.reference_maps import CEILING, TRIVIAL, reference_localizers, score_localizer
from mmpkd.report import write_report
from mmpkd.soft_labels import best_temperature, label_distance, soften
from mmpkd.statistics import SCORES, per_run
from mmpkd.studies import (convention_scores, convention_table, count_flips, crossing, grid_table, quality_table,
                           quality_threshold, run_grid, run_quality, run_transfer, save_choice, seed_agreement,
                           seed_agreement_table, sensitivity, shared_patients, show_conventions, show_grid, show_pareto,
                           show_quality, show_seed_agreement, show_transfer, threshold_words, transfer_table,
                           without_shared_patients)
from mmpkd.teachers import image_logits, load_teacher, macro_auroc

matplotlib.use('Agg')


def equal(a, b): pd.testing.assert_frame_equal(a, b, check_exact=True)

def weights(run, arm, seed=0): return load_file(run.run_folder(arm, seed)/'student.safetensors')

def body(run, arm, seed=0):
    return np.concatenate([v.ravel() for k, v in sorted(weights(run, arm, seed).items()) if not k.startswith('head.')])

@pytest.fixture
def copy(tiny_run, tmp_path):
    "The finished run in another place, free to be changed"
    return Experiment(shutil.copytree(tiny_run.folder, tmp_path/'copy'))

@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    matplotlib.pyplot.close('all')

class Told(Experiment):
    "A run of which only some numbers exist, to work on them as on those of any other"
    def __init__(self, table):
        self.table, self.arms, self.seeds = table, table.arm.unique().tolist(), table.seed.nunique()
    def auroc(self, split): assert split == 'valid'; return self.table[['arm', 'seed', 'auroc']]
    def per_seed(self): return self.table

def told(values, **more): # {arm: AUROC of each seed}
    return Told(pd.DataFrame([dict(arm=a, seed=i, auroc=v) | {k: t[a] for k, t in more.items()} for a,
                              vs in values.items() for i, v in enumerate(vs)]))


# No choice looks at test images

ARMS = ('baseline', 'in-sample', 'out-of-fold', 'label-smoothing', 'class-mean', 'shuffled', 'permuted',
        'self-distillation', 'out-of-fold lam=0.3 T=1', 'out-of-fold lam=0.3 T=4', 'out-of-fold lam=0.7 T=1')
TUNED = Convention(rule='tuned')

def corrupted(cohort, split):
    "All labels of a split turned around, and all its regions moved into a corner"
    mine, rois = cohort.items.split == split, cohort.rois.image_id.isin(cohort.split(split).items.image_id)
    items = cohort.items.assign(**{c: cohort.items[c].where(~mine, 1 - cohort.items[c]) for c in cohort.labels})
    corner = dict(x0=0., y0=0., x1=12., y1=12., mask=None)
    return altered(cohort, items, cohort.rois.assign(**{k: cohort.rois[k].where(~rois, v) for k, v in corner.items()}))

@pytest.fixture(scope='module')
def chosen(phantom, tiny, tmp_path_factory):
    "The same run on the phantom, and on one with corrupted test labels and regions; all is left to be chosen"
    config = make_config(**tiny, T='valid', convention=TUNED.to_dict())
    folder = tmp_path_factory.mktemp('chosen')
    return [run_experiment(c, folder/name, config, ARMS, seeds=1, progress=False) for name,
            c in (('true', phantom), ('false', corrupted(phantom, 'test')))]

def test_no_choice_looks_at_test_images(chosen, phantom):
    "Not the threshold, nor λ, T or the epoch that is kept, nor anything that a student learned"
    a, b = chosen
    assert a.teacher['T_valid'] == b.teacher['T_valid'] and 0 < a.teacher['T_valid'] != 1
    equal(grid_table(a), grid_table(b))                                                             # λ and T
    assert grid_table(a).chosen.sum() == 1
    for arm in ARMS:
        one, other = a.run_folder(arm, 0), b.run_folder(arm, 0)
        for name in ('student.safetensors', 'history.csv', 'attention.npz'):
            assert (one/name).read_bytes() == (other/name).read_bytes(), (arm, name)
        equal(*(pd.read_parquet(u/'predictions.parquet') for u in (one, other)))
        tau = [pd.read_parquet(u/'scores.parquet').attrs['convention']['tau'] for u in (one, other)]
        assert tau[0] == tau[1] is not None
        # a setting; the last one is kept
        assert len(pd.read_csv(one/'history.csv')) == a.config['epochs']
    mine, theirs = (r.folder/'teachers/seed-0/soft_labels' for r in chosen)
    for file in mine.iterdir(): equal(pd.read_parquet(file), pd.read_parquet(theirs/file.name))
    # without two arms, with the logits of two kinds
    assert len(list(mine.iterdir())) == len(ARMS) - 2 + 2

def test_trivial_localizers_do_not_look_either(chosen, phantom):
    pixels = Pixels(next((chosen[0].folder/'pixels').glob('pixels-*')))
    def taus(cohort):
        localizers = reference_localizers(cohort, pixels, 'none', arch_kwargs=chosen[0].config['arch_kwargs'])
        return {k: score_localizer(l, cohort, [TUNED])[TUNED].attrs['convention']['tau'] for k, l in localizers.items()}
    true = taus(phantom)
    assert set(true) == {*TRIVIAL, 'untrained', *CEILING} and taus(corrupted(phantom, 'test')) == true
    assert taus(corrupted(phantom, 'valid')) != true                                                # there they do look

def test_the_test_scores_did_change(chosen):
    "Or nothing would have been shown"
    a, b = (r.per_seed().set_index('arm') for r in chosen)
    for m in ('auroc', 'pixel_auroc'): assert (a[m] != b[m]).all(), m
    assert (a.iou != b.iou).any() and chosen[0].teacher['auroc']['test'] != chosen[1].teacher['auroc']['test']
    assert chosen[0].teacher['auroc']['valid'] == chosen[1].teacher['auroc']['valid']
    assert (chosen[0].auroc('valid').auroc == chosen[1].auroc('valid').auroc).all()

def test_the_choices_are_made_on_validation_images(chosen, phantom):
    "Computed again from these alone; on other labels, T would have been another"
    run, valid = chosen[0], phantom.split('valid')
    z = image_logits(load_teacher(run.folder/'teachers/seed-0/teacher'), valid)
    assert run.teacher['T_valid'] == pytest.approx(best_temperature(z, valid.y()))
    assert best_temperature(z, 1 - valid.y()) != pytest.approx(run.teacher['T_valid'])
    s = pd.read_parquet(run.folder/'teachers/seed-0/soft_labels/logits_out-of-fold.parquet')
    assert np.array_equal(run.soft_labels('out-of-fold'), soften(s, run.teacher['T_valid']))
    assert np.array_equal(run.soft_labels('out-of-fold lam=0.3 T=4'), soften(s, 4.))
    t = grid_table(run).query('lam > 0')
    p = {arm: macro_auroc(valid.y(), pd.read_parquet(run.run_folder(arm, 0)/'predictions.parquet').loc[valid.y().index])
         for arm in t.index}
    assert t['mean'].to_dict() == pytest.approx(p) and p[t.index[t.chosen][0]] == max(p.values())

def test_a_report_shows_the_boxes_that_were_scored(chosen, phantom):
    "With the threshold that was chosen for each student"
    taus = {arm: json.loads((chosen[0].run_folder(arm, 0)/'unit.json').read_text())['convention']['tau']
            for arm in ARMS}
    assert taus == {arm: pd.read_parquet(chosen[0].run_folder(arm, 0)/'scores.parquet').attrs['convention']['tau']
                    for arm in ARMS}
    assert 'chosen on validation regions' in write_report(chosen[0], phantom).read_text()


# The grid

def test_the_highest_is_chosen():
    t = grid_table(told({'baseline': [.9, .9], 'out-of-fold lam=0.7 T=1': [.6, .8],
                         'out-of-fold lam=0.3 T=2': [.6, .6], 'out-of-fold lam=0.1 T=1': [.9, .1]}))
    # the baseline is none of the cells
    assert t.index[t.chosen].tolist() == ['out-of-fold lam=0.7 T=1'] and t.loc['baseline', 'lam'] == 0
    assert np.isnan(t.loc['baseline', 'T'])
    assert t.loc['out-of-fold lam=0.7 T=1', ['mean', 'n']].tolist() == [.7, 2]
    assert t.loc['out-of-fold lam=0.1 T=1', 'sd'] == pytest.approx(np.std([.9, .1], ddof=1))

def test_among_equals_the_smallest_is_chosen():
    for order in ((.7, .3, .5), (.3, .5, .7), (.5, .7, .3)):
        t = grid_table(told({'baseline': [.5]} | {f'in-sample lam={l} T={T}': [.6] for l in order for T in (2, 1)}))
        assert t.index[t.chosen].tolist() == ['in-sample lam=0.3 T=1']

def test_nobody_is_better_in_both():
    cells = [f'out-of-fold lam={l} T=1' for l in (.1, .3, .5)]
    run = told({'baseline': [.6], cells[0]: [.7], cells[1]: [.7], cells[2]: [.5]},
               pixel_auroc=dict(zip(['baseline', *cells],
                                    (.6, .5, .4, .8))), fpr=dict(zip(['baseline', *cells], (.6, .5, .4, .8))))
    front = sensitivity(run, 'pixel_auroc').front_pixel_auroc.to_dict()
    assert front == dict(zip(['baseline', *cells], (True, True, False, True)))
    # where less is better
    assert sensitivity(run, ['fpr']).front_fpr.to_dict() == dict(zip(['baseline', *cells], (False, False, True, False)))
    assert sensitivity(run, 'fpr').lam.tolist() == [0, .1, .3, .5]

def test_each_score_has_a_front_of_its_own():
    "In two seeds; the front of the IoU is not that of the pixel AUROC"
    arms = ['baseline', 'in-sample lam=0.1 T=1', 'in-sample lam=0.5 T=1']
    run = told({a: [v - .1, v + .1] for a, v in zip(arms, (.5, .6, .7))}, pixel_auroc=dict(zip(arms, (.9, .8, .7))),
               iou=dict(zip(arms, (.1, .2, .3))))
    t = sensitivity(run)
    assert t.front_pixel_auroc.tolist() == [True]*3 and t.front_iou.tolist() == [False, False, True]
    assert t.iou.tolist() == [.1, .2, .3] and t.auroc_sd.tolist() == pytest.approx([.2/2**.5]*3)
    assert list(t)[-2:] == ['front_pixel_auroc', 'front_iou']
    fig = show_pareto(run)
    assert [ax.get_ylabel() for ax in fig.axes] == ['Pixel AUROC', 'IoU']
    filled = [sum(line.get_markerfacecolor() != 'white' for line in ax.lines if line.get_marker() == 'o')
              for ax in fig.axes]
    assert filled == [3, 1]

def test_a_grid_on_disk(phantom, tiny, tmp_path):
    config = make_config(**tiny, T=7.)
    run = run_grid(phantom, tmp_path/'run', config, lams=(.25, .75), Ts=(1, 3), seeds=1, progress=False)
    assert run.arms == ['baseline', *[f'out-of-fold lam={l} T={T}' for l in (.25, .75) for T in (1, 3)]]
    assert run.controls == []
    z = pd.read_parquet(run.folder/'teachers/seed-0/soft_labels/logits_out-of-fold.parquet')
    # whatever T the settings have
    for arm, T in ((run.arms[1], 1.), (run.arms[2], 3.)): assert np.array_equal(run.soft_labels(arm), soften(z, T))
    assert not np.array_equal(*(weights(run, run.arms[i])['head.weight'] for i in (1, 3)))          # λ is heard
    assert len(show_grid(run).get_legend().get_texts()) == 2
    assert [len(ax.texts) for ax in show_pareto(run).axes] == [5, 5]
    with pytest.raises(ValueError, match='lam must be in'):
        run_grid(phantom, tmp_path/'other', make_config(**tiny), lams=(1.5,), progress=False)
    with pytest.raises(ValueError, match='at least one other'):
        run_grid(phantom, tmp_path/'other', make_config(**tiny), lams=(), progress=False)
    assert not (tmp_path/'other').exists()
    best = grid_table(run).query('chosen').iloc[0]
    choice = json.loads((run.folder/CHOICE).read_text())
    assert choice == dict(arm=best.name, lam=best.lam, T=best['T'], auroc=best['mean'],
                          baseline=grid_table(run)['mean']['baseline'], n=1, tables=phantom.fingerprint())
    taken = make_config(**tiny | dict(epochs=2), lam='valid', grid=run.folder)
    assert taken == make_config(**tiny | dict(epochs=2), lam=best.lam, T=best['T'], grid=choice
                                | dict(folder='run', differs=['epochs']))
    with pytest.raises(ValueError, match='on other data'):
        run_experiment(corrupted(phantom, 'train'), tmp_path/'other', taken, seeds=1, progress=False)
    assert not (tmp_path/'other/units').exists()
    # as a grid that did not finish
    (run.folder/CHOICE).unlink()
    with pytest.raises(FileNotFoundError, match='`mmpkd grid SOURCE --out .*run`'):
        make_config(**tiny, lam='valid', grid=run.folder)
    # finished, it is written
    run_grid(phantom, run.folder, make_config(**tiny, T=7.), lams=(.25, .75), Ts=(1, 3), seeds=1, progress=False)
    assert json.loads((run.folder/CHOICE).read_text()) == choice

def test_nothing_is_chosen_without_an_auroc(tmp_path):
    run = told({'baseline': [np.nan], 'out-of-fold lam=0.3 T=1': [np.nan]})
    run.folder = tmp_path
    save_choice(run)
    assert not (tmp_path/CHOICE).exists()

def test_the_grid_of_the_paper_is_in_sample(phantom, tiny, tmp_path):
    "An arm that is named wins"
    config = make_config(**tiny | dict(teacher='forest', preset='paper'))
    assert default_arms(config) == ('baseline', 'in-sample')
    run = run_grid(phantom, tmp_path/'a', config, lams=(.5,), seeds=1, progress=False)
    assert run.arms[1] == 'in-sample lam=0.5 T=1'
    assert run_grid(phantom, tmp_path/'b', config, 'out-of-fold', lams=(.5,), seeds=1,
                progress=False).arms[1] == 'out-of-fold lam=0.5 T=1'


# Teachers of growing quality

@pytest.mark.parametrize('teacher,gain,at', [
    ((.6, .8), (-.1, .1), .7), ((.6, .8), (-.1, .3), .65), ((.6, .7, .8), (-.1, -.1, .1), .75),
    ((.6, .8), (.1, .2), -np.inf), ((.6, .8), (-.2, -.1), np.inf), ((.6,), (.1,), -np.inf), ((.6,), (0.,), np.inf),
    # a dip is levelled out
    ((.6, .7, .8, .9), (-.3, .1, -.1, .2), .8)], ids=str)
def test_where_the_gain_crosses_zero(teacher, gain, at):
    assert crossing(np.array(teacher), np.array(gain)) == pytest.approx(at)

class Taught(Told):
    "Students of teachers whose AUROC is known; `gains` of each, the same in all metrics, in `seeds` with some noise"
    def __init__(self, gains, seeds=6, sd=.01):
        self.teachers = {f'out-of-fold share={(i + 1)/10:g}': .6 + i/10 for i in range(len(gains))}
        rng, rows = np.random.default_rng(0), []
        for arm, g in zip(('baseline', *self.teachers), (0., *gains)):
            for k in range(seeds):
                noise = sd*rng.standard_normal()
                rows.append(dict(arm=arm, seed=k, auroc=.6 + g + noise, fpr=.6 - g - noise))
        super().__init__(pd.DataFrame(rows))
    def over_teachers(self, arm, measure): return self.teachers[arm]

def test_a_threshold_is_found_where_there_is_one():
    "In a score where less is better, too"
    t = quality_threshold(Taught((-.05, -.02, .03, .06)), ('auroc', 'fpr'))
    assert t.found.all() and (t.lo < .74).all() and (t.hi > .74).all() and (.7 < t.lo).all() and (t.hi < .8).all()
    assert t.threshold['auroc'] == pytest.approx(t.threshold['fpr'])
    said = threshold_words(t)
    assert said[0].startswith('AUROC: students begin to gain over the baseline at a teacher AUROC of about 0.7')
    assert '95 % interval 0.7' in said[0] and said[1].startswith('FPR')

@pytest.mark.parametrize('gains,seeds,sd,said', [
    ((0, 0, 0), 6, .01, 'no gain over the baseline is established'),
    ((-.1, -.1, -.1), 6, .01, 'no gain over the baseline is established'),
    ((-.05, 0, .05), 6, .2, 'no gain over the baseline is established'),
    ((-.05, 0, .05), 3, .001, 'no gain over the baseline is established'), # three seeds prove nothing
    ((.1, .1, .1), 6, .01, 'the students of every teacher gain; it lies below 0.60'),
    ((-.05, 0, .05), 1, .01, 'with one seed no threshold can be told from luck')], ids=str)
def test_no_threshold_is_claimed_where_none_is_identified(gains, seeds, sd, said):
    t = quality_threshold(Taught(gains, seeds, sd), ['auroc'])
    [words] = threshold_words(t)
    assert not t.found.item() and said in words and '0.60 to 0.80 were tried' in words

def test_the_interval_holds_the_threshold():
    "In 9 of 10 experiments at least, as one of 95 % should; and it is not all there is"
    rng, held, width = np.random.default_rng(1), 0, []
    for k in range(40):
        gains = tuple(.2*(.6 + i/10 - .77) for i in range(5))
        run = Taught(gains, 6, .02)
        run.table['auroc'] += .02*rng.standard_normal(len(run.table))
        t = quality_threshold(run, ['auroc'], draws=300).iloc[0]
        held += t.lo <= .77 <= t.hi
        width.append(min(t.hi, 1) - max(t.lo, .6))
    assert held >= 36 and np.median(width) < .3

def test_the_line_in_the_picture(monkeypatch):
    "Where a threshold was found, and only there"
    run = Taught((-.05, -.02, .03, .06))
    monkeypatch.setattr(Taught, 'over_teachers', lambda self, arm, measure: self.teachers[arm])
    red = lambda run: [line for ax in show_quality(run, ('auroc',)).axes for line in ax.lines
                       if line.get_linestyle() == ':']
    assert len(red(run)) == 1 and red(run)[0].get_xdata()[0] == quality_threshold(run, ('auroc',)).threshold.item()
    assert red(Taught((0, 0, 0))) == []

def test_shares_on_disk(phantom, tiny, tiny_run, tmp_path):
    run = run_quality(phantom, tmp_path/'run', make_config(**tiny), shares=(.4, 1.), seeds=1, progress=False)
    assert run.arms == ['baseline', 'out-of-fold share=0.4', 'out-of-fold share=1']
    equal(run.soft_labels('out-of-fold share=1'), tiny_run.soft_labels('out-of-fold'))
    t, y, few = quality_table(run), run.labels('train'), run.soft_labels('out-of-fold share=0.4')
    assert t.index.tolist() == [0, .4, 1] and np.isnan(t.teacher[0]) and t.teacher[.4] == macro_auroc(y, few)
    assert t.gap[.4] == label_distance(y, few) != t.gap[1]
    assert t.pixel_auroc.tolist() == run.per_seed().pixel_auroc.tolist() and t.auroc_sd.isna().all()
    axs = show_quality(run).axes
    for ax, m in zip(axs, ('auroc', 'pixel_auroc')):
        x, v = ax.lines[0].get_data()
        # one seed has points, too
        assert sorted(x) == sorted(t.teacher.dropna()) and sorted(v) == sorted(t[m].iloc[1:])


# Another data set

@pytest.fixture(scope='module')
def moved(phantom, tiny, tiny_run, tmp_path_factory):
    "The students of the tiny run are fine-tuned, without anything privileged, so slowly that their start shows"
    config = make_config(**tiny | dict(lr=1e-7))
    images_only, out = altered(phantom, text=None, tabular=()), tmp_path_factory.mktemp('moved')/'run'
    return run_transfer(tiny_run, images_only, out, config, progress=False)

def test_transfer_starts_from_the_given_students(moved, tiny_run):
    "With their bodies; the head is a new one, since the other data may have other labels"
    assert moved.arms == ['baseline', 'from baseline', 'from out-of-fold'] and moved.seeds == 2
    assert moved.reference == 'from baseline'
    for arm in tiny_run.arms:
        for seed in range(2):
            start, end = body(tiny_run, arm, seed), body(moved, f'from {arm}', seed)
            assert 0 < abs(start - end).max() < 1e-5
            assert not any(np.allclose(body(moved, a, s), end, atol=1e-4) for a in moved.arms for s in range(2)
                           if (a, s) != (f'from {arm}', seed))

def test_transfer_needs_no_teacher(moved):
    assert not list(moved.folder.rglob('teacher*')) and moved.teacher['auroc'] == {}

def test_transfer_is_compared_with_the_baseline_of_the_other_data(moved):
    "Who never saw it is shown, and not tested"
    assert moved.compared == ['from baseline', 'from out-of-fold']
    assert moved.comparison().baseline == 'from baseline'
    for names in (moved.comparison().arm, moved.verdicts(), moved.intervals().arm):
        assert set(names) == {'from out-of-fold'}
    assert set(moved.per_seed().arm) == set(moved.arms)

def test_transfer_table(moved):
    t = transfer_table(moved, ('auroc', 'iou'))
    assert t.index.tolist() == ['Never saw A', 'From Baseline', 'From MMPKD (out-of-fold)']
    assert t.columns.tolist() == [(m, k) for m in ('auroc', 'iou') for k in ('mean', 'sd')]
    mine = moved.per_seed().query("arm == 'from out-of-fold'").iou
    assert t.loc['From MMPKD (out-of-fold)', 'iou'].tolist() == pytest.approx([mine.mean(), mine.std()])
    assert len(show_transfer(moved).axes) == 2

def test_transfer_is_reported(moved, phantom):
    page = write_report(moved, altered(phantom, text=None, tabular=())).read_text()
    assert 'From MMPKD (out-of-fold)' in page and str(Path(moved.config['start']).parent) not in page

def test_a_control_stays_a_control_elsewhere(moved):
    run = Experiment(moved.folder)
    run.arms = [*run.arms, 'from shuffled']
    assert run.controls == ['from shuffled']

@pytest.mark.parametrize('arms,seeds,message', [
    (('baseline', 'from in-sample'), 1,
     "'from in-sample' needs the student of seed 0 of 'in-sample' in .*, which has none"),
    (('baseline', 'from out-of-fold'), 3, "needs the student of seed 2 of 'out-of-fold'"),
    (('baseline', 'from out-of-hand'), 1, "no arm 'out-of-hand'"),
    (('from baseline', 'from out-of-fold'), 1, "must be 'baseline' and at least one other")])
def test_students_that_are_not_there(phantom, tiny, tiny_run, tmp_path, arms, seeds, message):
    with pytest.raises(ValueError, match=message):
        run_experiment(phantom, tmp_path/'run', make_config(**tiny, start=tiny_run.folder), arms, seeds=seeds,
                       progress=False)
    assert not (tmp_path/'run').exists()

def test_a_start_that_is_not_there(phantom, tiny, tmp_path, tiny_run):
    with pytest.raises(FileNotFoundError, match='start: no finished run in '): make_config(**tiny, start=tmp_path)
    with pytest.raises(ValueError, match='needs `start`'):
        run_experiment(phantom, tmp_path/'run', make_config(**tiny), ('baseline', 'from baseline'), progress=False)

def test_a_transfer_starts_from_its_source_whatever_the_settings_say(moved, tiny_run, tiny, tmp_path, phantom):
    other = make_config(**tiny | dict(lr=1e-7), start=moved.folder)
    run = run_transfer(tiny_run, phantom, tmp_path/'run', other, seeds=1, progress=False)
    assert run.config['start'] == str(tiny_run.folder.resolve()) and run.config['start_sha256'] != other['start_sha256']
    assert run.arms == ['baseline', 'from baseline', 'from out-of-fold']

def test_a_source_may_move_and_may_not_change(phantom, tiny, tiny_run, tmp_path):
    "A transfer goes on after its source was moved; not after something else came to lie in its place"
    nothing_private, config = altered(phantom, text=None, tabular=()), make_config(**tiny | dict(lr=1e-7))
    source = shutil.copytree(tiny_run.folder, tmp_path/'a')
    run = run_transfer(Experiment(source), nothing_private, tmp_path/'run', config, seeds=1, progress=False)
    before = times(run.folder/'units')
    moved = Experiment(source.rename(tmp_path/'b'))
    more = run_transfer(moved, nothing_private, tmp_path/'run', config, seeds=2, progress=False)
    assert {k: v for k, v in times(run.folder/'units').items() if k in before} == before and len(more.per_seed()) == 6
    (moved.folder/'config.json').write_text(json.dumps(moved.config | dict(epochs=9)))
    with pytest.raises(ValueError, match='start_sha256 is .* there and .* here'):
        run_transfer(Experiment(moved.folder), nothing_private, tmp_path/'run', config, seeds=2, progress=False)

def test_transfer_from_a_grid_and_from_a_transfer(moved, phantom, tiny, tmp_path):
    "An arm of the other run may have settings in its name, or have been a transfer itself"
    source = Experiment(shutil.copytree(moved.folder, tmp_path/'source'))
    cell = 'out-of-fold lam=0.3'
    shutil.move(source.run_folder('from out-of-fold', 0).parent, source.run_folder(cell, 0).parent)
    about = source.about | dict(arms=['baseline', 'from baseline', cell])
    (source.folder/'experiment.json').write_text(json.dumps(about))
    run = run_transfer(Experiment(source.folder), phantom, tmp_path/'run', make_config(**tiny | dict(lr=1e-7)), seeds=1,
                   progress=False)
    assert run.arms == ['baseline', 'from baseline', 'from from baseline', f'from {cell}']
    assert abs(body(source, cell) - body(run, f'from {cell}')).max() < 1e-5


# Agreement between seeds

def test_agreement_by_hand(tiny_run, phantom):
    t = seed_agreement(tiny_run)
    assert t.groupby('arm', sort=False).size().to_dict() == {a: len(phantom.split('test')) for a in tiny_run.arms}
    assert (t.pairs == 1).all()
    for arm in tiny_run.arms:
        one, two = (AttentionMaps.load(tiny_run.run_folder(arm, s)/'attention.npz') for s in range(2))
        mine = t[t.arm == arm].set_index('image_id')
        equal(mine.reset_index().drop(columns=['arm', 'different']), agreement([one, two]))
        for k, g, a, b in zip(one.image_ids, one.geometries, one.maps, two.maps):
            # no padding
            if g.fitted == (g.size, g.size):
                assert mine.spearman[k] == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
    table = seed_agreement_table(tiny_run)
    assert table.index.tolist() == ['Baseline', 'MMPKD (out-of-fold)']
    for c in ('spearman', 'different'):
        assert table.loc['Baseline', (c, 'median')] == pytest.approx(t[c][t.arm == 'baseline'].median())
    assert list(dict.fromkeys(table.columns.get_level_values(0))) == ['spearman', 'different', 'overlap', 'chance']
    assert len(show_seed_agreement(tiny_run).get_yticklabels()) == 2

def test_agreement_needs_two_seeds(copy):
    copy.seeds = 1
    with pytest.raises(ValueError, match='at least two seeds; the run has one'): seed_agreement(copy)


# Other conventions

SOME = (Convention(), Convention(rule='otsu'), Convention(layer=0), TUNED)

def test_own_convention_gives_own_scores(copy, phantom):
    scores = convention_scores(copy, phantom, SOME[:1])
    metrics = [m for m in SCORES if m not in ('auroc', 'no_box')]
    again, own = (per_run(s, metrics).sort_values(['arm', 'seed'], ignore_index=True)
                  for s in (scores[scores.arm.isin(copy.arms)], copy.scores()))
    # a student from disk rounds otherwise than one just trained
    pd.testing.assert_frame_equal(again, own, atol=2e-3, rtol=0)
    t = convention_table(copy, phantom, SOME[:1]).set_index(['arm', 'metric'])
    mine = copy.per_seed().groupby('arm').mean(numeric_only=True)
    trivial = copy.trivial().set_index('arm').drop(index=list(CEILING))
    for (arm, m), row in t.iterrows():
        assert (row.mean_arm, row.mean_baseline) == pytest.approx((mine[m][arm], mine[m]['baseline']), abs=2e-3)
        assert row.best_trivial == pytest.approx(trivial[m].min() if m == 'fpr' else trivial[m].max(),
                                                 abs=1e-6) and row.convention == 'default'
    tests = copy.comparison().set_index(['arm', 'metric'])
    pd.testing.assert_series_equal(t.p, tests.p.loc[t.index])
    for arm in set(t.index.get_level_values('arm')):
        boxes = t.loc[arm, ['boxes_baseline', 'boxes_arm']].loc[['iou', 'fpr']].to_numpy()
        np.testing.assert_allclose(boxes, [mine.boxes[['baseline', arm]]]*2, atol=.1)
        assert np.isnan(t.boxes_arm[arm, 'pixel_auroc'])                    # no box is asked about there

def test_scores_that_do_not_count_boxes_can_be_compared(copy, phantom):
    "Files of conventions that were scored by something else, or before boxes were counted"
    convention_scores(copy, phantom, SOME[:1])
    for f in (copy.folder/'conventions').iterdir(): pd.read_parquet(f).drop(columns='n_boxes').to_parquet(f)
    t = convention_table(copy, phantom, SOME[:1])
    assert len(t) == 3*(len(copy.arms) - 1) and 'boxes_arm' not in t and 'no_box_arm' not in t

def test_conventions_are_scored_once(copy, phantom, monkeypatch):
    asked, score = [], score_localizer
    def spy(localizer, cohort, conventions):
        asked.append(list(conventions)); return score(localizer, cohort, conventions)
    monkeypatch.setattr(studies, 'score_localizer', spy)
    first = convention_scores(copy, phantom, SOME[:2])
    localizers = len(copy.arms)*copy.seeds + len(TRIVIAL) + 1 + len(CEILING)
    assert asked == [list(SOME[:2])]*localizers and len(list((copy.folder/'conventions').iterdir())) == localizers
    before = times(copy.folder)
    equal(convention_scores(copy, phantom, SOME[:2]), first)
    equal(convention_scores(Experiment(copy.folder), phantom, SOME[:1]),
          first[first.key == SOME[0].key].reset_index(drop=True))
    assert times(copy.folder) == before and len(asked) == localizers
    more = convention_scores(copy, phantom, SOME)
    # only what is missing
    assert asked[localizers:] == [list(SOME[2:])]*localizers
    equal(more[more.key.isin(first.key)].reset_index(drop=True)[list(first)], first)
    assert set(more.key) == {c.key for c in SOME} and not list(copy.folder.rglob('*.part'))

def test_a_run_without_validation_regions_is_not_tuned(phantom, tiny, tmp_path):
    none = altered(phantom, rois=phantom.rois[~phantom.rois.image_id.isin(phantom.split('valid').items.image_id)])
    run = run_experiment(none, tmp_path/'run', make_config(**tiny), seeds=1, progress=False)
    assert set(convention_scores(run, none, (Convention(), TUNED)).key) == {Convention().key}

def test_kept_scores_are_not_those_of_other_regions(copy, phantom):
    "What was scored against some regions is not given out for others, nor mixed with scores against others"
    convention_scores(copy, phantom, SOME[:1])
    shifted = altered(phantom, rois=phantom.rois.assign(x0=0., y0=0., x1=9., y1=9.))
    for conventions in (SOME[:1], SOME[:2]):
        with pytest.raises(ValueError, match='this cohort has other tables'):
            convention_scores(copy, shifted, conventions)

def moved_on(cohort, old, new, n=None):
    "The same images, those of the first `n` patients of the split `old` now in `new`"
    whose = cohort.items.patient_id.isin(cohort.split(old).items.patient_id.unique()[:n])
    items = cohort.items.assign(split=cohort.items.split.mask(whose, new))
    return altered(cohort, items), items[whose]

LATER = [('train', 'test'), ('train', 'valid'), ('valid', 'test')]

@pytest.mark.parametrize('old,new', LATER)
def test_a_patient_may_not_be_tested_who_was_trained_on(phantom, tiny_run, tiny, tmp_path, old, new):
    cohort, met = moved_on(phantom, old, new, 3)
    assert set(shared_patients(tiny_run, cohort).patient_id) == set(met.patient_id)
    n = met.patient_id.nunique()*(new == 'test')
    first = met.patient_id.iloc[0]
    with pytest.raises(ValueError, match=rf"^{n} of \d+ test patients .* first is '{first}'; known='drop' .* leaves"):
        run_transfer(tiny_run, cohort, tmp_path/'run', make_config(**tiny), progress=False)
    assert not (tmp_path/'run').exists() and without_shared_patients(tiny_run, cohort, 'keep') is cohort

@pytest.mark.parametrize('old,new', [(new, old) for old, new in LATER] + [('train', 'train'), ('test', 'test')])
def test_a_patient_may_be_trained_on_who_was_tested(phantom, tiny_run, old, new):
    cohort, _ = moved_on(phantom, old, new, 3)
    assert len(shared_patients(tiny_run, cohort)) == 0 and without_shared_patients(tiny_run, cohort) is cohort

def test_shared_patients_are_left_out_and_counted(phantom, tiny_run, tiny, tmp_path):
    cohort, met = moved_on(phantom, 'train', 'test', 3)
    run = run_transfer(tiny_run, cohort, tmp_path/'run', make_config(**tiny), seeds=1, known='drop', progress=False)
    assert not set(met.patient_id) & set(run.labels('test').index.map(cohort.items.set_index('image_id').patient_id))
    assert sorted(run.labels('test').index) == sorted(phantom.split('test').items.image_id)
    (kind, n), = run.about['repairs'].items()
    assert 'earlier split' in kind and n == len(met)
    again = run_transfer(tiny_run, cohort, tmp_path/'run', make_config(**tiny), seeds=1, known='drop', progress=False)
    assert again.per_seed().equals(run.per_seed())

def test_a_word_that_known_does_not_have(phantom, tiny_run):
    with pytest.raises(ValueError, match="known must be one of .*not 'ignore'"):
        without_shared_patients(tiny_run, phantom, 'ignore')

def test_patients_of_the_run_before_the_run(moved, phantom, tiny_run):
    "A transfer of a transfer: whoever was trained on at the first stage is known at the third"
    cohort, met = moved_on(phantom, 'train', 'test', 3)
    second = Experiment(moved.folder)
    labels = pd.read_parquet(moved.folder/'labels.parquet')
    assert set(shared_patients(second, cohort).patient_id) == set(met.patient_id)
    # as if the second cohort were of other people
    strangers = labels.assign(patient_id='x' + labels.patient_id.astype(str))
    with pytest.MonkeyPatch.context() as patch:
        read = studies.read_stored
        patch.setattr(studies, 'read_stored', lambda path: strangers if path.parent == second.folder else read(path))
        assert set(shared_patients(second, cohort).patient_id) == set(met.patient_id)

def test_conventions_of_a_transfer(moved, phantom, tmp_path):
    "Are compared with the same arm as everything else of that run"
    run = Experiment(shutil.copytree(moved.folder, tmp_path/'copy'))
    t = convention_table(run, altered(phantom, text=None, tabular=()), SOME[:1])
    assert set(t.arm) == {'from out-of-fold'}
    mine = run.per_seed().query("arm == 'from baseline'").iou.mean()
    assert t.mean_baseline[t.metric == 'iou'].tolist() == pytest.approx([mine], abs=2e-3)

def test_several_units_at_a_time(copy, phantom, tmp_path):
    twin = Experiment(shutil.copytree(copy.folder, tmp_path/'twin'))
    a, b = convention_scores(copy, phantom, SOME[:1]), convention_scores(twin, phantom, SOME[:1], n_jobs=2)
    # another number of threads may round otherwise
    pd.testing.assert_frame_equal(a, b, atol=1e-3, rtol=0)

def table(*rows): # arm, difference, better, finding
    return pd.DataFrame([dict(convention=f'c{i}', arm=a, metric='fpr', difference=d, better=d < 0, finding=f) for i,
                         (a, d, f) in enumerate(rows)])

def test_flips_are_counted():
    t = table(('x', -.1, 'improves'), ('x', -.2, 'no difference found'), ('x', .1, 'gets worse'),
              ('x', 0., 'no difference found'), ('x', .2, 'out of reach'), ('y', np.nan, 'no values'))
    f = count_flips(t).set_index('arm')
    assert f.loc['x', ['better', 'worse', 'significantly better', 'significantly worse',
                       'conventions']].tolist() == [2, 2, 1, 1, 5]
    assert f.loc['y', ['better', 'worse', 'conventions']].tolist() == [0, 0, 1]

def test_conventions_are_shown(copy, phantom):
    ax = show_conventions(convention_table(copy, phantom, SOME[:2]), 'fpr')
    assert [t.get_text() for t in ax.get_yticklabels()] == ['default', 'rule otsu']
    assert re.search('FPR.*lower is better', ax.get_xlabel())
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ['MMPKD (out-of-fold)']
