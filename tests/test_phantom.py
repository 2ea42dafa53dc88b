import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from pydicom import dcmread

from mmpkd.image_files import mask_box, read_image, read_mask, to_uint8
from mmpkd.phantoms.chest import (BY_SIDE, DRAW_FINDING, FINDINGS, METADATA, PAIRED, PRESENT, SIDES, draw_case,
                                  draw_chest, exchange, grade, label_sides, phantom_cases, phantom_cohort,
                                  phantom_table, power_noise, radiology_report, side_label, site_look, stream,
                                  without_side, write_dicom, write_phantom)


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    return write_phantom(tmp_path_factory.mktemp('phantom')/'study', n=60, seed=3, progress=False)


@pytest.mark.parametrize('beta', [0., 3.])
@pytest.mark.parametrize('size', [(96, 96), (113, 97), (7, 12)])
def test_noise_is_standardised(size, beta):
    x = power_noise(np.random.default_rng(0), size, beta)
    assert x.shape == size and abs(x.mean()) < 1e-9 and abs(x.std() - 1) < 1e-9


@pytest.mark.parametrize('beta', [0., 2., 3.])
def test_noise_has_the_asked_spectrum(beta):
    power = sum(np.abs(np.fft.fft2(power_noise(np.random.default_rng(i), (128, 128), beta)*np.hanning(128)[:,
        None]*np.hanning(128)))**2 for i in range(20))
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    i = (f > .05) & (f < .4)
    assert abs(-np.polyfit(np.log(f[i]), np.log(power[i]), 1)[0] - beta) < .15


@pytest.mark.parametrize('size', [(110, 96), (104, 102), (64, 64), (220, 190)])
@pytest.mark.parametrize('severity', [.1, 1.])
def test_every_finding_has_a_region_in_every_person(size, severity):
    for i in range(30):
        img, regions = draw_chest(np.random.default_rng(i), size, heart=1.05)
        assert all(m.any() and m.shape == size for m in regions.values())
        assert not (regions['right lung'] & regions['left lung']).any()
        assert regions['right lung'].nonzero()[1].mean() < regions['left lung'].nonzero()[1].mean() # he looks at us
        for name, draw in DRAW_FINDING.items():
            for side in ('right', 'left'):
                changed, mask = draw(img, regions, np.random.default_rng(i), severity, side)
                x0, y0, x1, y1 = mask_box(mask)
                assert 0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0]
                if name != 'Cardiomegaly': assert not (mask & ~regions[f'{side} lung']).any()
                change = np.abs(changed - img)
                assert np.isfinite(changed).all() and change[mask].mean() > 5*change[~mask].mean()


def test_mask_box():
    m = np.zeros((5, 6), bool)
    with pytest.raises(ValueError, match='empty mask'): mask_box(m)
    m[1, 2] = m[3, 4] = True
    assert mask_box(m) == (2, 1, 5, 4)


def test_grades_cover_the_severities(): assert [grade(s) for s in (0, .01, .33, .34, .67, 1.)] == [0, 1, 1, 2, 3, 3]


def test_an_image_does_not_depend_on_its_neighbours():
    a, b = phantom_cases(40), phantom_cases(40).iloc[::-1]
    for c in b.to_dict('records')[:3]:
        same = a[a.image_id == c['image_id']].iloc[0].to_dict()
        np.testing.assert_array_equal(draw_case(c)[0], draw_case(same)[0])


def test_streams_differ_by_name_and_seed():
    x = [stream(*a).random() for a in ((0, 'a'), (0, 'b'), (1, 'a'), (0, 'a', 'b'), (0,))]
    assert len(set(x)) == 5


@pytest.mark.parametrize('n', [20, 21, 57, 1000])
def test_cases_of_any_size(n):
    c = phantom_cases(n, seed=n)
    assert len(c) == n and c.image_id.is_unique and set(c.split) == {'train', 'valid', 'test'}
    assert c.groupby('patient_id').split.nunique().max() == 1 and c.groupby('patient_id').sex.nunique().max() == 1
    assert (c.about == c.image_id).all()


@pytest.mark.parametrize('informative', [0., .5, 1.])
def test_reports_change_hands_within_a_split(informative):
    c = phantom_cases(1500, informative=informative)
    donor = c.set_index('image_id').loc[c.about].reset_index()
    assert sorted(c.about) == sorted(c.image_id) # each used once
    assert (donor.split.to_numpy() == c.split.to_numpy()).all()
    own = c.about == c.image_id
    assert abs(own.mean() - informative) < .04
    assert (donor.patient_id.to_numpy() != c.patient_id.to_numpy())[~own].all()


def test_exchange_alone_or_impossible():
    one = np.array(['a', 'a'])
    assert exchange(np.random.default_rng(0), one, 0.).tolist() == [0, 1]
    with pytest.raises(ValueError, match='too few'): exchange(np.random.default_rng(0), np.array(['a', 'a', 'b']), 0.)


def test_privileged_information_is_independent_of_the_label_when_useless():
    c = phantom_cases(2000, seed=1, informative=0.)
    t = phantom_table(c, 1)
    for f in FINDINGS:
        g = t[f.lower().replace(' ', '_') + '_grade']
        r = np.corrcoef(g[g.notna()], (c[f'severity {f}'] > 0)[g.notna()])[0, 1]
        assert abs(r) < .08


def test_grades_and_reports_follow_the_truth_when_informative():
    c = phantom_cases(2000, seed=1)
    t = phantom_table(c, 1)
    for f in FINDINGS:
        g, s = t[f.lower().replace(' ', '_') + '_grade'], c[f'severity {f}']
        known = g.notna()
        truth, label = (np.corrcoef(g[known], y[known])[0, 1] for y in (s, c[f]))
        assert truth > .8 > .65 > label and .05 < (~known).mean() < .15 and set(g[known]) == {0., 1., 2., 3.}
    word = t.report[c['severity Pneumothorax'] > 0].str.lower()
    assert word.str.contains('pneumothorax').all()
    assert not word.str.contains('no pneumothorax|or pneumothorax|no evidence of pneumo').any()
    well = t.report[(c[[f'severity {f}' for f in FINDINGS]] == 0).all(axis=1)].str.lower()
    assert not well.str.contains('moderate|large|severe|possible|probable').any()


def test_a_report_names_side_and_degree():
    for i in range(50):
        r = radiology_report(np.random.default_rng(i), {f: (.9 if f == 'Pleural Effusion' else 0., 'left')
                                                    for f in FINDINGS})
        assert 'large' in r.lower()
        assert 'left' in r
        assert 'right' not in r
        assert r.index('FINDINGS:') < r.index('IMPRESSION:')


def test_a_report_may_keep_the_side_to_itself():
    for i in range(200):
        ill = {f: (.1 + .9*(i % 10)/10, SIDES[i % 2]) for f in FINDINGS}
        said, silent = (radiology_report(np.random.default_rng(i), x) for x in (ill,
            {f: (s, '') for f, (s, _) in ill.items()}))
        assert SIDES[i % 2] in said.lower() and not any(w in silent.lower().split() for w in SIDES)
        assert '  ' not in silent and '{' not in silent and 'the lung' not in silent
        assert len(said.split()) >= len(silent.split()) > len(said.split()) - 8
        assert said.split('FINDINGS')[0] == silent.split('FINDINGS')[0]


def test_no_phrase_names_a_side_that_is_not_to_be_said():
    for phrases in PRESENT.values():
        for p in phrases: assert '{side}' not in without_side(p) and (without_side(p) == p) == ('{side}' not in p)


def test_the_names_of_labels_by_side():
    assert BY_SIDE[:3] == ['Cardiomegaly', 'Right Consolidation', 'Left Consolidation'] and len(BY_SIDE) == 7
    assert {side_label(f, s) for f in FINDINGS for s in SIDES} == set(BY_SIDE)


@pytest.mark.parametrize(('noise', 'test_noise'), [(0., 0.), (.25, 0.), (.1, .4)])
def test_labels_by_side_are_as_wrong_as_asked(noise, test_noise):
    c = phantom_cases(4000, seed=5, label_noise=noise, test_noise=test_noise)
    d = label_sides(c, 5, noise, test_noise)
    assert not set(PAIRED) & set(d) and d.Cardiomegaly.equals(c.Cardiomegaly)
    for f in PAIRED:
        for s in SIDES:
            wrong = ((c[f'severity {f}'] > 0) & (c[f'side {f}'] == s)) != d[side_label(f, s)]
            for split, rate in (('train', noise), ('test', test_noise)):
                assert abs(wrong[c.split == split].mean() - rate) < .035
        assert np.corrcoef(d[f'Left {f}'], d[f'Right {f}'])[0, 1] < .05 # a flip on one side is none on the other


def test_what_is_said_changes_nothing_but_the_side_in_the_report():
    c = label_sides(phantom_cases(300, seed=2), 2)
    what, where = (phantom_table(c, 2, says=says) for says in ('what', 'where'))
    assert what.drop(columns='report').equals(where.drop(columns='report')) and not what.report.equals(where.report)
    silent = what.report.str.contains(r'\b(?:right|left)\b', case=False)
    ill = (c[[f'severity {f}' for f in PAIRED]] > 0).any(axis=1)
    assert not silent.any() and (what.report == where.report).equals(~ill)
    with pytest.raises(ValueError, match="says must be 'what' or 'where', not 'who'"): phantom_table(c, 2, says='who')


def test_only_reports_and_metadata_differ_between_useless_and_useful():
    a, b = (label_sides(phantom_cases(200, seed=4, informative=i), 4) for i in (0., 1.))
    assert a.drop(columns='about').equals(b.drop(columns='about')) and not a.about.equals(b.about)


def test_the_shortcut_and_the_noise():
    c = phantom_cases(4000, shortcut=.8, test_shortcut=0., label_noise=.1, test_noise=.4)
    for split, link, noise in (('train', True, .1), ('test', False, .4)):
        d = c[c.split == split]
        has = np.stack([d[f'severity {f}'] > 0 for f in FINDINGS], 1)
        more = has[d.site == 'B'].mean() - has[d.site == 'A'].mean()
        assert (more > .35) if link else abs(more) < .06
        assert abs((has != d[FINDINGS]).to_numpy().mean() - noise) < .03


@pytest.mark.parametrize('bad', [dict(n=5), dict(label_noise=1.5), dict(informative=-1), dict(severity=(.5, .2)),
                                 dict(severity=(0., 1.)), dict(prevalence=.9), dict(split=(.5, .5, .5)),
                                 dict(split=(1., 0., 0.))])
def test_bad_knobs(bad):
    with pytest.raises(ValueError, match=next(iter(bad))): phantom_cases(**bad)


def test_bad_site():
    with pytest.raises(ValueError, match='site must be'): site_look(np.zeros((110, 96)), np.random.default_rng(0), 'C')


def test_files(study):
    c = phantom_cohort(study).check()
    assert len(c) == 60 and c.labels == FINDINGS and c.tabular == METADATA and c.text == 'report'
    truth = pd.read_csv(study/'truth.csv').set_index('image_id')
    for r in c.rois.itertuples():
        mask = read_mask(study/r.mask)
        assert mask.shape == read_image(study/f'images/{r.image_id}.dcm').shape
        assert mask_box(mask) == (r.x0, r.y0, r.x1, r.y1)
        assert truth.loc[r.image_id, f'severity {r.label}'] > 0
    assert len(c.rois) == sum((truth[f'severity {f}'] > 0).sum() for f in FINDINGS)


def test_a_study_by_side(study, tmp_path):
    c = phantom_cohort(write_phantom(tmp_path/'side', n=60, seed=3, progress=False, labels='side')).check()
    truth = pd.read_csv(tmp_path/'side'/'truth.csv').set_index('image_id')
    assert c.labels == BY_SIDE and c.tabular == METADATA and set(c.rois.label) <= set(BY_SIDE)
    for r in c.rois.itertuples():
        finding = r.label.removeprefix('Right ').removeprefix('Left ')
        assert truth.loc[r.image_id, f'severity {finding}'] > 0
        if finding in PAIRED: # the patient's left is on the right of the image
            assert r.label.startswith(truth.loc[r.image_id, f'side {finding}'].title())
            width = read_image(tmp_path/f'side/images/{r.image_id}.dcm').shape[1]
            assert ('Left' in r.label) == ((r.x0 + r.x1)/2 > width/2)
    test = c.split('test')
    has = pd.crosstab(test.rois.image_id, test.rois.label).reindex(index=test.items.image_id, columns=BY_SIDE,
                                                                   fill_value=0)
    assert (has.to_numpy() == test.y().to_numpy()).all()
    plain = phantom_cohort(study)
    assert c.items.report.tolist() == plain.items.report.tolist()
    assert c.rois.drop(columns='label').equals(plain.rois.drop(columns='label'))
    for f in (study/'images').iterdir(): assert f.read_bytes() == (tmp_path/'side/images'/f.name).read_bytes()
    with pytest.raises(FileExistsError, match='another phantom'):
        write_phantom(tmp_path/'side', n=60, seed=3, progress=False)
    with pytest.raises(FileExistsError, match='another phantom'):
        write_phantom(tmp_path/'side', n=60, seed=3, progress=False, labels='side', says='what')


def test_the_noise_asked_for_reaches_the_labels_by_side(tmp_path):
    c = phantom_cohort(write_phantom(tmp_path/'clean', n=30, label_noise=0., labels='side', progress=False))
    has = pd.crosstab(c.rois.image_id, c.rois.label).reindex(index=c.items.image_id, columns=BY_SIDE, fill_value=0)
    assert (has.to_numpy() == c.y().to_numpy()).all()


def test_the_default_study_is_the_one_whose_results_are_told(study):
    assert hashlib.sha256((study/'table.csv').read_bytes()).hexdigest()[:16] == 'f5459cc52959e72f'
    assert not {'labels', 'says'} & set(json.loads((study/'phantom.json').read_text()))


@pytest.mark.parametrize('bad', [dict(labels='sides'), dict(says='when'), dict(format='jpg')])
def test_bad_choices(bad, tmp_path):
    with pytest.raises(ValueError, match=f'{next(iter(bad))} must be'): write_phantom(tmp_path/'x', n=20, **bad)
    assert not (tmp_path/'x').exists()


def test_dicom_files_are_real(study):
    truth = pd.read_csv(study/'truth.csv').to_dict('records')
    uids = set()
    for case in truth[:20]:
        ds = dcmread(study/f"images/{case['image_id']}.dcm")
        assert ds.PhotometricInterpretation == {'A': 'MONOCHROME2', 'B': 'MONOCHROME1'}[case['site']]
        assert ds.BitsStored == 12
        assert ds.PatientID == case['patient_id'] and ds.ViewPosition == case['view'] and ds.pixel_array.max() > 255
        uids.add(ds.SOPInstanceUID)
        img = to_uint8(draw_case(case, 3)[0]).astype(int)
        assert np.abs(to_uint8(read_image(study/f"images/{case['image_id']}.dcm")) - img).max() <= 1
    assert len(uids) == 20


@pytest.mark.parametrize('bits', [9, 12, 16])
@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
def test_dicom_round_trip(tmp_path, bits, photometric):
    img = np.linspace(0, 1, 256).reshape(16, 16)
    write_dicom(tmp_path/'a.dcm', img, 'a', photometric, bits)
    assert np.abs(read_image(tmp_path/'a.dcm') - 255*img).max() <= 1.5
    with pytest.raises(ValueError, match='photometric'): write_dicom(tmp_path/'b.dcm', img, 'b', 'RGB')


def test_png_and_dicom_hold_the_same_picture(study, tmp_path): # each stretched from its darkest to its brightest pixel
    png = write_phantom(tmp_path/'png', n=60, seed=3, format='png', progress=False)
    for f in sorted((png/'images').iterdir())[:10]:
        as_png = to_uint8(read_image(f))
        as_dicom = to_uint8(read_image(study/'images'/f'{f.stem}.dcm'))
        assert np.abs(as_png.astype(int) - as_dicom).max() <= 2
    assert (png/'truth.csv').read_bytes() == (study/'truth.csv').read_bytes()
    with pytest.raises(ValueError, match='format'): write_phantom(tmp_path/'x', format='jpg')


def test_a_finished_phantom_is_left_alone_and_an_unfinished_one_completed(study):
    before = {f: f.stat().st_mtime_ns for f in study.rglob('*') if f.is_file()}
    write_phantom(study, n=60, seed=3, progress=False)
    assert before == {f: f.stat().st_mtime_ns for f in study.rglob('*') if f.is_file()}
    content = {f: f.read_bytes() for f in before}
    record = json.loads((study/'phantom.json').read_text())
    (study/'phantom.json').write_text(json.dumps(dict(record, finished=False)))
    (study/'table.csv').unlink()
    with pytest.raises(FileNotFoundError, match='no finished phantom'): phantom_cohort(study)
    write_phantom(study, n=60, seed=3, progress=False)
    assert content == {f: f.read_bytes() for f in before}


def test_other_peoples_folders_are_safe(study, tmp_path):
    (tmp_path/'mine.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='not empty'): write_phantom(tmp_path, n=20)
    with pytest.raises(FileExistsError, match='another phantom'): write_phantom(study, n=60, seed=4)
    assert [f.name for f in tmp_path.iterdir()] == ['mine.txt']
    with pytest.raises(FileNotFoundError, match='write_phantom'): phantom_cohort(tmp_path)
