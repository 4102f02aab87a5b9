"""High-resolution imagery: tiles agree with the whole, colours with Sentinel-2, boxes with what is drawn."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from skyframe.calendar import date_of
from skyframe.data.cube import open_cube
from skyframe.data.read import read_series, read_table
from skyframe.data.synthetic.highres import image_day, tile
from skyframe.data.synthetic.world import CLIMATES, HR_PIXEL_M, HR_TILE_M, Frame, World
from skyframe.spec import Window

TOWN = Frame(15360.0, 7680.0, HR_PIXEL_M, 512, 512)
"""In the world below: houses, streets and gardens."""
WORLD = World(3, "continental")


@pytest.fixture(scope="module")
def town() -> tuple[NDArray[np.uint8], dict[str, NDArray[np.generic]]]:
    image, boxes = tile(WORLD, TOWN, 2021)
    assert image is not None
    return image, boxes


def test_tiles_equal_the_whole(town: tuple[NDArray[np.uint8], dict[str, NDArray[np.generic]]]) -> None:
    whole, boxes = town
    count = 0
    for row in (0, 256):
        for column in (0, 256):
            corner = TOWN.y_m + row * HR_PIXEL_M, TOWN.x_m + column * HR_PIXEL_M
            part, inside = tile(WORLD, Frame(*corner, HR_PIXEL_M, 256, 256), 2021)
            np.testing.assert_array_equal(part, whole[:, row : row + 256, column : column + 256])
            count += len(inside["class"])
    assert count == len(boxes["class"])


def test_boxes_without_drawing_are_the_same(town: tuple[NDArray[np.uint8], dict[str, NDArray[np.generic]]]) -> None:
    nothing, boxes = tile(WORLD, TOWN, 2021, draw=False)
    assert nothing is None
    assert list(boxes) == ["class", "y_m", "x_m", "height_m", "width_m"]
    for name, column in boxes.items():
        np.testing.assert_array_equal(column, town[1][name])


def test_boxes_hold_things_that_differ_from_their_surroundings(
    town: tuple[NDArray[np.uint8], dict[str, NDArray[np.generic]]],
) -> None:
    image, boxes = town
    assert (boxes["class"] == 0).sum() >= 10 and (boxes["class"] == 1).sum() >= 10
    red = image[0].astype(float)
    brighter = []
    for row in np.flatnonzero(boxes["class"] == 0):
        y = (float(boxes["y_m"][row] + boxes["height_m"][row] / 2) - TOWN.y_m) / HR_PIXEL_M
        x = (float(boxes["x_m"][row] + boxes["width_m"][row] / 2) - TOWN.x_m) / HR_PIXEL_M
        core = red[int(y) - 4 : int(y) + 4, int(x) - 4 : int(x) + 4]
        if core.shape == (8, 8):
            brighter.append(core.mean() > np.median(red))
    assert np.mean(brighter) > 0.7  # the rest are roofs of slate


def test_the_survey_is_in_june_of_every_year_and_differs_between_worlds() -> None:
    days = [image_day(World(seed, climate), 2022) for seed in range(4) for climate in CLIMATES]
    assert {(date_of(day).year, date_of(day).month) for day in days} == {(2022, 6)}
    assert len(set(days)) > 2


def test_imagery_averaged_over_a_pixel_agrees_with_sentinel_2(earth_with_imagery: Path) -> None:
    cube = open_cube(earth_with_imagery)
    row, column = np.argwhere(cube.manifest.arrays["hr/values"].coverage)[0] * HR_TILE_M
    window = Window(cube.name, float(row), float(column), HR_TILE_M)
    series = read_series(cube, window, names=["hr", "s2"])
    hr, s2 = series["hr"], series["s2"]
    mean = hr.values[0].reshape(3, 64, 32, 64, 32).astype(np.float64).mean(axis=(2, 4))
    clear = s2.valid.mean(axis=(1, 2)) > 0.95
    near = np.flatnonzero(clear)[np.argmin(np.abs(s2.day[clear] - hr.day[0]))]
    assert abs(int(s2.day[near]) - int(hr.day[0])) < 40
    for band, colour in ((2, 0), (1, 1), (0, 2)):
        seen = s2.values[near, band].astype(np.float64)
        assert np.corrcoef(seen.ravel(), mean[colour].ravel())[0, 1] > 0.6, ("red", "green", "blue")[colour]


def test_imagery_covers_its_share_and_no_more(earth_with_imagery: Path) -> None:
    cube = open_cube(earth_with_imagery)
    assert cube.manifest.arrays["hr/values"].coverage.mean() == 0.5
    boxes = read_table(cube, "boxes")
    assert boxes["y_m"].min() >= 0.0 and boxes["x_m"].min() >= 0.0
    covered = [cube.covers("hr", Window(cube.name, y, x, HR_TILE_M)) for y in (0.0, 640.0) for x in (0.0, 640.0)]
    places = np.floor(np.stack([boxes["y_m"] + boxes["height_m"] / 2, boxes["x_m"] + boxes["width_m"] / 2]) / HR_TILE_M)
    assert sum(covered) == 2
    assert all(covered[int(2 * y + x)] for y, x in places.T)
