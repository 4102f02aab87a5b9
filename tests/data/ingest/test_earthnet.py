"""No real mini-cube is kept with the project: these files are made in the layout of EarthNet2021x."""

import numpy as np
import pytest

from skyframe.data.cube import open_cube
from skyframe.data.ingest import ingest
from skyframe.data.read import read_flags, read_label, read_series
from skyframe.geography import place_of
from skyframe.spec import InputError, Window
from tests.data.ingest.arrays import minicube, write_minicube

WINDOW = Window("", 0.0, 0.0, 120.0)


@pytest.fixture
def cube(tmp_path):
    return open_cube(ingest("earthnet", write_minicube(tmp_path / "a.nc"), tmp_path / "a.zarr"))


def test_acquisitions_weather_and_land_cover_by_hand(cube):
    assert cube.days("s2").tolist() == [6638, 6643]  # 5 and 10 March 2018: the days that have pixels
    assert len(cube.days("weather")) == 12 and cube.days("weather")[0] == 6634
    series = read_series(cube, WINDOW)
    assert series["s2"].values.shape == (2, 4, 6, 6)
    assert series["s2"].values[:, :, 3, 3].tolist() == [[1000] * 4, [2000] * 4]
    assert series["weather"].values[0, :, 0, 0] == pytest.approx([8.5, 2.0, 8.64])  # 100 W per m2 are 8.64 MJ a day
    assert series["terrain"].values[0, 0, 1, 0] == 6.0
    cover = read_label(cube, "land_cover", WINDOW)
    assert cover[0, :3].tolist() == [1, 11, 4]  # trees, moss and lichen, cropland


def test_flags_follow_mask_and_scene_class(cube):
    flags = read_flags(cube, "s2", (0, 6, 0, 6))
    assert flags[0, 0].tolist() == [1, 2, 2, 3, 1, 1]  # clear, thick cloud, thin cloud, shadow
    assert flags[1, 1].tolist() == [3, 2, 2, 1, 1, 1]  # scene classes 3 shadow, 9 cloud, 11 snow
    assert (flags == 1).sum() == 2 * 36 - 6


def test_the_older_mask_and_the_place(tmp_path):
    data = minicube(mask="s2_mask")
    path = ingest("earthnet", write_minicube(tmp_path / "b.nc", data), tmp_path / "b.zarr")
    cube = open_cube(path)
    assert read_flags(cube, "s2", (0, 6, 0, 6))[0, 0].tolist() == [1, 2, 3, 2, 1, 1]  # clear, cloud, shadow, snow
    assert cube.grid.crs == "EPSG:32632" and cube.grid.width_m == 120.0
    middle = float(data.lat.mean()), float(data.lon.mean())
    assert place_of(cube.grid, 60.0, 60.0) == pytest.approx(middle, abs=1e-7)
    corner = place_of(cube.grid, 10.0, 10.0)
    assert corner == pytest.approx((float(data.lat[0]), float(data.lon[0])), abs=2e-5)  # about 2 m


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"s2_SCL": None}, "no s2_SCL, expected an EarthNet mini-cube"),
        ({"s2_B8A": None}, "s2: no variable s2_B8A, found"),
        ({"s2_dlmask": None}, "s2: no variable s2_dlmask, found"),
        ({"eobs_qq": None}, "weather: no variable eobs_qq"),
        ({"cop_dem": None}, "terrain: no variable cop_dem"),
        ({"esawc_lc": (("lat", "lon"), np.full((6, 6), 7.0))}, "esawc_lc holds 7, expected WorldCover's 10, 20"),
        ({"s2_dlmask": (("time", "lat", "lon"), np.full((12, 6, 6), 9.0))}, "s2_dlmask holds 9, expected 0, 1, 2, 3"),
    ],
)
def test_files_in_another_layout(tmp_path, changes, sentence):
    path = write_minicube(tmp_path / "a.nc", minicube(**changes))
    with pytest.raises(InputError, match=sentence):
        ingest("earthnet", path, tmp_path / "a.zarr")
    assert not list(tmp_path.glob("a.zarr*"))


def test_no_acquisition_wrong_gsd_and_the_npz_release(tmp_path):
    empty = minicube()
    for band in ("B02", "B03", "B04", "B8A"):
        empty[f"s2_{band}"] = empty[f"s2_{band}"] * np.nan
    with pytest.raises(InputError, match="s2 has no data on any of 12 days"):
        ingest("earthnet", write_minicube(tmp_path / "a.nc", empty), tmp_path / "a.zarr")
    wide = minicube()
    with pytest.raises(InputError, match="latitude steps by about 30 m, expected 20 m"):
        stretched = wide.assign_coords(lat=50.0 - 1.5 * (50.0 - wide.lat))
        ingest("earthnet", write_minicube(tmp_path / "b.nc", stretched), tmp_path / "a.zarr")
    with pytest.raises(InputError, match=r"older .npz files have no coordinates"):
        ingest("earthnet", tmp_path / "29SND_2017.npz", tmp_path / "a.zarr")


def test_percent_for_reflectance_is_refused(tmp_path):
    data = minicube()
    for band in ("B02", "B03", "B04", "B8A"):
        data[f"s2_{band}"] = data[f"s2_{band}"] * 100
    with pytest.raises(InputError, match=r"s2: holds 20 reflectance, expected what uint16 holds"):
        ingest("earthnet", write_minicube(tmp_path / "a.nc", data), tmp_path / "a.zarr")
