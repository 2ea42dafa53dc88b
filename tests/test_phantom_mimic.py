import gzip, json, re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom import dcmread

from mmpkd.audit import audit
from mmpkd.images import cache_pixels, unreadable
from mmpkd.image_files import mask_box, read_image, to_uint8
from mmpkd.mimic import CHEXPERT, coco_boxes, mimic_cohort, ms_cxr, read_labels, report_text, sections
from mmpkd.phantoms.chest import FINDINGS, draw_case, phantom_cases, radiology_report
from mmpkd.phantoms.mimic import (STUDY_DIRT, STYLES, case_report, draw_lateral, label_table, mimic_report, name_cases,
                                  phantom_mimic, plan_dirt, roi_use, text_labels)
from mmpkd.teachers import BagOfWordsTeacher, macro_auroc


@pytest.fixture(scope='module')
def dirty(tmp_path_factory): return phantom_mimic(tmp_path_factory.mktemp('mimic')/'dirty', n=120, seed=3)

@pytest.fixture(scope='module')
def clean(tmp_path_factory): return phantom_mimic(tmp_path_factory.mktemp('mimic')/'clean', n=60, seed=3, dirt=False)

def rois(path): return [path/'ms-cxr', path/'reflacx']
def load(path, **kwargs): return mimic_cohort(path, rois=rois(path), **kwargs)
def planted(path): return json.loads((path/'planted.json').read_text())
def truth(path): return pd.read_csv(path/'truth.csv', dtype=dict(subject_id=str, study_id=str), keep_default_na=False)
def content(path): return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob('*')) if f.is_file()}


@pytest.mark.parametrize('kwargs', [dict(n=60, seed=1), dict(n=60, seed=2, release='jpg'),
                                    dict(n=200, seed=5, lateral=.2), dict(n=60, seed=6, informative=0.,
                                        label_noise=0.), dict(n=60, seed=7, dirt=False)], ids=str)
def test_what_was_planted_is_what_is_found(tmp_path, kwargs):
    path = phantom_mimic(tmp_path/'p', **kwargs)
    want = planted(path)
    broken = want.pop('unreadable image', 0)
    c = load(path)
    assert c.repair_counts().to_dict() == want and c.labels == FINDINGS
    assert len(unreadable(c)) == broken == 2*(1 + kwargs['n']//200)*kwargs.get('dirt', True)
    secrets = set(truth(path).subject_id) | set(truth(path).study_id)
    assert not secrets & set(re.findall(r'\d{8}', c.repairs.to_csv()))


@pytest.mark.parametrize('kind', ['csv', 'json'])
def test_either_file_of_ms_cxr_has_the_same_dirt(dirty, kind):
    one = mimic_cohort(dirty, rois=[dirty/f'ms-cxr/MS_CXR_Local_Alignment_v1.1.0.{kind}', dirty/'reflacx/main_data'])
    pd.testing.assert_frame_equal(one.rois, load(dirty).rois)
    assert one.repair_counts().to_dict() == load(dirty).repair_counts().to_dict()


def test_the_audit_sees_what_no_cohort_sees(dirty):
    a, t = audit(load(dirty)), truth(dirty)
    found = a.findings.set_index('name')['count']
    assert found['unreadable image'] == planted(dirty)['unreadable image'] and not a.ok
    assert found['regions in training'] > 0
    assert 'report names the label' not in found
    assert 'box outside its image' not in found
    assert set(a.unreadable.image_id) == set(t.dicom_id[t.dirt.isin(['file cut off', 'file missing'])])


def test_only_broken_files_stop_a_training(dirty, clean, tmp_path):
    c = load(dirty)
    with pytest.raises(FileNotFoundError, match='files are missing') as e: c.check()
    assert not re.search(r'\b[15]\d{7}\b', str(e.value))
    c.check(skip_missing=True)
    with pytest.raises((ValueError, FileNotFoundError)): cache_pixels(c, 32, tmp_path/'a')
    pixels = cache_pixels(c, 32, tmp_path/'b', skip_unreadable=True)
    assert len(pixels.unreadable) == planted(dirty)['unreadable image']
    assert len(pixels) == len(c) - len(pixels.unreadable)
    assert len(cache_pixels(load(clean).check(), 32, tmp_path/'c')) == 60


def test_pictures_survive_every_encoding(clean, dirty):
    t = truth(dirty)
    syntaxes, bits, photometric = set(), set(), set()
    for case in t[~t.dirt.isin(['file cut off', 'file missing'])][:40].to_dict('records'):
        f = dirty/f"files/p{case['subject_id'][:2]}/p{case['subject_id']}/s{case['study_id']}/{case['dicom_id']}.dcm"
        ds = dcmread(f)
        syntaxes.add(ds.file_meta.TransferSyntaxUID.name)
        bits.add(ds.BitsStored)
        photometric.add(ds.PhotometricInterpretation)
        assert ds.ViewPosition == ('' if case['dirt'] == 'view unknown' else case['view'])
        assert ds.PatientID == case['subject_id']
        drawn = to_uint8(draw_case(case, 3)[0]).astype(int)
        assert np.abs(to_uint8(read_image(f)) - drawn).max() <= 1
    assert len(syntaxes) == 2 and bits == {10, 12, 16} and len(photometric) == 2


def test_boxes_are_those_of_what_was_drawn(dirty):
    c, t = load(dirty), truth(dirty).set_index('dicom_id', drop=False)
    odd = set(c.repairs.id[c.repairs.repair == 'box clipped to the image'])
    for i, boxes in c.rois.groupby('image_id'):
        if i in odd: continue
        want = {f: mask_box(m) for f, m in draw_case(t.loc[i].to_dict(), 3)[1].items()}
        assert {r.label: (r.x0, r.y0, r.x1, r.y1) for r in boxes.itertuples()} == want
    ill = t[(t.split == 'test') & (t[[f'severity {f}' for f in FINDINGS]] > 0).any(axis=1)]
    assert set(ill.dicom_id) <= set(c.rois.image_id)
    assert c.items.split[c.items.image_id.isin(c.rois.image_id)].value_counts()['train'] > 3


def test_labels_are_what_the_report_says_but_for_the_noise(clean):
    t = truth(clean).set_index('study_id')
    raw = read_labels(clean/'mimic-cxr-2.0.0-chexpert.csv.gz', FINDINGS).loc[t.index]
    for f in FINDINGS:
        # the hard label of the case, noise and all
        assert ((raw[f] == 1) | (raw[f] == -1)).eq(t[f] == 1).all()
        assert (t[f'severity {f}'][raw[f] == -1] > 0).all()
    bold = read_labels(clean/'mimic-cxr-2.0.0-negbio.csv.gz', FINDINGS)
    assert (bold == -1).sum().sum() < (raw == -1).sum().sum()
    assert set(pd.read_csv(clean/'mimic-cxr-2.0.0-chexpert.csv.gz').columns[2:]) == set(CHEXPERT)
    hand = mimic_cohort(clean, FINDINGS, test_labels='radiologist').split('test').y()
    np.testing.assert_array_equal(hand,
                                  (t.set_index('dicom_id').loc[hand.index,
                                                               [f'severity {f}' for f in FINDINGS]] > 0).astype(float))


def test_reports_are_about_somebody_else_when_useless(tmp_path):
    path = phantom_mimic(tmp_path/'p', n=60, seed=4, informative=0., dirt=False)
    t = truth(path)
    assert (t.about != t.image_id).all()
    cases = t.assign(**{f'severity {f}': t[f'severity {f}'].astype(float) for f in FINDINGS}).set_index('image_id',
        drop=False)
    for c in cases.to_dict('records')[:20]:
        text = (path/f"files/p{c['subject_id'][:2]}/p{c['subject_id']}/s{c['study_id']}.txt").read_text()
        assert text == case_report(cases.loc[c['about']].to_dict(), 4)


def test_a_teacher_learns_from_masked_reports(tmp_path):
    path = phantom_mimic(tmp_path/'p', n=250, seed=0, label_noise=.1, lateral=0.)
    c = mimic_cohort(path, FINDINGS, section='all')
    teacher = BagOfWordsTeacher().fit(c.split('train'))
    test = c.split('test')
    test = test.take(test.items.image_id[test.items.report.notna()])
    assert macro_auroc(test.y(), teacher.logits(test)) > .8


def test_other_ways_to_load_it(dirty):
    n = len(load(dirty))
    every = load(dirty, views=None)
    # laterals of such studies
    more = every.repair_counts()['study without labels'] - planted(dirty)['study without labels']
    assert len(every) + more == n + planted(dirty)['view not asked for'] + planted(dirty)['view unknown']
    assert every.items.groupby('study_id').report.nunique().max() == 1
    assert len(load(dirty, unlabelled='keep')) == n + planted(dirty)['study without labels']
    assert len(load(dirty, no_report='drop')) == n - sum(planted(dirty)[k] for k in STUDY_DIRT[:3])
    assert len(load(dirty, missing='drop')) == n - planted(dirty)['unreadable image']//2
    moved = load(dirty, roi_patients='test')
    assert not moved.items.split[moved.items.image_id.isin(moved.rois.image_id)].isin(['train', 'valid']).any()
    (dirty/'mimic-cxr-2.0.0-metadata.csv.gz').rename(dirty/'away.csv.gz')
    try: from_headers = load(dirty)
    finally: (dirty/'away.csv.gz').rename(dirty/'mimic-cxr-2.0.0-metadata.csv.gz')
    assert from_headers.items.image_id.tolist() == load(dirty).items.image_id.tolist()


def test_same_seed_same_bytes(dirty, clean, tmp_path):
    again = phantom_mimic(tmp_path/'again', n=60, seed=3, dirt=False)
    assert content(again) == content(clean)
    assert content(phantom_mimic(tmp_path/'other', n=60, seed=4, dirt=False)) != content(clean)
    names = [f for f in content(clean) if f.startswith('files')]
    assert len(names) == len(set(names))
    listed = gzip.decompress((clean/'cxr-record-list.csv.gz').read_bytes())
    assert listed.startswith(b'subject_id,study_id,dicom_id,path')


def test_a_finished_phantom_is_left_alone_and_an_unfinished_one_completed(tmp_path):
    path = phantom_mimic(tmp_path/'p', n=60, seed=3)
    before = content(path)
    times = {f: f.stat().st_mtime_ns for f in path.rglob('*')}
    phantom_mimic(path, n=60, seed=3)
    assert times == {f: f.stat().st_mtime_ns for f in path.rglob('*')}
    (path/'phantom.json').write_text(json.dumps(json.loads((path/'phantom.json').read_text()) | dict(finished=False)))
    (path/'planted.json').unlink()
    next(path.rglob('*.dcm')).write_bytes(b'half')
    phantom_mimic(path, n=60, seed=3)
    assert content(path) == before


def test_other_peoples_folders_are_safe(tmp_path, clean):
    (tmp_path/'mine.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='not empty'): phantom_mimic(tmp_path, n=60)
    for kwargs in (dict(seed=4, dirt=False), dict(seed=3, dirt=True), dict(seed=3, dirt=False, release='jpg'),
                   dict(seed=3, dirt=False, shortcut=.5)):
        with pytest.raises(FileExistsError, match='another phantom'): phantom_mimic(clean, n=60, **kwargs)
    assert [f.name for f in tmp_path.iterdir()] == ['mine.txt']


@pytest.mark.parametrize('kwargs,text', [(dict(release='png'), 'release'), (dict(lateral=2), 'lateral'),
                                         (dict(n=5), 'n must be'), (dict(n=30), 'too few for dirt'),
                                         (dict(n=200, prevalence=.01), 'too few for dirt'),
                                         (dict(informative=2), 'informative')])
def test_bad_knobs(tmp_path, kwargs, text):
    with pytest.raises(ValueError, match=text): phantom_mimic(tmp_path/'p', **kwargs)
    assert not (tmp_path/'p').exists()                                                  # nothing is begun


@pytest.mark.parametrize('n', [60, 100, 333])
def test_names_are_like_mimics(n):
    t = name_cases(phantom_cases(n, seed=n), n)
    assert t.subject_id.str.fullmatch(r'1\d{7}').all()
    assert t.study_id.str.fullmatch(r'5\d{7}').all()
    assert t.study_id.is_unique
    assert t.groupby('patient_id').subject_id.nunique().max() == t.groupby('subject_id').patient_id.nunique().max() == 1
    ids = [*t.dicom_id, *t.lateral_id[t.lateral_id != '']]
    assert all(re.fullmatch(r'([0-9a-f]{8}-){4}[0-9a-f]{8}', i) for i in ids) and len(set(ids)) == len(ids)
    assert (t.view[t.lateral_id != ''] == 'PA').all() and .2 < (t.lateral_id != '').mean() < .6


def test_no_dirt_hides_another():
    t = phantom_cases(200, seed=1)
    dirt = plan_dirt(t, 2, seed=1)
    assert pd.Series(dirt[dirt != '']).value_counts().to_dict() == dict.fromkeys(STUDY_DIRT, 2)
    assert not (roi_use(t)[dirt != ''] != '').any() and set(t.split[dirt != '']) == {'train'}


@pytest.mark.parametrize('style', STYLES)
def test_styles_of_reports(style):
    ill = {f: (.9, 'left') for f in FINDINGS}
    text = mimic_report(radiology_report(np.random.default_rng(0), ill), style, lateral=True)
    assert all(line.startswith(' ') for line in text.splitlines())
    assert max(map(len, text.splitlines())) < 90
    assert 'CHEST (PA AND LAT)' in text
    assert '___' in text
    s = sections(text)
    assert ('impression' in s, 'findings' in s, 'last paragraph' in s) == dict(both=(1, 1, 0), impression=(1, 0, 0),
        findings=(0, 1, 0), neither=(0, 0, 1))[style]
    assert all(text_labels(report_text(text)).get(f) in (1, -1) for f in FINDINGS)


@pytest.mark.parametrize('text,want', [
    ('No pleural effusion or pneumothorax.', {'Pleural Effusion': 0, 'Pneumothorax': 0}), ('The heart size is normal.',
        {'Cardiomegaly': 0}), ('The cardiac silhouette is within normal limits.', {'Cardiomegaly': 0}),
    ('Mild cardiomegaly cannot be excluded.', {'Cardiomegaly': -1}),
    ('Findings suggest small left pneumothorax. Moderate left pneumothorax.', {'Pneumothorax': 1}),
    ('No definite airspace opacity.', {'Lung Opacity': 0}), ('Healed rib fracture. No acute cardiopulmonary process.',
                                                             {}), ('', {})])
def test_the_small_labeller(text, want): assert text_labels(text) == want


def test_labels_of_the_truth_without_noise():
    cases = name_cases(phantom_cases(200, seed=2, label_noise=0.), 2)
    y = label_table(cases, [report_text(case_report(c, 2)) for c in cases.to_dict('records')])
    ill = cases[[f'severity {f}' for f in FINDINGS]].to_numpy() > 0
    assert (y[FINDINGS].isin([1, -1]).to_numpy() == ill).all()
    assert ((y['No Finding'] == 1).to_numpy() == ~(ill.any(axis=1) | (y['Lung Opacity'].abs() == 1).to_numpy())).all()
    assert .1 < (y[FINDINGS] == -1).to_numpy()[ill].mean() < .4


@pytest.mark.parametrize('size', [(110, 96), (64, 80)])
def test_laterals(size):
    a, b = (draw_lateral(np.random.default_rng(i), size) for i in (0, 1))
    assert a.shape == size and 0 <= a.min() < a.max() <= 1 and np.abs(a - b).mean() > .005


def test_jpg_release(tmp_path):
    path = phantom_mimic(tmp_path/'p', n=60, seed=3, release='jpg')
    assert not list(path.rglob('*.dcm'))
    assert not (path/'cxr-record-list.csv.gz').exists()
    assert not list((path/'files').rglob('*.txt'))
    f = next(path.rglob('*.jpg'))
    with Image.open(f) as im: assert im.mode == 'L' and 90 <= im.size[0] < 120
    assert set(ms_cxr(path/'ms-cxr/MS_CXR_Local_Alignment_v1.1.0.csv').name) >= set(FINDINGS)
    assert len(coco_boxes(path/'ms-cxr/MS_CXR_Local_Alignment_v1.1.0.json'))
