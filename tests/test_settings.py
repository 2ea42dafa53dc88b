"Settings in files: as old versions wrote them, as people write them, and with mistakes"
import json, subprocess, sys
from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import pytest
import yaml

from mmpkd.convention import Convention
from mmpkd.settings import NAMES, Settings, about_file, is_finished, make_config, read_config, settings_of
from mmpkd.training import Training, describe_fields

ODD = [dict(), dict(teacher='bow', size=32, epochs=2, lr=1e-3, weights='none', arch_kwargs=dict(patch_size=8)),
       dict(preset='paper', convention=dict(rule='otsu', layer=-2)),
       dict(teacher='none', data=dict(source='cbis', folds=5)), dict(teacher_per_seed=False, T='valid', lam=0.),
       dict(teacher_args=dict(n_estimators=7), controls_from='out-of-bag', bs=8)]


# There and back

@pytest.mark.parametrize('given', ODD, ids=str)
def test_there_and_back(given, tmp_path):
    "By name, as JSON, as YAML, and by `replace`, which changes nothing if it is given nothing"
    settings = Settings.from_dict(given)
    config = settings.to_dict()
    assert list(config) == list(NAMES) and config == make_config(**given)
    (tmp_path/'config.json').write_text(json.dumps(config))
    (tmp_path/'config.yaml').write_text(yaml.safe_dump(config))
    (tmp_path/'mine.yml').write_text(yaml.safe_dump(given))
    for name in ('config.json', 'config.yaml', 'mine.yml'): assert Settings.from_file(tmp_path/name) == settings, name
    assert settings.replace() == settings
    assert Settings.from_dict(json.loads(json.dumps(config))).to_dict() == config

def test_the_layout_of_the_file_is_that_of_all_versions():
    expected = ('teacher', 'teacher_args', 'preset', 'teacher_per_seed', 'lam', 'T', 'controls_from', 'size', 'epochs',
                'lr', 'wd', 'bs', 'augment', 'weights', 'weights_sha256', 'arch', 'arch_kwargs', 'precision',
                'convention', 'start', 'start_sha256', 'data', 'grid')
    assert tuple(make_config()) == expected

def test_the_teacher_that_suits_a_cohort():
    "Where no settings are given"
    kinds = dict(bow=dict(text='report', tabular=[]), forest=dict(text=None, tabular=['age']),
                 stacked=dict(text='report', tabular=['age']), none=dict(text=None, tabular=[]))
    for name, columns in kinds.items():
        assert settings_of(None, SimpleNamespace(**columns)) == Settings(teacher=name)

def test_names_of_older_versions(tmp_path):
    "What a setting or a file was called before is still understood"
    config = make_config(teacher='forest', controls_from='in-sample')
    old = {'matched' if k == 'controls_from' else k: v for k, v in config.items()}
    (tmp_path/'config.json').write_text(json.dumps(old))
    assert read_config(tmp_path) == config == Settings.from_file(tmp_path/'config.json').to_dict()
    assert not is_finished(tmp_path) and about_file(tmp_path).name == 'experiment.json'
    (tmp_path/'asked.json').write_text('{}')
    assert is_finished(tmp_path) and about_file(tmp_path).name == 'asked.json'
    (tmp_path/'experiment.json').write_text('{}')
    assert about_file(tmp_path).name == 'experiment.json'

def test_a_file_of_an_older_version(tmp_path):
    "Without `teacher_per_seed` one teacher taught all seeds; a file of your own leaves that to the default"
    old = {k: v for k, v in make_config().items() if k != 'teacher_per_seed'}
    (tmp_path/'config.json').write_text(json.dumps(old))
    (tmp_path/'mine.json').write_text(json.dumps(dict(size=64)))
    assert Settings.from_file(tmp_path/'config.json').teacher_per_seed is False
    assert Settings.from_file(tmp_path/'mine.json').teacher_per_seed is True

def test_a_checkpoint_that_was_replaced(tmp_path):
    "A stored run is read all the same; a file that is to be run again has to find what it names"
    (tmp_path/'vit.pth').write_bytes(b'one')
    config = make_config(weights=str(tmp_path/'vit.pth'))
    assert config['weights_sha256']
    (tmp_path/'config.json').write_text(json.dumps(config))
    assert Settings.from_file(tmp_path/'config.json').to_dict() == config
    (tmp_path/'vit.pth').write_bytes(b'another')
    assert Settings.from_dict(config).to_dict() == config
    with pytest.raises(ValueError, match='config.json: weights is another file'):
        Settings.from_file(tmp_path/'config.json')
    (tmp_path/'vit.pth').unlink()
    with pytest.raises(FileNotFoundError, match='no checkpoint'): Settings.from_file(tmp_path/'config.json')


# Mistakes

@pytest.mark.parametrize('text,message', [
    ('epoch: 3', "there is no setting 'epoch'; did you mean 'epochs'"),
    ('- 1', 'holds a list'), ('', 'holds a NoneType'),
    ('size: 224.5', 'size must be a whole number'), ('lam: much', r'lam must be in \[0, 1\], not much'),
    ('convention: otsu', 'convention must be a dictionary'), ('convention: {rules: max}', "convention has no 'rules'"),
    ('augment: mirror', 'augment must be'), ('a: [', 'while parsing'), ('lr: fast', 'lr must be a number'),
    ('data: 3', 'data must be a dictionary'), ('teacher: oracle', 'teacher must be one of')])
def test_a_file_with_a_mistake_is_named_with_its_key(tmp_path, text, message):
    (tmp_path/'mine.yaml').write_text(text)
    with pytest.raises(ValueError, match=f'mine.yaml: .*{message}'): Settings.from_file(tmp_path/'mine.yaml')

def test_json_with_a_mistake(tmp_path):
    (tmp_path/'half.json').write_text('{"size": ')
    with pytest.raises(ValueError, match='half.json: '): Settings.from_file(tmp_path/'half.json')
    with pytest.raises(FileNotFoundError, match='none.json'): Settings.from_file(tmp_path/'none.json')

def test_numbers_as_yaml_reads_them(tmp_path):
    "YAML 1.1 takes 1e-3 for a word"
    (tmp_path/'mine.yaml').write_text('lr: 1e-3\nlam: 3e-1\nT: valid\n')
    settings = Settings.from_file(tmp_path/'mine.yaml')
    assert (settings.training.lr, settings.lam, settings.T) == (1e-3, .3, 'valid')


# The object

def test_a_value_and_its_copy():
    settings = Settings(teacher='bow', training=Training(epochs=3), convention=Convention(rule='otsu'))
    with pytest.raises(FrozenInstanceError): settings.lam = .3
    changed = settings.replace(epochs=4, convention=dict(rule='mean'))
    assert (changed.training.epochs, changed.convention.rule, settings.training.epochs) == (4, 'mean', 3)
    assert 'epochs=3' in repr(settings) and 'otsu' in repr(settings) and 'lam' not in repr(settings)

def test_every_field_describes_itself():
    "Name, default and help for the options of the command; the digests and the parts have none"
    told = [d for cls in (Settings, Training) for d in describe_fields(cls)]
    assert {d['name'] for d in told} == set(NAMES) - {'convention', 'weights_sha256', 'start_sha256'}
    assert all(d['help'].endswith('.') for d in told)
    assert all(d['default'] in (None, *d['choices']) for d in told if d['choices'])

def test_reading_needs_no_torch():
    code = 'import sys, mmpkd.results, mmpkd.settings, mmpkd.arms, mmpkd.training; print("torch" in sys.modules)'
    run = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert run.stdout.strip() == 'False', run.stderr
