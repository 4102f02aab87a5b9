"""Cubes of the simulated Earth: deterministic, seamless, physically ordered, with errors that say what to do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skyframe.data.cube import CLOUD, SHADOW, Cube, open_cube
from skyframe.data.read import read_flags, read_label, read_series
from skyframe.data.synthetic import simulate as module
from skyframe.data.synthetic.landscape import CROP, LAND_COVER, TOWN, WATER
from skyframe.data.synthetic.overview import draw_overview
from skyframe.data.synthetic.simulate import NO_CROP, hr_tiles, simulate
from skyframe.sample import Series
from skyframe.spec import InputError, Window


@pytest.fixture(scope="module")
def cube(earth_with_imagery: Path) -> Cube:
    return open_cube(earth_with_imagery)


@pytest.fixture(scope="module")
def window(cube: Cube) -> Window:
    return Window(cube.name, 0.0, 0.0, 1280.0)


@pytest.fixture(scope="module")
def series(cube: Cube, window: Window) -> dict[str, Series]:
    return read_series(cube, window, names=["s2", "s1", "terrain"])


def ndvi(s2: Series) -> NDArray[np.float32]:
    red, infrared = s2.values[:, 2].astype(np.float32), s2.values[:, 6].astype(np.float32)
    return np.where(s2.valid, (infrared - red) / (infrared + red), np.nan).astype(np.float32)


def at(s2: Series, first: int, last: int) -> NDArray[np.bool_]:
    """Dates between two days of the year 2021 that are clear enough."""
    doy = s2.day - 7671
    return (doy >= first) & (doy <= last) & (s2.valid.mean(axis=(1, 2)) > 0.8)


def test_the_same_arguments_give_the_same_bytes_by_any_number_of_processes(tmp_path: Path) -> None:
    files = []
    for workers in (1, 2):
        path = simulate(
            tmp_path / f"w{workers}" / "cube", width_m=2570, height_m=640, seed=9, climate="oceanic", hr_share=0.5,
            workers=workers,
        )  # fmt: skip
        parts = sorted(file for file in path.rglob("*") if file.is_file())
        files.append({str(file.relative_to(path)): file.read_bytes() for file in parts})
    assert files[0] == files[1]
    assert sum(name.startswith("hr/values/c") for name in files[0]) == 2


def test_touching_cubes_continue_each_other_and_blocks_do_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_cube(simulate(tmp_path / "w", width_m=640, height_m=640, seed=3, climate="continental", hr_share=0.0))
    half = open_cube(
        simulate(
            tmp_path / "e",
            width_m=320,
            height_m=640,
            seed=3,
            climate="continental",
            hr_share=0.0,
            origin_m=(0.0, 320.0),
        )
    )
    for name in ("s2", "s1", "terrain"):
        east = read_series(whole, Window("w", 0.0, 320.0, 320.0), names=[name])[name]
        part = read_series(half, Window("e", 0.0, 0.0, 320.0), names=[name])[name]
        np.testing.assert_array_equal(part.values, east.values, err_msg=name)
        np.testing.assert_array_equal(part.valid, east.valid, err_msg=name)
    for name in ("land_cover", "crop_type", "parcel", "soil_moisture"):
        east_label = read_label(whole, name, Window("w", 0.0, 320.0, 320.0))
        np.testing.assert_array_equal(read_label(half, name, Window("e", 0.0, 0.0, 320.0)), east_label, err_msg=name)


def test_water_is_dark_and_crops_are_green_in_their_season(
    cube: Cube, window: Window, series: dict[str, Series]
) -> None:
    s2, cover, crop = series["s2"], read_label(cube, "land_cover", window), read_label(cube, "crop_type", window)
    june = at(s2, 150, 190)
    infrared = np.where(s2.valid, s2.values[:, 6] * 1e-4, np.nan)[june]
    assert np.nanmedian(infrared[:, cover == WATER]) < 0.06 < 0.2 < np.nanmedian(infrared[:, cover == CROP])
    index = ndvi(s2)
    names = cube.spec.labels["crop_type"].classes
    april, september = at(s2, 100, 125), at(s2, 250, 275)
    maize, rape = (crop == names.index(name) for name in ("maize", "rapeseed"))
    assert np.nanmedian(index[april][:, rape]) > np.nanmedian(index[april][:, maize]) + 0.3
    assert np.nanmedian(index[september][:, maize]) < 0.75 and np.nanmedian(index[at(s2, 170, 195)][:, maize]) > 0.55


def test_reflectance_and_backscatter_stay_in_their_ranges(series: dict[str, Series]) -> None:
    s2, s1 = series["s2"], series["s1"]
    clear = s2.values.transpose(0, 2, 3, 1)[s2.valid]
    assert clear.min() >= 1 and np.quantile(clear, 0.999) < 11_000
    assert s1.valid.all()
    assert s1.values.min() > -4500 and s1.values.max() < 1500
    assert np.mean(s1.values[:, 1] < s1.values[:, 0]) > 0.97  # VH below VV


def test_water_is_dark_and_towns_are_bright_in_radar(cube: Cube, window: Window, series: dict[str, Series]) -> None:
    cover = read_label(cube, "land_cover", window)
    vv = np.median(series["s1"].values[:, 0] * 0.01, axis=0)
    assert np.median(vv[cover == WATER]) < -16.0
    assert np.median(vv[cover == WATER]) + 4.0 < np.median(vv[cover == CROP]) < vv[cover == TOWN].mean() - 2.0


def test_clouds_are_flagged_and_bright_shadows_dark(cube: Cube, window: Window, series: dict[str, Series]) -> None:
    flags, blue = read_flags(cube, "s2", cube.pixel_box("s2", window)), series["s2"].values[:, 0]
    cloudy = (flags == CLOUD).mean(axis=(1, 2))
    assert 0.2 < cloudy.mean() < 0.8 and cloudy.max() > 0.99 and cloudy.min() == 0.0
    assert np.median(blue[flags == CLOUD]) > 4 * np.median(blue[flags == 1])
    infrared = series["s2"].values[:, 6]
    darker = [
        np.median(infrared[t][flags[t] == SHADOW]) < np.median(infrared[t][flags[t] == 1])
        for t in range(len(flags))
        if min((flags[t] == SHADOW).sum(), (flags[t] == 1).sum()) > 500
    ]
    assert len(darker) >= 2 and np.mean(darker) > 0.7


def test_labels_are_whole_and_balanced(cube: Cube, window: Window) -> None:
    cover, crop = read_label(cube, "land_cover", window), read_label(cube, "crop_type", window)
    assert set(np.unique(cover)) <= set(range(len(LAND_COVER)))
    np.testing.assert_array_equal(crop == NO_CROP, cover != CROP)
    share = np.bincount(crop[crop != NO_CROP], minlength=8) / (crop != NO_CROP).sum()
    assert share.max() < 0.4 and (share > 0).sum() >= 6
    moisture = read_label(cube, "soil_moisture", window)
    assert moisture.min() >= 0.07 and moisture.max() <= 0.38
    assert np.unique(read_label(cube, "parcel", window)).size > 30


def test_the_climates_show_in_the_pictures(cube: Cube, series: dict[str, Series], tmp_path: Path) -> None:
    other = open_cube(simulate(tmp_path / "o", width_m=640, height_m=640, seed=3, climate="oceanic", hr_share=0.0))
    assert (other.grid.crs, cube.grid.crs) == ("EPSG:32631", "EPSG:32634")
    days, here = set(other.days("s2").tolist()), set(cube.days("s2").tolist())
    assert days != here
    flags = read_flags(other, "s2", other.pixel_box("s2", Window("o", 0.0, 0.0, 640.0)))
    assert (flags == 1).mean() < series["s2"].valid.mean()  # the oceanic sky is cloudier


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.01, 1), (0.1, 3), (0.5, 13), (1.0, 25)])
def test_imagery_takes_its_share_of_whole_tiles(share: float, count: int) -> None:
    job = module.Job(Path("x"), module.World(1, "oceanic"), (0.0, 0.0), 3200.0, 3300.0, (2021,), share)
    tiles = hr_tiles(job)
    assert len(tiles) == len(set(tiles)) == count
    assert all(y % 64 == 0 and x % 64 == 0 and max(y, x) < 320 for y, x in tiles)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"climate": "oceanik"}, "simulate: climate 'oceanik' is not one of oceanic, continental"),
        ({"width_m": 645.0}, r"simulate: width_m is 645 m, expected a multiple of 10 m \(one pixel\)"),
        ({"origin_m": (0.0, 3.0)}, r"simulate: origin_m x is 3 m, expected a multiple of 10 m \(one pixel\)"),
        ({"height_m": 0.0}, "simulate: extent is 640 x 0 m, expected at least 10 m a side"),
        ({"origin_m": (0.0, 9e5)}, "lies outside the UTM zone, expected at most 250000 m from 0"),
        ({"num_years": 0}, "simulate: num_years is 0, expected at least 1"),
        ({"hr_share": 1.5}, "simulate: hr_share is 1.5, expected a share between 0 and 1"),
    ],
)
def test_bad_arguments_say_what_was_expected(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    good: dict[str, Any] = {"width_m": 640.0, "height_m": 640.0, "seed": 1, "climate": "oceanic"}
    with pytest.raises(InputError, match=sentence):
        simulate(tmp_path / "x", **{**good, **change})
    assert not list(tmp_path.iterdir())


def test_an_existing_path_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match="already exists"):
        simulate(tmp_path / "x", width_m=640, height_m=640, seed=1, climate="oceanic")
    assert not list((tmp_path / "x").iterdir())


def test_the_overview_is_drawn_and_asks_for_imagery(cube: Cube, tmp_path: Path) -> None:
    from PIL import Image

    with Image.open(draw_overview(cube, tmp_path / "o.png")) as picture:
        assert picture.width > 800 and picture.height > 600
    bare = open_cube(simulate(tmp_path / "b", width_m=640, height_m=640, seed=1, climate="oceanic", hr_share=0.0))
    with pytest.raises(InputError, match="lacks hr, expected a cube of `skyframe simulate` with imagery"):
        draw_overview(bare, tmp_path / "p.png")
    assert not (tmp_path / "p.png").exists()
