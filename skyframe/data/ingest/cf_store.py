"""Opening a store in CF form: its axes by their attributes, its grid in metres or degrees, values by its encoding."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyframe.data.ingest import netcdf
from skyframe.data.ingest.source import check_file, short_crs
from skyframe.spec import METRES_PER_DEGREE, Grid, InputError

if TYPE_CHECKING:
    import xarray as xr

STANDARD_NAMES = {
    "t": ("time",),
    "y": ("latitude", "projection_y_coordinate"),
    "x": ("longitude", "projection_x_coordinate"),
}
COMMON_NAMES = {"t": ("time", "t"), "y": ("y", "lat", "latitude"), "x": ("x", "lon", "longitude")}

MAX_DRIFT_PX = 0.05  # ours
"""Pixels by which the last centre may differ from an even spacing: coordinates kept as float32 drift that far."""


def open_store(path: Path, files: ExitStack) -> xr.Dataset:
    """Open lazily, values as stored, axes called t, y and x, north row and first date first.

    Args:
        path: a Zarr folder or a netCDF file.
        files: closes it.

    Raises:
        InputError: neither of them, no y or x, dates that cannot be decoded, chunks missing of an array that does not
            say what a missing chunk means.
    """
    import xarray as xr

    is_zarr = path.is_dir() and any((path / name).is_file() for name in (".zgroup", ".zmetadata", "zarr.json"))
    if path.is_dir() and not is_zarr:
        raise InputError(f"{path}: a folder without .zgroup or zarr.json, expected a Zarr store or a netCDF file")
    engine = "zarr" if is_zarr else netcdf.MAGICS[check_file(path, tuple(netcdf.MAGICS), "netCDF")]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated metadata", RuntimeWarning)
            data = files.enter_context(xr.open_dataset(path, engine=engine, mask_and_scale=False))
    except (ValueError, OSError, KeyError, EOFError) as error:
        raise InputError(f"{path.name}: cannot be read ({' '.join(str(error).split())}); fetch it again") from error
    if is_zarr:
        _check_chunks(path, data)
    names = {axis: _axis(data, axis, path.name) for axis in ("t", "y", "x")}
    data = data.rename({name: axis for axis, name in names.items() if name is not None and name != axis})
    for axis in (a for a, name in names.items() if name is not None):
        if data.sizes[axis] == 0:
            what = "dates" if axis == "t" else f"pixels along {names[axis]}"
            raise InputError(f"{path.name}: has no {what} (length 0), expected at least one; check the export")
    if names["t"] is not None and not np.issubdtype(data["t"].dtype, np.datetime64):
        raise InputError(
            f"{path.name}: {names['t']} holds {data['t'].dtype}, expected dates with CF units such as "
            "'days since 1990-01-01' in the standard calendar; add the attribute units"
        )
    return netcdf.in_order(data)


def _axis(data: xr.Dataset, axis: str, where: str) -> str | None:
    """Name of the one-dimensional coordinate that is an axis; a store need not have dates."""
    coords = [str(name) for name, values in data.coords.items() if values.dims == (name,)]
    for test in (
        lambda name: data[name].attrs.get("standard_name") in STANDARD_NAMES[axis],
        lambda name: data[name].attrs.get("axis") == {"t": "T"}.get(axis, axis.upper()),
        lambda name: name.lower() in COMMON_NAMES[axis],
    ):
        found = [name for name in coords if test(name)]
        if len(found) == 1:
            return found[0]
    if axis == "t":
        return None
    raise InputError(
        f"{where}: no coordinate along {axis} by standard_name, axis or name, found {', '.join(coords) or 'none'}; "
        f"give it the attribute standard_name ({' or '.join(STANDARD_NAMES[axis])})"
    )


def _check_chunks(path: Path, data: xr.Dataset) -> None:
    """Refuse integers whose chunks are not all there and whose fill is not declared: they would read as values."""
    import zarr

    for name, values in data.data_vars.items():
        if values.dtype.kind not in "iu" or {"_FillValue", "missing_value"} & set(values.attrs):
            continue
        array = zarr.open_array(path / str(name), mode="r")
        if array.nchunks_initialized < array.nchunks:
            raise InputError(
                f"{path.name}: {name} has {array.nchunks_initialized} of {array.nchunks} chunks and no _FillValue that "
                "says what the others mean, expected all chunks or a fill value; restore them or declare it"
            )


def decode(
    variable: xr.DataArray, box: tuple[slice, slice], shape_px: tuple[int, int], where: str
) -> NDArray[np.float64]:
    """One block of a variable in its own units.

    Args:
        variable: as stored, with its CF attributes (`_FillValue`, `missing_value`, `valid_min`, `valid_max`,
            `valid_range`, `_Unsigned`, `scale_factor`, `add_offset`).
        box: rows and columns.
        shape_px: height and width; a variable without rows and columns is repeated over them.
        where: file and modality, for the message.

    Returns:
        float64 `[T, h, w]` (T = 1 without dates), NaN where missing.
    """
    flat = "y" not in variable.dims
    chosen = variable if flat else variable.isel(y=box[0], x=box[1])
    raw = chosen.transpose(*(a for a in ("t", "y", "x") if a in chosen.dims)).values
    if raw.dtype.kind not in "iufb":
        raise InputError(f"{where}: {variable.name} holds {raw.dtype}, expected numbers; leave it out of the spec")
    attributes = variable.attrs
    gone = np.isnan(raw) if raw.dtype.kind == "f" else np.zeros(raw.shape, bool)
    for key in ("_FillValue", "missing_value"):
        gone = gone | np.isin(raw, np.atleast_1d(attributes.get(key, [])))
    if attributes.get("_Unsigned") == "true" and raw.dtype.kind == "i":
        raw = raw.view(f"u{raw.dtype.itemsize}")
    low, high = attributes.get("valid_range", (-np.inf, np.inf))
    gone |= (raw < max(low, attributes.get("valid_min", -np.inf))) | (
        raw > min(high, attributes.get("valid_max", np.inf))
    )
    physical = raw.astype(np.float64) * attributes.get("scale_factor", 1.0) + attributes.get("add_offset", 0.0)
    physical = np.where(gone, np.nan, physical)
    if "t" not in chosen.dims:
        physical = physical[None]
    return np.array(np.broadcast_to(physical[:, None, None], (len(physical), *shape_px))) if flat else physical


def grid_of(data: xr.Dataset, gsd_m: float, where: str) -> Grid:
    """Corner, extent and CRS from the pixel centres, in the CRS's metres, or in degrees of `METRES_PER_DEGREE`.

    Raises:
        InputError: no CRS, uneven centres, or a spacing that is not `gsd_m`.
    """
    crs, unit_m = _crs(data, where)
    steps = {}
    for axis, sign in (("y", -1.0), ("x", 1.0)):
        centres = sign * data[axis].values.astype(np.float64) * unit_m
        step = float(centres[-1] - centres[0]) / (len(centres) - 1) if len(centres) > 1 else gsd_m
        even = centres[0] + step * np.arange(len(centres))
        uneven = np.abs(centres - even).max() > MAX_DRIFT_PX * abs(step)
        if uneven or abs(step - gsd_m) * len(centres) > MAX_DRIFT_PX * gsd_m:
            raise InputError(
                f"{where}: {axis} steps by {step:.10g} m{' unevenly' if uneven else ''} ({step / unit_m:.10g} in the "
                f"store's unit), expected {gsd_m:.10g} m as the spec's gsd_m says; correct gsd_m, or resample the store"
            )
        steps[axis] = step
    half, rows, columns = gsd_m / 2, data.sizes["y"], data.sizes["x"]
    north, west = float(data["y"].values[0]) * unit_m + half, float(data["x"].values[0]) * unit_m - half
    return Grid(crs, west, north, columns * gsd_m, rows * gsd_m, unit_m)


def _crs(data: xr.Dataset, where: str) -> tuple[str, float]:
    named = [str(v.attrs["grid_mapping"]) for v in data.data_vars.values() if "grid_mapping" in v.attrs]
    for name in (*named, "crs", "spatial_ref"):
        attributes: dict[Any, Any] = data[name].attrs if name in data.variables else {}
        wkt = attributes.get("crs_wkt") or attributes.get("spatial_ref")
        if wkt and not _in_degrees(data):
            return short_crs(str(wkt), where), 1.0
    if _in_degrees(data):
        return "EPSG:4326", METRES_PER_DEGREE
    raise InputError(
        f"{where}: no grid mapping with crs_wkt and no latitude and longitude in degrees, so the place is unknown; "
        "export it again with its CRS"
    )


def _in_degrees(data: xr.Dataset) -> bool:
    return (
        str(data["y"].attrs.get("units", "")).lower().startswith("degree")
        or data["y"].attrs.get("standard_name") == "latitude"
    )
