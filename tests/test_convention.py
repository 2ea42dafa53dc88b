"Corner cases of mmpkd.convention: what is refused, what is equal, and names that stay"
import json, os, subprocess, sys

import numpy as np, pytest

from mmpkd.convention import _CHOICES, CONVENTIONS, Convention, MapSpec, as_map_spec
from mmpkd.localization import predicted_boxes


BAD = [dict(interpolation='cubic'), dict(rule='median'), dict(method='saliency'), dict(layer=1.5), dict(layer=True),
       dict(heads='min'), dict(heads=-1), dict(artefacts='drop'), dict(min_area=1), dict(min_area=-.1),
       dict(classes='all'), dict(tau=0), dict(tau=1.1), dict(tau=np.nan), dict(tau=.5, rule='mean'),
       dict(tau=.3, rule='otsu'), dict(connectivity=6), dict(truth='polygon')]

@pytest.mark.parametrize('bad', BAD)
def test_convention_refuses(bad):
    with pytest.raises(ValueError, match=next(iter(bad))): Convention(**bad)

def test_convention_is_a_key_and_json():
    assert {Convention(): 1}[Convention(tau=.5)] == 1
    assert Convention(**json.loads(json.dumps(Convention(connectivity=8).to_dict()))) == Convention(connectivity=8)
    for c in CONVENTIONS: assert Convention(**json.loads(json.dumps(c.to_dict()))) == c and len(c.key) == 10
    with pytest.raises(AttributeError): Convention().tau = .3

def test_equal_conventions_have_equal_keys():
    "However the numbers were given"
    assert Convention(tau=np.float32(.5), layer=np.int64(-1), connectivity=4., min_area=0).key == Convention().key
    assert Convention(tau=1) == Convention(tau=1.) and Convention(tau=1).key == Convention(tau=1.).key
    assert Convention(rule='mean').tau is Convention(rule='otsu', tau=None).tau is None
    assert len({c.key for c in CONVENTIONS}) == len(CONVENTIONS) >= 12 and CONVENTIONS[0] == Convention()

def test_the_key_is_the_same_in_another_process():
    run = 'from mmpkd.convention import Convention; print(Convention(rule="mass", tau=.6).key)'
    assert subprocess.run([sys.executable, '-c', run], env=os.environ | dict(PYTHONHASHSEED='7'), capture_output=True,
                          text=True, check=True).stdout.strip() == Convention(rule='mass', tau=.6).key

WORDS = [({}, 'default'), (dict(rule='otsu', layer=-2), 'layer -2, rule otsu'), (dict(tau=.25), 'tau 0.25'),
         (dict(rule='tuned'), 'rule tuned'), (dict(rule='tuned', tau=.35), 'rule tuned, tau 0.35'),
         (dict(rule='tuned', tau=.5), 'rule tuned, tau 0.5'), (dict(heads=0), 'heads 0'),
         (dict(min_area=.01, truth='box'), 'min_area 0.01, truth box')]

@pytest.mark.parametrize('fields,text', WORDS)
def test_convention_in_words(fields, text): assert str(Convention(**fields)) == text

def test_every_rule_has_words():
    words = [Convention(rule=r).cut for r in _CHOICES['rule']]
    assert len(set(words)) == 6 and words[0] == "halfway between the map's minimum and maximum inside the image"
    way = "at 0.35 of the way from the map's minimum to its maximum inside the image"
    assert Convention(tau=.35).cut == way
    assert Convention(rule='tuned', tau=.35).cut == f'{way}, chosen on validation regions'

def test_only_the_rule_that_does_so_cuts_at_a_share_of_the_maximum():
    "The map is scaled from its minimum by all others"
    for rule in _CHOICES['rule']:
        for tau in (None,) if rule in ('mean', 'otsu') else (None, .5, .35):
            assert ("times the map's maximum" in Convention(rule=rule, tau=tau).cut) == (rule == 'raw-max')

def test_known_keys_stay():
    "Run folders are named by them"
    known = {'9c48493db0': {}, '0896c432e9': dict(tau=.25), 'd68e79515c': dict(rule='mean'),
             '8aec51aa3f': dict(rule='otsu'),
             'af1886aa9c': dict(rule='mass'), 'f5d8ea47ae': dict(rule='tuned'),
             'ad08e03f00': dict(interpolation='nearest', rule='otsu', truth='box')}
    assert {Convention(**c).key: c for c in known.values()} == known

def test_tuned():
    c = Convention(rule='tuned', layer=-2)
    assert c.tau is None and c.tuned(.3) == Convention(rule='tuned', layer=-2, tau=.3) and c.tuned(.5) != c
    assert Convention(**json.loads(json.dumps(c.to_dict()))) == c
    with pytest.raises(ValueError, match='tuned'): Convention().tuned(.3)
    with pytest.raises(ValueError, match='tau'): c.tuned(2)
    with pytest.raises(ValueError, match='before its tau was chosen'): predicted_boxes(np.eye(3), c)

def test_maps_args():
    assert Convention(heads=1).maps_args() == dict(method='attention', layer=-1, heads=1, artefacts='keep')

def test_a_map_spec_is_a_part_of_a_convention():
    c = Convention(method='gradient', layer=np.int64(-2), heads='max', rule='otsu')
    assert c.map_spec == MapSpec('gradient', -2, 'max') and c.map_spec.to_dict() == c.maps_args()
    assert isinstance(c, MapSpec) and c != c.map_spec and type(c.map_spec.layer) is int
    assert {MapSpec(): 1}[Convention(tau=.3).map_spec] == 1 and c.map_spec.map_spec == c.map_spec
    with pytest.raises(AttributeError): MapSpec().layer = 3

def test_stored_dicts_have_the_same_order():
    "What runs have on disk"
    assert list(Convention().to_dict()) == ['method', 'layer', 'heads', 'artefacts', 'interpolation', 'rule', 'tau',
                                            'connectivity', 'min_area', 'truth', 'classes']

@pytest.mark.parametrize('c', [MapSpec(), MapSpec('rollout', heads=0), *CONVENTIONS, Convention(rule='tuned', tau=.5)])
def test_what_is_printed_makes_it_again(c):
    assert eval(repr(c)) == c and len(repr(c)) < 80

def test_any_description_becomes_a_map_spec():
    gradient = MapSpec('gradient', layer=-2)
    for spec in (gradient, Convention(**gradient.to_dict(), rule='otsu'), dict(method='gradient', layer=-2)):
        assert as_map_spec(spec) == gradient and as_map_spec(spec, layer=-1) == MapSpec('gradient')
    assert as_map_spec('gradient', layer=-2) == as_map_spec(None, method='gradient', layer=-2) == gradient
    assert as_map_spec() == MapSpec()
    for bad in (3, ['gradient']):
        with pytest.raises(ValueError, match='spec must be a MapSpec'): as_map_spec(bad)
    with pytest.raises(ValueError, match='method must be one of'): as_map_spec('attn')
    with pytest.raises(TypeError, match='blocks'): as_map_spec(blocks=3)

@pytest.mark.parametrize('module', ['convention', 'localization', 'scoring'])
def test_no_network_is_needed(module):
    run = f'import sys, mmpkd.{module}; sys.exit(bool({{"torch", "fastai", "transformers"}} & set(sys.modules)))'
    assert subprocess.run([sys.executable, '-c', run]).returncode == 0
