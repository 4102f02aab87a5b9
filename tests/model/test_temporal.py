"""Fusion and dates: places are independent, masked tokens do not exist, dates by hand and for every day 1990-2040."""

from datetime import date

import numpy as np
import pytest
import torch

from skyframe.calendar import DATE_ROWS, DAY_UNKNOWN, day_of
from skyframe.calendar import date_rows as date_rows_numpy
from skyframe.model.temporal import DateEncoding, TemporalFusion, date_rows
from skyframe.randomness import Draw
from skyframe.spec import InputError


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flags(*shape, seed=0, share=0.6):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share


@pytest.fixture
def fusion():
    return TemporalFusion(12, 16, 3, 4, drop_path=0.5)


def padded_form(fusion, tokens, valid):
    """Every token computed, the invalid ones hidden by a mask: the slow, obvious form."""
    num = len(tokens)
    x = torch.cat([fusion.extra_token.expand(num, -1, -1), fusion.proj(tokens)], 1)
    seen = torch.cat([torch.ones(num, 1, dtype=torch.bool), valid], 1)
    for layer in fusion.layers:
        y = layer.norm1(x)
        qkv = torch.nn.functional.linear(y, layer.attn.qkv_weight, layer.attn.qkv_bias)
        q, k, v = (t.unflatten(-1, (4, 4)).transpose(1, 2) for t in qkv.chunk(3, -1))
        scores = (q @ k.transpose(-1, -2) / 2.0).masked_fill(~seen[:, None, None], -torch.inf)
        x = x + layer.attn.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = x + layer.ffn(layer.norm2(x))
    return x[:, 0]


def test_equals_the_padded_and_masked_form(fusion):
    tokens, valid = rand(20, 9, 12), flags(20, 9)
    valid[3], valid[4] = False, True
    assert torch.allclose(fusion(tokens, valid), padded_form(fusion, tokens, valid), atol=1e-6)


def test_masked_equals_removed(fusion):
    tokens, valid = rand(5, 6, 12), torch.ones(5, 6, dtype=torch.bool)
    valid[:, [1, 4]] = False
    kept = tokens[:, [0, 2, 3, 5]]
    removed = fusion(kept, torch.ones(5, 4, dtype=torch.bool))
    assert (fusion(tokens, valid) - removed).abs().max() <= 1e-6


def test_invalid_values_never_matter(fusion):
    tokens, valid = rand(8, 5, 12).requires_grad_(), flags(8, 5)
    poisoned = torch.where(valid[..., None], tokens.detach(), torch.tensor([torch.nan, torch.inf, -1e30] * 4))
    poisoned.requires_grad_()
    out = fusion(tokens, valid)
    assert torch.equal(out, fusion(poisoned, valid))
    fusion(poisoned, valid).square().sum().backward()
    assert poisoned.grad.isfinite().all()
    assert not poisoned.grad[~valid].any() and poisoned.grad[valid].abs().sum(-1).min() > 0


def test_a_place_with_nothing_valid_is_finite_and_equal_everywhere(fusion):
    out = fusion(torch.full((3, 4, 12), torch.nan), torch.zeros(3, 4, dtype=torch.bool))
    assert out.isfinite().all() and torch.allclose(out[0], out[1], atol=1e-6)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fusion.parameters())
    no_tokens = fusion(torch.zeros(1, 0, 12), torch.zeros(1, 0, dtype=torch.bool))
    assert torch.allclose(no_tokens, out[:1], atol=1e-6)


def test_places_are_independent(fusion):
    tokens, valid = rand(6, 5, 12), flags(6, 5)
    before = fusion(tokens, valid)
    changed, flipped = tokens.clone(), valid.clone()
    changed[[0, 1, 3, 4, 5]] = 9.0
    flipped[[0, 5]] = ~flipped[[0, 5]]
    assert torch.allclose(fusion(changed, flipped)[2], before[2], atol=1e-6)


def test_token_order_has_no_influence(fusion):
    tokens, valid = rand(4, 7, 12), flags(4, 7)
    order = torch.tensor([3, 6, 0, 1, 5, 2, 4])
    assert torch.allclose(fusion(tokens[:, order], valid[:, order]), fusion(tokens, valid), atol=1e-6)


@pytest.mark.parametrize("drop", [None, Draw(4, torch.arange(10))])
def test_chunks_bound_memory_not_numbers(fusion, drop):
    tokens, valid = rand(10, 6, 12), flags(10, 6)
    whole = fusion(tokens, valid, drop)
    assert torch.allclose(fusion(tokens, valid, drop, chunk=3), whole, atol=1e-6)
    assert torch.allclose(whole, fusion(tokens, valid), atol=1e-6) == (drop is None)


def test_recompute_changes_memory_not_numbers(fusion):
    again = TemporalFusion(12, 16, 3, 4, recompute=True)
    tokens, valid = rand(10, 6, 12), flags(10, 6)
    for model in (fusion, again):
        model(tokens, valid).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(fusion.parameters(), again.parameters(), strict=True))


def test_gradients_equal_double_precision(fusion):
    tokens, valid = rand(9, 5, 12), flags(9, 5)
    double = TemporalFusion(12, 16, 3, 4).double()
    double.load_state_dict(fusion.state_dict())
    fusion(tokens, valid).square().mean().backward()
    double(tokens.double(), valid).square().mean().backward()
    for (name, ours), exact in zip(fusion.named_parameters(), double.parameters(), strict=True):
        scale = max(exact.grad.abs().max().item(), 1e-4)
        assert (ours.grad - exact.grad).abs().max().item() <= 1e-5 * scale, name


def test_bfloat16_training_stays_near(fusion):
    tokens, valid = rand(9, 5, 12), flags(9, 5)
    exact = fusion(tokens, valid)
    with torch.autocast("cpu", torch.bfloat16):
        near = fusion(tokens, valid)
        nothing = fusion(tokens, torch.zeros_like(valid))
    near.float().square().sum().backward()
    assert nothing.isfinite().all()
    assert (near.float() - exact).abs().max() <= 0.05 * exact.abs().max()


def test_shapes_on_the_meta_device():
    with torch.device("meta"):
        model = TemporalFusion(2816, 1024, 24, 16)
        out = model(torch.empty(4096, 31, 2816), torch.empty(4096, 31, dtype=torch.bool))
    assert out.shape == (4096, 1024)


def test_mask_must_fit(fusion):
    with pytest.raises(InputError, match=r"fusion: expected tokens \[P, L, D\] with a bool mask"):
        fusion(rand(2, 3, 12), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(InputError, match="give one flag per token"):
        fusion(rand(2, 3, 12), torch.ones(2, 3))


def test_date_rows_by_hand():
    days = [day_of(date(2021, 1, 1)), day_of(date(2021, 12, 31)), day_of(date(2020, 12, 31)), day_of(date(2020, 3, 1))]
    rows = date_rows(torch.tensor([*days, day_of(date(2021, 3, 1)), DAY_UNKNOWN], dtype=torch.int32))
    assert rows.tolist() == [0, 364, 365, 60, 59, DATE_ROWS - 1]


def test_date_rows_of_every_day_from_1990_to_2040():
    days = np.arange(day_of(date(1990, 1, 1)), day_of(date(2041, 1, 1)), dtype=np.int32)
    assert np.array_equal(date_rows(torch.from_numpy(days)).numpy(), date_rows_numpy(days))
    century = np.arange(day_of(date(2099, 12, 1)), day_of(date(2100, 4, 1)), dtype=np.int32)
    assert np.array_equal(date_rows(torch.from_numpy(century)).numpy(), date_rows_numpy(century))


def test_dates_start_at_zero_and_matter_once_the_table_does(fusion):
    day = torch.tensor([[day_of(date(2020, 12, 31)), 100, DAY_UNKNOWN]], dtype=torch.int32)
    dates = DateEncoding(12)
    assert dates.table.shape == (367, 12) and not dates(day).any()
    drawn = DateEncoding(12, init_std=0.2, seed=1)
    assert torch.equal(drawn(day)[0], drawn.table[[365, 100, 366]])
    tokens, valid = rand(1, 3, 12), torch.ones(1, 3, dtype=torch.bool)
    here, later = (fusion(tokens + drawn(d), valid) for d in (day, day + torch.tensor([0, 60, 0])))
    assert not torch.allclose(here, later, atol=1e-4)
    drawn(day).sum().backward()
    assert drawn.table.grad.any(1).nonzero().flatten().tolist() == [100, 365, 366]


def test_a_drawn_date_table_is_a_smooth_year_that_closes_on_itself():
    table = DateEncoding(256, init_std=0.5, seed=3).table.detach()
    assert not table[DATE_ROWS - 1].any()  # an unknown date says nothing
    year = table[:-1]
    spread = year.square().mean().sqrt()
    assert 0.85 < spread / 0.5 < 1.05  # directions are normal numbers cut at two standard deviations
    assert (year.square().mean(1).sqrt() / spread - 1).abs().max() < 0.15  # no season is louder
    steps = (year - year.roll(1, 0)).norm(dim=1) / year.norm(dim=1)  # the first is 31 December to 1 January
    assert steps.max() < 0.06
    apart = torch.nn.functional.cosine_similarity(year, year.roll(183, 0), dim=1)
    assert apart.max() < 0.1  # half a year apart is unlike


def test_a_drawn_date_table_scales_with_its_spread_and_follows_its_seed():
    table = DateEncoding(64, init_std=0.5, seed=3).table
    assert torch.equal(table, DateEncoding(64, init_std=0.5, seed=3).table)
    assert torch.allclose(table, 5 * DateEncoding(64, init_std=0.1, seed=3).table, atol=1e-6)
    other = DateEncoding(64, init_std=0.5, seed=4).table
    likeness = torch.nn.functional.cosine_similarity(table[:-1], other[:-1], dim=1)
    assert likeness.abs().max() < 0.6
