from contextlib import ExitStack

import numpy as np
import pytest
import xarray as xr

from skyframe.calendar import DAY_UNKNOWN
from skyframe.data.cube import open_cube
from skyframe.data.ingest import ingest
from skyframe.data.ingest.worldcereal import days_in_month, open_source, variable_names
from skyframe.data.read import read_series
from skyframe.spec import Band, CubeSpec, InputError, Modality, Window
from tests.data.ingest.sources import MONTHS, signed, worldcereal_variables, write_netcdf

EVERYWHERE = Window("", 0.0, 0.0, 1000.0)


def read_layers(path):
    """Every layer of a small source, read whole: values, flags and days by modality."""
    with ExitStack() as files:
        source = open_source([path], CubeSpec.load("worldcereal"), files)
        return {x.modality.name: (*x.read(0, 0, *x.shape_px), x.days) for x in source.layers}


def test_unsigned_values_missing_months_and_weather_by_hand(tmp_path):
    variables = worldcereal_variables()
    for name in variables:
        if name.startswith("S2"):
            variables[name][1] = -1  # a whole month missing
    variables["S2-L2A-B05"][0, 2, 3] = -1  # one band of one pixel
    variables["S2-L2A-B02"][2, 0, 0] = -25536
    layers = read_layers(write_netcdf(tmp_path / "a.nc", variables, MONTHS))

    values, flags, days = layers["s2"]
    assert values.shape == (3, 9, 4, 4) and days.tolist() == [7610, 7640, 7702]
    assert flags[1].max() == 0 and flags[0, 2, 3] == 0 and (flags == 1).sum() == 31
    assert values[2, 0, 0, 0] == 40000
    expected = np.stack([variables[f"S2-L2A-{b}"] for b in ("B02", "B12")], 1)[2].view(np.uint16)
    assert np.array_equal(values[2][[0, 8]], expected)

    values, flags, days = layers["weather"]
    assert values.shape == (3, 2, 1, 1) and values.dtype == np.float32
    assert values[:, 0, 0, 0] == pytest.approx([10.0, 10.0, 10.0])
    assert values[:, 1, 0, 0] == pytest.approx([31 / 30, 1.0, 31 / 28])  # 31.00 mm in November, December, February
    values, flags, days = layers["terrain"]
    assert values[0, :, 1, 1].tolist() == [150.0, 2.0] and days.tolist() == [DAY_UNKNOWN]


def test_month_lengths():
    stamps = np.array(["2020-02-01", "2021-02-01", "2021-12-01"], "datetime64[ns]")
    assert days_in_month(stamps).tolist() == [29, 28, 31]


def test_missing_weather_is_flagged_and_half_missing_is_averaged(tmp_path):
    variables = worldcereal_variables()
    variables["AGERA5-TMEAN"][0] = -1
    variables["AGERA5-TMEAN"][1] = signed([[28315, 28415, 65535, 65535]])
    values, flags, _ = read_layers(write_netcdf(tmp_path / "a.nc", variables, MONTHS))["weather"]
    assert flags.ravel().tolist() == [0, 1, 1] and values[1, 0, 0, 0] == pytest.approx(10.5)


def test_a_band_that_the_file_lacks_names_file_variable_and_what_there_is(tmp_path):
    variables = worldcereal_variables()
    del variables["S2-L2A-B11"]
    path = write_netcdf(tmp_path / "a.nc", variables, MONTHS)
    with pytest.raises(InputError, match=r"a\.nc: no variable S2-L2A-B11, .*found S2-L2A-B02"):
        ingest("worldcereal", path, tmp_path / "a.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]


@pytest.mark.parametrize("name", ["S2-L2A-", "S1-SIGMA0-", "AGERA5-", "elevation"])
def test_wider_integers_are_refused(tmp_path, name):
    """-1 says "missing" in 16 bits alone; taken as a value it would be clear black."""
    variables = worldcereal_variables()
    wide = {k: v.astype(np.int32) for k, v in variables.items() if k.startswith(name)}
    wide |= {"slope": variables["slope"].astype(np.int32)} if name == "elevation" else {}
    path = write_netcdf(tmp_path / "a.nc", variables | wide, MONTHS)
    with pytest.raises(InputError, match=r"a\.nc: (s2|s1|weather|terrain): holds int32, expected int16 or uint16"):
        ingest("worldcereal", path, tmp_path / "a.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]


def test_a_weather_band_that_the_source_never_has():
    weather = Modality("weather", "weather", (Band("radiation_mj"),), 1000.0, "MJ", "float32")
    with pytest.raises(
        InputError, match="weather has no band radiation_mj, expected some of temperature_c, precipitation_mm"
    ):
        variable_names(weather, "a.nc")


def test_all_nodata_is_refused_before_anything_is_written(tmp_path):
    variables = worldcereal_variables()
    for name in variables:
        if name.startswith("S2"):
            variables[name][:] = -1
    path = write_netcdf(tmp_path / "a.nc", variables, MONTHS)
    with pytest.raises(InputError, match=r"a\.nc: s2 has no data, all 48 pixels in 3 dates are missing"):
        ingest("worldcereal", path, tmp_path / "a.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]


def test_two_files_are_one_too_many(tmp_path):
    with pytest.raises(InputError, match="got 2 source files, expected one netCDF"):
        ingest("worldcereal", [tmp_path / "a.nc", tmp_path / "b.nc"], tmp_path / "a.zarr")


@pytest.fixture(scope="module")
def real(shared_dir, tmp_path_factory):
    path = shared_dir / "data/worldcereal-classification/worldcereal_preprocessed_inputs.nc"
    cube = open_cube(ingest("worldcereal", path, tmp_path_factory.mktemp("worldcereal") / "belgium.zarr"))
    with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as raw:
        return read_series(cube, EVERYWHERE), raw.load(), cube


def test_real_values_are_those_of_the_file(real):
    series, raw, cube = real
    names = [f"S2-L2A-{b}" for b in cube.spec.modality("s2").band_names]
    source = np.stack([raw[n].values for n in names], 1).view(np.uint16)
    s2 = series["s2"]
    assert not s2.valid[1:3].any()  # December and January are missing whole
    months = [0, *range(3, 12)]
    assert s2.valid[months].all()
    assert np.array_equal(s2.values[months], source[months])
    code = np.stack([raw[f"S1-SIGMA0-{b}"].values for b in ("VV", "VH")], 1).view(np.uint16).astype(float)
    assert np.abs(series["s1"].values * 0.01 - (20 * np.log10(code) - 83)).max() <= 0.0051


def test_real_cube_is_read_with_the_canonical_bands(real):
    cube = real[2]
    series = read_series(cube, Window("", 100.0, 200.0, 640.0), CubeSpec.load("simulated_earth"))
    assert series["s2"].values.shape == (12, 10, 64, 64) and series["weather"].values.shape == (12, 3, 1, 1)
    assert series["s2"].bands.tolist() == [True] * 7 + [False, True, True]  # no B8A
    assert series["weather"].bands.tolist() == [True, True, False] and "hr" not in series


def test_real_place_dates_and_physical_ranges(real):
    series, _, cube = real
    assert (cube.grid.crs, cube.grid.x0_m, cube.grid.y0_m, cube.grid.width_m) == ("EPSG:32631", 664000, 5612120, 1000)
    assert series["s2"].day[0] == 7610 and series["s2"].day[-1] == 7944  # 2020-11-01, 2021-10-01
    vv, vh = np.median(series["s1"].values * 0.01, axis=(0, 2, 3))
    assert vv == pytest.approx(-9.88, abs=0.01) and vh == pytest.approx(-16.61, abs=0.01)
    temperature, rain = series["weather"].values[:, :, 0, 0].T
    assert temperature.min() == pytest.approx(2.39, abs=1e-4) and temperature.max() == pytest.approx(18.37, abs=1e-4)
    assert rain.min() == pytest.approx(35.76 / 30) and rain.max() == pytest.approx(160.17 / 30)
    elevation, slope = series["terrain"].values[0]
    assert (elevation.min(), elevation.max(), slope.max()) == (142, 172, 9)
    red, nir = (series["s2"].values[7, i].astype(float) for i in (2, 6))
    assert np.median((nir - red) / (nir + red)) > 0.7  # June in Belgium is green
