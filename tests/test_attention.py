"Corner cases of mmpkd.attention: the twin on real weights, models that are not plain, and maps on disk"
import numpy as np, pandas as pd, pytest, torch
from conftest import TINY
from fastai.torch_core import set_seed

from mmpkd.attention import AttentionMaps, attention, attention_maps, cls_attention
from mmpkd.images import Geometry, cache_pixels
from mmpkd.student import create_student, train_student

QUICK = dict(epochs=2, device='cpu') | {k: TINY[k] for k in ('weights', 'arch_kwargs', 'lr', 'bs')}


def real_attention(model, x, layer):
    "What the block itself computes with fused attention switched off"
    attn, caught = model.blocks[layer].attn, []
    attn.fused_attn, hook = False, attn.attn_drop.register_forward_hook(lambda module, args, out: caught.append(out))
    with torch.inference_mode(): model.eval()(x)
    attn.fused_attn = True
    hook.remove()
    return caught[0]

def small(size=32, **kwargs):
    torch.manual_seed(0)
    model = create_student(2, size=size, **dict(weights='none', patch_size=8, embed_dim=48, depth=2) | kwargs)
    for p in model.parameters(): torch.nn.init.normal_(p, std=.2)           # untrained attention is too even to tell one map from another
    return model

def images(n, size=32): return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n))


# The twin

@pytest.fixture(scope='module')
def pretrained(shared_data): return lambda size: create_student(2, size, str(shared_data/'vit_tiny'/'vit_tiny_patch16_224.pth'))

@pytest.mark.parametrize('bs,size', [(1, 224), (16, 96)])
def test_every_layer_of_the_real_model(pretrained, bs, size):
    model, x = pretrained(size), images(bs, size)
    maps = [attention(model, x, layer) for layer in range(12)]
    for layer, a in enumerate(maps):
        assert a.shape == (bs, 3, (size//16)**2 + 1, (size//16)**2 + 1) and a.dtype == torch.float32
        assert (a - real_attention(model, x, layer)).abs().max() < 1e-6, layer
        assert torch.equal(a, attention(model, x, layer - 12))
    assert all((a - b).abs().max() > .01 for a, b in zip(maps, maps[1:]))   # each layer is another

@pytest.mark.parametrize('kwargs', [dict(qk_norm=True), dict(reg_tokens=4), dict(qkv_bias=False), dict(num_heads=1), dict(no_embed_class=True)], ids=lambda k: next(iter(k)))
def test_other_plain_transformers(kwargs):
    model, x = small(**kwargs), images(3)
    for layer in (0, 1):
        real = real_attention(model, x, layer)
        assert (attention(model, x, layer) - real).abs().max() < 1e-6
        first = 1 + kwargs.get('reg_tokens', 0)
        np.testing.assert_allclose(cls_attention(model, x, layer), real[:, :, 0, first:].mean(1).reshape(3, 4, 4), atol=1e-6)

def test_normalised_queries_matter():
    model = small(qk_norm=True)
    before = attention(model, images(2))
    with torch.no_grad(): model.blocks[-1].attn.q_norm.weight.mul_(3)
    assert (attention(model, images(2)) - before).abs().max() > .01

@pytest.mark.parametrize('kwargs,message', [(dict(class_token=False, global_pool='avg'), 'no class token'), (None, 'no class token')], ids=['pooled', 'convolution'])
def test_models_without_a_class_token(kwargs, message):
    model = small(**kwargs) if kwargs else torch.nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match=message): cls_attention(model, images(1))

@pytest.mark.parametrize('layer', [2, -3])
def test_layers_that_are_not_there(layer):
    with pytest.raises(ValueError, match=f'between -2 and 1, not {layer}'): attention(small(), images(1), layer)


# The model is left as it was

def hooks(model): return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

def test_nothing_is_left_behind():
    model = small()
    before, out = {k: v.clone() for k, v in model.state_dict().items()}, model.eval()(images(2))
    attention(model, images(2))
    with pytest.raises(AssertionError): attention(model, images(2, size=40))          # not its size
    assert hooks(model) == 0 and all(b.attn.fused_attn for b in model.blocks)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and torch.equal(model(images(2)), out)

def test_dropout_is_off():
    model = small(attn_drop_rate=.5, proj_drop_rate=.5, drop_path_rate=.5).train()
    torch.testing.assert_close(attention(model, images(2)), attention(model.train(), images(2)), rtol=0, atol=0)

def test_an_unfused_model_stays_unfused():
    model = small()
    for b in model.blocks: b.attn.fused_attn = False
    attention(model, images(2))
    assert not any(b.attn.fused_attn for b in model.blocks)


# Of students

@pytest.fixture(scope='module')
def pixels(phantom, tmp_path_factory): return cache_pixels(phantom, 32, tmp_path_factory.mktemp('pixels'))

@pytest.fixture(scope='module')
def student(phantom, pixels): return train_student(phantom, pixels, **QUICK)

def test_training_and_teaching_change_the_maps(phantom, pixels, student):
    ids = phantom.split('test').items.image_id
    taught = train_student(phantom, pixels, 1 - phantom.split('train').y(), 1., **QUICK)
    maps = [attention_maps(s, pixels, ids).maps for s in (student, taught)]
    set_seed(0, reproducible=True)
    student.model, trained = create_student(len(phantom.labels), 32, 'none', **TINY['arch_kwargs']), student.model
    try: untrained = attention_maps(student, pixels, ids).maps
    finally: student.model = trained
    assert np.abs(maps[0] - untrained).max() > 1e-5 and np.abs(maps[0] - maps[1]).max() > 1e-5

def test_a_map_depends_on_its_image_alone(phantom, pixels, student):
    ids = phantom.items.image_id.tolist()
    forth, back, one = (attention_maps(student, pixels, k) for k in (ids, ids[::-1], ids[7:8]))
    np.testing.assert_allclose(forth.maps, back.maps[::-1], atol=1e-6)
    np.testing.assert_allclose(forth.maps[7:8], one.maps, atol=1e-6)
    assert back.image_ids == ids[::-1] and len(np.unique(forth.maps.round(6), axis=0)) > 50
    for k in ids[:3]:
        assert forth.heat(k).shape == (pixels.geometry(k).h, pixels.geometry(k).w)
        np.testing.assert_array_equal(forth.heat(k), back.heat(k))


# On disk

def test_names_and_sizes_survive(tmp_path):
    ids, geometries = ['007', 'Ünïcödé/1', 'a'*200], [Geometry(1, 300, 32), Geometry(3000, 2, 32), Geometry(5, 5, 32)]
    maps = np.random.default_rng(0).random((3, 4, 4))                       # float64, kept as float32
    AttentionMaps(maps, pd.Series(ids, index=[5, 2, 9]), geometries).save(tmp_path/'maps.npz')
    again = AttentionMaps.load(tmp_path/'maps.npz')
    assert (again.image_ids, again.geometries) == (ids, geometries) and all(type(k) is str for k in again.image_ids)
    assert again.maps.dtype == np.float32
    np.testing.assert_array_equal(again.maps, maps.astype(np.float32))

def test_a_file_of_objects_is_not_unpickled(tmp_path):
    np.savez(tmp_path/'maps.npz', maps=np.ones((1, 2, 2)), image_ids=np.array([{}], dtype=object), hws=np.ones((1, 3)))
    with pytest.raises(ValueError, match='allow_pickle=False'): AttentionMaps.load(tmp_path/'maps.npz')

@pytest.mark.parametrize('n_ids,n_geometries', [(1, 2), (2, 1), (3, 3)])
def test_lengths_that_differ(n_ids, n_geometries):
    with pytest.raises(ValueError, match='same length'): AttentionMaps(np.ones((2, 2, 2)), ['a']*n_ids, [Geometry(2, 2, 4)]*n_geometries)
