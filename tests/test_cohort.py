"Corner cases of mmpkd.cohort: bad tables one by one, tables on disk of every kind, boxes in every form, fingerprints"
import json
import os
import subprocess
import sys

import numpy as np, pandas as pd, pyarrow as pa, pytest
from hypothesis import given, settings, strategies as st

from mmpkd.tables import (BLANKS, BOX, as_boxes, as_words, inside_root, read_coco, read_noted_table, read_table,
                          repair_table)
from mmpkd.cohort import Cohort, KEYS, column_kinds, patient_split


def items(**changes):
    "Seven images of six patients; two classes, a report, two columns of metadata"
    t = pd.DataFrame(dict(
        image_id=['001', '002', '010', '0a', 'b', 'c', 'd'], patient_id=['07', '07', '8', '9', '10', '11', '12'],
        split=['train', 'train', 'train', 'train', 'valid', 'test', 'test'], image=[f'{i}.png' for i in range(7)],
        mass=[0, 1, 1, 0, 0, 1, 0], calc=[1, 0, np.nan, 0, 1, 0, 0],
        report=['clear', 'a mass, "spiculated"', None, 'line one\nline two', 'clear', 'ein Rundherd: größer', ''],
        age=[40, 50.5, 60, 70, np.nan, 30, 20], device=['A', 'B', 'A', None, 'A', 'B', 'A']))
    return t.assign(**changes)

def rois(**changes):
    return pd.DataFrame(dict(image_id=['002', '010', 'c'], label='mass', x0=[0, 1, 2], y0=[0, 1, 2.5], x1=[4, 5, 6],
                             y1=[4, 5, 6], mask=['m1.png', None, 'm2.png'])).assign(**changes)

LABELS = ['mass', 'calc']

def cohort(rois=rois(), text='report', tabular=('age', 'device'), **changes):
    return Cohort(items(**changes), LABELS, rois, text, [*tabular])

def replaced(column, row, value): # A column of `items` with one other value
    x = items()[column].astype(object)
    x[row] = value
    return {column: x}


# Bad tables: the error names the row, the column and what would be right

@pytest.mark.parametrize('column', KEYS + LABELS + ['report', 'age', 'device'])
def test_a_missing_column(column):
    with pytest.raises(ValueError, match=f"items has no column '{column}'; its columns are .*"):
        Cohort(items().drop(columns=column), LABELS, None, 'report', ['age', 'device'])

@pytest.mark.parametrize('column', ['image_id', 'label'] + BOX)
def test_a_missing_column_of_rois(column):
    with pytest.raises(ValueError, match=f"rois has no column '{column}'"): cohort(rois().drop(columns=column))

@pytest.mark.parametrize('value', [2, -1, .5, '1', 'yes', np.inf])
@pytest.mark.parametrize('column', LABELS)
def test_a_label_that_is_neither(column, value):
    with pytest.raises(ValueError, match=f"label '{column}' of image '0a' is {value!r}; a label must be 0, 1 or blank"):
        cohort(**replaced(column, 3, value))

@pytest.mark.parametrize('dtype,shown', [(int, '-1'), (float, '-1.0'), ('Int64', '-1')])
def test_a_wrong_label_is_shown_as_a_number(dtype, shown):              # not as np.int64(-1)
    with pytest.raises(ValueError, match=f"of image '001' is {shown};"):
        cohort(mass=pd.Series([-1, 0, 1, 0, 1, 0, 1], dtype=dtype))

@pytest.mark.parametrize('blank', [None, np.nan, pd.NA])
@pytest.mark.parametrize('column', KEYS)
def test_a_blank_key(column, blank):
    with pytest.raises(ValueError, match=f"'{column}' is blank in row 5"): cohort(**replaced(column, 4, blank))

@pytest.mark.parametrize('column', ['image_id', 'patient_id'])
def test_an_empty_word_is_blank(column):                                # as from read_csv(keep_default_na=False)
    with pytest.raises(ValueError, match=f"'{column}' is blank in row 5"): cohort(**replaced(column, 4, ''))

def test_a_patient_in_two_splits():
    with pytest.raises(ValueError,
                       match='1 patients are in more than one split, with the images 001, 002; .* in the same split'):
        cohort(**replaced('split', 1, 'test'))

def test_a_patient_in_two_splits_under_two_types():                     # 7 and '7' are one patient
    with pytest.raises(ValueError, match='more than one split, with the images 001, 002, b;'):
        cohort(patient_id=[7, 7, 8, 9, '7', 11, 12])

def test_a_duplicate_image():
    with pytest.raises(ValueError, match='image_id must be unique; found more than once: 001, b'):
        cohort(image_id=['001', '001', '010', '0a', 'b', 'b', 'd'], rois=None)

def test_an_unknown_split():
    with pytest.raises(ValueError,
                       match=r"split of image '001' is 'training'; it must be one of \('train', 'valid', 'test'\)"):
        cohort(**replaced('split', 0, 'training'))
    with pytest.raises(ValueError, match="not 'all'"): cohort().split('all')

@pytest.mark.parametrize('empty', ['train', 'valid', 'test'])
def test_an_empty_split(empty):
    c = cohort()
    with pytest.raises(ValueError, match=f"split '{empty}' has no images"):
        c.take(c.items.image_id[c.items.split != empty]).check()

def test_an_unknown_class_or_image_of_a_region():
    with pytest.raises(ValueError, match="image '010' has the unknown class 'cyst'; the classes are mass, calc"):
        cohort(rois(label=['mass', 'cyst', 'cyst']))
    with pytest.raises(ValueError, match="unknown class"): cohort(rois(label=['mass', None, 'calc']))
    with pytest.raises(ValueError, match='2 regions of interest belong to images that are not in the cohort: 1, 2'):
        cohort(rois(image_id=['1', '2', 'c']))   # '001' is not '1'

@pytest.mark.parametrize('change', [dict(x1=[4, 1, 6]), dict(y0=[0, 5, 2]), dict(x0=[0, -1, 2]), dict(y0=[0, -.5, 2]),
                                    dict(x0=[0, np.nan, 2]), dict(y1=[4, np.nan, 6])])
def test_a_box_without_an_area(change):
    with pytest.raises(ValueError, match="of image '010' must have 0 <= x0 < x1"): cohort(rois(**change))

def test_names_that_cannot_be():
    with pytest.raises(ValueError, match='at least one label'): Cohort(items(), [])
    with pytest.raises(ValueError, match="'multilabel' or 'multiclass', not 'regression'"):
        Cohort(items(), LABELS, task='regression')
    with pytest.raises(ValueError, match='mass cannot be a label and privileged'):
        Cohort(items(), LABELS, tabular=['age', 'mass'])

def test_a_label_named_twice():
    with pytest.raises(ValueError, match='mass'): Cohort(items(), ['mass', 'mass'])

@given(st.lists(st.sampled_from([0, 1, None, True, 2, -1, .5]), min_size=7, max_size=7))
def test_any_labels(values):
    right = all(v in (0, 1, None) for v in values)
    t = items(mass=pd.Series(values, dtype=object))
    if right: assert Cohort(t, LABELS).y().mass.fillna(9).tolist() == [9 if v is None else v for v in values]
    else:
        with pytest.raises(ValueError, match="label 'mass'"): Cohort(t, LABELS)

@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(['train', 'valid', 'test'])), min_size=7, max_size=7))
def test_any_split(pairs):
    t = items(patient_id=[p for p, _ in pairs], split=[s for _, s in pairs])
    if len(set(pairs)) == len({p for p, _ in pairs}):
        c = Cohort(t, LABELS, rois())
        parts = [c.split(s) for s in ('train', 'valid', 'test')]
        assert sorted(i for p in parts for i in p.items.image_id) == sorted(c.items.image_id)
        assert sum(len(p.rois) for p in parts) == 3
        assert [len(p) for p in parts] == c.counts().images.tolist()
    else:
        with pytest.raises(ValueError, match='more than one split'): Cohort(t, LABELS)


# Multiclass

@pytest.mark.parametrize('row', [[1, 1], [0, 0], [np.nan, 1], [0, np.nan]])
def test_not_one_hot(row):
    t = items(calc=[1, 0, 0, 1, 1, 0, 1])
    t['calc'] = t.calc.astype(float); t['mass'] = t.mass.astype(float)
    Cohort(t, LABELS, task='multiclass')
    t.loc[5, LABELS] = np.nan
    Cohort(t, LABELS, task='multiclass')                                # nobody knows: all blank
    t.loc[5, LABELS] = row
    with pytest.raises(ValueError, match="image 'c' must belong to exactly one of mass, calc"):
        Cohort(t, LABELS, task='multiclass')

def test_a_class_without_training_images(tmp_path):
    for i in range(7): (tmp_path/f'{i}.png').touch()
    c = Cohort.from_table(items(kind=['m', 'n', 'm', 'n', 'm', 'n', 'rare']), 'kind', task='multiclass', root=tmp_path)
    with pytest.raises(ValueError, match="'rare'"): c.check()

@pytest.mark.parametrize('index', [list('gfedcba'), [3, 1, 2, 9, 8, 7, 0], [0, 1, 0, 1, 0, 1, 0], [0]*7])
def test_the_index_of_the_table_means_nothing(index):
    kind, c = ['m', 'n', None, 'n', 'm', 'o', 'm'], cohort()
    a = Cohort.from_table(items(kind=kind).set_axis(index), 'kind', task='multiclass')
    assert a.y().fillna(0).to_numpy().tolist() == [[k == c for c in 'mno'] for k in kind]
    assert a.items.image_id.tolist() == items().image_id.tolist()
    b = Cohort(items().set_axis(index), LABELS, rois().set_axis([5, 5, 5]), 'report', ['age', 'device'])
    assert b.fingerprint() == c.fingerprint()

def test_numbers_as_classes():
    c = Cohort.from_table(items(birads=[2, 3, 4, 5, 2, 3, 4]), ['birads'], task='multiclass')
    assert c.labels == ['2', '3', '4', '5'] and c.y().sum(axis=1).eq(1).all()


# Ready to train?

@pytest.fixture
def complete(tmp_path):
    c = cohort()
    for f in [*c.items.image, 'm1.png', 'm2.png']: (tmp_path/f).touch()
    return Cohort(c.items, LABELS, c.rois, 'report', ['age', 'device'], root=tmp_path)

def test_complete(complete): assert complete.check() is complete

def test_a_missing_file_or_mask(complete):
    (complete.root/'m2.png').unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 9 files are missing: mask of 'c'; paths are relative to root="):
        complete.check()
    for f in ('0.png', '1.png', '2.png'): (complete.root/f).unlink()
    with pytest.raises(FileNotFoundError, match="4 of 9 .*image of '001'.* and 1 more"): complete.check()

@pytest.mark.parametrize('values', [[0]*4, [1]*4, [np.nan]*4, [0, np.nan, 0, 0]])
def test_nothing_to_learn(complete, values):
    c = Cohort(complete.items.assign(calc=values + [0, 1, 1]), LABELS, root=complete.root)
    with pytest.raises(ValueError, match="label 'calc' has only .* in the training split"): c.check()


# What follows from the tables

def test_take():
    c = cohort()
    t = c.take(['d', '010', '001'])
    assert t.items.image_id.tolist() == t.y().index.tolist() == ['d', '010', '001']
    assert t.rois.image_id.tolist() == ['010']
    assert (t.labels, t.text, t.tabular, t.root, t.task, t.name) == (c.labels, c.text, c.tabular, c.root, c.task,
                                                                     c.name)
    assert len(c.take([])) == 0 and len(c) == 7
    with pytest.raises(ValueError, match='unique'): c.take(['d', 'd'])
    with pytest.raises(KeyError, match='unheard'): c.take(['d', 'unheard'])

@pytest.mark.parametrize('dtype', ['Int64', 'boolean', 'Float64', object])
def test_labels_of_any_type(dtype):
    c = Cohort(items(mass=pd.array([1, 0, None, 1, 0, 1, 0], dtype=dtype)), LABELS)
    assert (c.y().dtypes == float).all() and c.y().mass.isna().tolist() == [False, False, True] + [False]*4
    assert c.counts().mass.tolist() == [2, 0, 1] and c.counts()['blank labels'].tolist() == [1, 0, 0]

def test_the_callers_tables_stay_as_they_were():
    t, r, labels = items(patient_id=[7, 7, 8, 9, 10, 11, 12]), rois(), list(LABELS)
    before = t.copy(), r.copy()
    c = Cohort(t, labels, r, tabular=['age'])
    c.items.loc[0, 'mass'] = 1; c.rois.loc[0, 'x0'] = 3; c.labels.append('more')
    pd.testing.assert_frame_equal(t, before[0]); pd.testing.assert_frame_equal(r, before[1])
    assert labels == LABELS

def test_it_shows_itself():
    head = "Cohort 'cohort' (multilabel); privileged: report 'report'; metadata age, device\n"
    assert repr(cohort()).startswith(head)
    assert 'privileged: nothing' in repr(Cohort(items(), LABELS)) and '<table' in Cohort(items(), LABELS)._repr_html_()


# Fingerprints

@pytest.mark.parametrize('change', [replaced('mass', 0, 1), replaced('calc', 2, 0), replaced('image', 6, 'other.png'),
                                    replaced('patient_id', 0, '77'), replaced('split', 6, 'valid'),
                                    replaced('age', 1, 50.500000000000007), replaced('device', 3, 'A'),
                                    replaced('report', 3, 'line one line two')])
def test_a_fingerprint_knows_the_items(change): assert cohort(**change).fingerprint() != cohort().fingerprint()

@pytest.mark.parametrize('change', [dict(x0=[0, 1, 1.9]), dict(y1=[4, 5, 7]), dict(label=['mass', 'calc', 'mass']),
                                    dict(image_id=['002', '001', 'c']), dict(mask=['m1.png', 'm3.png', 'm2.png'])])
def test_a_fingerprint_knows_the_regions(change): assert cohort(rois(**change)).fingerprint() != cohort().fingerprint()

def test_a_fingerprint_knows_the_names_but_not_the_place():
    c = cohort()
    others = [Cohort(c.items, LABELS[::-1], c.rois, 'report', ['age', 'device']), cohort(text=None),
              cohort(tabular=['age']), cohort(rois=None), c.split('train')]
    assert len({o.fingerprint() for o in others + [c]}) == 6
    assert Cohort(c.items, LABELS, c.rois, 'report', ['age', 'device'], root='/elsewhere',
                  name='other').fingerprint() == c.fingerprint()

def test_a_fingerprint_does_not_tell_4_from_4_0():
    whole = rois(x0=[0, 1, 2], y0=[0, 1, 2])
    assert cohort(whole).fingerprint() == cohort(whole.astype(dict.fromkeys(BOX,
        float))).fingerprint() == cohort(whole.astype(dict.fromkeys(BOX, object))).fingerprint()

@pytest.fixture
def files(tmp_path):
    "The two tables as .csv, .csv.gz and .parquet"
    for name, t in (('items', items()), ('rois', rois())):
        t.to_csv(tmp_path/f'{name}.csv', index=False); t.to_csv(tmp_path/f'{name}.csv.gz', index=False)
        t.to_parquet(tmp_path/f'{name}.parquet')
    return tmp_path

def load(files, kind='.csv'):
    return Cohort.from_table(files/f'items{kind}', LABELS, files/f'rois{kind}', text='report',
                             tabular=['age', 'device'])

def test_a_fingerprint_is_the_same_in_every_process(files):
    code = """import sys
from mmpkd.cohort import Cohort
c = Cohort.from_table(sys.argv[1], ['mass', 'calc'], sys.argv[2], text='report', tabular=['age', 'device'])
print(c.fingerprint())"""
    runs = [subprocess.run([sys.executable, '-c', code, files/'items.csv', files/'rois.csv'],
                           env=os.environ | dict(PYTHONHASHSEED=seed), capture_output=True, text=True, check=True)
                           for seed in ('1', '2')]
    assert {r.stdout.strip() for r in runs} == {load(files).fingerprint()}


# Tables on disk

@pytest.mark.parametrize('kind', ['.csv', '.csv.gz', '.parquet'])
def test_from_files(files, kind):
    c = load(files, kind)
    # zeros survive
    assert c.items.image_id.tolist() == ['001', '002', '010', '0a', 'b', 'c', 'd'] and c.items.patient_id[0] == '07'
    assert c.rois.image_id.tolist() == ['002', '010', 'c'] and c.rois['mask'].isna().tolist() == [False, True, False]
    pd.testing.assert_frame_equal(c.y(), cohort().y())
    assert c.items.report[3] == 'line one\nline two' and pd.isna(c.items.report[2])
    assert c.items.report[5] == 'ein Rundherd: größer'
    assert c.fingerprint() == load(files).fingerprint()

@pytest.mark.parametrize('kind', ['.csv', '.csv.gz', '.parquet'])
def test_from_renamed_columns(tmp_path, kind):
    t = items(image_id=['001', '002', '010', '011', '100', '101', '110']).rename(columns=dict(image_id='File',
        patient_id='Woman', split='Set', image='Path'))
    t.to_parquet(tmp_path/'t.parquet') if kind == '.parquet' else t.to_csv(tmp_path/f't{kind}', index=False)
    c = Cohort.from_table(tmp_path/f't{kind}', LABELS, rois(image_id=['002', '010', '101']), image_id='File',
                          patient_id='Woman', split='Set', image='Path')
    assert c.items.image_id.tolist() == t.File.tolist() and c.items.patient_id.tolist() == t.Woman.tolist()
    assert c.split('test').items.image.tolist() == ['5.png', '6.png']

def test_from_a_table_without_patients():                               # each image stands for itself
    c = Cohort.from_table(items().drop(columns='patient_id'), LABELS, patient_id='image_id')
    assert c.items.patient_id.tolist() == c.items.image_id.tolist() == items().image_id.tolist()

def test_from_a_table_that_has_both_names():
    "The column that was asked for wins, or the error says what is the matter"
    t = items(woman=items().patient_id, patient_id='unknown')
    try: c = Cohort.from_table(t, LABELS, patient_id='woman')
    except ValueError as e: assert "'patient_id'" in str(e)
    else: assert c.items.patient_id.tolist() == t.woman.tolist()

def test_one_label_by_its_name(files): assert Cohort.from_table(files/'items.csv', 'mass').labels == ['mass']

def test_files_that_are_none(files):
    with pytest.raises(FileNotFoundError, match='no table at .*gone.csv'): read_table(files/'gone.csv')
    (files/'t.xlsx').touch()
    with pytest.raises(ValueError, match=r't.xlsx: .* save it as .csv'): read_table(files/'t.xlsx')
    with pytest.raises(ValueError, match="the table has no column 'nodule'; its columns are image_id"):
        Cohort.from_table(files/'items.csv', ['nodule'])
    with pytest.raises(ValueError, match="items has no column 'note'"):
        Cohort.from_table(files/'items.csv', LABELS, text='note')

@pytest.mark.parametrize('sep,encoding', [(',', 'utf-8-sig'), (';', 'utf-8'), (';', 'utf-8-sig'), ('\t', 'utf-8')])
def test_separators_and_byte_order_marks(tmp_path, sep, encoding):
    f = tmp_path/('t.tsv' if sep == '\t' else 't.csv')
    items().to_csv(f, sep=sep, index=False, encoding=encoding)
    pd.testing.assert_frame_equal(read_table(f), read_table(tmp_path/'t.csv')
                                  if sep != '\t' else pd.read_csv(f, sep=sep, dtype=dict(image_id=str, patient_id=str)))
    c = Cohort.from_table(f, LABELS, text='report', tabular=['age', 'device'])
    assert c.items.image_id.tolist() == items().image_id.tolist() and c.items.report[3] == 'line one\nline two'
    assert c.items.age[1] == 50.5

def test_decimal_commas_are_numbers_only_in_tables_with_semicolons(tmp_path):
    (tmp_path/'t.csv').write_text('image_id;dose;code;mixed\n1,5;1,5;A;1,5\n2;-2;B;n/k\n3;;C;2\n')
    t = read_table(tmp_path/'t.csv')
    assert t.dose.tolist()[:2] == [1.5, -2.] and np.isnan(t.dose[2]) and t.image_id[0] == '1,5' and t.mixed[0] == '1,5'
    (tmp_path/'t.csv').write_text('image_id,dose\n1,"1,5"\n')
    assert read_table(tmp_path/'t.csv').dose.tolist() == ['1,5']

@pytest.mark.parametrize('damage', [lambda b: b[:len(b)//2], lambda b: b[:-4], lambda b: b'no gzip at all',
                                    lambda b: b''])
def test_a_damaged_gzip_names_its_file(tmp_path, damage):
    items().to_csv(tmp_path/'t.csv.gz', index=False)
    (tmp_path/'t.csv.gz').write_bytes(damage((tmp_path/'t.csv.gz').read_bytes()))
    with pytest.raises(ValueError, match='cannot read the table .*t.csv.gz'): read_table(tmp_path/'t.csv.gz')

@pytest.mark.parametrize('name,data', [('t.csv', b''),
                                       ('t.csv', 'image_id,Grösse\n1,размер\n'.encode('cp1251', 'ignore')),
                                       ('t.parquet', b'PAR1 not'), ('t.csv', b'a,b\n1,2\n1,2,3\n')])
def test_a_file_that_is_no_table_names_itself(tmp_path, name, data):
    (tmp_path/name).write_bytes(data)
    with pytest.raises(ValueError, match=f'cannot read the table .*{name}'): read_table(tmp_path/name)

@pytest.mark.parametrize('path', ['../x.png', '/etc/x.png', 'a/../../x.png', 'C:\\x.png', '..', 'a\\..\\x.png'])
def test_paths_that_leave_the_root(path):
    with pytest.raises(ValueError, match="image path of image '010' leaves the root"):
        cohort(**replaced('image', 2, path))
    with pytest.raises(ValueError, match="mask path of image '002' leaves the root"):
        cohort(rois(mask=[path, None, 'm2.png']))

@pytest.mark.parametrize('path', ['a..b.png', '..a/x.png', 'a/b.c/..x.png', './x.png'])
def test_paths_that_only_look_so(path): assert cohort(**replaced('image', 2, path)).items.image[2] == path

@pytest.mark.parametrize('names', [BOX, ['x_min', 'y_min', 'x_max', 'y_max'], ['xmin', 'ymin', 'xmax', 'ymax'],
                                   ['x1', 'y1', 'x2', 'y2']])
def test_corners_of_any_name(names):
    t = as_boxes(pd.DataFrame([[1, 2, 4, 8]], columns=names).assign(label='mass', image_id='c'))
    assert t[BOX].to_numpy().tolist() == [[1, 2, 4, 8]] and t.label[0] == 'mass' and len(t.columns) == 6

@pytest.mark.parametrize('names', [['x', 'y', 'w', 'h'], ['x', 'y', 'width', 'height']])
def test_extents(names):
    assert as_boxes(pd.DataFrame([[1, 2, 3, 6]], columns=names))[BOX].to_numpy().tolist() == [[1, 2, 4, 8]]

@pytest.mark.parametrize('name', ['image_id', 'Scan'])
def test_boxes_may_name_their_image_as_the_table_does(tmp_path, name):
    rois().rename(columns=dict(image_id=name)).to_csv(tmp_path/'boxes.csv', index=False)
    c = Cohort.from_table(items().rename(columns=dict(image_id='Scan')), LABELS, tmp_path/'boxes.csv', image_id='Scan')
    assert c.rois.image_id.tolist() == ['002', '010', 'c']

def test_no_boxes_at_all():
    with pytest.raises(ValueError, match='needs the columns x0, y0, x1, y1 .*; it has image_id, left'):
        as_boxes(pd.DataFrame(dict(image_id=['a'], left=[1])))

def test_boxes_of_the_only_class():
    c = Cohort.from_table(items(), 'mass', rois().drop(columns='label'))
    assert c.rois.label.tolist() == ['mass']*3
    with pytest.raises(ValueError, match="no column 'label'"):
        Cohort.from_table(items(), LABELS, rois().drop(columns='label'))


# A split where there is none

@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from('abc')), min_size=40, max_size=120),
       st.sampled_from([0, .1, .3]), st.sampled_from([0, .2, .4]), st.integers(0, 5))
def test_a_split_keeps_patients_together(pairs, valid, test, seed):
    patients, strata = zip(*pairs)
    if len(set(patients)) < 4: return
    s = pd.Series(patient_split(patients, strata, valid, test, seed))
    assert s.groupby(np.array(patients)).nunique().max() == 1
    assert set(s) == {'train', *['valid']*(valid > 0), *['test']*(test > 0)}
    assert (s == patient_split(patients, strata, valid, test, seed)).all()

def test_a_split_is_stratified():
    rng = np.random.default_rng(1)
    patients, y = np.arange(1000), rng.random(1000) < .1
    s = patient_split(patients, y, .15, .2)
    assert {k: round(float((s == k).mean()), 2) for k in ('valid', 'test')} == dict(valid=.15, test=.2)
    assert all(abs(y[s == k].mean() - y.mean()) < .015 for k in ('train', 'valid', 'test'))
    assert (s != patient_split(patients, y, .15, .2, seed=1)).any()

def test_splits_that_cannot_be():
    with pytest.raises(ValueError, match='2 patients are too few for 3 splits'): patient_split([1, 1, 2], 'aab')
    with pytest.raises(ValueError, match='below 1, not 0.5 and 0.5'): patient_split([1, 2, 3], 'aab', .5, .5)

def test_from_a_table_without_a_split():
    t = pd.concat([items(image_id=[f'{k}{i}' for i in items().image_id],
                         patient_id=[f'{k}{i}' for i in items().patient_id]) for k in range(9)]).drop(columns='split')
    c = Cohort.from_table(t, LABELS, split=None, valid=.2, test=.3)
    assert (c.counts().images > 0).all()
    assert Cohort.from_table(t, LABELS, split=None, valid=.2, test=.3).fingerprint() == c.fingerprint()
    with pytest.raises(ValueError, match='split=None'): Cohort.from_table(t, LABELS)


# Repairs and parts

def test_repairs_stay_with_the_cohort():
    c = Cohort(items(), LABELS, repairs=repair_table([('a', '001', 'x'), ('b', '002', 'y'), ('a', '010', 'z')]))
    assert c.repair_counts().to_dict() == dict(a=2, b=1) and len(c.split('test').repairs) == 3
    assert '3 repairs' in repr(c) and '<td>2</td>' in c._repr_html_() and 'repairs' not in repr(cohort())
    assert cohort().repairs.columns.tolist() == ['repair', 'id', 'note']
    assert c.fingerprint() == Cohort(items(), LABELS).fingerprint()

def parts(**changes):
    t = pd.DataFrame(dict(image_id=['001_1', '001_2', 'c_1'], of=['001', '001', 'c'], patient_id=['07', '07', '11'],
                          split=['train', 'train', 'test'], image='x.png', mass=[0, 0, 1], calc=0,
                          shape=['oval', 'round', 'oval']))
    return Cohort(t.assign(**changes), LABELS, tabular=['shape'])

def test_parts_go_where_their_image_goes():
    c = Cohort(items(), LABELS, parts=parts())
    assert c.split('train').parts.items.image_id.tolist() == ['001_1', '001_2']
    assert c.split('test').parts.items.of.tolist() == ['c']
    assert len(c.split('valid').parts) == 0 and '3 parts' in repr(c)
    assert c.fingerprint() != Cohort(items(), LABELS).fingerprint() != Cohort(items(), LABELS,
        parts=parts(shape='oval')).fingerprint()

def test_parts_of_nothing():
    with pytest.raises(ValueError, match="part 'c_1' belongs to no image"):
        Cohort(items(), LABELS, parts=parts(of=['001', '001', 'z']))
    with pytest.raises(ValueError, match="part '001_1' .* in another split"):
        Cohort(items(), LABELS, parts=parts(split=['valid', 'valid', 'test']))
    with pytest.raises(ValueError, match='must be the same'): Cohort(items(), ['mass'], parts=parts())
    with pytest.raises(ValueError, match="image 'c' has a better label than its worst part"):
        Cohort(items(), LABELS, parts=parts(calc=[0, 0, 1]))
    with pytest.raises(ValueError, match="parts has no column 'of'"):
        Cohort(items(), LABELS, parts=Cohort(items(), LABELS))


def test_classes_go_from_best_to_worst():
    t = pd.DataFrame(dict(image_id=['a', 'b', 'c'], patient_id=['a', 'b', 'c'], split='train', image='x.png',
                          kind=['bad', 'good', 'bad'])).join(pd.DataFrame(dict(good=[0, 1, 0], bad=[1, 0, 1])))
    p = pd.DataFrame(dict(image_id=['a1', 'a2', 'b1', 'c1'], of=['a', 'a', 'b', 'c'], patient_id=['a', 'a', 'b', 'c'],
                          split='train', image='x.png', good=[1, 0, 1, 0], bad=[0, 1, 0, 1]))
    assert len(Cohort(t, ['good', 'bad'], task='multiclass',
                      parts=Cohort(p, ['good', 'bad'], task='multiclass')).parts) == 4
    with pytest.raises(ValueError, match="image 'a' has a better label .* from best to worst"):
        Cohort(t, ['bad', 'good'], task='multiclass', parts=Cohort(p, ['bad', 'good'], task='multiclass'))


# What is in the columns

def test_kinds_of_columns():
    t = pd.DataFrame(dict(name=[f'n{i}' for i in range(40)], number=range(1000, 1040),
        twice=[i//2*1000 for i in range(40)], code=[i % 4 for i in range(40)], yes=[i % 2 for i in range(40)],
        dose=np.arange(40)/7, site=['A', 'B']*20,
                          same=1, said=[f'a sentence of more than forty letters, number {i % 30}' for i in range(40)],
                          gone=np.nan))
    assert column_kinds(t).kind.to_dict() == dict(name='different in each row', number='different in each row',
        twice='amount', code='category', yes='0/1', dose='amount', site='category', same='constant', said='text',
        gone='constant')
    assert column_kinds(t).missing['gone'] == 1 and column_kinds(t)['values']['code'] == 4

def test_a_table_that_is_a_table_is_not_copied():
    t = items()
    assert read_table(t) is t


# Tables as people have them. The family: each byte of a file is read as its writer meant it, or refused in words,
# or counted in `repairs`.

def written(folder, text, name='t.csv', encoding='utf-8', **kwargs):
    "The table of a file with this text, and what was converted: kind of repair -> columns"
    (folder/name).write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    t, repairs = read_noted_table(folder/name, **kwargs)
    return t, repairs.groupby('repair').id.agg(list).to_dict()

WORDS = ['None', 'NA', 'N/A', 'n/a', 'null', 'NULL', 'nan', 'NaN', '<NA>', '#N/A', 'none']

@pytest.mark.parametrize('word', WORDS)
def test_a_word_stays_a_word_among_words(tmp_path, word):
    t, repairs = written(tmp_path, f'image_id,finding,site\n{word},{word},A\nb,Mass,{word}\nc,,B\n')
    assert t.image_id[0] == t.finding[0] == t.site[1] == word and pd.isna(t.finding[2]) and repairs == {}

@pytest.mark.parametrize('word', [*WORDS, '-', '?', '.', '#DIV/0!', ' NA '])
def test_the_same_word_is_a_blank_among_numbers(tmp_path, word):
    t, repairs = written(tmp_path, f'image_id,age,flag\na,61,True\nb,{word},{word}\nc,7,False\n')
    assert t.age.tolist()[::2] == [61, 7] and pd.isna(t.age[1])
    assert t.flag.tolist()[::2] == [True, False] and pd.isna(t.flag[1])
    assert repairs == {'words among numbers taken for blanks': ['age', 'flag']}

def test_words_that_are_blank_in_a_whole_file(tmp_path):                 # as R writes them
    t, _ = written(tmp_path, 'image_id,finding,age\na,NA,NA\nb,mass,3\n', blanks=('NA',))
    assert pd.isna(t.finding[0]) and t.finding[1] == 'mass' and t.age[1] == 3
    assert written(tmp_path, 'image_id,v\na,None\nb,n/a\n', blanks=BLANKS)[0].v.isna().all()

@pytest.mark.parametrize('word', WORDS)
def test_a_class_that_is_called_so(tmp_path, word):
    rows = [f'i{k},p{k},{s},i{k}.png,{c}' for k,
            (s, c) in enumerate((s, c) for s in ('train', 'valid', 'test') for c in (word, 'Mass'))]
    (tmp_path/'t.csv').write_text('image_id,patient_id,split,image,finding\n' + '\n'.join(rows))
    c = Cohort.from_table(tmp_path/'t.csv', 'finding', task='multiclass')
    assert sorted(c.labels) == sorted([word, 'Mass']) and c.y().notna().all(axis=None)
    said = {'words that may mean a blank kept as words': 1} if word != 'none' else {}
    assert c.repair_counts().to_dict() == said

@pytest.mark.parametrize('header', ['image_id,y,y', 'image_id, y,y ', 'image_id;y;y'])
def test_a_doubled_column(tmp_path, header):
    with pytest.raises(ValueError, match="more than one column is called 'y'"):
        written(tmp_path, header + '\n' + ','.join('a01') + '\n')

@pytest.mark.parametrize('text,values,kinds', [
    ('v\n"1,234"\n"12,345.5"\n7', [1234, 12345.5, 7], ['thousands separators removed']),
    ('v\n"1,234,567"\n-2\n+3', [1234567, -2, 3], ['thousands separators removed']),
    ("v\n1'234.5\n2\n3e2", [1234.5, 2, 300], ['thousands separators removed']),
    ('v\n 1\n2 \n 3.5 ', [1, 2, 3.5], []),
    ('v\n\u22121\n2\n3', [-1, 2, 3], []),
    ('v;\n1.234,5;\n2;\n3,25;', [1234.5, 2, 3.25], ['decimal commas read', 'thousands separators removed']),
    ('v;\n1 234,5;\n2\u00a0345,5;\n3;', [1234.5, 2345.5, 3], ['decimal commas read', 'thousands separators removed']),
    ('v;\n1,5e-3;\n+2,5;\n ,5 ;', [.0015, 2.5, .5], ['decimal commas read']),
    ('v;w\n1.234;0,5\n999;1,5\n2.000;2,5', [1234, 999, 2000], ['decimal commas read', 'thousands separators removed']),
    ('v;w\n1.234;5\n999;1\n2.000;2', [1.234, 999, 2], []),
    ('v\tw\n1,5\ta\n2,25\tb\n3\tc', [1.5, 2.25, 3], ['decimal commas read']),
    ('v\tw\n1,234.5\ta\n2\tb\n3\tc', [1234.5, 2, 3], ['thousands separators removed'])])
def test_numbers_as_people_write_them(tmp_path, text, values, kinds):
    rows = text.split('\n')
    sep = next((s for s in ';\t' if s in text), ',')
    t, repairs = written(tmp_path, '\n'.join(f'{"image_id" if k == 0 else k}{sep}{r}' for k, r in enumerate(rows)))
    assert t.v.tolist() == values and sorted(repairs) == kinds

@pytest.mark.parametrize('text', ['image_id\tv\na\t1,500\nb\t2,250\n', 'image_id;v\na;1.5\nb;2,5\n',
                                  'image_id,v\na,"1,5"\nb,2\n'])
def test_numbers_that_nobody_can_read_are_said_to_be_words(tmp_path, text):
    t, repairs = written(tmp_path, text)
    assert isinstance(t.v[0], str) and repairs == {'numbers that can be read in two ways left as words': ['v']}

@pytest.mark.parametrize('text', ['1.2.2024', '12:30', '2024-01-05', '1;2', '10.0.0.1', '1,2,3', '1/2', 'IV', '0x1F',
                                  '5 mm'])
def test_what_only_looks_like_a_number(tmp_path, text):
    t, repairs = written(tmp_path, f'image_id,v\na,"{text}"\nb,"{text}"\n')
    assert t.v.tolist() == [text]*2 and repairs == {}

@pytest.mark.parametrize('column', ['image_id', 'scan_id', 'image', 'mask', 'Scan'])
def test_names_of_digits(tmp_path, column):
    t, repairs = written(tmp_path, f'{column},v\n0001,1\n12,2\n', ids=('Scan',))
    assert t[column].tolist() == ['0001', '12'] and repairs == {}

@pytest.mark.parametrize('values', [['0001', '12'], ['00000001', '00000012'],
                                    ['12345678901234567890', '12345678901234567891']])
def test_names_of_digits_in_a_column_that_nobody_named(tmp_path, values):
    t, repairs = written(tmp_path, 'image_id,file\na,{}\nb,{}\n'.format(*values))
    assert t.file.tolist() == values and repairs == {'whole numbers kept as names': ['file']}
    assert written(tmp_path, 'image_id,v\na,0\nb,0.5\n')[0].v.tolist() == [0, .5]

def test_files_of_digits_in_any_column(tmp_path):
    rows = [f'i{k},p{k},train,{k + 10},{k % 2}' for k in range(4)]
    (tmp_path/'t.csv').write_text('image_id,patient_id,split,File,y\n' + '\n'.join(rows))
    c = Cohort.from_table(tmp_path/'t.csv', 'y', image='File')
    assert c.items.image.tolist() == ['10', '11', '12', '13']
    t = items(image=[1., 2, 3, 4, 5, 6, 7])                              # floats, after a blank
    assert Cohort.from_table(t, LABELS).items.image.tolist() == list('1234567')

PEOPLE = 'image_id,patient_id,y\na,Müller,0\nb,Ångström,1\n'

@pytest.mark.parametrize('name', ['t.CSV', 't.Tsv', 't.txt', 't.TXT'])
def test_suffixes(tmp_path, name):
    t, repairs = written(tmp_path, PEOPLE.replace(',', '\t') if 'sv' in name[3:] else PEOPLE, name)
    assert t.patient_id.tolist() == ['Müller', 'Ångström'] and repairs == {}

@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32', 'latin-1',
                                      'cp1252'])
def test_encodings(tmp_path, encoding):
    t, repairs = written(tmp_path, PEOPLE, encoding=encoding)
    assert t.patient_id.tolist() == ['Müller', 'Ångström'] and list(t) == ['image_id', 'patient_id', 'y']
    assert repairs == ({'letters read as Windows-1252': ['t.csv']} if encoding in ('latin-1', 'cp1252') else {})

@pytest.mark.parametrize('data', ['image_id,who\n1,Иванов\n'.encode('cp1251'), 'image_id,who\n1,患者甲\n'.encode('gbk'),
                                  'image_id,who\n1,患者甲乙\n'.encode('shift-jis', 'ignore'),
                                  ('image_id,who\n' + '1,größe\n'*9).encode() + b'2,gr\xf6\xdfe\n',
                                  PEOPLE.encode()[:-14] + b'\xe5'])
def test_encodings_that_cannot_be_told(tmp_path, data):
    with pytest.raises(ValueError, match=r't.csv: line \d+ is not UTF-8.*save the file as UTF-8'):
        written(tmp_path, data)

@pytest.mark.parametrize('data', [b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0', b'\0'*3 + b'\x07abc'*40])
def test_a_picture_is_no_table(tmp_path, data):
    with pytest.raises(ValueError, match='not a file of text'): written(tmp_path, data)

@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
def test_ends_of_lines(tmp_path, end): assert written(tmp_path, PEOPLE.replace('\n', end))[0].y.tolist() == [0, 1]

@pytest.mark.parametrize('name', ['t.xls', 't.ods', 't.sav', 't'])
def test_other_suffixes_say_what_to_save(tmp_path, name):
    with pytest.raises(ValueError, match=f'{name}: it must be a .csv, .tsv, .txt .* file; save it as .csv'):
        written(tmp_path, PEOPLE, name)

def test_blanks_after_commas(tmp_path):
    t, repairs = written(tmp_path, 'image_id, patient_id, note\na, p, "x, y"\nb, q, z\n')
    assert t.to_dict('list') == dict(image_id=['a', 'b'], patient_id=['p', 'q'], note=['x, y', 'z'])
    assert list(repairs) == ['blanks after separators removed']

@pytest.mark.parametrize('head', ['# export of 2024\n', '# a, b, c\n#\n', 'Export of the PACS\n\n', 'Export,,\n',
                                  '\n\n"Two\nlines"\n'])
def test_lines_above_the_header(tmp_path, head):
    t, repairs = written(tmp_path, head + 'image_id,patient_id,y\na,p,0\nb,q,1\n')
    assert list(t) == ['image_id', 'patient_id', 'y']
    assert t.y.tolist() == [0, 1]
    assert list(repairs) == ['lines above the header passed over']

@pytest.mark.parametrize('text,line', [('a,b\n1,2\n1,2,3\n', 3), ('a,b\n1,2,3\n1,2,3\n', 2), ('a,b,c\n1,2,3\n1,2\n', 3),
                                       ('a,b\n1,"x\ny"\n1\n', 4),
                                       ('a,b\n1,2\nTotal: 1\n', 3), ('a;b\n1;2\n1;2;3\n', 3)])
def test_a_row_with_other_cells_names_its_line(tmp_path, text, line):
    with pytest.raises(ValueError, match=rf't.csv: line {line} has \d cells?, the header \d names'):
        written(tmp_path, text)

def test_an_open_quote_swallows_no_rows(tmp_path):
    with pytest.raises(ValueError, match='a quote in line 3 is never closed'):
        written(tmp_path, 'a,b\n1,2\n1,"5 mm\n1,2\n1,2\n')
    assert written(tmp_path, 'a,b\n1,2\n1,5" mm\n')[0].b.tolist() == ['2', '5" mm']

@pytest.mark.parametrize('text', ['a,b\n1,2,\n3,4,\n', 'a,b\n1,2\n3,4\n,\n,\n', 'a,b\n1,2,,,\n3,4,,\n',
                                  'a,b\n\n1,2\n  \n3,4'])
def test_cells_with_nothing_in_them_shift_no_column(tmp_path, text):
    t, repairs = written(tmp_path, text)
    assert t.to_dict('list') == dict(a=[1, 3], b=[2, 4]) and repairs == {}

def test_columns_without_a_name(tmp_path):  # as to_csv writes the index, and NIH its last comma
    assert list(written(tmp_path, ',a,b\n0,1,2\n1,3,4\n')[0]) == ['Unnamed: 0', 'a', 'b']
    t, _ = written(tmp_path, 'a,b,\n1,2,\n3,4\n')
    assert list(t) == ['a', 'b', 'Unnamed: 2'] and t['Unnamed: 2'].isna().all()

@given(st.lists(st.lists(st.text('ab ,;"\n\t0.1é', max_size=6), min_size=3, max_size=3), min_size=2, max_size=6))
def test_what_pandas_writes_is_read_back(tmp_path_factory, rows):
    f = tmp_path_factory.mktemp('t')/'t.csv'
    t = pd.DataFrame(rows, columns=['first', 'second', 'third'])
    t.to_csv(f, index=False)
    seen = read_table(f, ids=tuple(t))
    kept = [r for r in rows if any(c.strip() for c in r)]                # empty rows go
    assert seen.fillna('').to_numpy().tolist() == kept

def test_a_workbook(tmp_path):
    openpyxl = pytest.importorskip('openpyxl')
    book = openpyxl.Workbook()
    for row in (['image_id', 'patient_id', 'age', 'dose', 'note'], ['a', 7, 61, 1.5, 'None'],
                ['b', 8., None, 2, 'x, "y"'], [None]*5):
        book.active.append(row)
    book.create_sheet('more')
    book.save(tmp_path/'t.XLSX')
    t, repairs = read_noted_table(tmp_path/'t.XLSX')
    assert t.patient_id.tolist() == ['7', '8']
    assert t.dose.tolist() == [1.5, 2]
    assert t.note.tolist() == ['None', 'x, "y"']
    assert pd.isna(t.age[1])
    assert repairs.repair.tolist() == ['other sheets passed over']

def test_a_workbook_without_its_reader(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'openpyxl', None)
    (tmp_path/'t.xlsx').touch()
    with pytest.raises(ValueError,
                       match=r't.xlsx: a workbook needs openpyxl \(pip install .mmpkd\[excel\].\); or save it as .csv'):
        read_table(tmp_path/'t.xlsx')

def test_records(tmp_path):
    t, _ = written(tmp_path, json.dumps([dict(image_id='a', syms=['x', 'y'], age=3),
                                         dict(image_id='b', syms=[], age=None)]), 't.json')
    assert t.syms.tolist() == [['x', 'y'], []] and column_kinds(t).kind['syms'] == 'different in each row'
    for text in ('{"a": 1}', '[1, 2]', '[]', 'no json', '{"annotations": []}'):
        with pytest.raises(ValueError, match='cannot read the table .*t.json'): written(tmp_path, text, 't.json')


# From any table to a cohort: names, people, paths, rows

def made(table, labels=LABELS, rois=None, **kwargs):
    "A cohort from a table, and its repairs by kind"
    c = Cohort.from_table(table, labels, rois, **kwargs)
    return c, c.repair_counts().to_dict()

def test_repairs_of_the_file_are_those_of_the_cohort(tmp_path):
    items(age=['40', 'NA', '60', '70', '1', '30', '20']).to_csv(tmp_path/'t.csv', index=False)
    c, repairs = made(tmp_path/'t.csv')
    assert repairs == {'words among numbers taken for blanks': 1}
    t, read = read_noted_table(tmp_path/'t.csv')
    assert made(t, repairs=read)[1] == repairs and made(items())[1] == {}

def test_each_image_its_own_patient():
    c, repairs = made(items().drop(columns='patient_id'), patient_id=None)
    assert c.items.patient_id.tolist() == c.items.image_id.tolist()
    assert repairs == {'no patient column: each image is its own patient': 1}
    t = items(image_id=[f'{k}' for k in range(7)]).drop(columns=['patient_id', 'split'])
    assert set(made(t, patient_id=None, split=None)[0].items.split) == {'train', 'valid', 'test'}

WAYS = [('Patient 1', 'Patient 1 '), ('Smith', 'SMITH'), ('Müller', 'Mu\u0308ller'), ('Ann Lee', 'Ann  Lee'),
        ('A1', '\uff211'), ('straße', 'STRASSE'), ('x', '\u00a0x')]

@pytest.mark.parametrize('a,b', WAYS)
def test_one_patient_written_in_two_ways(a, b):
    n = 120
    t = pd.DataFrame(dict(image_id=[f'i{k}' for k in range(n)],
                          patient_id=[f'{k//2} {(a, b)[k % 2]}' if k else f'0 {a}'
                                      for k in range(n)], image='x.png', y=np.arange(n) % 3 % 2))
    c, repairs = made(t, 'y', split=None)
    assert (c.items.split[::2].to_numpy() == c.items.split[1::2].to_numpy()).all()
    assert c.items.patient_id.nunique() == n//2
    assert set(repairs) <= {'patient written in several ways taken as one', 'blanks around words removed'}
    assert sum(repairs.values()) > 0
    assert not any(a.strip() in note for note in c.repairs.note), 'patients are not named'

def test_007_and_7():
    n = 120
    t = pd.DataFrame(dict(image_id=[f'i{k}' for k in range(n)],
                          patient_id=[f'{"00" if k % 2 else ""}{k//2 + 1}'
                                      for k in range(n)], image='x.png', y=np.arange(n) % 3 % 2))
    c, repairs = made(t, 'y', split=None)
    assert (c.items.split[::2].to_numpy() == c.items.split[1::2].to_numpy()).all() and c.items.patient_id.nunique() == n
    assert repairs == {'patients that differ in zeros in front kept in one split': n//2}

@pytest.mark.parametrize('other', ['P7', '007', 'p007'])
def test_a_given_split_names_who_may_be_in_two(other):
    c, repairs = made(items(patient_id=['p7', 'p7', '7', '9', '10', other, '12']))
    assert repairs == {'patient perhaps in two splits, written in two ways': 2 if other == '007' else 3}

@pytest.mark.parametrize('column', ['image_id', 'patient_id', 'image', 'split', 'device'])
def test_blanks_around_words(column):
    t = items(device=list('ABABABA'))
    t.loc[0, column] = f' {t.loc[0, column]} '
    c, repairs = made(t, tabular=['device'])
    assert c.items[column][0] == items(device=list('ABABABA'))[column][0]
    assert repairs == {'blanks around words removed': 1}

def test_a_patient_with_a_blank_in_two_splits_is_found():
    with pytest.raises(ValueError, match='1 patients are in more than one split'):
        made(items(patient_id=['07', '07', '8', '9', '07 ', '11', '12']))

@pytest.mark.parametrize('blank', [None, np.nan, ' '])
@pytest.mark.parametrize('column', ['image_id', 'patient_id', 'image'])
@pytest.mark.parametrize('split', ['split', None])
def test_a_blank_name(column, blank, split):
    t = items().astype(object)
    t.loc[4, column] = blank
    with pytest.raises(ValueError, match=f"'{column}' is blank in row 5"): made(t, split=split)

@pytest.mark.parametrize('root,path', [('/data/us', '/data/us/img/a.png'), ('/data/us/', '/data/us/img/a.png'),
                                       ('C:\\us', 'C:\\us\\img\\a.png'), ('C:/us', 'c:\\US\\img\\a.png'),
                                       ('.', 'img\\a.png'), ('.', 'CWD/img/a.png'),
                                       ('\\\\host\\share', '\\\\host\\share\\img\\a.png')])
def test_paths_below_the_root(root, path):
    path = path.replace('CWD', os.getcwd())
    out, notes = inside_root(pd.Series([path, None], name='image'), root)
    assert out[0] == 'img/a.png'
    assert pd.isna(out[1])
    assert 1 <= len(notes) <= 2
    assert all(n[1:] == ('image', '1 paths') for n in notes)

@pytest.mark.parametrize('path', ['/data/us2/a.png', '/data/us/../x.png', '/elsewhere/data/us/a.png', '../us/a.png',
                                  'C:\\data\\us\\a.png'])
def test_paths_beside_the_root(path):
    with pytest.raises(ValueError, match="image path of image '010' leaves the root"):
        made(items(**replaced('image', 2, path)), root='/data/us')

def test_absolute_paths_of_images_and_masks(tmp_path):
    for f in [f'{k}.png' for k in range(7)] + ['m.png']: (tmp_path/f).touch()
    c, repairs = made(items(image=[str(tmp_path/f'{k}.png') for k in range(7)]), rois=rois(mask=str(tmp_path/'m.png')),
                      root=tmp_path)
    assert c.check() is c
    assert c.rois['mask'].tolist() == ['m.png']*3
    assert repairs == {'absolute paths made relative to root': 1}

def test_paths_from_a_pattern():
    c, _ = made(items(device='A'), image='{split}/{image_id}_{device}.dcm')
    assert c.items.image[0] == 'train/001_A.dcm'
    with pytest.raises(ValueError, match="no column 'scan'"): made(items(), image='{scan}.dcm')
    with pytest.raises(ValueError, match="row 4 of the table has a blank in device"):
        made(items(), image='{device}.dcm')
    with pytest.raises(ValueError, match="no column 'picture'"): made(items(), image='picture')

def test_rows_of_one_image():
    t = pd.concat([items(reader=1, x0=1), items(reader=2, x0=5)], ignore_index=True)
    c, repairs = made(t, tabular=['age'])
    assert c.items.image_id.tolist() == items().image_id.tolist() and repairs == {'rows of one image merged': 7}
    assert not {'reader', 'x0'} & set(c.items)
    assert Cohort.from_table(items(), LABELS, tabular=['age']).fingerprint() == c.fingerprint()
    for column, value in dict(mass=1, age=41, split='test', patient_id='x', image='y.png').items():
        t = pd.concat([items(), items().head(1).assign(**{column: value})])
        with pytest.raises(ValueError,
                           match=f"image_id must be unique: image '001' has rows that differ in '{column}'"):
            made(t, tabular=['age'])


# Labels in words

@pytest.mark.parametrize('yes,no', [('yes', 'no'), ('Y', 'N'), ('TRUE', 'false'), ('positive', 'Negative'), ('1', '0'),
                                    ('1.0', '0.0'), ('present ', 'absent')])
def test_labels_of_two_words(yes, no):
    c, repairs = made(items(mass=[no, yes, yes, no, no, yes, None]), 'mass')
    assert c.y().mass.tolist()[:6] == [0, 1, 1, 0, 0, 1]
    assert np.isnan(c.y().mass.iloc[6])
    assert repairs == {'words of a label read as 1 and 0': 1}

@pytest.mark.parametrize('values', [['benign', 'malignant'], ['yes', 'perhaps'], ['0', '2'], ['mass|calc', 'mass'],
                                    ['yes', '-1']])
def test_labels_of_other_words(values):
    with pytest.raises(ValueError,
                       match="label column 'mass' holds .*; a label must be 1, 0 or blank.*multiclass.*label_sep"):
        made(items(mass=[*values, '1', '1', '1', '1', '1']), 'mass')

def test_an_uncertain_label_says_what_to_do():
    with pytest.raises(ValueError, match="is -1; .* often means uncertain: make it 0, 1 or blank"):
        made(items(mass=[-1, 0, 1, 0, 1, 0, 1]))
    with pytest.raises(ValueError, match="is 2; a label must be 0, 1 or blank$"):
        made(items(mass=[2, 0, 1, 0, 1, 0, 1]))

def test_labels_of_a_file_in_words(tmp_path):
    items(mass=['Yes', 'no', '', 'No', 'yes', 'N/A', 'no']).to_csv(tmp_path/'t.csv', index=False)
    assert made(tmp_path/'t.csv', 'mass')[0].y().mass.fillna(9).tolist() == [1, 0, 9, 0, 1, 9, 0]

@pytest.mark.parametrize('sep,cells', [('|', ['a|b', 'No Finding', None, 'b', 'c', 'no findings', ' a | c ']),
                                       (';', ['a;b', 'No Finding', None, 'b', 'c', 'NO FINDING', 'a;c;']),
                                       (', ', ['a, b', 'No Finding', None, 'b', 'c', 'No Finding', 'a, c'])])
def test_several_labels_in_a_cell(tmp_path, sep, cells):
    items(found=cells).to_csv(tmp_path/'t.csv', index=False)
    c, _ = made(tmp_path/'t.csv', 'found', label_sep=sep)
    assert c.labels == ['a', 'b', 'c']
    assert c.y().fillna(9).to_numpy().tolist() == [[1, 1, 0], [0]*3, [9]*3, [0, 1, 0], [0, 0, 1], [0]*3, [1, 0, 1]]
    assert made(tmp_path/'t.csv', ['found'], label_sep=sep, classes=['c', 'a'])[0].labels == ['c', 'a']

def test_label_columns_that_cannot_be():
    t = items(found=list('abcabca'))
    with pytest.raises(ValueError, match="no image has the class 'x' in 'found'; its classes are a, b, c"):
        made(t, 'found', label_sep='|', classes=['a', 'x'])
    with pytest.raises(ValueError, match='label_sep goes with one column'): made(t, ['found', 'mass'], label_sep='|')
    with pytest.raises(ValueError, match="classes goes with one label column"): made(t, 'mass', classes=['a'])
    with pytest.raises(ValueError, match="the table has a column 'age', which is also a class in 'found'"):
        made(items(found=['age', *'bcabca']), 'found', task='multiclass')
    with pytest.raises(ValueError, match="the classes of 'found' are a, b, c, not a, b"):
        made(t, 'found', task='multiclass', classes=['a', 'b'])

@pytest.mark.parametrize('values', [[1, 2, 3, 1, 2, 3, 1], [1, 2, 3, 1, 2, 3, None], [1., 2, 3, 1, 2, 3, np.nan],
                                    list('1231231'), ['1', '2', '3', '1', '2', '3', None],
                                    ['1.0', '2.0', '3.0', '1.0', '2.0', '3.0', '']])
@pytest.mark.parametrize('file', [True, False])
def test_numbers_as_class_names(tmp_path, values, file):
    t, boxes = items(kind=values), rois(label=[2, 3, np.nan]).head(2).drop(columns='mask')
    if file:
        t.to_csv(tmp_path/'t.csv', index=False)
        boxes.to_csv(tmp_path/'b.csv', index=False)
        t, boxes = tmp_path/'t.csv', tmp_path/'b.csv'
    c, _ = made(t, 'kind', boxes, task='multiclass')
    assert c.labels == ['1', '2', '3'] and c.rois.label.tolist() == ['2', '3'] and c.y().iloc[0].tolist() == [1, 0, 0]

def test_classes_with_zeros_in_front(tmp_path):
    items(kind=['01', '02', '03', '01', '02', '03', '01']).to_csv(tmp_path/'t.csv', index=False)
    assert made(tmp_path/'t.csv', 'kind', task='multiclass')[0].labels == ['01', '02', '03']

@pytest.mark.parametrize('word', ['NA', 'n/a', 'None', '-'])
def test_a_report_of_one_word_is_blank(word):
    c, repairs = made(items(report=['clear', word, 'none of note', 'x', 'y', f' {word} ', None]), text='report')
    assert c.items.report.isna().tolist() == [False, True, False, False, False, True, True]
    assert repairs == {'reports of one word taken for blanks': 1}

def test_names_as_words():
    assert as_words(pd.Series([1., np.nan, 2.5, 'a ', ' ', None, 7, True])).fillna('').tolist() == ['1', '', '2.5', 'a',
            '', '', '7', 'True']


# Boxes in every form. The family: a number that is no pixel, or a region that is not where it seems, is never scored.

def drawn(table, **kwargs):
    return made(items(), 'mass', table.assign(image_id=['002', '010', 'c'][:len(table)]), **kwargs)

PLACES = [[10, 20, 30, 44], [1, 2, 5, 9]]

def form(kind, names):
    "The boxes of `PLACES` as corners, extents or centres under these names"
    b = np.array(PLACES, float)
    size = b[:, 2:] - b[:, :2]
    if kind != 'corners': b = np.hstack([b[:, :2] + size/2*(kind == 'centres'), size])
    return pd.DataFrame(b, columns=names)

FORMS = dict(
    corners='left top right bottom, XMin YMin XMax YMax, bbox_x0 bbox_y0 bbox_x1 bbox_y1, X1 Y1 X2 Y2, '
            'xtl ytl xbr ybr, x_left y_top x_right y_bottom',
    extents='left top width height, bbox_x bbox_y bbox_width bbox_height, X Y W H, x_min y_min width height, [x y w h]',
    centres='xc yc w h, x_center y_center width height, cx cy w h, CenterX CenterY Width Height')

@pytest.mark.parametrize('kind,names', [(kind, names.split()) for kind in FORMS for names in FORMS[kind].split(', ')])
@pytest.mark.parametrize('text', [False, True])
def test_the_names_tell_the_form(kind, names, text):
    t = form(kind, names)
    c, repairs = drawn(t.astype(str) if text else t)
    assert c.rois[BOX].to_numpy().tolist() == PLACES and repairs == {}

@pytest.mark.parametrize('name,order', [('bbox_xywh', 'xywh'), ('bbox_xyxy', 'xyxy'), ('Bbox [x,y,w,h]', 'xywh'),
                                        ('box (x0, y0, x1, y1)', 'xyxy'), ('bbox [xmin, ymin, xmax, ymax]', 'xyxy')])
@pytest.mark.parametrize('write', [list, tuple, np.array, str, lambda b: ' '.join(map(str, b)),
                                   lambda b: f'({b[0]}; {b[1]:.3f}; {b[2]}; {b[3]}e0)'])
def test_four_numbers_in_a_cell(name, order, write):
    b = PLACES if order == 'xyxy' else [[x, y, p - x, q - y] for x, y, p, q in PLACES]
    assert drawn(pd.DataFrame({name: [write(v) for v in b]}))[0].rois[BOX].to_numpy().tolist() == PLACES

@pytest.mark.parametrize('name', ['bbox', 'BBox', 'bounding_box', 'boxes'])
def test_four_numbers_of_unknown_order(name):
    message = f"column '{name}' may hold x, y, w, h or x0, y0, x1, y1; rename it to bbox_xywh or bbox_xyxy"
    with pytest.raises(ValueError, match=message):
        drawn(pd.DataFrame({name: [str(p) for p in PLACES]}))

@pytest.mark.parametrize('cell', ['[1, 2, 3]', '[1, 2, 3, 4, 5]', [1, 2], 7])
def test_a_cell_of_other_numbers(cell):
    with pytest.raises(ValueError, match=r"row 2, column 'bbox_xywh': a box needs four numbers, not \d"):
        drawn(pd.DataFrame(dict(bbox_xywh=[[1, 2, 3, 4], cell])))

def test_a_corner_that_is_no_number():
    with pytest.raises(ValueError, match="the table of boxes, row 2, column 'x0': '1,5' is no number"):
        drawn(pd.DataFrame(PLACES, columns=BOX).astype(object).assign(x0=['10', '1,5']))

SHARES = np.array([[.2, .3, .6, .9], [.1, .1, .2, .4]])

@pytest.mark.parametrize('table', [
    pd.DataFrame(SHARES, columns=BOX), pd.DataFrame(SHARES*.4, columns=['xc', 'yc', 'w', 'h']), pd.DataFrame(SHARES*.4,
            columns=['x', 'y', 'w', 'h']),
    pd.DataFrame([PLACES[0], SHARES[0]], columns=BOX), pd.DataFrame([SHARES[1], PLACES[1]],
            columns=BOX), pd.DataFrame([[0, 0, 1, 1]], columns=BOX), pd.DataFrame([[0, 0, 1., .5]], columns=BOX),
    pd.DataFrame([[10, 10, 10.4, 30]], columns=BOX), pd.DataFrame([[10, 10, 30, 10.9]],
            columns=BOX), pd.DataFrame([[10, 20, .3, .4]],
                                       columns=['x', 'y', 'w', 'h']), pd.DataFrame(SHARES.astype(str), columns=BOX)])
def test_boxes_in_shares_of_the_image(table):
    with pytest.raises(ValueError,
                       match='is smaller than a pixel; boxes are in pixels of the original image, not in shares'):
        drawn(table)

def test_shares_in_a_cohort_made_by_hand():
    with pytest.raises(ValueError, match='lies within one pixel; boxes are in pixels'):
        cohort(rois(x0=.1, y0=.1, x1=.5, y1=.9))
    assert len(cohort(rois(x0=0, y0=0, x1=1, y1=1)).rois) == 3           # one pixel of a mask

@pytest.mark.parametrize('change', [dict(x0=30, x1=10), dict(y0=44, y1=20), dict(x0=-5), dict(x0=30)])
def test_corners_in_the_wrong_order(change):
    with pytest.raises(ValueError, match='must have 0 <= x0 < x1'):
        drawn(pd.DataFrame(PLACES[:1], columns=BOX).assign(**change))

@pytest.mark.parametrize('blank', [np.nan, None, '', ' '])
def test_a_row_of_blanks_is_no_lesion(blank):
    c, repairs = drawn(pd.DataFrame([PLACES[0], [blank]*4, PLACES[1]], columns=BOX, dtype=object))
    assert c.rois.image_id.tolist() == ['002', 'c']
    assert repairs == {'box row without a box left out': 1}
    assert c.repairs.id.tolist() == ['010']
    for kind in ('xywh', 'xyxy'):
        assert len(drawn(pd.DataFrame({f'bbox_{kind}': [str(PLACES[1]), blank, '[]']}))[0].rois) == 1

@pytest.mark.parametrize('column', BOX)
def test_half_a_box(column):
    with pytest.raises(ValueError, match="box .* of image '010' is partly blank"):
        drawn(pd.DataFrame([PLACES[0], PLACES[1]], columns=BOX).assign(**{column: [1, np.nan]}))

def test_a_mask_without_a_box():
    with pytest.raises(ValueError, match="the mask of image '010' has no box; mask_rois finds"):
        made(items(), LABELS, rois(**dict.fromkeys(BOX, np.nan), mask=[None, 'm.png', None]))

def test_no_box_at_all_is_no_error():
    c, repairs = drawn(pd.DataFrame([[np.nan]*4]*3, columns=BOX))
    assert len(c.rois) == 0 and repairs == {'box row without a box left out': 3}

def test_boxes_of_other_classes():
    c, repairs = made(items(), 'mass', rois(label=['mass', 'cyst', 'Mass ']))
    assert c.rois.image_id.tolist() == ['002', 'c'] and c.rois.label.tolist() == ['mass']*2
    assert c.repairs.to_numpy().tolist() == [['box of a class not asked for left out', '010', 'cyst']]
    with pytest.raises(ValueError,
                       match=r"none of the 3 boxes has a class asked for \(mass\); theirs are cyst.*box_label"):
        made(items(), 'mass', rois(label='cyst'))
    with pytest.raises(ValueError, match="box of image '010' has no class"):
        made(items(), 'mass', rois(label=['mass', None, 'mass']))

def test_the_class_of_a_box_in_another_column():
    t = rois().rename(columns=dict(label='finding'))
    assert made(items(), LABELS, t, box_label='finding')[0].rois.label.tolist() == ['mass']*3
    assert made(items(), LABELS, t.assign(label='unused'), box_label='finding')[0].rois.label.tolist() == ['mass']*3
    with pytest.raises(ValueError, match="no column 'label'"): made(items(), LABELS, t)
    with pytest.raises(ValueError, match=r"box_label='lesion'\) has no column"):
        made(items(), 'mass', t, box_label='lesion')

@pytest.mark.parametrize('label', ['label', 'mass'])
def test_one_table_of_images_and_boxes(tmp_path, label):                 # its label column says 0 or 1 of the image
    t = pd.concat([items().join(pd.DataFrame(PLACES, columns=BOX, index=[1, 2])),
                   items().iloc[[1]].assign(x0=2, y0=3, x1=8, y1=9)]).rename(columns=dict(mass=label))
    t.to_csv(tmp_path/'t.csv', index=False)
    c, repairs = made(tmp_path/'t.csv', label, tmp_path/'t.csv', box_label=label)
    assert len(c) == 7 and c.rois.image_id.tolist() == ['002', '010', '002'] and set(c.rois.label) == {label}
    assert repairs == {'rows of one image merged': 1, 'box row without a box left out': 5}

def test_a_coco_file(tmp_path):
    d = dict(images=[dict(id=1, file_name='a.png'), dict(id=2, file_name='b.png')],
             categories=[dict(id=5, name='mass'), dict(id=6, name='rare')],
             annotations=[dict(image_id=2, category_id=5, bbox=[1, 2, 3, 4])])
    (tmp_path/'c.json').write_text(json.dumps(d))
    images, boxes = read_coco(tmp_path/'c.json')
    assert images[['image_id', 'mass', 'rare']].to_numpy().tolist() == [['a.png', 0, 0], ['b.png', 1, 0]]
    assert as_boxes(boxes)[BOX].to_numpy().tolist() == [[1, 2, 4, 6]]
    pd.testing.assert_frame_equal(read_table(tmp_path/'c.json'), images)
    for change in (dict(annotations=[dict(image_id=3, category_id=5, bbox=[1, 2, 3, 4])]),
                   dict(annotations=[dict(image_id=2, category_id=5, bbox=[1, 2])]), dict(categories=[dict(id=5)])):
        (tmp_path/'c.json').write_text(json.dumps(d | change))
        with pytest.raises(ValueError, match='c.json is no COCO file'): read_coco(tmp_path/'c.json')

@pytest.mark.parametrize('value', [np.inf, -np.inf, 'inf'])
def test_a_box_without_an_end(value):
    with pytest.raises(ValueError, match="row 1, column 'x1': .*inf.* is no number"):
        drawn(pd.DataFrame(PLACES[:1], columns=BOX).astype(object).assign(x1=value))


# Tables that no cohort can be made of

def test_tables_that_cannot_be():
    with pytest.raises(ValueError, match='the table has no rows'):
        made(items().head(0))
    with pytest.raises(ValueError, match="more than one column of the table is called 'age'"):
        made(pd.concat([items(), items()[['age']]], axis=1))
    with pytest.raises(ValueError, match="'split' cannot be a label and name"):
        made(items(), 'split', task='multiclass')
    for kwargs in (dict(task='multiclass'), dict(label_sep='|')):
        with pytest.raises(ValueError, match="the label column 'found' names no class"):
            made(items(found=None), 'found', **kwargs)
    with pytest.raises(ValueError, match="is no pattern: expected '}'"):
        made(items(), image='{image_id.png')

@pytest.mark.parametrize('dtype', ['category', 'string', object])
def test_types_of_text_columns(dtype):
    kind = pd.Series(['m', 'n', None, 'n', 'm', 'o', 'm'], dtype=dtype)
    t = items(kind=kind).astype({'patient_id': dtype, 'image': dtype})
    assert made(t, 'kind', task='multiclass')[0].labels == ['m', 'n', 'o']


@pytest.mark.parametrize('start, kept', [((-.5, 3), (0, 3)), ((3, -1), (3, 0)), ((-1, -.25), (0, 0))])
def test_a_box_that_begins_up_to_a_pixel_outside_is_clipped_and_counted(start, kept):
    boxes = pd.DataFrame([dict(image_id='a', x0=start[0], y0=start[1], x1=9, y1=9),
                          dict(image_id='b', x0=1, y0=2, x1=9, y1=9)])
    table = pd.DataFrame(dict(image_id=['a', 'b'], patient_id=['a', 'b'], split='test', image=['a.png', 'b.png'], y=1))
    c = Cohort.from_table(table, 'y', boxes)
    assert c.rois[['x0', 'y0']].to_numpy().tolist() == [[*kept], [1, 2]]
    assert c.repairs[['repair', 'id']].to_numpy().tolist() == [['box clipped to its image', 'a']]

@pytest.mark.parametrize('start', [(-1.5, 3), (3, -2), (-40, -.5)])
def test_a_box_that_begins_further_outside_is_refused(start):
    boxes = pd.DataFrame([dict(image_id='a', x0=start[0], y0=start[1], x1=9, y1=9)])
    table = pd.DataFrame(dict(image_id=['a'], patient_id=['a'], split='test', image=['a.png'], y=1))
    with pytest.raises(ValueError, match="of image 'a' must have 0 <= x0"): Cohort.from_table(table, 'y', boxes)


# Members of the families that came up later

@pytest.mark.parametrize('cells,numbers,said', [
    (['12 %', '15%'], [12, 15], 'percent and currency signs removed'),
    (['$5', '-$7.50'], [5, -7.5], 'percent and currency signs removed'),
    (['"€ 1,200.00"', '€ 7'], [1200, 7], 'percent and currency signs removed'),
    (['1\u2009234', '12\u2009000'], [1234, 12000], 'thousands separators removed'),
    (['１２', '３'], [12, 3], None)])
def test_numbers_with_signs_and_thin_blanks(tmp_path, cells, numbers, said):
    t, repairs = written(tmp_path, f'image_id,v\na,{cells[0]}\nb,{cells[1]}\nc,\n')
    assert t.v.tolist()[:2] == numbers and pd.isna(t.v[2])
    assert (said in repairs) == bool(said)

@pytest.mark.parametrize('cells', [['50 % stenosis', '20 %'], ['5 %', '7'], ['5 %', '$7'], ['5 mm', '7 mm']])
def test_signs_that_say_too_little(tmp_path, cells):
    t, _ = written(tmp_path, f'image_id,v\na,{cells[0]}\nb,{cells[1]}\n')
    assert t.v.tolist() == cells

@pytest.mark.parametrize('word', ['unknown', '<5', '3 mm'])
def test_a_word_among_numbers_is_said(tmp_path, word):
    t, repairs = written(tmp_path, f'image_id,v,kind\na,61,x\nb,{word},y\nc,7.5,1\n')
    assert t.v.tolist() == ['61', word, '7.5'] and repairs == {'numbers beside words left as words': ['v']}

def test_a_row_of_blanks_is_no_row(tmp_path):
    assert written(tmp_path, 'image_id,v\na,1\n  , \n', ids=('v',))[0].v.tolist() == ['1']

def test_types_of_arrow_and_decimals(tmp_path):
    from decimal import Decimal
    t = pd.DataFrame(dict(image_id=['a', 'b'], v=pd.array([1, None], 'int64[pyarrow]'), d=[Decimal('1.5'), None],
                          s=pd.array(['x', None], pd.ArrowDtype(pa.string())), n=pd.array([1, None], 'Int64')))
    t.to_parquet(tmp_path/'t.parquet')
    for seen in (read_table(t), read_table(tmp_path/'t.parquet')):
        assert not any(isinstance(d, pd.ArrowDtype) for d in seen.dtypes)
        assert seen.v.dtype == seen.d.dtype == float and seen.d[0] == 1.5 and seen.n.dtype == 'Int64'
        assert seen.s[0] == 'x' and seen[['v', 'd', 's', 'n']].loc[1].isna().all()

def test_a_workbook_that_begins_with_an_empty_sheet(tmp_path):
    openpyxl = pytest.importorskip('openpyxl')
    book = openpyxl.Workbook()
    book.create_sheet('Data').append(['image_id', 'v'])
    book['Data'].append(['a', 1])
    book.save(tmp_path/'t.xlsx')
    t, repairs = read_noted_table(tmp_path/'t.xlsx')
    assert t.v.tolist() == [1] and repairs.note.tolist() == ['Sheet; read: Data']
    openpyxl.Workbook().save(tmp_path/'u.xlsx')
    with pytest.raises(ValueError, match='u.xlsx: it is empty'): read_table(tmp_path/'u.xlsx')

@pytest.mark.parametrize('cells,sep', [(['[A, B]', '[A]', '[]'], ','), (["['A', 'B']", "['A']", '[]'], ','),
                                       (['"A";"B"', 'A', 'No Finding'], ';'), ([['A', 'B'], ['A'], []], '|'),
                                       (['A|b|', ' a ', 'no finding'], '|')])
def test_lists_of_classes(cells, sep):
    t = items(image_id=list('abcdefg')).assign(finding=pd.Series([*cells, 'A', 'B', 'B', 'B'], dtype=object))
    c, _ = made(t, 'finding', label_sep=sep)
    assert c.labels == ['A', 'B'] and c.y().to_numpy()[:3].tolist() == [[1, 1], [1, 0], [0, 0]]

@pytest.mark.parametrize('a,b', [('Benign', 'benign'), ('Zölom', 'Zo\u0308lom'), ('No  mass', 'no mass')])
def test_one_class_written_in_two_ways(a, b):
    t = items().assign(finding=[a, a, b, 'other', 'other', a, b])
    c, repairs = made(t, 'finding', task='multiclass')
    assert sorted(c.labels) == sorted([a, 'other']) and c.y()[a].sum() == 5
    assert repairs['class written in several ways taken as one'] == 1
    assert sorted(made(t, 'finding', task='multiclass', classes=[a, b, 'other'])[0].labels) == sorted([a, b, 'other'])
    boxes = rois(label=[b, a, a.upper()]).drop(columns='mask')
    assert made(t, 'finding', boxes, task='multiclass')[0].rois.label.tolist() == [a]*3

def test_what_is_odd_about_lists_of_classes_is_said():
    t = items().assign(finding=['A', 'No Finding|A', 'B', 'B', 'A', 'A', 'B'])
    assert made(t, 'finding', label_sep='|')[1]["'No Finding' beside a class passed over"] == 1
    assert made(t, 'finding', label_sep=';')[1]['no cell has the separator of classes'] == 1

def test_a_label_of_nothing_but_words_for_blanks():
    assert made(items(mass=['NA']*7), 'mass')[0].y().isna().all(axis=None)

@pytest.mark.parametrize('words', ['Train Valid Test', 'training validation testing', 'train val test',
                                   'TRAIN DEV TEST'])
def test_other_names_of_splits(words):
    a, b, c = words.split()
    made_of, repairs = made(items(split=[a]*4 + [b, c, c]), 'mass')
    assert made_of.items['split'].tolist() == items()['split'].tolist()
    assert repairs['names of splits read as ours'] == 1

@pytest.mark.parametrize('value', [[1], {'a': 1}, (1, 2), np.array([1])], ids=str)
def test_a_metadata_column_of_lists(value):
    t = items().assign(device=pd.Series([value]*7, dtype=object))
    with pytest.raises(ValueError, match="metadata column 'device' holds"): made(t, 'mass', tabular=['device'])

def test_infinite_metadata():
    c, repairs = made(items(age=[np.inf, 1, -np.inf, 2, 3, 4, 5]), 'mass', tabular=['age', 'age'])
    assert c.items.age.isna().tolist() == [True, False, True] + [False]*4 and c.tabular == ['age']
    assert repairs['infinite numbers taken for blanks'] == 1

@pytest.mark.parametrize('names', ['x0 y0 w h', 'x1 y1 width height', 'startX startY endX endY', 'minx miny maxx maxy',
                                   'min_x min_y max_x max_y', 'tl_x tl_y br_x br_y', 'ymin xmin ymax xmax'])
def test_more_names_of_box_columns(names):
    row = [1, 2, 3, 4] if names.split()[2][0] == 'w' else [2, 1, 6, 4] if names[0] == 'y' else [1, 2, 4, 6]
    t = as_boxes(pd.DataFrame([row], columns=names.split()))
    assert t[BOX].to_numpy().tolist() == [[1, 2, 4, 6]]

def test_a_box_given_twice():
    t = rois().drop(columns='mask')
    c, repairs = made(items(), LABELS, pd.concat([t, t.head(1), t.head(1).assign(label='calc')]))
    assert len(c.rois) == 4 and repairs['box given twice'] == 1

def test_an_impossible_box_is_shown_as_it_is_written():
    with pytest.raises(ValueError, match=r'box \[-1.0, -1.0, -1.0, -1.0\]'):
        made(items(), LABELS, rois(x0=-1, y0=-1, x1=-1, y1=-1))

def test_boxes_without_rows():
    assert len(made(items(), 'mass', rois().head(0))[0].rois) == 0

@pytest.mark.parametrize('change,said', [
    (dict(images=[]), 'it lists no images'), (dict(annotations=[dict(image_id=9, category_id=5)]), 'names the image 9'),
    (dict(annotations=[dict(image_id=1, category_id=7)]), 'names the category 7'),
    (dict(annotations=[dict(image_id=1, category_id=5, bbox=[1, 2])]), 'a box needs four numbers, not 2')])
def test_a_coco_file_says_what_it_lacks(tmp_path, change, said):
    d = dict(images=[dict(id=1, file_name='a.png')], categories=[dict(id=5, name='mass')], annotations=[])
    (tmp_path/'c.json').write_text(json.dumps(d | change))
    with pytest.raises(ValueError, match=f'c.json is no COCO file: .*{said}'): read_coco(tmp_path/'c.json')

@pytest.mark.filterwarnings('ignore:The least populated class')
@pytest.mark.parametrize('n,classes,folds', [(60, 1, 5), (200, 3, 20), (120, 7, 11)])
def test_folds_are_those_of_scikit_learn(n, classes, folds):
    from mmpkd.cohort import _Folds
    from sklearn.model_selection import StratifiedGroupKFold
    rng = np.random.default_rng(n)
    patients, strata = rng.integers(0, n//2, n), rng.integers(0, classes, n)**2
    ours, theirs = ([f.tolist() for _, f in k(folds, shuffle=True, random_state=3).split(patients, strata, patients)]
                    for k in (_Folds, StratifiedGroupKFold))
    assert ours == theirs
