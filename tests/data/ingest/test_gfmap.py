import numpy as np
import pytest

from skyframe.data.cube import open_cube
from skyframe.data.ingest import ingest
from skyframe.data.ingest.gfmap import SCENE_CLASS_FLAGS, scene_class_flags
from skyframe.data.read import read_series
from skyframe.spec import InputError, Window
from tests.data.ingest.sources import signed, write_netcdf

S2_DATES, S1_DATES = ("2023-04-02", "2023-04-05"), ("2023-04-03", "2023-04-08", "2023-04-12")


def optical(scene_class=4):
    shape = (2, 3, 4)
    names = {"B01": 400, "B04": 500, "B08": 3000, "B11": 1500, "AOT": 120, "SCL": scene_class}
    return {f"S2-L2A-{name}": signed(np.full(shape, value)) for name, value in names.items()}


def radar():
    return {f"S1-SIGMA0-{band}": signed(np.full((3, 3, 4), value)) for band, value in (("VV", 1413), ("VH", 40000))}


def write_pair(folder, **radar_place):
    s2 = write_netcdf(folder / "s2.nc", optical(), S2_DATES)
    return s2, write_netcdf(folder / "s1.nc", radar(), S1_DATES, **radar_place)


def test_scene_classes_by_hand():
    classes = signed([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]).reshape(12, 1, 1)
    assert scene_class_flags(classes, "a.nc").ravel().tolist() == [0, 0, 3, 3, 1, 1, 1, 1, 2, 2, 2, 1]
    assert scene_class_flags(np.array([[[np.nan, 4.0]]]), "a.nc").tolist() == [[[0, 1]]]
    assert scene_class_flags(signed([[[65535]]]), "a.nc").tolist() == [[[0]]]
    assert sorted(SCENE_CLASS_FLAGS) == list(range(12))
    with pytest.raises(InputError, match=r"a\.nc: scene classes run from 4 to 12, expected Sen2Cor's 0 to 11"):
        scene_class_flags(signed([[[4, 12]]]), "a.nc")


def test_classes_resampled_to_float():
    noisy = np.array([[[3.9999995, 4.0000005, 10.000001, -1e-10]]], np.float32)
    assert scene_class_flags(noisy, "a.nc").tolist() == [[[1, 1, 2, 0]]]
    for fraction in (4.5, 3.99):
        with pytest.raises(InputError, match=rf"a\.nc: S2-L2A-SCL holds {fraction}, expected whole numbers 0 to 11"):
            scene_class_flags(np.array([[[4.0, fraction]]], np.float32), "a.nc")
    with pytest.raises(InputError, match="scene classes run from 0 to inf"):
        scene_class_flags(np.array([[[np.nan, np.inf]]]), "a.nc")


FLOATS = {name: values.astype(np.float32) for name, values in optical().items()}


def test_float_composite_keeps_classes_and_rounds_aerosol(tmp_path):
    variables = dict(FLOATS)
    variables["S2-L2A-SCL"] = np.full((2, 3, 4), 3.9999995, np.float32)
    variables["S2-L2A-AOT"] = np.full((2, 3, 4), 120.75, np.float32)
    variables["S2-L2A-AOT"][1, 0, 0] = variables["S2-L2A-SCL"][1, 0, 0] = np.nan
    s2 = write_netcdf(tmp_path / "s2.nc", variables, S2_DATES)
    s1 = write_netcdf(tmp_path / "s1.nc", radar(), S1_DATES)
    series = read_series(open_cube(ingest("gfmap", [s2, s1], tmp_path / "a.zarr")), Window("", 0, 0, 30))
    for name, value in (("scene_class", 4), ("aerosol", 121)):
        assert np.unique(series[name].values[:, 0][series[name].valid]).tolist() == [value]
        assert np.argwhere(~series[name].valid).tolist() == [[1, 0, 0]]
    assert np.argwhere(~series["s2"].valid).tolist() == [[1, 0, 0]]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("SCL", FLOATS["S2-L2A-SCL"] + 0.5, r"s2\.nc: S2-L2A-SCL holds 4\.5, expected whole numbers"),
        ("AOT", FLOATS["S2-L2A-AOT"] * -1, r"s2\.nc: aerosol: S2-L2A-AOT runs from -120 to -120, .* fit uint16"),
        ("AOT", FLOATS["S2-L2A-AOT"].astype(np.int32), r"s2\.nc: aerosol: holds int32, expected int16 or uint16"),
        ("B04", FLOATS["S2-L2A-B04"].astype(np.int32), "S2-L2A-B01 is float32, S2-L2A-B04 is int32, .* expected one"),
    ],
)
def test_optical_values_that_are_refused(tmp_path, name, values, message):
    s2 = write_netcdf(tmp_path / "s2.nc", FLOATS | {f"S2-L2A-{name}": values}, S2_DATES)
    s1 = write_netcdf(tmp_path / "s1.nc", radar(), S1_DATES)
    with pytest.raises(InputError, match=message):
        ingest("gfmap", [s2, s1], tmp_path / "a.zarr")
    assert not list(tmp_path.glob("*.zarr*"))


@pytest.mark.parametrize("swapped", [False, True])
def test_pair_in_any_order_keeps_each_sensors_dates(tmp_path, swapped):
    pair = write_pair(tmp_path)
    cube = open_cube(ingest("gfmap", pair[::-1] if swapped else pair, tmp_path / "a.zarr"))
    series = read_series(cube, Window("", 0, 0, 30))
    assert series["s2"].day.tolist() == [8492, 8495] and series["s1"].day.tolist() == [8493, 8498, 8502]
    assert series["s1"].values[0, :, 0, 0].tolist() == [-2000, 904]  # 40000 was written as -25536
    assert series["s2"].values[0, :, 0, 0].tolist() == [400, 500, 3000, 1500] and series["s2"].valid.all()
    assert series["aerosol"].values.max() == 120 and series["scene_class"].values.max() == 4
    assert [f["name"] for f in cube.manifest.source["files"]] == ["s1.nc", "s2.nc"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"crs": "EPSG:32632"}, r"s1\.nc has crs EPSG:32632, expected EPSG:32631 as in s2\.nc"),
        ({"shift_m": 10.0}, r"s1\.nc has x0_m 664010\.0, expected 664000\.0 as in s2\.nc"),
    ],
)
def test_pair_of_different_places(tmp_path, place, message):
    pair = write_pair(tmp_path, **place)
    with pytest.raises(InputError, match=message):
        ingest("gfmap", pair, tmp_path / "a.zarr")
    assert not list(tmp_path.glob("*.zarr*"))


def test_files_that_do_not_make_a_pair(tmp_path):
    s2, s1 = write_pair(tmp_path)
    with pytest.raises(InputError, match=r"the spec lists s1 but no file of s1 is among s2\.nc"):
        ingest("gfmap", s2, tmp_path / "a.zarr")
    with pytest.raises(InputError, match=r"s1\.nc and s1\.nc both hold s1"):
        ingest("gfmap", [s1, s1], tmp_path / "a.zarr")
    with pytest.raises(InputError, match="got 3 source files"):
        ingest("gfmap", [s1, s2, s2], tmp_path / "a.zarr")
    stranger = write_netcdf(tmp_path / "ndvi.nc", {"NDVI": np.zeros((2, 3, 4), np.float32)}, S2_DATES)
    with pytest.raises(InputError, match=r"ndvi\.nc: no variable S2-L2A-\* or S1-SIGMA0-\*, found NDVI"):
        ingest("gfmap", [stranger, s1], tmp_path / "a.zarr")


def test_radar_in_another_unit_is_noticed(tmp_path):
    s2 = write_netcdf(tmp_path / "s2.nc", optical(), S2_DATES)
    decibel = {name: signed(np.full((3, 3, 4), 65535 - 1200)) for name in radar()}  # hundredths of dB, not the code
    s1 = write_netcdf(tmp_path / "s1.nc", decibel, S1_DATES)
    with pytest.raises(InputError, match=r"s1: the median is 13\.\d+ dB, expected -35 to 5; check the unit"):
        ingest("gfmap", [s2, s1], tmp_path / "a.zarr")


@pytest.fixture(scope="module")
def real(shared_dir, tmp_path_factory):
    folder = shared_dir / "data/openeo-gfmap"
    paths = [folder / "cdse_sentinel2_l2a.nc", folder / "cdse_sentinel1_grd.nc"]
    cube = open_cube(ingest("gfmap", paths, tmp_path_factory.mktemp("gfmap") / "mol.zarr"))
    return cube, read_series(cube, Window("", 0, 0, 640))


def test_real_dates_are_each_sensors_own(real):
    _, series = real
    s2, s1 = series["s2"].day, series["s1"].day
    assert (len(s2), len(s1)) == (12, 10) and (s2[0], s2[-1], s1[0], s1[-1]) == (8492, 8520, 8493, 8519)
    assert np.intersect1d(s2, s1).tolist() == [8495, 8502, 8505, 8507, 8510, 8517]  # 5, 12, 15, 17, 20, 27 April 2023


def test_real_clouds_and_backscatter(real):
    cube, series = real
    assert (cube.grid.crs, cube.grid.width_m, cube.grid.height_m) == ("EPSG:32631", 640, 660)
    clear_share = series["s2"].valid.mean(axis=(1, 2))
    assert np.flatnonzero(clear_share > 0.9).tolist() == [1, 5] and clear_share[[0, 2, 3, 11]].max() == 0
    s1 = series["s1"]
    vv, vh = np.median(s1.values * 0.01, axis=(0, 2, 3))
    assert vv == pytest.approx(-12.3, abs=0.1) and vh == pytest.approx(-18.6, abs=0.1)
    seen = s1.values.swapaxes(0, 1)[:, s1.valid] * 0.01
    assert seen.min() >= -50 and seen.max() <= 13.33 and s1.valid.mean() > 0.9999
    red = series["s2"].values[1, 1][series["s2"].valid[1]] * 1e-4
    assert 0.02 < np.median(red) < 0.05  # April meadow


def test_real_single_files_in_netcdf3_and_with_nan(shared_dir, tmp_path):
    spec = tmp_path / "optical.yaml"
    bands = ", ".join(f"{{name: {b}}}" for b in ("B02", "B03", "B04", "B08"))
    spec.write_text(
        f"name: optical\ndescription: single file\nmodalities:\n  s2: {{kind: series, bands: [{bands}], gsd_m: 10, "
        "units: reflectance, dtype: uint16, scale: 1.0e-4}\n"
    )
    folder = shared_dir / "data/openeo-gfmap"
    for name, dates, empty in (("test_optical_cube.nc", 19, 0), ("bap_quintad_cdse.nc", 20, 1)):
        cube = open_cube(ingest("gfmap", folder / name, tmp_path / f"{name}.zarr", spec))
        series = read_series(cube, Window("", 0, 0, 460))["s2"]
        assert len(series.day) == dates
        assert (series.values == 0).all(axis=(1, 2, 3)).sum() == empty  # the composite's one missing quintad
