"mmpkd.rescoring: other regions for a finished run; every score computed again, and the run left as it was"
import json, shutil

import numpy as np, pandas as pd, pytest
from conftest import altered, times

from mmpkd.cohort import Cohort
from mmpkd.results import Experiment
from mmpkd.settings import make_config
from mmpkd.experiment import run_experiment
from mmpkd.convention import Convention
from mmpkd.scoring import score_maps
from mmpkd.report import table1, table_note, write_scores
from mmpkd.rescoring import OtherRegions, pixels_of, regions_for, rescore_run, scores_folder


def equal(a, b): pd.testing.assert_frame_equal(a, b, check_exact=True)

@pytest.fixture
def copy(tiny_run, tmp_path):
    "The finished run in another place, free to be changed"
    return Experiment(shutil.copytree(tiny_run.folder, tmp_path/'copy'))

def corner(cohort): return cohort.rois[['image_id', 'label']].assign(x0=0., y0=0., x1=12., y1=9.)


def test_own_regions_give_own_scores(copy, phantom):
    "To the last digit, of students and of the chance levels; masks are read where they lie"
    again = rescore_run(copy, phantom, 'own')
    equal(again.scores(), copy.scores())
    equal(again.trivial(), copy.trivial())
    equal(again.per_seed(), copy.per_seed())
    # an ensemble is of the run as it was scored
    equal(table1(again), table1(copy).filter(regex='^(?!Ensemble)', axis=0))
    assert again.verdicts() == copy.verdicts()

def test_the_run_is_left_as_it_was(copy, phantom):
    before = times(copy.folder)
    again = rescore_run(copy, regions_for(copy, corner(phantom)), 'corner')
    write_scores(again)
    assert {p: t for p, t in times(copy.folder).items() if p in before} == before
    new = {p.split('/')[0] for p in times(copy.folder) if p not in before}
    assert new == {again.scored.name} and not list(copy.folder.glob('*.part'))

def test_scores_are_those_of_the_kept_maps(copy, phantom):
    cohort = regions_for(copy, corner(phantom))
    again = rescore_run(copy, cohort, 'corner')
    for arm, seed, _ in copy.runs():
        m = copy.maps(arm, seed)
        own = score_maps(m.maps, m.image_ids, m.geometries, altered(phantom, rois=corner(phantom)), Convention())
        equal(again.scores().query('arm == @arm and seed == @seed')[[*own]].reset_index(drop=True), own)
    assert (again.per_seed().pixel_auroc != copy.per_seed().pixel_auroc).all()
    assert (again.trivial().set_index('arm').iou['centre'] != copy.trivial().set_index('arm').iou['centre'])
    assert again.trivial().set_index('arm').iou['perfect'] == 1 and 'regions corner' in table_note(again)
    assert again.regions == json.loads((again.scored/'regions.json').read_text())
    assert again.regions['images'] == again.scores().image_id.nunique()

def test_a_second_call_reads(copy, phantom):
    again = rescore_run(copy, phantom, 'own')
    before = times(again.scored)
    rescore_run(copy, phantom, 'own')
    assert times(again.scored) == before
    with pytest.raises(ValueError, match='scores on other regions; choose another name'):
        rescore_run(copy, regions_for(copy, corner(phantom)), 'own')
    assert times(again.scored) == before

def test_units_that_came_later_are_scored_too(copy, phantom):
    again = rescore_run(copy, phantom, 'own')
    again.scores_file('out-of-fold', 1).unlink()                             # as if it had not been there
    equal(rescore_run(copy, phantom, 'own').scores(), copy.scores())

def test_a_run_without_regions_is_scored_later(phantom, tiny, tmp_path, tiny_run):
    bare = Cohort(phantom.items, phantom.labels, text=phantom.text, tabular=phantom.tabular, root=phantom.root,
                  name=phantom.name)
    blind = run_experiment(bare, tmp_path/'blind', make_config(**tiny), seeds=1, progress=False)
    later = rescore_run(blind, phantom, 'later')
    assert not blind.localizes and later.localizes and 'IoU' in table1(later)
    equal(later.scores().reset_index(drop=True), tiny_run.scores().query('seed == 0').reset_index(drop=True))

@pytest.mark.parametrize('fields', [dict(rule='tuned'), dict(classes='each'), dict(rule='otsu', layer=0)], ids=str)
def test_the_convention_is_that_of_the_run(phantom, tiny, tmp_path, fields):
    "With the thresholds that were chosen for its units; maps of single labels are made again by the students"
    run = run_experiment(phantom, tmp_path/'run', make_config(**tiny, convention=fields), seeds=1, progress=False)
    again = rescore_run(run, phantom, 'own')
    equal(again.scores(), run.scores())
    equal(again.trivial(), run.trivial())

def test_several_classes(copy, phantom):
    "Labels that exclude each other"
    t, asked = pd.read_parquet(copy.folder/'labels.parquet'), json.loads((copy.folder/'experiment.json').read_text())
    a, b = phantom.labels[:2]
    t.assign(**{a: 1., b: 0.})[['image_id', 'patient_id', 'split', a, b]].to_parquet(copy.folder/'labels.parquet')
    (copy.folder/'experiment.json').write_text(json.dumps(asked | dict(labels=[a, b], task='multiclass')))
    mine = phantom.rois[phantom.rois.label.isin([a, b])]
    got = regions_for(Experiment(copy.folder), mine, root=phantom.root)
    assert got.task == 'multiclass' and got.labels == [a, b]
    assert len(got.rois) == len(mine) and got.items.image_id.tolist() == phantom.items.image_id.tolist()

def test_tables_of_every_kind(copy, phantom, tmp_path):
    "Other names of columns; width and height in the place of corners; a file"
    t = corner(phantom)
    other = t.assign(w=t.x1 - t.x0, h=t.y1 - t.y0).rename(columns=dict(image_id='File', label='Finding', x0='x',
                                                                       y0='y')).drop(columns=['x1', 'y1'])
    other.to_csv(tmp_path/'t.csv', index=False)
    got = regions_for(copy, tmp_path/'t.csv', image_id='File', box_label='Finding')
    equal(got.rois[['image_id', 'label', 'x0', 'y0', 'x1', 'y1']].reset_index(drop=True),
          regions_for(copy, t).rois[['image_id', 'label', 'x0', 'y0', 'x1', 'y1']].reset_index(drop=True))
    assert got.items.split.tolist() == phantom.items.split.tolist()

def test_regions_that_cannot_be(copy, phantom, tmp_path):
    t, test = corner(phantom), set(phantom.split('test').items.image_id)
    with pytest.raises(ValueError, match='nobody'): regions_for(copy, t.assign(image_id='nobody'))
    unknown = "2 regions have labels that the run does not know, such as 'fracture' .*Effusion"
    with pytest.raises(ValueError, match=unknown):
        regions_for(copy, t.assign(label=['fracture']*2 + t.label.tolist()[2:]))
    with pytest.raises(ValueError, match='leaves the image'):
        rescore_run(copy, regions_for(copy, t.assign(x1=5000.)), 'far')
    with pytest.raises(ValueError, match='none of the regions is of a test image'):
        rescore_run(copy, regions_for(copy, t[~t.image_id.isin(test)]), 'elsewhere')
    with pytest.raises(FileNotFoundError, match='no table of regions at'): regions_for(copy, tmp_path/'none.csv')
    with pytest.raises(ValueError, match='becomes part of the name of a folder'): rescore_run(copy, phantom, '')
    with pytest.raises(FileNotFoundError, match='mmpkd score .* --name nothing'): OtherRegions(copy.folder, 'nothing')
    assert not list(copy.folder.glob('scores-*'))

def test_a_cache_that_was_removed(copy, phantom):
    shutil.rmtree(copy.folder/'pixels')
    with pytest.raises(FileNotFoundError, match='no pixel cache in'): rescore_run(copy, phantom, 'own')

def test_of_two_caches_the_one_that_was_used(copy, phantom):
    [cache] = [p for p in (copy.folder/'pixels').iterdir() if p.is_dir()]
    first = shutil.copytree(cache, cache.with_name('pixels-0'))
    a = np.load(first/'pixels.npy')
    np.save(first/'pixels.npy', 255 - a)
    assert pixels_of(copy).folder == cache

@pytest.mark.parametrize('name', ['../away', 'a/b', 'second reader'])
def test_a_name_stays_a_folder_of_the_run(copy, name):
    folder = scores_folder(copy.folder, name)
    assert folder.parent == copy.folder and folder.name.startswith('scores-')
