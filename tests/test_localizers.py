"mmpkd.localizers: scores are those of the maps, thresholds come from validation images, and what learned nothing has not looked at test images"
import numpy as np, pandas as pd, pytest
import torch
from conftest import TINY, altered

from mmpkd.attention import attention_maps
from mmpkd.experiment import make_config, run_experiment
from mmpkd.images import Pixels
from mmpkd.localization import TRIVIAL, Convention, score_maps, trivial_maps, tune_tau
from mmpkd.localizers import LOCALIZERS, Localizer, score_localizer, student_localizer, trivial_localizers
from mmpkd.student import Student

SMALL = dict(weights='none', arch_kwargs=TINY['arch_kwargs'])


@pytest.fixture(scope='module')
def pixels(tiny_run): return Pixels(next((tiny_run.folder/'pixels').glob('pixels-*')))

@pytest.fixture(scope='module')
def student(tiny_run): return Student.load(tiny_run.unit('baseline', 0))

@pytest.fixture(scope='module')
def localizers(phantom, pixels): return trivial_localizers(phantom, pixels, **SMALL)

def maps_of(student, pixels, cohort, split, label=None, **how):
    m = attention_maps(student, pixels, cohort.split(split).items.image_id, target=label, **how)
    return m.maps, m.image_ids, m.geometries

def equal(a, b): pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_scores_are_those_of_the_maps(student, pixels, phantom):
    "Several conventions at once, in any order, as one by one"
    conventions = [Convention(rule='otsu'), Convention(layer=0), Convention(method='rollout'), Convention(), Convention(layer=0, truth='box')]
    scored = score_localizer(student_localizer(student, pixels, phantom), phantom, conventions)
    assert list(scored) == conventions
    for c, t in scored.items():
        by_hand = score_maps(*maps_of(student, pixels, phantom, 'test', **c.maps_args()), phantom.split('test'), c)
        equal(t, by_hand)
        assert t.attrs['convention'] == c.to_dict() and t.attrs['pooled_auroc'] == by_hand.attrs['pooled_auroc']

def test_maps_are_made_once(student, pixels, phantom):
    "For each way of reading them, however many conventions; validation images only where something is tuned"
    asked, true = [], student_localizer(student, pixels, phantom)
    def look(split, label, **how): asked.append((split, how['layer'])); return true.look(split, label, **how)
    score_localizer(Localizer(look), phantom, [Convention(), Convention(layer=0), Convention(rule='otsu'), Convention(layer=0, rule='mean')])
    assert sorted(asked) == [('test', -1), ('test', 0)]
    asked.clear()
    score_localizer(Localizer(look), phantom, [Convention(rule='tuned'), Convention()])
    assert sorted(asked) == [('test', -1), ('valid', -1)]

@pytest.mark.parametrize('who', ['student', 'centre', 'mean-roi'])
def test_tuned_on_validation_images(who, student, pixels, phantom, localizers):
    c, valid = Convention(rule='tuned'), phantom.split('valid')
    localizer = student_localizer(student, pixels, phantom) if who == 'student' else localizers[who]
    v, t = (localizer.look(s, None, **c.maps_args()) for s in ('valid', 'test'))
    tau = tune_tau(v.maps, v.image_ids, v.geometries, valid, c)
    scored = score_localizer(localizer, phantom, [c])[c]
    assert scored.attrs['convention'] == c.tuned(tau).to_dict()
    equal(scored, score_maps(t.maps, t.image_ids, t.geometries, phantom.split('test'), c.tuned(tau), trivial=localizer.trivial))

def test_a_given_tau_is_not_tuned(student, pixels, phantom):
    c = Convention(rule='tuned', tau=.35)
    assert score_localizer(student_localizer(student, pixels, phantom), phantom, [c])[c].attrs['convention']['tau'] == .35

def test_nothing_to_tune_on(student, pixels, phantom):
    none = altered(phantom, rois=phantom.rois[phantom.rois.image_id.isin(phantom.split('test').items.image_id)])
    with pytest.raises(ValueError, match='no region of interest|nothing to choose tau by'): score_localizer(student_localizer(student, pixels, none), none, [Convention(rule='tuned')])

@pytest.mark.parametrize('method', ['attention', 'gradient'])
def test_one_label_at_a_time(method, student, pixels, phantom):
    c, test = Convention(method=method, classes='each'), phantom.split('test')
    scored = score_localizer(student_localizer(student, pixels, phantom), phantom, [c])[c]
    assert set(zip(scored.image_id, scored.label)) == set(zip(test.rois.image_id, test.rois.label)) and len(scored) == len(test.rois.drop_duplicates(['image_id', 'label']))
    pooled = []
    for label, t in scored.groupby('label'):
        by_hand = score_maps(*maps_of(student, pixels, phantom, 'test', label, **c.maps_args()), test, c, label)
        equal(t.drop(columns='label').reset_index(drop=True), by_hand)
        pooled.append(by_hand.attrs['pooled_auroc'])
    assert scored.attrs['pooled_auroc'] == pytest.approx(np.mean(pooled)) and scored.attrs['label'] is None

def test_a_label_without_regions_is_passed_over(student, pixels, phantom):
    gone = phantom.labels[0]
    some = altered(phantom, rois=phantom.rois[phantom.rois.label != gone])
    c = Convention(classes='each')
    assert gone not in set(score_localizer(student_localizer(student, pixels, some), some, [c])[c].label)


# What learned nothing

def test_all_of_them(localizers, phantom, pixels):
    assert list(localizers) == [*TRIVIAL, 'untrained'] and set(localizers) < set(LOCALIZERS) and 'imagenet' in LOCALIZERS
    assert all(l.trivial == (k if k in TRIVIAL else None) for k, l in localizers.items())
    for k, l in localizers.items():
        m = l.look('test', None, **Convention().maps_args())
        assert m.image_ids == phantom.split('test').items.image_id.tolist() and m.maps.shape == (len(m.image_ids), 4, 4) and np.isfinite(m.maps).all(), k
    whole = score_localizer(localizers['whole'], phantom, [Convention()])[Convention()]
    assert (whole.n_boxes == 1).all() and (whole.pixel_auroc == .5).all() and (whole.iou > 0).all()

def test_maps_are_the_trivial_ones(localizers, phantom, pixels):
    ids = phantom.split('test').items.image_id.tolist()
    geometries = [pixels.geometry(k) for k in ids]
    for kind in TRIVIAL:
        assert np.array_equal(localizers[kind].look('test', None).maps, trivial_maps(kind, geometries, 4, 0, cohort=phantom, pixels=pixels, image_ids=ids)), kind

def test_without_training_regions(phantom, pixels):
    "There is no mean of them, and the rest stays"
    some = altered(phantom, rois=phantom.rois[~phantom.rois.image_id.isin(phantom.split('train').items.image_id)])
    assert list(trivial_localizers(some, pixels, **SMALL)) == [k for k in (*TRIVIAL, 'untrained') if k != 'mean-roi']

def test_untrained_is_the_same_each_time(phantom, pixels, localizers):
    "And leaves the random numbers of others alone"
    torch.manual_seed(5)
    first = torch.rand(3)
    torch.manual_seed(5)
    again = trivial_localizers(phantom, pixels, **SMALL)
    assert torch.equal(torch.rand(3), first)
    how = Convention().maps_args()
    maps = [l['untrained'].look('test', None, **how).maps for l in (localizers, again, trivial_localizers(phantom, pixels, **SMALL, seed=1))]
    assert np.array_equal(maps[0], maps[1]) and not np.array_equal(maps[0], maps[2])

def test_a_checkpoint_stands_beside_the_untrained(phantom, pixels, tiny_run, student):
    "Where students start from weights, these alone are a localizer, too"
    given = trivial_localizers(phantom, pixels, str(tiny_run.unit('baseline', 0)/'student.safetensors'), arch_kwargs=TINY['arch_kwargs'])
    assert list(given) == [*TRIVIAL, 'untrained', 'imagenet']
    how = Convention().maps_args()
    assert np.allclose(given['imagenet'].look('test', None, **how).maps, student_localizer(student, pixels, phantom).look('test', None, **how).maps, atol=1e-6)

def test_a_run_keeps_its_chance_levels(tiny_run, phantom, localizers):
    kept, c = pd.read_parquet(tiny_run.folder/'trivial.parquet'), Convention()
    assert kept.localizer.unique().tolist() == list(localizers) == tiny_run.trivial().arm.tolist()
    for k, l in localizers.items():
        scored = score_localizer(l, phantom, [c])[c]
        mine = kept[kept.localizer == k]
        equal(mine[list(scored)].reset_index(drop=True), scored)
        assert (mine.pooled_auroc == scored.attrs['pooled_auroc']).all()

@pytest.mark.parametrize('fields', [dict(rule='tuned'), dict(classes='each', method='gradcam'), dict(layer=0, rule='otsu', truth='box', min_area=.01)], ids=str)
def test_a_run_under_another_convention(phantom, tiny, tmp_path, fields):
    "Chosen before the run, it holds for students and trivial localizers alike"
    run = run_experiment(phantom, tmp_path/'run', make_config(**tiny, convention=fields), seeds=1, progress=False)
    used = pd.read_parquet(run.unit('baseline', 0)/'scores.parquet').attrs['convention']
    assert {k: used[k] for k in fields} == fields and used == run.config['convention'] | dict(tau=used['tau'])
    assert (used['tau'] is not None) == (fields.get('rule') != 'otsu')
    assert set(run.trivial().arm) == {*TRIVIAL, 'untrained'} and run.per_seed()[['pixel_auroc', 'iou']].notna().all(axis=None)

def test_each_label_needs_validation_regions_to_be_tuned(phantom, tiny, tmp_path):
    "Found out before anything is trained; with them, it works"
    convention, valid = dict(rule='tuned', classes='each'), phantom.split('valid')
    [lacking] = set(phantom.split('test').rois.label) - set(valid.rois.label)
    with pytest.raises(ValueError, match=f"each label in the validation split, which has none of '{lacking}'"): run_experiment(phantom, tmp_path/'run', make_config(**tiny, convention=convention), seeds=1, progress=False)
    assert not (tmp_path/'run').exists()
    some = altered(phantom, rois=phantom.rois[phantom.rois.label != lacking])
    run = run_experiment(some, tmp_path/'run', make_config(**tiny, convention=convention), seeds=1, progress=False)
    assert set(pd.read_parquet(run.unit('baseline', 0)/'scores.parquet').label) == set(valid.rois.label)
