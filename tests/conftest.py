"What every test may use: real data where there is some, and a Hypothesis profile that forgives a slow machine."
import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile('mmpkd', deadline=None)
settings.load_profile('mmpkd')


@pytest.fixture(scope='session')
def shared_data():
    "The folder of real data named by MMPKD_SHARED_DATA"
    folder = os.environ.get('MMPKD_SHARED_DATA')
    if not folder: pytest.skip('MMPKD_SHARED_DATA is not set: no real data to test with')
    if not Path(folder).is_dir(): pytest.fail(f'MMPKD_SHARED_DATA names {folder}, which is not a folder', pytrace=False)
    return Path(folder)
