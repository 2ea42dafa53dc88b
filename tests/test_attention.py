"Corner cases of mmpkd.attention: twins of each method, models that are not plain, artefacts, and maps on disk"
import gc, inspect

import numpy as np, pandas as pd, pytest, timm, torch
from conftest import TINY
from fastai.torch_core import set_seed
from hypothesis import given, settings, strategies as st

from mmpkd.convention import ARTEFACTS, METHODS, Convention, MapSpec
from mmpkd.attention import (AttentionMaps, Seen, attention, attention_maps, check_maps, cls_attention, gradcam,
                             gradient_relevance, head_rows, maps_by_method, outlier_tokens, patch_maps,
                             replace_outliers, rollout, token_norms)
from mmpkd.busbra import busbra_cohort
from mmpkd.images import Geometry, cache_pixels
from mmpkd.localization import saliency_of
from mmpkd.sanity_checks import randomisation_check
from mmpkd.student import Student, train_student
from mmpkd.networks import create_student

QUICK = dict(epochs=2, augment='flip', device='cpu') | {k: TINY[k] for k in ('weights', 'arch_kwargs', 'lr', 'bs')}


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
    # untrained attention is too even to tell one map from another
    for p in model.parameters(): torch.nn.init.normal_(p, std=.2)
    return model

def images(n, size=32): return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n))


# The twin

@pytest.fixture(scope='module')
def pretrained(shared_data):
    return lambda size: create_student(2, size, str(shared_data/'vit_tiny'/'vit_tiny_patch16_224.pth'))

@pytest.mark.parametrize('bs,size', [(1, 224), (16, 96)])
def test_every_layer_of_the_real_model(pretrained, bs, size):
    model, x = pretrained(size), images(bs, size)
    maps = [attention(model, x, layer) for layer in range(12)]
    for layer, a in enumerate(maps):
        assert a.shape == (bs, 3, (size//16)**2 + 1, (size//16)**2 + 1) and a.dtype == torch.float32
        assert (a - real_attention(model, x, layer)).abs().max() < 1e-6, layer
        assert torch.equal(a, attention(model, x, layer - 12))
    assert all((a - b).abs().max() > .01 for a, b in zip(maps, maps[1:]))   # each layer is another

@pytest.mark.parametrize('kwargs', [dict(qk_norm=True), dict(reg_tokens=4), dict(qkv_bias=False), dict(num_heads=1),
                                    dict(no_embed_class=True)], ids=lambda k: next(iter(k)))
def test_other_plain_transformers(kwargs):
    model, x = small(**kwargs), images(3)
    for layer in (0, 1):
        real = real_attention(model, x, layer)
        assert (attention(model, x, layer) - real).abs().max() < 1e-6
        first = 1 + kwargs.get('reg_tokens', 0)
        np.testing.assert_allclose(cls_attention(model, x, layer), real[:, :, 0, first:].mean(1).reshape(3, 4, 4),
                                   atol=1e-6)

def test_normalised_queries_matter():
    model = small(qk_norm=True)
    before = attention(model, images(2))
    with torch.no_grad(): model.blocks[-1].attn.q_norm.weight.mul_(3)
    assert (attention(model, images(2)) - before).abs().max() > .01

@pytest.mark.parametrize('layer', [2, -3])
def test_layers_that_are_not_there(layer):
    with pytest.raises(ValueError, match=f'between -2 and 1, not {layer}'): attention(small(), images(1), layer)


# Each method against a forward pass written out

KINDS = dict(plain={}, registers=dict(reg_tokens=4), pooled=dict(class_token=False, global_pool='avg'),
             pooled_with_class=dict(global_pool='avg'), pooled_with_registers=dict(class_token=False, global_pool='avg',
                                                                                   reg_tokens=4),
             pooled_with_prefix=dict(global_pool='avg', reg_tokens=2, pool_include_prefix=True),
             distilled=dict(arch='deit_tiny_distilled_patch16_224'), normalised_queries=dict(qk_norm=True),
             layer_scale=dict(init_values=.5), pre_norm=dict(pre_norm=True), one_head=dict(num_heads=1))
each_kind = pytest.mark.parametrize('kind', KINDS)

def kind_of(kind): return small(**KINDS[kind])

def reads_class(kind): return not kind.startswith('pooled')

def written_out(model, x, upto=None):
    "Logits, and per block: attention and the tokens that enter it, all part of the graph"
    model.eval()
    h, As, ts = model.norm_pre(model._pos_embed(model.patch_embed(x.clone().requires_grad_()))), [], []
    for b in model.blocks:
        t, a = b.norm1(h), b.attn
        q, k, v = a.qkv(t).reshape(len(x), -1, 3, a.num_heads, a.head_dim).permute(2, 0, 3, 1, 4)
        A = torch.softmax(a.q_norm(q) @ a.k_norm(k).transpose(-1, -2)/a.head_dim**.5, dim=-1)
        h = h + b.ls1(a.proj((A @ v).transpose(1, 2).flatten(2)))
        h = h + b.ls2(b.mlp(b.norm2(h)))
        As.append(A); ts.append(t)
    return model.forward_head(model.norm(h)), As, ts

def read(kind, model, R): # (B, N, N) -> (B, 4, 4)
    p = model.num_prefix_tokens
    rows = {'distilled': R[:, :2], 'pooled_with_prefix': R}.get(kind, R[:, :1] if reads_class(kind) else R[:, p:])
    return rows[..., p:].mean(1).reshape(-1, 4, 4)

def fused(A, heads):
    return {'mean': A.mean(1), 'max': A.max(1).values}[heads] if isinstance(heads, str) else A[:, heads]

def close(a, b, tol=1e-5):
    np.testing.assert_allclose(np.asarray(a.detach()), np.asarray(b.detach()), rtol=tol,
                               atol=tol*b.detach().abs().max().item())

@each_kind
def test_attention_is_the_models_own(kind):
    model, x = kind_of(kind), images(3)
    z, As, _ = written_out(model, x)
    close(model(x), z)                                                      # the twin is the model
    for layer, A in enumerate(As):
        rows = torch.stack([read(kind, model, a) for a in A.unbind(1)], dim=1)
        for heads in ('mean', 'max', 0): close(cls_attention(model, x, layer, heads), fused(rows, heads))

@each_kind
@pytest.mark.parametrize('heads', ['mean', 'max', 0])
def test_rollout_is_the_product(kind, heads):
    model, x = kind_of(kind), images(3)
    As = [fused(A, heads).detach().double().numpy() for A in written_out(model, x)[1]]
    for layer in (0, 1, -1):
        R = np.stack([np.eye(As[0].shape[-1])]*3)
        for A in As[:layer % 2 + 1]:
            for i in range(3):
                hat = .5*A[i] + .5*np.eye(len(A[i]))
                R[i] = (hat/hat.sum(1, keepdims=True)) @ R[i]
        np.testing.assert_allclose(R.sum(2), 1)
        close(rollout(model, x, layer, heads), read(kind, model, torch.tensor(R)))

@each_kind
@pytest.mark.parametrize('heads', ['mean', 'max', 0])
@pytest.mark.parametrize('target', [0, 1, None, [1, 0, 1]], ids=str)
def test_gradient_relevance_is_chefers(kind, heads, target):
    model, x = kind_of(kind), images(3)
    z, As, _ = written_out(model, x)
    c = z.argmax(1).tolist() if target is None else [target]*3 if isinstance(target, int) else target
    grads = torch.autograd.grad(sum(z[i, c[i]] for i in range(3)), As)
    for layer in (0, -1):
        R = torch.eye(As[0].shape[-1]).repeat(3, 1, 1)
        for A, g in list(zip(As, grads))[:layer % 2 + 1]: R = R + fused(torch.relu(g*A), heads) @ R
        close(gradient_relevance(model, x, layer, heads, target), read(kind, model, R))

@each_kind
@pytest.mark.parametrize('target', [0, None, [1, 0, 1]], ids=str)
def test_gradcam_is_selvarajus(kind, target):
    model, x = kind_of(kind), images(3)
    z, _, ts = written_out(model, x)
    c = z.argmax(1).tolist() if target is None else [target]*3 if isinstance(target, int) else target
    grads = torch.autograd.grad(sum(z[i, c[i]] for i in range(3)), ts)
    for layer in (0, -1):
        t, g = (v[layer][:, model.num_prefix_tokens:] for v in (ts, grads))
        close(gradcam(model, x, layer, target), torch.relu((g.mean(1, keepdim=True)*t).sum(-1)).reshape(3, 4, 4),
              tol=1e-4)

@each_kind
def test_the_head_reads_the_mean_of_these_tokens(kind):
    "The tokens whose gradient is not zero: logits are linear in the tokens, but for a norm after pooling"
    model = kind_of(kind).eval()
    tokens = torch.randn(1, 16 + model.num_prefix_tokens, 48, requires_grad=True)
    g, = torch.autograd.grad(model.forward_head(tokens)[0, 0], tokens)
    read = (g[0] != 0).any(dim=1)
    rows = torch.zeros(len(read), dtype=bool)
    rows[head_rows(model)] = True
    assert torch.equal(read, rows)

def test_a_distilled_student_looks_with_both_tokens():
    "By hand, from the weights of its last block"
    model, x = kind_of('distilled').eval(), images(3)
    _, _, ts = written_out(model, x)
    attn, t = model.blocks[-1].attn, ts[-1].detach()
    q, k = (t @ attn.qkv.weight.T + attn.qkv.bias)[..., :96].split(48, dim=-1)
    q, k = (v.unflatten(-1, (3, 16)).transpose(1, 2) for v in (q, k))
    A = torch.softmax(q @ k.transpose(-1, -2)/4, dim=-1).mean(dim=1)
    close(cls_attention(model, x), ((A[:, 0] + A[:, 1])/2)[:, 2:].reshape(3, 4, 4))
    assert (A[:, 0] - A[:, 1]).abs().max() > .001

@each_kind
@pytest.mark.parametrize('artefacts', ARTEFACTS)
@pytest.mark.parametrize('method', METHODS)
def test_a_batch_is_its_images_one_by_one(kind, method, artefacts):
    model, x = kind_of(kind), images(7)
    longer = torch.ones(16 + model.num_prefix_tokens, 1)
    longer[-3] = 60.
    # one outlier, so that there is something to replace
    model.blocks[0].register_forward_hook(lambda module, args, out: out*longer)
    assert outlier_tokens(model, x).sum(dim=(1, 2)).tolist() == [1]*7
    batch = patch_maps(model, x, method, artefacts=artefacts)
    assert batch.shape == (7, 4, 4) and batch.dtype == torch.float32
    assert not batch.requires_grad and batch.isfinite().all()
    close(batch, torch.cat([patch_maps(model, x[i:i+1], method, artefacts=artefacts) for i in range(7)]))
    close(batch.flip(0), patch_maps(model, x.flip(0), method, artefacts=artefacts))

@each_kind
@pytest.mark.parametrize('artefacts', ARTEFACTS)
@pytest.mark.parametrize('method', METHODS)
def test_one_pass_gives_what_many_give(kind, method, artefacts):
    "To the bit, for each block; and the pass itself leaves the model as it was"
    model, x = kind_of(kind), images(3)
    model.train()
    seen = Seen(model, x)
    assert model.training and not any(m._forward_pre_hooks for m in model.modules())
    assert not any(t.requires_grad for t in (*seen.blocks, *seen.attn))
    for layer in range(len(model.blocks)):
        how = dict(method=method, layer=layer, artefacts=artefacts)
        assert torch.equal(patch_maps(model, seen, **how), patch_maps(model, x, **how))
        assert torch.equal(attention(model, seen, layer), attention(model, x, layer))
        assert torch.equal(token_norms(model, seen, layer), token_norms(model, x, layer))

def test_seen_needs_blocks():
    with pytest.raises(ValueError, match='has no blocks'): Seen(timm.create_model('resnet10t'), images(1))

def test_only_two_methods_know_of_classes():
    model, x = small(), images(3)
    differ = {m: not torch.equal(patch_maps(model, x, m, target=0), patch_maps(model, x, m, target=1)) for m in METHODS}
    assert differ == dict(attention=False, rollout=False, gradient=True, gradcam=True)

def test_the_default_is_what_it_always_was(pretrained):
    model, x = pretrained(96), images(16, 96)
    a = attention(model, x)[:, :, 0, 1:].mean(dim=1).unflatten(1, (6, 6))
    assert torch.equal(cls_attention(model, x), a) and torch.equal(patch_maps(model, x), a)


# What does not fit is named

def test_arguments_that_do_not_fit():
    model = small()
    wrong = dict(method=('attn', None, 3, ['attention']), layer=(2, -3, 0.5, 'last', None, True),
                 heads=(3, -1, 'median', None, 1.5, True), artefacts=('drop', None), target=('c', 0, ['a']))
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match=f'^{name} must be'):
                check_maps(model, 32, **{name: value}, labels=['a', 'b'])
    for how in (dict(layer=5), dict(heads=7)):
        for f in (cls_attention, rollout, gradient_relevance):
            with pytest.raises(ValueError, match='^(layer|heads) must be'): f(model, images(1), **how)
    # no labels, no target
    with pytest.raises(ValueError, match='^target must be'): check_maps(model, 32, target='a')

@each_kind
def test_what_fits(kind):
    model = kind_of(kind)
    for method in METHODS:
        for artefacts in ARTEFACTS:
            for layer in (-2, 1):
                for heads in ('mean', 'max', 0):
                    spec = MapSpec(method, layer, heads, artefacts)
                    assert check_maps(model, 32, spec, 'b', ['a', 'b']) is None

NOT_PLAIN = dict(
    layer=lambda: torch.nn.Conv2d(3, 3, 1), convolution=lambda: timm.create_model('resnet10t'),
    swin=lambda: timm.create_model('swin_tiny_patch4_window7_224', embed_dim=12, depths=(1, 1, 1, 1),
                                   num_heads=(1, 1, 1, 1)),
    beit=lambda: timm.create_model('beit_base_patch16_224', img_size=32, embed_dim=24, depth=1, num_heads=2),
    no_blocks=lambda: small(depth=0))

@pytest.mark.parametrize('make', NOT_PLAIN.values(), ids=NOT_PLAIN)
@pytest.mark.parametrize('method', METHODS)
def test_models_that_are_not_plain(make, method):
    with pytest.raises(ValueError, match='has no blocks with the attention of a plain vision transformer'):
        check_maps(make(), 32, method)

@pytest.mark.parametrize('method', METHODS)
def test_a_wrong_size_is_named(method):
    with pytest.raises(ValueError, match='size 40'): check_maps(small(), 40, method)

@pytest.mark.parametrize('kwargs', [dict(global_pool='map'), dict(global_pool='max'), dict(global_pool='avgmax'),
                                    dict(global_pool='', fc_norm=False)], ids=lambda k: k['global_pool'] or 'none')
@pytest.mark.parametrize('method', METHODS)
def test_heads_that_read_something_else(kwargs, method):
    "No rows of the attention say what a maximum, or an attention of its own, takes from the patches"
    model = small(class_token=False, **kwargs)
    with pytest.raises(ValueError, match=f"^global_pool must be 'token' or 'avg', .* not '{kwargs['global_pool']}'"):
        check_maps(model, 32, method)
    with pytest.raises(ValueError, match='^global_pool must be'): patch_maps(model, images(1), method)


# The model is left as it was

def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())

def state(model):
    return dict(hooks=hooks(model), training=[m.training for m in model.modules()],
                fused=[b.attn.fused_attn for b in model.blocks],
                asks=[p.requires_grad for p in model.parameters()], grads=[p.grad for p in model.parameters()],
                n=[v._version for v in model.parameters()])

@pytest.mark.parametrize('artefacts', ARTEFACTS)
@pytest.mark.parametrize('method', METHODS)
def test_nothing_is_left_behind(method, artefacts):
    model = small().train()
    model.blocks[0].attn.fused_attn = False                                  # a mixed state comes back mixed
    model.blocks[1].eval()
    model.head.weight.requires_grad_(False)
    before, weights = state(model), {k: v.clone() for k, v in model.state_dict().items()}
    patch_maps(model, images(2), method, artefacts=artefacts)
    # not its size
    with pytest.raises(AssertionError): patch_maps(model, images(2, size=40), method, artefacts=artefacts)
    if method in ('gradient', 'gradcam'):
        # not its class, found after the forward pass
        with pytest.raises(RuntimeError): patch_maps(model, images(2), method, target=9)
    assert state(model) == before
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())

@pytest.mark.parametrize('method', METHODS)
def test_any_mode_of_the_caller(method):
    model, x = small(), images(3)
    usual = patch_maps(model, x, method)
    with torch.inference_mode():
        assert torch.equal(patch_maps(model, x, method), usual) and torch.equal(patch_maps(model, x + 0, method), usual)
    with torch.no_grad(): assert torch.equal(patch_maps(model, x, method), usual)
    model.requires_grad_(False)                                              # frozen
    close(patch_maps(model, x, method), usual)
    assert not x.requires_grad and x.grad is None
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()

@pytest.mark.parametrize('method', METHODS)
def test_dropout_is_off(method):
    model = small(attn_drop_rate=.5, proj_drop_rate=.5, drop_path_rate=.5, drop_rate=.5).train()
    torch.testing.assert_close(patch_maps(model, images(2), method), patch_maps(model, images(2), method), rtol=0,
                               atol=0)
    assert model.training

@pytest.mark.parametrize('method', METHODS)
def test_fused_or_not_the_map_is_the_same(method):
    model, x = small(), images(2)
    usual = patch_maps(model, x, method)
    for b in model.blocks: b.attn.fused_attn = not b.attn.fused_attn
    close(patch_maps(model, x, method), usual)

def tensors():
    gc.collect()
    return sum(type(o) is torch.Tensor for o in gc.get_objects())

@pytest.mark.parametrize('method', METHODS)
def test_memory_does_not_grow(method):
    model, x = small(), images(2)
    def look(): return [patch_maps(model, x, method, artefacts='mask') for _ in range(3)] and None
    look()
    before = tensors()
    look()
    assert tensors() == before

def test_rollout_keeps_one_matrix():
    "Matrices of attention alive at once do not depend on the depth"
    alive = []
    for depth in (2, 8):
        model, most = small(depth=depth), [0]
        def count(*_, most=most):
            most[0] = max(most[0], sum(type(o) is torch.Tensor and o.shape == (2, 17, 17) for o in gc.get_objects()))
        handles = [b.mlp.register_forward_pre_hook(count) for b in model.blocks]
        rollout(model, images(2))
        alive.append(most[0])
        for h in handles: h.remove()
    assert alive[0] == alive[1] == 1


# Artefacts

def test_a_planted_outlier():
    model, x = small(), images(5)
    assert not outlier_tokens(model, x).any()
    with torch.no_grad(): model.pos_embed[:, 1 + 6] *= 100
    found = outlier_tokens(model, x, layer=0)
    assert found[:, 1, 2].all() and found.sum() == 5
    n = token_norms(model, x, layer=0)
    assert n.shape == (5, 4, 4) and (n.flatten(1).argmax(1) == 6).all()
    assert not outlier_tokens(model, x, layer=0, k=1e6).any()

def test_a_blank_image_has_no_outliers():
    model = small()
    with torch.no_grad(): model.pos_embed.zero_()
    assert not outlier_tokens(model, torch.zeros(2, 3, 32, 32)).any()

def test_entering_a_block_is_leaving_the_one_before():
    model, x, caught = small(reg_tokens=2), images(2), []
    model.eval().blocks[0].register_forward_hook(lambda m, a, out: caught.append(out))
    with torch.no_grad(): model(x)
    close(token_norms(model, x, 1), caught[0][:, 3:].norm(dim=-1).reshape(2, 4, 4))

@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_replaced_outliers(h, w, seed):
    rng = np.random.default_rng(seed)
    heat = torch.tensor(rng.normal(size=(3, h, w)), dtype=torch.float32)
    out = torch.tensor(rng.random((3, h, w)) < rng.uniform(0, .9))
    out.view(3, -1)[:, rng.integers(h*w)] = False                            # at least one is ordinary
    before = heat.clone()
    for how in ('mask', 'clip'):
        m = replace_outliers(heat, out, how)
        assert torch.equal(heat, before) and torch.equal(m[~out], heat[~out])
        for a, b, o in zip(m, heat, out):
            top, bottom = b[~o].max(), b[~o].min()
            if how == 'clip': assert torch.equal(a[o], b[o].clamp(max=top))
            else: assert (a[o] <= top + 1e-5).all() and (a[o] >= bottom - 1e-5).all()      # neither peak nor hole
        for i in range(3): close(m[i:i+1], replace_outliers(heat[i:i+1], out[i:i+1], how))

def test_a_mended_lesion_has_no_hole():
    heat, out = torch.zeros(1, 7, 7), torch.zeros(1, 7, 7, dtype=torch.bool)
    heat[:, 1:6, 1:6], out[:, 2:5, 2:5] = 1., True
    heat[out] = 50.
    assert torch.equal(replace_outliers(heat, out, 'mask')[0, 1:6, 1:6], torch.ones(5, 5))

@pytest.fixture(scope='module')
def looked_at(shared_data, pretrained, tmp_path_factory):
    "A few real training images, and a ViT-Tiny that knows ImageNet only"
    cohort = busbra_cohort(shared_data/'BUSBRA').split('train')
    cohort = cohort.take(cohort.items.image_id[::60])
    pixels = cache_pixels(cohort, 160, tmp_path_factory.mktemp('busbra'))
    student = Student(pretrained(160), dict(labels=['a', 'b'], task='multilabel', size=160))
    return student, pixels, cohort.items.image_id.tolist()

def test_artefacts_of_real_images_are_removed(looked_at):
    student, pixels, ids = looked_at
    x = next(student.batches(pixels, ids))
    out = outlier_tokens(student.model, x).numpy()
    assert out.any(axis=(1, 2)).mean() > .9 and 1 <= out.sum(axis=(1, 2)).mean() <= 8     # a handful of 100 patches
    assert (out == outlier_tokens(student.model, x, k=50.).numpy()).mean() > .99          # the line lies in a gap
    assert not outlier_tokens(student.model, x, layer=4).any()                            # they arise later
    def owned(m): return (np.where(out, m, -np.inf).max((1, 2)) > np.where(out, -np.inf, m).max((1, 2))).mean()
    def peak(m): return np.median(m.max((1, 2))/np.median(m, (1, 2)))
    maps = {how: attention_maps(student, pixels, ids, artefacts=how).maps for how in ARTEFACTS}
    share = {how: owned(m) for how, m in maps.items()}
    assert share['keep'] > .9 and share['clip'] == 0 and share['mask'] < .1, share
    assert max(peak(maps['mask']), peak(maps['clip'])) < .5*peak(maps['keep']), {how: peak(m) for how,
                                                                                 m in maps.items()}

@pytest.mark.parametrize('method', METHODS)
def test_real_images_one_by_one(looked_at, method):
    student, pixels, ids = looked_at
    maps = [attention_maps(student, pixels, ids[:5], method, artefacts='mask', target='b',
                           bs=bs).maps for bs in (None, 1, 3)]
    for m in maps[1:]: np.testing.assert_allclose(m, maps[0], rtol=0, atol=1e-5*max(1, maps[0].max()))


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

def test_a_map_is_laid_over_its_image_in_one_way_only(phantom, pixels, student):
    "What is looked at is what is scored: a map of equal patches gets one heat"
    maps, k = attention_maps(student, pixels, phantom.items.image_id[:2]), phantom.items.image_id[0]
    maps.maps[0] = .1 + 5e-9*np.arange(maps.maps[0].size).reshape(maps.maps[0].shape)
    assert len(np.unique(saliency_of(*maps.of(k)))) == 1 and not hasattr(maps, 'heat')

def test_a_map_depends_on_its_image_alone(phantom, pixels, student):
    ids = phantom.items.image_id.tolist()
    forth, back, one = (attention_maps(student, pixels, k) for k in (ids, ids[::-1], ids[7:8]))
    np.testing.assert_allclose(forth.maps, back.maps[::-1], atol=1e-6)
    np.testing.assert_allclose(forth.maps[7:8], one.maps, atol=1e-6)
    assert back.image_ids == ids[::-1] and len(np.unique(forth.maps.round(6), axis=0)) > 50
    for k in ids[:3]:
        (a, geometry), (b, same) = forth.of(k), back.of(k)
        assert geometry == same == pixels.geometry(k)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('method', METHODS)
def test_maps_of_a_cohort(phantom, pixels, student, method):
    ids, c = phantom.items.image_id.tolist()[:40], student.labels[1]
    maps = attention_maps(student, pixels, ids, method, target=c)
    few = attention_maps(student, pixels, ids, method, target=c, bs=7)
    np.testing.assert_allclose(maps.maps, few.maps, rtol=0, atol=1e-5)
    x = student.inputs(np.stack([pixels[k] for k in ids[:3]]))
    np.testing.assert_allclose(maps.maps[:3], patch_maps(student.model, x, method, target=1), atol=1e-6)
    assert maps.image_ids == ids and maps.geometries == [pixels.geometry(k) for k in ids]

def test_the_likeliest_class_is_explained_by_default(phantom, pixels, student):
    ids = phantom.items.image_id.tolist()
    best, free = student.predict(pixels, ids).idxmax(axis=1), attention_maps(student, pixels, ids, 'gradient').maps
    for c in best.unique():
        np.testing.assert_allclose(free[best == c], attention_maps(student, pixels, ids, 'gradient',
                                                                   target=c).maps[best == c], atol=1e-6)

def test_calls_that_do_not_fit(phantom, pixels, student):
    ids = phantom.items.image_id[:2]
    for name, value in dict(method='cam', layer=9, heads='min', artefacts='drop', target='Fracture').items():
        with pytest.raises(ValueError, match=f'^{name} must be'): attention_maps(student, pixels, ids, **{name: value})
        with pytest.raises(ValueError, match=f'^{name} must be'):
            randomisation_check(student, pixels, ids, **{name: value})
    with pytest.raises(ValueError, match='image_ids is empty'): attention_maps(student, pixels, [])
    with pytest.raises(ValueError, match='at least one image'): randomisation_check(student, pixels, [])

def test_any_description_of_a_map_will_do(phantom, pixels, student):
    "A `MapSpec`, a convention, the name of a method, or single fields"
    ids, spec = phantom.items.image_id.tolist()[:5], MapSpec('rollout', layer=0, heads='max')
    convention = Convention(**spec.to_dict(), rule='otsu')
    maps = attention_maps(student, pixels, ids, spec).maps
    others = [attention_maps(student, pixels, ids, convention), attention_maps(student, pixels, ids, **spec.to_dict()),
              attention_maps(student, pixels, ids, 'rollout', layer=0, heads='max'),
              *maps_by_method(student, pixels, ids, [spec.to_dict(), convention])]
    for other in others: np.testing.assert_array_equal(other.maps, maps)
    with pytest.raises(TypeError, match='block'): attention_maps(student, pixels, ids, block=3)
    with pytest.raises(ValueError, match='spec must be a MapSpec'): attention_maps(student, pixels, ids, 3)

def test_all_makers_of_maps_take_the_same():
    for f in (patch_maps, check_maps, attention_maps, randomisation_check):
        known = inspect.signature(f).parameters
        assert known['spec'].default is known['target'].default is None, f
        assert 'fields' in known and not {'method', 'layer', 'heads', 'artefacts'} & set(known), f


# On disk

def test_names_and_sizes_survive(tmp_path):
    ids = ['007', 'Ünïcödé/1', 'a'*200]
    geometries = [Geometry(1, 300, 32), Geometry(3000, 2, 32), Geometry(5, 5, 32)]
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
    with pytest.raises(ValueError, match='same length'):
        AttentionMaps(np.ones((2, 2, 2)), ['a']*n_ids, [Geometry(2, 2, 4)]*n_geometries)

def test_several_ways_at_once(phantom, pixels, student):
    "As one after another, in the order that was asked for; batches of the size that was asked for"
    ids, c = phantom.items.image_id.tolist()[:40], student.labels[1]
    hows = [dict(method=m, artefacts=a) for a in ('keep', 'mask') for m in METHODS] + [dict(layer=0, heads='max')]
    for bs in (None, 7):
        for how, maps in zip(hows, maps_by_method(student, pixels, ids, hows, target=c, bs=bs), strict=True):
            alone = attention_maps(student, pixels, ids, target=c, bs=bs, **how)
            np.testing.assert_array_equal(maps.maps, alone.maps, err_msg=str(how))
            assert maps.image_ids == ids and maps.geometries == alone.geometries

def test_several_ways_are_checked_first(student, pixels):
    with pytest.raises(ValueError, match='^heads must be'):
        maps_by_method(student, pixels, ['P00000-1'], [dict(), dict(heads=9)])
    with pytest.raises(ValueError, match='image_ids is empty'): maps_by_method(student, pixels, [], [dict()])
