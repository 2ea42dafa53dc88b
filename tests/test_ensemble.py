"mmpkd.ensemble: constructed maps and predictions with known scores, every kind of convention, and what is missing"
import shutil

import numpy as np, pandas as pd, pytest
from conftest import altered, boxed
from typer.testing import CliRunner

from mmpkd.attention import AttentionMaps, attention_maps
from mmpkd.cli import app
from mmpkd.cohort import Cohort
from mmpkd.convention import Convention
from mmpkd.ensemble import (SCALES, ensemble_intervals, ensemble_localizer, ensemble_predictions, ensemble_runs,
                            ensemble_scores, ensemble_table, half_agreement, has_ensembles, mean_maps, of_other_images,
                            on_one_scale, show_ensemble)
from mmpkd.results import Experiment, write_table
from mmpkd.settings import make_config
from mmpkd.experiment import run_experiment
from mmpkd.images import Geometry, cache_pixels
from mmpkd.reference_maps import Localizer, score_localizer
from mmpkd.report import table1, table_note, write_report
from mmpkd.scoring import score_maps, tune_tau
from mmpkd.student import Student
from mmpkd.teachers import macro_auroc


@pytest.fixture
def copy(tiny_run, tmp_path):
    "A run of two seeds whose units may be changed; its ensembles were not scored"
    shutil.copytree(tiny_run.folder, tmp_path/'run')
    shutil.rmtree(tmp_path/'run/ensembles', ignore_errors=True)
    return Experiment(tmp_path/'run')

def keep(run, arm, seed, values):
    "Other maps for a unit"
    old = run.maps(arm, seed)
    AttentionMaps(values, old.image_ids, old.geometries).save(run.run_folder(arm, seed)/'attention.npz')

def looks_at(cohort, maps):
    "(N, g, g): 1 on the patches that the regions of an image touch, else .1"
    out, g = np.full(maps.maps.shape, .1, np.float32), maps.maps.shape[1]
    for m, i, geo in zip(out, maps.image_ids, maps.geometries):
        for r in cohort.rois[cohort.rois.image_id == i].itertuples():
            rows, columns = ([int(lo*g/n), int(np.ceil(hi*g/n))] for lo, hi,
                             n in ((r.y0, r.y1, geo.h), (r.x0, r.x1, geo.w)))
            m[slice(*rows), slice(*columns)] = 1
    return out


# Maps

@pytest.mark.parametrize('scale', SCALES)
def test_a_mean_of_equal_maps_is_the_map(scale):
    rng = np.random.default_rng(0)
    maps = AttentionMaps(rng.random((3, 4, 4)), list('abc'), [Geometry(40, 64, 32)]*3)
    one, three = mean_maps([maps], scale), mean_maps([maps]*3, scale)
    np.testing.assert_allclose(three.maps, one.maps, rtol=1e-6)
    assert three.image_ids == maps.image_ids and three.geometries == maps.geometries
    if scale == 'raw': assert (one.maps == maps.maps).all()

def test_scales_look_at_the_image_and_not_at_its_margin():
    # the first and last row of patches are padding
    geometry = Geometry(16, 32, 32)
    m, seen = np.arange(16.).reshape(4, 4), np.repeat([[False], [True], [True], [False]], 4, axis=1)
    other = m.copy()
    other[[0, 3]] = 1e6
    for scale in ('sum', 'range'):
        np.testing.assert_allclose(on_one_scale(m, seen, scale)[1:3], on_one_scale(other, seen, scale)[1:3])
    assert on_one_scale(m, seen)[1:3].sum() == pytest.approx(1)
    assert mean_maps([AttentionMaps([m], ['a'], [geometry])]).maps[0][1:3].sum() == pytest.approx(1)

def test_maps_without_heat_stay_without():
    seen = np.ones((2, 2), bool)
    for scale in ('sum', 'raw', 'range'): assert not on_one_scale(np.zeros((2, 2)), seen, scale).any()
    assert not on_one_scale(np.full((2, 2), .3), seen, 'range').any()

def test_members_must_show_the_same_images():
    maps = AttentionMaps(np.ones((2, 4, 4)), ['a', 'b'], [Geometry(32, 32, 32)]*2)
    turned = AttentionMaps(maps.maps, ['b', 'a'], maps.geometries)
    finer = AttentionMaps(np.ones((2, 8, 8)), ['a', 'b'], maps.geometries)
    for other in (turned, finer):
        with pytest.raises(ValueError, match='same images, in the same order and on the same grid'):
            mean_maps([maps, other])
    with pytest.raises(ValueError, match=r"scale must be one of \('sum', 'raw', 'range', 'rank'\), not 'log'"):
        mean_maps([maps], 'log')

@pytest.mark.parametrize('rule', ['max', 'raw-max', 'mean', 'otsu', 'mass'])
def test_an_ensemble_of_one_has_the_scores_of_its_student(rule):
    rng, convention = np.random.default_rng(1), Convention(rule=rule)
    cohort, ids, geometries = boxed([(64, 64), (50, 80), (90, 30)],
                                    [(0, (5, 5, 30, 30)), (1, (40, 10, 70, 45)), (2, (2, 50, 25, 80))])
    maps = AttentionMaps(rng.random((3, 4, 4))*.01, ids, geometries)
    one = score_localizer(ensemble_localizer([Localizer(lambda split, label, **how: maps)]), cohort,
                          [convention])[convention]
    expected = score_maps(maps.maps, ids, geometries, cohort, convention)
    columns = ['pixel_auroc', 'auprc', 'iou', 'fpr', 'n_boxes', 'hit', 'mass']
    np.testing.assert_allclose(one[columns].astype(float), expected[columns].astype(float), atol=2e-3)


# A run

def test_two_known_maps_give_known_scores(copy, phantom):
    "Each student sees the lesion, and as hot something else; together they see the lesion alone"
    rng, at = np.random.default_rng(0), copy.maps('baseline', 0)
    lesion = looks_at(phantom, at)
    wrong = rng.random(lesion.shape).astype(np.float32)
    keep(copy, 'baseline', 0, lesion + 2*wrong)
    keep(copy, 'baseline', 1, lesion + 2 - 2*wrong)
    scores = ensemble_scores(copy, phantom, 'raw').query("arm == 'baseline'").set_index('image_id')
    perfect = score_maps(2*lesion + 2, at.image_ids, at.geometries, phantom).set_index('image_id')
    columns = ['pixel_auroc', 'iou', 'fpr', 'n_boxes', 'hit']
    np.testing.assert_allclose(scores[columns].astype(float), perfect.loc[scores.index, columns].astype(float),
                               atol=1e-3)
    assert list(scores.patient_id) == list(phantom.items.set_index('image_id').patient_id[scores.index])
    alone = score_maps(lesion + 2*wrong, at.image_ids, at.geometries, phantom).pixel_auroc.mean()
    by_run = ensemble_runs(copy, phantom, 'raw').set_index('arm')
    assert by_run.pixel_auroc['baseline'] == pytest.approx(perfect.pixel_auroc.mean(), abs=1e-3)
    assert by_run.pixel_auroc['baseline'] > alone + .02

def test_equal_students_are_their_ensemble(copy, phantom):
    keep(copy, 'baseline', 1, copy.maps('baseline', 0).maps)
    first, second = (copy.run_folder('baseline', s)/'predictions.parquet' for s in (0, 1))
    shutil.copy(first, second)
    student = copy.scores().query("arm == 'baseline' and seed == 0")
    scores = ensemble_scores(copy, phantom, 'raw').query("arm == 'baseline'")
    for c in ('pixel_auroc', 'iou', 'fpr', 'n_boxes'): np.testing.assert_array_equal(scores[c], student[c], err_msg=c)
    first = copy.auroc('test').set_index(['arm', 'seed']).auroc[('baseline', 0)]
    assert ensemble_runs(copy, phantom).set_index('arm').auroc['baseline'] == pytest.approx(first, abs=1e-12)

def test_the_mean_prediction(copy, phantom):
    "Two students, each blind in one half of the images, are right together"
    y, files = copy.labels('test'), [copy.run_folder('baseline', s)/'predictions.parquet' for s in (0, 1)]
    half = np.arange(len(y)) % 2
    for k, f in enumerate(files):
        p = pd.read_parquet(f).astype(float)
        p.loc[y.index] = np.where((half == k)[:, None], .5, .1 + .8*y)
        write_table(p.sample(frac=1, random_state=k), f)                     # rows in any order
    together = ensemble_predictions(copy, 'baseline').loc[y.index]
    np.testing.assert_allclose(together, .25 + (.1 + .8*y)/2)
    assert macro_auroc(y, together) == 1 and copy.auroc('test').query("arm == 'baseline'").auroc.max() < 1
    assert ensemble_runs(copy, phantom).set_index('arm').auroc['baseline'] == 1

def test_the_table_is_that_of_students_and_ensemble(copy, phantom):
    t, seeds, together = ensemble_table(copy, phantom), copy.per_seed(), ensemble_runs(copy).set_index('arm')
    assert list(t.index.get_level_values(0).unique()) == ['Baseline', 'MMPKD (out-of-fold)']
    assert list(t.loc['Baseline'].index) == ['AUROC', 'Pixel AUROC', 'IoU', 'Boxes', 'FPR', 'No box']
    row, alone = t.loc[('MMPKD (out-of-fold)', 'IoU')], seeds.query("arm == 'out-of-fold'").iou
    np.testing.assert_allclose(row, [alone.mean(), alone.std(), together.iou['out-of-fold'],
                                     together.iou['out-of-fold'] - alone.mean()])
    assert len(show_ensemble(copy).axes) == 4

def test_scores_are_kept_by_scale_and_by_number_of_seeds(copy, phantom):
    scores = ensemble_scores(copy, phantom)
    keep(copy, 'baseline', 0, np.zeros_like(copy.maps('baseline', 0).maps))
    pd.testing.assert_frame_equal(ensemble_scores(copy), scores)             # read, not computed
    with pytest.raises(FileNotFoundError, match='baseline_rank_2.parquet is missing'):
        ensemble_scores(copy, scale='rank')
    more = Experiment(copy.folder)
    more.seeds = 3
    assert has_ensembles(copy) and not has_ensembles(more)

@pytest.mark.parametrize('fields', [dict(rule='tuned'), dict(classes='each', method='gradient', tau=.3)], ids=str)
def test_under_conventions_that_need_more_than_was_kept(phantom, tiny, tmp_path, fields):
    "The cut is that of the ensemble's own validation maps, label by label"
    run = run_experiment(phantom, tmp_path/'run', make_config(**tiny, convention=fields), seeds=2, progress=False)
    pixels, convention = cache_pixels(phantom, 32, tmp_path/'run/pixels'), Convention(**fields)
    students = [Student.load(run.run_folder('baseline', s)) for s in (0, 1)]
    def together(split, label):
        ids = phantom.split(split).items.image_id
        return mean_maps([attention_maps(s, pixels, ids, **convention.maps_args(), target=label) for s in students])
    expected = []
    for label in phantom.labels if convention.classes == 'each' else [None]:
        if label and not (phantom.split('test').rois.label == label).any(): continue
        m, c = together('test', label), convention
        if c.rule == 'tuned':
            v = together('valid', label)
            c = c.tuned(tune_tau(v.maps, v.image_ids, v.geometries, phantom.split('valid'), c, label=label))
        expected.append(score_maps(m.maps, m.image_ids, m.geometries, phantom, c, label))
    expected = pd.concat(expected, ignore_index=True)
    scores = ensemble_scores(run, phantom).query("arm == 'baseline'").reset_index(drop=True)
    assert ('label' in scores) == (convention.classes == 'each')
    pd.testing.assert_frame_equal(scores[expected.columns], expected, rtol=1e-5)

def test_classes_without_regions(phantom, tiny, tmp_path):
    rng, items = np.random.default_rng(0), phantom.items.drop(columns=phantom.labels)
    y = np.eye(3, dtype=int)[rng.permutation(np.arange(len(items)) % 3)]
    cohort = Cohort(items.assign(**dict(zip('abc', y.T))), list('abc'), root=phantom.root, name='classes',
                    task='multiclass')
    config = make_config(**tiny | dict(teacher='none'))
    run = run_experiment(cohort, tmp_path/'run', config, ('baseline', 'label-smoothing'), seeds=2, progress=False)
    p = ensemble_predictions(run, 'baseline')
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    assert has_ensembles(run) and not len(ensemble_scores(run)) and not len(ensemble_intervals(run))
    assert list(ensemble_table(run).index) == [('Baseline', 'AUROC'), ('Control: label smoothing', 'AUROC')]
    text = write_report(run, cohort).read_text(encoding='utf-8')
    assert 'Ensemble of 2: Baseline' in text and 'mean map' not in text
    said = CliRunner().invoke(app, ['ensemble', str(run.folder)])
    assert said.exit_code == 0 and 'AUROC' in said.output and 'drawn anew' not in said.output


# Over patients

def scored(run, values):
    "A run whose ensembles have these scores: {arm: one per test image}"
    rois = run.scores().drop_duplicates('image_id').image_id
    for arm, v in values.items():
        f = run.folder/'ensembles'/f'{arm}_sum_2.parquet'
        f.parent.mkdir(exist_ok=True)
        write_table(pd.DataFrame(dict(image_id=rois, iou=v, fpr=v, n_boxes=1)).reset_index(drop=True), f)
    return rois

def test_a_difference_that_all_patients_share_is_sure(copy):
    rng, n = np.random.default_rng(0), copy.scores().image_id.nunique()
    base = rng.random(n)*.5
    scored(copy, {'baseline': base, 'out-of-fold': base + .1})
    t = ensemble_intervals(copy, metrics=('iou',))
    np.testing.assert_allclose(t[['difference', 'lo', 'hi']], .1, atol=1e-9)

def test_patients_are_drawn_whole_and_the_interval_is_that_of_their_spread(copy):
    "Against the usual formula; images of one patient count as one"
    rng = np.random.default_rng(3)
    labels = pd.read_parquet(copy.folder/'labels.parquet')
    ids = copy.scores().image_id.drop_duplicates()
    pairs = {k: f'p{i//2}' for i, k in enumerate(ids)}                       # two images each
    write_table(labels.assign(patient_id=labels.image_id.map(lambda k: pairs.get(k, k))), copy.folder/'labels.parquet')
    n = len(ids)//2*2
    of_patient = np.repeat(rng.normal(0, .1, len(ids)//2 + 1), 2)[:len(ids)]
    scored(copy, {'baseline': np.full(len(ids), .5), 'out-of-fold': .5 + of_patient})
    t = ensemble_intervals(copy, metrics=('iou',)).iloc[0]
    assert t.patients == len(set(pairs.values()))
    se = of_patient[:n:2].std()/np.sqrt(n//2)
    assert (t.hi - t.lo)/(2*1.96*se) == pytest.approx(1, abs=.25)            # by image it would be 1/sqrt(2)

def test_images_without_a_box_are_left_out_of_the_fpr(copy):
    n = copy.scores().image_id.nunique()
    some, none = np.full(n, .4), np.full(n, np.nan)
    some[0] = np.nan
    scored(copy, {'baseline': np.full(n, .5), 'out-of-fold': some})
    assert ensemble_intervals(copy, metrics=('fpr',)).difference[0] == pytest.approx(-.1)
    scored(copy, {'baseline': np.full(n, .5), 'out-of-fold': none})
    assert ensemble_intervals(copy, metrics=('fpr',))[['difference', 'lo', 'hi']].isna().all(axis=None)

def test_a_single_patient_has_no_interval(copy):
    labels = pd.read_parquet(copy.folder/'labels.parquet')
    write_table(labels.assign(patient_id='p'), copy.folder/'labels.parquet')
    n = copy.scores().image_id.nunique()
    scored(copy, {'baseline': np.zeros(n), 'out-of-fold': np.ones(n)})
    t = ensemble_intervals(copy, metrics=('iou',)).iloc[0]
    assert t.difference == 1 and np.isnan(t.lo) and t.patients == 1


# Halves

@pytest.fixture
def four(copy):
    "The same run as if it had four seeds"
    for arm in copy.arms:
        for seed in (2, 3): shutil.copytree(copy.run_folder(arm, 0), copy.run_folder(arm, seed))
    copy.seeds = 4
    return copy

def test_halves_agree_where_noise_is_what_differs(four):
    rng, shape = np.random.default_rng(0), four.maps('baseline', 0).maps.shape
    signal = rng.random(shape)
    for seed in range(4):
        keep(four, 'baseline', seed, signal + rng.random(shape))             # the image, and noise
        keep(four, 'out-of-fold', seed, signal[:1] + .01*rng.random(shape))  # the same place whatever the image
    t = half_agreement(four)
    base, same = t.loc['Baseline'], t.loc['MMPKD (out-of-fold)']
    assert base['two students'] + .05 < base['two halves'] < base['two wholes (estimate)'] < 1
    assert abs(base['halves, different images']) < .3 and abs(base['students, different images']) < .3
    assert same['two halves'] > .95 and same['halves, different images'] > .95

def test_other_images_are_other_images():
    maps = [AttentionMaps(np.arange(5.)[:, None, None] + 10*s + np.zeros((5, 2, 2)), list('abcde'),
                          [Geometry(32, 32, 32)]*5) for s in range(3)]
    at = np.array([m.maps[:, 0, 0] for m in of_other_images(maps)]) % 10     # whose map each image has
    assert (at[0] == np.arange(5)).all() and all(len({*column}) == 3 for column in at.T)


# What is missing

def test_one_seed_is_no_ensemble(copy, phantom):
    copy.seeds = 1
    for f in (lambda: ensemble_predictions(copy, 'baseline'), lambda: ensemble_scores(copy, phantom),
              lambda: ensemble_table(copy, phantom)):
        with pytest.raises(ValueError, match='an ensemble needs at least 2 seeds; the run in .* has 1 .*--seeds 2'): f()
    assert not has_ensembles(copy) and not table1(copy).index.str.startswith('Ensemble').any()

def test_halves_need_four_seeds(copy):
    with pytest.raises(ValueError, match='two half-ensembles needs at least 4 seeds; the run in .* has 2'):
        half_agreement(copy)

def test_a_missing_unit_is_named(copy, phantom):
    shutil.rmtree(copy.run_folder('out-of-fold', 1))
    with pytest.raises(FileNotFoundError, match='out-of-fold/seed-1/attention.npz is missing; the same command again'):
        ensemble_scores(copy, phantom)
    with pytest.raises(FileNotFoundError, match='out-of-fold/seed-1/predictions.parquet is missing'):
        ensemble_predictions(copy, 'out-of-fold')

def test_another_cohort_is_refused(copy, phantom):
    other = altered(phantom, rois=phantom.rois.iloc[:-1])
    with pytest.raises(ValueError, match='other tables'): ensemble_scores(copy, other)


# Report and command

def test_the_report_shows_ensembles(copy, phantom):
    # as an older folder
    assert not has_ensembles(copy) and not table1(copy).index.str.startswith('Ensemble').any()
    text = write_report(copy, phantom).read_text(encoding='utf-8')
    rows, together = table1(copy), ensemble_runs(copy).set_index('arm')
    assert list(rows.index[2:4]) == ['Ensemble of 2: Baseline', 'Ensemble of 2: MMPKD (out-of-fold)']
    assert rows.IoU['Ensemble of 2: Baseline'] == f"{together.iou['baseline']:.3f}"
    assert 'not tested' in table_note(copy) and 'mean map' in table_note(copy)
    assert '<h2>Ensembles of 2 students</h2>' in text
    assert 'with patients drawn anew (95 %) and the same students' in text
    kept = pd.read_csv(copy.folder/'ensemble.csv').set_index(['method', 'score'])
    np.testing.assert_allclose(kept, ensemble_table(copy))

def test_controls_have_no_row(copy, phantom, monkeypatch):
    monkeypatch.setattr(Experiment, 'controls', ['out-of-fold'])
    ensemble_scores(copy, phantom)
    assert list(table1(copy).filter(like='Ensemble', axis=0).index) == ['Ensemble of 2: Baseline']

def test_the_command(copy, phantom):
    early = CliRunner().invoke(app, ['ensemble', str(copy.folder)])
    assert isinstance(early.exception, FileNotFoundError) and 'without training' in str(early.exception)
    write_report(copy, phantom)
    said = CliRunner().invoke(app, ['ensemble', str(copy.folder)])
    assert said.exit_code == 0, said.output
    for part in ('mean of 2 single students', 'Pixel AUROC', 'no test over seeds', 'MMPKD (out-of-fold)'):
        assert part in said.output, part
    assert 'Agreement of maps' not in said.output                           # two seeds have no halves
    for name in ('ensemble.csv', 'ensemble.png'): assert (copy.folder/name).stat().st_size > 100
