"The mammography phantom: what is drawn, what is planted, and whether mmpkd.cbis finds it"
import hashlib, itertools, json

import numpy as np, pandas as pd, pydicom, pytest

from mmpkd.tables import BOX
from mmpkd.cbis import CLASSES, FIXES, NOTES, OF_TASK, cbis_cohort
from mmpkd.images import cache_pixels, check_regions, unreadable
from mmpkd.image_files import mask_box, read_image, read_mask, resize_mask
from mmpkd.phantoms.cbis import (ASSESSED, DRAW_LESION, FAULTS, FOLDER_LAYOUTS, SPELLINGS, WORD_WEIGHTS, _uid,
                                 cbis_cases, draw_breast, draw_classes, draw_picture, hull, phantom_cbis, plant_faults,
                                 spoil_mask, write_tables)
from mmpkd.teachers import ForestTeacher, macro_auroc

VIEWS = list(itertools.product(('LEFT', 'RIGHT'), ('CC', 'MLO')))


# Drawing

@pytest.mark.parametrize('side, view', VIEWS)
def test_a_breast(side, view):
    for seed in range(15):
        size = 180 + seed, 110 + 2*seed
        img, regions = draw_breast(np.random.default_rng(seed), size, side, view, 1 + seed % 4)
        breast, (y, x) = regions['breast'], regions['nipple']
        assert img.shape == breast.shape == size
        assert np.isfinite(img).all()
        assert .1 < img[breast].mean() < .9
        assert img[~breast].mean() < .1
        wall, skin = (0, -1) if side == 'LEFT' else (-1, 0)
        assert breast[:, wall].mean() > .5 and not breast[:, skin].any() and 0 <= y < size[0] and 0 <= x < size[1]
        assert regions['inner'].sum() > .2*breast.sum() and not (regions['inner'] & ~breast).any()

def test_density_is_seen():
    bright = [np.mean([draw_breast(np.random.default_rng(s), density=d)[0][60:140, :60].mean() for s in range(8)])
              for d in (1, 2, 3, 4)]
    assert bright == sorted(bright) and bright[-1] > 1.3*bright[0]

def test_the_pectoral_muscle_is_in_the_oblique_view():
    corner = {v: np.mean([draw_breast(np.random.default_rng(s), view=v, density=1)[0][25:45, :12].mean()
                          for s in range(8)]) for v in ('CC', 'MLO')}
    assert corner['MLO'] > 1.5*corner['CC']

PAIRS = sorted({(task, a, b) for task, pairs in WORD_WEIGHTS.items()
                for first, second in pairs for a in first for b in second})
@pytest.mark.parametrize('task, first, second', PAIRS)
def test_every_abnormality_can_be_drawn_anywhere(task, first, second):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        img, regions = draw_breast(rng, (200, 130), *VIEWS[seed])
        at = np.argwhere(regions['inner'])
        new, mask = DRAW_LESION[task](img, regions, rng, tuple(at[rng.integers(len(at))]), first, second, 3)
        x0, y0, x1, y1 = mask_box(mask)
        change = np.abs(new - img)
        assert mask.shape == img.shape and not (mask & ~regions['breast']).any() and min(x1 - x0, y1 - y0) >= 3
        assert np.isfinite(new).all() and change[mask].mean() > 4*change[~mask].mean()

@pytest.mark.parametrize('kind', sorted({first for looks, _ in WORD_WEIGHTS['calc'] for first in looks}))
@pytest.mark.parametrize('distribution', ['CLUSTERED', 'LINEAR', 'DIFFUSELY_SCATTERED'])
def test_all_of_a_calcification_is_in_the_mask(kind, distribution):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        img, regions = draw_breast(rng, (200, 130), *VIEWS[seed % 4])
        at = np.argwhere(regions['inner'])
        new, mask = DRAW_LESION['calc'](img, regions, rng, tuple(at[rng.integers(len(at))]), kind, distribution, 3)
        spots = (new - img)/(.16 + .07*3)
        assert (spots > .2).any() and not ((spots > .2) & ~mask).any()

def test_obvious_is_brighter():
    for task, first, second in (('mass', 'OVAL', 'CIRCUMSCRIBED'), ('calc', 'PUNCTATE', 'CLUSTERED')):
        seen = []
        for subtlety in (1, 5):
            img, regions = draw_breast(np.random.default_rng(0))
            new, mask = DRAW_LESION[task](img, regions, np.random.default_rng(1), (100, 50), first, second, subtlety)
            seen.append((new - img)[mask].mean())
        assert seen[1] > 1.5*seen[0]

@pytest.mark.parametrize('points', [[(5, 5)], [(5, 5), (9, 9)], [(5, 5), (7, 7), (9, 9)], [(5, 5), (5, 20), (20, 5)],
                                    [(5, 5), (5, 5)]])
def test_hull_of_few_points(points):
    m = hull(np.array(points), (30, 40))
    assert all(m[p] for p in points) and m.sum() < 400


# Cases

def test_allot():
    rng = np.random.default_rng(0)
    assert sorted(draw_classes(rng, (.2, .3, .5), 2)) == [0, 1]
    assert (np.bincount(draw_classes(rng, (0., 0., 1.), 30)) == [4, 4, 22]).all()

@pytest.mark.parametrize('n', [60, 61, 120, 333])
def test_cases(n):
    t = cbis_cases(n, seed=n)
    assert t.of.nunique() == n
    assert t.image_id.is_unique
    assert t.equals(cbis_cases(n, seed=n))
    assert not t.equals(cbis_cases(n, seed=n + 1))
    for task, g in t.groupby('task'):
        assert g.groupby('patient_id').split.nunique().max() == 1
        assert set(g.split) == {'train', 'test'}
        assert set(g.pathology) == set(CLASSES)
    same = ['pathology', 'first', 'second', 'assessment', 'subtlety', 'patient_id', 'side', 'density']
    assert (t.groupby('lesion')[same].nunique() == 1).all(axis=None) and (t.groupby('lesion').size() == 2).mean() > .5
    assert (t.groupby('of').pathology.nunique() > 1).any() and (t.about == t.image_id).all()
    assert t.groupby(['patient_id', 'side', 'view']).task.nunique().max() == 2      # a view in both tasks
    for r in t.to_dict('records'):
        first, second = WORD_WEIGHTS[r['task']][CLASSES.index(r['pathology'])]
        assert r['first'] in first
        assert r['second'] in second
        assert r['assessment'] in ASSESSED[CLASSES.index(r['pathology'])]

@pytest.mark.parametrize('informative', [0., .6])
def test_uninformative_rows_are_another_womans(informative):
    t = cbis_cases(400, seed=1, informative=informative).set_index('image_id', drop=False)
    donor, other = t.loc[t.about], t.about != t.image_id
    assert abs(other.mean() - (1 - informative)) < .08 and sorted(t.about) == sorted(t.image_id)
    assert (donor.task.to_numpy() == t.task.to_numpy()).all() and (donor.split.to_numpy() == t.split.to_numpy()).all()
    assert (donor.patient_id.to_numpy() != t.patient_id.to_numpy())[other].all()

def test_clean_phantoms_share_no_women():
    assert cbis_cases(60, shared=False).groupby('patient_id').task.nunique().max() == 1

@pytest.mark.parametrize('options', [dict(n=59), dict(informative=1.1), dict(informative=-.1), dict(test=.05),
                                     dict(test=.9)])
def test_impossible_cases(options):
    with pytest.raises(ValueError, match=f'{next(iter(options))} must be'): cbis_cases(**options)

def test_what_the_table_is_worth(tmp_path):
    "A forest on the tables: much with informative=1, nothing with 0"
    auroc = []
    for k, informative in enumerate((1., 0.)):
        (tmp_path/str(k)).mkdir()
        write_tables(tmp_path/str(k), cbis_cases(600, 4, informative), 4, dirt=False)
        p = cbis_cohort(tmp_path/str(k), 'calc', valid=0).parts
        auroc.append(macro_auroc(p.split('test').y(), ForestTeacher(100).fit(p.split('train')).logits(p.split('test'))))
    assert auroc[0] > .85 and abs(auroc[1] - .5) < .12

def test_with_dirt_an_uninformative_table_is_worth_nothing(tmp_path):
    "What is missing follows the abnormality that is written about: a forest is at chance"
    auroc = []
    for seed in range(6):
        (tmp_path/str(seed)).mkdir()
        write_tables(tmp_path/str(seed), cbis_cases(600, seed, 0.), seed, dirt=True)
        p = cbis_cohort(tmp_path/str(seed), 'calc', valid=0).parts
        auroc.append(macro_auroc(p.split('test').y(), ForestTeacher(100).fit(p.split('train')).logits(p.split('test'))))
    assert abs(np.mean(auroc) - .5) < .12, auroc

def test_a_view_in_both_tasks_is_one_picture():
    t = cbis_cases(60, seed=2)
    g = next(g for _, g in t.groupby(['patient_id', 'side', 'view']) if g.task.nunique() == 2)
    rows = g.to_dict('records')
    img, masks = draw_picture(rows, 2)
    again, _ = draw_picture(rows[::-1], 2)
    assert set(masks) == set(g.image_id) and (img == again).all() and 0 <= img.min() < img.max() <= 1


# Dirt

def test_every_kind_of_repair_is_planted_somewhere():
    words = {k for task in SPELLINGS for *_, kinds in SPELLINGS[task] for k in kinds}
    planted = words | set(FAULTS) - {'image truncated'}
    elsewhere = {'crop and mask swapped', 'line break in a path', 'row repeated', 'density missing',
                 'assessment incomplete', 'subtlety missing', 'patient in two splits'}
    assert planted & elsewhere == set() and set(FIXES) == (planted | elsewhere) - set(NOTES)

def test_faults_do_not_meet():
    cases = cbis_cases(120, 3)
    faults, planted = plant_faults(cases, 3)
    image = [i if f.startswith('image') else i.rpartition('_')[0] for i, f in faults.items()
             if f != 'crop and mask swapped']
    assert len(set(image)) == len(image) == 2*len(FAULTS) and set(faults.values()) == {*FAULTS, 'crop and mask swapped'}
    swapped = {i.rpartition('_')[0] for i, f in faults.items() if f == 'crop and mask swapped'}
    assert not swapped & set(image) and len(planted) == len(faults) - 2

def test_spoiled_masks():
    m = np.zeros((30, 20), bool); m[4:9, 3:15] = True
    assert (resize_mask(spoil_mask(m, 'mask of another size') > 0, 30, 20) == m).all()
    assert spoil_mask(m, None).sum() == 255*m.sum()
    assert spoil_mask(m, 'mask all one').min() == 255
    assert not spoil_mask(m, 'mask all zero').any()
    with pytest.raises(ValueError): resize_mask(spoil_mask(m, 'mask of another aspect') > 0, 30, 20)

def test_uid():
    assert _uid(1, 'a') == _uid(1, 'a') != _uid(2, 'a')
    assert len(_uid(1, 'a')) <= 64
    assert pydicom.uid.UID(_uid(1, 'a')).is_valid


# The download, in each layout

@pytest.fixture(scope='module', params=FOLDER_LAYOUTS)
def download(request, tmp_path_factory):
    return request.param, phantom_cbis(tmp_path_factory.mktemp('phantom')/'x', 60, seed=5, layout=request.param,
                                       progress=False)

@pytest.fixture(scope='module')
def nbia(tmp_path_factory): return phantom_cbis(tmp_path_factory.mktemp('phantom')/'x', 80, seed=6, progress=False)

@pytest.fixture(scope='module')
def cohorts(nbia): return {task: cbis_cohort(nbia, task) for task in OF_TASK}

@pytest.mark.parametrize('task', OF_TASK)
def test_what_is_found_is_what_was_planted(download, task):
    layout, root = download
    c = cbis_cohort(root, task)
    planted, truth = pd.read_csv(root/'planted.csv'), pd.read_csv(root/'truth.csv').set_index('image_id')
    counts = json.loads((root/'planted.json').read_text())
    assert c.repair_counts().to_dict() == counts[task] == planted.repair[planted.task == task].value_counts().to_dict()
    counted, known = c.repairs[['repair', 'id']], planted.loc[planted.task == task, ['repair', 'id']]
    assert sorted(map(tuple, counted.to_numpy())) == sorted(map(tuple, known.to_numpy()))
    assert (c.rois[BOX].to_numpy() == truth.loc[c.rois.part, BOX].to_numpy()).all()
    assert (c.rois.label == truth.pathology.loc[c.rois.part].to_numpy()).all()
    worst = truth.pathology.map(CLASSES.index).groupby(truth.of).max()
    assert (c.y().to_numpy().argmax(axis=1) == worst.loc[c.items.image_id]).all()
    lost = truth.fault.isin(['mask of another aspect', 'mask all zero', 'mask all one', 'mask cannot be decoded',
                             'mask not found', 'no mask among the files', 'image not found', 'image cannot be opened'])
    assert set(c.rois.part) == set(truth.index[~lost & (truth.task == task)])
    assert (root/'metadata.csv').is_file() == (layout == 'nbia')

def test_regions_are_where_the_pixels_are(cohorts, nbia):
    "Read again from the files: each mask gives its box at the size of its image, and is about as bright as was drawn"
    truth = pd.read_csv(nbia/'truth.csv').set_index('image_id')
    for task, c in cohorts.items():
        bad = json.loads((nbia/'planted.json').read_text())['unreadable'][task]
        for r in c.rois[~c.rois.image_id.isin(bad)].itertuples():
            img = read_image(nbia/c.items.set_index('image_id').image[r.image_id])
            mask = read_mask(nbia/r.mask, img.shape)
            assert list(mask_box(mask)) == [r.x0, r.y0, r.x1, r.y1] == truth.loc[r.part, BOX].tolist()

def test_the_other_task_sees_the_same_picture(nbia, cohorts):
    views = []
    for c in cohorts.values():
        side_and_view = c.items.image_id.str.extract(r'(_(?:LEFT|RIGHT)_\w+)$')[0]
        views.append(c.items.set_index(c.items.patient_id + side_and_view).image)
    both = views[0].index.intersection(views[1].index)
    assert len(both)
    for k in both: assert (read_image(nbia/views[0][k]) == read_image(nbia/views[1][k])).all()

def test_unreadable_images(cohorts, nbia):
    for task, c in cohorts.items():
        bad, planted = unreadable(c, n_jobs=1), json.loads((nbia/'planted.json').read_text())['unreadable'][task]
        missing = c.repairs.id[c.repairs.repair == 'image not found'].tolist()
        assert sorted(bad.image_id) == sorted(planted + missing) and len(planted) == 2 and len(missing) == 1

def test_pixels_and_regions_fit(cohorts, tmp_path):
    c = cohorts['calc']
    c = c.take(c.items.image_id[~c.items.image_id.isin(unreadable(c, n_jobs=1).image_id)])
    check_regions(c, cache_pixels(c, 32, tmp_path, n_jobs=1))

def test_both_tasks(nbia, cohorts):
    drop, move = (cbis_cohort(nbia, 'both', cross=k) for k in ('drop', 'test'))
    n = move.repair_counts()
    assert len(move) == sum(map(len, cohorts.values())) == len(drop) + n['patient in two splits']
    assert n['same view in both tasks'] >= 1
    torn = set(move.repairs.id[move.repairs.repair == 'patient in two splits'])
    assert set(move.items.split[move.items.image_id.isin(torn)]) == {'test'} and not torn & set(drop.items.image_id)
    single = cohorts['mass'].repair_counts().add(cohorts['calc'].repair_counts(), fill_value=0)
    for kind in set(FIXES) - {'patient in two splits'}: assert n.get(kind, 0) == single.get(kind, 0), kind

@pytest.mark.parametrize('kind', ['mask all zero', 'mask all one', 'mask not found', 'mask of another aspect',
                                  'no mask among the files', 'mask cannot be decoded', 'image not found',
                                  'image cannot be opened'])
def test_switched_off_a_fault_is_an_error(nbia, kind):
    with pytest.raises(ValueError, match=f"1 times '{kind}'"): cbis_cohort(nbia, 'mass', unrepaired=kind)

def test_dropping_what_is_missing(nbia, cohorts):
    c = cbis_cohort(nbia, 'mass', missing='drop')
    assert len(c) == len(cohorts['mass']) - 1 and all((nbia/i).is_file() for i in c.items.image)
    c.check()

def test_dicom_files(nbia):
    "Each file has the series that the table names, and bits as in the real download"
    bits = set()
    for p in sorted((nbia/'CBIS-DDSM').rglob('*.dcm'))[::5]:
        try: ds = pydicom.dcmread(p, stop_before_pixels=True)
        except pydicom.errors.InvalidDicomError: continue
        assert ds.PatientID == p.relative_to(nbia).parts[1]
        assert ds.Modality == 'MG'
        assert ds.SeriesInstanceUID[-5:] == p.parent.name[-5:]
        assert ds.StudyInstanceUID[-5:] == p.parent.parent.name[-5:]
        bits.add((ds.SeriesDescription.startswith('full'), ds.BitsStored))
    assert bits == {(True, 16), (False, 16), (False, 8)}

def test_a_clean_download(tmp_path):
    root = phantom_cbis(tmp_path/'x', 60, seed=1, dirt=False, layout='table', progress=False)
    for task in OF_TASK:
        c = cbis_cohort(root, task).check()
        assert set(c.repairs.repair) <= {'word in test only'}
        assert c.counts()['with ROI'].tolist() == c.counts().images.tolist()
        assert len(c.rois) == len(c.parts)
        assert not len(unreadable(c, n_jobs=1))
        assert c.repair_counts().to_dict() == json.loads((root/'planted.json').read_text())[task]
    assert json.loads((root/'planted.json').read_text())['unreadable'] == dict(mass=[], calc=[])


# Writing

def digest(root):
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob('*'))
            if p.is_file()}

def test_same_seed_same_bytes_and_a_fresh_start(tmp_path):
    a, b, c = (phantom_cbis(tmp_path/k, 60, seed, progress=False) for k, seed in (('a', 1), ('b', 1), ('c', 2)))
    whole = digest(a)
    assert whole == digest(b) and whole != digest(c)
    record = json.loads((a/'phantom.json').read_text())
    (a/'phantom.json').write_text(json.dumps(record | dict(finished=False)))            # as if interrupted
    (a/'truth.csv').unlink(); next(a.rglob('*.dcm')).write_bytes(b'half a fi')
    assert digest(phantom_cbis(a, 60, 1, progress=False)) == whole
    (b/'truth.csv').unlink()
    assert 'truth.csv' not in digest(phantom_cbis(b, 60, 1, progress=False))            # finished: nothing is done
    with pytest.raises(FileExistsError, match='holds another phantom'): phantom_cbis(a, 60, 2)
    with pytest.raises(FileExistsError, match='holds another phantom'): phantom_cbis(a, 60, 1, dirt=False)

def test_a_folder_with_something_else(tmp_path):
    (tmp_path/'thesis.txt').write_text('x')
    with pytest.raises(FileExistsError, match='is not empty and is no phantom'): phantom_cbis(tmp_path, 60)
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.txt']

def test_bad_arguments_write_nothing(tmp_path):
    for options in (dict(layout='zip'), dict(n=10), dict(informative=2)):
        with pytest.raises(ValueError): phantom_cbis(tmp_path/'x', **options)
    assert not (tmp_path/'x').exists()
