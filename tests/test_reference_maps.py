"mmpkd.reference_maps: scores are those of the maps, and thresholds come from validation images"
import numpy as np, pandas as pd, pytest
import torch
from conftest import TINY, altered, boxed
from PIL import Image

from mmpkd.attention import attention_maps
from mmpkd.convention import CONVENTIONS, Convention
from mmpkd.settings import make_config
from mmpkd.experiment import run_experiment
from mmpkd.images import Geometry, Pixels, cache_pixels
from mmpkd.localization import fill_boxes
from mmpkd.reference_maps import (CEILING, Localizer, REFERENCE_MAPS, TRIVIAL, mean_roi, reference_localizers,
                                  score_localizer, student_localizer, trivial_maps)
from mmpkd.scoring import GRID, score_maps, truth_of, tune_tau
from mmpkd.student import Student

SMALL = dict(weights='none', arch_kwargs=TINY['arch_kwargs'])


@pytest.fixture(scope='module')
def pixels(tiny_run): return Pixels(next((tiny_run.folder/'pixels').glob('pixels-*')))

@pytest.fixture(scope='module')
def student(tiny_run): return Student.load(tiny_run.run_folder('baseline', 0))

@pytest.fixture(scope='module')
def localizers(phantom, pixels): return reference_localizers(phantom, pixels, **SMALL)

def maps_of(student, pixels, cohort, split, label=None, **how):
    m = attention_maps(student, pixels, cohort.split(split).items.image_id, target=label, **how)
    return m.maps, m.image_ids, m.geometries

def equal(a, b): pd.testing.assert_frame_equal(a, b, check_exact=True)


# Maps that have understood nothing

SHAPES, ROIS = [(9, 12), (10, 7), (300, 20), (11, 11)], [(0, (2, 3, 8, 7)), (1, (1, 1, 5, 8)), (2, (4, 90, 11, 160)),
                                                         (3, (4, 4, 9, 9)), (3, (0, 0, 2, 2))]

def save(path, mask): Image.fromarray(np.asarray(mask, np.uint8)*255).save(path)

def test_trivial_maps():
    wide, small = Geometry(50, 200, 112), Geometry(40, 40, 112)
    n = trivial_maps('noise', [wide]*3, g=7, seed=1)
    assert n.shape == (3, 7, 7) and n.dtype == np.float32 and not (n[0] == n[1]).any()
    np.testing.assert_array_equal(n, trivial_maps('noise', [small]*3, g=7, seed=1))
    assert (n != trivial_maps('noise', [wide]*3, g=7, seed=2)).any()
    with pytest.raises(ValueError, match="'edge'"): trivial_maps('edge', [wide])
    with pytest.raises(ValueError, match='training images'): trivial_maps('mean-roi', [wide])
    with pytest.raises(ValueError, match='needs pixels'): trivial_maps('body', [wide])

@pytest.mark.parametrize('h,w', [(50, 200), (200, 50), (120, 120)])
def test_centre_is_a_gaussian_of_the_original_image(h, w):
    geo = Geometry(h, w, 224)
    m = geo.map_to_original(trivial_maps('centre', [geo], g=56)[0])
    y, x = (np.arange(h)+.5)/h, (np.arange(w)+.5)/w
    np.testing.assert_allclose(m, np.exp(-((y[:, None]-.5)**2 + (x-.5)**2)/(2*.25**2)), atol=.02)

def test_the_whole_image_is_its_box():
    cohort, ids, geometries = boxed(SHAPES, ROIS)
    maps = trivial_maps('whole', geometries)
    assert (score_maps(maps, ids, geometries, cohort).n_boxes == 0).all()          # a network's constant map has none
    for c in (Convention(), Convention(rule='otsu', min_area=.5), Convention(rule='mass', interpolation='nearest')):
        s = score_maps(maps, ids, geometries, cohort, c, whole=True)
        share = [truth_of(cohort, i, (g.h, g.w))[0].mean() for i, g in zip(ids, geometries)]
        assert (s.n_boxes == 1).all() and (s.pixel_auroc == .5).all() and (s.shuffled_auroc == .5).all()
        for m in ('hit', 'mass', 'auprc'): np.testing.assert_allclose(s[m], share)
        np.testing.assert_allclose(s.fpr, 1 - np.array(share))
        assert s.iou[0] == pytest.approx(6*4/(9*12))

def test_mean_roi_knows_training_images_only(tmp_path):
    shapes, rois = [(20, 40), (60, 30), (50, 50)], [(0, (10, 5, 20, 10)), (1, (15, 30, 30, 60)), (2, (0, 0, 50, 50))]
    cohort, ids, geometries = boxed(shapes, rois, ['train', 'train', 'test'])
    cohort.root = tmp_path
    cohort.items['image'] = cohort.items.image + '.png'
    for i, shape in zip(ids, shapes): save(tmp_path/f'{i}.png', np.random.default_rng(0).random(shape) < .5)
    grid = mean_roi(cohort)
    at = lambda y, x: grid[int(y*GRID), int(x*GRID)]
    assert at(.4, .4) == at(.75, .75) == .5 and at(.1, .1) == at(.9, .4) == 0
    np.testing.assert_allclose(grid.sum()/GRID**2, (.25*.25 + .5*.5)/2)
    pixels = cache_pixels(cohort, 32, tmp_path/'pixels', n_jobs=1)
    np.testing.assert_array_equal(mean_roi(cohort, pixels), grid)
    maps = trivial_maps('mean-roi', geometries, cohort=cohort, pixels=pixels)
    cohort.rois.loc[2, ['x0', 'y0', 'x1', 'y1']] = [1., 1., 2., 2.]
    np.testing.assert_array_equal(trivial_maps('mean-roi', geometries, cohort=cohort, pixels=pixels), maps)
    with pytest.raises(ValueError, match='no training image has a region'): mean_roi(boxed(shapes, rois)[0])

def test_body_is_what_is_bright(tmp_path):
    cohort, ids, _ = boxed([(64, 32)]*2, [(0, (1, 1, 2, 2))])
    cohort.root, cohort.items['image'] = tmp_path, cohort.items.image + '.png'
    a = np.zeros((64, 32)); a[16:48, 8:24] = 1
    for i in ids: save(tmp_path/f'{i}.png', a)
    pixels = cache_pixels(cohort, 64, tmp_path/'pixels', n_jobs=1)
    maps = trivial_maps('body', [pixels.geometry(i) for i in ids], g=8, pixels=pixels, image_ids=ids)
    want = np.zeros((8, 8)); want[2:6, 3:5] = 1
    np.testing.assert_allclose(maps, [want]*2, atol=1e-6)

def test_centre_bias_is_taken_out():
    "Lesions around the middle, images of many shapes: a centred Gaussian scores well until it meets other lesions"
    rng = np.random.default_rng(0)
    shapes = [tuple(map(int, rng.integers(40, 90, 2))) for _ in range(80)]
    rois = []
    for k, (h, w) in enumerate(shapes):
        cy, cx, r = rng.normal(.5, .1), rng.normal(.5, .1), .06
        rois.append((k, ((cx-r)*w, (cy-r)*h, (cx+r)*w, (cy+r)*h)))
    cohort, ids, geometries = boxed(shapes, rois)
    s = score_maps(trivial_maps('centre', geometries), ids, geometries, cohort)
    assert s.pixel_auroc.mean() > .9 and abs(s.shuffled_auroc.mean() - .5) < .08


# Looking and scoring

def test_scores_are_those_of_the_maps(student, pixels, phantom):
    "Several conventions at once, in any order, as one by one"
    conventions = [Convention(rule='otsu'), Convention(layer=0), Convention(method='rollout'), Convention(),
                   Convention(layer=0, truth='box')]
    scored = score_localizer(student_localizer(student, pixels, phantom), phantom, conventions)
    assert list(scored) == conventions
    for c, t in scored.items():
        by_hand = score_maps(*maps_of(student, pixels, phantom, 'test', **c.maps_args()), phantom.split('test'), c)
        equal(t, by_hand)
        assert t.attrs['convention'] == c.to_dict() and t.attrs['pooled_auroc'] == by_hand.attrs['pooled_auroc']

def test_maps_are_made_once(student, pixels, phantom):
    "For each way of reading them, however many conventions; validation images only where something is tuned"
    asked, true = [], student_localizer(student, pixels, phantom)
    def maps_of(split, label, **how): asked.append((split, how['layer'])); return true.maps_of(split, label, **how)
    score_localizer(Localizer(maps_of), phantom, [Convention(), Convention(layer=0), Convention(rule='otsu'),
                                               Convention(layer=0, rule='mean')])
    assert sorted(asked) == [('test', -1), ('test', 0)]
    asked.clear()
    score_localizer(Localizer(maps_of), phantom, [Convention(rule='tuned'), Convention()])
    assert sorted(asked) == [('test', -1), ('valid', -1)]

def test_one_pass_for_all_that_need_no_gradient(student, pixels, phantom):
    "With all conventions: one pass to tune, one for attention and rollout, one in smaller batches with gradients"
    def batches(split, size): return -(-len(phantom.split(split))//size)
    passes = []
    hook = student.model.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    score_localizer(student_localizer(student, pixels, phantom), phantom, CONVENTIONS)
    hook.remove()
    assert len(passes) == batches('valid', 64) + batches('test', 64) + 2*batches('test', 16)
    assert sum(passes) == len(phantom.split('valid')) + 3*len(phantom.split('test'))

@pytest.mark.parametrize('who', ['student', 'centre', 'mean-roi'])
def test_tuned_on_validation_images(who, student, pixels, phantom, localizers):
    c, valid = Convention(rule='tuned'), phantom.split('valid')
    localizer = student_localizer(student, pixels, phantom) if who == 'student' else localizers[who]
    v, t = (localizer.maps_of(s, None, **c.maps_args()) for s in ('valid', 'test'))
    tau = tune_tau(v.maps, v.image_ids, v.geometries, valid, c)
    scored = score_localizer(localizer, phantom, [c])[c]
    assert scored.attrs['convention'] == c.tuned(tau).to_dict()
    equal(scored, score_maps(t.maps, t.image_ids, t.geometries, phantom.split('test'), c.tuned(tau)))

@pytest.mark.parametrize('kind', TRIVIAL)
def test_trivial_maps_are_made_once(kind, phantom, localizers):
    "For all conventions together, whatever maps these are for; the scores are those of each alone"
    asked, true = [], localizers[kind]
    def maps_of(split, label, **how): asked.append(split); return true.maps_of(split, label, **how)
    scored = score_localizer(Localizer(maps_of, kind), phantom, CONVENTIONS)
    assert sorted(asked) == ['test', 'valid'] and list(scored) == list(CONVENTIONS)
    for c in CONVENTIONS[::4]:
        alone = score_localizer(true, phantom, [c])[c]
        equal(scored[c], alone)
        assert scored[c].attrs == alone.attrs

def test_a_given_tau_is_not_tuned(student, pixels, phantom):
    c = Convention(rule='tuned', tau=.35)
    assert score_localizer(student_localizer(student, pixels, phantom), phantom,
                           [c])[c].attrs['convention']['tau'] == .35

def test_nothing_to_tune_on(student, pixels, phantom):
    none = altered(phantom, rois=phantom.rois[phantom.rois.image_id.isin(phantom.split('test').items.image_id)])
    with pytest.raises(ValueError, match='no region of interest|nothing to choose tau by'):
        score_localizer(student_localizer(student, pixels, none), none, [Convention(rule='tuned')])

@pytest.mark.parametrize('method', ['attention', 'gradient'])
def test_one_label_at_a_time(method, student, pixels, phantom):
    c, test = Convention(method=method, classes='each'), phantom.split('test')
    scored = score_localizer(student_localizer(student, pixels, phantom), phantom, [c])[c]
    assert set(zip(scored.image_id, scored.label)) == set(zip(test.rois.image_id, test.rois.label))
    assert len(scored) == len(test.rois.drop_duplicates(['image_id', 'label']))
    pooled = []
    for label, t in scored.groupby('label'):
        by_hand = score_maps(*maps_of(student, pixels, phantom, 'test', label, **c.maps_args()), test, c, label)
        equal(t.drop(columns='label').reset_index(drop=True), by_hand)
        pooled.append(by_hand.attrs['pooled_auroc'])
    assert scored.attrs['pooled_auroc'] == pytest.approx(np.mean(pooled)) and scored.attrs['label'] is None
    assert scored.attrs['taus'] == dict.fromkeys([k for k in phantom.labels if k in set(test.rois.label)], .5)

def test_without_test_regions(localizers, phantom):
    none = altered(phantom, rois=phantom.rois[~phantom.rois.image_id.isin(phantom.split('test').items.image_id)])
    with pytest.raises(ValueError, match='no test image has a region of interest'):
        score_localizer(localizers['centre'], none, [Convention()])

def test_a_label_without_regions_is_passed_over(student, pixels, phantom):
    gone = phantom.labels[0]
    some = altered(phantom, rois=phantom.rois[phantom.rois.label != gone])
    c = Convention(classes='each')
    assert gone not in set(score_localizer(student_localizer(student, pixels, some), some, [c])[c].label)


# What learned nothing

def test_all_of_them(localizers, phantom, pixels):
    assert list(localizers) == [*TRIVIAL, 'untrained', *CEILING] and set(localizers) < set(REFERENCE_MAPS)
    assert 'imagenet' in REFERENCE_MAPS
    assert all(l.trivial == (k if k in TRIVIAL | CEILING else None) for k, l in localizers.items())
    for k, l in localizers.items():
        m = l.maps_of('test', None, **Convention().maps_args())
        assert m.image_ids == phantom.split('test').items.image_id.tolist(), k
        assert m.maps.shape == (len(m.image_ids), 4, 4) and np.isfinite(m.maps).all(), k
    whole = score_localizer(localizers['whole'], phantom, [Convention()])[Convention()]
    assert (whole.n_boxes == 1).all() and (whole.pixel_auroc == .5).all() and (whole.iou > 0).all()

def test_the_perfect_box_is_that_of_the_lesion(localizers, phantom):
    "Its IoU is 1; its FPR is the part outside the outline, and 0 for filled boxes; rule and tau do nothing"
    outline, filled = Convention(rule='tuned', min_area=.9), Convention(truth='box')
    scored, test = score_localizer(localizers['perfect'], phantom, [outline, filled]), phantom.split('test')
    m = localizers['centre'].maps_of('test', None)
    shapes = {k: (g.h, g.w) for k, g in zip(m.image_ids, m.geometries)}
    assert (scored[filled].fpr == 0).all() and (scored[filled].pixel_auroc == 1).all()
    for row in scored[outline].itertuples():
        mask, boxes = truth_of(test, row.image_id, shapes[row.image_id])
        assert (row.iou, row.n_boxes) == (1, len(boxes))
        assert row.fpr == pytest.approx(1 - mask[fill_boxes(boxes, mask.shape)].mean())
    assert .05 < scored[outline].fpr.mean() < .6                            # the floor is not 0

def test_the_perfect_box_of_one_label(localizers, phantom):
    c, test = Convention(classes='each'), phantom.split('test')
    for (label, image_id), t in score_localizer(localizers['perfect'], phantom, [c])[c].groupby(['label', 'image_id']):
        own = (test.rois.label == label) & (test.rois.image_id == image_id)
        assert (t.n_boxes == own.sum()).all() and (t.iou == 1).all()

def test_maps_are_the_trivial_ones(localizers, phantom, pixels):
    ids = phantom.split('test').items.image_id.tolist()
    geometries = [pixels.geometry(k) for k in ids]
    for kind in TRIVIAL:
        assert np.array_equal(localizers[kind].maps_of('test', None).maps,
                              trivial_maps(kind, geometries, 4, 0, cohort=phantom, pixels=pixels, image_ids=ids)), kind

def test_without_training_regions(phantom, pixels):
    "There is no mean of them, and the rest stays"
    some = altered(phantom, rois=phantom.rois[~phantom.rois.image_id.isin(phantom.split('train').items.image_id)])
    assert list(reference_localizers(some, pixels, **SMALL)) == [k for k in (*TRIVIAL, 'untrained',
                                                                           *CEILING) if k != 'mean-roi']

def test_untrained_is_the_same_each_time(phantom, pixels, localizers):
    "And leaves the random numbers of others alone"
    torch.manual_seed(5)
    first = torch.rand(3)
    torch.manual_seed(5)
    again = reference_localizers(phantom, pixels, **SMALL)
    assert torch.equal(torch.rand(3), first)
    how = Convention().maps_args()
    other = reference_localizers(phantom, pixels, **SMALL, seed=1)
    maps = [l['untrained'].maps_of('test', None, **how).maps for l in (localizers, again, other)]
    assert np.array_equal(maps[0], maps[1]) and not np.array_equal(maps[0], maps[2])

def test_a_checkpoint_stands_beside_the_untrained(phantom, pixels, tiny_run, student):
    "Where students start from weights, these alone are a localizer, too"
    given = reference_localizers(phantom, pixels, str(tiny_run.run_folder('baseline', 0)/'student.safetensors'),
                               arch_kwargs=TINY['arch_kwargs'])
    assert list(given) == [*TRIVIAL, 'untrained', 'imagenet', *CEILING]
    how = Convention().maps_args()
    assert np.allclose(given['imagenet'].maps_of('test', None, **how).maps,
                       student_localizer(student, pixels, phantom).maps_of('test', None, **how).maps, atol=1e-6)

def test_a_run_keeps_its_chance_levels(tiny_run, phantom, localizers):
    kept, c = pd.read_parquet(tiny_run.folder/'trivial.parquet'), Convention()
    assert kept.localizer.unique().tolist() == list(localizers) == tiny_run.trivial().arm.tolist()
    for k, l in localizers.items():
        scored = score_localizer(l, phantom, [c])[c]
        mine = kept[kept.localizer == k]
        equal(mine[list(scored)].reset_index(drop=True), scored)
        assert (mine.pooled_auroc == scored.attrs['pooled_auroc']).all()

@pytest.mark.parametrize('fields', [dict(rule='tuned'), dict(classes='each', method='gradcam'),
                                    dict(layer=0, rule='otsu', truth='box', min_area=.01)], ids=str)
def test_a_run_under_another_convention(phantom, tiny, tmp_path, fields):
    "Chosen before the run, it holds for students and trivial localizers alike"
    run = run_experiment(phantom, tmp_path/'run', make_config(**tiny, convention=fields), seeds=1, progress=False)
    used = pd.read_parquet(run.run_folder('baseline', 0)/'scores.parquet').attrs['convention']
    assert {k: used[k] for k in fields} == fields and used == run.config['convention'] | dict(tau=used['tau'])
    assert (used['tau'] is not None) == (fields.get('rule') != 'otsu')
    assert set(run.trivial().arm) == {*TRIVIAL, 'untrained', *CEILING}
    assert run.per_seed()[['pixel_auroc', 'iou']].notna().all(axis=None)

def test_each_label_needs_validation_regions_to_be_tuned(phantom, tiny, tmp_path):
    "Found out before anything is trained; with them, it works"
    convention, valid = dict(rule='tuned', classes='each'), phantom.split('valid')
    [lacking] = set(phantom.split('test').rois.label) - set(valid.rois.label)
    with pytest.raises(ValueError, match=f"each label in the validation split, which has none of '{lacking}'"):
        run_experiment(phantom, tmp_path/'run', make_config(**tiny, convention=convention), seeds=1, progress=False)
    assert not (tmp_path/'run').exists()
    some = altered(phantom, rois=phantom.rois[phantom.rois.label != lacking])
    run = run_experiment(some, tmp_path/'run', make_config(**tiny, convention=convention), seeds=1, progress=False)
    assert set(pd.read_parquet(run.run_folder('baseline', 0)/'scores.parquet').label) == set(valid.rois.label)
