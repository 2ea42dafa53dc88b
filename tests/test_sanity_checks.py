"Corner cases of mmpkd.sanity_checks: the cascade of random weights, and how far maps of several seeds agree"
from itertools import combinations

import numpy as np, pandas as pd, pytest, torch
from conftest import TINY
from fastai.torch_core import set_seed
from hypothesis import given, settings, strategies as st
from matplotlib import pyplot as plt
from scipy.stats import spearmanr
from test_attention import QUICK, each_kind, kind_of, state

from mmpkd.convention import METHODS
from mmpkd.attention import AttentionMaps, attention_maps
from mmpkd.images import Geometry, cache_pixels
from mmpkd.sanity_checks import (_cascade, _stages, agreement, chance_overlap, randomisation_check, rank_correlation,
                                 show_randomisation, shown_patches)
from mmpkd.student import Student, train_student
from mmpkd.networks import create_student


@pytest.fixture(scope='module')
def pixels(phantom, tmp_path_factory): return cache_pixels(phantom, 32, tmp_path_factory.mktemp('pixels'))

@pytest.fixture(scope='module')
def student(phantom, pixels): return train_student(phantom, pixels, **QUICK)


# Random weights

@each_kind
def test_each_weight_has_one_stage(kind):
    model = kind_of(kind)
    stages = _stages(model)
    assert list(stages) == ['head', 'block 1', 'block 0', 'embedding']
    assert sorted(sum(stages.values(), [])) == sorted(model.state_dict())
    assert 'head.weight' in stages['head'] and 'pos_embed' in stages['embedding']
    assert all(k.startswith('blocks.0.') for k in stages['block 0'])
    if kind == 'distilled': assert 'head_dist.weight' in stages['head'] and 'dist_token' in stages['embedding']

def test_the_cascade_ends_in_a_fresh_student(student):
    set_seed(5, reproducible=True)
    fresh, trained = create_student(len(student.labels), 32, 'none', student.config['arch'],
                                    **TINY['arch_kwargs']).state_dict(), student.model.state_dict()
    lost = 0
    for victim, names in zip(_cascade(student, 5), _stages(student.model).values(), strict=True):
        lost += len(names)
        now = victim.model.state_dict()
        assert all(torch.equal(now[k], fresh[k])
                   for k in names) and sum(torch.equal(now[k], fresh[k]) for k in now) >= lost
        assert any(not torch.equal(trained[k], fresh[k]) for k in names)
    assert lost == len(fresh)

@pytest.mark.parametrize('method', METHODS)
def test_randomisation_leaves_the_student_alone(phantom, pixels, student, method):
    ids, before = phantom.items.image_id.tolist()[:20], {k: v.clone() for k, v in student.model.state_dict().items()}
    torch.manual_seed(3)
    drawn, how = torch.random.get_rng_state(), state(student.model)
    table = randomisation_check(student, pixels, ids, seed=1, draws=2, method=method)
    assert torch.equal(torch.random.get_rng_state(), drawn) and state(student.model) == how
    assert all(torch.equal(v, before[k]) for k, v in student.model.state_dict().items())
    assert table.stage.tolist() == ['head', 'block 1', 'block 0', 'embedding'] and (table.n == 20).all()
    assert table.spearman.between(-1, 1).all()
    assert table.attrs['method'] == method and table.attrs['seed'] == 1
    pd.testing.assert_frame_equal(table, randomisation_check(student, pixels, ids, seed=1, draws=2, method=method))
    # the head comes after
    if method in ('attention', 'rollout'):
        assert table.spearman[0] == pytest.approx(1) and table.sd[0] == pytest.approx(0, abs=1e-6)
    else: assert table.spearman[0] < .999
    assert table.spearman.iloc[-1] < .95

def test_draws_are_averaged(phantom, pixels, student):
    ids = phantom.items.image_id.tolist()[:12]
    both, *one = (randomisation_check(student, pixels, ids, seed=s, draws=d, method='gradient') for s,
                  d in ((4, 2), (4, 1), (5, 1)))
    np.testing.assert_allclose(both.spearman, (one[0].spearman + one[1].spearman)/2)
    np.testing.assert_allclose(both.sd_draws, abs(one[0].spearman - one[1].spearman)/2**.5)
    assert one[0].sd_draws.isna().all() and one[0].sd.notna().all()
    assert np.isnan(randomisation_check(student, pixels, ids[:1], draws=1).sd[0])

def test_the_last_row_is_an_untrained_student(phantom, pixels, student):
    ids = phantom.items.image_id.tolist()[:10]
    set_seed(2, reproducible=True)
    untrained = Student(create_student(len(student.labels), 32, 'none', student.config['arch'], **TINY['arch_kwargs']),
                        student.config)
    a, b = (attention_maps(s, pixels, ids) for s in (student, untrained))
    rho = rank_correlation(a.maps, b.maps, a.geometries)
    table = randomisation_check(student, pixels, ids, seed=2, draws=1)
    assert table.spearman.iloc[-1] == pytest.approx(rho.mean()) and table.sd.iloc[-1] == pytest.approx(rho.std(ddof=1))

def test_the_curve_begins_at_the_trained_student(phantom, pixels, student):
    table = randomisation_check(student, pixels, phantom.items.image_id[:4], draws=1)
    ax = show_randomisation(table)
    assert [t.get_text() for t in ax.get_xticklabels()] == ['trained', *table.stage]
    assert show_randomisation(table, ax) is ax
    np.testing.assert_allclose(np.asarray(ax.containers[0].lines[0].get_ydata(), float), [1, *table.spearman])
    plt.close(ax.figure)


# Agreement

@settings(max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([(32, 4), (96, 6), (160, 10)]))
def test_patches_that_show_something(h, w, size_grid):
    size, g = size_grid
    geometry = Geometry(h, w, size)
    truth = geometry.inside.reshape(g, size//g, g, size//g).any(axis=(1, 3))
    np.testing.assert_array_equal(shown_patches(geometry, (g, g)), truth)
    assert truth.any()

def test_rank_correlation_is_scipys():
    rng, geometries = np.random.default_rng(0), [Geometry(20, 32, 32), Geometry(32, 32, 32), Geometry(32, 9, 32)]
    a, b = rng.integers(0, 5, (2, 3, 8, 8))                                  # many ties
    for i, r in enumerate(rank_correlation(a, b, geometries)):
        seen = shown_patches(geometries[i], (8, 8))
        assert r == pytest.approx(spearmanr(a[i][seen], b[i][seen]).statistic)
    assert (rank_correlation(a*0, b, geometries) == 0).all()
    hidden = np.where(shown_patches(geometries[0], (8, 8)), b[0], 99)        # what the padding says does not matter
    expected = rank_correlation(a[:1], b[:1], geometries[:1])
    assert rank_correlation(a[:1], hidden[None], geometries[:1]) == pytest.approx(expected)

@pytest.mark.parametrize('n,k', [(1, 1), (5, 1), (5, 2), (6, 3), (6, 5), (7, 7)])
def test_chance_is_the_mean_over_all_sets(n, k):
    sets = [set(c) for c in combinations(range(n), k)]
    assert chance_overlap(n, k) == pytest.approx(np.mean([len(a & b)/len(a | b) for a in sets for b in sets]))

def runs(*maps, ids='abc', size=32):
    return [AttentionMaps(m, list(ids), [Geometry(size, size, size)]*len(ids)) for m in maps]

def test_agreement_by_hand():
    m = np.zeros((3, 3, 2, 2))                                               # 3 students of 3 images of 4 patches
    m[:, 0] = [[4, 3], [2, 1]]                                               # all agree
    m[:, 1] = [[[4, 3], [2, 1]], [[4, 3], [2, 1]], [[1, 2], [3, 4]]]         # one is the reverse
    t = agreement(runs(*m), top=.25)
    assert t.columns.tolist() == ['image_id', 'spearman', 'overlap', 'chance', 'pairs'] and (t.pairs == 3).all()
    assert t.image_id.tolist() == ['a', 'b', 'c']
    np.testing.assert_allclose(t.spearman, [1, (1 - 1 - 1)/3, 0], atol=1e-12)
    np.testing.assert_allclose(t.overlap[:2], [1, 1/3])
    np.testing.assert_allclose(t.chance, 1/4)

def test_order_of_images_does_not_matter():
    a, b = np.random.default_rng(0).random((2, 3, 4, 4))
    first, second = runs(a, b)
    turned = AttentionMaps(b[::-1], list('cba'), second.geometries)
    pd.testing.assert_frame_equal(agreement([first, second]), agreement([first, turned]))

def test_flat_maps_agree_by_chance():
    t = agreement(runs(*np.zeros((2, 400, 6, 6)), ids=[str(i) for i in range(400)]), top=.2)
    assert (t.spearman == 0).all() and t.overlap.mean() == pytest.approx(t.chance[0], abs=.03)

def test_padding_takes_no_part():
    a, b = np.random.default_rng(0).random((2, 1, 4, 4))
    geometry = Geometry(16, 32, 32)                                          # the two middle rows
    a[:, [0, 3]], b[:, [0, 3]] = 9., 9.
    wide = [AttentionMaps(m, ['x'], [geometry]) for m in (a, b)]
    t = agreement(wide, top=.25)
    assert t.spearman[0] == pytest.approx(spearmanr(a[0, 1:3].ravel(), b[0, 1:3].ravel()).statistic)
    assert t.chance[0] == pytest.approx(chance_overlap(8, 2))

def test_maps_that_cannot_be_compared():
    a, b = np.random.default_rng(0).random((2, 3, 4, 4))
    with pytest.raises(ValueError, match='at least two students, not 1'): agreement(runs(a))
    with pytest.raises(ValueError, match='at least two students, not 0'): agreement([])
    with pytest.raises(ValueError, match="the first is 'c'"): agreement([runs(a)[0], runs(b, ids='abd')[0]])
    with pytest.raises(ValueError, match='different grids'): agreement([runs(a)[0], runs(np.ones((3, 8, 8)))[0]])
    for top in (0, 1, -1, 2):
        with pytest.raises(ValueError, match='top must be'): agreement(runs(a, b), top=top)

@pytest.mark.parametrize('method', METHODS)
def test_a_student_agrees_with_itself(phantom, pixels, student, method):
    maps = attention_maps(student, pixels, phantom.items.image_id[:10], method)
    t = agreement([maps, maps])
    contrast = np.ptp(maps.maps, axis=(1, 2)) > 0
    np.testing.assert_allclose(t.spearman[contrast], 1)
    assert contrast.any() and (t.spearman[~contrast] == 0).all()
