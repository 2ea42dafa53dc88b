"Corner cases of mmpkd.localization: properties of the metrics, regions on disk, and maps that do not fit"
import json, os, subprocess, sys

import matplotlib
import numpy as np, pandas as pd, pytest
from conftest import boxed
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from mmpkd.cohort import Cohort
from mmpkd.images import Geometry
from mmpkd.localization import (_CHOICES, CONVENTIONS, GRID, TAUS, Convention, PooledAUROC, Regions, average_precision, best_iou, box_fpr, empty_patches, fill_boxes, heat_of,
                                hot_pixels, iou, levels, mass_inside, normalize, otsu, peaks_in_nothing, pixel_auroc, pointing_hit, predicted_boxes, score_conventions, score_image, score_maps,
                                show_localization, shuffled_auroc, truth_of, tune_tau)

matplotlib.use('Agg')

few = arrays(np.float32, (4, 5), elements=st.integers(0, 6).map(lambda i: i/8))        # many ties
masks = arrays(bool, (4, 5)).filter(lambda m: 0 < m.sum() < m.size)
span = st.tuples(st.integers(0, 19), st.integers(1, 20)).map(lambda t: (t[0], t[0]+t[1]))
box = st.tuples(span, span).map(lambda b: [b[0][0], b[1][0], b[0][1], b[1][1]])
boxes = st.lists(box, min_size=1, max_size=5)


# Convention

@pytest.mark.parametrize('bad', [dict(interpolation='cubic'), dict(rule='median'), dict(method='saliency'), dict(layer=1.5), dict(layer=True), dict(heads='min'), dict(heads=-1), dict(artefacts='drop'),
    dict(min_area=1), dict(min_area=-.1), dict(classes='all'), dict(tau=0), dict(tau=1.1), dict(tau=np.nan), dict(tau=.5, rule='mean'), dict(tau=.3, rule='otsu'), dict(connectivity=6), dict(truth='polygon')])
def test_convention_refuses(bad):
    with pytest.raises(ValueError, match=next(iter(bad))): Convention(**bad)

def test_convention_is_a_key_and_json():
    assert {Convention(): 1}[Convention(tau=.5)] == 1
    assert Convention(**json.loads(json.dumps(Convention(connectivity=8).to_dict()))) == Convention(connectivity=8)
    for c in CONVENTIONS: assert Convention(**json.loads(json.dumps(c.to_dict()))) == c and len(c.key) == 10
    with pytest.raises(AttributeError): Convention().tau = .3

def test_equal_conventions_have_equal_keys():
    "However the numbers were given"
    assert Convention(tau=np.float32(.5), layer=np.int64(-1), connectivity=4., min_area=0).key == Convention().key
    assert Convention(tau=1) == Convention(tau=1.) and Convention(tau=1).key == Convention(tau=1.).key
    assert Convention(rule='mean').tau is Convention(rule='otsu', tau=None).tau is None
    assert len({c.key for c in CONVENTIONS}) == len(CONVENTIONS) >= 12 and CONVENTIONS[0] == Convention()

def test_the_key_is_the_same_in_another_process():
    run = 'from mmpkd.localization import Convention; print(Convention(rule="mass", tau=.6).key)'
    assert subprocess.run([sys.executable, '-c', run], env=os.environ | dict(PYTHONHASHSEED='7'), capture_output=True, text=True, check=True).stdout.strip() == Convention(rule='mass', tau=.6).key

@pytest.mark.parametrize('fields,text', [({}, 'default'), (dict(rule='otsu', layer=-2), 'layer -2, rule otsu'), (dict(tau=.25), 'tau 0.25'), (dict(rule='tuned'), 'rule tuned'),
                                         (dict(rule='tuned', tau=.35), 'rule tuned, tau 0.35'), (dict(rule='tuned', tau=.5), 'rule tuned, tau 0.5'), (dict(heads=0), 'heads 0'), (dict(min_area=.01, truth='box'), 'min_area 0.01, truth box')])
def test_convention_in_words(fields, text): assert str(Convention(**fields)) == text

def test_every_rule_has_words():
    words = [Convention(rule=r).cut for r in _CHOICES['rule']]
    assert len(set(words)) == 6 and words[0] == "halfway between the map's minimum and maximum inside the image"
    way = "at 0.35 of the way from the map's minimum to its maximum inside the image"
    assert Convention(tau=.35).cut == way and Convention(rule='tuned', tau=.35).cut == f'{way}, chosen on validation regions'

def test_only_the_rule_that_does_so_cuts_at_a_share_of_the_maximum():
    "The map is scaled from its minimum by all others"
    for rule in _CHOICES['rule']:
        for tau in (None,) if rule in ('mean', 'otsu') else (None, .5, .35):
            assert ("times the map's maximum" in Convention(rule=rule, tau=tau).cut) == (rule == 'raw-max')
    assert 'maximum' in tune_tau.__doc__ and 'minimum' in tune_tau.__doc__

def test_known_keys_stay():
    "Run folders are named by them"
    known = {'9c48493db0': {}, '0896c432e9': dict(tau=.25), 'd68e79515c': dict(rule='mean'), '8aec51aa3f': dict(rule='otsu'),
             'af1886aa9c': dict(rule='mass'), 'f5d8ea47ae': dict(rule='tuned'),
             'ad08e03f00': dict(interpolation='nearest', rule='otsu', truth='box')}
    assert {Convention(**c).key: c for c in known.values()} == known

def test_tuned():
    c = Convention(rule='tuned', layer=-2)
    assert c.tau is None and c.tuned(.3) == Convention(rule='tuned', layer=-2, tau=.3) and c.tuned(.5) != c
    assert Convention(**json.loads(json.dumps(c.to_dict()))) == c
    with pytest.raises(ValueError, match='tuned'): Convention().tuned(.3)
    with pytest.raises(ValueError, match='tau'): c.tuned(2)
    with pytest.raises(ValueError, match='before its tau was chosen'): predicted_boxes(np.eye(3), c)

def test_maps_args():
    assert Convention(heads=1).maps_args() == dict(method='attention', layer=-1, heads=1, artefacts='keep')

def test_methods_are_those_of_attention():
    "Written down twice, since scoring does without torch"
    attention = pytest.importorskip('mmpkd.attention')
    assert (_CHOICES['method'], _CHOICES['artefacts']) == (attention.METHODS, attention.ARTEFACTS)
    run = 'import sys, mmpkd.localization; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', run]).returncode == 0


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
    assert average_precision(heat, mask) == pytest.approx(average_precision_score(mask.ravel(), heat.ravel()), abs=1e-12)

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
    for m in ('pixel_auroc', 'shuffled_auroc', 'auprc', 'iou', 'fpr', 'hit', 'mass'): assert np.isnan(s[m]) or 0 <= s[m] <= 1 + 1e-12
    assert s['auprc'] > 0

@given(few, masks, weights, st.sampled_from([Convention(rule=r, connectivity=c) for r in ('max', 'mean', 'otsu', 'mass') for c in (4, 8)]))
def test_flips_change_nothing(heat, mask, weights, convention):
    h, w = heat.shape
    true = np.array([[1, 0, 3, 2], [0, 0, 5, 1]])
    across, down = (w - true[:, [2, 1, 0, 3]])*[1, 0, 1, 0] + true*[0, 1, 0, 1], (h - true[:, [0, 3, 2, 1]])*[0, 1, 0, 1] + true*[1, 0, 1, 0]
    s = score_image(heat, mask, true, convention, weights)
    for flip, boxes in ((np.fliplr, across), (np.flipud, down)):
        assert score_image(flip(heat), flip(mask), boxes, convention, flip(weights)) == pytest.approx(s, nan_ok=True)

@pytest.mark.parametrize('make', [lambda r, n: r.random(n), lambda r, n: r.gamma(.1, size=n), lambda r, n: np.where(r.random(n) < .001, 1e4, r.random(n)),
                                  lambda r, n: r.integers(0, 40, n)/7, lambda r, n: np.r_[np.zeros(n - 9), np.arange(9)*1e-30], lambda r, n: r.integers(-5, 9, n)],
                         ids=['even', 'skewed', 'artefacts', 'ties', 'tiny', 'negative'])
@pytest.mark.parametrize('n', [50, 40_000])
def test_counting_is_exact(make, n):
    "Whatever the heat looks like"
    rng = np.random.default_rng(n)
    heat, mask, w = make(rng, n), rng.random(n) < .2, rng.random(n)*(rng.random(n) < .5)
    assert pixel_auroc(heat, mask) == pytest.approx(roc_auc_score(mask, heat), abs=1e-9)
    assert average_precision(heat, mask) == pytest.approx(average_precision_score(mask, heat), abs=1e-9)
    assert shuffled_auroc(heat, mask, w) == pytest.approx(roc_auc_score(mask, heat, sample_weight=np.where(mask, 1, w)), abs=1e-9)

def test_shuffled_edges():
    heat, mask = np.arange(4.), np.array([0, 0, 0, 1], bool)
    assert np.isnan(shuffled_auroc(heat, mask, np.zeros(4))) and np.isnan(shuffled_auroc(heat, mask, mask*3.))
    assert np.isnan(average_precision(heat, np.zeros(4))) and average_precision(heat, np.ones(4)) == 1

def test_pointing_and_mass_by_hand():
    heat, mask = np.array([[3., 3.], [1., 3.]]), np.array([[1, 0], [1, 0]], bool)
    assert pointing_hit(heat, mask) == 1/3 and mass_inside(heat, mask) == .4
    assert mass_inside(np.zeros((2, 2)), mask) == .5 and mass_inside(-heat, mask) == .5         # no heat: a part of the area
    assert mass_inside(np.array([[1., -9.], [0., 1.]]), mask) == .5                             # negative heat is none

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
        heats.append(heat_of(m, Geometry(h, w, 112)))
        ms.append(fill_boxes([[20, 30, 55, 70]], (h, w)))
    flat = lambda arrays: np.concatenate([a.ravel() for a in arrays])
    assert pooled(heats, ms) == pytest.approx(roc_auc_score(flat(ms), flat(heats)), abs=1e-6)

def test_pooled_edges():
    assert np.isnan(pooled([np.ones((2, 2))], [np.zeros((2, 2), bool)])) and pooled([np.ones((2, 2))], [np.eye(2, dtype=bool)]) == .5

@given(arrays(np.float32, 30, elements=st.floats(0, 1, width=32)))
def test_levels_keep_the_order(heat):
    k = levels(heat)
    order = np.argsort(heat, kind='stable')
    assert k.min() == 0 and (np.diff(k[order]) >= 0).all()
    assert (levels(heat, 0, 1) <= levels(np.ones(1), 0, 1)).all()


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
        assert (hot(rule='mean') == (heat > heat.astype(float).mean())).all() and (hot(rule='otsu') == (heat >= otsu(np.sort(heat, axis=None)))).all()
        assert (hot(rule='tuned', tau=.3) == hot(tau=.3)).all() and (hot(rule='raw-max', tau=.3) == (heat >= .3*heat.max())).all()
        for r in RULES: assert (hot_pixels(heat, Convention(rule=r), np.sort(heat, axis=None)) == hot(rule=r)).all() and hot(rule=r).any()

def test_a_map_that_is_constant_but_for_rounding_has_no_boxes():
    for rule in RULES: assert not len(predicted_boxes(.3 + 1e-8*np.random.default_rng(0).random((5, 5)), Convention(rule=rule)))

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
    assert len(predicted_boxes(heat, Convention(rule=rule, connectivity=8))) <= len(predicted_boxes(heat, Convention(rule=rule)))


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


def test_truth_of_one_label(cohort):
    mask, boxes = truth_of(cohort, 'b', (6, 8), label='calc')
    assert mask.sum() == 3 and boxes.tolist() == [[2, 1, 4, 3]]
    with pytest.raises(ValueError, match="'a' has no region of interest of 'calc'"): truth_of(cohort, 'a', (6, 8), label='calc')


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
    return np.array([[sum(share_of_cell(m, int((y+.5)/h*GRID), int((x+.5)/w*GRID)) for j, m in enumerate(masks) if j != k) for x in range(w)] for y in range(h)])

SHAPES, ROIS = [(9, 12), (10, 7), (300, 20), (11, 11)], [(0, (2, 3, 8, 7)), (1, (1, 1, 5, 8)), (2, (4, 90, 11, 160)), (3, (4, 4, 9, 9)), (3, (0, 0, 2, 2))]

def test_places_of_others_are_a_double_loop():
    cohort, ids, geometries = boxed(SHAPES, ROIS)
    regions = Regions(cohort, ids, geometries)
    masks = [regions.of(i)[0] for i in ids]
    for k in (0, 1, 3): np.testing.assert_allclose(regions.of(ids[k])[2], slow_elsewhere(masks, k), atol=1e-9)
    np.testing.assert_allclose(regions.grid.sum()/GRID**2, sum(m.mean() for m in masks))       # nothing is lost, however small

def test_shuffled_auroc_of_a_cohort_is_a_double_loop():
    cohort, ids, geometries = boxed(SHAPES, ROIS)
    maps = np.random.default_rng(0).random((4, 6, 6))
    scores, masks = score_maps(maps, ids, geometries, cohort), [truth_of(cohort, i, (g.h, g.w))[0] for i, g in zip(ids, geometries)]
    for k in (0, 1, 3):
        want = pairs(heat_of(maps[k], geometries[k]), masks[k], slow_elsewhere(masks, k))
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
    shapes = [(32, 16), (32, 24), (20, 20), (16, 32)]                             # these lie in the middle of the square
    rois = [(0, (2, 3, 8, 7)), (1, (1, 1, 5, 8)), (2, (4, 9, 11, 16)), (3, (4, 4, 9, 9)), (3, (20, 0, 32, 2))]
    mirrored = [(k, (shapes[k][1] - x1, y0, shapes[k][1] - x0, y1)) for k, (x0, y0, x1, y1) in rois]
    maps = np.random.default_rng(1).random((4, 6, 6))
    a, b = boxed(shapes, rois), boxed(shapes, mirrored)
    pd.testing.assert_frame_equal(score_maps(maps, a[1], a[2], a[0]), score_maps(maps[:, :, ::-1], b[1], b[2], b[0]), rtol=1e-5)


# Maps of a cohort

geo = Geometry(6, 8, 16)
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
    heat, mask = zip(*((geo.map_to_original(m).ravel(), truth_of(cohort, i, (6, 8))[0].ravel()) for i, m in zip('ab', maps)))
    for k in (0, 1):
        assert s.pixel_auroc[k] == pytest.approx(roc_auc_score(mask[k], heat[k]), abs=1e-6)
        assert s.auprc[k] == pytest.approx(average_precision_score(mask[k], heat[k]), abs=1e-6)
    assert s.attrs['pooled_auroc'] == pytest.approx(roc_auc_score(np.concatenate(mask), np.concatenate(heat)), abs=1e-6)

def test_padding_cannot_change_a_score(cohort):
    quiet = np.random.default_rng(2).random((16, 16))                       # one patch per pixel of the square
    loud = np.where(geo.inside, quiet, 99)
    c = Convention(interpolation='nearest')
    pd.testing.assert_frame_equal(score_maps(quiet[None], ['a'], [geo], cohort, c), score_maps(loud[None], ['a'], [geo], cohort, c))

def test_score_maps_without_any_region(cohort):
    s = score_maps(np.ones((1, 4, 4)), ['c'], [geo], cohort)
    assert len(s) == 0 and list(s) == COLUMNS

def test_score_maps_refuses(cohort):
    maps = np.ones((2, 4, 4))
    with pytest.raises(ValueError, match='2 maps, 1 image_ids'): score_maps(maps, ['a'], [geo]*2, cohort)
    with pytest.raises(ValueError, match="'a' has several maps"): score_maps(maps, ['a', 'a'], [geo]*2, cohort)
    with pytest.raises(ValueError, match='which label the maps are for'): score_maps(maps, ['a', 'b'], [geo]*2, cohort, Convention(classes='each'))
    with pytest.raises(ValueError, match="classes='any'"): score_maps(maps, ['a', 'b'], [geo]*2, cohort, label='mass')
    with pytest.raises(ValueError, match="no label 'nodule'"): score_maps(maps, ['a', 'b'], [geo]*2, cohort, Convention(classes='each'), label='nodule')
    with pytest.raises(ValueError, match='before its tau was chosen'): score_maps(maps, ['a', 'b'], [geo]*2, cohort, Convention(rule='tuned'))
    maps[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="map of image 'b'"): score_maps(maps, ['a', 'b'], [geo]*2, cohort)

def test_one_label_at_a_time(cohort):
    maps, each = np.random.default_rng(0).random((2, 4, 4)), Convention(classes='each')
    calc, every = score_maps(maps, ['a', 'b'], [geo]*2, cohort, each, label='calc'), score_maps(maps, ['a', 'b'], [geo]*2, cohort)
    assert list(calc.image_id) == ['b'] and calc.attrs['label'] == 'calc' and len(every) == 2
    assert calc.pixel_auroc[0] == pytest.approx(pixel_auroc(heat_of(maps[1], geo), truth_of(cohort, 'b', (6, 8), label='calc')[0]))
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
    assert Convention(**back.attrs['convention']) == Convention(rule='otsu') and back.attrs['pooled_auroc'] == s.attrs['pooled_auroc']

def test_plateaus_have_no_hottest_pixel():
    "Interpolation leaves rounding errors, and they must not play the pointing game"
    m = np.zeros((14, 14)); m[3:9, 2:7] = .7
    heat = heat_of(m, Geometry(331, 287, 224))
    assert (heat == heat.max()).sum() > 5000 and np.allclose(heat, Geometry(331, 287, 224).map_to_original(m), rtol=1e-5)
    assert len(np.unique(heat_of(np.full((14, 14), .3), Geometry(331, 287, 224)))) == 1


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
        heat = heat_of(np.full((14, 14), c), geo, interpolation)
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
        heat = heat_of(m, geo, interpolation)
        for rule in RULES: assert not len(predicted_boxes(heat, Convention(rule=rule)))
        assert pixel_auroc(heat, fill_boxes([[10, 10, 90, 40]], (60, 240))) == .5

@pytest.mark.parametrize('interpolation', ['bilinear', 'nearest'])
def test_scores_of_a_constant_map(cohort, interpolation):
    for c in np.random.default_rng(2).random(40):
        s = score_maps(np.full((2, 4, 4), c), ['a', 'b'], [geo]*2, cohort, Convention(interpolation=interpolation))
        assert (s.n_boxes == 0).all() and (s.iou == 0).all() and s.fpr.isna().all()
        assert (s.pixel_auroc == .5).all() and s.attrs['pooled_auroc'] == .5

@pytest.mark.parametrize('contrast', [1., 1e-2, 1e-4, 1e-5])
@pytest.mark.parametrize('height', [.003, .7])
def test_small_contrast_keeps_its_order(contrast, height):
    pattern, square = np.random.default_rng(3).random((14, 14)), Geometry(150, 200, 224)
    mask = fill_boxes([[40, 60, 90, 110]], (150, 200))
    want = pixel_auroc(heat_of(pattern, square), mask)
    faint = height*(1 + contrast*pattern)
    assert pixel_auroc(heat_of(faint, square), mask) == pytest.approx(want, abs=1e-3)
    if contrast == 1e-5: assert abs(pixel_auroc(rounded_alone(faint, square, 'bilinear'), mask) - want) > .01 # as it was

@given(st.floats(.01, .99), st.floats(1.01, 90.), st.sampled_from(['bilinear', 'nearest']))
def test_a_plateau_of_any_height_stays_whole(lo, times, interpolation):
    "Not only the minimum: rounding errors must not choose among the pixels of the hottest patches, either"
    square, spot = Geometry(93, 71, 112), np.zeros((14, 14))
    spot[4:8, 5:9] = 1
    inner = square.map_to_original(spot, interpolation) > 1 - 1e-7
    heat = heat_of(np.where(spot > 0, lo*times, lo), square, interpolation)
    assert inner.sum() > 200 and len(np.unique(heat[inner])) == 1 and heat[inner].min() == heat.max()


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
    assert mean[tau] == max(mean.values()) and tau == min(t for t in TAUS if mean[t] == mean[tau]) and mean[tau] > mean[TAUS[0]]

def test_tune_tau_keeps_away_from_test_images():
    cohort, ids, geometries, maps = tuning(['valid']*3 + ['test']*3)
    with pytest.raises(ValueError, match='not be chosen on test images'): tune_tau(maps, ids, geometries, cohort)
    tau = tune_tau(maps[:3], ids[:3], geometries[:3], cohort)
    cohort.rois.loc[3:, ['x0', 'y0', 'x1', 'y1']] = [0., 0., 1., 1.]
    assert tune_tau(maps[:3], ids[:3], geometries[:3], cohort) == tau
    cohort.rois = cohort.rois[3:]
    with pytest.raises(ValueError, match='nothing to choose tau by'): tune_tau(maps[:3], ids[:3], geometries[:3], cohort)


# Pictures

def test_show_localization_draws_all_boxes():
    ax = show_localization(np.zeros((6, 8)), np.ones((6, 8)), [[0, 0, 2, 2], [3, 3, 5, 5]], [[1, 1, 4, 4]], np.eye(6, 8) > 0)
    assert [p.get_edgecolor()[:3] for p in ax.patches].count((0, 1, 0)) == 2 and len(ax.patches) == 3


# Maps that peak where there is nothing to see, and boxes that do not

shapes = st.tuples(st.integers(1, 400), st.integers(1, 400)) | st.sampled_from([(1, 5000), (5000, 1), (1, 1), (2, 999), (224, 223)])

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
    p = peaks_in_nothing([inside, margin, margin, flat], [square, wide, square, square])
    uniform = [empty_patches(g, 4).mean() for g in (square, wide, square, square)]
    assert p == dict(share=pytest.approx((0 + 1 + 0 + 4/16)/4), uniform=pytest.approx(np.mean(uniform)))
    with pytest.raises(ValueError): peaks_in_nothing([inside], [square], [np.zeros((32, 32))]*2)

@given(shapes, st.sampled_from([(32, 4), (64, 8), (224, 14)]), st.integers(0, 2**32 - 1), st.sampled_from(['bilinear', 'nearest']),
       st.sampled_from([dict(tau=.5), dict(tau=1.), dict(rule='mean'), dict(rule='otsu'), dict(rule='mass'), dict(connectivity=8)]))
def test_no_box_lies_in_the_margin(shape, sizes, seed, interpolation, how):
    "Wherever the map is hot, also in the margin alone: boxes lie on the image, and the cut is taken on its own pixels"
    (h, w), (size, g), rng = shape, sizes, np.random.default_rng(seed)
    geometry = Geometry(h, w, size)
    m = rng.random((g, g)).astype(np.float32)
    if seed % 2: m[empty_patches(geometry, g)] += 10
    heat = heat_of(m, geometry, interpolation)
    boxes = predicted_boxes(heat, Convention(**how))
    assert heat.shape == (h, w) and np.isfinite(heat).all()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [w, h]).all() and (boxes[:, :2] < boxes[:, 2:]).all()
    x, y = geometry.to_model(boxes).reshape(-1, 2).T
    (nh, nw), (top, left) = geometry.fitted, geometry.offset
    assert ((x >= left - 1e-6) & (x <= left + nw + 1e-6) & (y >= top - 1e-6) & (y <= top + nh + 1e-6)).all()
    if len(boxes): assert np.isclose(normalize(heat).max(), 1)              # the maximum of the image, whatever the margin holds
