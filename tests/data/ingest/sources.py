"""Small source files with values known by construction, in the layouts of the real ones."""

from pathlib import Path

import h5py
import numpy as np
import rasterio
import xarray as xr
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.transform import from_origin

WORLDCEREAL_S2 = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
X0_M, Y0_M = 664000.0, 5612000.0
MONTHS = ("2020-11-01", "2020-12-01", "2021-02-01")


def signed(values) -> NDArray[np.int16]:
    """uint16 values as openEO's files store them."""
    return np.asarray(values, np.uint16).view(np.int16)


def write_netcdf(path: Path, variables, dates, crs="EPSG:32631", gsd_m=10.0, shift_m=0.0, engine="h5netcdf") -> Path:
    """`variables` by name, each `[t, y, x]`; pixel centres from the corner (X0_M + shift_m, Y0_M) southwards."""
    shape = next(iter(variables.values())).shape
    coords = {
        "t": ("t", np.array(dates, "datetime64[ns]")),
        "y": ("y", Y0_M - gsd_m * (np.arange(shape[1]) + 0.5)),
        "x": ("x", X0_M + shift_m + gsd_m * (np.arange(shape[2]) + 0.5)),
    }
    data = xr.Dataset({name: (("t", "y", "x"), values) for name, values in variables.items()}, coords)
    if crs is not None:
        data["crs"] = xr.DataArray(np.int32(0), attrs={"crs_wkt": CRS.from_user_input(crs).to_wkt()})
    data.to_netcdf(path, engine=engine, encoding={"t": {"units": "days since 1990-01-01", "dtype": "int32"}})
    return path


def worldcereal_variables(rows=4, columns=4, dates=3, seed=0):
    """Every variable of a WorldCereal file: random imagery, 10 degC, 31.00 mm a month, 150 m, 2 degrees."""
    draw = np.random.Generator(np.random.PCG64(seed))
    shape = (dates, rows, columns)
    variables = {f"S2-L2A-{b}": signed(draw.integers(200, 5000, shape)) for b in WORLDCEREAL_S2}
    variables |= {f"S1-SIGMA0-{b}": signed(draw.integers(1000, 5000, shape)) for b in ("VV", "VH")}
    constants = {"AGERA5-TMEAN": 28315, "AGERA5-PRECIP": 3100, "elevation": 150, "slope": 2}
    return variables | {name: signed(np.full(shape, value)) for name, value in constants.items()}


S2_PRODUCTS = (
    "S2B_MSIL2A_20200107T102319_N0213_R065_T32UNC_20200107T130248",
    "S2A_MSIL2A_20200102T102421_N0213_R065_T32UNC_20200102T115419",
)
S1_ASC = ("S1A_IW_GRDH_1SDV_20200103T170841_20200103T170906_030639_0382D5_360A",)
S1_DES = (
    "S1B_IW_GRDH_1SDV_20200106T053252_20200106T053317_019692_025399_6B7A",
    "S1A_IW_GRDH_1SDV_20200103T053343_20200103T053408_030632_03871C_E393",
)


def treesatai_series(snow=0.0, cloud=1e-10):
    """Datasets of a TreeSatAI HDF5: S2 reads 100 + band on its first date and 200 + band on its second."""
    bands = np.arange(10, dtype=np.float32)[None, :, None, None]
    optical = np.array([100, 200], np.float32)[:, None, None, None] + bands + np.zeros((1, 1, 6, 6), np.float32)
    masks = np.zeros((2, 10, 6, 6), np.float32)
    masks[0, 0], masks[0, 1] = snow, cloud
    return {
        "sen-2-data": optical,
        "sen-2-masks": masks,
        "sen-2-products": np.array(S2_PRODUCTS, object),
        "sen-1-asc-data": np.full((1, 2, 6, 6), 0.1, np.float32),
        "sen-1-asc-products": np.array(S1_ASC, object),
        "sen-1-des-data": np.full((2, 2, 6, 6), 0.01, np.float32) * np.array([1, 10], np.float32)[:, None, None, None],
        "sen-1-des-products": np.array(S1_DES, object),
    }


def write_hdf5(path: Path, datasets) -> Path:
    """An HDF5 file of arrays; arrays of objects become strings."""
    with h5py.File(path, "w") as store:
        for name, values in datasets.items():
            kind = h5py.string_dtype() if values.dtype == object else None
            store.create_dataset(name, data=values, dtype=kind)
    return path


def write_picture(path: Path, pixels, gsd_m=0.2, crs="EPSG:25832") -> Path:
    """A north-up uint8 TIFF whose upper-left corner is (565642.6, 5770980.4), as the real sample's."""
    count, height, width = pixels.shape
    profile = {"count": count, "height": height, "width": width, "dtype": "uint8", "crs": crs}
    with rasterio.open(
        path, "w", driver="GTiff", transform=from_origin(565642.6, 5770980.4, gsd_m, gsd_m), **profile
    ) as out:
        out.write(pixels)
    return path


def write_treesatai(folder: Path, datasets=None, pixels=None) -> tuple[Path, Path]:
    """A whole TreeSatAI sample of fir: paths of its HDF5 and its TIFF."""
    stem = "Abies_alba_1_1_WEFL_NLF"
    if pixels is None:
        pixels = np.full((4, 304, 304), 1, np.uint8) * np.array([140, 90, 80, 70], np.uint8)[:, None, None]
    series = write_hdf5(folder / f"{stem}.h5", treesatai_series() if datasets is None else datasets)
    return series, write_picture(folder / f"{stem}.tif", pixels)
