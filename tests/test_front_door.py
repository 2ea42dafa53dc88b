"`import mmpkd` is fast, its names work in every order of imports, and nothing is imported that is not needed."
import ast, inspect, os, subprocess, sys
from importlib import import_module
from pathlib import Path

import pytest

import mmpkd

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {'numpy', 'pandas', 'torch', 'fastai', 'timm', 'transformers', 'matplotlib'}
SAME_NAME = ['audit', 'soft_labels'] # a function and the module that it stands in


def fresh(code):
    "What a new process prints for this code"
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONWARNINGS'} | dict(PYTHONPATH=str(ROOT))
    run = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not run.stderr, 'something is said on import'
    return run.stdout.strip()


def test_import_is_fast_and_brings_nothing():
    code = '''
import sys, time
start = time.process_time()
import mmpkd
print(time.process_time() - start)
print(*sys.modules)'''
    seconds, modules = fresh(code).splitlines()
    assert float(seconds) < .1
    assert not HEAVY & set(modules.split())


@pytest.mark.parametrize('module', mmpkd._NAMES_OF)
def test_names_in_a_fresh_process(module):
    "No warning is shown, and each name is the one of its module"
    names = mmpkd._NAMES_OF[module]
    code = f'''
import mmpkd
found = [getattr(mmpkd, name) for name in {names}]
from mmpkd import {', '.join(names)}
assert found == [{', '.join(names)}] and all(map(callable, found))
from importlib import import_module
home = import_module('mmpkd.{module}')
assert all(name in home.__all__ for name in {names})
assert all(f is getattr(home, n) or f is home for f, n in zip(found, {names}))'''
    fresh(code)


ORDERS = {
    'attribute first': 'import mmpkd; f = mmpkd.{n}; import mmpkd.{n}; assert mmpkd.{n} is f',
    'module first': 'import mmpkd.{n}; f = mmpkd.{n}',
    'module by from': 'from mmpkd import {n} as f',
    'module by as': 'import mmpkd.{n} as f',
    'function first': 'from mmpkd.{n} import {n}; from mmpkd import {n} as f',
    'by another module': 'import mmpkd.experiment; from mmpkd import {n} as f',
    'by a star': 'from mmpkd import *; f = {n}'}


@pytest.mark.parametrize('name', SAME_NAME)
@pytest.mark.parametrize('order', ORDERS.values(), ids=ORDERS.keys())
def test_a_function_named_as_its_module(order, name):
    "It is a module that can be called, whatever was imported before"
    check = f'''
import sys
from types import ModuleType
assert isinstance(f, ModuleType) and f is sys.modules['mmpkd.{name}']
try: f()
except TypeError as e: print(e)'''
    assert f'{name}() missing' in fresh(order.format(n=name) + check)


@pytest.mark.parametrize('name', SAME_NAME)
def test_its_signature_is_the_function_s(name):
    module = import_module(f'mmpkd.{name}')
    assert inspect.signature(module) == inspect.signature(getattr(module, name))


def test_these_are_all_of_that_kind(): assert mmpkd._CALLABLE == SAME_NAME


def test_modules_can_be_pickled_by_cloudpickle():
    "joblib sends a function of a notebook, and the modules that it uses, to another process"
    try: import cloudpickle
    except ImportError: from joblib.externals import cloudpickle # joblib before 1.6 brings its own
    for module in (mmpkd, mmpkd.audit): assert cloudpickle.loads(cloudpickle.dumps(module)) is module


def test_unknown_names_and_the_list_of_known_ones():
    with pytest.raises(AttributeError, match="module 'mmpkd' has no attribute 'audits'"): mmpkd.audits
    assert set(mmpkd.__all__) <= set(dir(mmpkd))
    assert len(mmpkd._HOME) <= 30, 'a front door, not a second index'


def test_editors_read_the_same_names():
    tree = ast.parse((ROOT/'mmpkd/__init__.pyi').read_text(encoding='utf-8'))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert all(alias.name == alias.asname for node in imports for alias in node.names), '`as` marks what is passed on'
    said = {alias.name: node.module for node in imports for alias in node.names}
    assert said == mmpkd._HOME


@pytest.mark.parametrize('module', ['losses', 'localization', 'statistics'])
def test_light_modules_need_no_training_library(module):
    modules = fresh(f'import sys, mmpkd.{module}; print(*sys.modules)').split()
    assert not {'fastai', 'transformers', 'timm'} & set(modules)
