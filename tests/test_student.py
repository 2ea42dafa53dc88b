"Corner cases of mmpkd.student: checkpoints on disk, odd labels and batches, and what may not differ between two arms"
import json
from inspect import signature

import huggingface_hub.constants
import numpy as np, pandas as pd, pytest, timm, torch
from conftest import TINY
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.callback.progress import ProgressCallback  # noqa: F401 (patches Learner.no_bar)
from fastai.torch_core import set_seed
from matplotlib import pyplot as plt

from mmpkd import student as module
from mmpkd.cohort import Cohort
from mmpkd.images import cache_pixels
from mmpkd.callbacks import SoftLabels
from mmpkd.losses import DistillationLoss
from mmpkd.student import (Student, attention_weights, data_loaders, label_title, precision_for, soft_title,
                           train_student)
from mmpkd.networks import check_arch, create_student
from mmpkd.teachers import macro_auroc
from mmpkd.training import VIT_TINY, Training

SMALL = {k: TINY[k] for k in ('weights', 'arch_kwargs')}
SMALL_MODEL = dict(weights='none') | SMALL['arch_kwargs']
QUICK = dict(epochs=1, lr=1e-3, bs=16, augment='flip', device='cpu', **SMALL)


@pytest.fixture(scope='module')
def pixels(phantom, tmp_path_factory): return cache_pixels(phantom, 32, tmp_path_factory.mktemp('pixels'))

@pytest.fixture(scope='module')
def soft(phantom):
    return (.2 + .6*phantom.split('train').y()).sample(frac=1, random_state=0)       # not in the cohort's order

@pytest.fixture(scope='module')
def checkpoint(shared_data): return shared_data/'vit_tiny'/'vit_tiny_patch16_224.pth'

def with_labels(cohort, items, labels=None, task='multilabel'):
    return Cohort(items, labels or cohort.labels, text=cohort.text, root=cohort.root, task=task)

def classes(cohort, blank=0):
    "The same images in three classes, the first `blank` training images in none"
    rng, items = np.random.default_rng(0), cohort.items.drop(columns=cohort.labels)
    y = np.eye(3)[rng.permutation(np.arange(len(items)) % 3)]
    y[np.flatnonzero(items.split == 'train')[:blank]] = np.nan
    return with_labels(cohort, items.assign(**dict(zip('abc', y.T))), list('abc'), 'multiclass')

def weights(student): return torch.cat([p.detach().flatten() for p in student.model.parameters()])

def same(a, b): return torch.equal(weights(a), weights(b))


# Weights from elsewhere

@pytest.mark.parametrize('size', [224, 160])
def test_a_real_checkpoint_is_loaded_as_it_is(checkpoint, size):
    file, model = torch.load(checkpoint, weights_only=True), create_student(2, size=size, weights=str(checkpoint))
    body = 'blocks.', 'norm.', 'patch_embed.', 'cls_token'
    blocks = {k: v for k, v in model.state_dict().items() if k.startswith(body)}
    for weights in (blocks, file): assert sum(k.startswith('blocks.') for k in weights) == 12*12
    for k, v in blocks.items(): assert torch.equal(v, file[k]), k
    assert model.head.weight.shape == (2, 192) and model.patch_embed.grid_size == (size//16,)*2
    assert torch.equal(model.pos_embed, file['pos_embed']) == (size == 224)
    stats = Student(model, dict(labels=['a', 'b'], task='multilabel', size=size)).stats
    assert stats == dict(mean=(.5,)*3, std=(.5,)*3)

class Intruder:
    def __reduce__(self): return (pytest.fail, ('code in a checkpoint was run',))

def without_block_7(state): return {k: v for k, v in state.items() if not k.startswith('blocks.7.')}

MISFITS = dict(
    width=lambda path: torch.save(timm.create_model('vit_small_patch16_224', depth=1).state_dict(), path),
    resnet=lambda path: torch.save(timm.create_model('resnet10t').state_dict(), path),
    block=lambda path: torch.save(without_block_7(create_student(1, weights='none').state_dict()), path))

@pytest.mark.parametrize('write', MISFITS.values(), ids=MISFITS)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, write):
    write(tmp_path/'other.pth')
    with pytest.raises(ValueError, match='other.pth does not fit'): create_student(1, weights=str(tmp_path/'other.pth'))

NO_CHECKPOINTS = {
    'garbage.pth': lambda path: path.write_bytes(b'garbage'*100),
    'blank.pth': lambda path: path.write_bytes(b''),
    'text.safetensors': lambda path: path.write_text('not a checkpoint'),
    'pickle.pth': lambda path: torch.save(dict(model=Intruder()), path),
    'whole_model.pth': lambda path: torch.save(create_student(1, 32, **SMALL_MODEL), path),
    'empty.pth': lambda path: torch.save({}, path),
    'tensor.pth': lambda path: torch.save(torch.zeros(3), path)}

@pytest.mark.parametrize('name', NO_CHECKPOINTS)
def test_a_file_that_is_no_checkpoint_is_named_in_one_sentence(tmp_path, name):
    "torch's advice to switch the safety off is not passed on"
    NO_CHECKPOINTS[name](tmp_path/name)
    with pytest.raises(ValueError, match='state_dict') as refused:
        create_student(1, 32, **SMALL_MODEL | dict(weights=str(tmp_path/name)))
    said = str(refused.value)
    assert said.startswith(str(tmp_path/name))
    assert 'weights_only' not in said
    assert '\n' not in said
    assert len(said.replace(str(tmp_path), '')) < 180

CONTAINERS = [
    lambda w: w, lambda w: dict(state_dict=w, epoch=3), lambda w: dict(model=w, optimizer=dict(lr=.1)),
    lambda w: dict(model_ema=w, model={}), lambda w: dict(state_dict={f'module.{k}': v for k, v in w.items()})]

@pytest.mark.parametrize('pack', CONTAINERS)
def test_weights_are_found_where_training_programs_leave_them(tmp_path, pack):
    torch.manual_seed(1)
    model = create_student(2, 32, **SMALL_MODEL)
    torch.save(pack(model.state_dict()), tmp_path/'training.pth')
    again = create_student(2, 32, **SMALL_MODEL | dict(weights=str(tmp_path/'training.pth')))
    for k, v in model.state_dict().items():
        if not k.startswith('head.'): assert torch.equal(v, again.state_dict()[k]), k

CONSUMED_BY_TIMM = dict(
    checkpoint_path='evil.pth', pretrained=True, pretrained_cfg=dict(file='evil.pth'), features_only=True,
    pretrained_cfg_overlay=dict(file='evil.pth'), cache_dir='evil', scriptable=True, block_fn='evil', img_size=64,
    num_classes=9)

@pytest.mark.parametrize('name', CONSUMED_BY_TIMM)
def test_a_student_folder_cannot_name_a_file_to_be_read(tmp_path, name):
    "timm.create_model would open the file of another, and older versions would run what is in it"
    model = create_student(1, 32, **SMALL_MODEL)
    Student(model, dict(labels=['a'], task='multilabel', size=32, arch=VIT_TINY,
                        arch_kwargs=SMALL['arch_kwargs'])).save(tmp_path)
    torch.save(dict(state_dict=Intruder()), tmp_path/'evil.pth')
    config = json.loads((tmp_path/'student.json').read_text())
    value = str(tmp_path/'evil.pth') if CONSUMED_BY_TIMM[name] == 'evil.pth' else CONSUMED_BY_TIMM[name]
    config['arch_kwargs'][name] = dict(file=str(tmp_path/'evil.pth')) if isinstance(value, dict) else value
    (tmp_path/'student.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match=name): Student.load(tmp_path)

@pytest.mark.parametrize('arch', ['local-dir:/anywhere', 'hf-hub:someone/something', 'hf_hub:someone/something',
                                  '../vit_tiny_patch16_224'])
def test_an_architecture_is_a_name_and_no_place(arch):
    with pytest.raises(ValueError, match='timm has no model'): create_student(1, weights='none', arch=arch)

@pytest.mark.parametrize('value', [None, [8, 8], {}])
def test_an_odd_value_of_the_architecture(value):
    with pytest.raises(ValueError, match='patch_size must be a number or a word'):
        create_student(1, weights='none', patch_size=value)

@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path/'hub'))

def test_no_network_names_the_alternatives(offline):
    with pytest.raises(ConnectionError, match=r'--weights PATH.*--weights none'): create_student(1)

@pytest.mark.parametrize('arch', ['vit_tinny_patch16_224', '', 'vit_tinny_patch16_224.augreg_in21k'])
def test_unknown_architecture(arch):
    with pytest.raises(ValueError, match=f'no model {arch!r}'): create_student(1, weights='none', arch=arch)

@pytest.mark.parametrize('size', [100, 8])
def test_a_size_that_patches_do_not_fill(size):
    "The map would be laid over the whole square, and so be off by some pixels"
    with pytest.raises(ValueError, match=f'{size}'): create_student(1, size=size, weights='none')

# Networks of timm that a student cannot be made from, and others that it can

OTHERS = ['resnet18', 'convnext_atto', 'efficientnet_b0', 'swin_tiny_patch4_window7_224', 'xcit_nano_12_p8_224',
          'hiera_tiny_224', 'volo_d1_224', 'maxvit_tiny_tf_224', 'naflexvit_base_patch16_gap', 'beit_base_patch16_224',
          'eva02_tiny_patch14_224', 'mixer_s32_224', 'cait_xxs24_224', 'convit_tiny', 'pit_ti_224', 'crossvit_9_240',
          'vit_relpos_small_patch16_224', 'vit_dlittle_patch16_reg1_gap_256', 'vit_huge_plus_patch16_dinov3',
          'samvit_base_patch16', 'mobilevit_xxs']

WITH_WISHES = [(weights, kwargs) for weights in ('none', 'evil.pth') for kwargs in ({}, SMALL['arch_kwargs'])]
ASKED = [(arch, 'imagenet', {}) for arch in OTHERS] + [(arch, *wish) for arch in OTHERS[:4:3] for wish in WITH_WISHES]

@pytest.mark.parametrize('arch,weights,kwargs', ASKED)
def test_a_network_that_is_not_plain_is_refused_in_one_sentence(offline, arch, weights, kwargs):
    "Before a file is opened or the hub is asked, with arguments or without"
    with pytest.raises(ValueError,
                       match=f"^arch must be a plain vision transformer of timm, .*; '{arch}' is none: [^:]*$"):
        create_student(2, 224, weights, arch, **kwargs)

PLAIN = ['vit_tiny_patch16_224', 'vit_small_patch32_384', 'deit_tiny_distilled_patch16_224', 'deit3_small_patch16_224',
         'vit_small_patch14_reg4_dinov2', 'flexivit_small', 'vit_base_patch16_siglip_224', 'vit_tiny_r_s16_p8_224',
         'vit_base_patch16_clip_224']

@pytest.mark.parametrize('arch', PLAIN)
def test_a_plain_one_is_known_without_being_built(arch):
    "No random number is drawn, and nothing is allocated"
    before = torch.random.get_rng_state()
    side = 14 if 'patch14' in arch else 16
    assert check_arch(arch, 16*side, num_classes=2) is None and torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(ValueError, match='a multiple of the patch size|cannot be made with'):
        check_arch(arch, 16*side + 5)

WISHES = [(dict(embed_dim=50), 'divisible by num_heads'), (dict(depth=0), 'no blocks'), (dict(depth=2.5), 'float'),
          (dict(global_pool='middle'), ''), (dict(class_token=False), ''), (dict(patch_size='eight'), '')]

@pytest.mark.parametrize('kwargs,said', WISHES)
@pytest.mark.parametrize('weights', ['none', 'imagenet', 'evil.pth'])
def test_wishes_that_do_not_fit_are_named(offline, kwargs, said, weights):
    with pytest.raises(ValueError, match=f'cannot be made with .*{next(iter(kwargs))}.*{said}'):
        create_student(2, 32, weights, **kwargs)

def test_imagenet_weights_that_do_not_fit_are_no_fault_of_the_network(monkeypatch):
    state = timm.create_model('vit_tiny_patch16_224').state_dict()
    monkeypatch.setattr(timm.models._builder, 'load_state_dict_from_hf', lambda *args, **kwargs: dict(state))
    assert torch.equal(create_student(2).blocks[3].attn.qkv.weight, state['blocks.3.attn.qkv.weight'])
    with pytest.raises(ValueError,
                       match=r"ImageNet weights of vit_tiny.* do not fit .*'embed_dim': 96.*weights='none'"):
        create_student(2, embed_dim=96)

@pytest.mark.parametrize('arch', ['resnet18', 'swin_tiny_patch4_window7_224', 7, None, ['vit_tiny_patch16_224']])
def test_a_stored_student_of_another_kind(tmp_path, student, arch):
    student.save(tmp_path)
    (tmp_path/'student.json').write_text(json.dumps(student.config | dict(arch=arch)))
    with pytest.raises(ValueError, match='arch must be a plain|timm has no model'): Student.load(tmp_path)

DISTILLED = dict(arch='deit_tiny_distilled_patch16_224', arch_kwargs=SMALL['arch_kwargs'] | dict(num_heads=3))

def test_a_distilled_student(phantom, pixels, soft, tmp_path):
    "Both heads learn; both are stored, and both may be missing in a checkpoint"
    start = create_student(len(phantom.labels), 32, 'none', DISTILLED['arch'], **DISTILLED['arch_kwargs'])
    torch.save({k: v for k, v in start.state_dict().items() if not k.startswith('head')}, tmp_path/'body.pth')
    student = train_student(phantom, pixels, soft, **QUICK | DISTILLED | dict(weights=str(tmp_path/'body.pth')))
    student.save(tmp_path/'student')
    again, ids = Student.load(tmp_path/'student'), phantom.items.image_id[:5]
    assert np.array_equal(again.predict(pixels, ids), student.predict(pixels, ids))
    heads = {k: v for k, v in again.model.state_dict().items() if k.startswith('head')}
    assert len(heads) == 4 and not torch.equal(heads['head.weight'], heads['head_dist.weight'])
    assert all(v.abs().sum() > 0 for v in heads.values())
    torch.save({k: v for k, v in start.state_dict().items() if k != 'dist_token'}, tmp_path/'gap.pth')
    with pytest.raises(ValueError, match='it has no dist_token'):
        create_student(2, 32, str(tmp_path/'gap.pth'), DISTILLED['arch'], **DISTILLED['arch_kwargs'])

def test_precision_by_another_name():
    with pytest.raises(ValueError, match="'fp16'"): precision_for('fp16', 'cpu')


# Labels

@pytest.mark.parametrize('blank', [0, 8])
def test_classes(phantom, pixels, blank):
    c = classes(phantom, blank)
    s = (.1 + .7*c.split('train').y()).fillna(1/3)
    student = train_student(c, pixels, s, **QUICK)
    p = student.predict(pixels, c.items.image_id)
    assert list(p) == list('abc') and np.isfinite(student.history.train_loss).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)

def test_blank_labels_teach_nothing(phantom, pixels, soft): # not even by their soft labels
    items = phantom.items.copy()
    train = items.index[items.split == 'train']
    items[phantom.labels] = items[phantom.labels].astype(float)
    items.loc[train[::3], phantom.labels[0]] = np.nan
    c, other = with_labels(phantom, items), soft.copy()
    other.loc[items.image_id[train[::3]], phantom.labels[0]] = .99
    a, b, full = (train_student(k, pixels, s, 1., **QUICK) for k, s in ((c, soft), (c, other), (phantom, other)))
    assert torch.isfinite(weights(a)).all() and same(a, b) and not same(b, full)

def test_no_privileged_information_leaves_the_hard_label(phantom, pixels, soft):
    a, b = (train_student(phantom, pixels, s, lam=.5, **QUICK | dict(precision='fp32')) for s in (soft*np.nan, None))
    torch.testing.assert_close(weights(a), weights(b))

def test_soft_labels_that_do_not_fit(phantom, pixels, soft):
    gone = phantom.split('train').items.image_id.iloc[2]
    with pytest.raises(ValueError, match=f'1 training images have no row .* {gone!r}'):
        train_student(phantom, pixels, soft.drop(index=gone), **QUICK)
    with pytest.raises(ValueError, match='soft labels are of'):
        train_student(phantom, pixels, soft[soft.columns[::-1]], **QUICK)
    with pytest.raises(ValueError, match='soft labels are of'):
        train_student(phantom, pixels, soft.iloc[:, :2], **QUICK)


# Batches

def contents(loader, pixels):
    "What passes in one epoch: (image_id, flipped?, y, s), found again by the pixels alone"
    known = {pixels[k].tobytes(): (k, False) for k in pixels.index.index}
    known |= {np.ascontiguousarray(pixels[k][:, ::-1]).tobytes(): (k, True) for k in pixels.index.index}
    out = []
    for x, y, s in loader:
        a = ((x*.5 + .5)*255).round().to(torch.uint8).numpy()
        assert (a[:, 0] == a[:, 1]).all() and (a[:, 0] == a[:, 2]).all()
        out += [(*known[i[0].tobytes()], y[j].tolist(), s[j].tolist()) for j, i in enumerate(a)]
    return out

def loaders(phantom, pixels, soft=None, seed=0, **kwargs):
    set_seed(seed, reproducible=True)
    return data_loaders(phantom, pixels, soft, **dict(bs=8, augment='flip', device='cpu') | kwargs)

def test_images_are_flipped_in_training_only(phantom, pixels):
    dls = loaders(phantom, pixels)
    train = contents(dls.train, pixels) + contents(dls.train, pixels)
    valid = contents(dls.valid, pixels)
    assert .25 < np.mean([flipped for _, flipped, _, _ in train]) < .75
    assert not any(flipped for _, flipped, _, _ in valid)
    assert str(valid) == str(contents(dls.valid, pixels))                   # NaN is not equal to itself
    assert not any(flipped for _, flipped, _, _ in contents(loaders(phantom, pixels, augment='none').train, pixels))

def test_standard_augmentation_is_for_training_only(phantom, pixels):
    dls = loaders(phantom, pixels, augment='standard')
    assert not any(flipped for _, flipped, _, _ in contents(dls.valid, pixels))
    with pytest.raises(KeyError): contents(dls.train, pixels)                # no image is as it was
    a, b = (torch.cat([x for x, _, _ in loaders(phantom, pixels, augment='standard', seed=s).train]) for s in (0, 0))
    assert torch.equal(a, b) and a.min() >= -1 and a.max() <= 1             # light and contrast keep to 0..255
    assert not torch.equal(a, torch.cat([x for x, _, _ in loaders(phantom, pixels, augment='standard', seed=1).train]))

def test_augmentation_by_another_name(phantom, pixels):
    with pytest.raises(ValueError, match="'none', 'flip' or 'standard', not 'flips'"):
        train_student(phantom, pixels, **QUICK | dict(augment='flips'))

def test_each_split_stays_where_it_belongs(phantom, pixels):
    dls = loaders(phantom, pixels, bs=6)
    for loader, split in ((dls.train, 'train'), (dls.valid, 'valid')):
        assert sorted(k for k, *_ in contents(loader, pixels)) == sorted(phantom.split(split).items.image_id)

def test_labels_are_joined_by_name(phantom, pixels, soft):
    y = phantom.y()
    for k, _, hard, s in contents(loaders(phantom, pixels, soft).train, pixels):
        assert hard == y.loc[k].tolist() and s == pytest.approx(soft.loc[k].tolist())

def test_both_arms_see_the_same_batches(phantom, pixels, soft):
    def epochs(*args, **kwargs):
        dls = loaders(phantom, pixels, *args, **kwargs)
        return [c[:2] for _ in range(2) for c in contents(dls.train, pixels)]
    assert epochs() == epochs(soft)
    assert epochs() != epochs(seed=1)

@pytest.mark.parametrize('bs', [1, 1000])
def test_batches_smaller_and_larger_than_usual(phantom, pixels, soft, bs):
    student = train_student(phantom, pixels, soft, **QUICK | dict(bs=bs))
    assert torch.isfinite(weights(student)).all() and np.isfinite(student.history.train_loss).all()


# Training

@pytest.mark.parametrize('precision,augment', [('fp32', 'flip'), ('bf16', 'flip'), ('bf16', 'standard')])
def test_lambda_of_zero_does_not_hear_the_teacher(phantom, pixels, soft, precision, augment):
    how = QUICK | dict(precision=precision, augment=augment)
    a, b, c = (train_student(phantom, pixels, s, lam, **how) for s, lam in ((soft, 0.), (None, 0.), (soft, .5)))
    assert same(a, b) and not same(a, c)

def test_precision_matters_and_is_not_kept(phantom, pixels):
    a, b = (train_student(phantom, pixels, **QUICK | dict(precision=p)) for p in ('fp32', 'bf16'))
    assert not same(a, b) and weights(b).dtype == torch.float32
    torch.testing.assert_close(weights(a), weights(b), atol=.02, rtol=0)
    assert not torch.is_autocast_enabled('cpu')

def test_a_fault_in_a_batch_does_no_harm_to_the_next_training(phantom, pixels, monkeypatch):
    "Such as Ctrl-C in a notebook"
    def fault(*args): raise RuntimeError('fault')
    bf16 = QUICK | dict(precision='bf16')
    before = train_student(phantom, pixels, **bf16)
    try:
        with monkeypatch.context() as m, pytest.raises(RuntimeError, match='fault'):
            m.setattr(module.DistillationLoss, 'forward', fault)
            train_student(phantom, pixels, **bf16)
        assert same(before, train_student(phantom, pixels, **bf16)) and not torch.is_autocast_enabled('cpu')
    finally:
        torch.set_autocast_enabled('cpu', False)
        for _ in range(torch.autocast_increment_nesting()): torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()

def test_only_the_seed_counts(phantom, pixels):
    students = []
    for before in (1, 2):
        torch.manual_seed(before); np.random.seed(before)
        students.append(train_student(phantom, pixels, seed=5, **QUICK))
    assert same(*students)

def test_hyperparameters_by_name_and_as_an_object(phantom, pixels):
    "The same student, also where one replaces one of the other; a seed in their place is refused"
    how = Training(**{k: v for k, v in QUICK.items() if k != 'device'})
    by_name = train_student(phantom, pixels, lam=0., **QUICK)
    assert same(by_name, train_student(phantom, pixels, lam=0., how=how, device='cpu'))
    assert same(by_name, train_student(phantom, pixels, lam=0., how=Training(), **QUICK))
    with pytest.raises(TypeError, match='seed=3'): train_student(phantom, pixels, None, 0., 3)
    with pytest.raises(TypeError, match='epoch'): train_student(phantom, pixels, epoch=3)

def test_one_default_of_each_hyperparameter():
    "Those of `Training` are those of `data_loaders` and of a run"
    loaders = signature(data_loaders).parameters
    assert (loaders['bs'].default, loaders['augment'].default) == (Training().bs, Training().augment)
    assert signature(create_student).parameters['arch'].default == Training().arch

@pytest.mark.parametrize('bad', [dict(epochs=0), dict(epochs=True), dict(bs=1.5), dict(lr=0.), dict(lr=float('nan')),
                                 dict(augment='mirror'), dict(precision='fp8')], ids=str)
def test_hyperparameters_that_make_no_sense(bad):
    with pytest.raises(ValueError, match=next(iter(bad))): Training(**bad)

def test_history_and_progress(phantom, pixels):
    calls = []
    student = train_student(phantom, pixels, after_epoch=lambda: calls.append(1), **QUICK | dict(epochs=3))
    assert len(calls) == len(student.history) == 3 and list(student.history) == ['train_loss', 'valid_loss', 'auroc']


def test_further_callbacks_see_the_training_and_can_change_it(phantom, pixels, soft):
    class Stronger(Callback):
        "The loss of training batches, as often as asked"
        def __init__(self, times): self.times, self.seen = times, 0
        def after_loss(self):
            if not self.training: return
            self.seen += 1
            self.learn.loss_grad = self.learn.loss_grad*self.times
    one, none = Stronger(1.), Stronger(0.)
    plain, once, never = (train_student(phantom, pixels, soft, cbs=cbs, **QUICK) for cbs in ((), [one], [none]))
    assert same(plain, once) and not same(plain, never)
    assert one.seen == (phantom.items.split == 'train').sum()//QUICK['bs']


@pytest.mark.parametrize('frozen', [True, False], ids=['frozen body', 'no learning rate'])
def test_attention_that_cannot_move_is_an_error(phantom, pixels, monkeypatch, frozen):
    def make(*args, **kwargs):
        model = create_student(*args, **kwargs)
        if frozen: model.blocks.requires_grad_(False)
        return model
    monkeypatch.setattr(module, 'create_student', make)
    with pytest.raises(RuntimeError, match='did not move'):
        train_student(phantom, pixels, **QUICK | (dict() if frozen else dict(lr=1e-30)))


# Afterwards

@pytest.fixture(scope='module')
def student(phantom, pixels): return train_student(phantom, pixels, **QUICK)

def test_a_prediction_depends_on_its_image_alone(phantom, pixels, student):
    ids = phantom.items.image_id.tolist()
    p = student.predict(pixels, ids)
    torch.manual_seed(9); student.model.train()
    pd.testing.assert_frame_equal(student.predict(pixels, ids[::-1]).loc[ids], p, atol=1e-6)
    pd.testing.assert_frame_equal(student.predict(pixels, ids[3:4]), p.iloc[3:4], atol=1e-6)
    assert p.std().min() > 1e-5 and p.to_numpy().min() > 0 and p.to_numpy().max() < 1

def test_auroc_in_training_is_that_of_what_is_predicted(phantom, pixels):
    "Of three classes too, where raw logits rank images in another way than probabilities"
    c = classes(phantom)
    student = train_student(c, pixels, **QUICK, precision='fp32')
    valid = c.split('valid')
    predicted = macro_auroc(valid.y(), student.predict(pixels, valid.items.image_id))
    assert student.history.auroc.iloc[-1] == pytest.approx(predicted, abs=1e-6)

@pytest.mark.parametrize('task', ['multilabel', 'multiclass'])
def test_save_and_load(phantom, pixels, tmp_path, task):
    c = phantom if task == 'multilabel' else classes(phantom)
    student, ids = train_student(c, pixels, **QUICK), c.items.image_id
    student.save(tmp_path/'a'/'b')
    assert sorted(p.name for p in (tmp_path/'a'/'b').iterdir()) == ['student.json', 'student.safetensors']
    again = Student.load(tmp_path/'a'/'b')
    pd.testing.assert_frame_equal(again.predict(pixels, ids), student.predict(pixels, ids), check_exact=True)
    assert (again.config, again.stats, repr(again)) == (student.config, student.stats, repr(student))

def test_no_student_there(tmp_path, student):
    with pytest.raises(FileNotFoundError, match='student.json'): Student.load(tmp_path)
    student.save(tmp_path)
    (tmp_path/'student.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='student.safetensors'): Student.load(tmp_path)

@pytest.mark.parametrize('rows,moves', [(slice(48), True), (slice(48, 96), True), (slice(96, 144), False)],
                         ids=['query', 'key', 'value'])
def test_attention_weights_are_a_copy_of_query_and_key(student, rows, moves):
    before = attention_weights(student.model)
    assert before.numel() == 2*2*48*48
    with torch.no_grad(): student.model.blocks[1].attn.qkv.weight[rows] += 1.
    assert torch.equal(before, attention_weights(student.model)) != moves
    with torch.no_grad(): student.model.blocks[1].attn.qkv.weight[rows] -= 1.


# Pictures of batches and results

def titles(axs): return [ax.get_title().split('\n') for ax in axs.flat if ax.get_title()]

def shown(show, **kwargs):
    "The titles of the pictures that fastai drew"
    plt.close('all')
    show(**kwargs)
    return titles(np.array(plt.gcf().axes))

@pytest.fixture(scope='module', params=['multilabel', 'multiclass'])
def asked(request, phantom, pixels, soft):
    "A cohort, soft labels of it, and a learner"
    if request.param == 'multilabel': cohort = phantom
    else: cohort = classes(phantom, blank=8)
    y = cohort.split('train').y()
    soft = .1 + .8*y
    soft.iloc[::2] = np.nan                                                          # every other image has no report
    set_seed(0)
    dls = data_loaders(cohort, pixels, soft, 64, 'none', device='cpu')
    model = create_student(len(cohort.labels), 32, **SMALL_MODEL)
    return cohort, soft, Learner(dls, model, DistillationLoss(.5, cohort.task), cbs=[SoftLabels()])

def test_a_batch_shows_its_labels(asked):
    cohort, soft, learn = asked
    batch = learn.dls.train.one_batch()
    said = shown(learn.dls.train.show_batch, b=batch, max_n=9)
    assert len(said) == 9
    for title, y, s in zip(said, *batch[1:]):
        spoken = soft_title(s, cohort.labels)
        assert title == [label_title(y, cohort.labels, cohort.task), *([spoken] if spoken else [])]
    assert {len(t) for t in said} == {1, 2} and all(t[1].startswith('teacher: ') for t in said if len(t) > 1)

def test_results_show_label_and_answer(asked):
    cohort, _, learn = asked
    set_seed(0)
    with learn.no_bar(): said = shown(learn.show_results, max_n=6)
    words = set(cohort.labels) | {'none', '?'}
    assert len(said) == 6 and all(len(t) == 2 and t[1].startswith('student: ') for t in said)
    assert {w.strip() for t in said for part in t for w in part.removeprefix('student: ').split(',')} <= words

def test_one_image_is_asked_about_by_its_name(asked, pixels):
    cohort, _, learn = asked
    student = Student(learn.model, dict(labels=cohort.labels, task=cohort.task, size=32))
    for k in cohort.items.image_id[[0, 30]]:
        with learn.no_bar(): words, decision, p = learn.predict(k)
        np.testing.assert_allclose(p, student.predict(pixels, [k]).to_numpy()[0], atol=1e-6)
        assert words == label_title(decision, cohort.labels, cohort.task)

def test_labels_in_words():
    nan = float('nan')
    many = [label_title(y, list('abc')) for y in ([0, 0, 0], [1, 0, 1], [nan, 0, 1], [nan]*3)]
    one = [label_title(y, list('abc'), 'multiclass') for y in ([0, 0, 1], [nan]*3, 1, torch.tensor(2))]
    assert many == ['none', 'a, c', 'a?, c', 'a?, b?, c?'] and one == ['c', '?', 'b', 'c']
    assert [soft_title(s, list('abc')) for s in ([.1, nan, .7], [nan]*3)] == ['teacher: c 0.70', '']
