"""The land: the same place is the same in every frame, and no use or crop takes it all."""

import numpy as np
import pytest

from skyframe.data.synthetic.crops import CROP_TYPES, crop_of
from skyframe.data.synthetic.landscape import CROP, LAND_COVER, WATER, cover, land
from skyframe.data.synthetic.noise import fractal, hashed, uniform, value_noise, value_noise_at, white
from skyframe.data.synthetic.world import CLIMATES, ClimateName, Frame, World


@pytest.mark.parametrize("climate", CLIMATES)
def test_parts_of_a_frame_equal_the_whole(climate: ClimateName) -> None:
    world, whole = World(3, climate), Frame(-640.0, 2560.0, 10.0, 96, 96)
    ground = land(world, whole)
    shares = cover(world, ground)
    for row, column in ((0, 0), (17, 40), (32, 32)):
        part = land(world, Frame(whole.y_m + 10 * row, whole.x_m + 10 * column, 10.0, 48, 56))
        box = np.s_[row : row + 48, column : column + 56]
        np.testing.assert_array_equal(part.units.hashes[part.unit], ground.units.hashes[ground.unit][box])
        np.testing.assert_array_equal(part.kind, ground.kind[box])
        for name in ("edge_m", "tract_edge_m", "street_m", "road_m"):
            np.testing.assert_array_equal(getattr(part, name), getattr(ground, name)[box], err_msg=name)
        for name, values in vars(cover(world, part)).items():
            np.testing.assert_array_equal(values, getattr(shares, name)[box], err_msg=name)


@pytest.mark.parametrize("climate", CLIMATES)
def test_land_is_varied(climate: ClimateName) -> None:
    ground = land(World(3, climate), Frame(0.0, 0.0, 40.0, 512, 512))
    share = np.bincount(ground.kind.ravel(), minlength=len(LAND_COVER)) / ground.kind.size
    assert 0.3 < share[CROP] < 0.75
    assert 0.003 < share[WATER] < 0.1
    assert (share > 0.002).all(), dict(zip(LAND_COVER, share.round(4), strict=True))
    slope = ground.terrain.slope_deg
    assert slope.min() >= 0.0 and np.median(slope) < 6.0
    assert ground.terrain.elevation_m.min() > 0.0 and ground.terrain.elevation_m.max() < 500.0


def test_shares_of_a_pixel_never_exceed_it() -> None:
    world = World(3, "continental")
    shares = cover(world, land(world, Frame(15360.0, 7680.0, 10.0, 128, 128)))
    total = shares.asphalt + shares.roof + shares.gravel + shares.water + shares.tree
    assert total.max() < 1.001 and min(v.min() for v in (shares.asphalt, shares.roof, shares.tree)) > -1e-6


@pytest.mark.parametrize("climate", CLIMATES)
def test_crops_are_balanced_and_rotate(climate: ClimateName) -> None:
    world = World(3, climate)
    fields = hashed(77, np.arange(20_000))
    now, before = crop_of(world, fields, 2022), crop_of(world, fields, 2021)
    share = np.bincount(now, minlength=len(CROP_TYPES)) / len(now)
    assert share.min() > 0.08 and share.max() < 0.17
    assert (now == before).mean() < 0.15  # the rotation moves on; one in eight of those who leave it repeats


def test_noise_is_a_function_of_the_place() -> None:
    y, x = (np.arange(40) - 7 + 0.5) * 10.0, (np.arange(50) + 3 + 0.5) * 10.0
    whole = value_noise(5, y, x, 130.0)
    np.testing.assert_array_equal(value_noise(5, y[9:20], x[11:], 130.0), whole[9:20, 11:])
    points = value_noise_at(5, *(g.ravel() for g in np.meshgrid(y, x, indexing="ij")), 130.0)
    np.testing.assert_allclose(points.reshape(whole.shape), whole, atol=2e-6)
    assert np.abs(whole).max() <= np.sqrt(3.0) + 1e-6
    smooth = fractal(5, np.arange(400) * 10.0, np.arange(400) * 10.0, 100.0, 4)
    assert abs(float(smooth.mean())) < 0.1 and 0.8 < float(smooth.std()) < 1.2


def test_hashed_numbers_are_uniform_and_independent() -> None:
    draws = uniform(hashed(1, np.arange(100_000)))
    assert draws.min() >= 0.0 and draws.max() < 1.0 and abs(float(draws.mean()) - 0.5) < 0.005
    other = uniform(hashed(1, np.arange(100_000)), "other")
    assert abs(np.corrcoef(draws, other)[0, 1]) < 0.01


def test_white_noise_is_cut_from_one_plane() -> None:
    keys = np.array([4, 9], np.uint64)
    whole = white(keys, -5, 100, 30, 200)
    np.testing.assert_array_equal(white(keys, 3, 150, 10, 60), whole[:, 8:18, 50:110])
    speckle = white(keys, 0, 0, 200, 500, looks=4.0)
    assert abs(float(speckle.mean()) - 1.0) < 0.02 and abs(float(speckle.var()) - 0.25) < 0.02
    with pytest.raises(ValueError, match="width 5000 exceeds 4096 pixels; cut it in blocks"):
        white(keys, 0, 0, 1, 5000)
