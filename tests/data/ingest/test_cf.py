import numpy as np
import pytest
import xarray as xr
import zarr

from skyframe.data.cube import open_cube
from skyframe.data.ingest import cf, ingest
from skyframe.data.ingest.cf_store import decode
from skyframe.data.read import read_flags, read_label, read_series
from skyframe.geography import place_of
from skyframe.spec import METRES_PER_DEGREE, CubeSpec, InputError, Window
from tests.data.ingest.arrays import CF_SPEC, cf_dataset, write_cf

WHOLE = (0, 6, 0, 8)


def spec_of(tmp_path, text=CF_SPEC):
    (tmp_path / "sea.yaml").write_text(text)
    return tmp_path / "sea.yaml"


@pytest.mark.parametrize(("name", "zarr_format"), [("a.nc", 2), ("v2.zarr", 2), ("v3.zarr", 3)])
def test_packed_values_flipped_rows_and_two_times_on_one_day(tmp_path, name, zarr_format):
    cube = open_cube(ingest("cf", write_cf(tmp_path / name, None, zarr_format), tmp_path / "c.zarr", spec_of(tmp_path)))
    assert cube.days("sea").tolist() == [7307, 7307, 7313]  # 2020-01-03 twice, 2020-01-09
    series = read_series(cube, Window("", 0.0, 0.0, 6 * 1113.2))["sea"]
    source = cf_dataset()
    expected = np.stack([source[v].values[:, ::-1, :6] for v in ("sst", "chl")], 1)  # north row first
    assert series.valid.sum() == np.isfinite(expected).all(1).sum() == 3 * 36 - 2
    assert np.abs(series.values - expected)[series.valid[:, None].repeat(2, 1)].max() < 1e-5
    assert not series.valid[0, 5, 0] and not series.valid[1, 3, 3]  # -999 in the packed sst, NaN in chl
    assert cube.grid.unit_m == METRES_PER_DEGREE and cube.grid.crs == "EPSG:4326"
    assert place_of(cube.grid, 1113.2 / 2, 1113.2 / 2) == pytest.approx([54.05, 7.0])


def test_encodings_by_hand():
    stored = np.array([[[-1, 100, 7, 5000]]], np.int16)
    attributes = {"_Unsigned": "true", "scale_factor": 0.1, "add_offset": 1.0, "missing_value": 7, "valid_max": 65535}
    variable = xr.DataArray(stored, dims=("t", "y", "x"), attrs=attributes)
    box = slice(0, 1), slice(0, 4)
    assert decode(variable, box, (1, 4), "a")[0, 0] == pytest.approx([6554.5, 11.0, np.nan, 501.0], nan_ok=True)
    ranged = xr.DataArray(stored, dims=("t", "y", "x"), attrs={"valid_range": [0, 1000]})
    assert decode(ranged, box, (1, 4), "a")[0, 0] == pytest.approx([np.nan, 100, 7, np.nan], nan_ok=True)
    everywhere = xr.DataArray(np.array([1.0, 2.0]), dims=("t",))
    assert decode(everywhere, box, (1, 4), "a").tolist() == [[[1.0] * 4], [[2.0] * 4]]


FLAGGED = (
    CF_SPEC.replace("[{name: sst}, {name: chl}]", "[{name: warmth}]")
    + """
  depth: {kind: static, bands: [{name: depth}], gsd_m: 1113.2, units: m, dtype: int16}
  weather: {kind: weather, bands: [{name: wind}], gsd_m: 5000, units: m s-1, dtype: float32}
labels:
  coast: {gsd_m: 1113.2, dtype: uint8, classes: [sea, land]}
source:
  sea:
    variables: {warmth: sst}
    factor: 1.8
    plus: 32.0
    flags: {variable: scene, nodata: [0], cloud: [2, 3], shadow: [4]}
"""
)


def flagged(bits=False):
    data = cf_dataset()
    scene = np.ones((3, 6, 8), np.float32)
    scene[2, 5, :5] = [0, 2, 3, 4, np.nan]
    if bits:
        scene = np.where(scene == 4, 8, np.where(scene > 1, 6, scene)).astype(np.float32)
    data["scene"] = (("time", "lat", "lon"), scene)
    data["depth"] = (("lat", "lon"), np.arange(48, dtype=np.int16).reshape(6, 8))
    data["wind"] = (("time",), np.array([3.0, 4.0, np.nan]))
    data["coast"] = (("lat", "lon"), np.eye(6, 8, dtype=np.uint8))
    return data


def test_names_units_and_flags_of_the_spec(tmp_path):
    store = write_cf(tmp_path / "s.zarr", flagged())
    cube = open_cube(ingest("cf", store, tmp_path / "c.zarr", spec_of(tmp_path, FLAGGED)))
    flags = read_flags(cube, "sea", WHOLE)
    assert flags[2, 0].tolist() == [0, 2, 2, 3, 0, 1, 1, 1]
    series = read_series(cube, Window("", 0.0, 0.0, 6 * 1113.2))
    assert series["sea"].values[1, 0, 0, 5] == pytest.approx((10 + 0.01 * (48 + 45)) * 1.8 + 32)  # degrees Fahrenheit
    assert series["depth"].values[0, 0, 0].tolist() == [40, 41, 42, 43, 44, 45]
    assert series["weather"].values[:2, 0, 0, 0].tolist() == [3.0, 4.0]
    assert series["weather"].valid[:, 0, 0].tolist() == [True, True, False]
    assert read_label(cube, "coast", Window("", 0.0, 0.0, 1113.2)).tolist() == [[0]]
    assert read_label(cube, "coast", Window("", 5 * 1113.2, 0.0, 1113.2)).tolist() == [[1]]


def test_flags_as_bits(tmp_path):
    bits = FLAGGED.replace("nodata: [0], cloud: [2, 3], shadow: [4]", "cloud: [2], shadow: [8], bits: true")
    store = write_cf(tmp_path / "s.zarr", flagged(bits=True))
    cube = open_cube(ingest("cf", store, tmp_path / "c.zarr", spec_of(tmp_path, bits)))
    assert read_flags(cube, "sea", WHOLE)[2, 0].tolist() == [1, 2, 2, 3, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("{name: chl}", "{name: chll}", "sea: no variable chll, found .*did you mean 'chl'"),
        ("gsd_m: 1113.2", "gsd_m: 1000", "y steps by 1113.2 m .0.01 in the store's unit., expected 1000 m"),
        ("kind: series", "kind: static", "kind static and sst has dates"),
        ("dtype: float32", "dtype: uint8\n    scale: 0.01", "sea: holds 11.43 mixed, expected what uint8 holds"),
        ("modalities:", "source:\n  see: {factor: 2}\nmodalities:", "source: 'see' is no modality.*did you mean 'sea'"),
        (
            "modalities:",
            "source:\n  sea: {facto: 2}\nmodalities:",
            "source.sea: unknown key 'facto'; did you mean 'factor'",
        ),
        ("modalities:", "source:\n  sea: {variables: {ssst: a}}\nmodalities:", "ssst is no band of sea"),
        ("modalities:", "source:\n  sea: {flags: {variable: scl}}\nmodalities:", "sea: no variable scl, found"),
    ],
)
def test_specs_that_contradict_the_store(tmp_path, old, new, sentence):
    store = write_cf(tmp_path / "s.zarr", cf_dataset())
    with pytest.raises(InputError, match=sentence):
        ingest("cf", store, tmp_path / "c.zarr", spec_of(tmp_path, CF_SPEC.replace(old, new)))
    assert not list(tmp_path.glob("c.zarr*"))


def test_stores_without_place_or_dates(tmp_path):
    spec = spec_of(tmp_path)
    bare = cf_dataset().drop_attrs().rename({"lat": "row", "lon": "column"})
    with pytest.raises(InputError, match="no coordinate along y by standard_name, axis or name"):
        ingest("cf", write_cf(tmp_path / "a.nc", bare), tmp_path / "c.zarr", spec)
    metres = cf_dataset().drop_attrs().rename({"lat": "y", "lon": "x"})
    with pytest.raises(InputError, match="no grid mapping with crs_wkt and no latitude"):
        ingest("cf", write_cf(tmp_path / "b.nc", metres), tmp_path / "c.zarr", spec)
    uneven = cf_dataset().assign_coords(lon=("lon", 7.0 + 0.01 * np.arange(8) ** 1.1, cf_dataset().lon.attrs))
    with pytest.raises(InputError, match=r"x steps by .* unevenly"):
        ingest("cf", write_cf(tmp_path / "d.nc", uneven), tmp_path / "c.zarr", spec)
    with pytest.raises(InputError, match="time holds int64, expected dates with CF units"):
        numbered = cf_dataset().assign_coords(time=[1, 2, 3])
        ingest("cf", write_cf(tmp_path / "e.nc", numbered), tmp_path / "c.zarr", spec)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"a folder without .zgroup or zarr.json"):
        ingest("cf", tmp_path / "folder", tmp_path / "c.zarr", spec)
    with pytest.raises(InputError, match="no spec, expected one"):
        ingest("cf", tmp_path / "a.nc", tmp_path / "c.zarr")


def test_missing_chunks_of_integers_without_a_fill_value_are_refused(tmp_path):
    """They would read as 0, a clear dark pixel."""
    data = cf_dataset()
    data["sst"] = data["sst"].fillna(1.0).astype(np.int16)
    data["sst"].encoding = {"chunks": (1, 3, 4)}
    store = write_cf(tmp_path / "s.zarr", data, zarr_format=3)
    ingest("cf", store, tmp_path / "whole.zarr", spec_of(tmp_path))
    victim = next(p for p in (store / "sst/c").rglob("*") if p.is_file())
    victim.unlink()
    with pytest.raises(InputError, match="sst has 11 of 12 chunks and no _FillValue"):
        ingest("cf", store, tmp_path / "c.zarr", spec_of(tmp_path))


def test_missing_chunks_of_floats_are_nodata_and_a_changed_store_is_noticed(tmp_path):
    data = cf_dataset()
    data["chl"].encoding = {"chunks": (1, 6, 8)}
    store = write_cf(tmp_path / "s.zarr", data)
    before = cf.describe(store)
    (store / "chl/2.0.0").unlink()
    assert cf.describe(store) != before
    cube = open_cube(ingest("cf", store, tmp_path / "c.zarr", spec_of(tmp_path)))
    flags = read_flags(cube, "sea", WHOLE)
    assert (flags[2] == 0).all() and (flags[:2] == 0).sum() == 2


@pytest.fixture(scope="module")
def ocean(shared_dir, tmp_path_factory):
    store = shared_dir / "data/xcube/cube-1-250-250.zarr"
    out = tmp_path_factory.mktemp("ocean") / "sea.zarr"
    return open_cube(ingest("cf", store, out, "ocean_colour")), store


def test_real_ocean_colour_by_hand(ocean):
    cube, store = ocean
    assert cube.days("ocean").tolist() == [6225, 6234, 6235, 6237, 6239]  # 16, 25, 26, 28 and 30 January 2017
    flags = read_flags(cube, "ocean", (0, 1000, 0, 2000))
    assert (flags == 1).sum(axis=(1, 2)).tolist() == [440563, 72819, 25436, 570284, 49556]
    assert place_of(cube.grid, 0.0, 0.0) == pytest.approx([52.5, 0.0])
    place = Window("", 213 * 278.3, 464 * 278.3, 278.3)
    assert read_series(cube, place)["ocean"].values[0, 0, 0, 0] == pytest.approx(8.36991215, abs=1e-6)
    window = Window("", 400 * 278.3, 1100 * 278.3, 300 * 278.3)
    series = read_series(cube, window)["ocean"]
    for number, name in enumerate(("conc_chl", "conc_tsm", "kd489")):
        source = zarr.open_array(store / name, mode="r")[:, 400:700, 1100:1400]
        assert np.array_equal(np.isfinite(source), series.valid)
        assert np.array_equal(series.values[:, number][series.valid], source[series.valid].astype(np.float32))


def test_real_field_of_fusets_by_hand(shared_dir, tmp_path):
    path = shared_dir / "data/FuseTS/raw_s2_ndvi_field.nc"
    cube = open_cube(ingest("cf", path, tmp_path / "field.zarr", "fusets"))
    assert (cube.grid.crs, cube.grid.x0_m, cube.grid.y0_m) == ("EPSG:32630", 344130.0, 4626620.0)
    assert len(cube.days("s2")) == 33 and cube.days("s2")[0] == 6966  # 2019-01-27
    flags = read_flags(cube, "s2", (0, 57, 0, 56))
    with xr.open_dataset(path, engine="h5netcdf") as raw:
        assert (flags == 0).sum() == int(raw.B04.isnull().sum()) == 33685
        assert (flags == 3).sum() == int((raw.SCL == 2).sum())
        series = read_series(cube, Window("", 0.0, 0.0, 560.0))["s2"]
        red = raw.B04.values[:, :56]
        assert np.array_equal(series.values[:, 0][series.valid], red[series.valid].astype(np.uint16))
    assert CubeSpec.load("fusets").source["s2"]["factor"] == 1e-4
