"Corner cases of mmpkd.localization: properties of the metrics, of rules and boxes, and constant maps"
import matplotlib
import numpy as np, pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, roc_auc_score

from mmpkd.convention import Convention
from mmpkd.images import Geometry
from mmpkd.localization import (average_precision, best_iou, box_fpr, empty_patches, energy_inside, fill_boxes,
                                hot_pixels, iou, normalize, otsu, peaks_in_empty_patches, pixel_auroc, pointing_hit,
                                predicted_boxes, saliency_of, score_image, show_localization, shuffled_auroc)

matplotlib.use('Agg')

few = arrays(np.float32, (4, 5), elements=st.integers(0, 6).map(lambda i: i/8))        # many ties
masks = arrays(bool, (4, 5)).filter(lambda m: 0 < m.sum() < m.size)
span = st.tuples(st.integers(0, 19), st.integers(1, 20)).map(lambda t: (t[0], t[0]+t[1]))
box = st.tuples(span, span).map(lambda b: [b[0][0], b[1][0], b[0][1], b[1][1]])
boxes = st.lists(box, min_size=1, max_size=5)


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


# Average precision, shuffled AUROC, pointing, mass

weights = arrays(np.float64, (4, 5), elements=st.integers(0, 3).map(float))

@given(few, masks)
def test_average_precision_is_sklearns(heat, mask):
    assert average_precision(heat, mask) == pytest.approx(average_precision_score(mask.ravel(), heat.ravel()),
                                                          abs=1e-12)

def pairs(heat, mask, weights):
    "The double loop"
    total = won = 0.
    for p in np.argwhere(mask):
        for q in np.argwhere(~mask):
            w = weights[tuple(q)]
            total += w
            won += w*((heat[tuple(p)] > heat[tuple(q)]) + .5*(heat[tuple(p)] == heat[tuple(q)]))
    return won/total if total else np.nan

@given(few, masks, weights)
def test_shuffled_auroc_is_a_double_loop(heat, mask, weights):
    assert shuffled_auroc(heat, mask, weights) == pytest.approx(pairs(heat, mask, weights), abs=1e-9, nan_ok=True)

@given(few, masks)
def test_without_preference_shuffled_is_pixel_auroc(heat, mask):
    assert shuffled_auroc(heat, mask, np.full(mask.shape, .3)) == pytest.approx(pixel_auroc(heat, mask), abs=1e-9)

@given(few, masks, weights)
def test_only_the_order_counts(heat, mask, weights):
    for f in (lambda h: np.exp(5*h.astype(float)), lambda h: h.astype(float)*1e-6 + 3, np.sqrt):
        for score in (pixel_auroc, average_precision, lambda h, m: shuffled_auroc(h, m, weights), pointing_hit):
            assert score(f(heat), mask) == pytest.approx(score(heat, mask), nan_ok=True)

@given(few, masks, weights)
def test_scores_are_in_range(heat, mask, weights):
    s = score_image(heat, mask, [[0, 0, 2, 2]], elsewhere=weights)
    for m in ('pixel_auroc', 'shuffled_auroc', 'auprc', 'iou', 'fpr', 'hit', 'mass'):
        assert np.isnan(s[m]) or 0 <= s[m] <= 1 + 1e-12
    assert s['auprc'] > 0

@given(few, masks, weights, st.sampled_from([Convention(rule=r,
                                                        connectivity=c) for r in ('max', 'mean', 'otsu',
                                                                                  'mass') for c in (4, 8)]))
def test_flips_change_nothing(heat, mask, weights, convention):
    h, w = heat.shape
    true = np.array([[1, 0, 3, 2], [0, 0, 5, 1]])
    across, down = (w - true[:, [2, 1, 0, 3]])*[1, 0, 1, 0] + true*[0, 1, 0,
                                                                    1], (h - true[:,
                                                                                  [0, 3, 2,
                                                                                   1]])*[0, 1, 0, 1] + true*[1, 0, 1, 0]
    s = score_image(heat, mask, true, convention, weights)
    for flip, boxes in ((np.fliplr, across), (np.flipud, down)):
        assert score_image(flip(heat), flip(mask), boxes, convention, flip(weights)) == pytest.approx(s, nan_ok=True)

MAKE = dict(even=lambda r, n: r.random(n), skewed=lambda r, n: r.gamma(.1, size=n),
            artefacts=lambda r, n: np.where(r.random(n) < .001, 1e4, r.random(n)),
            ties=lambda r, n: r.integers(0, 40, n)/7, tiny=lambda r, n: np.r_[np.zeros(n - 9), np.arange(9)*1e-30],
            negative=lambda r, n: r.integers(-5, 9, n))

@pytest.mark.parametrize('make', MAKE.values(), ids=MAKE)
@pytest.mark.parametrize('n', [50, 40_000])
def test_counting_is_exact(make, n):
    "Whatever the heat looks like"
    rng = np.random.default_rng(n)
    heat, mask, w = make(rng, n), rng.random(n) < .2, rng.random(n)*(rng.random(n) < .5)
    assert pixel_auroc(heat, mask) == pytest.approx(roc_auc_score(mask, heat), abs=1e-9)
    assert average_precision(heat, mask) == pytest.approx(average_precision_score(mask, heat), abs=1e-9)
    assert shuffled_auroc(heat, mask, w) == pytest.approx(roc_auc_score(mask, heat, sample_weight=np.where(mask, 1, w)),
                                                          abs=1e-9)

def test_shuffled_edges():
    heat, mask = np.arange(4.), np.array([0, 0, 0, 1], bool)
    assert np.isnan(shuffled_auroc(heat, mask, np.zeros(4))) and np.isnan(shuffled_auroc(heat, mask, mask*3.))
    assert np.isnan(average_precision(heat, np.zeros(4))) and average_precision(heat, np.ones(4)) == 1

def test_pointing_and_mass_by_hand():
    heat, mask = np.array([[3., 3.], [1., 3.]]), np.array([[1, 0], [1, 0]], bool)
    assert pointing_hit(heat, mask) == 1/3 and energy_inside(heat, mask) == .4
    # no heat: a part of the area
    assert energy_inside(np.zeros((2, 2)), mask) == .5 and energy_inside(-heat, mask) == .5
    # negative heat is none
    assert energy_inside(np.array([[1., -9.], [0., 1.]]), mask) == .5


# Rules

RULES = ('max', 'raw-max', 'mean', 'otsu', 'mass')

def brute_otsu(v):
    cost = lambda t: sum(((p - p.mean())**2).sum() for p in (v[v < t], v[v >= t]))
    return {t: cost(t) for t in np.unique(v)[1:]}

@given(arrays(np.float64, 12, elements=st.integers(0, 40).map(float)))
def test_otsu_is_the_best_of_all_cuts(v):
    v, costs = np.sort(v), brute_otsu(np.sort(v))
    assert otsu(v) == np.inf if not costs else costs[otsu(v)] == pytest.approx(min(costs.values()), abs=1e-9)

@given(few.filter(lambda h: h.max() > h.min()), st.sampled_from([.2, .5, .9, 1.]))
def test_mass_is_the_fewest_pixels_that_hold_it(heat, tau):
    hot = hot_pixels(heat, Convention(rule='mass', tau=tau))
    coolest = heat[hot].min()
    assert (hot == (heat >= coolest)).all() and heat[hot].sum() >= tau*heat.sum() - 1e-6
    assert heat[heat > coolest].sum() < tau*heat.sum() + 1e-6

@given(few)
def test_rules_by_definition(heat):
    hot = lambda **c: hot_pixels(heat, Convention(**c))
    if heat.max() == heat.min(): assert not any(hot(rule=r).any() for r in RULES)
    else:
        assert (hot(rule='mean') == (heat > heat.astype(float).mean())).all()
        assert (hot(rule='otsu') == (heat >= otsu(np.sort(heat, axis=None)))).all()
        assert (hot(rule='tuned', tau=.3) == hot(tau=.3)).all()
        assert (hot(rule='raw-max', tau=.3) == (heat >= .3*heat.max())).all()
        for r in RULES:
            assert (hot_pixels(heat, Convention(rule=r), np.sort(heat, axis=None)) == hot(rule=r)).all()
            assert hot(rule=r).any()

def test_a_map_that_is_constant_but_for_rounding_has_no_boxes():
    for rule in RULES:
        assert not len(predicted_boxes(.3 + 1e-8*np.random.default_rng(0).random((5, 5)), Convention(rule=rule)))

def test_two_readings_of_half_of_the_maximum():
    "They agree where the minimum is 0. Warmth everywhere moves one of them; nothing moves the other"
    heat = np.array([[0, 1, 2], [3, 6, 9]], float)
    scaled, raw = Convention(), Convention(rule='raw-max')
    assert raw.tau == .5 and (hot_pixels(heat, scaled) == hot_pixels(heat, raw)).all()
    assert (hot_pixels(heat + 7, scaled) == hot_pixels(heat, scaled)).all()
    assert (hot_pixels(heat + 7, raw) == (heat + 7 >= 8)).all() and hot_pixels(heat + 7, raw).sum() == 5
    assert not hot_pixels(heat - 10, raw).any()                             # no pixel has any heat

@given(few, st.sampled_from([0., .1, .3, .9]))
def test_min_area_drops_small_boxes_only(heat, share):
    every, kept = predicted_boxes(heat), predicted_boxes(heat, Convention(min_area=share))
    area = (every[:, 2:] - every[:, :2]).prod(1)
    np.testing.assert_array_equal(kept, every[area >= share*20])

@given(few, st.sampled_from(['max', 'mean', 'otsu', 'mass']))
def test_eight_neighbours_never_make_more_boxes(heat, rule):
    assert len(predicted_boxes(heat, Convention(rule=rule,
                                                connectivity=8))) <= len(predicted_boxes(heat, Convention(rule=rule)))


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
    def drawn(p, q): return fill_boxes([p], shape), fill_boxes([q], shape)
    def by_pixels(p, q): return np.logical_and(*drawn(p, q)).sum()/np.logical_or(*drawn(p, q)).sum()
    painted = [[by_pixels(p, q) for q in b] for p in a]
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


# Plateaus

geo = Geometry(6, 8, 16)

def test_plateaus_have_no_hottest_pixel():
    "Interpolation leaves rounding errors, and they must not play the pointing game"
    m = np.zeros((14, 14)); m[3:9, 2:7] = .7
    heat = saliency_of(m, Geometry(331, 287, 224))
    assert (heat == heat.max()).sum() > 5000
    assert np.allclose(heat, Geometry(331, 287, 224).map_to_original(m), rtol=1e-5)
    assert len(np.unique(saliency_of(np.full((14, 14), .3), Geometry(331, 287, 224)))) == 1


# Constant maps: what is decided after the interpolation is decided by rounding errors

def rounded_alone(m, geometry, interpolation):
    "Heat as version 0.2 made it: interpolated as it is, and rounded afterwards"
    heat = geometry.map_to_original(m, interpolation)
    bits = heat.view(np.int32)
    bits += 32
    bits &= -64
    return heat

def constants(n=250):
    rng = np.random.default_rng(0)
    return [(c, Geometry(h, w, 224)) for c, (h, w) in zip(rng.random(n), rng.integers(20, 300, (n, 2)).tolist())]

def test_constant_maps_had_boxes():
    "Else the next test shows nothing: about one in 25, and up to hundreds of boxes"
    boxes = [len(predicted_boxes(rounded_alone(np.full((14, 14), c), geo, 'bilinear'))) for c, geo in constants()]
    assert .01 < np.mean(np.array(boxes) > 0) < .1 and max(boxes) > 50

@pytest.mark.parametrize('interpolation', ['bilinear', 'nearest'])
def test_a_constant_map_has_no_box_at_any_size(interpolation):
    for c, geo in constants():
        heat = saliency_of(np.full((14, 14), c), geo, interpolation)
        assert heat.shape == (geo.h, geo.w) and heat.dtype == np.float32 and heat.min() == heat.max() == np.float32(c)
        assert not len(predicted_boxes(heat))

@pytest.mark.parametrize('interpolation', ['bilinear', 'nearest'])
@pytest.mark.parametrize('c', [0., .1, -.3, 1e-12, 3e7])
def test_what_counts_as_constant(c, interpolation):
    "Whatever the height, but for the rounding errors of a network, and whatever the padding holds"
    rng = np.random.default_rng(1)
    wobble, padded, geo = c*(1 + 1e-7*rng.standard_normal((14, 14))), np.full((14, 14), c), Geometry(60, 240, 224)
    padded[[0, 1, -2, -1]] = 9.
    for m in (np.full((14, 14), c), wobble, padded):
        heat = saliency_of(m, geo, interpolation)
        for rule in RULES: assert not len(predicted_boxes(heat, Convention(rule=rule)))
        assert pixel_auroc(heat, fill_boxes([[10, 10, 90, 40]], (60, 240))) == .5

@pytest.mark.parametrize('contrast', [1., 1e-2, 1e-4, 1e-5])
@pytest.mark.parametrize('height', [.003, .7])
def test_small_contrast_keeps_its_order(contrast, height):
    pattern, square = np.random.default_rng(3).random((14, 14)), Geometry(150, 200, 224)
    mask = fill_boxes([[40, 60, 90, 110]], (150, 200))
    want = pixel_auroc(saliency_of(pattern, square), mask)
    faint = height*(1 + contrast*pattern)
    assert pixel_auroc(saliency_of(faint, square), mask) == pytest.approx(want, abs=1e-3)
    # as it was
    if contrast == 1e-5: assert abs(pixel_auroc(rounded_alone(faint, square, 'bilinear'), mask) - want) > .01

@given(st.floats(.01, .99), st.floats(1.01, 90.), st.sampled_from(['bilinear', 'nearest']))
def test_a_plateau_of_any_height_stays_whole(lo, times, interpolation):
    "Not only the minimum: rounding errors must not choose among the pixels of the hottest patches, either"
    square, spot = Geometry(93, 71, 112), np.zeros((14, 14))
    spot[4:8, 5:9] = 1
    inner = square.map_to_original(spot, interpolation) > 1 - 1e-7
    heat = saliency_of(np.where(spot > 0, lo*times, lo), square, interpolation)
    assert inner.sum() > 200 and len(np.unique(heat[inner])) == 1 and heat[inner].min() == heat.max()


# Pictures

def test_show_localization_draws_all_boxes():
    ax = show_localization(np.zeros((6, 8)), np.ones((6, 8)), [[0, 0, 2, 2], [3, 3, 5, 5]], [[1, 1, 4, 4]],
                           np.eye(6, 8) > 0)
    assert [p.get_edgecolor()[:3] for p in ax.patches].count((0, 1, 0)) == 2 and len(ax.patches) == 3


# Maps that peak where there is nothing to see, and boxes that do not

shapes = st.tuples(st.integers(1, 400), st.integers(1, 400)) | st.sampled_from([(1, 5000), (5000, 1), (1, 1), (2, 999),
                                                                                (224, 223)])

@given(shapes, st.sampled_from([(32, 4), (48, 6), (64, 8), (224, 14)]))
def test_empty_patches_are_those_the_square_shows(shape, sizes):
    "Against the square itself, pixel by pixel"
    (h, w), (size, g) = shape, sizes
    geometry = Geometry(h, w, size)
    shown = geometry.inside.reshape(g, size//g, g, size//g).mean((1, 3))
    corners = np.zeros((g, g), bool)
    corners[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    assert (empty_patches(geometry, g) == ((shown < .5) | corners)).all()

def test_patches_of_one_grey_value_are_empty():
    square = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8)
    square[8:16, 8:16] = 90
    square[16:24, 16:24] = 0
    square[16, 16] = 1                                                      # a single pixel is something
    plain, seen = empty_patches(Geometry(32, 32, 32), 4), empty_patches(Geometry(32, 32, 32), 4, square)
    assert plain.sum() == 4 and (seen != plain).sum() == 1 and seen[1, 1]

def test_one_patch_is_a_corner(): assert empty_patches(Geometry(9, 9, 8), 1).tolist() == [[True]]

def test_peaks_are_counted_image_by_image():
    wide, square = Geometry(10, 40, 32), Geometry(32, 32, 32)
    inside, margin = np.zeros((2, 4, 4))
    inside[2, 1], margin[0, 1] = 1, 1
    flat = np.ones((4, 4))
    p = peaks_in_empty_patches([inside, margin, margin, flat], [square, wide, square, square])
    uniform = [empty_patches(g, 4).mean() for g in (square, wide, square, square)]
    assert p == dict(share=pytest.approx((0 + 1 + 0 + 4/16)/4), uniform=pytest.approx(np.mean(uniform)))
    with pytest.raises(ValueError): peaks_in_empty_patches([inside], [square], [np.zeros((32, 32))]*2)

@given(shapes, st.sampled_from([(32, 4), (64, 8), (224, 14)]), st.integers(0, 2**32 - 1),
       st.sampled_from(['bilinear', 'nearest']),
       st.sampled_from([dict(tau=.5), dict(tau=1.), dict(rule='mean'), dict(rule='otsu'), dict(rule='mass'),
                        dict(connectivity=8)]))
def test_no_box_lies_in_the_margin(shape, sizes, seed, interpolation, how):
    "Wherever the map is hot, also in the margin alone: boxes lie on the image, and the cut is taken on its own pixels"
    (h, w), (size, g), rng = shape, sizes, np.random.default_rng(seed)
    geometry = Geometry(h, w, size)
    m = rng.random((g, g)).astype(np.float32)
    if seed % 2: m[empty_patches(geometry, g)] += 10
    heat = saliency_of(m, geometry, interpolation)
    boxes = predicted_boxes(heat, Convention(**how))
    assert heat.shape == (h, w) and np.isfinite(heat).all()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [w, h]).all() and (boxes[:, :2] < boxes[:, 2:]).all()
    x, y = geometry.to_model(boxes).reshape(-1, 2).T
    (nh, nw), (top, left) = geometry.fitted, geometry.offset
    assert ((x >= left - 1e-6) & (x <= left + nw + 1e-6) & (y >= top - 1e-6) & (y <= top + nh + 1e-6)).all()
    # the maximum of the image, whatever the margin holds
    if len(boxes): assert np.isclose(normalize(heat).max(), 1)
