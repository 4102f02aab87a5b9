"""Swin V2: attention against a naive form, padding, clamp of the scale, sizes, gradients against double precision."""

import math

import pytest
import torch
from torch.nn import functional

from skyframe.model import ENCODERS
from skyframe.model.attention import init_weights
from skyframe.model.swin import Merge, PositionBias, SwinV2, WindowAttention
from skyframe.model.windows import window_layout
from skyframe.randomness import Draw
from skyframe.spec import InputError

CPU = torch.device("cpu")


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(**more):
    options = {"depths": (1, 2, 3, 1), "num_heads": (1, 2, 2, 4), "window_size": 4, "extra_norm_every": 2}
    return SwinV2(3, 8, **{**options, **more})


def naive_attention(module, x, height, width, shift=0):
    """Attention of every token over the tokens that share its window and, after a shift, its side of the border."""
    n = x.shape[1]
    rows, columns = torch.arange(n) // width, torch.arange(n) % width
    q, k, v = functional.linear(
        x, module.qkv_weight, torch.cat([module.q_bias, torch.zeros_like(module.q_bias), module.v_bias])
    ).chunk(3, -1)
    heads = module.num_heads
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    cosine = functional.cosine_similarity(q[:, :, :, None], k[:, :, None], dim=-1)
    scores = cosine * module.logit_scale.clamp(max=math.log(100)).exp()
    w = module.window

    def spaced(step):
        t = step / (w - 1) * 8
        return torch.sign(t) * torch.log2(t.abs() + 1) / 3.0

    away = torch.stack([rows[:, None] - rows[None], columns[:, None] - columns[None]], -1).float()
    p = module.position_bias
    hidden = functional.relu(spaced(away) @ p.up_weight.T + p.up_bias)
    scores = scores + (16 * torch.sigmoid(hidden @ p.down_weight.T)).permute(2, 0, 1)
    row, column = (rows - shift) // w, (columns - shift) // w  # floor: the wrapped strip is a window of its own (-1)
    together = (row[:, None] == row[None]) & (column[:, None] == column[None])
    scores = scores.masked_fill(~together, -math.inf)
    return module.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("height,width,shift", [(4, 4, 0), (8, 12, 0), (8, 12, 2), (3, 3, 0), (6, 9, 0), (6, 9, 2)])
@pytest.mark.parametrize("grad", [False, True])
def test_window_attention_equals_the_naive_form(height, width, shift, grad):
    """Also on maps that are no multiple of the window: hidden padding means attention over real tokens only."""
    module = WindowAttention(8, 2, 4)
    for i, p in enumerate(module.parameters()):
        torch.nn.init.normal_(p, std=0.5, generator=torch.Generator().manual_seed(i))
    x = rand(2, height * width, 8)
    layout = window_layout(height, width, 4, shift, True, CPU)
    with torch.set_grad_enabled(grad):
        ours = module(x[:, layout.order], layout)[:, layout.inverse]
    assert torch.allclose(ours, naive_attention(module, x, height, width, shift), atol=2e-5)


def test_unhidden_padding_answers_as_zero_tokens():
    module = WindowAttention(8, 2, 4)
    init_weights(module, 0)
    torch.nn.init.normal_(module.qkv_weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(module.v_bias, generator=torch.Generator().manual_seed(1))
    x = rand(1, 9, 8)
    layout = window_layout(3, 3, 4, 0, False, CPU)
    padded = functional.pad(x.reshape(1, 3, 3, 8), (0, 0, 0, 1, 0, 1)).flatten(1, 2)
    whole = naive_attention(module, padded, 4, 4).reshape(1, 4, 4, 8)[:, :3, :3].flatten(1, 2)
    ours = module(x[:, layout.order], layout)[:, layout.inverse]
    assert torch.allclose(ours, whole, atol=1e-5)
    assert not torch.allclose(ours, naive_attention(module, x, 3, 3), atol=1e-3)


def test_logit_scale_is_clamped_at_log_100():
    module = WindowAttention(8, 2, 4)
    init_weights(module, 0)
    torch.nn.init.normal_(module.qkv_weight, generator=torch.Generator().manual_seed(0))
    layout, x = window_layout(4, 4, 4, 0, True, CPU), rand(1, 16, 8)

    def at(value):
        with torch.no_grad():
            module.logit_scale.fill_(value)
            return module(x, layout)

    assert torch.equal(at(math.log(100) + 3), at(math.log(100)))
    assert not torch.allclose(at(math.log(100)), at(math.log(100) - 0.5), atol=1e-4)
    module.logit_scale.data.fill_(5.0)
    module(x, layout).sum().backward()
    assert not module.logit_scale.grad.any()


def test_position_bias_stays_within_0_and_16_and_depends_on_the_offset_alone():
    bias = PositionBias(2, 3)
    torch.nn.init.normal_(bias.up_weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(bias.down_weight, generator=torch.Generator().manual_seed(1))
    table = bias().detach()
    assert table.shape == (2, 9, 9) and table.min() > 0 and table.max() <= 16
    assert torch.equal(table[:, 0, 0], table[:, 8, 8])
    assert torch.equal(table[:, 0, 1], table[:, 4, 5]) and not torch.allclose(table[:, 0, 1], table[:, 1, 0])


def test_merge_takes_row_column_channel():
    merge = Merge(2, 1e-5)
    seen = []
    merge.reduction.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    merge(torch.arange(12.0).reshape(1, 6, 2), 3, 2)
    assert seen[0].tolist() == [[[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 0, 0, 0, 0]]]


@pytest.mark.parametrize("height,width", [(6, 6), (33, 32), (64, 96), (100, 37)])
def test_any_input_size(height, width):
    model = small(out_indices=(0, 1, 2, 3))
    x = rand(2, 3, height, width)
    tokens, maps = model(x), model.maps(x)
    grid = (-(-height // 32), -(-width // 32))
    assert model.grid(height, width) == grid and model.stride == 32 and model.num_features == 64
    assert tokens.shape == (2, grid[0] * grid[1], 64) and tokens.isfinite().all()
    assert [tuple(m.shape) for m in maps] == [
        (2, 8 * 2**s, -(-height // (4 * 2**s)), -(-width // (4 * 2**s))) for s in range(4)
    ]
    assert torch.equal(maps[-1].flatten(2).transpose(1, 2), tokens)


def test_224_pixels_which_the_published_class_refuses():
    model = SwinV2(3, 8, (2, 2, 2, 2), (1, 2, 4, 8), mask_padding=False)
    tokens = model(rand(1, 3, 224, 224))
    assert tokens.shape == (1, 49, 64) and tokens.isfinite().all()
    assert not torch.allclose(tokens, SwinV2(3, 8, (2, 2, 2, 2), (1, 2, 4, 8))(rand(1, 3, 224, 224)), atol=1e-4)


def test_images_do_not_see_each_other():
    model, x = small(), rand(3, 3, 72, 40)
    changed = x.clone()
    changed[0] = 50.0
    assert torch.allclose(model(changed)[1:], model(x)[1:], atol=1e-5)
    assert torch.allclose(model(x[2:]), model(x)[2:], atol=1e-5)


def test_extra_norm_follows_every_nth_block():
    names = [n for n, _ in small().named_parameters() if "norm3.weight" in n]
    assert names == ["stages.1.blocks.1.norm3.weight", "stages.2.blocks.1.norm3.weight"]
    assert not [n for n, _ in small(extra_norm_every=0).named_parameters() if "norm3.weight" in n]


@pytest.mark.parametrize("mask_padding", [False, True])
def test_gradients_equal_double_precision(mask_padding):
    model, x = small(mask_padding=mask_padding), rand(2, 3, 72, 40)
    double = small(mask_padding=mask_padding).double()
    double.load_state_dict(model.state_dict())
    weight = rand(2, 6, 64, seed=5)
    (model(x) * weight).sum().backward()
    (double(x.double()) * weight.double()).sum().backward()
    for (name, ours), exact in zip(model.named_parameters(), double.named_parameters(), strict=True):
        scale = max(exact[1].grad.abs().max().item(), 1e-2)
        assert (ours.grad - exact[1].grad).abs().max().item() <= 1e-4 * scale, name


def test_training_and_inference_kernels_agree():
    model, x = small(), rand(2, 3, 72, 40)
    with torch.no_grad():
        still = model(x)
    assert torch.allclose(model(x), still, atol=1e-5)


def test_drop_path_and_recompute():
    model, again = small(drop_path=0.5), small(drop_path=0.5, recompute=True)
    x, draw = rand(3, 3, 64, 64), Draw(1, torch.arange(3))
    one = model(x, draw)
    assert torch.equal(one, again(x, draw))
    assert not torch.allclose(one, model(x), atol=1e-2)
    assert torch.allclose(one[1:2], model(x[1:2], Draw(1, torch.tensor([1]))), atol=1e-5)
    for m in (model, again):
        m(x, draw).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_an_all_zero_image_gives_finite_values_and_gradients():
    model = small()
    out = model(torch.zeros(1, 3, 64, 64))
    out.square().sum().backward()
    assert out.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())


def test_paper_sizes_on_the_meta_device():
    with torch.device("meta"):
        model = SwinV2(3, 352, (2, 2, 18, 2), (8, 16, 32, 64))
        assert model(torch.empty(2, 3, 512, 512)).shape == (2, 256, 2816)
        assert model(torch.empty(1, 3, 2048, 2048)).shape == (1, 4096, 2816)


def test_registered_and_strict():
    assert ENCODERS["swin_v2"] is SwinV2
    with pytest.raises(InputError, match="expected as many depths as num_heads"):
        SwinV2(3, 8, (1, 1), (1,))
    with pytest.raises(InputError, match="width 8 is not a multiple of 3 heads"):
        SwinV2(3, 8, (1,), (3,))
