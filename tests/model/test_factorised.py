"""SkySense's encoder on 6 x 6 positions with patches of 4: padded, cropped, and blind to what is masked."""

import dataclasses

import pytest
import torch

from skyframe.model.factorised import FactorisedEncoder
from skyframe.sample import Batch, Tokens
from tests.system.batches import REGIONS, SPEC, nano_recipe, random_batch, random_sample, with_values

SIDE, PATCH, ALL = 6, 4, ("hr", "s2", "s1")
POSITION = 4 * SIDE + 1  # row 4, column 1: in the padded lower half of the patch grid


@pytest.fixture(scope="module")
def model() -> FactorisedEncoder:
    patches = [f"model.encoders.{name}.patch_px={PATCH}" for name in ("s2", "s1")]
    recipe = nano_recipe(*patches, f"views.crop_px={SIDE}")
    assert {recipe.model.encoders[n].patch_px for n in ALL} == {PATCH}
    return FactorisedEncoder({n: SPEC.modalities[n] for n in ALL}, recipe.model, REGIONS.num_regions, seed=7).eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    return random_batch([random_sample(0, crop_px=SIDE), random_sample(1, ("s2",), crop_px=SIDE)], crop_px=SIDE)


def with_valid(batch: Batch, name: str, valid: torch.Tensor) -> Batch:
    series = {**batch.series, name: dataclasses.replace(batch.series[name], valid=valid)}
    return dataclasses.replace(batch, series=series)


def masked(batch: Batch, name: str, dates: slice, rows: slice, columns: slice) -> Batch:
    valid = batch.series[name].valid.clone()
    valid[:, dates, rows, columns] = False
    return with_valid(batch, name, valid)


@torch.no_grad()
def encode(model: FactorisedEncoder, batch: Batch):
    return model.encode(batch)


def test_a_6_x_6_window_is_encoded_end_to_end(model, batch):
    assert batch.series["hr"].values.shape[-1] == 32 * SIDE and batch.series["s2"].values.shape[-1] == SIDE
    found = encode(model, batch)
    assert found.fused.shape == (2, SIDE * SIDE, model.num_features) and found.pooled.shape == (2, model.num_features)
    assert found.fused.isfinite().all() and found.pooled.isfinite().all()
    for name, dates in (("hr", 1), ("s2", 3), ("s1", 2)):
        t = found.tokens[name]
        assert t.values.shape == (2, dates, SIDE * SIDE, 64) and t.valid.shape == (2, dates, SIDE * SIDE)
        assert t.valid[0].any() and t.values.isfinite().all()
    assert not found.tokens["hr"].valid[1].any() and not found.tokens["s1"].valid[1].any()
    assert (found.fused[0] - found.fused[0, :1]).abs().amax(-1)[1:].min() > 1e-3, "positions differ from each other"


def widened(batch: Batch) -> Batch:
    """The same places in windows of 8 x 8 positions, of which the last two rows and columns are invalid junk."""
    series = {}
    for name, s in batch.series.items():
        more = 2 * s.valid.shape[-1] // SIDE
        values, valid = (
            torch.nn.functional.pad(x, (0, more, 0, more), value=v) for x, v in ((s.values, 5), (s.valid, 0))
        )
        series[name] = dataclasses.replace(s, values=values, valid=valid)
    return dataclasses.replace(batch, series=series)


def test_padding_and_cutting_are_the_same_as_a_wider_window_that_is_masked_there(model, batch):
    """Holds for the ViTs, whose padding is a masked pixel's zero; Swin hides its own padding from attention."""
    with torch.no_grad():
        narrow, wide = model.tokens(batch), model.tokens(widened(batch))
    for name, dates in (("s2", 3), ("s1", 2)):
        assert model.encoders[name].token_grid(batch.series[name]) == (2, 2)
        values, valid = (
            x.reshape(2, dates, 8, 8, -1)[:, :, :SIDE, :SIDE].flatten(2, 3)
            for x in (wide[name].values, wide[name].valid)
        )
        torch.testing.assert_close(narrow[name].values, values, rtol=0, atol=1e-6)
        assert torch.equal(narrow[name].valid, valid[..., 0]) and valid.any()


@pytest.mark.parametrize("name", ALL)
def test_validity_of_a_position_is_that_of_its_own_pixels(model, batch, name):
    k = batch.series[name].valid.shape[-1] // SIDE
    clear = with_valid(batch, name, torch.ones_like(batch.series[name].valid))
    hidden = masked(clear, name, slice(0, 1), slice(4 * k, 5 * k), slice(k, 2 * k))
    valid = encode(model, hidden).tokens[name].valid
    assert (~valid).nonzero().tolist() == [[0, 0, POSITION], [1, 0, POSITION]]


@pytest.mark.parametrize("name", ALL)
def test_what_stands_behind_a_masked_position_is_never_read(model, batch, name):
    k = batch.series[name].values.shape[-1] // SIDE
    ground = (slice(4 * k, 5 * k), slice(k, 2 * k))
    hidden = masked(batch, name, slice(None), *ground)
    junk = hidden.series[name].values.float()
    junk[..., *ground] += 97
    before, after = encode(model, hidden), encode(model, with_values(hidden, name, junk))
    assert torch.equal(before.fused, after.fused) and torch.equal(before.pooled, after.pooled)
    shown = encode(model, with_values(batch, name, batch.series[name].values.float() + 97))
    assert not torch.equal(encode(model, batch).fused[0], shown.fused[0]), "unmasked it would have been read"


def test_masking_a_position_of_one_date_leaves_all_other_positions_as_they_were(model, batch):
    """At fusion: the position's own answer changes, and where all of its dates are masked it does not count at all."""
    with torch.no_grad():
        tokens = model.tokens(batch)
        before, counted = model.fuse(tokens)
        for dates in (slice(0, 1), slice(None)):
            some = {}
            for name, t in tokens.items():
                valid = t.valid.clone()
                valid[:, dates, POSITION] = False
                some[name] = Tokens(t.values, valid, t.day)
            after, still = model.fuse(some)
            others = torch.arange(SIDE * SIDE) != POSITION
            torch.testing.assert_close(after[:, others], before[:, others], rtol=0, atol=1e-6)
            assert (after[0, POSITION] - before[0, POSITION]).abs().max() > 1e-3
            assert torch.equal(still[:, others], counted[:, others])
    assert not still[:, POSITION].any()


def test_a_masked_date_is_a_date_that_was_never_there(model, batch):
    hidden = masked(batch, "s2", slice(1, 2), slice(None), slice(None))
    left = torch.tensor([0, 2])
    s2 = batch.series["s2"]
    kept = dataclasses.replace(s2, values=s2.values[:, left], valid=s2.valid[:, left], day=s2.day[:, left])
    without = encode(model, dataclasses.replace(batch, series={**batch.series, "s2": kept}))
    before, after = encode(model, batch), encode(model, hidden)
    torch.testing.assert_close(after.fused, without.fused, rtol=0, atol=1e-6)
    torch.testing.assert_close(after.pooled, without.pooled, rtol=0, atol=1e-6)
    for name in ALL:
        dates = left if name == "s2" else slice(None)
        assert torch.equal(after.tokens[name].valid[:, dates], before.tokens[name].valid[:, dates])
        torch.testing.assert_close(
            after.tokens[name].values[:, dates], before.tokens[name].values[:, dates], rtol=0, atol=1e-6
        )
    assert (after.fused - before.fused).abs().max() > 1e-3, "the date counted while it was there"


def test_a_place_counts_alone_as_it_does_in_a_batch(model, batch):
    alone = encode(model, random_batch([random_sample(1, ("s2",), crop_px=SIDE)], crop_px=SIDE))
    torch.testing.assert_close(alone.fused[0], encode(model, batch).fused[1], rtol=0, atol=1e-6)
