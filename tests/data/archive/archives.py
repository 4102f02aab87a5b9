"""Small archives as others write them: Zarr stores by zarr-python, COGs by rasterio, and their descriptions."""

import json
from pathlib import Path

import numpy as np
import rasterio
import yaml
import zarr
from rasterio.transform import from_origin

from skyframe.data.cube import Cube, open_cube

BANDS = ("B02", "B04", "B08")
DATES, HEIGHT, WIDTH = 9, 150, 170
SCL = {"layer": "SCL", "clear": [4, 5], "cloud": [8, 9], "shadow": [3]}


def spec(dtype="uint16", **changes) -> dict:
    """An inline spec of three bands at 10 m."""
    s2 = {
        "kind": "series",
        "bands": [{"name": band} for band in BANDS],
        "gsd_m": 10.0,
        "units": "reflectance",
        "dtype": dtype,
        "scale": 1e-4,
        **changes,
    }
    return {"name": "made", "description": "made for tests", "modalities": {"s2": s2}}


def pixels(dtype="uint16", seed=0) -> np.ndarray:
    """Values `[T, C, H, W]`, 100 to 4000."""
    shape = DATES, len(BANDS), HEIGHT, WIDTH
    return np.random.default_rng(seed).integers(100, 4000, shape).astype(dtype)


def classes() -> np.ndarray:
    """A scene classification `[T, H, W]` of values 0 to 11."""
    return np.random.default_rng(9).integers(0, 12, (DATES, HEIGHT, WIDTH)).astype(np.uint8)


def put(root, name, values, dims, attrs=None, chunks=None, **more):
    """One array with its dimension names, as xarray writes them."""
    v3 = root.metadata.zarr_format == 3
    array = root.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=chunks or values.shape,
        **({"dimension_names": dims} if v3 else {}),
        **more,
    )
    array[...] = values
    array.attrs.update({**({} if v3 else {"_ARRAY_DIMENSIONS": list(dims)}), **(attrs or {})})
    return array


def coordinates(root, units="days since 2021-01-01", step=10.0, names=("time", "y", "x"), ascending=False):
    """Times five days apart, and pixel centres of 10 m from 600000 E, 5600000 N."""
    rows = 5_600_000 - (np.arange(HEIGHT) + 0.5) * step
    put(root, names[0], np.arange(DATES) * 5, (names[0],), {"units": units} if units else {})
    put(root, names[1], rows[::-1].copy() if ascending else rows, (names[1],))
    put(root, names[2], 600_000 + (np.arange(WIDTH) + 0.5) * step, (names[2],))


def write(folder: Path, modality: dict, inline: dict | None = None, name="made", **top) -> Path:
    """A description."""
    tree = {"skyframe_archive": 1, "spec": inline or spec(), "crs": "EPSG:32631", "modalities": {"s2": modality}, **top}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def per_band(folder: Path, zarr_format=2, values=None, chunks=(4, 40, 50), entry=None, inline=None, **more) -> Cube:
    """One array per band."""
    values = pixels() if values is None else values
    root = zarr.create_group(folder / "made.zarr", zarr_format=zarr_format)
    for number, band in enumerate(BANDS):
        put(root, band, values[:, number], ("time", "y", "x"), chunks=chunks, **more)
    coordinates(root)
    described = {"array": "{band}", "mask": {"nodata": []}, **(entry or {})}
    return open_cube(write(folder, described, inline or spec(values.dtype.name), store="made.zarr"))


def cog(path: Path, values: np.ndarray, crs="EPSG:32631", corner=(600_000, 5_600_000), gsd=10.0, **profile):
    """One tiled GeoTIFF `[C, H, W]`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"driver": "GTiff", "tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", **profile}
    with rasterio.open(
        path,
        "w",
        count=values.shape[0],
        height=values.shape[1],
        width=values.shape[2],
        dtype=values.dtype,
        crs=crs,
        transform=from_origin(*corner, gsd, gsd),
        **options,
    ) as out:
        out.write(values)


def items(folder: Path, assets: list[dict[str, str]], name="items.json") -> Path:
    """A STAC ItemCollection of scenes five days apart."""
    days = [f"2021-01-{1 + 5 * t:02}T10:30:00Z" for t in range(len(assets))]
    features = [
        {
            "type": "Feature",
            "id": f"scene{t}",
            "properties": {"datetime": day},
            "assets": {key: {"href": href} for key, href in files.items()},
        }
        for t, (day, files) in enumerate(zip(days, assets, strict=True))
    ]
    path = folder / name
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def undated(folder: Path, inline: dict | None = None, **entry) -> Path:
    """A store whose time has no units."""
    root = zarr.create_group(folder / "made.zarr", zarr_format=3)
    for band in BANDS:
        put(root, band, np.zeros((DATES, HEIGHT, WIDTH), np.uint16), ("time", "y", "x"), {"scale_factor": 1e-4})
    put(root, "odd", np.zeros((DATES, HEIGHT, WIDTH), np.uint16), ("a", "b", "c"))
    coordinates(root, units="")
    return write(folder, {"array": "{band}", **entry}, inline, store="made.zarr")


def two_grids(folder: Path) -> Path:
    """Two scenes side by side."""
    for t in range(2):
        cog(folder / f"{t}.tif", np.full((1, 64, 64), 900, np.uint16), corner=(600_000 + 640 * t, 5_600_000))
    items(folder, [{"B02": "0.tif"}, {"B02": "1.tif"}])
    return write(folder, {"array": "{band}"}, spec(bands=[{"name": "B02"}]), scenes="items.json")
