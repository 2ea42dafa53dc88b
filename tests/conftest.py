"What every test may use: real data where there is some, and a Hypothesis profile that forgives a slow machine."
import os
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1') # before torch: workers of one thread each do not get in each other's way

import pytest
from hypothesis import settings

in_ci = bool(os.environ.get('CI')) # elsewhere, new examples each time
settings.register_profile('mmpkd', deadline=None, derandomize=in_ci)
settings.load_profile('mmpkd')


@pytest.fixture(scope='session')
def shared_data():
    "The folder of real data named by MMPKD_SHARED_DATA"
    folder = os.environ.get('MMPKD_SHARED_DATA')
    if not folder: pytest.skip('MMPKD_SHARED_DATA is not set: no real data to test with')
    if not Path(folder).is_dir(): pytest.fail(f'MMPKD_SHARED_DATA names {folder}, which is not a folder', pytrace=False)
    return Path(folder)


TINY = dict(size=32, epochs=1, lr=1e-3, bs=16, weights='none', arch_kwargs=dict(patch_size=8, embed_dim=48, depth=2))


def altered(cohort, items=None, rois=None, **kwargs):
    "The same cohort with other tables, or other columns that are privileged"
    from mmpkd.cohort import Cohort
    names = dict(text=cohort.text, tabular=cohort.tabular, root=cohort.root, name=cohort.name)
    items = cohort.items if items is None else items
    rois = cohort.rois if rois is None else rois
    return Cohort(items, cohort.labels, rois, **names | kwargs)


def boxed(shapes, rois, splits=None):
    "A cohort of boxes on images of these (h, w), and its geometries"
    import pandas as pd
    from mmpkd.cohort import Cohort
    from mmpkd.images import Geometry
    ids = [f'i{k}' for k in range(len(shapes))]
    items = pd.DataFrame(dict(image_id=ids, patient_id=ids, split=splits or ['test']*len(ids), image=ids, y=1))
    rows = [dict(image_id=f'i{k}', label='y', x0=b[0], y0=b[1], x1=b[2], y1=b[3]) for k, b in rois]
    return Cohort(items, ['y'], pd.DataFrame(rows)), ids, [Geometry(h, w, 32) for h, w in shapes]


def times(folder):
    "When each file of a folder was written"
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in Path(folder).rglob('*') if p.is_file()}


@pytest.fixture(scope='session')
def phantom(tmp_path_factory):
    "A phantom study of 60 images; read only"
    from mmpkd.phantoms.chest import phantom_cohort, write_phantom
    return phantom_cohort(write_phantom(tmp_path_factory.mktemp('phantom')/'study', n=60, seed=3, progress=False))


@pytest.fixture(scope='session')
def tiny():
    "Settings of a run that takes a second a student, with the reports' teacher"
    return dict(teacher='bow', **TINY)


@pytest.fixture(scope='session')
def tiny_run(phantom, tiny, tmp_path_factory):
    "A finished run of the phantom, two seeds of two arms, with its report; read only"
    from mmpkd.settings import make_config
    from mmpkd.experiment import run_experiment
    from mmpkd.report import write_report
    run = run_experiment(phantom, tmp_path_factory.mktemp('tiny')/'run', make_config(**tiny), seeds=2, progress=False)
    write_report(run, phantom)
    return run


DEMO_CALL = ['demo', '--n', '60', '--seeds', '2', '--epochs', '6']


@pytest.fixture(scope='session')
def demo(tmp_path_factory):
    "The folder that a small `mmpkd demo` made without interruption, and what it printed; read only"
    from typer.testing import CliRunner
    from mmpkd.cli import app
    folder = tmp_path_factory.mktemp('demo')/'demo'
    result = CliRunner().invoke(app, [*DEMO_CALL, '--out', str(folder)])
    assert result.exit_code == 0, result.output
    return folder, result.output
