"""Small eo-learn patches, point arrays, EarthNet mini-cubes and CF stores, in the layouts of the real ones."""

import json
from pathlib import Path

import numpy as np
import xarray as xr

EOLEARN_DATES = ("2015-12-08T10:02:11", "2015-07-11T10:00:08", "2015-12-08T09:58:01")  # not in order, two on one day
ROWS, COLUMNS = 5, 4


def write_eopatch(folder: Path, **changes) -> Path:
    """A patch of 3 dates x 5 x 4 pixels of 10 m; NDVI of date i in the file is 0.1 * (i + 1), its last column cloud."""
    dates = len(EOLEARN_DATES)
    ndvi = np.full((dates, ROWS, COLUMNS, 1), 0.1, np.float32) * np.arange(1, dates + 1)[:, None, None, None]
    cloud = np.zeros(ndvi.shape, np.uint8)
    cloud[:, :, -1] = 1
    arrays = {
        "data/NDVI": ndvi.astype(np.float32),
        "mask/CLM": cloud,
        "mask/IS_VALID": cloud == 0,
        "data_timeless/DEM": np.arange(ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS, 1),
        "mask_timeless/LULC": np.full((ROWS, COLUMNS, 1), 2, np.uint16),
    } | {name.replace("__", "/"): values for name, values in changes.items() if "__" in name}
    for name, values in arrays.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if values is not None:
            np.save(folder / f"{name}.npy", values)
    west, south = 465000.0, 5079000.0
    side = changes.get("pixel_m", 10.0)
    east, north = west + COLUMNS * side, south + ROWS * side
    box = {
        "type": "Polygon",
        "crs": {"type": "name", "properties": {"name": changes.get("crs", "urn:ogc:def:crs:EPSG::32633")}},
        "coordinates": [[[west, south], [west, north], [east, north], [east, south], [west, south]]],
    }
    (folder / "bbox.geojson").write_text(json.dumps(box))
    (folder / "timestamps.json").write_text(json.dumps(changes.get("dates", EOLEARN_DATES)))
    return folder


def write_scenes(path: Path, ndvi=(0.2, 0.1)) -> Path:
    """Scenes of 13 bands whose NDVI is given: red 0.1, near infrared to match, other bands 0.01 * their number."""
    scenes = np.zeros((len(ndvi), ROWS, COLUMNS, 13), np.float32) + 0.01 * np.arange(13, dtype=np.float32)
    scenes[..., 3] = 0.1
    scenes[..., 7] = 0.1 * (1 + np.reshape(ndvi, (-1, 1, 1))) / (1 - np.reshape(ndvi, (-1, 1, 1)))
    np.save(path, scenes)
    return path


def write_points(folder: Path, months=None, sites=3, **changes) -> Path:
    """Point arrays: channel c of site i in record k holds c + 0.01 * k, but temperature 283.15 K + i, rain 0.002 m."""
    months = np.array([[6, 7, 8]] * sites) if months is None else np.array(months)
    sites, records = months.shape
    values = np.zeros((sites, records, 18)) + np.arange(18) + 0.01 * np.arange(records)[:, None]
    values[..., :2] = [-10.5, -17.25]
    values[..., 2:13] = 1000 + 100 * np.arange(11) + 10 * np.arange(sites)[:, None, None]
    values[..., 13] = 283.15 + np.arange(sites)[:, None]
    values[..., 14] = 0.002
    values[..., 15:17] = [300.0, 1.5]
    arrays = {
        "s1_s2_era5_srtm": values,
        "month": months,
        "latlon": np.stack([40.0 + np.arange(sites), -100.0 + np.arange(sites)], 1),
        "dynamic_world": np.full((sites, records), 4, np.uint8),
        "target": 1 + np.arange(sites) % 5,
        "is_test": np.arange(sites) % 2,
    } | changes
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    return folder


def minicube(days=12, rows=6, columns=6, mask="s2_dlmask", **changes) -> xr.Dataset:
    """A mini-cube as EarthNet2021x lays it out: an acquisition on days 4 and 9, daily weather, 20 m pixels at 50 N."""
    spacing = 20.0 / 111_320.0
    lat = 50.0 - spacing * np.arange(rows)
    lon = 9.5 + spacing / np.cos(np.radians(50.0)) * np.arange(columns)
    optical = np.full((days, rows, columns), np.nan, np.float32)
    optical[4], optical[9] = 0.1, 0.2
    cloud = np.where(np.isnan(optical), np.nan, 0.0).astype(np.float32)
    classes = np.where(np.isnan(optical), np.nan, 4.0).astype(np.float32)
    cloud[4, 0, :4], classes[9, 1, :3] = [0, 1, 2, 3], [3, 9, 11]
    cube = {f"s2_{band}": (("time", "lat", "lon"), optical.copy()) for band in ("B02", "B03", "B04", "B8A")}
    cube |= {mask: (("time", "lat", "lon"), cloud), "s2_SCL": (("time", "lat", "lon"), classes)}
    weather = {"eobs_tg": 8.5, "eobs_rr": 2.0, "eobs_qq": 100.0}
    cube |= {name: (("time",), np.full(days, value, np.float32)) for name, value in weather.items()}
    heights = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    cover = np.full((rows, columns), 40.0, np.float32)
    cover[0, 0], cover[0, 1] = 10, 100
    cube |= {"cop_dem": (("lat", "lon"), heights), "esawc_lc": (("lat", "lon"), cover)}
    time = np.array("2018-03-01", "datetime64[ns]") + np.arange(days) * np.timedelta64(1, "D")
    data = xr.Dataset(cube | changes, {"time": time, "lat": lat, "lon": lon})
    return data.drop_vars([name for name, values in changes.items() if values is None], errors="ignore")


def write_minicube(path: Path, data: xr.Dataset | None = None) -> Path:
    (minicube() if data is None else data).to_netcdf(path, engine="h5netcdf")
    return path


CF_SPEC = """
name: sea
description: a sea
modalities:
  sea:
    kind: series
    bands: [{name: sst}, {name: chl}]
    gsd_m: 1113.2
    units: mixed
    dtype: float32
"""


def cf_dataset(rows=6, columns=8, dates=3) -> xr.Dataset:
    """Packed int16 and float variables on latitude and longitude in steps of 0.01 degrees, south row first."""
    shape = dates, rows, columns
    sst = np.arange(dates * rows * columns, dtype=np.float64).reshape(shape) * 0.01 + 10.0
    chl = np.full(shape, 0.5, np.float32)
    sst[0, 0, 0], chl[1, 2, 3] = np.nan, np.nan
    data = xr.Dataset(
        {"sst": (("time", "lat", "lon"), sst), "chl": (("time", "lat", "lon"), chl)},
        {
            "time": np.array(["2020-01-03T12", "2020-01-03T23", "2020-01-09T01"], "datetime64[ns]")[:dates],
            "lat": 54.0 + 0.01 * np.arange(rows),
            "lon": 7.0 + 0.01 * np.arange(columns),
        },
    )
    data["lat"].attrs = {"standard_name": "latitude", "units": "degrees_north"}
    data["lon"].attrs = {"standard_name": "longitude", "units": "degrees_east"}
    data["sst"].encoding = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 10.0, "_FillValue": -999}
    return data


def write_cf(path: Path, data: xr.Dataset | None = None, zarr_format=2) -> Path:
    """As netCDF where the path ends in .nc, else as Zarr."""
    data = cf_dataset() if data is None else data
    if path.suffix == ".nc":
        data.to_netcdf(path, engine="h5netcdf")
    else:
        data.to_zarr(path, zarr_format=zarr_format, consolidated=zarr_format == 2)
    return path
