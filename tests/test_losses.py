"Corner cases of mmpkd.losses: equation 1 by its mixture and its gradient, blanks, a fastai training"
import math

import pytest, torch
import torch.nn.functional as F
from fastai.basics import AccumMetric, Callback, DataLoader, DataLoaders, Learner, SGD, set_seed
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import ProgressCallback  # noqa: F401 (patches Learner.no_bar)
from hypothesis import given, strategies as st
from torch import nn, tensor

from mmpkd.callbacks import SoftLabels
from mmpkd.losses import DistillationLoss, cross_entropy, distillation_loss, stand_in

nan = math.nan
seeds, lams, tasks = st.integers(0, 2**31), st.floats(0, 1), st.sampled_from(['multilabel', 'multiclass'])

def batch(seed, task='multilabel', blanks=0., silent=0., n=None, scale=3.):
    "Logits, hard labels with blanks and soft labels with missing teachers, in float64; multiclass by whole rows"
    g = torch.Generator().manual_seed(seed)
    def rand(*shape): return torch.rand(*shape, generator=g, dtype=torch.float64)
    b, c = n or 1 + seed % 7, 2 + seed % 3
    z = scale*torch.randn(b, c, generator=g, dtype=torch.float64)
    if task == 'multiclass': y, s = F.one_hot((rand(b)*c).long(), c).double(), (4*rand(b, c)).softmax(1)
    else: y, s = (rand(b, c) < .5).double(), rand(b, c)
    shape = (b, 1) if task == 'multiclass' else (b, c)
    y[(rand(*shape) < blanks).expand(b, c)] = nan
    s[(rand(*shape) < silent).expand(b, c)] = nan
    return z.requires_grad_(), y, s

def known(y, task): return ~y.isnan() if task == 'multilabel' else ~y.isnan().any(1)

def one_loss(z, target, task): # PyTorch's own, against a mixture without blanks
    return F.binary_cross_entropy_with_logits(z, target) if task == 'multilabel' else F.cross_entropy(z, target)

def gradient(loss, z): return torch.autograd.grad(loss, z)[0]


# Equation 1

@given(seeds, lams, tasks)
def test_it_is_one_loss_against_the_mixture(seed, lam, task):
    z, y, s = batch(seed, task)
    twin = one_loss(z, (1-lam)*y + lam*s, task)
    torch.testing.assert_close(distillation_loss(z, y, s, lam, task), twin, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(distillation_loss(z, y, s, lam, task), z), gradient(twin, z), rtol=1e-10,
                               atol=1e-12)

@given(seeds, lams, tasks)
def test_it_is_one_loss_in_single_precision(seed, lam, task):
    z, y, s = (t.float() for t in batch(seed, task))
    torch.testing.assert_close(distillation_loss(z, y, s, lam, task), one_loss(z, (1-lam)*y + lam*s, task), rtol=1e-5,
                               atol=1e-6)

@given(seeds, lams, tasks)
def test_with_blanks_and_missing_teachers(seed, lam, task):
    "The mixture over the entries with a hard label; the hard label where there is no soft one; the gradient by hand"
    z, y, s = batch(seed, task, blanks=.3, silent=.3)
    k = known(y, task)
    loss = distillation_loss(z, y, s, lam, task)
    grad = gradient(loss, z)
    assert loss.isfinite() and grad.isfinite().all() and (grad[~k] == 0).all()
    if not k.any(): assert loss == 0; return
    mix = ((1-lam)*y + lam*torch.where(s.isnan(), y, s))[k]
    torch.testing.assert_close(loss, one_loss(z[k], mix, task), rtol=1e-10, atol=1e-12)
    p = z.sigmoid() if task == 'multilabel' else z.softmax(1)
    torch.testing.assert_close(grad[k], (p[k] - mix).detach()/k.sum(), rtol=1e-9, atol=1e-12)

@given(seeds, lams, tasks)
def test_a_blank_hard_label_silences_the_teacher(seed, lam, task):
    z, y, s = batch(seed, task, blanks=.5)
    other = torch.where(y.isnan(), torch.rand_like(s), s)
    assert torch.equal(distillation_loss(z, y, s, lam, task), distillation_loss(z, y, other, lam, task))

@given(seeds, tasks)
def test_lambda_zero_to_the_bit(seed, task):
    "Value and gradient are those of a loss that never heard of a teacher, whatever the teacher says or leaves out"
    z, y, s = (t.float() for t in batch(seed, task, blanks=.2, silent=.2))
    base = cross_entropy(z, y, task)
    base = base.sum()/max(len(base), 1)
    loss = distillation_loss(z, y, s, 0., task)
    assert torch.equal(loss, base) and torch.equal(gradient(loss, z), gradient(base, z))

@given(seeds, lams, tasks)
def test_soft_labels_that_repeat_the_hard_ones_change_nothing(seed, lam, task):
    z, y, _ = batch(seed, task, blanks=.2)
    torch.testing.assert_close(distillation_loss(z, y, y.clone(), lam, task), distillation_loss(z, y, y, 0., task),
                               rtol=1e-12, atol=1e-12)

@given(seeds, tasks)
def test_linear_in_lambda(seed, task):
    z, y, s = batch(seed, task, blanks=.2, silent=.2)
    a, m, b = (distillation_loss(z, y, s, lam, task) for lam in (0., .25, 1.))
    torch.testing.assert_close(m, .75*a + .25*b)

@given(seeds, lams, tasks)
def test_the_order_of_the_images_means_nothing(seed, lam, task):
    z, y, s = batch(seed, task, blanks=.2, silent=.2, n=6)
    i = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(distillation_loss(z, y, s, lam, task), distillation_loss(z[i], y[i], s[i], lam, task))

@pytest.mark.parametrize('task', ['multilabel', 'multiclass'])
@pytest.mark.parametrize('soft', [nan, .5])
@pytest.mark.parametrize('lam', [0., .5, 1.])
def test_a_batch_without_any_label(task, soft, lam):
    z, y, s = torch.randn(4, 2, requires_grad=True), torch.full((4, 2), nan), torch.full((4, 2), soft)
    loss = distillation_loss(z, y, s, lam, task)
    loss.backward()
    assert loss == 0 and torch.equal(z.grad, torch.zeros(4, 2))

@pytest.mark.parametrize('task', ['multilabel', 'multiclass'])
@pytest.mark.parametrize('lam', [0., .5, 1.])
def test_extreme_logits(task, lam):
    z = tensor([[1e4, -1e4], [-1e4, 1e4], [88., -88.]], requires_grad=True)
    y, s = tensor([[0., 1.], [0., 1.], [1., 0.]]), tensor([[.9, .1], [1e-6, 1 - 1e-6], [nan, nan]])
    loss = distillation_loss(z, y, s, lam, task)
    loss.backward()
    assert loss.isfinite() and z.grad.isfinite().all()

def test_a_multiclass_row_with_one_blank_is_left_out():
    z, y = torch.randn(2, 3), tensor([[1., 0., 0.], [0., nan, 1.]])
    torch.testing.assert_close(cross_entropy(z, y, 'multiclass'), -z[:1].log_softmax(1)[:, 0])
    torch.testing.assert_close(distillation_loss(z, y, torch.full((2, 3), 1/3), 0., 'multiclass'),
                               -z[0].log_softmax(0)[0])

@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16])
def test_soft_labels_of_another_precision(dtype):
    z, y = torch.randn(4, 2, requires_grad=True), tensor([[0., 1.]]*4)
    loss = distillation_loss(z, y, torch.full((4, 2), .25, dtype=dtype), .5)
    loss.backward()
    torch.testing.assert_close(loss.float(),
                               distillation_loss(z, y, torch.full((4, 2), .25),
                                                 .5)); assert z.grad.dtype == torch.float32


# The loss object

@pytest.mark.parametrize('lam', [-.1, 1.01, nan, math.inf])
def test_lambda_out_of_range(lam):
    with pytest.raises(ValueError, match=r'lam must be in \[0, 1\], not'): DistillationLoss(lam)

def test_task_unknown():
    with pytest.raises(ValueError, match="not 'regression'"): DistillationLoss(task='regression')

@pytest.mark.parametrize('task,entries', [('multilabel', 12), ('multiclass', 6)])
def test_reduction_none(task, entries):
    z, y, s = batch(1, task, n=6)                                           # 6 images of 3 classes
    z, y = z[:, :2], y[:, :2]
    loss = DistillationLoss(.7, task, reduction='none')
    each = loss(z, y)
    assert each.shape == (entries,)
    torch.testing.assert_close(each.mean(), DistillationLoss(.7, task)(z, y))
    loss.soft = s[:, :2]
    assert torch.equal(loss(z, y), each)                                    # the hard term only
    y[2] = nan
    assert loss(z, y).shape == (entries*5//6,)

def test_half_precision_logits_are_widened():
    z, y = torch.randn(4, 2).bfloat16(), tensor([[0., 1.]]*4)
    for dtype in (torch.float32, torch.int64, torch.bool):
        loss = DistillationLoss()(z, y.to(dtype))
        assert loss.dtype == torch.float32 and torch.equal(loss, DistillationLoss()(z.float(), y))

def test_activation_and_decodes():
    z = tensor([[2., -1., .5]])
    many, one = DistillationLoss(), DistillationLoss(task='multiclass')
    assert many.decodes(many.activation(z)).tolist() == [[True, False, True]]
    assert one.decodes(one.activation(z)).tolist() == [0]
    assert one.activation(z).sum() == pytest.approx(1) and not list(one.parameters()) and not one.state_dict()


# A fastai training; the teacher's answer can be told from the image, so that a mix-up would show

def teacher(x): return x[:, :2].sigmoid()

def learner(lam=.5, seed=0, cbs=(), loss=None, soft=True, blanks=False, metrics=None):
    set_seed(seed)
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(9))
    y = (x[:, 1:3] > 0).float()
    if blanks: y[::3, 0] = nan; y[1::5] = nan
    data = list(zip(x, y, teacher(x))) if soft else list(zip(x, y))
    dls = DataLoaders(DataLoader(data[:24], bs=8, shuffle=True), DataLoader(data[24:], bs=8))
    dls.n_inp = 1
    return Learner(dls, nn.Linear(4, 2), loss or DistillationLoss(lam), opt_func=SGD, lr=.1, metrics=metrics,
                   cbs=[SoftLabels()]*soft + list(cbs))

def fit(learn, epochs=2):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs)
    return learn

def predictions(learn, **kwargs):
    with learn.no_bar(), learn.no_logging(): return learn.get_preds(**kwargs)

def test_the_teacher_is_heard_in_training_only():
    heard = []
    class Listen(DistillationLoss):
        def forward(self, logits, y): heard.append((self.training, self.soft)); return super().forward(logits, y)
    class Check(Callback):
        def after_loss(self):
            assert len(self.yb) == 1 and self.yb[0].shape == (8, 2)
            soft = self.learn.loss_func.soft
            if self.training:
                assert torch.equal(soft, teacher(self.xb[0]))
                assert torch.equal(self.loss_grad, distillation_loss(self.pred, self.yb[0], soft, .5))
            else:
                assert soft is None
                assert torch.equal(self.loss, F.binary_cross_entropy_with_logits(self.pred, self.yb[0]))
    learn = fit(learner(loss=Listen(.5), cbs=[Check()]))
    assert [s is not None for _, s in heard] == ([True]*3 + [False]*2)*2
    assert learn.loss_func.soft is None                                     # nobody stays to listen

@pytest.mark.parametrize('blanks', [False, True])
def test_lambda_zero_trains_the_baseline_to_the_bit(blanks):
    a = fit(learner(0., blanks=blanks)); b = fit(learner(0., blanks=blanks,
                                                         soft=False)); c = fit(learner(.5, blanks=blanks))
    assert torch.equal(a.model.weight, b.model.weight) and not torch.equal(a.model.weight, c.model.weight)
    assert a.recorder.values == b.recorder.values and a.model.weight.isfinite().all()

def test_the_validation_loss_means_the_same_in_every_arm():
    for lam in (0., .5, 1.):
        learn = fit(learner(lam))
        x, y = (torch.stack(t) for t in list(zip(*learn.dls.valid.dataset))[:2])
        twin = F.binary_cross_entropy_with_logits(learn.model(x), y).item()
        assert learn.recorder.values[-1][1] == pytest.approx(twin, rel=1e-5)

def test_metrics_and_predictions_are_ordinary():
    shapes = []
    def metric(p, y): shapes.append((p.shape, y.shape)); return (p.gt(0) == y.bool()).float().mean()
    learn = fit(learner(metrics=AccumMetric(metric, flatten=False)))
    assert shapes == [((16, 2), (16, 2))]*2
    p, y = predictions(learn)
    x = torch.stack([r[0] for r in learn.dls.valid.dataset])
    torch.testing.assert_close(p, learn.model(x).sigmoid().detach()); assert y.shape == (16, 2)
    p, y, loss = predictions(learn, with_loss=True)
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(learn.model(x), y,
                                                                        reduction='none').mean(1).detach())

def test_predictions_of_images_without_any_label():
    learn = fit(learner())
    new = DataLoader([(x,) for x in torch.randn(5, 4)], bs=2)
    assert predictions(learn, dl=new)[0].shape == (5, 2)

def test_nan_never_reaches_the_weights():
    class Blank(Callback):
        order = 10
        def before_batch(self): self.learn.yb = (torch.full_like(self.yb[0], nan),)
    start = learner().model.weight.clone()
    learn = fit(learner(cbs=[Blank()]))
    assert torch.equal(learn.model.weight, start)                           # nothing known, nothing learned


# Batches that other callbacks mix. A picture shows its labels: channel 0 is y, channel 1 is s (y without a teacher),
# channel 2 is 1 where y is blank

class Late(MixUp): order = 50
class Early(CutMix): order = -50

MIXES = dict(mixup=MixUp, cutmix=CutMix, late_mixup=Late, early_cutmix=Early)

class Compare(Callback):
    "What the loss got, and what the picture shows"
    order = 100
    def before_fit(self): self.seen = []
    def after_loss(self):
        soft = self.loss_func.soft
        if self.training: assert torch.equal(self.loss_grad, distillation_loss(self.pred, self.y, soft, .5))
        else: assert soft is None and self.y.shape == (16, 1)
        self.seen.append((self.training, self.y, soft, self.x.mean(dim=(2, 3))))

def mixed_by(cbs, blank=0, silent=0):
    "Labels and soft labels of a training epoch, and the channels of its pictures, mixed and before"
    g = torch.Generator().manual_seed(0)
    y, s = torch.rand(64, 1, generator=g), torch.rand(64, 1, generator=g)
    s[:silent] = y[:silent]
    shown = torch.cat([y, s, torch.zeros(64, 1)], 1)
    shown[:blank, 2] = 1
    pictures = shown[:, :, None, None].expand(-1, -1, 8, 8).clone()
    s[:silent], y[:blank] = nan, nan
    items, compare = list(zip(pictures, y, s)), Compare()
    dls = DataLoaders(DataLoader(items, bs=16), DataLoader(items[:16], bs=16))
    dls.n_inp = 1
    set_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    fit(Learner(dls, model, DistillationLoss(.5), cbs=[*cbs, compare]), 1)
    parts = zip(*[t[1:] for t in compare.seen if t[0]])
    return *(torch.cat(t) for t in parts), shown

@pytest.mark.parametrize('first', [True, False], ids=['named first', 'named last'])
@pytest.mark.parametrize('mix', MIXES.values(), ids=MIXES)
def test_soft_labels_are_mixed_as_the_pictures_are(mix, first):
    y, s, picture, shown = mixed_by([SoftLabels(), mix()] if first else [mix(), SoftLabels()])
    torch.testing.assert_close(torch.cat([y, s], 1), picture[:, :2], atol=1e-5, rtol=0)
    assert (picture - shown).abs().amax(1).gt(.01).float().mean() > .3              # many were mixed

@pytest.mark.parametrize('mix', MIXES.values(), ids=MIXES)
def test_a_silent_teacher_is_stood_in_for_before_the_mix(mix):
    y, s, picture, shown = mixed_by([SoftLabels(), mix()], silent=20)
    torch.testing.assert_close(torch.cat([y, s], 1), picture[:, :2], atol=1e-5, rtol=0)

@pytest.mark.parametrize('mix', MIXES.values(), ids=MIXES)
def test_a_mix_with_a_blank_label_is_blank(mix):
    y, s, picture, shown = mixed_by([SoftLabels(), mix()], blank=20, silent=30)
    assert (y.isnan() | (picture[:, 2:] == 0)).all() and torch.equal(y.isnan(), s.isnan())
    assert 0 < y.isnan().sum() < len(y)
    known = ~y.isnan()[:, 0]
    torch.testing.assert_close(torch.cat([y, s], 1)[known], picture[known, :2], atol=1e-5, rtol=0)

@pytest.mark.parametrize('blanks', [False, True])
def test_lambda_zero_is_the_baseline_of_mixed_images_to_the_bit(blanks):
    def trained(lam, soft): return fit(learner(lam, cbs=[MixUp()], soft=soft, blanks=blanks))
    a, b, c = trained(0., True), trained(0., False), trained(.5, True)
    assert torch.equal(a.model.weight, b.model.weight) and not torch.equal(a.model.weight, c.model.weight)

def test_a_loader_without_soft_labels_is_named():
    learn = learner(soft=False, cbs=[SoftLabels()])
    with pytest.raises(ValueError, match=r'batches \(x, y, s\), not 1 targets'): fit(learn)

def test_labels_of_two_precisions():
    y, s = tensor([[0., 1.]]), tensor([[.25, nan]], dtype=torch.float64)
    assert stand_in(y, s).tolist() == [[.25, 1.]]
