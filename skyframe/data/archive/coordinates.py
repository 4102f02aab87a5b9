"""Where and when the pixels of a foreign Zarr store lie, by CF (cfconventions.org, sections 4 and 5)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import day_of
from skyframe.spec import METRES_PER_DEGREE, InputError

SECONDS = {"day": 86400, "d": 86400, "hour": 3600, "hr": 3600, "h": 3600, "minute": 60, "min": 60, "second": 1}
SECONDS |= {"sec": 1, "s": 1}
REAL_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
SINCE = re.compile(
    r"\s*([A-Za-z]+?)s?\s+since\s+(\d{1,4}-\d{1,2}-\d{1,2})(?:[T ]\s*([\d:.]+))?\s*(?:Z|UTC|[+-]0?0:?00)?\s*$"
)


def days_of_dates(dates: Sequence[Any], where: str) -> NDArray[np.int32]:
    """Days since 2000-01-01 of dates as a user lists them.

    Raises:
        InputError: one of them is no date.
    """
    found = []
    for text in dates:
        try:
            found.append(day_of(date.fromisoformat(str(text)[:10])))
        except ValueError as error:
            raise InputError(f"{where}: {str(text)!r} is no date, expected YYYY-MM-DD; correct it") from error
    return np.array(found, np.int32)


def days_of_times(values: NDArray[Any], attrs: Mapping[str, Any], where: str) -> NDArray[np.int32]:
    """Days since 2000-01-01 of a CF time coordinate.

    Args:
        values: numbers, or datetime64.
        attrs: of the coordinate; `units` such as `hours since 1970-01-01`.
        where: for messages.

    Raises:
        InputError: no units, units or a calendar that are not understood, or a time that is missing.
    """
    if values.dtype.kind == "M":
        lost, when = np.isnat(values), values
    else:
        units, calendar = str(attrs.get("units", "")), str(attrs.get("calendar", "standard")).lower()
        match = SINCE.match(units)
        if not match or match[1].lower() not in SECONDS or calendar not in REAL_CALENDARS:
            raise InputError(
                f"{where}: has units {units!r} in calendar {calendar!r}, expected such as 'days since 1970-01-01' in a "
                "real calendar; list the dates under dates:"
            )
        lost = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
        year, month, day = (int(part) for part in match[2].split("-"))
        start = np.datetime64(f"{year:04}-{month:02}-{day:02}T{match[3] or '00:00:00'}", "ms")
        steps = np.where(lost, 0, values).astype(np.float64) * SECONDS[match[1].lower()] * 1000
        when = start + np.rint(steps).astype("timedelta64[ms]")
    if lost.any():
        raise InputError(
            f"{where}: {int(lost.sum())} of {len(values)} times are missing, expected all; repair the store"
        )
    days = when.astype("datetime64[D]") - np.datetime64("2000-01-01", "D")
    return np.asarray(days.astype(np.int64).astype(np.int32))


def axis_of(centres: NDArray[Any], where: str) -> tuple[float, float, bool]:
    """Where an axis of pixel centres begins.

    Returns:
        Its lowest edge, the pixel size, and whether the coordinates fall.

    Raises:
        InputError: fewer than two pixels, or not evenly spaced.
    """
    values = np.asarray(centres, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise InputError(f"{where}: has {values.size} values, expected the centres of two pixels at least; check it")
    step = (values[-1] - values[0]) / (len(values) - 1)
    line = values[0] + step * np.arange(len(values))
    if not np.isfinite(step) or step == 0 or np.abs(values - line).max() > 0.05 * abs(step):
        raise InputError(
            f"{where}: coordinates are not evenly spaced, expected pixels of one size; resample the archive into a cube"
        )
    return float(min(values[0], values[-1]) - abs(step) / 2), float(abs(step)), bool(step < 0)


def find_crs(attrs: Sequence[Mapping[str, Any]], y_attrs: Mapping[str, Any]) -> str:
    """The CRS that grid-mapping attributes state, EPSG:4326 for latitudes, else an empty string."""
    for tree in attrs:
        for key in ("crs_wkt", "spatial_ref", "epsg_code", "proj:code", "crs"):
            if isinstance(tree.get(key), str) and tree[key]:
                return str(tree[key])
        if isinstance(tree.get("proj:epsg"), int):
            return f"EPSG:{tree['proj:epsg']}"
    degrees = ("degrees_north", "degree_north", "degrees_N")
    return "EPSG:4326" if y_attrs.get("units") in degrees or y_attrs.get("standard_name") == "latitude" else ""


def short_crs(text: str, where: str) -> tuple[str, float]:
    """A CRS as `EPSG:<code>` where it has one, and what one of its units is in metres (see `Grid.unit_m`).

    Raises:
        InputError: none, or in neither metres nor degrees.
    """
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        crs = CRS.from_user_input(text)
    except CRSError as error:
        raise InputError(
            f"{where}: the archive says {text[:40]!r} of its coordinate reference system, expected one such as "
            "EPSG:32631; give crs: in the description"
        ) from error
    code = crs.to_epsg()
    unit = crs.axis_info[0].unit_name if crs.axis_info else ""
    if not (crs.is_geographic or (crs.is_projected and unit == "metre")):
        raise InputError(f"{where}: {crs.name} is in {unit or 'no unit'}, expected metres or degrees; warp the archive")
    return f"EPSG:{code}" if code else crs.to_wkt(), METRES_PER_DEGREE if crs.is_geographic else 1.0
