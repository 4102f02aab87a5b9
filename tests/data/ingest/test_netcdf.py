from contextlib import ExitStack

import numpy as np
import pytest
import xarray as xr

from skyframe.data.ingest import netcdf
from skyframe.spec import InputError
from tests.data.ingest.sources import MONTHS, signed, write_netcdf

RAMP = signed(np.arange(24).reshape(3, 2, 4))


@pytest.fixture
def files():
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])  # netCDF-4 and netCDF-3
def test_values_days_and_grid_by_hand(tmp_path, files, engine):
    data = netcdf.open_netcdf(write_netcdf(tmp_path / "a.nc", {"a": RAMP}, MONTHS, engine=engine), files)
    assert netcdf.days_of(data).tolist() == [7610, 7640, 7702]
    assert netcdf.days_of(data).dtype == np.int32
    grid = netcdf.grid_of(data, 10.0, "a.nc")
    assert (grid.crs, grid.x0_m, grid.y0_m, grid.width_m, grid.height_m) == ("EPSG:32631", 664000, 5612000, 40, 20)
    assert netcdf.stack(data, ["a", "a"], slice(1, 2), slice(1, 3)).tolist() == [
        [[[5, 6]]] * 2,
        [[[13, 14]]] * 2,
        [[[21, 22]]] * 2,
    ]


def test_dates_and_rows_in_another_order_are_sorted(tmp_path, files):
    path = tmp_path / "a.nc"
    with xr.open_dataset(write_netcdf(tmp_path / "b.nc", {"a": RAMP}, MONTHS), engine="h5netcdf") as straight:
        straight.isel(t=[2, 0, 1], y=[1, 0]).to_netcdf(path, engine="h5netcdf")
    data = netcdf.open_netcdf(path, files)
    assert netcdf.days_of(data).tolist() == [7610, 7640, 7702]
    assert np.array_equal(netcdf.stack(data, ["a"], slice(0, 2), slice(0, 4))[:, 0], RAMP)


def test_zero_dates(tmp_path, files):
    with pytest.raises(InputError, match=r"a\.nc: has no dates \(dimension t has length 0\)"):
        netcdf.open_netcdf(write_netcdf(tmp_path / "a.nc", {"a": RAMP[:0]}, []), files)


def test_truncated_file(tmp_path, files):
    path = write_netcdf(tmp_path / "a.nc", {"a": RAMP}, MONTHS)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(InputError, match=r"a\.nc: cannot be read as netCDF.*fetch it again"):
        netcdf.open_netcdf(path, files)


def test_no_time_axis(tmp_path, files):
    xr.Dataset({"a": (("y", "x"), RAMP[0])}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.raises(InputError, match=r"a\.nc: no coordinate 't', expected t, y and x"):
        netcdf.open_netcdf(tmp_path / "a.nc", files)
    coords = {name: np.arange(n) for name, n in zip("tyx", RAMP.shape, strict=True)}
    xr.Dataset({"a": (("t", "y", "x"), RAMP)}, coords).to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    with pytest.raises(InputError, match=r"b\.nc: t holds int64, expected dates"):
        netcdf.open_netcdf(tmp_path / "b.nc", files)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crs": None}, "no variable 'crs' with attribute crs_wkt"),
        ({"crs": "EPSG:4326"}, "not projected"),
        ({"gsd_m": 20.0}, "x steps by 20 to 20 m, expected 10 m"),
    ],
)
def test_places_that_cannot_be_used(tmp_path, files, options, message):
    data = netcdf.open_netcdf(write_netcdf(tmp_path / "a.nc", {"a": RAMP}, MONTHS, **options), files)
    with pytest.raises(InputError, match=message):
        netcdf.grid_of(data, 10.0, "a.nc")


def test_missing_variable_names_what_there_is(tmp_path, files):
    data = netcdf.open_netcdf(write_netcdf(tmp_path / "a.nc", {"S2-L2A-B02": RAMP}, MONTHS), files)
    with pytest.raises(InputError, match=r"a\.nc: no variable S2-L2A-B8A, .* found S2-L2A-B02; use a spec"):
        netcdf.require(data, ["S2-L2A-B02", "S2-L2A-B8A"], "a.nc")


def test_bands_of_mixed_dtypes_are_refused(tmp_path, files):
    """Stacked to float, the -1 that an int16 holds where a pixel is missing would be a value."""
    variables = {"a": RAMP, "b": RAMP.astype(np.float32)}
    data = netcdf.open_netcdf(write_netcdf(tmp_path / "a.nc", variables, MONTHS), files)
    netcdf.require(data, ["a"], "a.nc")
    with pytest.raises(InputError, match=r"a\.nc: a is int16, b is float32, expected one dtype .* export the bands"):
        netcdf.require(data, ["a", "b"], "a.nc")
