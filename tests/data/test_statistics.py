import numpy as np
import pytest

from skyframe.data.cube import open_cube
from skyframe.data.statistics import KEPT_PIXELS, QUANTILES, measure
from skyframe.data.statistics_report import draw_statistics, statistics_table
from skyframe.data.write import CubeWriter
from skyframe.spec import Band, CubeSpec, Grid, InputError, Modality
from tests.data.cubes import tiny_cube, tiny_spec, tiny_values, write_modality


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    return tiny_cube(tmp_path_factory.mktemp("stats") / "tiny.zarr")


def test_all_of_a_small_cube_by_hand(cube):
    found = measure([cube], tiny_spec(), samples=10_000)
    values, flags = tiny_values("s2")
    assert found["s2"].clear == pytest.approx((flags == 1).mean())
    assert found["s2"].nodata == pytest.approx((flags == 0).mean())
    assert found["s2"].num_pixels == (flags == 1).sum()
    for number, band in enumerate(found["s2"].bands):
        own = values[:, number][flags == 1] * 1e-4
        quantiles = np.quantile(own, QUANTILES)
        clipped = np.clip(own, quantiles[0], quantiles[-1])
        assert band.quantiles == pytest.approx(tuple(quantiles), rel=1e-5)
        assert (band.mean, band.std) == pytest.approx((clipped.mean(), clipped.std()), rel=1e-5)
        assert (band.low, band.high) == pytest.approx((own.min(), own.max()))
        assert band.at_high == pytest.approx((own == own.max()).mean())
    assert list(found) == ["s2", "s1", "hr", "weather"]
    assert found["weather"].bands[0].mean == pytest.approx(10.0, abs=0.6)  # drawn from a normal distribution


def test_a_sample_is_the_same_for_any_number_of_threads_and_near_the_whole(cube):
    one, three = (measure([cube], tiny_spec(), samples=40, seed=7, threads=n) for n in (1, 3))
    for name in one:
        assert [b.mean for b in one[name].bands] == [b.mean for b in three[name].bands]
        assert np.array_equal(one[name].bands[0].values, three[name].bands[0].values)
    other = measure([cube], tiny_spec(), samples=2, seed=8)
    assert other["hr"].bands[0].mean != measure([cube], tiny_spec(), samples=2, seed=9)["hr"].bands[0].mean
    whole = measure([cube], tiny_spec(), samples=10_000)
    assert one["s1"].bands[0].mean == pytest.approx(whole["s1"].bands[0].mean, abs=0.1)


def test_units_are_read_once_each_with_progress(cube):
    seen = []
    measure([cube], tiny_spec(), samples=10_000, progress=lambda done, total: seen.append((done, total)))
    # s2 70 x 64 px: 2 chunks x 2 groups of 4 dates; s1 2 x 1; hr 560 x 512 px: 3 x 2 chunks; weather one
    assert seen == [(i + 1, 4 + 2 + 6 + 1) for i in range(13)]


def test_every_shard_is_drawn_from_and_pixels_kept_are_bounded(tmp_path):
    """Two shards, one dark and one bright: half the sample lies in each."""
    modality = Modality("s2", "series", (Band("B04"),), 10.0, "reflectance", "uint16", scale=1e-4)
    spec = CubeSpec("two", "two shards", {"s2": modality})
    writer = CubeWriter(tmp_path / "two.zarr", spec, Grid("EPSG:32631", 0.0, 0.0, 5120.0, 2560.0), {})
    values = np.full((20, 1, 256, 512), 1000, np.uint16)
    values[..., 256:] = 3000
    write_modality(writer, "s2", np.arange(20, dtype=np.int32), values, np.ones((20, 256, 512), np.uint8))
    found = measure([open_cube(writer.finish())], spec, samples=40)["s2"]
    assert found.num_pixels == 40 * 4 * 64 * 64
    assert found.bands[0].mean == pytest.approx(0.2, abs=0.002)
    assert abs(len(found.bands[0].values) - KEPT_PIXELS) < 0.02 * KEPT_PIXELS


def test_several_cubes_and_a_band_that_one_lacks(cube, tmp_path):
    other = tiny_cube(tmp_path / "other.zarr", seed=1, names=("s1",))
    both = measure([cube, other], tiny_spec(), samples=10_000)
    one, two = ((tiny_values("s1", seed)[1] == 1).sum() for seed in (0, 1))
    assert both["s1"].num_pixels == one + two and both["hr"].num_pixels == (tiny_values("hr")[1] == 1).sum()
    more = tiny_spec().modalities["s1"]
    wider = CubeSpec("w", "", {"s1": Modality("s1", "series", (*more.bands, Band("HH")), 10.0, "dB", "int16", 0.01)})
    assert [b.name for b in measure([cube], wider)["s1"].bands] == ["VV", "VH"]


def test_refusals(cube):
    with pytest.raises(InputError, match="--samples 0, expected at least 1"):
        measure([cube], tiny_spec(), samples=0)
    linear = CubeSpec("l", "", {"s1": Modality("s1", "series", (Band("VV"),), 10.0, "power", "int16", 0.01)})
    with pytest.raises(InputError, match="s1 has units 'dB', the spec expects 'power'"):
        measure([cube], linear)
    absent = CubeSpec("a", "", {"thermal": Modality("thermal", "series", (Band("T"),), 10.0, "K", "uint16")})
    with pytest.raises(InputError, match="no clear pixel of thermal in tiny"):
        measure([cube], absent)


def test_table_and_picture(cube, tmp_path):
    found = measure([cube], tiny_spec())
    table = statistics_table(CubeSpec.load("simulated_earth"), {"s1": found["s1"]})
    cells = [list(column.cells) for column in table.columns]
    assert cells[1] == ["VV", "VH"] and cells[0] == ["s1 (dB)", ""]
    assert "(-11.61)" in cells[3][0] and "(3.36)" in cells[4][1]
    path = draw_statistics(tiny_spec(), found, tmp_path / "a.png")
    assert path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 20_000
