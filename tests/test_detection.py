"Corner cases of mmpkd.detection, and AP as pycocotools computes it"
import contextlib, io

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st

from mmpkd.detection import (average_precision_at, detection_table, detections, froc, iou_accuracy, match, show_froc,
                             true_boxes)
from mmpkd.images import Geometry
from mmpkd.tables import BOX


def boxes_of(rng, n, ids):
    "Boxes of 2 to 12 pixels somewhere in images of 40 pixels"
    corners, sides = rng.integers(0, 28, (n, 2)), rng.integers(2, 13, (n, 2))
    table = pd.DataFrame(np.hstack([corners, corners + sides]), columns=BOX)
    return table.assign(image_id=rng.choice(ids, n), label=rng.choice(['mass', 'cyst'], n))

def example(seed, n=30, k=12):
    "Detections, a part of them near lesions, with scores of few values; lesions; all images"
    rng = np.random.default_rng(seed)
    ids = [f'im{i}' for i in range(8)]
    truth = boxes_of(rng, k, ids)
    near = truth.sample(n//2, replace=True, random_state=seed).copy()
    near[BOX] += rng.integers(-1, 2, (len(near), 1))
    found = pd.concat([near, boxes_of(rng, n - len(near), ids)], ignore_index=True)
    return found.assign(score=rng.permutation(len(found))/len(found)), truth, ids


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('threshold', [.1, .3, .5, .75])
def test_average_precision_is_that_of_pycocotools(seed, threshold):
    coco, evaluation = pytest.importorskip('pycocotools.coco'), pytest.importorskip('pycocotools.cocoeval')
    found, truth, ids = example(seed)
    number = {i: k + 1 for k, i in enumerate(ids)}
    def entry(k, r): return dict(id=k + 1, image_id=number[r.image_id], category_id=1, iscrowd=0,
                                 bbox=[float(r.x0), float(r.y0), float(r.x1 - r.x0), float(r.y1 - r.y0)],
                                 area=float((r.x1 - r.x0)*(r.y1 - r.y0)))
    data = dict(info={}, images=[dict(id=v) for v in number.values()], categories=[dict(id=1, name='lesion')],
                annotations=[entry(k, r) for k, r in enumerate(truth.itertuples())])
    results = [entry(k, r) | dict(score=float(r.score)) for k, r in enumerate(found.itertuples())]
    with contextlib.redirect_stdout(io.StringIO()):
        real = coco.COCO()
        real.dataset = data
        real.createIndex()
        e = evaluation.COCOeval(real, real.loadRes(results), 'bbox')
        e.params.iouThrs, e.params.maxDets = np.array([threshold]), [1, 10, 1000]
        e.evaluate()
        e.accumulate()
    theirs = e.eval['precision'][0, :, 0, 0, -1].mean()
    assert average_precision_at(found, truth, threshold) == pytest.approx(theirs, abs=1e-9)

@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_every_lesion_is_hit_once_and_every_box_counted_once(seed):
    found, truth, ids = example(seed)
    for threshold in (.1, .5):
        t = match(found, truth, threshold)
        hits = t.groupby('image_id').hit.sum()
        assert len(t) == len(found)
        assert (hits <= truth.groupby('image_id').size().reindex(hits.index, fill_value=0)).all()
        curve = froc(found, truth, ids, threshold)
        assert curve.sensitivity.is_monotonic_increasing and curve['false positives'].is_monotonic_increasing
        assert curve.sensitivity.iloc[-1]*len(truth) == pytest.approx(t.hit.sum())
        assert curve['false positives'].iloc[-1]*len(ids) == pytest.approx((~t.hit).sum())

def test_perfect_detections():
    _, truth, ids = example(0)
    found = truth.drop_duplicates(['image_id', *BOX]).assign(score=1.)
    t = detection_table(found, found.drop(columns='score'), ids)
    assert (t[['accuracy', 'AP', 'FROC', 'sensitivity at 1 FP']] == 1).all(axis=None)
    assert t.finding.unique().tolist() == found.label.unique().tolist() and len(t) == 2*3

def test_boxes_of_equal_score_are_one_point():
    found, truth, ids = example(1)
    curve = froc(found.assign(score=.5), truth, ids, .3)
    assert len(curve) == 2

def test_nothing_found_and_nothing_to_find():
    found, truth, ids = example(2)
    nothing = found.iloc[:0]
    assert iou_accuracy(nothing, truth) == 0 and average_precision_at(nothing, truth) == 0
    assert froc(nothing, truth, ids).sensitivity.tolist() == [0]
    assert np.isnan(iou_accuracy(found, truth.iloc[:0])) and np.isnan(average_precision_at(found, truth.iloc[:0]))
    t = detection_table(found.assign(label=None), truth.iloc[:0], ids, (.5,))
    assert t.lesions.tolist() == [0] and t[['accuracy', 'AP', 'FROC']].isna().all(axis=None)

def test_a_second_box_on_a_lesion_is_a_false_positive():
    lesion = pd.DataFrame([('a', 0, 0, 4, 4)], columns=['image_id', *BOX])
    twice = pd.concat([lesion, lesion], ignore_index=True).assign(score=[.4, .9])
    assert match(twice, lesion, .5)[['score', 'hit']].values.tolist() == [[.9, True], [.4, False]]

def test_scores_are_the_highest_heat_times_the_weight():
    m = np.zeros((2, 4, 4))
    m[:, 1, 1], m[0, 3, 3] = .8, .6
    geometries = [Geometry(64, 64, 64)]*2
    one = detections(m, ['a', 'b'], geometries)
    half = detections(m, ['a', 'b'], geometries, weights=[1., .5], label='mass')
    a, b = (t.groupby('image_id').score.max() for t in (one, half))
    assert a['a'] == a['b'] == pytest.approx(.8, abs=.05) and b['b'] == pytest.approx(a['b']/2)
    assert half.label.unique().tolist() == ['mass'] and one.label.isna().all()

def test_constant_maps_have_no_boxes():
    t = detections(np.ones((1, 4, 4)), ['a'], [Geometry(64, 64, 64)])
    assert len(t) == 0 and list(t) == ['image_id', *BOX, 'score', 'label']
    assert len(detections(np.ones((0, 4, 4)), [], [])) == 0

@pytest.mark.parametrize('change,message', [
    (lambda f, t: (f.drop(columns='score'), t), "found has no column 'score'"),
    (lambda f, t: (f, t.drop(columns='x1')), "truth has no column 'x1'"),
    (lambda f, t: (f.assign(image_id='other'), t), "found has boxes of 'other'"),
    (lambda f, t: (f.assign(score=np.nan), t), 'the score of a box of .* is NaN')])
def test_bad_tables_are_named(change, message):
    found, truth, ids = example(3)
    found, truth = change(found, truth)
    with pytest.raises(ValueError, match=message): detection_table(found, truth, ids)

def test_lengths_are_compared():
    with pytest.raises(ValueError, match='2 maps, 1 image_ids and 1 geometries'):
        detections(np.ones((2, 4, 4)), ['a'], [Geometry(8, 8, 8)])
    with pytest.raises(ValueError, match='2 weights for 1 maps'):
        detections(np.ones((1, 4, 4)), ['a'], [Geometry(8, 8, 8)], weights=[1., 2.])

def test_true_boxes_of_a_finding(phantom):
    label = phantom.labels[0]
    t = true_boxes(phantom, label=label)
    assert set(t.label) == {label} and len(t) == (phantom.rois.label == label).sum()
    ids = phantom.split('test').items.image_id
    assert set(true_boxes(phantom, ids).image_id) <= set(ids)

def test_the_picture_names_its_curves():
    found, truth, ids = example(4)
    ax = show_froc({'mine': froc(found, truth, ids, .3), 'theirs': froc(found, truth, ids, .5)})
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ['mine', 'theirs']
