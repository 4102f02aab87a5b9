import dataclasses

import pytest
import torch

from skyframe.config.heads import HeadSpec
from skyframe.evaluate.heads import build_head, build_pooled
from skyframe.evaluate.heads.simple import FCN, ConvNorm, TokenLinear, channel_dropout, resized
from skyframe.evaluate.heads.upernet import UPerNet, pyramid
from skyframe.randomness import Draw

SPEC = HeadSpec("upernet", channels=16, dropout=0.0)


def maps(*shapes, batch=2, seed=0):
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, d, side, side, generator=made) for d, side in shapes]


def test_a_token_answers_for_its_own_pixels_in_row_order():
    head = TokenLinear(1, 2, 2)
    with torch.no_grad():
        head.linear.weight.copy_(torch.arange(8.0)[:, None])  # class 0: 0 1 / 2 3, class 1: 4 5 / 6 7
        head.linear.bias.zero_()
    found = head([torch.tensor([[[[1.0, 10.0]]]])], 2)
    assert head.linear(torch.ones(1)).tolist() == list(range(8))
    wide = TokenLinear.forward(head, [torch.tensor([[[[1.0, 10.0], [0.0, 1.0]]]])], 4)
    assert wide[0, 0].tolist() == [[0, 1, 0, 10], [2, 3, 20, 30], [0, 0, 0, 1], [0, 0, 2, 3]]
    assert wide[0, 1, :2, :2].tolist() == [[4, 5], [6, 7]]
    assert found.shape == (1, 2, 2, 2)


def test_token_linear_has_one_row_of_weights_per_class_and_pixel():
    head = build_head(HeadSpec("token_linear"), [(6, 4)], 3, 32, 0)
    assert isinstance(head, TokenLinear) and head.linear.weight.shape == (3 * 8 * 8, 6)
    assert not [m for m in head.modules() if "Norm" in type(m).__name__]


def test_sizes_of_a_pyramid_by_hand():
    assert pyramid([64, 32, 16, 8], 512) == [64, 32, 16, 8], "a Swin's maps stay"
    assert pyramid([16, 16, 16, 16], 512) == [64, 32, 16, 8], "a plain transformer's become 4, 2, 1 and 1/2"
    assert pyramid([16, 16, 16, 16], 16) == [16, 8, 4, 2], "no finer than the mask"
    assert pyramid([2, 2, 2, 2], 2) == [2, 1, 1, 1]


@pytest.mark.parametrize(
    "shapes", [[(8, 4)], [(8, 16), (12, 8), (16, 4), (24, 2)], [(8, 4)] * 4, [(8, 2), (8, 2), (5, 8)], [(8, 1)]]
)
def test_upernet_answers_at_the_size_of_the_mask_and_sees_every_level(shapes):
    head, given = build_head(SPEC, shapes, 3, 16, 0), maps(*shapes)
    for m in given:
        m.requires_grad_()
    found = head(given, 16)
    assert found.shape == (2, 3, 16, 16)
    found.square().sum().backward()
    assert all(m.grad.abs().sum() > 0 for m in given)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_upernet_is_its_naive_form():
    """Level by level as the paper draws it, on a pyramid of two."""
    head = build_head(dataclasses.replace(SPEC, pools=(1, 2)), [(8, 8), (12, 4)], 3, 8, 5)
    assert isinstance(head, UPerNet)
    fine, coarse = maps((8, 8), (12, 4))

    def average(x, n):
        return x.unflatten(-1, (n, -1)).unflatten(-3, (n, -1)).mean((-3, -1))

    pooled = [resized(c(average(coarse, n)), 4) for c, n in zip(head.pooled, (1, 2), strict=True)]
    top = head.context(torch.cat([coarse, *pooled], 1))
    below = head.smooth[0](head.lateral[0](fine) + resized(top, 8))
    naive = head.classify(head.join(torch.cat([below, resized(top, 8)], 1)))
    torch.testing.assert_close(head([fine, coarse], 8), naive)


def test_group_norm_makes_an_answer_independent_of_the_batch():
    head, given = build_head(SPEC, [(8, 4)], 3, 8, 0), maps((8, 4), batch=5)
    torch.testing.assert_close(head([given[0][2:3]], 8), head(given, 8)[2:3], atol=1e-5, rtol=0)
    assert [ConvNorm(4, c, 1).norm.num_groups for c in (512, 64, 8, 4)] == [32, 8, 1, 1]


def test_initial_weights_follow_the_seed_and_leave_torchs_own_generator_alone():
    before = torch.random.get_rng_state()
    heads = [build_head(SPEC, [(8, 4)], 3, 8, seed) for seed in (1, 1, 2)]
    assert torch.equal(before, torch.random.get_rng_state())
    states = [torch.cat([p.flatten() for p in h.parameters()]) for h in heads]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    assert build_pooled(5, 3, 0).weight.shape == (3, 5)


def test_the_auxiliary_head_stands_on_the_last_map_but_one():
    spec = dataclasses.replace(SPEC, auxiliary=0.4, auxiliary_channels=8)
    head, given = build_head(spec, [(8, 8), (12, 4)], 3, 8, 0), maps((8, 8), (12, 4))
    aside = head.auxiliary(given, 8)
    assert aside.shape == (2, 3, 8, 8)
    given[1] = given[1] + 1
    assert torch.equal(head.auxiliary(given, 8), aside)
    torch.testing.assert_close(aside, FCN.forward(head.side, given[:1], 8))


def test_dropout_takes_whole_channels_by_sample_and_keeps_the_mean():
    draw = Draw(7, torch.arange(400))
    found = channel_dropout(torch.ones(400, 16, 2, 2), 0.25, draw)
    assert {round(v, 4) for v in found.unique().tolist()} == {0.0, round(1 / 0.75, 4)}
    assert (found.flatten(2).amax(-1) == found.flatten(2).amin(-1)).all()
    assert float(found.mean()) == pytest.approx(1.0, abs=0.03)
    assert torch.equal(found[5:6], channel_dropout(torch.ones(1, 16, 2, 2), 0.25, Draw(7, torch.tensor([5]))))
    assert channel_dropout(found, 0.25, None) is found
