"Corner cases of mmpkd.scoring: regions on disk, maps that do not fit, pooling, and a tau that was tuned"
import matplotlib
import numpy as np, pandas as pd, pytest
from conftest import boxed
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from mmpkd.cohort import Cohort
from mmpkd.convention import CONVENTIONS, Convention
from mmpkd.images import Geometry
from mmpkd.localization import fill_boxes, pixel_auroc, saliency_of, score_image
from mmpkd.scoring import GRID, TAUS, PooledAUROC, Regions, levels, score_conventions, score_maps, truth_of, tune_tau

matplotlib.use('Agg')

few = arrays(np.float32, (4, 5), elements=st.integers(0, 6).map(lambda i: i/8))        # many ties
masks = arrays(bool, (4, 5)).filter(lambda m: 0 < m.sum() < m.size)
span = st.tuples(st.integers(0, 19), st.integers(1, 20)).map(lambda t: (t[0], t[0]+t[1]))
box = st.tuples(span, span).map(lambda b: [b[0][0], b[1][0], b[0][1], b[1][1]])
boxes = st.lists(box, min_size=1, max_size=5)
geo = Geometry(6, 8, 16)
shapes = st.tuples(st.integers(1, 400), st.integers(1, 400)) | st.sampled_from([(1, 5000), (5000, 1), (1, 1), (2, 999),
                                                                                (224, 223)])

SHAPES = [(9, 12), (10, 7), (300, 20), (11, 11)]
ROIS = [(0, (2, 3, 8, 7)), (1, (1, 1, 5, 8)), (2, (4, 90, 11, 160)), (3, (4, 4, 9, 9)), (3, (0, 0, 2, 2))]

def pairs(heat, mask, weights):
    "The double loop"
    total = won = 0.
    for p in np.argwhere(mask):
        for q in np.argwhere(~mask):
            w = weights[tuple(q)]
            total += w
            won += w*((heat[tuple(p)] > heat[tuple(q)]) + .5*(heat[tuple(p)] == heat[tuple(q)]))
    return won/total if total else np.nan


# Pooled AUROC

def pooled(heats, masks):
    pool = PooledAUROC(min(h.min() for h in heats), max(h.max() for h in heats))
    for h, m in zip(heats, masks): pool.add(h, m)
    return pool.value

@settings(max_examples=30)
@given(st.lists(st.tuples(few, masks), min_size=1, max_size=4))
def test_pooled_auroc_is_sklearns(images):
    heats, ms = zip(*images)
    assert pooled(heats, ms) == pytest.approx(roc_auc_score(np.ravel(ms), np.ravel(heats)), abs=1e-12)

@pytest.mark.parametrize('spot', [1, 300])
def test_pooled_auroc_of_smooth_maps(spot):
    rng, heats, ms = np.random.default_rng(4), [], []
    for h, w in ((120, 90), (90, 150), (200, 130)):
        m = rng.random((14, 14))**4
        m[2, 7] *= spot
        heats.append(saliency_of(m, Geometry(h, w, 112)))
        ms.append(fill_boxes([[20, 30, 55, 70]], (h, w)))
    flat = lambda arrays: np.concatenate([a.ravel() for a in arrays])
    assert pooled(heats, ms) == pytest.approx(roc_auc_score(flat(ms), flat(heats)), abs=1e-6)

def test_pooled_edges():
    assert np.isnan(pooled([np.ones((2, 2))], [np.zeros((2, 2), bool)]))
    assert pooled([np.ones((2, 2))], [np.eye(2, dtype=bool)]) == .5

@given(arrays(np.float32, 30, elements=st.floats(0, 1, width=32)))
def test_levels_keep_the_order(heat):
    k = levels(heat)
    order = np.argsort(heat, kind='stable')
    assert k.min() == 0 and (np.diff(k[order]) >= 0).all()
    assert (levels(heat, 0, 1) <= levels(np.ones(1), 0, 1)).all()


# Regions of a cohort

def save(path, mask): Image.fromarray(np.asarray(mask, np.uint8)*255).save(path)

@pytest.fixture
def cohort(tmp_path):
    "Image a: an outline and a box; b: two outlines that overlap, of two classes; c: nothing"
    outline = np.zeros((6, 8), bool); outline[1:3, 1:3] = True; outline[2, 2] = False
    shifted = np.roll(outline, 1, axis=1)
    save(tmp_path/'m1.png', outline); save(tmp_path/'m2.png', shifted)
    items = pd.DataFrame(dict(image_id=list('abc'), patient_id=list('abc'), split='test',
                              image=[f'{i}.png' for i in 'abc'], mass=1, calc=[0, 1, 0]))
    rois = pd.DataFrame([dict(image_id='a', label='mass', x0=1, y0=1, x1=3, y1=3, mask='m1.png'),
                         dict(image_id='a', label='mass', x0=5, y0=3, x1=8, y1=6, mask=None),
                         dict(image_id='b', label='mass', x0=1, y0=1, x1=3, y1=3,
                              mask='m1.png'), dict(image_id='b', label='calc', x0=2, y0=1, x1=4, y1=3, mask='m2.png')])
    return Cohort(items, ['mass', 'calc'], rois, root=tmp_path)

def test_truth_is_the_union(cohort):
    mask, boxes = truth_of(cohort, 'a', (6, 8))
    assert mask.sum() == 3 + 9 and boxes.tolist() == [[1, 1, 3, 3], [5, 3, 8, 6]]
    assert truth_of(cohort, 'a', (6, 8), 'box')[0].sum() == 4 + 9
    assert truth_of(cohort, 'b', (6, 8))[0].sum() == 5 and len(truth_of(cohort, 'b', (6, 8))[1]) == 2

def test_truth_without_a_mask_column(cohort):
    cohort.rois = cohort.rois.drop(columns='mask')
    assert truth_of(cohort, 'a', (6, 8))[0].sum() == 13

def test_a_mask_of_another_size_is_brought_to_its_image(cohort):
    mask, _ = truth_of(cohort, 'b', (12, 16))
    assert mask.shape == (12, 16) and (mask == np.kron(truth_of(cohort, 'b', (6, 8))[0], np.ones((2, 2), bool))).all()

def test_truth_refuses(cohort):
    with pytest.raises(ValueError, match="'c' has no region"): truth_of(cohort, 'c', (6, 8))
    with pytest.raises(ValueError, match=r'box \[5.0, 3.0, 8.0, 6.0\].*5 pixels wide and 6 high'):
        truth_of(cohort, 'a', (6, 5))
    with pytest.raises(ValueError, match="mask of image 'b' .*: 8 x 6 pixels .*, its image 11 x 6"):
        truth_of(cohort, 'b', (6, 11))
    save(cohort.root/'m1.png', np.zeros((6, 8)))
    with pytest.raises(ValueError, match="mask of image 'a' .*: empty"): truth_of(cohort, 'a', (6, 8))
    (cohort.root/'m1.png').unlink()
    with pytest.raises(FileNotFoundError, match="mask of image 'a' .*: missing file"): truth_of(cohort, 'a', (6, 8))


def test_truth_of_one_label(cohort):
    mask, boxes = truth_of(cohort, 'b', (6, 8), label='calc')
    assert mask.sum() == 3 and boxes.tolist() == [[2, 1, 4, 3]]
    with pytest.raises(ValueError, match="'a' has no region of interest of 'calc'"):
        truth_of(cohort, 'a', (6, 8), label='calc')


# Where the others have their regions

def share_of_cell(mask, i, j):
    "How much of cell i, j of the relative grid a mask covers, pixel by pixel"
    (h, w), covered = mask.shape, 0.
    for y, x in np.argwhere(mask):
        down = min((i+1)/GRID, (y+1)/h) - max(i/GRID, y/h)
        right = min((j+1)/GRID, (x+1)/w) - max(j/GRID, x/w)
        covered += max(down, 0)*max(right, 0)*GRID**2
    return covered

def slow_elsewhere(masks, k):
    "Weight of each pixel of image k: over all other images, the share of its cell that their regions cover"
    h, w = masks[k].shape
    return np.array([[sum(share_of_cell(m, int((y+.5)/h*GRID), int((x+.5)/w*GRID)) for j,
                          m in enumerate(masks) if j != k) for x in range(w)] for y in range(h)])

def test_places_of_others_are_a_double_loop():
    cohort, ids, geometries = boxed(SHAPES, ROIS)
    regions = Regions(cohort, ids, geometries)
    masks = [regions.of(i)[0] for i in ids]
    for k in (0, 1, 3): np.testing.assert_allclose(regions.of(ids[k])[2], slow_elsewhere(masks, k), atol=1e-9)
    # nothing is lost, however small
    np.testing.assert_allclose(regions.grid.sum()/GRID**2, sum(m.mean() for m in masks))

def test_shuffled_auroc_of_a_cohort_is_a_double_loop():
    cohort, ids, geometries = boxed(SHAPES, ROIS)
    maps = np.random.default_rng(0).random((4, 6, 6))
    scores, masks = score_maps(maps, ids, geometries, cohort), [truth_of(cohort, i, (g.h, g.w))[0] for i,
                                                                g in zip(ids, geometries)]
    for k in (0, 1, 3):
        want = pairs(saliency_of(maps[k], geometries[k]), masks[k], slow_elsewhere(masks, k))
        assert scores.shuffled_auroc[k] == pytest.approx(want, abs=1e-6)

def test_regions_give_back_the_truth(cohort):
    regions = Regions(cohort, list('abc'), [geo]*3)
    assert len(regions) == 2 and 'c' not in regions
    for i in 'ab':
        np.testing.assert_array_equal(regions.of(i)[0], truth_of(cohort, i, (6, 8))[0])
        np.testing.assert_array_equal(regions.of(i)[1], truth_of(cohort, i, (6, 8))[1])

def test_an_only_image_has_nothing_to_be_shuffled_with():
    cohort, ids, geometries = boxed(SHAPES[:2], ROIS[:1])
    s = score_maps(np.random.default_rng(0).random((2, 6, 6)), ids, geometries, cohort)
    assert len(s) == 1 and np.isnan(s.shuffled_auroc[0]) and s.notna().drop(columns='shuffled_auroc').all(axis=None)

def test_mirrored_cohort_has_the_same_scores():
    # these lie in the middle of the square
    shapes = [(32, 16), (32, 24), (20, 20), (16, 32)]
    rois = [(0, (2, 3, 8, 7)), (1, (1, 1, 5, 8)), (2, (4, 9, 11, 16)), (3, (4, 4, 9, 9)), (3, (20, 0, 32, 2))]
    mirrored = [(k, (shapes[k][1] - x1, y0, shapes[k][1] - x0, y1)) for k, (x0, y0, x1, y1) in rois]
    maps = np.random.default_rng(1).random((4, 6, 6))
    a, b = boxed(shapes, rois), boxed(shapes, mirrored)
    pd.testing.assert_frame_equal(score_maps(maps, a[1], a[2], a[0]), score_maps(maps[:, :, ::-1], b[1], b[2], b[0]),
                                  rtol=1e-5)
COLUMNS = ['image_id', 'pixel_auroc', 'shuffled_auroc', 'auprc', 'iou', 'fpr', 'n_boxes', 'hit', 'mass']

def test_score_maps_joins_by_id_and_skips_images_without_regions(cohort):
    maps = np.random.default_rng(0).random((3, 4, 4))
    forth, back = score_maps(maps, list('abc'), [geo]*3, cohort), score_maps(maps[::-1], list('cba'), [geo]*3, cohort)
    assert list(forth.image_id) == ['a', 'b']
    pd.testing.assert_frame_equal(forth, back.sort_values('image_id', ignore_index=True))

def test_score_maps_is_score_image_on_original_pixels(cohort):
    c, m = Convention(interpolation='nearest', tau=.7, truth='box'), np.random.default_rng(1).random((4, 4))
    row = score_maps(m[None], ['a'], [geo], cohort, c).iloc[0]
    twin = score_image(geo.map_to_original(m, 'nearest'), *truth_of(cohort, 'a', (6, 8), 'box'), c)
    assert row.drop('image_id').to_dict() == pytest.approx(twin, abs=1e-5, nan_ok=True)

def test_scores_are_sklearns(cohort):
    maps = np.random.default_rng(2).random((2, 4, 4))
    s = score_maps(maps, ['a', 'b'], [geo]*2, cohort)
    heat, mask = zip(*((geo.map_to_original(m).ravel(), truth_of(cohort, i, (6, 8))[0].ravel()) for i,
                       m in zip('ab', maps)))
    for k in (0, 1):
        assert s.pixel_auroc[k] == pytest.approx(roc_auc_score(mask[k], heat[k]), abs=1e-6)
        assert s.auprc[k] == pytest.approx(average_precision_score(mask[k], heat[k]), abs=1e-6)
    assert s.attrs['pooled_auroc'] == pytest.approx(roc_auc_score(np.concatenate(mask), np.concatenate(heat)), abs=1e-6)

def test_padding_cannot_change_a_score(cohort):
    quiet = np.random.default_rng(2).random((16, 16))                       # one patch per pixel of the square
    loud = np.where(geo.inside, quiet, 99)
    c = Convention(interpolation='nearest')
    pd.testing.assert_frame_equal(score_maps(quiet[None], ['a'], [geo], cohort, c),
                                  score_maps(loud[None], ['a'], [geo], cohort, c))

def test_score_maps_without_any_region(cohort):
    s = score_maps(np.ones((1, 4, 4)), ['c'], [geo], cohort)
    assert len(s) == 0 and list(s) == COLUMNS

def test_score_maps_refuses(cohort):
    maps = np.ones((2, 4, 4))
    with pytest.raises(ValueError, match='2 maps, 1 image_ids'): score_maps(maps, ['a'], [geo]*2, cohort)
    with pytest.raises(ValueError, match="'a' has several maps"): score_maps(maps, ['a', 'a'], [geo]*2, cohort)
    with pytest.raises(ValueError, match='which label the maps are for'):
        score_maps(maps, ['a', 'b'], [geo]*2, cohort, Convention(classes='each'))
    with pytest.raises(ValueError, match="classes='any'"): score_maps(maps, ['a', 'b'], [geo]*2, cohort, label='mass')
    with pytest.raises(ValueError, match="no label 'nodule'"):
        score_maps(maps, ['a', 'b'], [geo]*2, cohort, Convention(classes='each'), label='nodule')
    with pytest.raises(ValueError, match='before its tau was chosen'):
        score_maps(maps, ['a', 'b'], [geo]*2, cohort, Convention(rule='tuned'))
    maps[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="map of image 'b'"): score_maps(maps, ['a', 'b'], [geo]*2, cohort)

def test_one_label_at_a_time(cohort):
    maps, each = np.random.default_rng(0).random((2, 4, 4)), Convention(classes='each')
    calc, every = score_maps(maps, ['a', 'b'], [geo]*2, cohort, each,
                             label='calc'), score_maps(maps, ['a', 'b'], [geo]*2, cohort)
    assert list(calc.image_id) == ['b'] and calc.attrs['label'] == 'calc' and len(every) == 2
    assert calc.pixel_auroc[0] == pytest.approx(pixel_auroc(saliency_of(maps[1], geo),
                                                            truth_of(cohort, 'b', (6, 8), label='calc')[0]))
    both = score_conventions(maps, ['a', 'b'], [geo]*2, cohort, [Convention(), each], label='calc')
    pd.testing.assert_frame_equal(both[each], calc)
    pd.testing.assert_frame_equal(both[Convention()], every)

def test_many_conventions_are_one_by_one(cohort):
    maps = np.random.default_rng(5).random((2, 4, 4))**3
    mine = list(dict.fromkeys(c.tuned(.4) if c.rule == 'tuned' else c for c in CONVENTIONS))
    for threads in (1, 2):
        together = score_conventions(maps, ['a', 'b'], [geo]*2, cohort, mine + mine[:1], n_jobs=threads)
        assert list(together) == mine
        for c, t in together.items():
            alone = score_maps(maps, ['a', 'b'], [geo]*2, cohort, c)
            pd.testing.assert_frame_equal(t, alone)
            assert t.attrs == alone.attrs and t.attrs['convention'] == c.to_dict()

def test_scores_survive_a_file_with_their_convention(cohort, tmp_path):
    s = score_maps(np.random.default_rng(5).random((2, 4, 4)), ['a', 'b'], [geo]*2, cohort, Convention(rule='otsu'))
    s.to_parquet(tmp_path/'s.parquet')
    back = pd.read_parquet(tmp_path/'s.parquet')
    assert Convention(**back.attrs['convention']) == Convention(rule='otsu')
    assert back.attrs['pooled_auroc'] == s.attrs['pooled_auroc']

@pytest.mark.parametrize('interpolation', ['bilinear', 'nearest'])
def test_scores_of_a_constant_map(cohort, interpolation):
    for c in np.random.default_rng(2).random(40):
        s = score_maps(np.full((2, 4, 4), c), ['a', 'b'], [geo]*2, cohort, Convention(interpolation=interpolation))
        assert (s.n_boxes == 0).all() and (s.iou == 0).all() and s.fpr.isna().all()
        assert (s.pixel_auroc == .5).all() and s.attrs['pooled_auroc'] == .5


# Boxes as a prediction

def test_given_boxes_are_scored_as_they_are(cohort):
    "Whatever the maps and the rule; an image that is not named has none"
    mine = [Convention(), Convention(rule='otsu', min_area=.9), Convention(truth='box', interpolation='nearest')]
    _, boxes = truth_of(cohort, 'a', (6, 8))
    maps = np.random.default_rng(0).random((2, 4, 4))
    for c, t in score_conventions(maps, ['a', 'b'], [geo]*2, cohort, mine, boxes={'a': boxes}).items():
        mask = truth_of(cohort, 'a', (6, 8), c.truth)[0]
        a, b = t.set_index('image_id').loc[['a', 'b']].itertuples()
        filled = fill_boxes(boxes, (6, 8))
        assert (a.iou, a.n_boxes, a.fpr) == (1, len(boxes), pytest.approx(1 - mask[filled].mean()))
        assert a.pixel_auroc == pytest.approx(roc_auc_score(mask.ravel(), filled.ravel()))
        assert (b.iou, b.n_boxes, b.pixel_auroc) == (0, 0, .5) and np.isnan(b.fpr)

@pytest.mark.parametrize('bad', [[-1, 0, 3, 3], [0, 0, 9, 3], [2, 2, 5, 7]])
def test_given_boxes_must_lie_on_their_image(cohort, bad):
    with pytest.raises(ValueError, match="image 'a' leaves the image, which is 8 pixels wide and 6 high"):
        score_conventions(np.ones((1, 4, 4)), ['a'], [geo], cohort, [Convention()], boxes={'a': [bad]})


# A tau that was chosen

def tuning(splits, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(32, 32)]*len(splits)
    rois = [(k, (x, y, x + 12, y + 9)) for k, (x, y) in enumerate(rng.integers(2, 18, (len(splits), 2)).tolist())]
    cohort, ids, geometries = boxed(shapes, rois, splits)
    maps = np.stack([(fill_boxes([b], (32, 32))*.55 + .3*rng.random((32, 32))) for _, b in rois])
    maps[:, 0, 0] = 1.
    return cohort, ids, geometries, maps

def test_tune_tau_finds_the_best():
    cohort, ids, geometries, maps = tuning(['valid']*6)
    c = Convention(rule='tuned', interpolation='nearest')
    tau = tune_tau(maps, ids, geometries, cohort, c)
    mean = {t: score_maps(maps, ids, geometries, cohort, c.tuned(t)).iou.mean() for t in TAUS}
    assert mean[tau] == max(mean.values()) > mean[TAUS[0]]
    assert tau == min(t for t in TAUS if mean[t] == mean[tau])

def test_tune_tau_keeps_away_from_test_images():
    cohort, ids, geometries, maps = tuning(['valid']*3 + ['test']*3)
    with pytest.raises(ValueError, match='not be chosen on test images'): tune_tau(maps, ids, geometries, cohort)
    tau = tune_tau(maps[:3], ids[:3], geometries[:3], cohort)
    cohort.rois.loc[3:, ['x0', 'y0', 'x1', 'y1']] = [0., 0., 1., 1.]
    assert tune_tau(maps[:3], ids[:3], geometries[:3], cohort) == tau
    cohort.rois = cohort.rois[3:]
    with pytest.raises(ValueError, match='nothing to choose tau by'):
        tune_tau(maps[:3], ids[:3], geometries[:3], cohort)
