import gzip, json, re, shutil, unicodedata
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from pydicom import dcmread

from mmpkd.mimic import (CHEXPERT, MASKED_TERMS, ROI_CLASSES, ROI_LABELS, coco_boxes, find_names, find_table, fit_boxes,
                         fold_text, hard_labels, hide_counts, image_suffix, mask_labels,
                         mimic_cohort, misspelt_names, ms_cxr, one_edit, plain_boxes, read_header, read_labels,
                         read_rois, reflacx, report_text, section_name, sections, view_of)
from mmpkd.phantoms.chest import write_dicom

FINDINGS = ['Cardiomegaly', 'Edema']
REPORT = ('                 FINAL REPORT\n EXAMINATION:  CHEST (PA)\n \n'
          ' FINDINGS: \n \n Secret words about the heart.\n \n IMPRESSION: \n \n No edema.\n')
ROWS = [  # image, study, patient, split, view, Cardiomegaly, Edema; the two last of a study
    ('a1', '50000001', '10000001', 'train', 'PA', 1, -1),
    ('a2', '50000001', '10000001', 'train', 'LATERAL', 1, -1),
    ('b1', '50000002', '10000001', 'train', 'AP', np.nan, 1),
    ('c1', '50000003', '11000002', 'train', 'PA', 0, np.nan),
    ('d1', '50000004', '12000003', 'validate', 'PA', 1, 0),
    ('e1', '50000005', '13000004', 'test', 'AP', 0, 1),
    ('f1', '50000006', '13000005', 'test', 'PA', 1, 0)]
COLUMNS = ['dicom_id', 'study_id', 'subject_id', 'split', 'ViewPosition', *FINDINGS]
SECRETS = {r[k] for r in ROWS for k in (1, 2)} | {'Secret words'}                     # what no message may say


def folder_of(r): return f'files/p{r[2][:2]}/p{r[2]}/s{r[1]}'


def write_release(root, release='jpg', reports=True, suffix='.csv.gz', version='2.0.0'):
    "Six studies of five patients in the layout of a release, with all tables"
    t = pd.DataFrame(ROWS, columns=COLUMNS).assign(Rows=60, Columns=80)
    y, x = np.ogrid[:60, :80]
    for r in ROWS:
        path = root/folder_of(r)
        path.mkdir(parents=True, exist_ok=True)
        img = np.clip((x + y)/140 + .001*len(r[0]), 0, 1)
        if release == 'dicom': write_dicom(path/f'{r[0]}.dcm', img, r[0], ViewPosition=r[4], PatientID=r[2])
        else: Image.fromarray((255*img).astype(np.uint8)).save(path/f'{r[0]}.jpg')
        if reports: path.with_suffix('.txt').write_text(REPORT)
    t[['dicom_id', 'study_id', 'subject_id', 'split']].to_csv(root/f'mimic-cxr-{version}-split{suffix}', index=False)
    t[['dicom_id', 'subject_id', 'study_id', 'ViewPosition', 'Rows',
       'Columns']].to_csv(root/f'mimic-cxr-{version}-metadata{suffix}', index=False)
    y = t.drop_duplicates('study_id')[['subject_id', 'study_id', *FINDINGS]]
    y.to_csv(root/f'mimic-cxr-{version}-chexpert{suffix}', index=False)
    y.assign(Edema=1).to_csv(root/f'mimic-cxr-{version}-negbio{suffix}', index=False)
    return root


@pytest.fixture
def root(tmp_path): return write_release(tmp_path/'mimic')


def edit(path, f): f(pd.read_csv(path, dtype=str)).to_csv(path, index=False)
def table(root, name): return root/f'mimic-cxr-2.0.0-{name}.csv.gz'
def boxes(*rows, **more):
    return pd.DataFrame(rows, columns=['image_id', 'label', 'x0', 'y0', 'x1', 'y1']).assign(**more)


def refused(root, error=ValueError, **kwargs):
    "The message of the error, which names nobody and quotes no report"
    with pytest.raises(error) as e: mimic_cohort(root, **dict(dict(labels=FINDINGS), **kwargs))
    assert not [s for s in SECRETS if s in str(e.value)], str(e.value)
    return str(e.value)


# Reports

@pytest.mark.parametrize('heading,name', [
    ('IMPRESSION', 'impression'), ('IMPRESSON', 'impression'), ('MPRESSION', 'impression'),
    ('IMPERSSION', 'impression'), ('CONCLUSION', 'impression'), ('FINDINGS AND IMPRESSION', 'impression'),
    ('FINDINGS/ IMPRESSION', 'impression'), ('FINDING', 'findings'), ('FINDINDGS', 'findings'),
    ('REFERENCE FINDINGS', 'findings'), ('CHEST, TWO VIEWS', 'findings'), ('PORTABLE AP', 'findings'),
    ('COMPARISONS', 'comparison'), ('COMPARRISON', 'comparison'), ('COMPARISON FILM', 'comparison'),
    ('CLINICAL HISTORY', 'history'), ('REASON FOR EXAM', 'indication'), ('IDICATION', 'indication'),
    ('TYPE OF EXAMINATION', 'examination'), ('TECHNIQUE', 'technique'), ('WET READ', 'wet read'),
    ('RECOMMENDATION(S)', 'recommendation(s)')])
def test_headings(heading, name): assert section_name(heading) == name


def test_sections_of_a_report():
    s = sections(REPORT)
    assert s == dict(preamble='', examination='CHEST (PA)', findings='Secret words about the heart.',
                     impression='No edema.')
    assert sections(REPORT.replace('\n', '\r\n')) == s
    assert sections('') == {'preamble': '', 'last paragraph': ''}


def test_the_last_section_of_a_name_counts_unless_it_is_empty():
    assert sections(' IMPRESSION: one\n IMPRESSION: two\n')['impression'] == 'two'
    assert sections(' IMPRESSION: one\n \n IMPRESSION:\n')['impression'] == 'one'
    assert sections(' CHEST, PA:\n \n INDICATION: cough\n FINDINGS: clear\n')['findings'] == 'clear'


@pytest.mark.parametrize('report,text', [
    (' FINDINGS: f\n IMPRESSION: i\n NOTIFICATION: n', 'i'),
    (' FINDINGS: f\n IMPRESSION:\n', 'f'),
    (' FINDINGS: f\n IMPRESSION: ___.\n', 'f'),
    (' FINDINGS AND IMPRESSION: effusion\n IMPRESSION: ___.\n', 'effusion'),
    (' FINDINGS: f\n FINDINGS:\n ___\n', 'f'),
    (' IMPRESSION: ___.\n INDICATION: cough\n \n The lungs are clear.', 'The lungs are clear.'),
    (' INDICATION: cough\n \n The lungs\n are clear.\n \n No change.', 'The lungs are clear. No change.'),
    (' FINAL REPORT\n The lungs are clear.', 'The lungs are clear.'),
    (' FINAL REPORT\n PORTABLE\n \n The lungs are clear.', 'The lungs are clear.'),
    (' INDICATION: cough\n COMPARISON: Radiograph of yesterday.\n', 'Radiograph of yesterday.'),
    (' INDICATION: cough\n COMPARISON: ___.\n', ''), (' EXAMINATION: CHEST\n', ''), ('', ''), ('  \n___\n', '')])
def test_the_section_that_labels_were_made_from(report, text): assert report_text(report) == text


def test_named_sections():
    assert report_text(REPORT, 'findings') == 'Secret words about the heart.'
    assert report_text(REPORT, 'impression') == 'No edema.' and report_text(' FINDINGS: f', 'impression') == ''
    assert report_text(REPORT, 'all').startswith('FINAL REPORT EXAMINATION: CHEST (PA) FINDINGS: Secret')
    with pytest.raises(ValueError, match='section'): report_text(REPORT, 'history')


@given(st.text('AB:\n xy._-()', max_size=300))
def test_any_text_has_sections(text):
    s = sections(text)
    assert all(v == ' '.join(v.split()) for v in s.values())
    for name in ('priority', 'all'): assert isinstance(report_text(text, name), str)


def test_text_in_headings_is_text_of_the_report():
    assert sections(' FINDINGS: At 10:30 the A: line\n is in place.')['findings'] == 'At 10:30 the A: line is in place.'


# Masking

PLAIN = [t for terms in MASKED_TERMS.values() for t in terms if '…' not in t]
PLURALS = dict(atelectasis='atelectases', pneumonitis='pneumonitides',
               **{f'{p}thorax': f'{p}thoraces' for p in ('pneumo', 'hydropneumo', 'hemopneumo', 'hydro')})


def variants(term):
    "A term as people write it"
    last = term.split()[-1]
    plural = term.removesuffix(last) + PLURALS.get(last,
                                                   last.removesuffix('y') + 'ies' if last.endswith('y') else last + 's')
    for t in (term, plural):
        yield from (t, t.upper(), t.title(), t.replace(' ', '-'), t.replace(' ', '\n '), t.replace(' ', ' - '),
                    t.replace(' ', ''), t[:2] + '-\n' + t[2:])


@pytest.mark.parametrize('term', PLAIN)
@pytest.mark.parametrize('around', ['{}', 'No {}.', 'Possible {}, or ({}).', '___{}___', 'non-{}/{}-like', '1.{};2.{}'])
def test_a_term_is_covered_in_all_its_forms(term, around):
    for v in variants(term):
        text = mask_labels(around.replace('{}', v))
        assert text == around.replace('{}', '[MASK]'), v


def test_whole_words_only():
    for text in ('A masseffusionlike thing', 'edematoid', 'Lungs are clear.', 'The heart is normal.',
                 'cardiac silhouette', 'ptxy', 'collapsible', ''):
        assert mask_labels(text) == text


@pytest.mark.parametrize('text,masked', [
    ('The heart is mildly enlarged', 'The M is mildly M'),
    ('Heart size remains\nseverely enlarged.', 'M size remains\nseverely M.'), ('enlarged heart', 'M'),
    ('moderately enlarged cardiac silhouette', 'moderately M'),
    ('Mild enlargement of the cardiac silhouette', 'Mild M of the M'),
    ('The cardiac silhouette is not enlarged.', 'The M is not M.'),
    ('cardiac and hilar enlargement', 'cardiac and hilar enlargement'),
    ('The heart is normal. Enlarged hila.', 'The heart is normal. Enlarged hila.'),
    ('heart pneumonia is enlarged', 'M M is M'), ('Heart is enlarged heart is enlarged', 'M is M is M')])
def test_gaps_keep_what_stands_in_them(text, masked): assert mask_labels(text, token='M') == masked


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PLAIN + ['no', 'and', 'is', 'heart', 'cardiac', 'silhouette', 'enlarged', 'enlargement',
                                         'of', 'the', '.', ',', '___', 'possible', 'air', 'space', 'pleural', 'fluid']),
                                         max_size=15),
       st.sampled_from([' ', '-', '\n', ', ']), st.sampled_from(['[MASK]', 'X', '', '___']))
def test_no_term_survives_anywhere(words, sep, token):
    text = mask_labels(sep.join(words), token=token)
    assert mask_labels(text, token=token) == text
    if token == '[MASK]':  # only blanks, line ends and hyphens hold a name together
        flat = ' '.join(re.sub(r'[^a-z0-9\s-]+', ' | ', text.replace(token, '|').lower()).replace('-', ' ').split())
        for t in PLAIN: assert f' {t.lower()} ' not in f' {flat} '


def test_the_list_is_an_argument():
    assert mask_labels('rib fracture, edema', dict(Fracture=['fracture'])) == 'rib [MASK], edema'
    assert mask_labels('rib fracture', dict(Fracture='fracture')) == 'rib [MASK]'
    assert mask_labels('edema', {}) == mask_labels('edema', dict(Edema=[])) == 'edema'
    assert mask_labels('C++ (x.y) a.b', dict(A=['x.y', 'c++'])) == '[MASK] ([MASK]) a.b'
    with pytest.raises(ValueError, match='must not be empty'): mask_labels('x', dict(A=['  ']))
    with pytest.raises(ValueError, match='itself one of the terms'): mask_labels('x', dict(A=['a … b']), 'b a')
    with pytest.raises(ValueError, match='itself one of the terms'): mask_labels('x', token='No effusions')


# Names in any script and spelling. The family: scripts without spaces, attached particles, prefixes and endings;
# case, accents, their Unicode forms, letters with several spellings; compounds; signs; and beside each the ordinary
# word that must stay

def hide(text, *words): return mask_labels(text, dict(hidden=list(words)), 'M')

NFD = partial(unicodedata.normalize, 'NFD')


@pytest.mark.parametrize('word,text,hidden', [
    ('肺炎', '右下肺肺炎可能。', '右下肺M可能。'), ('肺炎', '肺\n炎', 'M'),
    ('気胸', '左気胸を認める', '左Mを認める'), ('がん', 'か\u3099ん', 'M'),
    ('ハイエン', 'ﾊｲｴﾝ', 'M'), ('ガン', 'ｶﾞﾝ', 'M'),
    ('폐렴', '세균성폐렴이 의심됨', '세균성M이 의심됨'), ('폐렴', NFD('폐렴은'), 'M' + NFD('은')),
    ('ปอดอักเสบ', 'พบปอดอักเสบที่ปอดขวา', 'พบMที่ปอดขวา'), ('ປອດ', 'ຂອງປອດ', 'ຂອງM'),
    ('CT', '左肺CT検査', '左肺M検査'), ('胸水', '両側胸水(+)', '両側M(+)'),
    ('كتلة', 'وجود كتلة والكتلة، كتلتان', 'وجود M والM، M'), ('نزف', 'لا نَزْفٌ', 'لا M'),
    ('גידול', 'הגידול וגידולים', 'הM וM'), ('שבר', 'שֶׁבֶר בצלע', 'M בצלע'),
    ('निमोनिया', 'निमोनिया है', 'M है'), ('пневмония', 'Пневмония. БРОНХОПНЕВМОНИЯ', 'M. M'), ('ёлка', 'елка', 'M'),
    ('πνευμονία', 'ΠΝΕΥΜΟΝΊΑ', 'M'), ('όγκος', 'ΌΓΚΟΣ', 'M')])
def test_a_word_in_another_script(word, text, hidden): assert hide(text, word) == hidden


@pytest.mark.parametrize('word,text', [('가', '간'), ('カ', 'ガ'), ('か', 'が'), ('पक', 'पकी'), ('ก', 'กำ'),
                                       ('ورم', 'تورم'), ('שבר', 'גשברים'), ('рак', 'брака'),
                                       ('mass', 'massif'), ('β', 'βx')])
def test_a_part_of_another_letter_or_word_stays(word, text): assert hide(text, word) == text


@pytest.mark.parametrize('word,text,hidden', [
    ('neumonía', 'Neumonía basal; dos neumonías, Neumonia', 'M basal; dos M, M'), ('neumonia', 'NEUMONÍA', 'M'),
    ('épanchement', 'e\u0301panchement', 'M'), (NFD('épanchement'), 'Épanchements', 'M'),
    ('lesión', 'lesiones', 'M'), ('Ödem', 'Oedem, Odem, ÖDEME, Lungenödem', 'M, M, M, M'), ('Oedem', 'Ödem', 'M'),
    ('Straße', 'STRASSE', 'M'), ('Erguss', 'Ergüsse, Erguß', 'M, M'),
    ('œdème', 'oedeme', 'M'), ('oedème', 'Œdème', 'M'), ('iskemi', 'İSKEMİ ıskemı', 'M M'), ('brud', 'Bru\u00add', 'M'),
    ('naïve', 'nai\u0308ve', 'M'), ('złamanie', 'zlamanie', 'M'),
    ('COVID-19', 'ＣＯＶＩＤ－１９ covid 19', 'M M'), ('mass', 'ma\u200bss', 'M'), ('ﬁbrosis', 'fibrosis', 'M')])
def test_a_word_with_another_spelling(word, text, hidden): assert hide(text, word) == hidden


@pytest.mark.parametrize('word,text,hidden', [
    ('Erguss', 'Kleiner Pleuraerguss links, Perikarderguß', 'Kleiner M links, M'),
    ('pneumonia', 'bronchopneumonia', 'M'), ('nodule', 'micronodules', 'M'), ('Zyste', 'Nierenzysten', 'M'),
    ('Ödem', 'Herzödeme', 'M'),
    ('mass', 'massive, biomass, masses', 'massive, biomass, M'), ('cat', 'catheter, bobcat', 'catheter, bobcat'),
    ('normal', 'abnormal', 'abnormal'), ('typical', 'atypical', 'atypical'), ('regular', 'irregular', 'irregular'),
    ('Erguss', 'Ergussbildung', 'Ergussbildung'), ('erguss…', 'Ergussbildung, Erguss.', 'M, M.'),
    ('erguss...', 'Ergussbildung', 'M'), ('…herd', 'Rundherd, Herds, Herdfeld', 'M, M, Herdfeld'),
    ('…thora…', 'Hemithoraces', 'M'),
    ('пневмони…', 'пневмонии, бронхопневмонией', 'M, M'), ('fracture', '123fracture', '123fracture')])
def test_compounds(word, text, hidden): assert hide(text, word) == hidden


@pytest.mark.parametrize('word,text,hidden', [
    ('C++ (lesion)', 'grade C++ (lesion)', 'grade M'), ('T2/FLAIR', 'T2/FLAIR, t2 / flair; T1/FLAIR', 'M, M; T1/FLAIR'),
    ('T2*', 'T2* map, T2 map', 'M map, T2 map'), ('ER-', 'ER- and ER+', 'M and ER+'),
    ('a.b', 'a.b axb', 'M axb'), ('[x]', '[x] x', 'M x'), ('$5', '$5 5', 'M 5'), ('^', 'a^b', 'aMb'),
    ('a|b', 'a|b a b', 'M a b'), (r'\d', r'\d 5', 'M 5'), ('BI-RADS', 'BIRADS 4, bi-rads, BI RADS', 'M 4, M, M'),
    ('lung lesion', 'Lung_lesions, lung\n-lesion, lung ___ lesion', 'M, M, lung ___ lesion')])
def test_words_with_signs(word, text, hidden):
    assert hide(text, word) == hidden


def test_the_rest_of_a_report_stays_to_the_letter():
    text = 'A\u0301  große Œdème\r\n\tＣＴ\u00a0: e\u0301panchement—½ ™\ufe0f ﬁn🙂'
    assert hide(text, 'épanchement') == text.replace('e\u0301panchement', 'M') and hide(text, 'nothing') == text
    assert hide(text, 'oedeme') == text.replace('Œdème', 'M') and hide(text, 'ct') == text.replace('ＣＴ', 'M')
    assert [text[a:b] for a, b in find_names(text, ['ct', 'fin'])] == ['ＣＴ', 'ﬁn']


@settings(max_examples=300)
@given(st.text(max_size=40))
def test_folding_keeps_places(text):
    "Each folded character comes from a piece of the text that folds to what holds it; the pieces are in order"
    folded, spans = fold_text(text)
    if spans is None: assert folded == text.lower()
    else:
        assert len(spans) == len(folded) and (np.diff(spans, axis=0) >= 0).all()
        for c, (a, b) in zip(folded, spans.tolist()): assert a < b <= len(text) and c in fold_text(text[a:b])[0]
    assert mask_labels(text, dict(hidden=['qxqxqx'])) == text


def test_every_gap_is_kept():
    assert mask_labels('heart is mildly to moderately enlarged now', dict(h=['heart … to … enlarged']),
                       'M') == 'M is mildly M moderately M now'


def test_mimic_covers_whole_words_only(root):
    "Its list names its compounds; 'radiopaque' is not Lung Opacity"
    for f in root.rglob('s*.txt'): f.write_text(' IMPRESSION: Radiopaque marker, opaque lung.')
    assert set(mimic_cohort(root, ['Cardiomegaly']).items.report) == {'Radiopaque marker, [MASK] lung.'}
    assert mask_labels('radiopaque') == '[MASK]' and mask_labels('radiopaque', compounds=False) == 'radiopaque'


def test_empty_words():
    for w in ('', ' ', '…', '___', '\u200b'):
        with pytest.raises(ValueError, match='must not be empty'): hide('x', w)


# Which words were found

EDITS = ['neumonia', 'pnumonia', 'pneumoni', 'ppneumonia', 'pneumoonia', 'pneumoniaa', 'xneumonia', 'pneuxonia',
         'penumonia', 'pneumonai']


@pytest.mark.parametrize('word', EDITS)
def test_one_edit_is_a_misspelling(word):
    assert one_edit('pneumonia', word) and one_edit(word, 'pneumonia')
    t = misspelt_names(pd.Series(['Left ' + word.title() + '.', None, 'clear', 'pneumonia']), ['Pneumonia'])
    assert t.to_dict('records') == [dict(name='Pneumonia', spelling=word, reports=1)]


@pytest.mark.parametrize('word', ['pneumonia', 'PNEUMONIAS', 'pneuma', 'penumonai', 'pneumonial', 'bronchopneumonia',
                                  'xpneumoniax'])
def test_no_misspelling(word): assert not len(misspelt_names(pd.Series([word]), ['pneumonia']))


@given(st.text('abc', max_size=6), st.text('abc', max_size=6))
def test_one_edit_by_brute_force(a, b):
    ends = [(i, j) for i in range(len(a) + 1) for j in (i, i + 1)]
    changed = {a[:i] + c + a[j:] for i, j in ends for c in ('', 'a', 'b', 'c')}
    exchanged = {a[:i] + a[i+1] + a[i] + a[i+2:] for i in range(len(a) - 1)}
    assert one_edit(a, b) == (b in changed | exchanged and a != b)


def test_what_a_neighbour_is():
    "Short names have none; another name is none; a frequent word is its own; names of several words and other scripts"
    x = pd.Series(['mas', 'effusions', 'lesion', 'legion'])
    assert not len(misspelt_names(x, ['mass', 'effusion', 'lesion', 'legion']))
    assert misspelt_names(x, ['lesion']).spelling.tolist() == ['legion']
    assert not len(misspelt_names(pd.Series(['injection']*10 + ['infection']*9), ['infection']))
    assert misspelt_names(pd.Series(['injection']*10), ['infection']).reports.tolist() == [10]
    assert misspelt_names(pd.Series(['pleural efusion', 'a pleura effusion']),
                          ['Pleural_Effusion']).spelling.tolist() == ['pleura effusion', 'pleural efusion']
    assert misspelt_names(pd.Series(['Neumnía']), ['neumonía']).spelling.tolist() == ['neumnia']
    assert misspelt_names(pd.Series(['пневмнония']), ['пневмония']).reports.tolist() == [1]
    assert list(misspelt_names(pd.Series([], dtype=object),
                               [])) == ['name', 'spelling', 'reports'] and not len(misspelt_names(x, ['…mas…']))


def test_hidden_words_are_counted():
    "Reports, not places; each word for itself; a word that is not there; blanks"
    x = pd.Series(['Erguss, Erguss, kein Ergus', 'Pleuraerguss', '肺炎', None, np.nan, 3])
    t = hide_counts(x, ['Erguss', '肺炎', 'Ödem', 'Erguss'])
    assert t.to_dict('list') == dict(word=['Erguss', '肺炎', 'Ödem'], reports=[2, 1, 0], misspelt=['ergus (1)', '', ''])


def test_every_label_with_regions_has_masked_names():
    assert list(MASKED_TERMS) == ROI_LABELS and set(ROI_LABELS) <= set(CHEXPERT)


# Labels

@pytest.mark.parametrize('uncertain,u', [('ignore', np.nan), ('positive', 1), ('negative', 0)])
@pytest.mark.parametrize('blank,b', [('negative', 0), ('ignore', np.nan)])
def test_policies(uncertain, u, blank, b):
    y = hard_labels(pd.DataFrame({'Edema': [1, 0, -1, np.nan]}), uncertain, blank)
    np.testing.assert_array_equal(y.Edema, [1, 0, u, b])


def test_unknown_policies():
    for kw in (dict(uncertain='u-ones'), dict(blank='positive')):
        with pytest.raises(ValueError, match=next(iter(kw))): hard_labels(pd.DataFrame({'Edema': [1.]}), **kw)


def test_the_radiologists_column_names(tmp_path):
    (tmp_path/'t.csv').write_text('study_id,No Findings,Airspace Opacity\n50000001,1.0,-1\n')
    t = read_labels(tmp_path/'t.csv', ['Lung Opacity', 'No Finding'])
    assert t.loc['50000001'].tolist() == [-1, 1]


# A whole folder

@pytest.mark.parametrize('release', ['jpg', 'dicom'])
@pytest.mark.parametrize('suffix,version', [('.csv', '2.0.0'), ('.csv.gz', '2.1.0')])
def test_both_releases(tmp_path, release, suffix, version):
    c = mimic_cohort(write_release(tmp_path, release, suffix=suffix, version=version), FINDINGS,
                     rois=boxes(('a1', 'Edema', 1, 2, 3, 4))).check()
    assert c.items.image_id.tolist() == ['a1', 'b1', 'c1', 'd1', 'e1', 'f1']
    assert c.items.split.tolist() == ['train']*3 + ['valid'] + ['test']*2
    assert c.items.patient_id[0] == '10000001' and c.items.study_id[0] == '50000001' and c.text == 'report'
    assert c.items.image[0] == 'files/p10/p10000001/s50000001/a1' + ('.jpg' if release == 'jpg' else '.dcm')
    assert set(c.items.report) == {'No [MASK].'}
    np.testing.assert_array_equal(c.y(), [[1, np.nan], [0, 1], [0, 0], [1, 0], [0, 1], [1, 0]])
    assert c.rois.values.tolist() == [['a1', 'Edema', 1, 2, 3, 4]]
    assert c.repair_counts().to_dict() == {'view not asked for': 1} and c.repairs.id.tolist() == ['a2']


def test_views(root):
    assert mimic_cohort(root, FINDINGS, views='pa').items.image_id.tolist() == ['a1', 'c1', 'd1', 'f1']
    every = mimic_cohort(root, FINDINGS, views=None)
    assert len(every) == 7 and 'view' not in every.items and not len(every.repairs)
    assert every.items.report[0] == every.items.report[1]  # one report per study, joined to each of its images
    assert 'SWIMMERS' in refused(root, views='swimmers')
    edit(table(root, 'metadata'), lambda t: t.assign(ViewPosition=t.ViewPosition.where(~t.dicom_id.isin(['b1']))).query(
        "dicom_id != 'c1'"))
    c = mimic_cohort(root, FINDINGS)
    assert c.repair_counts().to_dict() == {'view unknown': 2,
                                           'view not asked for': 1} and 'b1' not in set(c.items.image_id)


def test_views_from_headers(tmp_path):
    root = write_release(tmp_path, 'dicom')
    table(root, 'metadata').unlink()
    (root/folder_of(ROWS[3])/'c1.dcm').write_bytes(b'broken')
    (root/folder_of(ROWS[4])/'d1.dcm').unlink()
    write_dicom(root/folder_of(ROWS[5])/'e1.dcm', np.ones((60, 80)), 'e1')
    c = mimic_cohort(root, FINDINGS)
    assert c.items.view.fillna('?').tolist() == ['PA', 'AP', '?', '?', 'PA']  # unreadable files stay, for the audit
    assert c.repairs[['repair', 'id']].values.tolist() == [['view unknown', 'e1'], ['view not asked for', 'a2']]
    assert read_header(root/'nothing.dcm')[0] is None
    jpg = write_release(tmp_path/'jpg')
    table(jpg, 'metadata').unlink()
    assert 'mimic-cxr-*-metadata' in refused(jpg, FileNotFoundError)
    assert len(mimic_cohort(jpg, FINDINGS, views=None)) == 7


def test_tables_and_reports_elsewhere(tmp_path):
    root, away = write_release(tmp_path/'mimic', reports=False), tmp_path/'away'
    assert 'mimic-cxr-reports.zip' in refused(root, FileNotFoundError)
    assert mimic_cohort(root, FINDINGS, reports=False).text is None
    for base in (away/'files', away/'plain'):
        for r in ROWS:
            path = base/folder_of(r).removeprefix('files/')
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix('.txt').write_text(REPORT)
    for reports in (away, away/'files', away/'plain'):
        assert mimic_cohort(root, FINDINGS, reports=reports).items.report.notna().all()
    for f in root.glob('*.csv.gz'): f.rename(away/f.name)
    assert 'physionet.org/content/mimic-cxr-jpg' in refused(root, FileNotFoundError, reports=away)
    assert len(mimic_cohort(root, FINDINGS, reports=away, tables=away).check()) == 6
    assert len(mimic_cohort(root/'files', FINDINGS, reports=away, tables=away).check()) == 6   # root one level deeper
    shutil.move(away/'plain', root/'mimic-cxr-reports')
    assert len(mimic_cohort(root, FINDINGS, tables=away)) == 6


@pytest.mark.parametrize('name', ['split', 'chexpert'])
def test_a_missing_table_is_named(root, name):
    table(root, name).unlink()
    text = refused(root, FileNotFoundError)
    assert f'mimic-cxr-*-{name}.csv' in text and 'MIMIC-CXR-JPG' in text


def test_no_folder(tmp_path): assert 'no folder' in refused(tmp_path/'none', FileNotFoundError)


def test_the_latest_release_is_taken(root):
    for name in ('mimic-cxr-2.10.0-split.csv.gz', 'mimic-cxr-2.9.0-split.csv.gz'):
        shutil.copy(table(root, 'split'), root/name)
    assert find_table(root, 'mimic-cxr-*-split').name == 'mimic-cxr-2.10.0-split.csv.gz'
    assert find_table(root, 'cxr-record-list', required=False) is None


def test_which_files_the_images_are(tmp_path):
    root = write_release(tmp_path, 'dicom')
    write_release(root, 'jpg')                                                       # both releases in one folder
    assert set(mimic_cohort(root, FINDINGS).items.image.str[-4:]) == {'.dcm'}
    assert set(mimic_cohort(root, FINDINGS, images='jpg').items.image.str[-4:]) == {'.jpg'}
    assert "'png'" in refused(root, images='png')
    assert image_suffix(tmp_path/'nothing', pd.Series(['x'])) == '.dcm'


def test_images_that_are_not_there(root):
    (root/folder_of(ROWS[5])/'e1.jpg').unlink()
    c = mimic_cohort(root, FINDINGS)
    with pytest.raises(FileNotFoundError, match="image of 'e1'") as e: c.check()
    assert not [s for s in SECRETS if s in str(e.value)]
    c = mimic_cohort(root, FINDINGS, missing='drop').check()
    assert c.repair_counts()['image not on disk'] == 1 and 'e1' not in set(c.items.image_id)
    shutil.rmtree(root/'files')
    assert 'not one of 6 images' in refused(root, FileNotFoundError, missing='drop', reports=False)


def test_an_image_without_a_split(root):
    pd.DataFrame(dict(subject_id=1, study_id=2, dicom_id=['a1', 'z9'],
                      path='x')).to_csv(root/'cxr-record-list.csv.gz', index=False)
    c = mimic_cohort(root, FINDINGS)
    assert c.repairs.query("repair == 'image without a split'").id.tolist() == ['z9'] and len(c) == 6


def test_label_files_and_studies_without_labels(root):
    assert mimic_cohort(root, FINDINGS, label_file='negbio').items.Edema.tolist() == [1]*6
    edit(table(root, 'chexpert'), lambda t: t[t.study_id != '50000003'])
    c = mimic_cohort(root, FINDINGS)
    assert 'c1' not in set(c.items.image_id) and c.repair_counts()['study without labels'] == 1
    c = mimic_cohort(root, FINDINGS, unlabelled='keep')
    assert c.y().loc['c1'].isna().all() and c.repair_counts()['study without labels'] == 1
    edit(table(root, 'chexpert'), lambda t: t.drop(columns='Edema'))
    assert "mimic-cxr-2.0.0-chexpert.csv.gz has no column 'Edema'" in refused(root)


def test_labels_by_hand(root):
    assert 'test-set-labeled' in refused(root, FileNotFoundError, test_labels='radiologist')
    (root/'mimic-cxr-2.1.0-test-set-labeled.csv').write_text('study_id,Cardiomegaly,Edema\n50000005,1.0,-1.0\n')
    c = mimic_cohort(root, FINDINGS, test_labels='radiologist')
    np.testing.assert_array_equal(c.y().loc['e1'], [1, np.nan])
    np.testing.assert_array_equal(c.y().loc['a1'], [1, np.nan])
    note = 'no row in mimic-cxr-2.1.0-test-set-labeled.csv; left out'
    assert c.repairs[c.repairs.repair == 'study without labels'].values.tolist() == [
        ['study without labels', 'f1', note]]


@pytest.mark.parametrize('name,column,value,text', [
    ('chexpert', 'Edema', '2', "row 3, column 'Edema': 2.0 is no label"),
    ('chexpert', 'Edema', 'yes', "row 3, column 'Edema': 'yes' is no label"),
    ('chexpert', 'study_id', '50000001', 'row 3: this study has a row already'),
    ('split', 'split', 'dev', 'row 3: split must be train, validate or test'),
    ('split', 'split', '', 'row 3: split must be'), ('split', 'dicom_id', 'a1', 'row 3: dicom_id must be'),
    ('split', 'dicom_id', '', 'row 3: dicom_id must be'), ('split', 'subject_id', '', 'row 3: subject_id must be'),
    ('split', 'study_id', 's5', 'row 3: study_id must be')])
def test_impossible_values(root, name, column, value, text):
    edit(table(root, name), lambda t: t.assign(**{column: t[column].where(t.index != 2, value)}))
    assert f'mimic-cxr-2.0.0-{name}.csv.gz, {text}' in refused(root)


@pytest.mark.parametrize('name', ['split', 'metadata', 'chexpert'])
def test_truncated_table(root, name):
    path = table(root, name)
    path.write_bytes(path.read_bytes()[:-20])
    assert f'mimic-cxr-2.0.0-{name}.csv.gz' in refused(root)


def test_byte_order_mark_and_semicolons(root):
    t = pd.read_csv(table(root, 'split'), dtype=str)
    table(root, 'split').unlink()
    t.to_csv(root/'mimic-cxr-2.0.0-split.csv', sep=';', index=False, encoding='utf-8-sig')
    assert len(mimic_cohort(root, FINDINGS)) == 6


@pytest.mark.parametrize('name,value', [('missing', 'no'), ('label_file', 'x'), ('test_labels', 'x'),
                                        ('uncertain', 'x'), ('blank', 'x'), ('unlabelled', 'x'), ('section', 'x'),
                                        ('no_report', 'x'), ('roi_patients', 'train')])
def test_unknown_choices(root, name, value): assert f'{name} must be one of' in refused(root, **{name: value})


def test_reports_that_are_not_there(root):
    for r, text in ((ROWS[2], None), (ROWS[3], b''), (ROWS[4], b' \n ___ \n'),
                    (ROWS[5], b' FINAL REPORT\n INDICATION: cough.\n'),
                    (ROWS[6], ' IMPRESSION: caf\u00e9 \ud83d clear'.encode('utf-16-le', 'surrogatepass'))):
        path = (root/folder_of(r)).with_suffix('.txt')
        path.unlink() if text is None else path.write_bytes(text)
    c = mimic_cohort(root, FINDINGS)
    assert c.items.report.notna().tolist()[:5] == [True, False, False, False, False]
    kinds = {'view not asked for': 1, 'report missing': 1, 'report empty': 2, 'report without the section': 1}
    assert {k: v for k, v in c.repair_counts().items() if k in kinds} == kinds
    c = mimic_cohort(root, FINDINGS, no_report='drop')
    assert 'b1' not in set(c.items.image_id) and c.items.report.notna().all()
    assert mimic_cohort(root, FINDINGS, section='all').items.report[4] == 'FINAL REPORT INDICATION: cough.'


def test_nobody_is_named_in_the_repairs(root):
    (root/folder_of(ROWS[3])).with_suffix('.txt').write_text('')
    edit(table(root, 'chexpert'), lambda t: t[t.study_id != '50000004'])
    c = mimic_cohort(root, FINDINGS, rois=boxes(('a1', 'Edema', -9, 2, 3, 400), ('e1', 'Nonsense', 1, 2, 3, 4),
                                                ('a2', 'Edema', 1, 1, 2, 2)), roi_patients='test')
    text = c.repairs.to_csv() + repr(c.repair_counts())
    assert len(c.repairs) >= 6 and not [s for s in SECRETS if s in text]


def test_names_without_terms(root):
    assert "mask_terms has no names for 'Edema'" in refused(root, mask_terms=dict(Cardiomegaly=['cardiomegaly']))
    assert set(mimic_cohort(root, FINDINGS, mask_terms=None).items.report) == {'No edema.'}
    assert set(mimic_cohort(root, FINDINGS, mask_terms={k: ['no edema'] for k in FINDINGS},
                            mask_token='~').items.report) == {'~.'}


def test_paths_stay_below_root(root):
    edit(table(root, 'split'), lambda t: t.assign(dicom_id=t.dicom_id.replace('c1', '../../../../../c1')))
    assert 'leaves the root folder' in refused(root, views=None)


# Regions of interest

MS = pd.DataFrame([('a1', 'Edema', 'moderate edema', 'files/x.jpg', 8, 6, 40, 30, 160, 120, 'test'),
                   ('f1', 'Cardiomegaly', 'large heart', 'files/y.jpg', 8, 6, 40, 30, 80, 60, 'train')],
                  columns=['dicom_id', 'category_name', 'label_text', 'path', 'x', 'y', 'w', 'h', 'image_width',
                           'image_height', 'split'])


def write_coco(path, t=MS):
    images = [dict(id=i, file_name=f'{r.dicom_id}.jpg', path=r.path, width=r.image_width, height=r.image_height) for i,
              r in enumerate(t.itertuples())]
    names = sorted(set(t.category_name))
    anns = [dict(id=i, image_id=i, category_id=names.index(r.category_name), bbox=[r.x, r.y, r.w, r.h],
                 label_text=r.label_text) for i, r in enumerate(t.itertuples())]
    path.write_text(json.dumps(dict(info={}, images=images, annotations=anns,
                                    categories=[dict(id=i, name=n) for i, n in enumerate(names)])))
    return path


def test_ms_cxr_as_table_file_folder_and_coco(root, tmp_path):
    MS.to_csv(tmp_path/'MS_CXR_Local_Alignment_v1.1.0.csv', index=False)
    coco = write_coco(tmp_path/'boxes.json')
    want = [['a1', 'Edema', 4, 3, 24, 18], ['f1', 'Cardiomegaly', 8, 6, 48, 36]]
    for source in (MS, tmp_path, str(tmp_path/'MS_CXR_Local_Alignment_v1.1.0.csv'), coco, [MS.iloc[:1], MS.iloc[1:]]):
        c = mimic_cohort(root, FINDINGS, rois=source)
        assert c.rois.values.tolist() == want and c.repair_counts()['box scaled to the image'] == 1
    both = mimic_cohort(root, FINDINGS, rois=[coco, MS])
    assert both.rois.values.tolist() == want and both.repair_counts()['box given twice'] == 2
    old = mimic_cohort(root, FINDINGS, rois=ms_cxr(MS.drop(columns=['image_width', 'image_height', 'split'])).rename(
        columns=dict(name='label')))
    # without a size, a box is in pixels of the image
    assert old.rois[['x0', 'y1']].values.tolist() == [[8, 36], [8, 36]]
    assert mimic_cohort(root, rois=MS, section='all').labels == FINDINGS               # the labels that have regions


NO_IMAGE = '{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}'
ONE_IMAGE = '"images": [{"id": 1, "file_name": "a"}], "categories": [{"id": 1, "name": "b"}]'
SHORT_BOX = '{"image_id": 1, "category_id": 1, "bbox": [1, 2]}'


@pytest.mark.parametrize('text', ['{', '[]', '{"images": [], "categories": []}',
                                  f'{{"images": [], "categories": [], "annotations": [{NO_IMAGE}]}}',
                                  f'{{{ONE_IMAGE}, "annotations": [{SHORT_BOX}]}}'])
def test_broken_coco(tmp_path, text):
    (tmp_path/'x.json').write_text(text)
    with pytest.raises(ValueError, match='x.json is no COCO file'): coco_boxes(tmp_path/'x.json')


def write_reflacx(folder, with_dicom_id=True):
    "Three readings of phase 3, the last without its ellipses"
    (folder/'P300R000001').mkdir(parents=True)
    (folder/'P300R000002').mkdir()
    t = pd.DataFrame(dict(id=['P300R000001', 'P300R000002', 'P300R000003'],
                          image=[f'physionet.org/files/{i}.dcm' for i in ('a1', 'f1', 'e1')], image_size_x=160,
                          image_size_y=120))
    (t.assign(dicom_id=['a1', 'f1', 'e1']) if with_dicom_id else t).to_csv(folder/'metadata_phase_3.csv', index=False)
    pd.DataFrame(dict(xmin=[8, 10, 0], ymin=[6, 10, 0], xmax=[48, 20, 9], ymax=[36, 20, 9], certainty=[4, 2, 5],
                      **{'Enlarged cardiac silhouette': [True, True, False], 'Pulmonary edema': [True, False, False],
                         'Pleural abnormality': [False, False, True]})
                 ).to_csv(folder/'P300R000001/anomaly_location_ellipses.csv', index=False)
    (folder/'P300R000002/anomaly_location_ellipses.csv').write_text('xmin,ymin,xmax,ymax,certainty,Pulmonary edema\n')
    return folder


@pytest.mark.parametrize('with_dicom_id', [True, False])
def test_reflacx(root, tmp_path, with_dicom_id):
    main = write_reflacx(tmp_path/'reflacx/main_data', with_dicom_id)
    for source in (main, main.parent):
        c = mimic_cohort(root, FINDINGS, rois=source)
        assert sorted(c.rois.values.tolist()) == [['a1', 'Cardiomegaly', 4, 3, 24, 18], ['a1', 'Edema', 4, 3, 24, 18]]
        assert c.repair_counts().drop('view not asked for').to_dict() == {
            'ellipse below the certainty asked for': 1, 'reading without ellipses': 1, 'box of an unknown class': 1,
            'box scaled to the image': 2}
    assert len(mimic_cohort(root, FINDINGS, rois=main, certainty=1).rois) == 3
    assert len(mimic_cohort(root, FINDINGS, rois=main,
                            roi_classes=ROI_CLASSES | {'Pleural abnormality': 'Edema'}).rois) == 3
    with pytest.raises(ValueError, match='certainty must be'): reflacx(main, 0)
    with pytest.raises(FileNotFoundError, match='metadata_phase'): reflacx(tmp_path)
    (main/'metadata_phase_3.csv').write_text('id\nP300R000001\n')
    with pytest.raises(ValueError, match="metadata_phase_3.csv has no column 'dicom_id'"): reflacx(main)


@pytest.mark.parametrize('columns,values', [(['x0', 'y0', 'x1', 'y1'], [1, 2, 30, 40]),
                                            (['x_min', 'y_min', 'x_max', 'y_max'], [1, 2, 30, 40]),
                                            (['x', 'y', 'width', 'height'], [1, 2, 29, 38])])
@pytest.mark.parametrize('names', [('image_id', 'label'), ('dicom_id', 'class_name')])
def test_plain_boxes_in_any_form(root, tmp_path, columns, values, names):
    pd.DataFrame([['a1.dcm', 'pulmonary edema', *values]],
                 columns=[*names, *columns]).to_csv(tmp_path/'b.csv', index=False)
    assert mimic_cohort(root, FINDINGS, rois=tmp_path/'b.csv').rois.values.tolist() == [['a1', 'Edema', 1, 2, 30, 40]]


def test_boxes_that_cannot_be(root, tmp_path):
    rows = boxes(('a1', 'Edema', 50, 10, 20, 30), ('a1', 'Edema', 5, 5, 5, 9), ('a1', 'Edema', np.nan, 1, 2, 3),
                 ('b1', 'Edema', 90, 5, 99, 9), ('b1', 'Edema', -9, -9, -1, -1), ('c1', 'Edema', -5, 50, 90, 70),
                 ('d1', 'Edema', 79.6, 1, 80.4, 9),
                 ('e1', 'Fracture', 1, 1, 9, 9), ('e1', 'Dragon', 1, 1, 9, 9), ('zz', 'Edema', 1, 1, 9, 9),
                 ('a2', 'Edema', 1, 1, 9, 9), ('f1', 'Edema', 1, 1, 9, 9), ('f1', 'Edema', 1, 1, 9, 9))
    c = mimic_cohort(root, FINDINGS, rois=rows)
    assert c.rois.values.tolist() == [['c1', 'Edema', 0, 50, 80, 60], ['d1', 'Edema', 79.6, 1, 80, 9],
                                      ['f1', 'Edema', 1, 1, 9, 9]]
    assert c.repair_counts().to_dict() == {'view not asked for': 1, 'box of an unknown class': 1,
                                           'box of a class not asked for': 1, 'box of an image not in the cohort': 2,
                                           'box without an area': 3, 'box outside of the image': 2,
                                           'box clipped to the image': 1, 'box given twice': 1}
    # no box is lost without a line; the view and the clipped box are no losses
    assert len(c.rois) + len(c.repairs) - 1 - 1 == len(rows)
    rows.astype(object).replace({50: 'left'}).to_csv(tmp_path/'b.csv', index=False)
    assert "b.csv, row 1, column 'x0': 'left' is no number" in refused(root, rois=tmp_path/'b.csv')


def test_the_size_of_a_box_is_that_of_the_file(root):
    rows = boxes(('a1', 'Edema', 40, 30, 80, 60), image_width=80, image_height=60)
    (root/folder_of(ROWS[0])/'a1.jpg').unlink()
    # the metadata know the size of a file that is not there
    assert mimic_cohort(root, FINDINGS, rois=rows).rois.x1[0] == 80
    Image.new('L', (40, 30)).save(root/folder_of(ROWS[0])/'a1.jpg')                  # somebody halved the images
    assert mimic_cohort(root, FINDINGS, rois=rows).rois[['x0', 'y0', 'x1', 'y1']].values.tolist() == [[20, 15, 40, 30]]
    Image.new('L', (40, 40)).save(root/folder_of(ROWS[0])/'a1.jpg')                  # or squeezed or cropped them
    c = mimic_cohort(root, FINDINGS, rois=rows)
    assert not len(c.rois) and c.repair_counts()['box drawn on an image of another shape'] == 1


NO_SIZE = MS.drop(columns=['image_width', 'image_height'])
UNKNOWN = 'box drawn on an image of unknown size'


def large_in_metadata(root, factor=10): # As if somebody had shrunk the images
    edit(table(root, 'metadata'), lambda t: t.assign(Rows=str(60*factor), Columns=str(80*factor)))


@pytest.mark.parametrize('form', ['table', 'csv', 'folder', 'coco', 'coco without sizes'])
def test_boxes_of_ms_cxr_without_a_size_are_in_pixels_of_mimic(root, tmp_path, form):
    NO_SIZE.to_csv(tmp_path/'MS_CXR_x.csv', index=False)
    if form == 'coco without sizes':
        d = json.loads(write_coco(tmp_path/'b.json').read_text())
        for i in d['images']: del i['width'], i['height']
        (tmp_path/'b.json').write_text(json.dumps(d))
    else: write_coco(tmp_path/'b.json', MS.assign(image_width=800, image_height=600))
    source = dict(table=NO_SIZE, csv=tmp_path/'MS_CXR_x.csv', folder=tmp_path).get(form, tmp_path/'b.json')
    large_in_metadata(root)
    c = mimic_cohort(root, FINDINGS, rois=source)
    np.testing.assert_allclose(c.rois[['x0', 'y0', 'x1', 'y1']], [[.8, .6, 4.8, 3.6]]*2)
    assert c.repair_counts()['box scaled to the image'] == 2 and UNKNOWN not in c.repair_counts()


@pytest.mark.parametrize('value', ['', '0'])
def test_readings_of_reflacx_without_a_size_are_in_pixels_of_mimic(root, tmp_path, value):
    main = write_reflacx(tmp_path/'main_data')
    edit(main/'metadata_phase_3.csv', lambda t: t.assign(image_size_x=value, image_size_y=value))
    large_in_metadata(root, 2)
    c = mimic_cohort(root, FINDINGS, rois=main)
    assert sorted(c.rois.values.tolist()) == [['a1', 'Cardiomegaly', 4, 3, 24, 18], ['a1', 'Edema', 4, 3, 24, 18]]


def test_a_table_of_ones_own_is_taken_to_be_drawn_on_the_files(root, tmp_path):
    rows = boxes(('a1', 'Edema', 8, 6, 48, 36), ('f1', 'Cardiomegaly', 8, 6, 48, 36))
    assert UNKNOWN not in mimic_cohort(root, FINDINGS, rois=rows).repair_counts()
    large_in_metadata(root)
    rows.to_csv(tmp_path/'b.csv', index=False)
    for source in (rows, tmp_path/'b.csv'):
        c = mimic_cohort(root, FINDINGS, rois=source)
        assert c.rois.values.tolist() == rows.values.tolist()
        assert c.repairs.id[c.repairs.repair == UNKNOWN].tolist() == ['a1', 'f1']
    c = mimic_cohort(root, FINDINGS, rois=[rows, NO_SIZE.iloc[:1]])                   # each source by its own rule
    assert sorted(c.rois.x1.round(1)) == [4.8, 48, 48]


def test_a_size_that_nobody_knows_is_counted(tmp_path):
    root = write_release(tmp_path, 'dicom')
    table(root, 'metadata').unlink()
    c = mimic_cohort(root, FINDINGS, rois=NO_SIZE)
    assert c.rois.x1.tolist() == [48, 48] and c.repair_counts()[UNKNOWN] == 2
    assert UNKNOWN not in mimic_cohort(root, FINDINGS, rois=MS).repair_counts()


def test_boxes_without_any_size():
    b = boxes(('q', 'Edema', 10, 10, 500, 500)).assign(width=np.nan, height=np.nan)
    out, log = fit_boxes(b, pd.DataFrame(dict(width=[np.nan], height=[np.nan]), index=['q']))
    assert out[['x0', 'y0', 'x1', 'y1']].values.tolist() == [[10, 10, 500, 500]] and not log


@settings(max_examples=200)
@given(st.tuples(*[st.floats(-200, 400, width=32)]*4), st.sampled_from([.25, .5, 1., 2., 3.]), st.integers(20, 300),
       st.integers(20, 300))
def test_a_box_is_placed_or_counted(corners, scale, w, h):
    b = boxes(('q', 'Edema', *corners)).assign(width=w*scale, height=h*scale)
    out, log = fit_boxes(b, pd.DataFrame(dict(width=[w], height=[h]), index=['q']))
    lost = [k for k, _, note in log if 'left out' in note]
    assert len(out) + len(lost) == 1
    for r in out.itertuples():
        assert 0 <= r.x0 < r.x1 <= w and 0 <= r.y0 < r.y1 <= h
        np.testing.assert_allclose([r.x0, r.y0, r.x1, r.y1], np.clip(np.array(corners)/scale, 0, [w, h, w, h]),
                                   atol=1e-3)
    assert ('box scaled to the image' in {k for k, _, _ in log}) == (
        scale != 1 and corners[2] > corners[0] and corners[3] > corners[1])


def test_patients_with_regions_move_with_all_their_images(root):
    rows = boxes(('b1', 'Edema', 1, 1, 9, 9), ('f1', 'Edema', 1, 1, 9, 9))
    assert mimic_cohort(root, FINDINGS, rois=rows).items.split.value_counts().to_dict() == {
        'train': 3, 'test': 2, 'valid': 1}
    c = mimic_cohort(root, FINDINGS, rois=rows, roi_patients='test')
    assert c.items.set_index('image_id').split.to_dict() == dict(
        a1='test', b1='test', c1='train', d1='valid', e1='test', f1='test')
    assert c.repairs.query("repair == 'patient with regions moved to the test split'").id.tolist() == ['a1', 'b1']


@pytest.mark.parametrize('rois,error,text', [('nothing.csv', FileNotFoundError, 'no regions of interest at'),
                                             ('.', FileNotFoundError, 'neither MS_CXR')])
def test_no_such_source(root, tmp_path, monkeypatch, rois, error, text):
    monkeypatch.chdir(tmp_path)
    assert text in refused(root, error, rois=rois)


def test_sources_of_other_forms(root, tmp_path):
    (tmp_path/'t.csv').write_text('image_id,label\na1,Edema\n')
    assert 't.csv needs the columns x0' in refused(root, rois=tmp_path/'t.csv')
    (tmp_path/'t.csv').write_text('picture,label,x0,y0,x1,y1\na1,Edema,1,1,2,2\n')
    assert "t.csv has no column 'image_id'" in refused(root, rois=tmp_path/'t.csv')
    (tmp_path/'t.csv.gz').write_bytes(gzip.compress(b'image_id,label,x0,y0,x1,y1\na1,Edema,1,1,2,2\n')[:-9])
    assert 't.csv.gz' in refused(root, rois=tmp_path/'t.csv.gz')
    assert 'no region of interest shows' in refused(root, labels=None, rois=boxes(('a1', 'Dragon', 1, 1, 2, 2)))
    boxes_read, log = read_rois(boxes(('a1', 'Edema', 1, 2, 3, 4)))
    assert not log and boxes_read.x1.tolist() == [3] and plain_boxes(boxes()).empty


def test_headers(tmp_path):
    write_dicom(tmp_path/'a.dcm', np.zeros((30, 40)), 'a', ViewPosition='PA')
    Image.new('L', (40, 30)).save(tmp_path/'a.jpg')
    (tmp_path/'b.jpg').write_bytes(b'no')
    assert read_header(tmp_path/'a.dcm') == ('PA', 40, 30) and read_header(tmp_path/'a.jpg') == ('', 40, 30)
    view, *size = read_header(tmp_path/'b.jpg')
    assert view is None and np.isnan(size).all()
    ds = dcmread(tmp_path/'a.dcm')
    del ds.ViewPosition
    ds.save_as(tmp_path/'a.dcm')
    assert view_of(pd.DataFrame(dict(image_id=['a'], image=['a.dcm'])), tmp_path).tolist() == ['']
