"mmpkd.cbis on the four real tables, and on small folders with one thing wrong at a time"
import itertools, os, shutil

import numpy as np, pandas as pd, pytest
from hypothesis import given, strategies as st
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from mmpkd.tables import BOX
from mmpkd.cbis import (CLASSES, COLUMNS, DESCRIPTORS, FIXES, MaskReader, NOTES, OF_TASK, _check_kinds, cbis_cohort,
                        find_files, inside, locate, look_at_mask, pick_mask, read_cases, series_folders,
                        shared_patients, words)
from mmpkd.images import cache_pixels, check_regions
from mmpkd.image_files import mask_box, read_mask
from mmpkd.teachers import ForestTeacher, macro_auroc


# The real tables

@pytest.fixture(scope='module')
def folder(shared_data): return shared_data/'cbis_csv'

@pytest.fixture(scope='module', params=['mass', 'calc'])
def real(folder, request): return request.param, cbis_cohort(folder, request.param, valid=0)

@pytest.fixture(scope='module')
def raw(folder):
    return lambda task: pd.concat([pd.read_csv(folder/f'{task}_case_description_{p}_set.csv',
                                               dtype=str).assign(split=p) for p in ('train', 'test')],
                                               ignore_index=True)

NUMBERS = dict(mass=([1231, 0, 361], [1318, 0, 378]), calc=([1227, 0, 284], [1546, 0, 326]))
REPAIRS = dict(
    mass={'CRLF line ends': 2, 'line break in a path': 1696, "patient also in the other task's test split": 13,
          "patient also in the other task's training split": 18,
          'no image files': 1, 'assessment incomplete': 162, 'subtlety missing': 2, 'compound descriptor': 215,
          'descriptor missing': 64, 'words in another order': 3,
          'combination in test only': 4},
    calc={'CRLF line ends': 2, 'line break in a path': 1872, "patient also in the other task's test split": 18,
          "patient also in the other task's training split": 13,
          'no image files': 1, 'assessment incomplete': 76, 'density missing': 2, 'compound descriptor': 335,
          'descriptor missing': 463, 'words in another order': 9,
          'combination in test only': 1, 'column spelled another way': 2, 'word spelled another way': 44,
          'word repeated': 2})

def test_numbers(real):
    task, c = real
    images, abnormalities = NUMBERS[task]
    assert c.counts().images.tolist() == images and c.parts.counts().images.tolist() == abnormalities
    assert c.labels == CLASSES and c.task == 'multiclass' and (c.y().sum() > 0).all() and not len(c.rois)
    assert c.items.patient_id.nunique() == dict(mass=892, calc=753)[task]

def test_every_dirt_is_counted(real):
    task, c = real
    assert c.repair_counts().to_dict() == REPAIRS[task]
    assert set(c.repairs.repair) <= {*FIXES, *NOTES}

def test_counts_by_other_means(real, raw):
    "The same numbers, from the raw text"
    task, c = real
    t, n = raw(task), c.repair_counts()
    both = t[[d.replace('_', ' ') for d in (COLUMNS[d] for d in OF_TASK[task])]]
    assert n['descriptor missing'] == both.isna().sum().sum()
    assert n['compound descriptor'] == both.stack().str.contains('-').sum()
    none = t.pathology[t.assessment == '0'].value_counts()
    # nobody without callback
    assert n['assessment incomplete'] == none.sum()
    assert none.to_dict() == dict(mass=dict(BENIGN=140, MALIGNANT=22), calc=dict(BENIGN=39, MALIGNANT=37))[task]
    assert n['line break in a path'] == t.filter(like='path').drop(columns='pathology').stack().str.contains('\n').sum()
    if task == 'calc': assert n['word spelled another way'] == both.stack().str.count('LUCENT_CENTERED').sum()

def test_labels_are_the_biopsy_and_the_worst(real, raw):
    task, c = real
    t = raw(task)
    t['of'] = t['image file path'].str.split('/').str[0]
    assert c.parts.y().idxmax(axis=1).tolist() == t.pathology.tolist() and c.parts.items.of.tolist() == t.of.tolist()
    worst = t.groupby('of').pathology.agg(lambda p: max(p,
                                                        key=['BENIGN_WITHOUT_CALLBACK', 'BENIGN', 'MALIGNANT'].index))
    assert (c.y().idxmax(axis=1) == worst.loc[c.items.image_id].to_numpy()).all()
    # so that worst-of is no formality
    assert (t.groupby('of').pathology.nunique() > 1).sum() == dict(mass=8, calc=11)[task]

def test_words_are_in_the_text(real, raw):
    task, c = real
    t = raw(task)
    for d in OF_TASK[task]:
        text = t[COLUMNS[d].replace('_', ' ')]
        for column in [x for x in c.parts.tabular if x.startswith(f'{d} ')]:
            word = column.removeprefix(f'{d} ')
            said = text.isna() if word == 'missing' else text.fillna('').str.contains(rf'(?:^|-){word}(?:ED)?(?:-|$)')
            assert (c.parts.items[column] == said.to_numpy()).all(), column
            said_of_image = c.parts.items.groupby('of')[column].max().loc[c.items.image_id]
            assert (c.items.set_index('image_id')[column] == said_of_image).all()
    assert not [x for x in c.parts.tabular if x.endswith(' other')]

def test_columns_of_images_do_not_look_at_labels(real):
    _, c = real
    g = c.parts.items.groupby('of')
    x = c.items.set_index('image_id')
    for column in ('assessment', 'subtlety', 'density'):
        pd.testing.assert_series_equal(x[column], g[column].max().loc[x.index], check_names=False)
    assert (x.abnormalities == g.size().loc[x.index]).all() and not x.density.eq(0).any() and x.assessment.isna().any()
    assert not {*c.tabular, *c.parts.tabular} & {*CLASSES, 'pathology', 'of', 'patient_id'}

def test_shared_patients(folder):
    t = shared_patients(folder)
    n = pd.crosstab(t['mass'], t.calc)
    assert n.loc['train', 'test'] == 13 and n.loc['test', 'train'] == 18 and len(t) == 79 and t.index.is_unique

AUROC = dict(mass=(.861, .786), calc=(.902, .850))

def auroc(c, seeds):
    p = c.parts
    return np.mean([macro_auroc(p.split('test').y(), ForestTeacher(100, 1, s).fit(p.split('train')).logits(
        p.split('test'))) for s in range(seeds)])

def test_the_papers_teacher(real):
    "Macro AUROC of scikit-learn's default forest on the official test split, 5 seeds: 0.86 and 0.90"
    task, c = real
    assert abs(auroc(c, 5) - AUROC[task][0]) < .01

def test_the_two_dials(real, folder):
    task, c = real
    blind = cbis_cohort(folder, task, valid=0, without='assessment')
    assert abs(auroc(blind, 1) - AUROC[task][1]) < .015
    dull = cbis_cohort(folder, task, valid=0, without=('missingness', 'assessment'))
    x = dull.parts.items[dull.parts.tabular]
    assert not x.isna().any().any() and not [n for n in x if n.endswith('missing') or n == 'assessment']
    assert auroc(dull, 1) < auroc(blind, 1) + .01
    before, after = c.parts.items, dull.parts.items
    d = OF_TASK[task][1]
    gone = before[f'{d} missing'] == 1
    usual = before.loc[before.split == 'train'].groupby([n for n in x if n.startswith(f'{d} ')]).size()
    assert (after.loc[gone, [n for n in x if n.startswith(f'{d} ')]].drop_duplicates().to_numpy().sum(
        axis=1) == 1).all()
    assert len(usual)
    pd.testing.assert_frame_equal(before.loc[~gone, [n for n in x if n.startswith(f'{d} ')]],
                                  after.loc[~gone, [n for n in x if n.startswith(f'{d} ')]])

def test_both_tasks(folder):
    drop, move = (cbis_cohort(folder, 'both', cross=k, valid=0) for k in ('drop', 'test'))
    assert drop.counts().images['test'] == 361 + 284 and len(move) == 1231 + 361 + 1227 + 284
    assert move.items.image_id.is_unique
    n = drop.repair_counts()
    assert n['patient in two splits'] == len(move) - len(drop) == move.repair_counts()['patient in two splits']
    assert n['same view in both tasks'] == 42
    assert move.repair_counts()['same view in both tasks'] == 71
    for c, differ in ((drop, 11), (move, 20)):              # labels of one picture, in the two tables
        pairs = c.repairs[c.repairs.repair == 'same view in both tasks']
        worst = c.y().idxmax(axis=1).set_axis(c.items.image_id)
        other = pairs.note.str.removeprefix('also ')
        assert {*pairs.id, *other} <= set(worst.index)
        assert (worst[pairs.id].to_numpy() != worst[other].to_numpy()).sum() == differ
    for c in (drop, move): assert c.items.groupby('patient_id').split.nunique().max() == 1 and 'task' in c.tabular
    assert (drop.parts.items.loc[drop.parts.items.task == 'calc',
                                 [t for t in drop.parts.tabular if t.startswith(('shape', 'margins'))]] == 0).all(
                                     axis=None)
    with pytest.raises(ValueError, match="31 patients are in both the training split of one task and the test split"):
        cbis_cohort(folder, 'both', unrepaired='patient in two splits')

def test_validation_split(folder):
    c = cbis_cohort(folder, 'mass', valid=.15)
    n = c.counts()
    assert n.images['test'] == 361 and 130 < n.images['valid'] < 240 and n.patients.sum() == 892
    share = n[CLASSES].div(n.images, axis=0)
    assert (share.loc['train'] - share.loc['valid']).abs().max() < .06
    assert (cbis_cohort(folder, 'mass', seed=1).items.split != c.items.split).any()
    assert (c.parts.items.split == c.parts.items.of.map(c.items.set_index('image_id').split)).all()

def test_two_classes(folder):
    c = cbis_cohort(folder, 'mass', classes=2, valid=0)
    assert c.labels == ['MALIGNANT'] and c.task == 'multilabel' and c.parts.y().MALIGNANT.sum() == 637 + 147

def test_off_switches_on_real_tables(folder):
    c = cbis_cohort(folder, 'calc', valid=0, unrepaired=('word spelled another way', 'assessment incomplete'))
    assert 'type LUCENT_CENTERED' in c.parts.tabular and c.parts.items['type LUCENT_CENTERED'].sum() == 44
    assert (c.parts.items.assessment == 0).sum() == 76
    assert 'word spelled another way' not in c.repair_counts()
    c = cbis_cohort(folder, 'calc', valid=0, unrepaired='compound descriptor')
    assert 'type PLEOMORPHIC-PLEOMORPHIC' in c.parts.tabular and c.parts.items['type PLEOMORPHIC'].sum() == 664 + 149
    c = cbis_cohort(folder, 'calc', valid=0, unrepaired='descriptor missing')
    assert c.parts.items['distribution LINEAR'].isna().sum() == 376 + 63
    assert 'distribution missing' not in c.parts.tabular


# A folder of one's own

HEAD = ['patient_id', 'breast_density', 'left or right breast', 'image view', 'abnormality id', 'abnormality type',
        'mass shape', 'mass margins', 'assessment', 'pathology',
        'subtlety', 'image file path', 'cropped image file path', 'ROI mask file path']

def row(patient, part='train', side='LEFT', view='CC', k=1, task='mass', **more):
    "One row of a table; column names with underscores as keywords"
    of = f"{task.capitalize()}-{'Training' if part == 'train' else 'Test'}_{patient}_{side}_{view}"
    values = [patient, 3, side, view, k, 'mass', 'OVAL', 'CIRCUMSCRIBED', 4, 'BENIGN', 3,
              f'{of}/1.2.11111/1.2.{hash_of(of)}/000000.dcm', f'{of}_{k}/1.2.22222/1.2.{hash_of(of, k)}/000000.dcm',
              f'{of}_{k}/1.2.22222/1.2.{hash_of(of, k)}/000001.dcm']
    return dict(zip(HEAD, values)) | {k.replace('_', ' ') if k not in HEAD else k: v for k, v in more.items()}

def hash_of(*names): return int(generate_uid(entropy_srcs=[' '.join(map(str, names))]).split('.')[-1]) % 10**8

def write(folder, train, test=None, task='mass', **kwargs):
    for part, rows in (('train', train), ('test', test or [row('P_00009', 'test', task=task)])):
        t = pd.DataFrame(rows, columns=HEAD)
        if task == 'calc': t.columns = HEAD[:6] + ['calc type', 'calc distribution'] + HEAD[8:]
        t.to_csv(folder/f'{task}_case_description_{part}_set.csv', index=False, **kwargs)
    return folder

def dicom(path, a, syntax=None, photometric='MONOCHROME2'):
    "A grey DICOM file; a pixel array of any unsigned type"
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = '1.2.840.10008.5.1.4.1.1.7'
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    (ds.Rows, ds.Columns), ds.SamplesPerPixel = a.shape[-2:], 1
    ds.PhotometricInterpretation, ds.PixelRepresentation = photometric, 0
    if a.ndim == 3: ds.NumberOfFrames = len(a)
    ds.BitsAllocated = ds.BitsStored = 8*a.itemsize
    ds.HighBit, ds.PixelData = ds.BitsStored - 1, a.tobytes() + b'\0'*(a.nbytes % 2)
    if syntax: ds.compress(syntax)
    ds.save_as(path, enforce_file_format=True)

SHAPE = (60, 40)

def picture(seed=0): return np.random.default_rng(seed).integers(0, 60000, SHAPE).astype('<u2')

def mask(box=(5, 10, 15, 30), value=255, dtype=np.uint8, shape=SHAPE):
    m = np.zeros(shape, dtype)
    m[box[1]:box[3], box[0]:box[2]] = value
    return m

CROP = picture(1)[10:30, 5:15]

def place(root, rows, files=None):
    "Files where the tables say, except those named in `files` (None: not there)"
    files = files or {}
    for r in rows:
        for column, a in zip(HEAD[-3:], (picture(), CROP, mask())):
            path = str(r[column]).strip()
            a = files.get(path, a)
            if a is not None: dicom(root/path, a)

@pytest.fixture
def small(tmp_path):
    "Three mammograms, four masses, and all their files"
    rows = [row('P_00001', pathology='MALIGNANT'), row('P_00001', k=2, pathology='BENIGN_WITHOUT_CALLBACK'),
            row('P_00002')]
    write(tmp_path, rows)
    place(tmp_path, [*rows, row('P_00009', 'test')])
    return tmp_path, rows

def count(c):
    return {k: n for k, n in c.repair_counts().items() if k not in (
        'other task not there', 'combination in test only', 'word in test only')}

def test_small(small):
    root, _ = small
    c = cbis_cohort(root, valid=0)
    assert count(c) == {} and len(c.rois) == 4 and (c.rois[BOX].to_numpy() == [5, 10, 15, 30]).all()
    assert c.rois.label.tolist() == ['MALIGNANT', 'BENIGN_WITHOUT_CALLBACK', 'BENIGN', 'BENIGN']
    assert c.y().idxmax(axis=1).tolist() == ['MALIGNANT', 'BENIGN', 'BENIGN']
    assert c.rois.image_id.tolist() == [r.rpartition('_')[0] for r in c.rois.part]
    assert c.rois.part.tolist() == c.parts.items.image_id.tolist()
    for m in c.rois['mask']: assert mask_box(read_mask(root/m, SHAPE)) == (5, 10, 15, 30)
    check_regions(c, cache_pixels(c, 16, root/'cache', n_jobs=1))
    two = cbis_cohort(root, valid=0, classes=2)
    assert set(two.rois.label) == {'MALIGNANT'} and two.y().MALIGNANT.tolist() == [1, 0, 0]

@pytest.mark.parametrize('options', [dict(encoding='utf-8-sig'), dict(sep=';'), dict(lineterminator='\r\n'),
                                     dict(encoding='utf-8-sig', sep=';', lineterminator='\r\n')])
def test_other_ways_to_write_a_table(small, options):
    root, rows = small
    before = cbis_cohort(root, valid=0)
    rows = [r | {HEAD[-1]: r[HEAD[-1]] + '\n'} for r in rows]
    c = cbis_cohort(write(root, rows, **options), valid=0)
    assert c.fingerprint() == before.fingerprint() and count(c)['line break in a path'] == 3
    assert ('byte order mark' in count(c)) == ('encoding' in options)
    assert ('CRLF line ends' in count(c)) == ('lineterminator' in options)

@pytest.mark.parametrize('spelling', ['breast density', 'Breast Density ', 'breast_density'])
def test_spellings_of_a_column(small, spelling):
    root, rows = small
    write(root, [{spelling if k == 'breast_density' else k: v for k, v in r.items()} for r in rows])
    path = root/'mass_case_description_train_set.csv'
    path.write_text(path.read_text().replace('breast_density',
                                             spelling).replace('P_00001,,', 'P_00001,3,').replace(
                                                 'P_00002,,', 'P_00002,3,'))
    c = cbis_cohort(root, valid=0)
    assert (c.items.density == 3).all() and ('column spelled another way' in count(c)) == (spelling == 'breast density')

def test_tables_in_a_folder_of_their_own(small, tmp_path_factory):
    root, _ = small
    before = cbis_cohort(root, valid=0).fingerprint()
    (root/'csv').mkdir()
    for p in root.glob('*.csv'): p.rename(root/'csv'/p.name)
    assert cbis_cohort(root, valid=0).fingerprint() == before
    away = shutil.move(root/'csv', tmp_path_factory.mktemp('elsewhere')/'tables')
    assert cbis_cohort(root, valid=0, csvs=away).fingerprint() == before
    with pytest.raises(FileNotFoundError, match='mass_case_description_train_set.csv'): cbis_cohort(root)

@pytest.mark.parametrize('edit, message', [
    (dict(assessment=9), r"train_set.csv, column 'assessment', row 1: 9 is not a whole number from 0 to 6"),
    (dict(assessment=3.5), r"assessment', row 1: .*3.5"),
    (dict(subtlety='high'), r"subtlety', row 1: 'high'"),
    (dict(breast_density=-1), r"density', row 1: -1"),
    (dict(pathology='CANCER'), r"pathology', row 1: 'CANCER' is not one of BENIGN_WITHOUT_CALLBACK, BENIGN, MALIGNANT"),
    (dict(pathology=None), r"pathology', row 1"),
    (dict(left_or_right_breast='BOTH'), r"side', row 1: 'BOTH' is not one of LEFT, RIGHT"),
    (dict(image_view='ML'), r"view', row 1: 'ML'"),
    (dict(abnormality_id=0), r"abnormality', row 1: 0"),
    (dict(abnormality_id=None), r"row 1: 'abnormality' is blank"),
    (dict(patient_id=None), r"row 1: 'patient_id' is blank"),
    (dict(image_view='MLO'),
     r"row 1, column 'image_file_path': the path must begin with the folder Mass-Training_P_00003_LEFT_MLO"),
    (dict(image_file_path=None), r"row 1, column 'image_file_path': the path must begin with"),
    (dict(image_file_path='../secret/000000.dcm'), r"image_file_path': the path leaves the folder"),
    (dict(image_file_path='/etc/passwd'), r"image_file_path': the path leaves the folder"),
    (dict(ROI_mask_file_path='C:\\data\\000000.dcm'), r"roi_mask_file_path': the path leaves the folder"),
    (dict(cropped_image_file_path='Mass-Training_P_00003_LEFT_CC_1/../../x/000000.dcm'),
     r"cropped_image_file_path': the path leaves the folder"),
    (dict(ROI_mask_file_path='Mass-Training_P_00004_LEFT_CC_1/1/2/000000.dcm'),
     r"roi_mask_file_path': the path must begin with the folder Mass-Training_P_00003_LEFT_CC_1")])
def test_impossible_values(tmp_path, edit, message):
    r = row('P_00003')
    for k, v in edit.items(): r[next(h for h in HEAD if h.replace(' ', '_') == k)] = v
    with pytest.raises(ValueError, match=message): cbis_cohort(write(tmp_path, [r]))

@pytest.mark.parametrize('column', HEAD[:5] + HEAD[6:])
def test_a_missing_column(tmp_path, column):
    write(tmp_path, [row('P_00003')])
    path = tmp_path/'mass_case_description_train_set.csv'
    pd.read_csv(path).drop(columns=column).to_csv(path, index=False)
    with pytest.raises(ValueError,
                       match=f"mass_case_description_train_set.csv has no column '{column.replace(' ', '_').lower()}'"):
        cbis_cohort(tmp_path)

def test_errors_name_no_patient(tmp_path):
    "Beyond the image_id, which CBIS-DDSM itself made of the patient's number"
    for edit in (dict(assessment=9), dict(image_file_path='/P_00003/x'), dict(pathology='x')):
        r = row('P_00003')
        for k, v in edit.items(): r[next(h for h in HEAD if h.replace(' ', '_') == k)] = v
        with pytest.raises(ValueError) as e: cbis_cohort(write(tmp_path, [r]))
        assert 'P_00003' not in str(e.value)

def test_a_row_twice(tmp_path):
    rows = [row('P_00001'), row('P_00002'), row('P_00001')]
    c = cbis_cohort(write(tmp_path, rows), valid=0)
    assert len(c.parts) == 3 and count(c)['row repeated'] == 1
    note = 'row 1 of mass_case_description_train_set.csv is kept, row 3 left out'
    assert c.repairs.note[c.repairs.repair == 'row repeated'].tolist() == [note]
    with pytest.raises(ValueError, match='rows 1 and 3: row repeated'): cbis_cohort(tmp_path, unrepaired='row repeated')

def test_two_masks_in_the_table(tmp_path):
    rows = [row('P_00001'), row('P_00001', ROI_mask_file_path='Mass-Training_P_00001_LEFT_CC_1/1.2.3/1.2.4/000001.dcm')]
    rows[1][HEAD[-1]] = rows[1].pop('ROI mask file path')
    place(tmp_path, rows, {rows[1][HEAD[-1]]: mask((0, 0, 3, 3))})
    c = cbis_cohort(write(tmp_path, rows), valid=0)
    assert count(c)['two masks for one abnormality'] == 1 and c.rois[BOX].to_numpy().tolist() == [[5, 10, 15, 30]]
    with pytest.raises(ValueError, match='two masks for one abnormality'):
        cbis_cohort(tmp_path, unrepaired='two masks for one abnormality')

@pytest.mark.parametrize('edit', [dict(pathology='MALIGNANT'), dict(assessment=5), {'mass shape': 'ROUND'}])
def test_rows_that_contradict_each_other(tmp_path, edit):
    with pytest.raises(ValueError, match='rows 1 and 2 are the same abnormality and differ in'):
        cbis_cohort(write(tmp_path, [row('P_00001'), row('P_00001') | edit]))

def test_two_files_for_one_image(tmp_path):
    other = row('P_00001', k=2) | {HEAD[-3]: 'Mass-Training_P_00001_LEFT_CC/1.2.9/1.2.9/000000.dcm'}
    with pytest.raises(ValueError, match='more than one file for the image Mass-Training_P_00001_LEFT_CC'):
        cbis_cohort(write(tmp_path, [row('P_00001'), other]))

@pytest.mark.parametrize('word', ['STELLATE', 'oval shaped', 'SPICULATED'])
def test_an_unknown_descriptor(tmp_path, word):
    c = cbis_cohort(write(tmp_path, [row('P_00001'), row('P_00002') | {'mass shape': f'ROUND-{word}'}]), valid=0)
    assert c.parts.items['shape other'].tolist() == [0, 1, 0] and c.parts.items['shape ROUND'].tolist() == [0, 1, 0]
    assert count(c)['unknown descriptor'] == 1
    with pytest.raises(ValueError, match='Mass-Training_P_00002_LEFT_CC_1: shape: .* is in no list'):
        cbis_cohort(tmp_path, unrepaired='unknown descriptor')

@pytest.mark.parametrize('written, known', [('oval', True), ('Oval', True), ('lymph node', True), ('stellate', False)])
def test_another_spelling_left_as_it_is(tmp_path, written, known):
    "A known word is a word of its own, and no error, if its repair is left out; an unknown one is counted once"
    write(tmp_path, [row('P_00001') | {'mass shape': written}, row('P_00002')])
    kind = 'word spelled another way' if known else 'unknown descriptor'
    assert count(cbis_cohort(tmp_path, valid=0)) == {kind: 1, 'no image files': 1}
    left = cbis_cohort(tmp_path, valid=0, unrepaired=['word spelled another way', 'unknown descriptor'][:1 + known])
    assert left.parts.items[f'shape {written if known else "other"}'].tolist() == [1, 0, 0]
    assert (kind in count(left)) != known

@pytest.mark.parametrize('blank', ['', 'NA', 'N/A', 'nan', 'None', '   '])
def test_blank_descriptors(tmp_path, blank):
    c = cbis_cohort(write(tmp_path, [row('P_00001') | {'mass margins': blank}, row('P_00002')]), valid=0)
    assert c.parts.items['margins missing'].tolist() == [1, 0, 0]
    assert c.parts.items['margins CIRCUMSCRIBED'].tolist() == [0, 1, 1]

def test_zeros_and_blanks(tmp_path):
    rows = [row('P_00001') | dict(assessment=0, subtlety=None, breast_density=0), row('P_00002')]
    c = cbis_cohort(write(tmp_path, rows), valid=0)
    assert c.items.loc[0, ['assessment', 'subtlety', 'density']].isna().all()
    assert count(c) == {'no image files': 1, 'assessment incomplete': 1, 'subtlety missing': 1, 'density missing': 1}
    off = cbis_cohort(tmp_path, valid=0, unrepaired=['assessment incomplete', 'subtlety missing', 'density missing'])
    assert off.items.loc[0, ['assessment', 'density']].tolist() == [0, 0] and pd.isna(off.items.subtlety[0])

def test_words_in_test_only(tmp_path):
    test = [row('P_00009', 'test') | {'mass shape': 'ROUND-OVAL'},
            row('P_00010', 'test') | {'mass margins': 'OBSCURED'}]
    r = cbis_cohort(write(tmp_path, [row('P_00001')], test), valid=0).repairs
    assert r[r.repair.str.contains('only')][['repair', 'id', 'note']].to_numpy().tolist() == [
        ['word in test only', 'shape', 'ROUND'], ['combination in test only', 'shape', 'OVAL-ROUND'],
        ['word in test only', 'margins', 'OBSCURED']]

def test_without(tmp_path):
    write(tmp_path, [row('P_00001'), row('P_00002') | {'mass margins': 'NA', 'assessment': 0}])
    c = cbis_cohort(tmp_path, valid=0, without=('subtlety', 'abnormality', 'shape OVAL'))
    assert not {'subtlety', 'abnormality', 'abnormalities', 'shape OVAL'} & {*c.tabular, *c.parts.tabular}
    c = cbis_cohort(tmp_path, valid=0, without='missingness')
    assert c.parts.items.assessment.tolist() == [4, 4, 4]
    assert c.parts.items['margins CIRCUMSCRIBED'].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="without names 'birads'; there are missingness and the columns density, side"):
        cbis_cohort(tmp_path, without='birads')

def test_nothing_to_fill_in_with(tmp_path):
    write(tmp_path, [row('P_00001') | dict(assessment=0), row('P_00002') | dict(assessment=0)])
    with pytest.raises(ValueError, match="every assessment is missing.*without=.'missingness', 'assessment'."):
        cbis_cohort(tmp_path, valid=0, without='missingness')
    assert len(cbis_cohort(tmp_path, valid=0, without=('missingness', 'assessment'))) == 3

@pytest.mark.parametrize('options', [dict(task='masses'), dict(classes=4), dict(cross='keep'), dict(missing='ignore'),
                                     dict(valid=1.), dict(unrepaired='zeros')])
def test_arguments_that_cannot_be(small, options):
    with pytest.raises(ValueError, match=next(iter(options))): cbis_cohort(small[0], **options)

def test_every_kind_can_be_switched_off(small):
    "Where there is nothing to repair, it makes no difference"
    whole = cbis_cohort(small[0], valid=0).fingerprint()
    assert _check_kinds('mask all one') == ('mask all one',) and not set(FIXES) & set(NOTES)
    for kind in FIXES: assert cbis_cohort(small[0], valid=0, unrepaired=kind).fingerprint() == whole


# Words

@given(st.sampled_from(list(DESCRIPTORS)).flatmap(lambda d: st.tuples(
    st.just(d), st.lists(st.sampled_from(DESCRIPTORS[d]), min_size=1, max_size=5))), st.randoms())
def test_order_and_repetition_do_not_matter(case, random):
    d, said = case
    other = said*2
    random.shuffle(other)
    assert sorted(words('-'.join(said), DESCRIPTORS[d])[0]) == sorted(
        words('-'.join(other), DESCRIPTORS[d])[0]) == sorted(set(said))

@pytest.mark.parametrize('text, expected', [('lucent_centered', ['LUCENT_CENTER']),
                                            (' Fine Linear Branching ', ['FINE_LINEAR_BRANCHING']),
                                            ('LUCENT_CENTER-LUCENT_CENTERED', ['LUCENT_CENTER']),
                                            ('PUNCTATE-x-y', ['PUNCTATE', 'other']), ('-', ['other'])])
def test_words(text, expected): assert words(text, DESCRIPTORS['type'])[0] == expected


# Files

@pytest.mark.parametrize('path, ok', [('a/b.dcm', True), ('./a/b.dcm', True), ('a\\b.dcm', True), ('a/../b', False),
                                      ('..', False), ('/a', False), ('\\a', False), ('C:/a', False), ('c:a', False),
                                      ('a..b/c', True)])
def test_inside(path, ok):
    if ok: assert not inside(path, 'x').startswith(('/', '.', '\\')) and '\\' not in inside(path, 'x')
    else:
        with pytest.raises(ValueError, match='x: the path leaves the folder'): inside(path, 'x')

def test_nothing_on_disk(tmp_path):
    c = cbis_cohort(write(tmp_path, [row('P_00001')]), valid=0)
    assert count(c) == {'no image files': 1} and not len(c.rois) and c.items.image[0] == row('P_00001')[HEAD[-3]]
    assert not (c.root/c.items.image[0]).exists() and len(c.parts) == 2
    with pytest.raises(FileNotFoundError, match="missing='drop' leaves no image"): cbis_cohort(tmp_path, missing='drop')

def test_images_without_masks(tmp_path):
    rows = [row('P_00001'), row('P_00002'), row('P_00009', 'test')]
    place(tmp_path, rows, {r[c]: None for r in rows for c in HEAD[-2:]})
    c = cbis_cohort(write(tmp_path, rows[:2]), valid=0)
    assert count(c) == {'no mask files': 1} and not len(c.rois) and all((c.root/i).is_file() for i in c.items.image)

def test_an_image_that_is_not_there(small):
    root, rows = small
    (root/rows[2][HEAD[-3]]).unlink()
    keep, drop = (cbis_cohort(root, valid=0, missing=m) for m in ('keep', 'drop'))
    assert count(keep) == count(drop) == {'image not found': 1} and len(keep) == 3 and len(drop) == len(drop.items) == 2
    assert len(keep.rois) == 3
    assert len(drop.parts) == 3 and 'Mass-Training_P_00002_LEFT_CC' not in set(drop.items.image_id)
    with pytest.raises(ValueError, match="1 times 'image not found' .Mass-Training_P_00002_LEFT_CC: "):
        cbis_cohort(root, unrepaired='image not found')

@pytest.mark.parametrize('content', [b'', b'<html>try again later</html>', bytes(132)])
def test_an_image_that_cannot_be_opened(small, content):
    root, rows = small
    (root/rows[0][HEAD[-3]]).write_bytes(content)
    c = cbis_cohort(root, valid=0)
    assert count(c) == {'image cannot be opened': 1} and len(c) == 3 and len(c.rois) == 2

def one(root, files, unrepaired=()):
    "The cohort of one training image whose crop and mask are these arrays, and its region"
    rows = [row('P_00001')]
    write(root, rows)
    place(root, [*rows, row('P_00009', 'test')], dict(zip((rows[0][HEAD[-2]], rows[0][HEAD[-1]]), files)))
    c = cbis_cohort(root, valid=0, unrepaired=unrepaired)
    return count(c), c.rois.loc[c.rois.part == 'Mass-Training_P_00001_LEFT_CC_1', BOX].to_numpy().tolist(), c

GOOD = [[5, 10, 15, 30]]
LARGE = picture(3)                      # a crop of the image's size
@pytest.mark.parametrize('crop, m, kinds, box', [
    (CROP, mask(), [], GOOD),
    (mask(), CROP, ['crop and mask swapped'], GOOD),
    (mask(value=65535, dtype='<u2'), CROP, ['crop and mask swapped'], GOOD),
    (CROP, mask(value=1), [], GOOD),
    (LARGE, mask(), [], GOOD),
    (mask(), LARGE, ['crop and mask swapped'], GOOD),
    (CROP, np.kron(mask(), np.ones((2, 2), np.uint8)), ['mask of another size'], GOOD),
    (np.kron(mask(), np.ones((3, 3), np.uint8)), CROP, ['crop and mask swapped', 'mask of another size'], GOOD),
    (CROP, mask((4, 10, 16, 30))[::2, ::2], ['mask of another size'], [[4, 10, 16, 30]]),
    (CROP, mask()[:, :30], ['mask of another aspect'], []),
    (mask()[:20], CROP, ['crop and mask swapped', 'mask of another aspect'], []),
    (CROP, mask(value=0), ['mask all zero'], []),
    (CROP, np.full(SHAPE, 255, np.uint8), ['mask all one'], []),
    (CROP, LARGE, ['no mask among the files'], []),
    (CROP, CROP, ['no mask among the files'], []),
    (mask((0, 0, 9, 9)), mask(), ['two masks for one abnormality'], GOOD),
    (mask((0, 0, 9, 9))[:30], mask(), [], GOOD),
    (mask(value=0), mask(), [], GOOD),
    (None, mask(), [], GOOD),
    (mask(), None, ['crop and mask swapped'], GOOD),
    (None, CROP, ['no mask among the files'], []),
    (CROP, mask((0, 0, 40, 60)), ['mask all one'], []),
    (CROP, mask((39, 59, 40, 60)), [], [[39, 59, 40, 60]])])
def test_crop_or_mask(tmp_path, crop, m, kinds, box):
    # one file in the series is the one that is meant
    if crop is None or m is None: kinds = [k for k in kinds if k != 'crop and mask swapped']
    counts, found, c = one(tmp_path, (crop, m))
    assert sorted(counts) == sorted(kinds) and found == box and len(c) == 2 and len(c.parts) == 2
    for r in c.rois.itertuples(): assert list(mask_box(read_mask(tmp_path/r.mask, SHAPE))) == [r.x0, r.y0, r.x1, r.y1]

@pytest.mark.parametrize('kind, crop, m', [('mask of another aspect', CROP, mask()[:, :30]),
                                           ('mask all zero', CROP, mask(value=0)),
                                           ('mask all one', CROP, mask(value=0) + 9),
                                           ('no mask among the files', CROP, LARGE),
                                           ('two masks for one abnormality', mask((0, 0, 9, 9)), mask()),
                                           ('mask not found', None, None)])
def test_switched_off_it_is_an_error(tmp_path, kind, crop, m):
    with pytest.raises(ValueError, match=f"1 times '{kind}' .Mass-Training_P_00001_LEFT_CC_1: "):
        one(tmp_path, (crop, m), unrepaired=kind)

def test_switched_off_it_is_left(tmp_path):
    counts, box, _ = one(tmp_path, (CROP, np.kron(mask(), np.ones((2, 2), np.uint8))), 'mask of another size')
    assert box == [] and counts == {'mask of another size': 1}
    counts, box, _ = one(tmp_path, (mask(), CROP), 'crop and mask swapped')
    assert box == [] and counts == {'no mask among the files': 1}
    rows = [r | {HEAD[-1]: r[HEAD[-1]] + '\n'} for r in [row('P_00001')]]
    c = cbis_cohort(write(tmp_path, rows), valid=0, unrepaired='line break in a path')
    assert count(c) == {'mask not found': 1}

def test_a_truncated_mask(tmp_path):
    one(tmp_path, (CROP, mask()))
    path = tmp_path/row('P_00001')[HEAD[-1]]
    path.write_bytes(path.read_bytes()[:-500])
    c = cbis_cohort(tmp_path, valid=0)
    assert count(c) == {'mask cannot be decoded': 1}
    assert c.repairs.note[c.repairs.repair == 'mask cannot be decoded'].tolist() == ['truncated']
    path.write_bytes(b'nothing')
    assert count(cbis_cohort(tmp_path, valid=0)) == {'mask cannot be decoded': 1}

@pytest.mark.parametrize('path', ['', 'Mass-Training_P_00001_LEFT_CC_1'])
@pytest.mark.parametrize('column, kinds, box', [(HEAD[-2], {}, GOOD), (HEAD[-1], {'mask not found': 1}, [])])
def test_a_path_that_is_blank_or_a_folder(small, column, kinds, box, path):
    "Of a crop it costs nothing, of a mask the region"
    root, rows = small
    c = cbis_cohort(write(root, [rows[0] | {column: path}, *rows[1:]]), valid=0)
    assert count(c) == kinds and len(c.parts) == 4
    assert c.rois.loc[c.rois.part == 'Mass-Training_P_00001_LEFT_CC_1', BOX].to_numpy().tolist() == box

def test_masks_in_other_encodings(tmp_path):
    dicom(tmp_path/'rle.dcm', mask(), RLELossless)
    dicom(tmp_path/'dark.dcm', 255 - mask(), photometric='MONOCHROME1')
    dicom(tmp_path/'one.dcm', np.zeros(SHAPE, np.uint8), photometric='MONOCHROME1')
    dicom(tmp_path/'frames.dcm', np.stack([mask()]*2))
    for f in ('rle', 'dark'):
        seen = look_at_mask(tmp_path/f'{f}.dcm', SHAPE)
        assert seen['values'] == 'two' and [seen[c] for c in BOX] == GOOD[0]
        assert mask_box(read_mask(tmp_path/f'{f}.dcm', SHAPE)) == tuple(GOOD[0])
    assert look_at_mask(tmp_path/'frames.dcm', SHAPE)['values'] == 'unreadable'

def test_a_header_decides_without_decoding(tmp_path):
    "If one file has the image's size, the other is not even looked at"
    dicom(tmp_path/'m.dcm', mask()); dicom(tmp_path/'c.dcm', CROP)
    look = MaskReader(tmp_path)
    assert pick_mask(['c.dcm', 'm.dcm'], SHAPE, look)[0] == 'm.dcm' and len(look.seen) == 1

def test_the_cache(small, tmp_path_factory):
    root, rows = small
    cache = tmp_path_factory.mktemp('cache')/'masks'
    first = cbis_cohort(root, valid=0, cache=cache)
    path = root/rows[0][HEAD[-1]]
    stat, again = path.stat(), cache/'cbis-masks.parquet'
    written = again.stat().st_mtime_ns
    dicom(path, mask((0, 0, 5, 5)))  # other content, same size and time: believed to be known
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cbis_cohort(root, valid=0, cache=cache).fingerprint() == first.fingerprint()
    assert again.stat().st_mtime_ns == written
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    assert cbis_cohort(root, valid=0, cache=cache).rois[BOX].to_numpy()[0].tolist() == [0, 0, 5, 5]
    assert cbis_cohort(root, valid=0).rois[BOX].to_numpy()[0].tolist() == [0, 0, 5, 5]

def test_the_cache_tries_again_what_it_could_not_read(small, tmp_path_factory):
    "Same size and time; meanwhile the disk is whole again, or a decoder is there"
    root, rows = small
    cache = tmp_path_factory.mktemp('cache')
    path = root/rows[0][HEAD[-1]]
    stat, whole, saved = path.stat(), path.read_bytes(), []
    for content, lost in ((b'x'*len(whole), 1), (b'x'*len(whole), 1), (whole, 0)):
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert cbis_cohort(root, valid=0, cache=cache).repair_counts().get('mask cannot be decoded', 0) == lost
        saved.append((cache/'cbis-masks.parquet').stat().st_mtime_ns)
    assert saved[0] == saved[1] < saved[2]                                  # what could not be read is no news


# Where files are

UIDS = ('1.2.11111', '1.2.33333')
OLD, NEW = '07-20-2016-DDSM-11111/1-full mammogram images', '07-20-2016-DDSM-NA-11111/1.000000-full mammogram images'

@pytest.mark.parametrize('place, name', [
    ('{f}/{s}/{r}/000000.dcm', '000000.dcm'), ('CBIS-DDSM/{f}/{s}/{r}/000000.dcm', '000000.dcm'),
    ('manifest-1/CBIS-DDSM/{f}/{s}/{r}/1-1.dcm', '1-1.dcm'), ('CBIS-DDSM/{f}/' + NEW + '-33333/1-1.dcm', '1-1.dcm'),
    ('CBIS-DDSM/{f}/' + OLD + '-33333/000000.dcm', '000000.dcm'), ('{r}/1-1.dcm', '1-1.dcm'),
    ('{f}/1-1.DCM', '1-1.DCM')])
def test_layouts(tmp_path, place, name):
    f = 'Mass-Training_P_00001_LEFT_CC'
    path = place.format(f=f, s=UIDS[0], r=UIDS[1])
    dicom(tmp_path/path, picture())
    # an abnormality's folder begins with its image's name
    dicom(tmp_path/path.replace(f, f + '_1').replace('1.2.33333', '1.2.44444'), CROP)
    files, named = locate(f'{f}/{UIDS[0]}/{UIDS[1]}/000000.dcm', find_files(tmp_path), series_folders(tmp_path))
    assert files == [path] and named == path

def test_the_last_five_digits_tell_series_apart(tmp_path):
    for series in ('1-cropped images-33333', '1-ROI mask images-44444'):
        dicom(tmp_path/f'F_1/01-DDSM-22222/{series}/1-1.dcm', CROP)
    found = find_files(tmp_path)
    assert locate('F_1/1.2.22222/1.2.44444/000000.dcm', found, {})[1].split('/')[-2] == '1-ROI mask images-44444'
    assert len(locate('F_1/1.2.22222/1.2.55555/000000.dcm', found, {})[0]) == 2

@pytest.mark.parametrize('location', ['.\\CBIS-DDSM\\x\\y', './CBIS-DDSM/x/y', 'CBIS-DDSM/x/y', 'CBIS-DDSM\\x\\y '])
@pytest.mark.parametrize('manifest', ['', 'manifest-1'])
def test_metadata(tmp_path, location, manifest):
    dicom(tmp_path/manifest/'CBIS-DDSM/x/y/1-1.dcm', picture()); dicom(tmp_path/manifest/'CBIS-DDSM/x/y/1-2.dcm', CROP)
    table = pd.DataFrame({'Series UID': ['1.2.9', UIDS[1]], 'File Location': ['./elsewhere', location]})
    table.to_csv(tmp_path/manifest/'metadata.csv', index=False)
    found, places = find_files(tmp_path), series_folders(tmp_path)
    for name, k in (('000000.dcm', 1), ('000001.dcm', 2), ('000007.dcm', 2)):
        files, named = locate(f'F_1/{UIDS[0]}/{UIDS[1]}/{name}', found, places)
        assert len(files) == 2 and named.endswith(f'CBIS-DDSM/x/y/1-{k}.dcm') and (tmp_path/named).is_file()
    # metadata.csv names a folder that is not there
    assert locate('G/1.2.1/1.2.9/000000.dcm', found, places) == ([], None)

@pytest.mark.parametrize('location', ['../other', '/data/x', 'C:\\data', '.\\..\\x'])
def test_metadata_that_leaves(small, location):
    pd.DataFrame({'Series UID': [UIDS[1]], 'File Location': [location]}).to_csv(small[0]/'metadata.csv', index=False)
    with pytest.raises(ValueError, match="metadata.csv, row 1, column 'File Location': the path leaves the folder"):
        cbis_cohort(small[0])

def test_metadata_of_something_else(small):
    (small[0]/'metadata.csv').write_text('a,b\n1,2\n')
    with pytest.raises(ValueError, match="metadata.csv has no column 'Series UID', 'File Location'"):
        cbis_cohort(small[0])

def test_a_folder_may_move(small, tmp_path_factory):
    c = cbis_cohort(small[0], valid=0)
    there = shutil.copytree(small[0], tmp_path_factory.mktemp('moved')/'CBIS')
    assert cbis_cohort(there, valid=0).fingerprint() == c.fingerprint()


# Women in both tasks

@pytest.fixture
def crossed(tmp_path):
    write(tmp_path, [row('P_00001'), row('P_00002'), row('P_00003')], [row('P_00009', 'test')])
    rename = {'mass shape': 'PUNCTATE', 'mass margins': 'CLUSTERED'}
    write(tmp_path, [row('P_00003', task='calc') | rename, row('P_00009', side='RIGHT', task='calc') | rename],
          [row('P_00001', 'test', view='MLO', task='calc') | rename], task='calc')
    return tmp_path

def test_crossed(crossed):
    assert shared_patients(crossed).to_dict('index') == {'P_00001': dict(mass='train', calc='test'),
                                                         'P_00003': dict(mass='train', calc='train'),
                                                         'P_00009': dict(mass='test', calc='train')}
    c = cbis_cohort(crossed, 'mass', valid=0)
    assert c.repairs[c.repairs.repair.str.startswith('patient')][['repair', 'id']].to_numpy().tolist() == [
        ["patient also in the other task's test split", 'Mass-Training_P_00001_LEFT_CC'],
        ["patient also in the other task's training split", 'Mass-Test_P_00009_LEFT_CC']]
    assert len(c) == 4

@pytest.mark.parametrize('cross, train, test', [('drop', 3, 2), ('test', 3, 4)])
def test_crossed_together(crossed, cross, train, test):
    c = cbis_cohort(crossed, 'both', valid=0, cross=cross)
    assert c.counts().images.tolist() == [train, 0, test] and c.repair_counts()['patient in two splits'] == 2
    assert c.repair_counts()['same view in both tasks'] == 1
    assert set(c.repairs.id[c.repairs.repair == 'patient in two splits']) == {
        'Mass-Training_P_00001_LEFT_CC', 'Calc-Training_P_00009_RIGHT_CC'}

def test_the_other_task_is_not_there(tmp_path):
    c = cbis_cohort(write(tmp_path, [row('P_00001')]), valid=0)
    assert c.repair_counts()['other task not there'] == 1
    with pytest.raises(FileNotFoundError, match='calc_case_description_train_set.csv'): shared_patients(tmp_path)
    with pytest.raises(FileNotFoundError, match='calc_case_description_train_set.csv'): cbis_cohort(tmp_path, 'both')

def test_a_patient_in_both_tables_of_a_task(crossed):
    write(crossed, [row('P_00001'), row('P_00009')], [row('P_00009', 'test')])
    with pytest.raises(ValueError, match='1 patients are in the training and the test table of one task'):
        shared_patients(crossed)
    with pytest.raises(ValueError): cbis_cohort(crossed, 'mass')

def test_read_cases_keeps_the_text(crossed):
    t, rows = read_cases(crossed, 'calc', 'train')
    assert t.type.tolist() == ['PUNCTATE']*2 and t.split.tolist() == ['train']*2 and t['row'].tolist() == [1, 2]
    assert t.image_id.is_unique
    assert all(i in itertools.chain(t.image_id, ['calc_case_description_train_set.csv']) for _, i, _ in rows)
