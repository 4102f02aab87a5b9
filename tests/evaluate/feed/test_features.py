import dataclasses

import numpy as np
import pytest
import torch

from skyframe.evaluate.feed.features import Inputs, choose_positions, extract, feature_spread, input_digest, watched
from skyframe.evaluate.protocol import Subject
from skyframe.sample import Features, Layout, Sample, Series
from skyframe.spec import InputError
from tests.evaluate.worlds import SeasonEncoder, contract, world_spec

SIDE = 4


def inputs(num=5, row=None, seed=0):
    rng = np.random.default_rng(seed)
    spec = world_spec()
    samples = []
    for i in range(num):
        values = rng.integers(0, 3000, (2, 4, SIDE, SIDE)).astype(np.uint16)
        series = Series(values, np.ones((2, SIDE, SIDE), bool), np.array([8000, 8100], np.int32), np.ones(4, bool))
        samples.append(Sample({"s2": series}, np.zeros(2), -1, index=i))
    row = np.arange(num) if row is None else np.array(row)
    count = row.max() + 1
    layouts = {n: Layout(2, len(m.bands), SIDE, m.dtype) for n, m in spec.modalities.items()}
    positions = choose_positions(num, SIDE**2, 3, 0)
    parts = np.zeros(count, np.int64)
    return Inputs(samples, layouts, row, parts, np.arange(count), positions, {}, {}, "test", "n", "split", SIDE)


def test_pooled_and_position_features_are_the_encoders(tmp_path):
    encoder, given = SeasonEncoder(contract()), inputs()
    table = extract(Subject("e", encoder), given, 2, tmp_path, show_progress=False)
    assert (table.mean.shape, table.max.shape, table.pixel.shape) == ((5, 12), (5, 12), (5, 3, 12))
    from skyframe.sample import collate

    with torch.no_grad():
        whole = encoder.encode(collate(given.samples, given.layouts))
    assert np.allclose(table.mean, whole.pooled, atol=1e-5)
    assert np.allclose(table.max, whole.fused.amax(1), atol=1e-5)
    assert np.allclose(table.pixel[1, 2], whole.fused[1, given.positions[1, 2]], atol=1e-5)


def test_second_pass_comes_from_disk_until_weights_or_input_change(tmp_path):
    encoder, given = SeasonEncoder(contract()), inputs()
    first = extract(Subject("e", encoder), given, 2, tmp_path, False)
    calls = encoder.calls
    again = extract(Subject("other name", encoder), given, 4, tmp_path, False)
    assert encoder.calls == calls
    assert (again.pixel == first.pixel).all()
    given.samples[3].series["s2"].valid[0, 0, 0] = False
    extract(Subject("e", encoder), given, 4, tmp_path, False)
    with torch.no_grad():
        encoder.mix += 1
    extract(Subject("e", encoder), given, 4, tmp_path, False)
    assert encoder.calls == calls + 4
    assert len(list(tmp_path.glob("*.npz"))) == 3


def test_a_damaged_cache_file_is_an_error(tmp_path):
    subject, given = Subject("e", SeasonEncoder(contract())), inputs()
    extract(subject, given, 2, tmp_path, False)
    path = next(tmp_path.glob("*.npz"))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"cached features cannot be read .*; delete the file"):
        extract(subject, given, 2, tmp_path, False)


def test_tiles_of_one_row_are_averaged(tmp_path):
    encoder = SeasonEncoder(contract())
    single = extract(Subject("e", encoder), inputs(), 8, tmp_path, False)
    tiled = extract(Subject("e", encoder), inputs(row=[0, 0, 1, 1, 1]), 8, tmp_path, False)
    assert np.allclose(tiled.mean, [single.mean[:2].mean(0), single.mean[2:].mean(0)], atol=1e-6)
    assert np.allclose(tiled.max[1], single.max[2:].mean(0), atol=1e-6)


class Broken:
    def __init__(self, fused):
        self.contract, self.fused = contract(), fused

    def encode(self, batch):
        return Features(self.fused[: batch.size], self.fused[: batch.size].mean(1))


def test_features_that_are_not_finite_or_of_another_grid_are_errors(tmp_path):
    bad = torch.zeros(8, 16, 3)
    bad[2, 5, 0] = float("nan")
    with pytest.raises(InputError, match=r"bad: features of samples 0 to 3 are not finite"):
        extract(Subject("bad", Broken(bad)), inputs(), 4, tmp_path, False)
    with pytest.raises(InputError, match=r"coarse: 4 positions for samples of 4 x 4, expected one per position"):
        extract(Subject("coarse", Broken(torch.zeros(8, 4, 3))), inputs(), 4, tmp_path, False)
    assert not list(tmp_path.glob("*.npz"))


def test_digest_follows_region_and_positions():
    given = inputs()
    moved = dataclasses.replace(given, samples=[dataclasses.replace(given.samples[0], region=2), *given.samples[1:]])
    fewer = dataclasses.replace(given, positions=given.positions[:, :2])
    assert len({input_digest(x) for x in (given, moved, fewer, inputs(seed=1))}) == 4
    assert input_digest(given) == input_digest(inputs())


def test_positions_are_drawn_without_replacement_per_sample():
    chosen = choose_positions(50, 64, 16, seed=3)
    assert chosen.shape == (50, 16)
    assert (np.diff(chosen, axis=1) > 0).all()
    assert len({tuple(r) for r in chosen}) == 50
    assert choose_positions(2, 9, 16, 0).tolist() == [list(range(9))] * 2


def test_spread_is_one_for_even_directions_and_zero_for_collapse():
    rng = np.random.default_rng(0)
    assert feature_spread(rng.normal(size=(4000, 32)).astype(np.float32)) == pytest.approx(1.0, abs=0.02)
    assert feature_spread(np.full((10, 32), 0.3, np.float32)) == pytest.approx(0.0, abs=1e-6)
    assert list(watched([1, 2], "text", False)) == [1, 2]
