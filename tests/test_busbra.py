"mmpkd.busbra on the real release, and faults of a folder in its layout"
import ast
import shutil

import numpy as np, pandas as pd, pytest
from PIL import Image

from mmpkd.busbra import PRIVILEGED, busbra_cohort
from mmpkd.tables import BOX
from mmpkd.images import cache_pixels, check_regions
from mmpkd.image_files import mask_box, read_image, read_mask
from mmpkd.teachers import ForestTeacher, macro_auroc


# The real release

@pytest.fixture(scope='module')
def folder(shared_data): return shared_data/'BUSBRA'

@pytest.fixture(scope='module')
def real(folder): return busbra_cohort(folder)

@pytest.fixture(scope='module')
def table(folder): return pd.read_csv(folder/'bus_data.csv').set_index('ID')

def test_counts(real):
    assert len(real) == 1875 and real.items.patient_id.nunique() == 1064 and real.check() is real
    assert real.counts().images.tolist() == [1127, 365, 383] and real.counts()['with ROI'].tolist() == [1127, 365, 383]
    assert real.labels == ['malignant'] and real.y().malignant.isin([0, 1]).all() and real.y().malignant.sum() == 607

def test_both_sides_of_a_woman_are_one_patient(real):
    assert real.items.groupby('patient_id').split.nunique().max() == 1
    assert real.items.groupby('patient_id').size().max() > 1

def test_the_label_is_the_pathology(real, table):
    assert (real.y().malignant == (table.Pathology == 'malignant').loc[real.items.image_id].to_numpy()).all()

def test_other_folds(folder, real):
    fold = pd.read_csv(folder/'5-fold-cv.csv').set_index('ID').kFold
    c = busbra_cohort(folder, test_fold=1, valid_fold=3)
    expected = fold.map({1: 'test', 3: 'valid'}).fillna('train').loc[c.items.image_id].tolist()
    assert c.items.split.tolist() == expected and c.fingerprint() != real.fingerprint()

def test_histology_is_nowhere(real, table):
    "Neither its column nor, under whatever name, its words"
    words = set(table.Histology.dropna()) - {'benign', 'malignant'}
    assert 'fibroadenoma' in words and not [c for t in (real.items, real.rois) for c in t if 'histolog' in c.lower()]
    assert not [c for t in (real.items, real.rois) for c in t if set(t[c].astype(str)) & words]
    assert real.tabular == ['BIRADS', 'Device', 'Side'] and real.text is None

def test_boxes_are_the_outlines_and_the_tables(real, table):
    "BBOX counts from 1: x, y, w, h become x-1, y-1, x+w, y+h; the file contradicts its outline once"
    x, y, w, h = np.array([ast.literal_eval(b) for b in table.BBOX.loc[real.rois.image_id]]).T
    wrong = (real.rois[BOX].to_numpy() != np.stack([x-1, y-1, x+w, y+h], 1)).any(axis=1)
    assert real.rois.image_id[wrong].tolist() == ['bus_0845-s']
    for r in [*real.rois.iloc[::50].itertuples(), *real.rois[wrong].itertuples()]:
        ys, xs = np.nonzero(np.asarray(Image.open(real.root/r.mask).convert('L')) > 127)
        assert [r.x0, r.y0, r.x1, r.y1] == [xs.min(), ys.min(), xs.max()+1, ys.max()+1]

def test_each_region_has_its_own_mask(real):
    assert len(real.rois) == 1875 and real.rois['mask'].is_unique
    assert (real.rois['mask'] == 'Masks/' + real.rois.image_id.str.replace('bus', 'mask') + '.png').all()

def test_the_real_forest(real):
    "What the three columns know: an out-of-bag AUROC of at least 0.88, but no more than the radiologist's category"
    train = real.split('train')
    forest = ForestTeacher().fit(train)
    assert .88 <= macro_auroc(train.y(), forest.oob_logits(train)) <= .97
    assert .88 <= macro_auroc(real.split('test').y(), forest.logits(real.split('test'))) <= .97

def test_real_pixels_fit_real_regions(real, tmp_path):
    c = real.take([*real.items.image_id[::40], 'bus_0845-s'])
    pixels = cache_pixels(c, 32, tmp_path)
    check_regions(c, pixels)
    for i, m in zip(c.rois.image_id[:5], c.rois['mask'][:5]):
        assert read_mask(c.root/m).shape == tuple(pixels.index.loc[i, ['h', 'w']])


# Faults of a folder

@pytest.fixture
def small(tmp_path):
    "Six images of five women; one fold each"
    for d in ('Images', 'Masks'): (tmp_path/d).mkdir()
    ids = ['bus_0001-l', 'bus_0001-r', 'bus_0002-s', 'bus_0003-l', 'bus_0004-l', 'bus_0005-r']
    for k, i in enumerate(ids):
        m = np.zeros((20 + k, 30), np.uint8)
        m[3:7+k, 5:9] = 255
        Image.fromarray(m).save(tmp_path/f"Masks/{i.replace('bus', 'mask')}.png")
        Image.fromarray(255 - m).save(tmp_path/f'Images/{i}.png')
    t = pd.DataFrame(dict(ID=ids, Case=[1, 1, 2, 3, 4, 5], Histology='cyst', Pathology=['benign', 'malignant']*3,
                          BIRADS=[2, 5, 3, 4, 2, 4],
                          Device='A', Width=1, Height=1, Side='left', BBOX='[0,0,0,0]'))
    t.to_csv(tmp_path/'bus_data.csv', index=False)
    t[['ID', 'Pathology']].assign(kFold=t.Case).to_csv(tmp_path/'5-fold-cv.csv', index=False)
    return tmp_path

def edit(path, f): f(pd.read_csv(path)).to_csv(path, index=False)

def test_small(small):
    c = busbra_cohort(small).check()
    # the mask decides, not BBOX
    assert c.items.split.tolist() == ['train']*4 + ['valid', 'test'] and c.rois[BOX].iloc[5].tolist() == [5, 3, 9, 12]
    assert c.items.patient_id.tolist() == ['1', '1', '2', '3', '4', '5']
    assert read_image(c.root/c.items.image[0]).shape == (20, 30)

def test_rows_in_another_order(small):
    c = busbra_cohort(small)
    edit(small/'5-fold-cv.csv', lambda t: t.iloc[::-1])
    assert busbra_cohort(small).fingerprint() == c.fingerprint()

@pytest.mark.parametrize('folds', [(5, 5), (0, 4), (6, 4), (5, 9)])
def test_folds_that_cannot_be(small, folds):
    with pytest.raises(ValueError, match=f'two different folds of 1 to 5, not {folds[0]} and {folds[1]}'):
        busbra_cohort(small, *folds)

def test_a_missing_mask(small):
    (small/'Masks/mask_0003-l.png').unlink()
    with pytest.raises(FileNotFoundError, match="1 of 6 masks are missing, of image 'bus_0003-l'"): busbra_cohort(small)

def test_an_empty_mask(small):
    Image.new('L', (30, 23)).save(small/'Masks/mask_0003-l.png')
    with pytest.raises(ValueError, match="1 masks are empty, the first of 'bus_0003-l'; all of BUS-BRA have a lesion"):
        busbra_cohort(small)
    Image.new('L', (30, 24), 255).save(small/'Masks/mask_0004-l.png')
    with pytest.raises(ValueError, match='1 of 6 masks cannot be used:\nbus_0004-l: all of the image is marked'):
        busbra_cohort(small)

def test_a_mask_of_another_size(small):
    m = Image.open(small/'Masks/mask_0003-l.png')                            # 30 x 23
    m.resize((60, 46), Image.Resampling.NEAREST).save(small/'Masks/mask_0003-l.png')
    c = busbra_cohort(small)
    assert c.rois[BOX].iloc[3].tolist() == [5, 3, 9, 10]
    assert check_regions(c, cache_pixels(c, 8, small/'cache')) == ['bus_0003-l']
    m.resize((23, 30)).save(small/'Masks/mask_0003-l.png')
    with pytest.raises(ValueError, match='bus_0003-l: 23 x 30 pixels .width x height., its image 30 x 23'):
        busbra_cohort(small)

def test_a_missing_image(small):
    (small/'Images/bus_0002-s.png').unlink()
    with pytest.raises(FileNotFoundError, match="1 of 12 files are missing: image of 'bus_0002-s'"):
        busbra_cohort(small).check()

@pytest.mark.parametrize('file', ['bus_data.csv', '5-fold-cv.csv'])
def test_a_missing_table(small, file):
    (small/file).unlink()
    with pytest.raises(FileNotFoundError, match=file): busbra_cohort(small)

def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match='elsewhere'): busbra_cohort(tmp_path/'elsewhere')

def test_an_image_without_a_fold(small):
    edit(small/'5-fold-cv.csv', lambda t: t[t.Pathology == 'benign'])
    lost = "3 images of bus_data.csv have no fold .1 to 5. in 5-fold-cv.csv, the first is 'bus_0001-r'"
    with pytest.raises(ValueError, match=lost):
        busbra_cohort(small)

def test_a_fold_beyond_five(small):
    # the ten-fold file by mistake
    edit(small/'5-fold-cv.csv', lambda t: t.assign(kFold=[1, 1, 7, 3, 4, 5]))
    with pytest.raises(ValueError, match='kFold|fold'): busbra_cohort(small)

def test_more_folds_than_images(small):
    edit(small/'5-fold-cv.csv', lambda t: pd.concat([t, t.iloc[:1].assign(ID='bus_9999-l')]))
    assert len(busbra_cohort(small)) == 6

@pytest.mark.parametrize('file', ['bus_data.csv', '5-fold-cv.csv'])
def test_an_image_twice(small, file):
    edit(small/file, lambda t: pd.concat([t, t.iloc[[3]]]))
    with pytest.raises(ValueError, match='unique'): busbra_cohort(small)

@pytest.mark.parametrize('pathology', ['Benign', 'normal', None])
def test_an_unknown_pathology(small, pathology):
    edit(small/'bus_data.csv', lambda t: t.assign(Pathology=t.Pathology.where(t.index != 2, pathology)))
    with pytest.raises(ValueError, match=r"Pathology of 'bus_0002-s' is .*; it must be 'benign' or 'malignant'"):
        busbra_cohort(small)

def test_one_woman_in_two_folds(small):
    edit(small/'5-fold-cv.csv', lambda t: t.assign(kFold=[1, 5, 2, 3, 4, 5]))
    with pytest.raises(ValueError,
                       match='1 patients are in more than one split, with the images bus_0001-l, bus_0001-r;'):
        busbra_cohort(small)

@pytest.mark.parametrize('column', ['ID', 'Case', 'Pathology'] + PRIVILEGED)
def test_a_missing_column(small, column):
    edit(small/'bus_data.csv', lambda t: t.drop(columns=column))
    with pytest.raises(ValueError, match=f"bus_data.csv has no column '{column}'"): busbra_cohort(small)

def test_a_folder_may_move(small, tmp_path_factory):
    c = busbra_cohort(small)
    there = shutil.copytree(small, tmp_path_factory.mktemp('moved')/'BUSBRA')
    assert busbra_cohort(there).fingerprint() == c.fingerprint()

def test_box_of_one_pixel_and_of_all():
    m = np.zeros((4, 5), bool); m[3, 4] = True
    assert list(mask_box(m)) == [4, 3, 5, 4] and list(mask_box(np.ones((4, 5), bool))) == [0, 0, 5, 4]
