"""ViT: any input size, positions, independence of images, gradients against double precision."""

import pytest
import torch
from torch.nn import functional

from skyframe.model import ENCODERS
from skyframe.model.vit import ViT
from skyframe.randomness import Draw
from skyframe.spec import InputError


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def vit():
    return ViT(10, 24, 3, 3, patch_size=4, table_side=4, drop_path=0.5, out_indices=(0, 2))


def test_registered_by_name():
    assert ENCODERS["vit"] is ViT


@pytest.mark.parametrize("height,width,grid", [(6, 6, (2, 2)), (16, 16, (4, 4)), (24, 24, (6, 6)), (7, 13, (2, 4))])
def test_any_input_size(vit, height, width, grid):
    x = rand(2, 10, height, width)
    tokens, maps = vit(x), vit.maps(x)
    assert vit.grid(height, width) == grid
    assert tokens.shape == (2, grid[0] * grid[1], 24) and tokens.isfinite().all()
    assert [m.shape for m in maps] == [(2, 24, *grid)] * 2
    assert torch.equal(maps[-1].flatten(2).transpose(1, 2), tokens)


def test_padding_is_zeros_at_the_bottom_and_right(vit):
    x = rand(1, 10, 6, 6)
    assert torch.equal(vit(x), vit(functional.pad(x, (0, 2, 0, 2))))
    assert not torch.allclose(vit(x), vit(functional.pad(x, (2, 0, 2, 0))), atol=1e-3)


def test_position_table_is_used_as_it_stands_on_its_own_grid(vit):
    assert vit._positions((4, 4)) is vit.pos_embed
    wide = vit._positions((2, 8))
    assert wide.shape == (1, 17, 24)
    assert torch.equal(wide[:, 0], vit.pos_embed[:, 0])
    with torch.no_grad():
        vit.pos_embed[:, 1:] = 3.0  # a constant table stays constant under any resize
    assert torch.allclose(vit._positions((5, 7))[:, 1:], torch.tensor(3.0))


def test_images_do_not_see_each_other(vit):
    x = rand(3, 10, 16, 16)
    alone = vit(x[1:2])
    changed = x.clone()
    changed[0] = 100.0
    assert torch.allclose(vit(changed)[1], alone[0], atol=1e-6)


def test_gradients_equal_double_precision(vit):
    x = rand(2, 10, 6, 10)
    double = ViT(10, 24, 3, 3, patch_size=4, table_side=4, out_indices=(0, 2)).double()
    double.load_state_dict(vit.state_dict())
    vit(x).square().mean().backward()
    double(x.double()).square().mean().backward()
    for (name, ours), exact in zip(vit.named_parameters(), double.parameters(), strict=True):
        scale = max(exact.grad.abs().max().item(), 1e-4)
        assert (ours.grad - exact.grad).abs().max().item() <= 1e-5 * scale, name


def test_drop_path_is_drawn_per_sample_from_the_stream_alone(vit):
    x = rand(6, 10, 16, 16)
    draw = Draw(3, torch.arange(6))
    torch.manual_seed(0)
    one = vit(x, draw)
    torch.manual_seed(1)
    assert torch.equal(one, vit(x, draw))
    part = vit(x[2:4], Draw(3, torch.arange(2, 4)))
    assert torch.allclose(one[2:4], part, atol=1e-6)
    assert not torch.allclose(one, vit(x), atol=1e-3)
    vit.train()
    assert torch.equal(vit(x), vit.eval()(x))


def test_recompute_changes_memory_not_numbers(vit):
    again = ViT(10, 24, 3, 3, patch_size=4, table_side=4, out_indices=(0, 2), recompute=True)
    x = rand(1, 10, 8, 8)
    for model in (vit, again):
        model(x).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(vit.parameters(), again.parameters(), strict=True))


def test_bfloat16_stays_near(vit):
    x = rand(2, 10, 16, 16)
    with torch.no_grad():
        exact = vit(x)
        with torch.autocast("cpu", torch.bfloat16):
            near = vit(x)
    assert (near.float() - exact).abs().max() <= 0.05 * exact.abs().max()


def test_errors_name_what_was_got(vit):
    with pytest.raises(InputError, match=r"expected shape \[B, 10, H, W\], got \[1, 3, 8, 8\]"):
        vit(torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match=r"vit: out_indices \[3\], expected rising numbers from 0 to 2"):
        ViT(10, 24, 3, 3, out_indices=[3])
    assert ViT(10, 24, 3, 3, out_indices=[-1]).out_indices == (2,)
