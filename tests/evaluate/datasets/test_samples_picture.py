"""Contact sheets: of every kind of data set, with the colours and dates that a person expects."""

import numpy as np
import pytest
from PIL import Image

from skyframe.evaluate.datasets.colours import mask_colours, stretch
from skyframe.evaluate.datasets.imagery import rgb, sentinel1, sentinel2, series_of
from skyframe.evaluate.datasets.samples_picture import _panels, draw_samples, look_of
from tests.evaluate.toy_sets import TARGETS, point_series, radar_series, toy


@pytest.mark.parametrize("make", [*(lambda k=k: toy(k) for k in TARGETS), point_series, radar_series])
def test_a_sheet_of_every_kind(make, tmp_path):
    dataset = make()
    path = draw_samples(dataset, dataset.items[:1], tmp_path / "new" / "a.png")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 200 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_panels_are_a_few_clear_dates_then_masks():
    dataset = radar_series()
    sample = dataset.read(dataset.items[0])
    assert _panels(dataset, sample) == [("s1", 0), ("s1", 1), ("s1", 2), ("s1", 4), ("mask", 0)]
    sample.series["s1"].valid[[0, 2]] = False
    assert _panels(dataset, sample)[:3] == [("s1", 1), ("s1", 3), ("s1", 4)]
    series = point_series()
    assert _panels(series, series.read(series.items[0])) == [("s2", -1), ("s1", -1)]


def test_pictures_for_the_eye_stay_as_they_are_and_reflectance_is_stretched():
    values = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    assert (look_of(series_of(values), rgb(1.0), 0) == np.moveaxis(values, 0, -1)).all()
    bgr = look_of(series_of(values), rgb(1.0, ("blue", "green", "red")), 0)
    assert bgr[0, 0].tolist() == [8, 4, 0]
    s2 = np.stack([np.linspace(100, 300, 4).reshape(2, 2)] * 4).astype(np.uint16)
    look = look_of(
        series_of(s2, valid=np.array([[[True, True], [True, False]]])), sentinel2(("B02", "B03", "B04", "B08")), 0
    )
    assert look[0, 0].tolist() == [0, 0, 0] and look[1, 0].tolist() == [255] * 3 and look[1, 1].tolist() == [128] * 3


def test_radar_in_any_units_has_one_look():
    db = np.random.default_rng(0).normal(-12, 3, (2, 6, 6)).astype(np.float32)
    first = look_of(series_of(db), sentinel1(), 0)
    second = look_of(series_of(10 ** (db / 10)), sentinel1(units="linear power"), 0)
    assert abs(first.astype(int) - second).max() <= 1
    assert (
        look_of(series_of(np.zeros((2, 3, 3), np.float32)), sentinel1(units="linear power"), 0).tolist()
        == [[[128] * 3] * 3] * 3
    )


def test_masks_and_unknown_pixels():
    colours = mask_colours(np.array([[0, 1], [-1, 0]]), ["water", "forest"])
    assert colours[0, 0].tolist() == [66, 135, 205] and colours[1, 0].tolist() == [215] * 3
    assert (colours[0, 0] == colours[1, 1]).all()
    assert stretch(np.full((2, 2, 1), np.nan)).tolist() == [[[128] * 3] * 2] * 2
