"What pip installs: settings.ini and the version in `mmpkd/__init__.py`, handed to setuptools."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(interpolation=None)
config.read_string((here/'settings.ini').read_text(encoding='utf-8'))
settings = config['DEFAULT']


def lines(key): return settings[key].strip().splitlines()


name = settings['lib_name']
init = (here/name/'__init__.py').read_text(encoding='utf-8')

setup(
    version=re.search(r'^__version__\s*=\s*"(.+)"', init, flags=re.M)[1],
    author=settings['author'],
    license=settings['license'],
    keywords=settings['keywords'],
    classifiers=lines('classifiers'),
    packages=find_packages(include=[name, f'{name}.*']),
    package_data={name: ['py.typed', '*.pyi']},
    install_requires=lines('requirements'),
    extras_require={key.removesuffix('_requirements'): lines(key) for key in settings if key.endswith('_requirements')},
    entry_points={'console_scripts': lines('console_scripts'), 'nbdev': [f'{name} = {name}._modidx:d']})
