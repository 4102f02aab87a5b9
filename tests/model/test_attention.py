"""Shared pieces: attention kernels agree, rows of many lengths equal separate runs, drop path and initial weights."""

import math

import pytest
import torch
from torch import nn

from skyframe.model.attention import (
    Attention,
    Layer,
    PatchEmbed,
    attend,
    drop_factors,
    drop_rates,
    init_weights,
    run,
)
from skyframe.randomness import Draw
from skyframe.spec import InputError


def rand(*shape, seed=0, **more):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **more)


def test_attend_equals_the_formula_in_every_mode():
    q, k, v, bias = (rand(2, 3, 5, 4, seed=i) for i in range(3)), None, None, rand(3, 5, 5, seed=9)
    q, k, v = q
    for given in (None, bias, bias.expand(2, -1, -1, -1)):
        scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / math.sqrt(4) + (0 if given is None else given)
        expected = torch.einsum("bhnm,bhmd->bhnd", scores.softmax(-1), v)
        with torch.no_grad():
            assert torch.allclose(attend(q, k, v, given), expected, atol=1e-6)
        learning = q.clone().requires_grad_()
        assert torch.allclose(attend(learning, k, v, given), expected, atol=1e-6)
    half = attend(*(x.bfloat16().requires_grad_() for x in (q, k, v)))
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), attend(q, k, v), atol=3e-2)


def test_attend_takes_a_scale_of_its_own():
    q, k, v = (rand(1, 1, 3, 2, seed=i) for i in range(3))
    expected = (7.0 * q @ k.transpose(-1, -2)).softmax(-1) @ v
    assert torch.allclose(attend(q, k, v, scale=7.0), expected, atol=1e-6)


def test_a_layer_equals_torchs_own_pre_norm_layer():
    ours = Layer(8, 2, 4.0, 1e-5)
    init_weights(ours, 3)
    theirs = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True)
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": ours.attn.qkv_weight,
            "self_attn.in_proj_bias": ours.attn.qkv_bias,
            "self_attn.out_proj.weight": ours.attn.out.weight,
            "self_attn.out_proj.bias": ours.attn.out.bias,
            "linear1.weight": ours.ffn.up.weight,
            "linear1.bias": ours.ffn.up.bias,
            "linear2.weight": ours.ffn.down.weight,
            "linear2.bias": ours.ffn.down.bias,
            **{f"norm{i}.{k}": getattr(getattr(ours, f"norm{i}"), k) for i in (1, 2) for k in ("weight", "bias")},
        }
    )
    x = rand(3, 7, 8)
    assert torch.allclose(ours(x.flatten(0, 1), [(3, 7)]).reshape(3, 7, 8), theirs(x), atol=1e-6)


def test_sequences_of_many_lengths_equal_separate_runs():
    layer = Layer(8, 2, 2.0, 1e-5)
    init_weights(layer, 1)
    parts = [rand(2 * 3, 8, seed=1), rand(1 * 5, 8, seed=2)]
    together = layer(torch.cat(parts), [(2, 3), (1, 5)])
    apart = torch.cat([layer(parts[0], [(2, 3)]), layer(parts[1], [(1, 5)])])
    assert torch.allclose(together, apart, atol=1e-6)


def test_first_only_is_the_first_row_of_each_sequence():
    layer = Layer(8, 2, 2.0, 1e-5)
    init_weights(layer, 1)
    rows, groups, first = rand(11, 8), [(2, 3), (1, 5)], torch.tensor([0, 3, 6])
    assert torch.allclose(layer(rows, groups, None, first), layer(rows, groups)[first], atol=1e-6)


def test_recomputed_layer_has_the_same_gradients():
    layer = Layer(8, 2, 2.0, 1e-5)
    init_weights(layer, 1)
    found = []
    for recompute in (False, True):
        x = rand(6, 8).requires_grad_()
        run(layer, recompute, x, [(2, 3)], rand(6, 2, seed=4)).square().sum().backward()
        found.append(x.grad)
    assert torch.equal(*found)


def test_width_must_divide_into_heads():
    with pytest.raises(InputError, match="width 10 is not a multiple of 4 heads"):
        Attention(10, 4)


def test_patch_embed_is_the_strided_convolution():
    embed = PatchEmbed(3, 5, 4)
    init_weights(embed, 0)
    x = rand(2, 3, 8, 12)
    conv = nn.functional.conv2d(x, embed.weight, embed.bias, stride=4)
    assert torch.allclose(embed(x), conv.flatten(2).transpose(1, 2), atol=1e-6)
    assert embed.grid(6, 9) == (2, 3)
    padded = torch.zeros(2, 3, 8, 12)
    padded[:, :, :6, :9] = x[:, :, :6, :9]
    assert torch.equal(embed(x[:, :, :6, :9]), embed(padded))
    with pytest.raises(InputError, match=r"expected shape \[B, 3, H, W\], got \[2, 4, 8, 8\]"):
        embed(torch.zeros(2, 4, 8, 8))


def test_drop_rates_rise_linearly():
    assert drop_rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert drop_rates(0.3, 1) == [0.0]


def test_drop_factors_depend_on_sample_and_layer_alone():
    draw = Draw(5, torch.arange(4000))
    like = torch.zeros(1)
    factors = drop_factors(draw, 2, 0.25, like)
    assert factors.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert factors.mean().item() == pytest.approx(1.0, abs=0.03)
    assert not torch.equal(factors[:, 0], factors[:, 1])
    assert not torch.equal(factors, drop_factors(draw, 3, 0.25, like))
    alone = drop_factors(Draw(5, torch.tensor([17])), 2, 0.25, like)
    assert torch.equal(alone[0], factors[17])
    frames = drop_factors(draw.repeat(3), 2, 0.25, like)
    assert torch.equal(frames, factors.repeat_interleave(3, 0))
    assert drop_factors(None, 2, 0.25, like) is None
    assert drop_factors(draw, 0, 0.0, like) is None


def test_initial_weights_follow_seed_and_name():
    one, two, other = (Layer(8, 2, 4.0, 1e-5) for _ in range(3))
    init_weights(one, 7)
    torch.manual_seed(123)  # the global generator has no say
    init_weights(two, 7)
    init_weights(other, 8)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.ffn.up.weight, other.ffn.up.weight)
    assert one.ffn.up.weight.std().item() == pytest.approx(0.88 * math.sqrt(2 / 40), rel=0.2)
    assert not one.ffn.up.bias.any() and not one.attn.qkv_bias.any()
    assert torch.equal(one.norm1.weight, torch.ones(8))
