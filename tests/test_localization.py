"Corner cases of mmpkd.localization: properties of the metrics, regions on disk, and maps that do not fit"
import json

import matplotlib
import numpy as np, pandas as pd, pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from sklearn.metrics import roc_auc_score

from mmpkd.cohort import Cohort
from mmpkd.images import Geometry
from mmpkd.localization import (Convention, best_iou, box_fpr, fill_boxes, iou, normalize, pixel_auroc, predicted_boxes,
                                score_image, score_maps, show_localization, trivial_maps, truth_of)

matplotlib.use('Agg')

few = arrays(np.float32, (4, 5), elements=st.integers(0, 6).map(lambda i: i/8))        # many ties
masks = arrays(bool, (4, 5)).filter(lambda m: 0 < m.sum() < m.size)
span = st.tuples(st.integers(0, 19), st.integers(1, 20)).map(lambda t: (t[0], t[0]+t[1]))
box = st.tuples(span, span).map(lambda b: [b[0][0], b[1][0], b[0][1], b[1][1]])
boxes = st.lists(box, min_size=1, max_size=5)


# Convention

@pytest.mark.parametrize('bad', [dict(interpolation='cubic'), dict(rule='otsu'), dict(tau=0), dict(tau=1.1), dict(tau=np.nan), dict(connectivity=6), dict(truth='polygon')])
def test_convention_refuses(bad):
    with pytest.raises(ValueError, match=next(iter(bad))): Convention(**bad)

def test_convention_is_a_key_and_json():
    assert {Convention(): 1}[Convention(tau=.5)] == 1
    assert Convention(**json.loads(json.dumps(Convention(connectivity=8).to_dict()))) == Convention(connectivity=8)
    with pytest.raises(AttributeError): Convention().tau = .3


# Pixel AUROC

@given(few, masks)
def test_pixel_auroc_is_sklearns(heat, mask):
    assert pixel_auroc(heat, mask) == pytest.approx(roc_auc_score(mask.ravel(), heat.ravel()), abs=1e-12)

@given(few, masks)
def test_pixel_auroc_order_only_and_complements(heat, mask):
    a = pixel_auroc(heat, mask)
    assert 0 <= a <= 1
    assert pixel_auroc(np.exp(3*heat.astype(float)), mask) == pytest.approx(a)
    assert pixel_auroc(heat, ~mask) == pytest.approx(1-a)
    assert pixel_auroc(-heat, mask) == pytest.approx(1-a)

def test_pixel_auroc_on_a_large_map():
    rng = np.random.default_rng(0)
    heat, mask = rng.random((700, 900), dtype=np.float32), rng.random((700, 900)) < .7      # the lesion is the majority
    assert pixel_auroc(heat, mask) == pytest.approx(roc_auc_score(mask.ravel(), heat.ravel()), abs=1e-12)

def test_pixel_auroc_edges():
    heat = np.arange(4.)
    assert np.isnan(pixel_auroc(heat, np.ones(4))) and np.isnan(pixel_auroc(heat, np.zeros(4)))
    assert pixel_auroc(heat, [0, 0, 0, 1]) == 1 and pixel_auroc([-np.inf, 0, 1, np.inf], [1, 0, 0, 0]) == 0
    with pytest.raises(ValueError, match=r'\(4,\).*\(3,\)'): pixel_auroc(heat, np.zeros(3))
    with pytest.raises(ValueError, match='NaN'): pixel_auroc([0, np.nan, 1, 2], [0, 0, 0, 1])


# Boxes

@given(few, st.sampled_from([.1, .5, 1.]), st.sampled_from([4, 8]))
def test_boxes_hold_every_hot_pixel_and_touch_it(heat, tau, connectivity):
    b = predicted_boxes(heat, Convention(tau=tau, connectivity=connectivity))
    hot = normalize(heat) >= tau
    assert not (hot & ~fill_boxes(b, heat.shape)).any()
    assert all(hot[y0:y1, x0:x1].any() for x0, y0, x1, y1 in b)
    assert (len(b) == 0) == (heat.min() == heat.max())

@given(few)
def test_boxes_ignore_scale(heat):
    np.testing.assert_array_equal(predicted_boxes(heat), predicted_boxes(heat*4 - 2))

def test_tau_of_one_keeps_the_maximum():
    np.testing.assert_array_equal(predicted_boxes(np.eye(3)*[1, 2, 3], Convention(tau=1.)), [[2, 2, 3, 3]])

@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_normalize_refuses(value):
    with pytest.raises(ValueError, match='not finite'): normalize([[0., value]])

@given(boxes, boxes)
def test_iou_properties(a, b):
    m = iou(a, b)
    assert m.shape == (len(a), len(b)) and (m >= 0).all() and (m <= 1).all()
    np.testing.assert_allclose(m, iou(b, a).T)
    np.testing.assert_allclose(np.diag(iou(a, a)), 1)
    shape = (40, 40)
    painted = [[(fill_boxes([p], shape) & fill_boxes([q], shape)).sum() / (fill_boxes([p], shape) | fill_boxes([q], shape)).sum() for q in b] for p in a]
    np.testing.assert_allclose(m, painted)

def test_iou_touching_boxes_and_no_boxes():
    assert iou([[0, 0, 2, 2]], [[2, 0, 4, 2]]).item() == 0
    assert iou(np.zeros((0, 4)), [[0, 0, 1, 1]]).shape == (0, 1)
    assert best_iou(np.zeros((0, 4)), [[0, 0, 1, 1]]) == 0
    with pytest.raises(ValueError, match='no true box'): best_iou([[0, 0, 1, 1]], [])

@given(boxes, boxes)
def test_fpr_is_one_minus_pixel_precision(pred, truth):
    mask = fill_boxes(truth, (40, 40))
    union = fill_boxes(pred, (40, 40))
    assert box_fpr(pred, mask) == pytest.approx(1 - mask[union].mean())
    assert box_fpr(pred + pred, mask) == box_fpr(pred, mask)               # the same box twice is one area

def test_fill_boxes_takes_partly_covered_pixels():
    np.testing.assert_array_equal(fill_boxes([[.5, 0, 1.5, 1]], (2, 3)), [[1, 1, 0], [0, 0, 0]])

def test_constant_map_is_counted():
    s = score_image(np.full((4, 4), .3), np.eye(4, dtype=bool), [[0, 0, 4, 4]])
    assert (s['pixel_auroc'], s['iou'], s['n_boxes']) == (.5, 0., 0) and np.isnan(s['fpr'])


# Regions of a cohort

def save(path, mask): Image.fromarray(np.asarray(mask, np.uint8)*255).save(path)

@pytest.fixture
def cohort(tmp_path):
    "Image a: an outline and a box; b: two outlines that overlap, of two classes; c: nothing"
    outline = np.zeros((6, 8), bool); outline[1:3, 1:3] = True; outline[2, 2] = False
    shifted = np.roll(outline, 1, axis=1)
    save(tmp_path/'m1.png', outline); save(tmp_path/'m2.png', shifted)
    items = pd.DataFrame(dict(image_id=list('abc'), patient_id=list('abc'), split='test', image=[f'{i}.png' for i in 'abc'], mass=1, calc=[0, 1, 0]))
    rois = pd.DataFrame([dict(image_id='a', label='mass', x0=1, y0=1, x1=3, y1=3, mask='m1.png'), dict(image_id='a', label='mass', x0=5, y0=3, x1=8, y1=6, mask=None),
                         dict(image_id='b', label='mass', x0=1, y0=1, x1=3, y1=3, mask='m1.png'), dict(image_id='b', label='calc', x0=2, y0=1, x1=4, y1=3, mask='m2.png')])
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
    with pytest.raises(ValueError, match=r'box \[5.0, 3.0, 8.0, 6.0\].*5 pixels wide and 6 high'): truth_of(cohort, 'a', (6, 5))
    with pytest.raises(ValueError, match="mask of image 'b' .*: 8 x 6 pixels .*, its image 11 x 6"): truth_of(cohort, 'b', (6, 11))
    save(cohort.root/'m1.png', np.zeros((6, 8)))
    with pytest.raises(ValueError, match="mask of image 'a' .*: empty"): truth_of(cohort, 'a', (6, 8))
    (cohort.root/'m1.png').unlink()
    with pytest.raises(FileNotFoundError, match="mask of image 'a' .*: missing file"): truth_of(cohort, 'a', (6, 8))


# Maps of a cohort

geo = Geometry(6, 8, 16)

def test_score_maps_joins_by_id_and_skips_images_without_regions(cohort):
    maps = np.random.default_rng(0).random((3, 4, 4))
    forth, back = score_maps(maps, list('abc'), [geo]*3, cohort), score_maps(maps[::-1], list('cba'), [geo]*3, cohort)
    assert list(forth.image_id) == ['a', 'b']
    pd.testing.assert_frame_equal(forth, back.sort_values('image_id', ignore_index=True))

def test_score_maps_is_score_image_on_original_pixels(cohort):
    c, m = Convention(interpolation='nearest', tau=.7, truth='box'), np.random.default_rng(1).random((4, 4))
    row = score_maps(m[None], ['a'], [geo], cohort, c).iloc[0]
    twin = score_image(geo.map_to_original(m, 'nearest'), *truth_of(cohort, 'a', (6, 8), 'box'), c)
    assert row.drop('image_id').to_dict() == pytest.approx(twin)

def test_padding_cannot_change_a_score(cohort):
    quiet = np.random.default_rng(2).random((16, 16))                       # one patch per pixel of the square
    loud = np.where(geo.inside, quiet, 99)
    c = Convention(interpolation='nearest')
    pd.testing.assert_frame_equal(score_maps(quiet[None], ['a'], [geo], cohort, c), score_maps(loud[None], ['a'], [geo], cohort, c))

def test_score_maps_without_any_region(cohort):
    s = score_maps(np.ones((1, 4, 4)), ['c'], [geo], cohort)
    assert len(s) == 0 and list(s) == ['image_id', 'pixel_auroc', 'iou', 'fpr', 'n_boxes']

def test_score_maps_refuses(cohort):
    maps = np.ones((2, 4, 4))
    with pytest.raises(ValueError, match='2 maps, 1 image_ids'): score_maps(maps, ['a'], [geo]*2, cohort)
    with pytest.raises(ValueError, match="'a' has several maps"): score_maps(maps, ['a', 'a'], [geo]*2, cohort)
    maps[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="map of image 'b'"): score_maps(maps, ['a', 'b'], [geo]*2, cohort)


# Chance levels

def test_trivial_maps():
    wide, small = Geometry(50, 200, 112), Geometry(40, 40, 112)
    n = trivial_maps('noise', [wide]*3, g=7, seed=1)
    assert n.shape == (3, 7, 7) and n.dtype == np.float32 and not (n[0] == n[1]).any()
    np.testing.assert_array_equal(n, trivial_maps('noise', [small]*3, g=7, seed=1))
    assert (n != trivial_maps('noise', [wide]*3, g=7, seed=2)).any()
    with pytest.raises(ValueError, match="'edge'"): trivial_maps('edge', [wide])

@pytest.mark.parametrize('h,w', [(50, 200), (200, 50), (120, 120)])
def test_centre_is_a_gaussian_of_the_original_image(h, w):
    geo = Geometry(h, w, 224)
    m = geo.map_to_original(trivial_maps('centre', [geo], g=56)[0])
    y, x = (np.arange(h)+.5)/h, (np.arange(w)+.5)/w
    np.testing.assert_allclose(m, np.exp(-((y[:, None]-.5)**2 + (x-.5)**2)/(2*.25**2)), atol=.02)

def test_show_localization_draws_all_boxes():
    ax = show_localization(np.zeros((6, 8)), np.ones((6, 8)), [[0, 0, 2, 2], [3, 3, 5, 5]], [[1, 1, 4, 4]], np.eye(6, 8) > 0)
    assert [p.get_edgecolor()[:3] for p in ax.patches].count((0, 1, 0)) == 2 and len(ax.patches) == 3
