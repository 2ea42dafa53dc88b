"mmpkd.audit: each finding where it is planted and nowhere else, AUROCs as scikit-learn's, no patient named"
import json, os, shutil, warnings
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from rich.cells import cell_len
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import TargetEncoder

from mmpkd.audit import (IMAGE_FACTS, BOX_LAYOUTS, _COLUMNS, _inspect_all, _pictures_and_boxes, _reason, _split_paths,
                         _wrapped, audit, auroc, box_contrast, column_auroc, column_table, contact_sheet,
                         contrast_maps, is_identifier, inspect_image, inspect_files, inspect_mask, mentions,
                         orientation_findings, orientation_table, scale_findings, sample_with_regions, target_encoding)
from mmpkd.busbra import busbra_cohort
from mmpkd.cbis import cbis_cohort
from mmpkd.tables import BOX, repair_table
from mmpkd.cohort import Cohort
from mmpkd.images import cache_pixels
from mmpkd.image_files import read_image
from mmpkd.mimic import hide_counts

matplotlib.use('Agg')

LABELS = ['nodule', 'pleural_effusion']
N = 120


# A cohort that nothing can be said against

@pytest.fixture(scope='module')
def clean(tmp_path_factory):
    "Tables and files; regions of interest in the test split only"
    root, rng = tmp_path_factory.mktemp('clean'), np.random.default_rng(0)
    ids = [f'im{i:03}' for i in range(N)]
    items = pd.DataFrame(dict(image_id=ids, patient_id=[f'SECRET {i//2}' for i in range(N)],
                              split=['train']*60 + ['valid']*20 + ['test']*40,
                              image=[f'SECRET/{i}.png' for i in ids], nodule=np.arange(N)//2 % 2,
                              pleural_effusion=np.arange(N)//4 % 2,
                              report=[f'QUOKKA {i}' for i in range(N)], size=rng.normal(size=N),
                              grade=rng.integers(0, 4, N), side=rng.choice(['left', 'right'], N)))
    there = [ids[i] for i in (106, 107, 110, 111, *range(114, 120))]
    rois = pd.DataFrame(dict(image_id=there, label=['nodule']*6 + ['pleural_effusion']*2 + ['nodule']*2, x0=2, y0=3,
                             x1=8, y1=9)).assign(mask=[f'SECRET/mask-{i}.png' for i in there])
    (root/'SECRET').mkdir()
    for f in items.image: Image.fromarray(rng.integers(0, 256, (20, 24), np.uint8)).save(root/f)
    mask = np.zeros((20, 24), np.uint8)
    mask[3:9, 2:8] = 255
    for f in rois['mask']: Image.fromarray(mask).save(root/f)
    return SimpleNamespace(items=items, rois=rois, root=root, tabular=['size', 'grade', 'side'], repairs=None)


@pytest.fixture
def case(clean, tmp_path):
    "A copy of it to damage"
    root = shutil.copytree(clean.root, tmp_path/'copy')
    return SimpleNamespace(items=clean.items.copy(), rois=clean.rois.copy(), root=root, tabular=[*clean.tabular],
                           repairs=None)


def cohort_of(c, **kwargs):
    return Cohort(c.items, LABELS, **dict(dict(rois=c.rois, text='report', tabular=c.tabular, root=c.root,
                                               repairs=c.repairs, name='test'), **kwargs))

def names(a): return set(a.findings.name)

def found(a, name):
    rows = a.findings[a.findings.name == name]
    assert len(rows) == 1, f'{name} in {names(a)}'
    return rows.iloc[0]

def column(c, name, values, replace=False):
    c.items[name] = values
    if not replace: c.tabular.append(name)

def save(c, path, a): Image.fromarray(np.asarray(a, np.uint8)).save(c.root/'SECRET'/path)


def test_a_clean_cohort(clean):
    a = audit(cohort_of(clean))
    assert a.ok and names(a) == {'image sizes'} and not len(a.unreadable) and not len(a.repairs)
    assert found(a, 'image sizes').text == 'Images are 24 to 24 pixels wide and 20 to 20 high.'
    assert found(a, 'image sizes')['count'] == N
    assert set(a.columns.column) == {'size', 'grade', 'side', 'report'} and list(a.columns) == _COLUMNS


# Every finding, planted

def truncate(c): f = c.root/'SECRET/im003.png'; f.write_bytes(f.read_bytes()[:150])
def delete(c): (c.root/'SECRET/im005.png').unlink()
def no_image(c): (c.root/'SECRET/im003.png').write_bytes(b'SECRET')
def spoil_mask(c): (c.root/'SECRET/mask-im119.png').write_bytes(b'')
def lost_mask(c): (c.root/'SECRET/mask-im117.png').unlink()
def square_mask(c): save(c, 'mask-im119.png', np.eye(40)*255)
def big_mask(c):
    save(c, 'mask-im119.png', np.kron(np.asarray(Image.open(c.root/'SECRET/mask-im119.png')), np.ones((3, 3))))
def apart(c): big_mask(c); save(c, 'mask-im119.png', np.asarray(Image.open(c.root/'SECRET/mask-im119.png'))[:, ::-1])
def empty_mask(c): save(c, 'mask-im118.png', np.zeros((20, 24)))
def full_mask(c): save(c, 'mask-im118.png', np.full((20, 24), 255))
def black(c): save(c, 'im007.png', np.zeros((20, 24)))
def two_grey(c): [save(c, f, np.full((20, 24), 9)) for f in ('im007.png', 'im111.png')]
def across(c): shutil.copy(c.root/'SECRET/im000.png', c.root/'SECRET/im080.png')
def other_format(c): Image.open(c.root/'SECRET/im000.png').save(c.root/'SECRET/im080.png', format='tiff')
def within(c): shutil.copy(c.root/'SECRET/im000.png', c.root/'SECRET/im001.png')
def contradict(c): shutil.copy(c.root/'SECRET/im000.png', c.root/'SECRET/im002.png')
def wide_box(c): c.rois.loc[9, 'x1'] = 26
def high_box(c): c.rois['y1'] = c.rois.y1.where(c.rois.index < 8, 21.5)
def rounded_box(c): c.rois['y1'] = c.rois.y1.where(c.rois.index < 8, [20.5]*9 + [21])
def capitals(c): c.items.loc[0, 'patient_id'] = ' secret   40'
def roi_in_training(c):
    c.rois = pd.concat([c.rois, c.rois.head(3).assign(image_id=['im002', 'im003', 'im006'])]).drop(columns='mask')
def no_roi(c): c.rois = None
def roi_elsewhere(c): c.rois = c.rois.assign(image_id=['im062', 'im063']*5, label='nodule')
def denied(c): c.items.loc[119, 'nodule'] = 0
def no_valid(c): c.items.loc[c.items.split == 'valid', 'split'] = 'train'
def one_train(c): c.items.loc[c.items.split == 'train', 'nodule'] = 0
def one_valid(c): c.items.loc[c.items.split == 'valid', 'nodule'] = 1
def one_test(c):
    c.items['nodule'] = c.items.nodule.where(c.items.split != 'test', np.where(c.items.index % 2, 0, np.nan))
def few_positive(c):
    c.items['nodule'] = c.items.nodule.where(c.items.split != 'test', (c.items.index > N - 10).astype(int))
def blank_labels(c): c.items['nodule'] = c.items.nodule.astype(float).where(c.items.index >= 6)
def constant(c): column(c, 'ward', 'QUOKKA')
def never_given(c): column(c, 'ward', np.nan)
def constant_report(c): column(c, 'report', 'QUOKKA', replace=True)
def leak(c): column(c, 'biopsy', c.items.nodule.map({0: 'QUOKKA', 1: 'KIWI'}))
def leak_downwards(c): column(c, 'score', -c.items.nodule + np.linspace(0, .5, N))
def leak_in_the_middle(c): column(c, 'code', np.where(c.items.nodule == 1, 1, np.tile([0, 2], N//2)))
def leak_by_absence(c):
    column(c, 'stage', np.where(c.items.pleural_effusion == 1, np.random.default_rng(1).normal(size=N), np.nan))
def leak_by_spaces(c):
    column(c, 'stage', np.where(c.items.pleural_effusion == 1, np.random.default_rng(1).choice(['a', 'b'], N), '  '))
def number(c): column(c, 'number', np.random.default_rng(2).permutation(N) + 1000)
def medical_number(c):
    column(c, 'record', [f'QUOKKA-{i}' for i in np.repeat(np.random.default_rng(2).permutation(N//2), 2)])
def empty_report(c): c.items.loc[[3, 4], 'report'] = ['  ', np.nan]
def named_label(c): c.items.loc[7, 'report'] = 'QUOKKA with pleural\nEFFUSIONS.'
def named_everywhere(c): c.items['report'] = c.items.report + np.where(c.items.nodule == 1, ' nodule', '')
def shared_report(c): c.items.loc[[0, 1], 'report'] = 'QUOKKA'
def contradicting_report(c): c.items.loc[[0, 1], 'report'] = 'QUOKKA'; c.items.loc[0, 'nodule'] = 1
def repaired(c):
    c.repairs = repair_table([('box clipped to the image', 'im000', 'x1 25 -> 24'), ('box clipped to the image',
        'im001', ''), ('report missing', 'im002', '')])

PLANTED = [ # what is done, its finding, how severe, images, count, what else is found on account of it
    (truncate, 'unreadable image', 'error', ['im003'], 1, {}),
    (delete, 'unreadable image', 'error', ['im005'], 1, {}),
    (no_image, 'unreadable image', 'error', ['im003'], 1, {}),
    (spoil_mask, 'unreadable mask', 'error', ['im119'], 1, {}),
    (lost_mask, 'unreadable mask', 'error', ['im117'], 1, {}),
    (square_mask, 'unreadable mask', 'error', ['im119'], 1, {}),
    (apart, 'unreadable mask', 'error', ['im119'], 1, {}),
    (big_mask, 'mask of another size', 'warning', ['im119'], 1, {}),
    (empty_mask, 'unreadable mask', 'error', ['im118'], 1, {}),
    (full_mask, 'full mask', 'warning', ['im118'], 1, {}),
    (black, 'image of one grey value', 'warning', ['im007'], 1, {}),
    (two_grey, 'image of one grey value', 'warning', ['im007', 'im111'], 2, {}),
    (across, 'same picture in two splits', 'error', ['im000', 'im080'], 2, {}),
    (other_format, 'same picture in two splits', 'error', ['im000', 'im080'], 2, {}),
    (within, 'same picture in a split', 'warning', ['im000', 'im001'], 2, {}),
    (contradict, 'same picture, other labels', 'error', ['im000', 'im002'], 2, {'same picture in a split'}),
    (wide_box, 'box outside its image', 'error', ['im119'], 1, {}),
    (high_box, 'box outside its image', 'error', ['im118', 'im119'], 2, {}),
    (rounded_box, 'box clipped to its image', 'note', ['im118', 'im119'], 2, {}),
    (capitals, 'patient in two splits', 'error', ['im000', 'im080', 'im081'], 1, {}),
    (roi_in_training, 'regions in training', 'warning', ['im002', 'im003', 'im006'], 2, {}),
    (denied, 'region of an absent finding', 'warning', ['im119'], 1, {}),
    (no_roi, 'no regions', 'warning', [], 0, {}),
    (roi_elsewhere, 'no region in test', 'error', [], 0, {}),
    (no_valid, 'empty split', 'error', [], 1, {}),
    (one_train, 'one value in train', 'error', [], 1, {}),
    (one_valid, 'one value in valid', 'warning', [], 1, {}),
    (one_test, 'one value in test', 'error', [], 1, {'blank labels', 'region of an absent finding'}),
    (few_positive, 'few positives in test', 'warning', [], 1, {'region of an absent finding'}),
    (blank_labels, 'blank labels', 'note', [f'im00{i}' for i in range(6)], 6, {}),
    (constant, 'constant column', 'warning', [], 1, {}),
    (never_given, 'constant column', 'warning', [], 1, {}),
    (constant_report, 'constant column', 'warning', [], 1, {'report shared by images'}),
    (leak, 'column repeats the label', 'warning', [], 1, {}),
    (leak_downwards, 'column repeats the label', 'warning', [], 1, {}),
    (leak_in_the_middle, 'column repeats the label', 'warning', [], 1, {}),
    (leak_by_absence, 'column repeats the label', 'warning', [], 1, {}),
    (leak_by_spaces, 'column repeats the label', 'warning', [], 1, {}),
    (number, 'column like an identifier', 'warning', [], 1, {}),
    (medical_number, 'column like an identifier', 'warning', [], 1, {}),
    (empty_report, 'report missing', 'warning', ['im003', 'im004'], 2, {}),
    (named_label, 'report names the label', 'warning', ['im007'], 1, {}),
    (named_everywhere, 'column repeats the label', 'warning', [], 1, {'report names the label'}),
    (shared_report, 'report shared by images', 'note', ['im000', 'im001'], 2, {}),
    (contradicting_report, 'same report, other labels', 'warning', ['im000', 'im001'], 2, {'report shared by images'}),
    (repaired, 'repairs', 'note', [], 3, {}),
]

@pytest.mark.parametrize('damage, name, severity, ids, count, also', PLANTED, ids=[p[0].__name__ for p in PLANTED])
def test_what_is_planted_is_found(case, damage, name, severity, ids, count, also):
    "It and nothing else, with its images, in text and JSON; nothing names a patient or quotes a value"
    damage(case)
    a = audit(cohort_of(case))
    assert names(a) == {'image sizes', name, *also}
    f = found(a, name)
    assert (f.severity, f.image_ids, f['count']) == (severity, ids, count)
    assert a.ok == (severity != 'error') == str(a).splitlines()[-1].startswith('ok:')
    assert f'{severity.upper()}: {name} ({count})' in str(a)
    assert name in [x['name'] for x in a.to_dict()['findings']]
    assert f.text.endswith('.') and len(f.text) < 400
    for text in (str(a), a._repr_html_(), json.dumps(a.to_dict())):
        assert not [w for w in ('SECRET', 'QUOKKA', 'KIWI', str(case.root)) if w.lower() in text.lower()]

def test_a_path_outside_the_root(case):
    "The constructor refuses it; a table that was changed afterwards is not followed either"
    outside = case.root.parent/'SECRET.png'
    shutil.copy(case.root/'SECRET/im000.png', outside)
    for path in ('../SECRET.png', str(outside), 'SECRET/../../SECRET.png', r'C:\SECRET.png'):
        for pixels in (True, False):
            c = cohort_of(case)
            c.items.loc[2, 'image'] = path
            a = audit(c, pixels=pixels)
            assert not a.ok and found(a, 'path outside the root').image_ids == ['im002'] and not len(a.unreadable)
            assert 'SECRET' not in str(a) + json.dumps(a.to_dict())
    c = cohort_of(case)
    c.rois.loc[3, 'mask'] = '../SECRET.png'
    assert found(audit(c), 'path outside the root').image_ids == [c.rois.image_id[3]]

def test_all_at_once(case):
    "Forty files spoiled, many columns: a line for each of the first files, within eighty columns"
    for i in range(40): (case.root/f'SECRET/im{i:03}.png').write_bytes(b'SECRET')
    for f in (leak, constant, number, named_label, wide_box, repaired, few_positive): f(case)
    for k in range(60): column(case, f'a column with a rather long name, number {k}', case.items['size'])
    long = {'pleural_effusion': 'a class whose name is much longer than anybody would have thought, for some reason'}
    case.items, case.rois = case.items.rename(columns=long), case.rois.replace({'label': long})
    case.repairs = repair_table([('x'*150, f'im{i:03}', '') for i in range(5)])
    a = audit(Cohort(case.items, ['nodule', case.items.columns[5]], case.rois, 'report', case.tabular, case.root,
                     repairs=case.repairs))
    text = str(a)
    assert max(map(cell_len, text.splitlines())) <= 80
    assert text.count('not an image of a known format') == 20
    assert '… and 20 more' in text
    assert '… and 27 more columns' in text
    assert 'SECRET' not in text and a.unreadable.image_id.tolist() == [f'im{i:03}' for i in range(40)]
    assert len(a.to_dict()['unreadable']) == 40 and len(found(a, 'unreadable image').image_ids) == 40


def test_only_a_denied_region_is_warned_of(case):
    "A blank label denies nothing; with one label, benign lesions are outlined as well"
    case.items = case.items.astype({'nodule': float})
    case.items.loc[118, 'nodule'] = np.nan
    assert names(audit(cohort_of(case))) == {'image sizes', 'blank labels'}
    case.items['nodule'] = case.items.nodule.where(case.items.index < 106, np.arange(N) % 2)
    case.rois['label'] = 'nodule'
    assert found(audit(cohort_of(case)), 'region of an absent finding').image_ids == ['im106', 'im110', 'im114',
        'im116', 'im118']
    assert 'region of an absent finding' not in names(audit(Cohort(case.items, ['nodule'], case.rois, root=case.root)))


# Boxes in other units, or laid out in another way

@pytest.mark.parametrize('pixels', [True, False])
def test_boxes_in_shares_of_the_image(case, pixels):
    "A cohort cannot have them; one box that is thinner than a pixel may be one; a box of exactly one pixel is a box"
    shares = case.rois.assign(x0=0., y0=.25, x1=[.5]*9 + [1.], y1=.75).drop(columns='mask')
    with pytest.raises(ValueError, match='not in shares of the image'): cohort_of(case, rois=shares)
    case.rois = shares.assign(x0=2., y0=3., x1=8., y1=[9.]*8 + [3.9, 4.])
    a = audit(cohort_of(case), pixels=pixels)
    assert not a.ok and found(a, 'box smaller than a pixel').image_ids == ['im118']

def test_a_box_half_a_pixel_outside(case):
    "Up to one pixel is rounding, on any side; more is another image or another unit"
    for x1, name in ((24.5, 'box clipped to its image'), (25., 'box clipped to its image'),
                     (25.1, 'box outside its image')):
        case.rois['x1'] = [8.]*9 + [x1]
        a = audit(cohort_of(case))
        assert names(a) == {'image sizes', name}
        assert a.ok == (name != 'box outside its image')
        assert found(a, name).image_ids == ['im119']

def scene(folder, n=60, h=60, w=80, seed=0, patients=None, lesion=lambda a, rng: a + 90):
    "Images of noise that is brighter at the top left, each with a lesion, and the box around it"
    rng, rows, boxes = np.random.default_rng(seed), [], []
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        a = rng.normal(60, 15, (h, w)) + np.linspace(40, 0, w) + np.linspace(40, 0, h)[:, None]
        x0, y0 = rng.integers(0, w - 16), rng.integers(0, h - 12)
        a[y0:y0+12, x0:x0+16] = lesion(a[y0:y0+12, x0:x0+16], rng)
        Image.fromarray(a.clip(0, 255).astype(np.uint8)).save(folder/f'{i}.png')
        rows.append(dict(image_id=f'i{i}', patient_id=f'p{i % (patients or n)}', split='test', image=f'{i}.png',
                         y=i % 2))
        boxes.append(dict(image_id=f'i{i}', label='y', x0=x0, y0=y0, x1=x0+16, y1=y0+12))
    return Cohort(pd.DataFrame(rows), ['y'], pd.DataFrame(boxes), root=folder)

def other_layout(r, how, h, w): # Four columns
    return {'as given': (r.x0, r.y0, r.x1, r.y1), 'top to bottom': (r.x0, h - r.y1, r.x1, h - r.y0),
            'left to right': (w - r.x1, r.y0, w - r.x0, r.y1),
            'half a turn': (w - r.x1, h - r.y1, w - r.x0, h - r.y0), 'x and y swapped': (r.y0, r.x0, r.y1, r.x1)}[how]

def turned(cohort, how, h=60, w=80):
    r = cohort.rois
    boxes = other_layout(r, how, h, w)
    r = r.assign(**dict(zip(BOX, boxes)))
    return Cohort(cohort.items, cohort.labels, r[(r.x1 <= w) & (r.y1 <= h)], root=cohort.root)

LESIONS = dict(bright=lambda a, rng: a + 60, dark=lambda a, rng: a*.5, smooth=lambda a, rng: np.full_like(a, a.mean()),
               rough=lambda a, rng: a.mean() + rng.choice([-60, 60], a.shape))

@pytest.mark.parametrize('lesion', LESIONS)
@pytest.mark.parametrize('how', BOX_LAYOUTS)
def test_boxes_laid_out_in_another_way(tmp_path, lesion, how):
    "Brighter, darker, smoother or rougher: each mirror image is named, the truth is not doubted; a cache agrees"
    c = turned(scene(tmp_path/'s', lesion=LESIONS[lesion]), how)
    for pixels in (True, cache_pixels(c, 80, tmp_path/'cache')):
        a = audit(c, pixels=pixels)
        if how == 'as given': assert 'boxes may be mirrored' not in names(a)
        else:
            f = found(a, 'boxes may be mirrored')
            assert f.severity == 'warning'
            assert BOX_LAYOUTS[how] in f.text
            assert '(sign test, p ' in f.text
            assert f['count'] >= 20

@pytest.mark.parametrize('n, patients', [(18, None), (80, 19)], ids=['images', 'patients'])
def test_too_few_boxes_say_nothing(tmp_path, n, patients):
    "Patients count, not images"
    c = turned(scene(tmp_path/'s', n, patients=patients), 'top to bottom')
    assert 'boxes may be mirrored' not in names(audit(c))

def test_boxes_on_nothing_say_nothing(tmp_path):
    "Lesions that do not show, in images that are brighter on one side: whichever way the boxes lie"
    c = scene(tmp_path/'s', 100, lesion=lambda a, rng: a)
    for how in BOX_LAYOUTS: assert 'boxes may be mirrored' not in names(audit(turned(c, how)))

def test_anatomy_alone_is_not_enough(tmp_path):
    "Boxes at the dull end of images: mirrored boxes win, but so do those of any other patient"
    c, rng = scene(tmp_path/'s', 80, lesion=lambda a, rng: a), np.random.default_rng(1)
    y0 = rng.integers(34, 46, 80)
    c.rois = c.rois.assign(y0=y0, y1=y0 + 12.)
    for f in c.items.image:
        a = np.asarray(Image.open(c.root/f)).astype(float)
        a[:30] += rng.normal(0, 40, (3, 8)).repeat(10, 0).repeat(10, 1)
        Image.fromarray(a.clip(0, 255).astype(np.uint8)).save(c.root/f)
    images, _ = _inspect_all(c, *_split_paths(c)[:2], 1, sample_with_regions(c))
    t = orientation_table(*_pictures_and_boxes(c, images)).loc['top to bottom']
    assert t.share > .8 and t.p < 1e-6 and t.p_own > .05 and not orientation_findings(c, images)

@pytest.fixture(scope='module')
def busbra(shared_data): return busbra_cohort(shared_data/'BUSBRA')

@pytest.mark.parametrize('how', BOX_LAYOUTS)
def test_busbra_mirrored(busbra, how):
    "Masses in ultrasound are dark and smooth: real ones, in each layout"
    c = busbra.take(busbra.items.image_id[::8])
    size = c.items.set_index('image_id').image.map(lambda f: Image.open(c.root/f).size).reindex(c.rois.image_id)
    w, h = (pd.Series([s[k] for s in size], c.rois.index) for k in (0, 1))
    r = c.rois
    boxes = other_layout(r, how, h, w)
    r = r.assign(**dict(zip(BOX, boxes))).drop(columns='mask')
    c = Cohort(c.items, c.labels, r[(r.x1 <= w) & (r.y1 <= h)], root=c.root)
    images, _ = _inspect_all(c, *_split_paths(c)[:2], 2, sample_with_regions(c))
    f = orientation_findings(c, images)
    assert len(f) == (how != 'as given') and all(BOX_LAYOUTS[how] in x['text'] and 'p < 1e-9' in x['text'] for x in f)

def test_contrast_by_hand():
    "4 x 4 pixels of 8 among 0, in a frame of two pixels: the difference of the means, in standard deviations"
    a = np.zeros((20, 20), np.uint8)
    a[8:12, 8:12] = 8
    grey, edges = contrast_maps(a)
    b = np.array([[8, 8, 12, 12]])
    assert grey.std() == pytest.approx(1, abs=1e-4) == edges.std()
    assert box_contrast([grey], b) == pytest.approx(8/a.std(), rel=1e-4)
    assert box_contrast([grey], np.array([[0, 0, 4, 4]])) == 0
    assert np.isnan(box_contrast([grey], np.array([[8, 8, 12, 22]])))
    assert np.isnan(box_contrast([grey], np.array([[0, 0, 20, 20]])))


# From a pixel cache

def test_a_cache_knows_the_same(case, tmp_path, monkeypatch):
    "The same findings about pictures, and no image or mask is opened; an image that was left out is counted"
    for f in (across, contradict, black, two_grey, wide_box, truncate): f(case)
    c = cohort_of(case)
    decoded = audit(c)
    cache = cache_pixels(c, 32, tmp_path/'cache', skip_unreadable=True)
    def refuse(*_, **__): raise AssertionError('a file was opened')
    for f in ('read_image', 'read_noted', 'read_mask'): monkeypatch.setattr(f'mmpkd.audit.{f}', refuse)
    a = audit(c, pixels=cache)
    def rows(x):
        f = x.findings
        return {(s, n, tuple(i)) for s, n, i in zip(f.severity, f['name'], f.image_ids)}
    assert rows(a) == rows(decoded) and a.unreadable.image_id.tolist() == ['im003']
    left = audit(c.take([i for i in c.items.image_id if i != 'im003']), pixels=cache)
    assert found(left, 'images left out').image_ids == ['im003']
    assert found(left, 'images left out').severity == 'note'
    assert 'unreadable image' not in names(left)

def test_a_cache_of_other_images(clean, tmp_path):
    "What it does not know is an error, and so is a mask that is gone"
    c = cohort_of(clean)
    cache = cache_pixels(c.take(c.items.image_id[:-1]), 32, tmp_path/'cache')
    a = audit(c, pixels=cache)
    assert a.unreadable.to_dict('records') == [dict(image_id='im119', file='image', reason='not in the pixel cache')]
    assert not a.ok
    c.rois.loc[0, 'mask'] = 'SECRET/gone.png'
    assert audit(c, pixels=cache).unreadable.file.tolist() == ['image', 'mask']

@pytest.mark.parametrize('cached', [False, True])
def test_repairs_of_pictures_are_notes(case, tmp_path, cached):
    "Each kind with its images, in the words of the reader"
    colour = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    for k in (0, 1): Image.fromarray(colour + np.uint8(k)).save(case.root/f'SECRET/im{k:03}.png')
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(colour[..., 0]).save(case.root/'SECRET/im002.png', exif=exif)
    c = cohort_of(case)
    a = audit(c, pixels=cache_pixels(c, 32, tmp_path/'cache') if cached else True)
    assert found(a, 'colour made grey').image_ids == ['im000', 'im001']
    assert found(a, 'turned by its EXIF orientation').image_ids == ['im002']
    assert set(a.findings.severity) == {'note'}
    assert 'turned by its EXIF orientation' in found(a, 'turned by its EXIF orientation').text

def specks(a): a[3, [4, 9]] = 255; return a
def nearly(a): return a + np.random.default_rng(0).integers(0, 2, a.shape).astype(np.uint8)
def spot(a): a[3:9, 3:9] = 255; return a

@pytest.mark.parametrize('cached', [False, True])
@pytest.mark.parametrize('draw, flat', [(specks, True), (nearly, True), (spot, False)])
def test_nearly_one_grey_value(case, tmp_path, cached, draw, flat):
    "Two dead pixels or the least noise on one grey value are still nothing; a small lesion on black is something"
    for f in case.items.image[:2]: Image.fromarray(draw(np.full((60, 72), 7, np.uint8))).save(case.root/f)
    c = cohort_of(case)
    a = audit(c, pixels=cache_pixels(c, 72, tmp_path/'cache') if cached else True)
    assert ('image of one grey value' in names(a)) == flat and ('same picture in a split' in names(a)) != flat
    if flat: assert found(a, 'image of one grey value').image_ids == ['im000', 'im001']


# Words

def test_misspelt_names_are_listed(case):
    case.items.loc[[3, 4], 'report'] = ['QUOKKA with a nodul', 'pleural efusion']
    f = found(audit(cohort_of(case)), 'label name misspelt')
    assert f['count'] == 2
    assert "'nodul' for 'nodule' in 1 report" in f.text
    assert "'pleural efusion' for 'pleural_effusion' in 1 report" in f.text
    assert not f.image_ids

def test_boxes_on_another_scale(clean):
    far = clean.rois.assign(x0=1, y0=1, x1=12, y1=10)
    images = pd.DataFrame(dict(h=20, w=24), index=clean.items.image_id)
    many = pd.concat([far.assign(image_id=i) for i in clean.items.image_id])
    c = cohort_of(clean, rois=many)
    assert [f['name'] for f in scale_findings(c, images)] == ['boxes may be on another scale']
    assert not scale_findings(c, images/1.1) and not scale_findings(cohort_of(clean, rois=many.head(3)), images)

def test_names_are_no_formulas(clean):
    c = clean
    a = audit(Cohort(c.items.assign(**{'a $x_ b$': c.items[c.tabular[0]]}), LABELS, tabular=['a $x_ b$'], root=c.root),
              pixels=False)
    ax = a.show()
    ax.figure.canvas.draw()
    assert [t.get_text() for t in ax.get_yticklabels()] == ['a $x_ b$']
    plt.close(ax.figure)

def test_hidden_words(clean):
    a = audit(cohort_of(clean), hidden=pd.DataFrame(dict(word=['erguss', 'Ödem'], reports=[3, 0],
                                                         misspelt=['ergus (2)', ''])))
    assert "'erguss' in 3 reports" in found(a, 'words hidden').text
    assert found(a, 'words hidden').severity == 'note'
    assert a.ok
    assert "'Ödem'" in found(a, 'hidden word not found').text
    assert found(a, 'hidden word not found').severity == 'warning'
    assert "'erguss': ergus (2)" in found(a, 'hidden word misspelt').text
    assert names(audit(cohort_of(clean), hidden=hide_counts(clean.items.report, ['quokka']))) == {'image sizes',
        'words hidden'}

@pytest.mark.parametrize('label, text, named', [('肺炎', '右下肺肺炎可能', True), ('Erguss', 'Pleuraerguss', True),
                                                ('neumonía', 'NEUMONIA', True), ('Mass', 'massive', False),
                                                ('BI-RADS_4', 'birads 4', True),
                                                ('C++', 'grade C++', True), ('Normal', 'abnormal', False),
                                                ('폐렴', '폐렴이', True), ('lung lesion', 'lung-\nlesions', True),
                                                ('...', 'x', False), ('', 'x', False)])
def test_a_label_in_any_report(label, text, named):
    assert mentions(pd.Series([text, None]), label).tolist() == [named, False]


# Files

def test_reasons_without_paths(tmp_path):
    "In a few words: the cause that the reader of files gives, never the sentence around it, which names the file"
    p = tmp_path/'P1'/'P1.dcm'
    def why(cause):
        try: raise ValueError(f'cannot read the image {p}') from cause
        except ValueError as e: return _reason(e)
    assert [why(c) for c in (ValueError('truncated'), FileNotFoundError('missing file'),
                             PermissionError(13, 'Permission denied', str(p)), None)] == ['truncated', 'missing file',
                                 'Permission denied', 'cannot be read']
    p.parent.mkdir()
    for content in (b'P1', b'', b'\0'*128 + b'DICM', b'\x89PNG\r\n\x1a\nP1'):
        p.write_bytes(content)
        for f in (inspect_image, inspect_mask):
            seen, text, *_ = f(p)
            assert seen is None
            assert 0 < len(text) < 80
            assert '\n' not in text
            assert 'P1' not in text
            assert str(tmp_path) not in text

def test_threads_change_nothing(case):
    truncate(case), across(case), empty_mask(case)
    one, many = (audit(cohort_of(case), n_jobs=n).to_dict() for n in (1, 4))
    assert one == many

def test_masks_as_the_score_reads_them(tmp_path):
    "Bright is inside whatever the largest value; too narrow to survive resizing, or another shape, is of no use"
    m = np.zeros((20, 24), np.uint8)
    m[3:9, 2:8] = 3
    Image.fromarray(m).save(tmp_path/'m.png')
    assert inspect_mask(tmp_path/'m.png') == ((20, 24, False), None) == inspect_mask(tmp_path/'m.png', (20, 24),
        [9, 9, 20, 20])
    assert inspect_mask(tmp_path/'m.png', (40, 48), [4, 6, 16, 18]) == ((20, 24, False), None)
    assert inspect_mask(tmp_path/'m.png', (40, 48), [14, 6, 26, 18]) == (None,
        'after resizing, its outline is 10 pixels away from its box')
    assert '24 x 20' in inspect_mask(tmp_path/'m.png', (24, 20))[1] and 'missing' in inspect_mask(tmp_path/'n.png')[1]

def test_real_dicom(shared_data):
    "Every file is either looked at, or named with its reason"
    files = sorted((shared_data/'dicom').glob('*.dcm'))
    items = pd.DataFrame(dict(image_id=[f'd{i}' for i in range(len(files))],
                              patient_id=[f'p{i}' for i in range(len(files))], split='train',
                              image=[f.name for f in files], y=0))
    a = audit(Cohort(items, ['y'], root=shared_data/'dicom'))
    def fails(f):
        try: read_image(f)
        except (ValueError, OSError): return True
    assert a.unreadable.image_id.tolist() == [i for i, f in zip(items.image_id, files) if fails(f)] and not a.ok
    assert a.unreadable.reason.str.len().min() > 5
    assert not [f for f in files for r in a.unreadable.reason if f.name in r or str(f.parent) in r]

def test_busbra(busbra):
    "The real release has nothing to hide: no copies, each box on its image, each mask of its image's size"
    a = audit(busbra)
    assert a.ok
    assert names(a) == {'regions in training', 'image sizes'}
    assert found(a, 'regions in training')['count'] == 638
    assert a.columns.column.tolist() == ['BIRADS', 'Side', 'Device'] and .85 < a.columns.auroc[0] < .95

@pytest.mark.parametrize('task, leaks', [('mass', []), ('calc', ['assessment'])])
def test_cbis(shared_data, task, leaks):
    "The real tables serve a teacher alone; the assessment of a calcification is nearly its label"
    cohort = cbis_cohort(shared_data/'cbis_csv', task)
    a = audit(cohort, pixels=False)
    assert a.ok
    assert {'no images', 'repairs', 'parts of different classes'} <= names(a)
    assert a.parts.parts.sum() == len(cohort.parts)
    assert a.columns.column[a.columns.auroc >= .95].tolist() == leaks and a.columns.column[0] == 'assessment'
    assert a.repair_counts.sum() == len(cohort.repairs) == found(a, 'repairs')['count']
    assert json.loads(json.dumps(a.to_dict(), allow_nan=False)) == a.to_dict()

def test_without_pixels(case, monkeypatch):
    def refuse(*_, **__): raise AssertionError('a file was opened')
    for f in ('read_image', 'read_noted', 'read_mask'): monkeypatch.setattr(f'mmpkd.audit.{f}', refuse)
    truncate(case), wide_box(case), across(case), delete(case)
    a = audit(cohort_of(case), pixels=False)
    assert names(a) == {'pixels not looked at', 'unreadable image'} and a.unreadable.image_id.tolist() == ['im005']
    lost_mask(case)
    a = audit(cohort_of(case), pixels=False)
    assert found(a, 'unreadable mask').image_ids == ['im117']
    assert a.unreadable.file.tolist() == ['image', 'mask']
    assert not a.ok
    case.items.loc[2, 'image'] = 'SECRET//./im080.png'
    assert found(audit(cohort_of(case), pixels=False), 'same picture in two splits').image_ids == ['im002', 'im080']

def test_tables_of_a_teacher_alone(case):
    "No image is there: fine without pixels, even without a region; an error with them"
    c = cohort_of(case, root=case.root/'nowhere', rois=None)
    assert audit(c, pixels=False).ok and names(audit(c, pixels=False)) == {'no images'}
    a = audit(c)
    assert not a.ok and len(a.unreadable) == N and set(a.unreadable.reason) == {'missing file'}

@pytest.mark.parametrize('change, ids', [(lambda t: t.assign(image='../' + t.image), [f'im{i:03}' for i in range(N)]),
                                         (lambda t: t.assign(image=t.image.where(t.index != 2, '../x.png')),
                                          ['im002'])], ids=['all', 'one'])
def test_a_path_outside_the_root_without_images(case, change, ids):
    "Paths are looked at whether or not their files are there"
    c = cohort_of(case, root=case.root/'nowhere', rois=None)
    c.items = change(c.items)
    a = audit(c, pixels=False)
    assert not a.ok
    assert found(a, 'path outside the root').image_ids == ids
    assert ('no images' in names(a)) == (len(ids) < N)

def test_one_path_in_two_splits_without_images(case):
    case.items.loc[80, 'image'] = case.items.image[0]
    a = audit(cohort_of(case, root=case.root/'nowhere', rois=None), pixels=False)
    assert not a.ok
    assert found(a, 'same picture in two splits').image_ids == ['im000', 'im080']
    assert 'no images' in names(a)

def test_one_name_for_all_images_is_a_placeholder(case):
    case.items['image'] = 'unused.png'
    a = audit(cohort_of(case, root=case.root/'nowhere', rois=None), pixels=False)
    assert a.ok and 'no images' in names(a) and 'same picture in two splits' not in names(a)

def test_a_folder_that_may_not_be_read(case):
    if os.geteuid() == 0: pytest.skip('root may read everything')
    (case.root/'SECRET').chmod(0)
    try: a = audit(cohort_of(case))
    finally: (case.root/'SECRET').chmod(0o700)
    assert len(a.unreadable) == N + 10


# Columns

def rows(seed, n=200, levels=5, patients=80):
    rng = np.random.default_rng(seed)
    y = pd.Series(rng.integers(0, 2, n).astype(float)).mask(rng.random(n) < .1)
    number = pd.Series(rng.normal(size=n) + y.fillna(0)).mask(rng.random(n) < .2)
    category = pd.Series(rng.integers(0, levels, n)).map('level {}'.format).mask(rng.random(n) < .2)
    return y, number, category, pd.Series(rng.integers(0, patients, n)).astype(str)

@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_a_number_as_scikit_learn_ranks_it(seed):
    y, x, _, patients = rows(seed)
    known = y.notna() & x.notna()
    a = roc_auc_score(y[known], x[known])
    assert auroc(y, x) == pytest.approx(a)
    assert column_auroc(x, y, patients) == pytest.approx(max(a, 1 - a)) == pytest.approx(column_auroc(-x, y, patients))

@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 40))
def test_a_category_as_scikit_learn_encodes_it(seed, levels):
    "scikit-learn's TargetEncoder, once per fold of patients, less the share of positives it was fitted on"
    y, _, x, patients = rows(seed, levels=levels)
    known = (y.notna() & x.notna()).to_numpy()
    X, t, g = x[known].to_numpy(object)[:, None], y[known].to_numpy(), patients[known].to_numpy()
    expected = np.empty(len(t))
    for seen, unseen in GroupKFold(5, shuffle=True, random_state=3).split(X, groups=g):
        assert not set(g[seen]) & set(g[unseen])
        encoder = TargetEncoder(smooth=1., target_type='binary').fit(X[seen], t[seen])
        expected[unseen] = encoder.transform(X[unseen])[:, 0] - t[seen].mean()
    s = target_encoding(x, y, patients, seed=3)
    np.testing.assert_allclose(s[known], expected, atol=1e-12)
    assert s[~known].isna().all()
    # equal shares are ties
    assert column_auroc(x, y, patients, seed=3) == pytest.approx(roc_auc_score(t, expected.round(12)))

def test_many_levels_do_not_fake_it():
    "A level for each patient, one for each row, or five hundred at random, of labels that belong to the patient"
    rng = np.random.default_rng(0)
    patients = pd.Series(np.repeat(np.arange(500), 2)).astype(str)
    y = pd.Series(np.repeat(rng.integers(0, 2, 500), 2))
    assert column_auroc('p' + patients, y, patients) == column_auroc(pd.Series(np.arange(1000)).astype(str), y,
                                                                     patients) == .5
    assert abs(column_auroc(pd.Series(rng.integers(0, 500, 1000)).astype(str), y, patients) - .5) < .08
    assert roc_auc_score(y, y.groupby(patients).transform('mean')) == 1

def test_one_value_says_nothing():
    "Even if the share of positives differs between the folds"
    y, _, _, patients = rows(1)
    assert column_auroc(pd.Series('same', y.index), y, patients) == column_auroc(pd.Series(3, y.index), y,
        patients) == .5

def test_missing_values():
    y, x, _, patients = rows(2)
    items = pd.DataFrame(dict(image_id=[f'i{k}' for k in y.index], patient_id=patients, split='train', image='x', y=y,
                              x=x, full=y.index % 7))
    t = column_table(Cohort(items, ['y'], tabular=['x', 'full'])).set_index('column')
    known = y.notna()
    a = roc_auc_score(y[known], x[known].isna())
    assert t.auroc_missing['x'] == pytest.approx(max(a, 1 - a))
    assert t.missing['x'] == x.isna().mean()
    assert np.isnan(t.auroc_missing['full'])

def test_too_few_to_tell():
    y, score = pd.Series([1.]*4 + [0.]*50), pd.Series(np.arange(54.))
    assert np.isnan(auroc(y, score))
    assert np.isnan(auroc(1 - y, score))
    assert np.isnan(auroc(y*0, score))
    assert np.isnan(auroc(y*np.nan, score))
    assert auroc(y.mask(y.index == 53, 1), score) == pytest.approx(roc_auc_score([1]*4 + [0]*49 + [1], score))
    assert target_encoding(score, y, pd.Series('one patient', y.index)).isna().all()

@pytest.mark.parametrize('x', [pd.Series([1, None]*50, dtype='Int64'), pd.Series([True, False, None, True]*25,
    dtype='boolean'), pd.Series([True, False]*50),
                               pd.Series(['a', None]*50, dtype='category'), pd.Series([np.inf, -np.inf, np.nan, 1]*25),
                               pd.Series(pd.date_range('2020', periods=100)),
                               pd.Series([1, 'a']*50, dtype=object), pd.Series([pd.NA, 1.5]*50,
                                   dtype=object)], ids=lambda x: str(x.dtype))
def test_columns_of_any_kind(x):
    items = pd.DataFrame(dict(image_id=[f'i{k}' for k in range(100)], patient_id=[f'p{k//2}' for k in range(100)],
                              split='train', image='x', y=np.arange(100)//2 % 2, x=x))
    t = column_table(Cohort(items, ['y'], tabular=['x']))
    assert t.missing[0] == x.isna().mean() and .3 < t.auroc[0] <= 1

def test_which_class_is_told_best():
    items = pd.DataFrame(dict(image_id=[f'i{k}' for k in range(90)], patient_id=[f'p{k}' for k in range(90)],
                              split='train', image='x', shape=['round', 'oval', 'spiculated']*30))
    items = items.assign(benign=(items['shape'] != 'spiculated').astype(int),
                         malignant=(items['shape'] == 'spiculated').astype(int), grade=np.arange(90) % 2)
    t = column_table(Cohort(items, ['benign', 'malignant'], tabular=['grade', 'shape'], task='multiclass'))
    assert t.column.tolist() == ['shape', 'grade'] and t.auroc[0] == 1 and t['class'][0] in ('benign', 'malignant')

def test_an_identifier():
    patients = pd.Series(np.arange(100)//2).astype(str)
    def ask(values): return is_identifier(pd.Series(values, patients.index), patients)
    assert ask(np.arange(100))
    assert ask(np.arange(100.))
    assert ask([f'n{i}' for i in range(100)])
    assert ask(np.arange(100)//2)
    assert ask([f'n{i//2}' for i in range(100)])
    assert ask(pd.Series(np.arange(100.)).mask(patients.index < 50))
    assert not ask(np.arange(100) + .5)
    assert not ask(np.arange(100)//3)
    assert not ask('same')
    assert not ask(np.nan)
    assert not ask([True, False]*50)
    assert not is_identifier(pd.Series(np.arange(10)), patients[:10])

def test_a_label_in_a_report():
    x = pd.Series(['No pneumothorax.', 'PNEUMOTHORACES', 'hydropneumothorax', 'pneumothoraxs', '', None, 3])
    assert mentions(x, 'Pneumothorax').tolist() == [True, True, True, True, False, False, False]
    assert mentions(pd.Series(['lung lesion', 'lung-lesions', 'lung\n lesion', 'lung or lesion', 'LUNG_LESION']),
                    'Lung Lesion').tolist() == [True, True, True, False, True]
    assert mentions(pd.Series(['a (b)', 'ab']), 'a (b)').tolist() == [True, False] and not mentions(x, '___').any()


# Parts

def test_parts_are_what_the_teacher_reads(case):
    "Columns of the parts; an image with parts of two classes; a table of counts of its own"
    # it has a region of nodule; with parts, that is no fault
    case.items.loc[119, 'nodule'] = 0
    images = case.items.drop(columns=['report', *case.tabular])
    parts = pd.concat([case.items.assign(of=case.items.image_id, image_id=case.items.image_id + f'-{k}',
                                         margin=case.items.nodule.map(['smooth', 'ragged'].__getitem__)) for k in (1,
                                             2)])
    parts.loc[(parts.image_id == 'im000-2'), 'nodule'] = 1 - parts.nodule[parts.image_id == 'im000-2']
    images.loc[0, 'nodule'] = 1
    c = Cohort(images, LABELS, case.rois, root=case.root, parts=Cohort(parts, LABELS, tabular=['margin'],
        root=case.root))
    a = audit(c)
    assert names(a) == {'image sizes', 'column repeats the label', 'parts of different classes'} and a.ok
    assert found(a, 'parts of different classes').image_ids == ['im000']
    assert a.columns.column.tolist() == ['margin']
    assert a.columns.auroc[0] > .99
    assert a.parts.parts.tolist() == [120, 40, 80]
    assert a.to_dict()['parts']['train']['parts'] == 120
    assert 'Parts of images' in str(a)
    assert 'Parts of images' in a._repr_html_()


# How it shows itself

def refuse(constant): raise ValueError(f'{constant} is no JSON')

def test_json(case, tmp_path):
    "Strict, equal to what was found, complete; an earlier file stays if writing fails"
    for f in (truncate, delete, never_given, repaired, blank_labels): f(case)
    a = audit(cohort_of(case))
    path = a.save(tmp_path/'new'/'folder'/'audit.json')
    stored = json.loads(path.read_text(encoding='utf-8'), parse_constant=refuse)
    assert stored == a.to_dict() and [p.name for p in path.parent.iterdir()] == ['audit.json']
    assert stored['unreadable'][1] == dict(image_id='im005', file='image', reason='missing file')
    assert stored['ok'] is False
    assert stored['counts']['train'] == dict(images=60, patients=30, nodule=28, pleural_effusion=28,
                                             **{'blank labels': 6, 'with ROI': 0})
    assert stored['repair_counts'] == {'box clipped to the image': 2, 'report missing': 1}
    assert stored['repairs'][0] == dict(repair='box clipped to the image', id='im000', note='x1 25 -> 24')
    ward = next(c for c in stored['columns'] if c['column'] == 'ward')
    assert (ward['auroc'], ward['class'], ward['missing'], ward['levels']) == (None, None, 1., 0)
    a.name = object()
    with pytest.raises(TypeError): a.save(path)
    assert json.loads(path.read_text(encoding='utf-8')) == stored

def test_the_same_audit_twice(clean):
    assert audit(cohort_of(clean), seed=4).to_dict() == audit(cohort_of(clean), seed=4).to_dict()

def test_the_threshold(clean):
    assert 'column repeats the label' not in names(audit(cohort_of(clean)))
    assert 'column repeats the label' in names(audit(cohort_of(clean), leak=.501))
    for leak in (.5, 1.1, 95, np.nan):
        with pytest.raises(ValueError, match='leak is an AUROC'): audit(cohort_of(clean), leak=leak)

def cells_of(text): return max(map(cell_len, text.splitlines()))

@pytest.mark.parametrize('name', ['胸水と肺炎の所見がある症例のためのとても長い名前'*3, 'Wort'*40,
                                  'a name of many words that goes on and on '*3, 'x', '😷'*50])
def test_eighty_columns(clean, name):
    "Wide or long names of classes, columns, images and the cohort; no word is broken that fits into a line"
    ids = {i: f'{name[:100]}{k}' for k, i in enumerate(clean.items.image_id)}
    items = clean.items.assign(image_id=clean.items.image_id.map(ids), **{f'{name} {k}': clean.items['size'] + k
        for k in range(3)}).rename(columns=dict(nodule=name))
    items.loc[:5, name] = 0
    rois = clean.rois.assign(image_id=clean.rois.image_id.map(ids), label=clean.rois.label.replace('nodule', name))
    a = audit(Cohort(items, [name, 'pleural_effusion'], rois, 'report', [c for c in items if c.startswith(name + ' ')],
                     clean.root, name=name, repairs=repair_table([(name*3, 'x', '')])))
    assert cells_of(str(a)) <= 80
    for number in ('0.5', '120', '60'): assert number in str(a)
    lines = _wrapped('one 12345678 ' + 'word '*9 + 'w'*25, '  ', 20).splitlines()
    assert max(map(cell_len, lines)) <= 20
    assert lines[0] == '  one 12345678 word'
    assert lines[-2:] == ['  ' + 'w'*18, '  ' + 'w'*7]

def test_many_classes(clean):
    "A row for each; the column of numbers stays whole"
    labels = [f'class {k} of many' for k in range(40)]
    items = clean.items.drop(columns=LABELS).assign(**{c: clean.items.nodule for c in labels})
    a = audit(Cohort(items, labels, text='report', root=clean.root))
    assert cells_of(str(a)) <= 80 and all(f'\n{c}' in str(a) for c in labels) and 'and 35 more' not in str(a)


# To be looked at

def titles(fig): return [ax.get_title() for ax in fig.axes if ax.get_title()]

@pytest.mark.parametrize('cached', [False, True])
def test_a_contact_sheet(clean, tmp_path, cached):
    "Images with regions first, then others of all splits; boxes where they belong; the same again for the same seed"
    c = cohort_of(clean)
    pixels = cache_pixels(c, 48, tmp_path/'cache') if cached else None
    fig = contact_sheet(c, pixels, n=24)
    assert len(titles(fig)) == 24
    assert sum('test' in t for t in titles(fig)) >= 10
    assert {t.split('\n')[1].split(':')[0] for t in titles(fig)} == {'train', 'valid', 'test'}
    assert titles(fig) == titles(contact_sheet(c, pixels)) != titles(contact_sheet(c, pixels, seed=1))
    assert len(titles(contact_sheet(c, pixels, n=3))) == 3
    box, scale = fig.axes[0].patches[0], 2 if cached else 1
    assert [round(v, 6) for v in (box.get_x() + .5, box.get_y() + .5, box.get_width(), box.get_height())] == [2*scale,
        3*scale, 6*scale, 6*scale]
    assert fig.axes[0].collections and sum(bool(ax.patches) for ax in fig.axes) == 10
    assert 'pyplot' not in type(fig).__module__ and not plt.get_fignums()
    fig.savefig(tmp_path/'sheet.png')

def test_a_contact_sheet_of_odd_things(case, tmp_path):
    "Unreadable images, a path outside, names that matplotlib would take for formulas, nothing at all"
    for f in (truncate, spoil_mask, empty_report): f(case)
    labels = {'nodule': '$x_{', 'pleural_effusion': '胸水'}
    c = Cohort(case.items.assign(image_id=case.items.image_id + '$^$'), LABELS, root=case.root,
               name='a $\\frac$ <b>').take(['im003$^$', 'im004$^$'])
    c = Cohort(c.items.rename(columns=labels), list(labels.values()), root=case.root, name=c.name)
    c.items.loc[1, 'image'] = '../SECRET.png'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        fig = contact_sheet(c)
        fig.savefig(tmp_path/'sheet.png')
        contact_sheet(Cohort(case.items.assign(nodule=np.nan), LABELS, case.rois, root=case.root),
                      n=12).savefig(tmp_path/'sheet.png')
    assert [t.get_text() for ax in fig.axes for t in ax.texts] == ['cannot be read']*2
    assert not [p for ax in fig.axes for p in ax.patches]
    contact_sheet(Cohort(pd.DataFrame(columns=['image_id', 'patient_id', 'split', 'image', 'y']),
                         ['y'])).savefig(tmp_path/'empty.png')

def test_nothing_privileged_and_no_regions(clean):
    a = audit(Cohort(clean.items, LABELS, root=clean.root))
    assert names(a) == {'image sizes', 'no regions', 'nothing privileged'}
    assert a.ok
    assert not len(a.columns)
    assert list(a.columns) == _COLUMNS
    assert str(a) and a._repr_html_() and a.to_dict()['columns'] == []

def test_a_cohort_without_images():
    a = audit(Cohort(pd.DataFrame(columns=['image_id', 'patient_id', 'split', 'image', 'y', 'x']), ['y'],
                     tabular=['x']))
    assert not a.ok
    assert str(a)
    assert json.dumps(a.to_dict(), allow_nan=False)
    assert (a.findings.name == 'empty split').sum() == 3

def test_html_is_escaped(clean):
    c = cohort_of(clean, name='<b>x</b>')
    assert '<b>' not in audit(c)._repr_html_() and '&lt;b&gt;' in audit(c)._repr_html_()

def test_tables_in_words(clean):
    "The same headings on a terminal and in a notebook, where sentences are flush left"
    a = audit(cohort_of(clean))
    for text in (str(a), a._repr_html_()):
        assert all(w in text for w in ('column', 'values', 'AUROC', 'of class', 'blank', 'its AUROC',
                                       "report (label named)"))
        assert not [w for w in ('auroc', 'levels', 'class_missing', 'image_ids') if w in text]
    assert '<td style="text-align: left;">Images are 24 to 24 pixels wide' in a._repr_html_()

def test_a_picture(clean):
    a = audit(cohort_of(clean))
    ax = a.show()
    assert [t.get_text() for t in ax.get_yticklabels()] == [c + ' (label named)'*(c == 'report')
                                                            for c in a.columns.column[::-1]]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ['missing or not', 'warned of from here', 'value']
    ax.figure.canvas.draw()
    assert not ax.get_legend().get_window_extent().overlaps(ax.bbox)
    assert [round(b.get_width() + .5, 6) for b in ax.patches] == a.columns.auroc[::-1].round(6).tolist()
    assert len(a.show(k=2).patches) == 2
    matplotlib.pyplot.close('all')

def test_look(tmp_path):
    "What is kept is small and says what is needed: equal for equal pixels, different for a different shape"
    a = np.arange(6, dtype=np.uint8)
    for name, shape in (('a', (2, 3)), ('b', (2, 3)), ('c', (3, 2))):
        Image.fromarray(a.reshape(shape)).save(tmp_path/f'{name}.png')
    (h, w, digest, lo, hi, plain), why, notes, small = inspect_image(tmp_path/'a.png')
    assert (h, w, lo, hi, plain, why, notes, small) == (2, 3, 0, 5, .5, None, (), None)
    t = inspect_files(inspect_image, [(tmp_path/f'{f}.png',) for f in 'abcd'], pd.Index([*'wxyz']), IMAGE_FACTS)
    assert t.digest['w'] == digest == t.digest['x'] != t.digest['y']
    assert t.reason['z'] == 'missing file'
    assert t[list(IMAGE_FACTS)].loc['z'].sum() == 0
    assert t[list(IMAGE_FACTS)].memory_usage(index=False).sum() == 4*22
