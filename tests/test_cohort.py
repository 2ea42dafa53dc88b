"Corner cases of mmpkd.cohort: bad tables one by one, tables on disk, fingerprints"
import os
import subprocess
import sys

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st

from mmpkd.cohort import BOX, KEYS, Cohort, as_boxes, column_kinds, patient_split, read_table, repair_table


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
    return pd.DataFrame(dict(image_id=['002', '010', 'c'], label='mass', x0=[0, 1, 2], y0=[0, 1, 2.5], x1=[4, 5, 6], y1=[4, 5, 6], mask=['m1.png', None, 'm2.png'])).assign(**changes)

LABELS = ['mass', 'calc']

def cohort(rois=rois(), text='report', tabular=['age', 'device'], **changes): return Cohort(items(**changes), LABELS, rois, text, tabular)

def replaced(column, row, value): # A column of `items` with one other value
    x = items()[column].astype(object)
    x[row] = value
    return {column: x}


# Bad tables: the error names the row, the column and what would be right

@pytest.mark.parametrize('column', KEYS + LABELS + ['report', 'age', 'device'])
def test_a_missing_column(column):
    with pytest.raises(ValueError, match=f"items has no column '{column}'; its columns are .*"): Cohort(items().drop(columns=column), LABELS, None, 'report', ['age', 'device'])

@pytest.mark.parametrize('column', ['image_id', 'label'] + BOX)
def test_a_missing_column_of_rois(column):
    with pytest.raises(ValueError, match=f"rois has no column '{column}'"): cohort(rois().drop(columns=column))

@pytest.mark.parametrize('value', [2, -1, .5, '1', 'yes', np.inf])
@pytest.mark.parametrize('column', LABELS)
def test_a_label_that_is_neither(column, value):
    with pytest.raises(ValueError, match=f"label '{column}' of image '0a' is {value!r}; a label must be 0, 1 or blank"): cohort(**replaced(column, 3, value))

@pytest.mark.parametrize('dtype,shown', [(int, '-1'), (float, '-1.0'), ('Int64', '-1')])
def test_a_wrong_label_is_shown_as_a_number(dtype, shown):              # not as np.int64(-1)
    with pytest.raises(ValueError, match=f"of image '001' is {shown};"): cohort(mass=pd.Series([-1, 0, 1, 0, 1, 0, 1], dtype=dtype))

@pytest.mark.parametrize('blank', [None, np.nan, pd.NA])
@pytest.mark.parametrize('column', KEYS)
def test_a_blank_key(column, blank):
    with pytest.raises(ValueError, match=f"'{column}' is blank in row 5"): cohort(**replaced(column, 4, blank))

@pytest.mark.parametrize('column', ['image_id', 'patient_id'])
def test_an_empty_word_is_blank(column):                                # as from read_csv(keep_default_na=False)
    with pytest.raises(ValueError, match=f"'{column}' is blank in row 5"): cohort(**replaced(column, 4, ''))

def test_a_patient_in_two_splits():
    with pytest.raises(ValueError, match='1 patients are in more than one split, with the images 001, 002; .* must be in the same split'): cohort(**replaced('split', 1, 'test'))

def test_a_patient_in_two_splits_under_two_types():                     # 7 and '7' are one patient
    with pytest.raises(ValueError, match='more than one split, with the images 001, 002, b;'): cohort(patient_id=[7, 7, 8, 9, '7', 11, 12])

def test_a_duplicate_image():
    with pytest.raises(ValueError, match='image_id must be unique; found more than once: 001, b'): cohort(image_id=['001', '001', '010', '0a', 'b', 'b', 'd'], rois=None)

def test_an_unknown_split():
    with pytest.raises(ValueError, match=r"split of image '001' is 'training'; it must be one of \('train', 'valid', 'test'\)"): cohort(**replaced('split', 0, 'training'))
    with pytest.raises(ValueError, match="not 'all'"): cohort().split('all')

@pytest.mark.parametrize('empty', ['train', 'valid', 'test'])
def test_an_empty_split(empty):
    c = cohort()
    with pytest.raises(ValueError, match=f"split '{empty}' has no images"): c.take(c.items.image_id[c.items.split != empty]).check()

def test_an_unknown_class_or_image_of_a_region():
    with pytest.raises(ValueError, match="image '010' has the unknown class 'cyst'; the classes are mass, calc"): cohort(rois(label=['mass', 'cyst', 'cyst']))
    with pytest.raises(ValueError, match="unknown class"): cohort(rois(label=['mass', None, 'calc']))
    with pytest.raises(ValueError, match='2 regions of interest belong to images that are not in the cohort: 1, 2'): cohort(rois(image_id=['1', '2', 'c']))   # '001' is not '1'

@pytest.mark.parametrize('change', [dict(x1=[4, 1, 6]), dict(y0=[0, 5, 2]), dict(x0=[0, -1, 2]), dict(y0=[0, -.5, 2]), dict(x0=[0, np.nan, 2]), dict(y1=[4, np.nan, 6])])
def test_a_box_without_an_area(change):
    with pytest.raises(ValueError, match="of image '010' must have 0 <= x0 < x1"): cohort(rois(**change))

def test_names_that_cannot_be():
    with pytest.raises(ValueError, match='at least one label'): Cohort(items(), [])
    with pytest.raises(ValueError, match="'multilabel' or 'multiclass', not 'regression'"): Cohort(items(), LABELS, task='regression')
    with pytest.raises(ValueError, match='mass cannot be a label and privileged'): Cohort(items(), LABELS, tabular=['age', 'mass'])

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
        assert sorted(i for p in parts for i in p.items.image_id) == sorted(c.items.image_id) and sum(len(p.rois) for p in parts) == 3
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
    with pytest.raises(ValueError, match="image 'c' must belong to exactly one of mass, calc"): Cohort(t, LABELS, task='multiclass')

def test_a_class_without_training_images(tmp_path):
    for i in range(7): (tmp_path/f'{i}.png').touch()
    c = Cohort.from_table(items(kind=['m', 'n', 'm', 'n', 'm', 'n', 'rare']), 'kind', task='multiclass', root=tmp_path)
    with pytest.raises(ValueError, match="'rare'"): c.check()

@pytest.mark.parametrize('index', [list('gfedcba'), [3, 1, 2, 9, 8, 7, 0], [0, 1, 0, 1, 0, 1, 0], [0]*7])
def test_the_index_of_the_table_means_nothing(index):
    kind, c = ['m', 'n', None, 'n', 'm', 'o', 'm'], cohort()
    a = Cohort.from_table(items(kind=kind).set_axis(index), 'kind', task='multiclass')
    assert a.y().fillna(0).to_numpy().tolist() == [[k == c for c in 'mno'] for k in kind] and a.items.image_id.tolist() == items().image_id.tolist()
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
    with pytest.raises(FileNotFoundError, match=r"1 of 9 files are missing: mask of 'c'; paths are relative to root="): complete.check()
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
    assert t.items.image_id.tolist() == t.y().index.tolist() == ['d', '010', '001'] and t.rois.image_id.tolist() == ['010']
    assert (t.labels, t.text, t.tabular, t.root, t.task, t.name) == (c.labels, c.text, c.tabular, c.root, c.task, c.name)
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
    assert repr(cohort()).startswith("Cohort 'cohort' (multilabel); privileged: report 'report'; metadata age, device\n")
    assert 'privileged: nothing' in repr(Cohort(items(), LABELS)) and '<table' in Cohort(items(), LABELS)._repr_html_()


# Fingerprints

@pytest.mark.parametrize('change', [replaced('mass', 0, 1), replaced('calc', 2, 0), replaced('image', 6, 'other.png'), replaced('patient_id', 0, '77'), replaced('split', 6, 'valid'),
                                    replaced('age', 1, 50.500000000000007), replaced('device', 3, 'A'), replaced('report', 3, 'line one line two')])
def test_a_fingerprint_knows_the_items(change): assert cohort(**change).fingerprint() != cohort().fingerprint()

@pytest.mark.parametrize('change', [dict(x0=[0, 1, 1.9]), dict(y1=[4, 5, 7]), dict(label=['mass', 'calc', 'mass']), dict(image_id=['002', '001', 'c']), dict(mask=['m1.png', 'm3.png', 'm2.png'])])
def test_a_fingerprint_knows_the_regions(change): assert cohort(rois(**change)).fingerprint() != cohort().fingerprint()

def test_a_fingerprint_knows_the_names_but_not_the_place():
    c = cohort()
    others = [Cohort(c.items, LABELS[::-1], c.rois, 'report', ['age', 'device']), cohort(text=None), cohort(tabular=['age']), cohort(rois=None), c.split('train')]
    assert len({o.fingerprint() for o in others + [c]}) == 6
    assert Cohort(c.items, LABELS, c.rois, 'report', ['age', 'device'], root='/elsewhere', name='other').fingerprint() == c.fingerprint()

def test_a_fingerprint_does_not_tell_4_from_4_0():
    whole = rois(x0=[0, 1, 2], y0=[0, 1, 2])
    assert cohort(whole).fingerprint() == cohort(whole.astype(dict.fromkeys(BOX, float))).fingerprint() == cohort(whole.astype(dict.fromkeys(BOX, object))).fingerprint()

@pytest.fixture
def files(tmp_path):
    "The two tables as .csv, .csv.gz and .parquet"
    for name, t in (('items', items()), ('rois', rois())):
        t.to_csv(tmp_path/f'{name}.csv', index=False); t.to_csv(tmp_path/f'{name}.csv.gz', index=False); t.to_parquet(tmp_path/f'{name}.parquet')
    return tmp_path

def load(files, kind='.csv'): return Cohort.from_table(files/f'items{kind}', LABELS, files/f'rois{kind}', text='report', tabular=['age', 'device'])

def test_a_fingerprint_is_the_same_in_every_process(files):
    code = "import sys; from mmpkd.cohort import Cohort; print(Cohort.from_table(sys.argv[1], ['mass', 'calc'], sys.argv[2], text='report', tabular=['age', 'device']).fingerprint())"
    runs = [subprocess.run([sys.executable, '-c', code, files/'items.csv', files/'rois.csv'], env=os.environ | dict(PYTHONHASHSEED=seed), capture_output=True, text=True, check=True) for seed in ('1', '2')]
    assert {r.stdout.strip() for r in runs} == {load(files).fingerprint()}


# Tables on disk

@pytest.mark.parametrize('kind', ['.csv', '.csv.gz', '.parquet'])
def test_from_files(files, kind):
    c = load(files, kind)
    assert c.items.image_id.tolist() == ['001', '002', '010', '0a', 'b', 'c', 'd'] and c.items.patient_id[0] == '07'   # zeros survive
    assert c.rois.image_id.tolist() == ['002', '010', 'c'] and c.rois['mask'].isna().tolist() == [False, True, False]
    pd.testing.assert_frame_equal(c.y(), cohort().y())
    assert c.items.report[3] == 'line one\nline two' and pd.isna(c.items.report[2]) and c.items.report[5] == 'ein Rundherd: größer'
    assert c.fingerprint() == load(files).fingerprint()

@pytest.mark.parametrize('kind', ['.csv', '.csv.gz', '.parquet'])
def test_from_renamed_columns(tmp_path, kind):
    t = items(image_id=['001', '002', '010', '011', '100', '101', '110']).rename(columns=dict(image_id='File', patient_id='Woman', split='Set', image='Path'))
    t.to_parquet(tmp_path/'t.parquet') if kind == '.parquet' else t.to_csv(tmp_path/f't{kind}', index=False)
    c = Cohort.from_table(tmp_path/f't{kind}', LABELS, rois(image_id=['002', '010', '101']), image_id='File', patient_id='Woman', split='Set', image='Path')
    assert c.items.image_id.tolist() == t.File.tolist() and c.items.patient_id.tolist() == t.Woman.tolist()
    assert c.split('test').items.image.tolist() == ['5.png', '6.png']

def test_from_a_table_without_patients():                               # each image stands for itself
    c = Cohort.from_table(items().drop(columns='patient_id'), LABELS, patient_id='image_id')
    assert c.items.patient_id.tolist() == c.items.image_id.tolist() == items().image_id.tolist()

def test_from_a_table_that_has_both_names():                            # the column that was asked for wins, or the error says what is the matter
    t = items(woman=items().patient_id, patient_id='unknown')
    try: c = Cohort.from_table(t, LABELS, patient_id='woman')
    except ValueError as e: assert "'patient_id'" in str(e)
    else: assert c.items.patient_id.tolist() == t.woman.tolist()

def test_one_label_by_its_name(files): assert Cohort.from_table(files/'items.csv', 'mass').labels == ['mass']

def test_files_that_are_none(files):
    with pytest.raises(FileNotFoundError, match='no table at .*gone.csv'): read_table(files/'gone.csv')
    (files/'t.xlsx').touch()
    with pytest.raises(ValueError, match=r't.xlsx: .* save it as .csv'): read_table(files/'t.xlsx')
    with pytest.raises(ValueError, match="the table has no column 'nodule'; its columns are image_id"): Cohort.from_table(files/'items.csv', ['nodule'])
    with pytest.raises(ValueError, match="items has no column 'note'"): Cohort.from_table(files/'items.csv', LABELS, text='note')

@pytest.mark.parametrize('sep,encoding', [(',', 'utf-8-sig'), (';', 'utf-8'), (';', 'utf-8-sig'), ('\t', 'utf-8')])
def test_separators_and_byte_order_marks(tmp_path, sep, encoding):
    f = tmp_path/('t.tsv' if sep == '\t' else 't.csv')
    items().to_csv(f, sep=sep, index=False, encoding=encoding)
    pd.testing.assert_frame_equal(read_table(f), read_table(tmp_path/'t.csv') if sep != '\t' else pd.read_csv(f, sep=sep, dtype=dict(image_id=str, patient_id=str)))
    c = Cohort.from_table(f, LABELS, text='report', tabular=['age', 'device'])
    assert c.items.image_id.tolist() == items().image_id.tolist() and c.items.report[3] == 'line one\nline two' and c.items.age[1] == 50.5

def test_decimal_commas_are_numbers_only_in_tables_with_semicolons(tmp_path):
    (tmp_path/'t.csv').write_text('image_id;dose;code;mixed\n1,5;1,5;A;1,5\n2;-2;B;n/k\n3;;C;2\n')
    t = read_table(tmp_path/'t.csv')
    assert t.dose.tolist()[:2] == [1.5, -2.] and np.isnan(t.dose[2]) and t.image_id[0] == '1,5' and t.mixed[0] == '1,5'
    (tmp_path/'t.csv').write_text('image_id,dose\n1,"1,5"\n')
    assert read_table(tmp_path/'t.csv').dose.tolist() == ['1,5']

@pytest.mark.parametrize('damage', [lambda b: b[:len(b)//2], lambda b: b[:-4], lambda b: b'no gzip at all', lambda b: b''])
def test_a_damaged_gzip_names_its_file(tmp_path, damage):
    items().to_csv(tmp_path/'t.csv.gz', index=False)
    (tmp_path/'t.csv.gz').write_bytes(damage((tmp_path/'t.csv.gz').read_bytes()))
    with pytest.raises(ValueError, match='cannot read the table .*t.csv.gz'): read_table(tmp_path/'t.csv.gz')

@pytest.mark.parametrize('name,data', [('t.csv', b''), ('t.csv', 'image_id,Grösse\n1,размер\n'.encode('cp1251', 'ignore')), ('t.parquet', b'PAR1 not'), ('t.csv', b'a,b\n1,2\n1,2,3\n')])
def test_a_file_that_is_no_table_names_itself(tmp_path, name, data):
    (tmp_path/name).write_bytes(data)
    with pytest.raises(ValueError, match=f'cannot read the table .*{name}'): read_table(tmp_path/name)

@pytest.mark.parametrize('path', ['../x.png', '/etc/x.png', 'a/../../x.png', 'C:\\x.png', '..', 'a\\..\\x.png'])
def test_paths_that_leave_the_root(path):
    with pytest.raises(ValueError, match="image path of image '010' leaves the root"): cohort(**replaced('image', 2, path))
    with pytest.raises(ValueError, match="mask path of image '002' leaves the root"): cohort(rois(mask=[path, None, 'm2.png']))

@pytest.mark.parametrize('path', ['a..b.png', '..a/x.png', 'a/b.c/..x.png', './x.png'])
def test_paths_that_only_look_so(path): assert cohort(**replaced('image', 2, path)).items.image[2] == path

@pytest.mark.parametrize('names', [BOX, ['x_min', 'y_min', 'x_max', 'y_max'], ['xmin', 'ymin', 'xmax', 'ymax'], ['x1', 'y1', 'x2', 'y2']])
def test_corners_of_any_name(names):
    t = as_boxes(pd.DataFrame([[1, 2, 4, 8]], columns=names).assign(label='mass', image_id='c'))
    assert t[BOX].to_numpy().tolist() == [[1, 2, 4, 8]] and t.label[0] == 'mass' and len(t.columns) == 6

@pytest.mark.parametrize('names', [['x', 'y', 'w', 'h'], ['x', 'y', 'width', 'height']])
def test_extents(names): assert as_boxes(pd.DataFrame([[1, 2, 3, 6]], columns=names))[BOX].to_numpy().tolist() == [[1, 2, 4, 8]]

@pytest.mark.parametrize('name', ['image_id', 'Scan'])
def test_boxes_may_name_their_image_as_the_table_does(tmp_path, name):
    rois().rename(columns=dict(image_id=name)).to_csv(tmp_path/'boxes.csv', index=False)
    c = Cohort.from_table(items().rename(columns=dict(image_id='Scan')), LABELS, tmp_path/'boxes.csv', image_id='Scan')
    assert c.rois.image_id.tolist() == ['002', '010', 'c']

def test_no_boxes_at_all():
    with pytest.raises(ValueError, match='needs the columns x0, y0, x1, y1 .*; it has image_id, left'): as_boxes(pd.DataFrame(dict(image_id=['a'], left=[1])))

def test_boxes_of_the_only_class():
    c = Cohort.from_table(items(), 'mass', rois().drop(columns='label'))
    assert c.rois.label.tolist() == ['mass']*3
    with pytest.raises(ValueError, match="no column 'label'"): Cohort.from_table(items(), LABELS, rois().drop(columns='label'))


# A split where there is none

@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from('abc')), min_size=40, max_size=120), st.sampled_from([0, .1, .3]), st.sampled_from([0, .2, .4]), st.integers(0, 5))
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
    assert all(abs(y[s == k].mean() - y.mean()) < .01 for k in ('train', 'valid', 'test'))
    assert (s != patient_split(patients, y, .15, .2, seed=1)).any()

def test_splits_that_cannot_be():
    with pytest.raises(ValueError, match='2 patients are too few for 3 splits'): patient_split([1, 1, 2], 'aab')
    with pytest.raises(ValueError, match='below 1, not 0.5 and 0.5'): patient_split([1, 2, 3], 'aab', .5, .5)

def test_from_a_table_without_a_split():
    t = pd.concat([items(image_id=[f'{k}{i}' for i in items().image_id], patient_id=[f'{k}{i}' for i in items().patient_id]) for k in range(9)]).drop(columns='split')
    c = Cohort.from_table(t, LABELS, split=None, valid=.2, test=.3)
    assert (c.counts().images > 0).all() and Cohort.from_table(t, LABELS, split=None, valid=.2, test=.3).fingerprint() == c.fingerprint()
    with pytest.raises(ValueError, match='split=None'): Cohort.from_table(t, LABELS)


# Repairs and parts

def test_repairs_stay_with_the_cohort():
    c = Cohort(items(), LABELS, repairs=repair_table([('a', '001', 'x'), ('b', '002', 'y'), ('a', '010', 'z')]))
    assert c.repair_counts().to_dict() == dict(a=2, b=1) and len(c.split('test').repairs) == 3
    assert '3 repairs' in repr(c) and '<td>2</td>' in c._repr_html_() and 'repairs' not in repr(cohort())
    assert cohort().repairs.columns.tolist() == ['repair', 'id', 'note'] and c.fingerprint() == Cohort(items(), LABELS).fingerprint()

def parts(**changes):
    t = pd.DataFrame(dict(image_id=['001_1', '001_2', 'c_1'], of=['001', '001', 'c'], patient_id=['07', '07', '11'], split=['train', 'train', 'test'], image='x.png', mass=[0, 0, 1], calc=0, shape=['oval', 'round', 'oval']))
    return Cohort(t.assign(**changes), LABELS, tabular=['shape'])

def test_parts_go_where_their_image_goes():
    c = Cohort(items(), LABELS, parts=parts())
    assert c.split('train').parts.items.image_id.tolist() == ['001_1', '001_2'] and c.split('test').parts.items.of.tolist() == ['c']
    assert len(c.split('valid').parts) == 0 and '3 parts' in repr(c)
    assert c.fingerprint() != Cohort(items(), LABELS).fingerprint() != Cohort(items(), LABELS, parts=parts(shape='oval')).fingerprint()

def test_parts_of_nothing():
    with pytest.raises(ValueError, match="part 'c_1' belongs to no image"): Cohort(items(), LABELS, parts=parts(of=['001', '001', 'z']))
    with pytest.raises(ValueError, match="part '001_1' .* in another split"): Cohort(items(), LABELS, parts=parts(split=['valid', 'valid', 'test']))
    with pytest.raises(ValueError, match='must be the same'): Cohort(items(), ['mass'], parts=parts())
    with pytest.raises(ValueError, match="image 'c' has a better label than its worst part"): Cohort(items(), LABELS, parts=parts(calc=[0, 0, 1]))
    with pytest.raises(ValueError, match="parts has no column 'of'"): Cohort(items(), LABELS, parts=Cohort(items(), LABELS))


def test_classes_go_from_best_to_worst():
    t = pd.DataFrame(dict(image_id=['a', 'b', 'c'], patient_id=['a', 'b', 'c'], split='train', image='x.png', kind=['bad', 'good', 'bad'])).join(pd.DataFrame(dict(good=[0, 1, 0], bad=[1, 0, 1])))
    p = pd.DataFrame(dict(image_id=['a1', 'a2', 'b1', 'c1'], of=['a', 'a', 'b', 'c'], patient_id=['a', 'a', 'b', 'c'], split='train', image='x.png', good=[1, 0, 1, 0], bad=[0, 1, 0, 1]))
    assert len(Cohort(t, ['good', 'bad'], task='multiclass', parts=Cohort(p, ['good', 'bad'], task='multiclass')).parts) == 4
    with pytest.raises(ValueError, match="image 'a' has a better label .* from best to worst"): Cohort(t, ['bad', 'good'], task='multiclass', parts=Cohort(p, ['bad', 'good'], task='multiclass'))


# What is in the columns

def test_kinds_of_columns():
    t = pd.DataFrame(dict(name=[f'n{i}' for i in range(40)], number=range(1000, 1040), twice=[i//2*1000 for i in range(40)], code=[i % 4 for i in range(40)], yes=[i % 2 for i in range(40)], dose=np.arange(40)/7, site=['A', 'B']*20,
                          same=1, said=[f'a sentence of more than forty letters, number {i % 30}' for i in range(40)], gone=np.nan))
    assert column_kinds(t).kind.to_dict() == dict(name='different in each row', number='different in each row', twice='amount', code='category', yes='0/1', dose='amount', site='category', same='constant', said='text', gone='constant')
    assert column_kinds(t).missing['gone'] == 1 and column_kinds(t)['values']['code'] == 4

def test_a_table_that_is_a_table_is_not_copied():
    t = items()
    assert read_table(t) is t
