"""The Zarr and CF/GeoZarr side of a cube: what plain xarray, GDAL and other tools read. No pixels are written here."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from pyproj import CRS
from zarr.codecs import BloscCodec, Crc32cCodec

from skyframe.calendar import DAY_UNKNOWN, DAYS_UNITS
from skyframe.data.cube import FLAG_MEANINGS
from skyframe.data.manifest import FORMAT
from skyframe.data.shard import BLOSC_LEVELS, ArrayLayout
from skyframe.spec import Grid, Label, Modality, side_pixels

CF_AXES = {
    "projected": {
        "y": {"standard_name": "projection_y_coordinate", "units": "m"},
        "x": {"standard_name": "projection_x_coordinate", "units": "m"},
    },
    "geographic": {
        "y": {"standard_name": "latitude", "units": "degrees_north"},
        "x": {"standard_name": "longitude", "units": "degrees_east"},
    },
}


def create_root(root: Path, spec_name: str) -> None:
    """The root group, and the group that holds truth, where an earlier start did not come so far."""
    if not (root / "zarr.json").exists():
        zarr.create_group(root, attributes={"skyframe": FORMAT, "spec": spec_name, "Conventions": "CF-1.10"})
    if not (root / "truth" / "zarr.json").exists():
        zarr.create_group(root, path="truth")


def create_modality(
    root: Path, modality: Modality, grid: Grid, days: NDArray[np.int32], values: ArrayLayout, valid: ArrayLayout
) -> NDArray[np.int32]:
    """Group, metadata and coordinates of a modality, unless they are there.

    Returns:
        The days that the store holds: those of an earlier start where there was one.
    """
    folder = root / modality.name
    if (folder / "day" / "zarr.json").exists() and (folder / "day" / "c" / "0").exists():  # written last
        return np.asarray(zarr.open_array(folder / "day", mode="r")[:], np.int32)
    attributes: dict[str, Any] = {
        "kind": modality.kind,
        "gsd_m": modality.gsd_m,
        "bands": list(modality.band_names),
        "wavelengths_um": [band.wavelength_um for band in modality.bands],
    }
    zarr.create_group(root, path=modality.name, attributes=attributes, overwrite=True)
    described: dict[str, Any] = {
        "bands": list(modality.band_names),
        "units": modality.units,
        "grid_mapping": "spatial_ref",
    }
    if (modality.scale, modality.offset) != (1.0, 0.0):
        described |= {"scale_factor": modality.scale, "add_offset": modality.offset}
    _create_sharded(root, values, ("day", "band", "y", "x"), described)
    flags = {
        "flag_values": list(FLAG_MEANINGS),
        "flag_meanings": " ".join(FLAG_MEANINGS.values()),
        "grid_mapping": "spatial_ref",
    }
    _create_sharded(root, valid, ("day", "y", "x"), flags)
    _create_grid(root, modality.name, grid, modality.gsd_m)
    _create_small(
        root,
        f"{modality.name}/day",
        days,
        ("day",),
        {"units": DAYS_UNITS, "calendar": "standard", "_FillValue": DAY_UNKNOWN},
    )
    return days


def create_label(root: Path, label: Label, grid: Grid, layout: ArrayLayout) -> None:
    """Group, metadata and coordinates of a truth layer."""
    zarr.create_group(root, path=f"truth/{label.name}", attributes={"gsd_m": label.gsd_m}, overwrite=True)
    attributes: dict[str, Any] = {"grid_mapping": "spatial_ref"}
    if label.classes:
        attributes |= {
            "flag_values": list(range(len(label.classes))),
            "flag_meanings": " ".join(c.replace(" ", "_") for c in label.classes),
        }
    if label.units:
        attributes["units"] = label.units
    _create_sharded(root, layout, ("y", "x"), attributes)
    _create_grid(root, f"truth/{label.name}", grid, label.gsd_m)


def create_table(root: Path, name: str, layout: ArrayLayout) -> None:
    """Metadata of one column of a truth table."""
    if not (root / "truth" / name / "zarr.json").exists():
        zarr.create_group(root, path=f"truth/{name}")
    _create_sharded(root, layout, ("row",), {})


def consolidate(root: Path) -> None:
    """Write consolidated metadata; xarray would warn of its absence, zarr-python warns of its presence."""
    with warnings.catch_warnings():
        # the writer's own files lie beside the groups
        warnings.filterwarnings("ignore", "Object at .* is not recognized as a component", UserWarning)
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part", UserWarning)
        zarr.consolidate_metadata(root)


def _create_sharded(root: Path, layout: ArrayLayout, dimensions: tuple[str, ...], attributes: dict[str, Any]) -> None:
    item = layout.numpy_dtype.itemsize
    shuffle: Literal["bitshuffle", "noshuffle"] = "bitshuffle" if layout.bitshuffle else "noshuffle"
    zarr.create_array(
        root,
        name=layout.name,
        shape=layout.shape,
        chunks=layout.chunk,
        shards=layout.shard,
        dtype=layout.dtype,
        fill_value=layout.fill,
        compressors=[
            BloscCodec(typesize=item, cname=layout.codec, clevel=BLOSC_LEVELS[layout.codec], shuffle=shuffle),
            Crc32cCodec(),
        ],
        dimension_names=dimensions,
        attributes=attributes,
        overwrite=True,
    )


def _create_grid(root: Path, group: str, grid: Grid, gsd_m: float) -> None:
    """Pixel-centre coordinates and the CRS, as CF grid mapping and as rioxarray and GDAL read it.

    Points have no raster in any CRS: their rows are numbered, with a latitude and a longitude each.
    """
    if grid.places:
        _create_points(root, group, grid, gsd_m)
        return
    x0, y0, step = (value / grid.unit_m for value in (grid.x0_m, grid.y0_m, gsd_m))
    rows = y0 - (np.arange(side_pixels(grid.height_m, gsd_m)) + 0.5) * step
    columns = x0 + (np.arange(side_pixels(grid.width_m, gsd_m)) + 0.5) * step
    crs = CRS.from_user_input(grid.crs)
    named = CF_AXES["projected" if crs.is_projected else "geographic"]
    _create_small(root, f"{group}/y", rows, ("y",), named["y"])
    _create_small(root, f"{group}/x", columns, ("x",), named["x"])
    wkt = crs.to_wkt()
    transform = f"{x0!r} {step!r} 0.0 {y0!r} 0.0 {-step!r}"
    attributes = {"crs_wkt": wkt, "spatial_ref": wkt, "GeoTransform": transform}
    _create_small(root, f"{group}/spatial_ref", np.zeros((), np.int32), (), attributes)


def _create_points(root: Path, group: str, grid: Grid, gsd_m: float) -> None:
    rows, columns = side_pixels(grid.height_m, gsd_m), side_pixels(grid.width_m, gsd_m)
    sites = np.arange(rows) * len(grid.places) // rows
    _create_small(root, f"{group}/y", sites, ("y",), {"long_name": "number of the site"})
    _create_small(root, f"{group}/x", np.arange(columns), ("x",), {})
    for axis, name in enumerate(("latitude", "longitude")):
        degrees = np.array([place[axis] for place in grid.places])[sites]
        units = "degrees_north" if axis == 0 else "degrees_east"
        _create_small(root, f"{group}/{name}", degrees, ("y",), {"standard_name": name, "units": units})
    wkt = CRS.from_epsg(4326).to_wkt()
    _create_small(root, f"{group}/spatial_ref", np.zeros((), np.int32), (), {"crs_wkt": wkt, "spatial_ref": wkt})


def _create_small(
    root: Path, name: str, values: NDArray[Any], dimensions: tuple[str, ...], attributes: dict[str, Any]
) -> None:
    zarr.create_array(
        root,
        name=name,
        data=values,
        chunks=tuple(max(1, n) for n in values.shape),
        compressors=[Crc32cCodec()],
        fill_value=DAY_UNKNOWN if name.endswith("/day") else 0,
        dimension_names=dimensions,
        attributes=attributes,
        config={"write_empty_chunks": True},
        overwrite=True,
    )
