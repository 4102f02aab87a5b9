"""openEO's netCDF cubes: `variable[t, y, x]` with a `crs` variable; shared by the WorldCereal and GFMAP ingesters."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyframe.data.ingest.source import check_file, short_crs
from skyframe.spec import Grid, InputError

if TYPE_CHECKING:
    import xarray as xr

MAGICS = {b"\x89HDF\r\n\x1a\n": "h5netcdf", b"CDF\x01": "scipy", b"CDF\x02": "scipy"}
"""First bytes of netCDF-4 and netCDF-3 files, and the xarray engine that reads them."""


def open_netcdf(path: Path, files: ExitStack) -> xr.Dataset:
    """Open lazily, values as stored (neither masked nor scaled), north row and first date first.

    Args:
        path: a netCDF-3 or netCDF-4 file.
        files: closes it.

    Raises:
        InputError: not such a file, no dates, dates that cannot be decoded, no `t`, `y`, `x`.
    """
    import xarray as xr

    engine = MAGICS[check_file(path, tuple(MAGICS), "netCDF")]
    try:
        data = files.enter_context(xr.open_dataset(path, engine=engine, mask_and_scale=False))
    except (ValueError, OSError, KeyError, EOFError) as error:
        raise InputError(
            f"{path.name}: cannot be read as netCDF ({' '.join(str(error).split())}); fetch it again"
        ) from error
    for name in ("t", "y", "x"):
        if name not in data.coords:
            raise InputError(
                f"{path.name}: no coordinate {name!r}, expected t, y and x; found {', '.join(map(str, data.coords))}"
            )
        if data.sizes[name] == 0:
            what = "dates" if name == "t" else f"pixels along {name}"
            raise InputError(
                f"{path.name}: has no {what} (dimension {name} has length 0), expected at least one; check the export"
            )
    if not np.issubdtype(data["t"].dtype, np.datetime64):
        raise InputError(
            f"{path.name}: t holds {data['t'].dtype}, expected dates with CF units such as 'days since 1990-01-01'"
        )
    return in_order(data)


def in_order(data: xr.Dataset) -> xr.Dataset:
    """North row, west column and first date first."""
    for name, ascending in (("t", True), ("y", False), ("x", True)):
        if name not in data.dims:
            continue
        steps = np.diff(data[name].values).astype(np.float64) * (1 if ascending else -1)
        if (steps < 0).any():  # only then: sorted reads pick by index, which HDF5 does slowly
            data = data.sortby(name, ascending=ascending)
    return data


def days_of(data: xr.Dataset) -> NDArray[np.int32]:
    """Days since 2000-01-01 of every date, int32 `[T]`, ascending."""
    stamps = data["t"].values.astype("datetime64[D]")
    return np.asarray((stamps - np.datetime64("2000-01-01", "D")).astype(np.int32))


def grid_of(data: xr.Dataset, gsd_m: float, where: str) -> Grid:
    """Corner, extent and CRS from the pixel centres.

    Raises:
        InputError: no `crs` variable, uneven centres, or a spacing that is not `gsd_m`.
    """
    if "crs" not in data.variables or not {"crs_wkt", "spatial_ref"} & set(data["crs"].attrs):
        raise InputError(
            f"{where}: no variable 'crs' with attribute crs_wkt, so the place is unknown; export it again with its CRS"
        )
    wkt = data["crs"].attrs.get("crs_wkt") or data["crs"].attrs["spatial_ref"]
    x, y = data["x"].values, data["y"].values
    for name, centres in (("x", x), ("y", -y)):
        steps = np.diff(centres)
        if steps.size and not np.allclose(steps, gsd_m, rtol=0, atol=1e-3):
            raise InputError(
                f"{where}: {name} steps by {float(steps.min()):g} to {float(steps.max()):g} m, expected {gsd_m:g} m as "
                "the spec's gsd_m says; use a spec with the file's GSD or resample the file"
            )
    half = gsd_m / 2
    return Grid(short_crs(str(wkt), where), float(x[0]) - half, float(y[0]) + half, len(x) * gsd_m, len(y) * gsd_m)


def require(data: xr.Dataset, names: Sequence[str], where: str) -> None:
    """Refuse a file that lacks one of the variables, naming it and those that were found, or mixes their dtypes.

    Stacked together, int16 and float become float, where the -1 that means "missing" would be a value.
    """
    lost = [n for n in names if n not in data.data_vars]
    if lost:
        found = ", ".join(str(v) for v in data.data_vars if v != "crs")
        raise InputError(
            f"{where}: no variable {', '.join(lost)}, expected it because the spec lists that band; found {found}; "
            "use a spec that lists what the file has"
        )
    for name in names:
        if set(data[name].dims) != {"t", "y", "x"}:
            raise InputError(
                f"{where}: {name} has dimensions {data[name].dims}, expected t, y, x; export one value per date "
                "and pixel"
            )
    if len({data[name].dtype.kind for name in names}) > 1:
        raise InputError(
            f"{where}: {', '.join(f'{name} is {data[name].dtype}' for name in names)}, expected one dtype because each "
            "says in its own way what is missing; export the bands of a sensor alike"
        )


def stack(data: xr.Dataset, names: Sequence[str], y: slice, x: slice) -> NDArray[Any]:
    """Some variables of one block as `[T, C, h, w]`, in the file's dtype."""
    return np.stack([data[n].transpose("t", "y", "x")[:, y, x].values for n in names], axis=1)
