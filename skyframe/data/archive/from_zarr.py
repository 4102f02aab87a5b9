"""A modality whose arrays lie in somebody else's Zarr store."""

from __future__ import annotations

import base64
import posixpath
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN
from skyframe.data.archive.coordinates import axis_of, days_of_dates, days_of_times, find_crs, short_crs
from skyframe.data.archive.description import BAND, Description, ModalityEntry
from skyframe.data.archive.placed import (
    Place,
    Placed,
    check_dtype,
    check_place,
    check_scaling,
    layer_ratio,
    rule_of,
    scaling_of,
)
from skyframe.data.archive.pool import OpenedPool
from skyframe.data.archive.source import ModalitySource
from skyframe.data.archive.stack import Part, ZarrStack
from skyframe.data.archive.tiled import ROLES, damaged
from skyframe.data.archive.zarr_array import ZarrArray, open_array
from skyframe.data.store import Store
from skyframe.spec import InputError, Modality

NAMES = {
    "time": ("time", "t", "day", "date"),
    "band": ("band", "bands", "channel", "variable", "wavelength"),
    "y": ("y", "lat", "latitude", "northing"),
    "x": ("x", "lon", "longitude", "easting"),
}
"""Dimension names that are understood without being told."""


@dataclass(frozen=True)
class _Lying:
    """Where the pixels of an array lie, and whether it holds rows from the south or columns from the east."""

    place: Place
    flips: tuple[bool, bool]


def open_zarr_modality(description: Description, name: str, store: Store, pool: OpenedPool) -> Placed:
    """Open one modality of a Zarr archive: metadata and coordinates, no pixels.

    Raises:
        InputError: an array is absent or not understood, or contradicts the spec.
    """
    entry, modality, where = description.file.modalities[name], description.spec.modality(name), description.where(name)
    arrays = _band_arrays(entry, modality, store, pool, where)
    first = arrays[0]
    for array in arrays:
        if (array.shape, array.roles, array.numpy_dtype) != (first.shape, first.roles, first.numpy_dtype):
            raise InputError(
                f"{where}: {array.name} is {array.dtype} {list(array.shape)} over {_axes_of(array)}, {first.name} is "
                f"{first.dtype} {list(first.shape)} over {_axes_of(first)}, expected the same; describe them apart"
            )
        check_dtype(modality, array.numpy_dtype.name, f"{where}: {array.name}")
        check_scaling(modality, scaling_of(array.attrs), f"{where}: {array.name}")
    days, order = _days(entry, first, modality, where)
    lying = _lie(description, entry, first, where)
    values = _stack(arrays, _band_places(entry, modality, first, where), len(modality.bands), len(days), order, lying)
    check_place(modality, lying.place, values.shape[2:], where)
    rule = rule_of(entry.mask, _declared(arrays, entry, where), modality)
    if not entry.mask.layer:
        return Placed(ModalitySource(values, rule), days, lying.place)
    layer = _with_roles(open_array(store, entry.mask.layer, pool, f"{where}.mask"), replace(entry, dims=()), where)
    mask = _stack([layer], ((0,),), 1, len(days), order, _lie(description, entry, layer, where))
    _check_layer(values, layer, first, _lie(description, entry, layer, where).place, lying.place, f"{where}.mask")
    ratio = layer_ratio(values.shape[2:], mask.shape[2:], f"{where}.mask")
    return Placed(ModalitySource(values, rule, mask, ratio), days, lying.place)


def _band_arrays(
    entry: ModalityEntry, modality: Modality, store: Store, pool: OpenedPool, where: str
) -> list[ZarrArray]:
    if BAND in entry.array:
        names = [entry.array.replace(BAND, entry.bands.get(band, band)) for band in modality.band_names]
    else:
        names = [entry.array]
    return [_with_roles(open_array(store, name, pool, where), entry, where) for name in names]


def _with_roles(array: ZarrArray, entry: ModalityEntry, where: str) -> ZarrArray:
    """The array with what each of its axes is."""
    told = {entry.time: "time", entry.y: "y", entry.x: "x"}
    known = {**{n: role for role, names in NAMES.items() for n in names}, **{n: r for n, r in told.items() if n}}
    roles = entry.dims or tuple(known.get(dim, "") for dim in array.dims)
    strange = [d for d, n in zip(array.dims or roles, array.shape, strict=False) if n > 1 and not known.get(d)]
    if entry.dims:
        strange = [role for role, n in zip(roles, array.shape, strict=False) if role not in ROLES and (role or n > 1)]
    named = [role for role in roles if role]
    if len(roles) != len(array.shape) or strange or not {"y", "x"} <= set(named) or len(set(named)) < len(named):
        raise InputError(
            f"{where}: array {array.name} {list(array.shape)} has dimensions {_axes_of(array) or 'without names'}, "
            f"expected y and x, and time or band among them; say them in that order, such as dims: [time, y, x]"
        )
    return replace(array, roles=roles)


def _axes_of(array: ZarrArray) -> str:
    return ", ".join(array.roles or array.dims)


def _band_places(entry: ModalityEntry, modality: Modality, first: ZarrArray, where: str) -> tuple[tuple[int, ...], ...]:
    """By array, which element of its band axis is which band of the modality."""
    count = len(modality.bands)
    if BAND in entry.array:
        if "band" in first.roles and first.shape[first.roles.index("band")] != 1:
            raise InputError(
                f"{where}: {first.name} has a band axis and {BAND} in its name, expected one of the two; name the "
                "array without it"
            )
        return tuple(tuple(0 if i == own else -1 for i in range(count)) for own in range(count))
    if "band" not in first.roles:
        if count == 1:
            return ((0,),)
        raise InputError(
            f"{where}: {first.name} has no band axis for {count} bands, expected one, or {BAND} in its name; correct it"
        )
    length = first.shape[first.roles.index("band")]
    there = entry.band_order or _band_names(first)
    wanted = [entry.bands.get(band, band) for band in modality.band_names]
    if len(there) != length or not set(wanted) <= set(there):
        raise InputError(
            f"{where}: the {length} bands of {first.name} are called {', '.join(there) or 'nothing'}, expected "
            f"{', '.join(wanted)} among them; name them in stored order under band_order:"
        )
    return (tuple(there.index(band) for band in wanted),)


def _band_names(array: ZarrArray) -> tuple[str, ...]:
    """Labels of the band axis by its coordinate, empty where there is none."""
    import zarr

    axis = array.roles.index("band")
    if len(array.dims) <= axis:
        return ()
    path = posixpath.join(posixpath.dirname(array.name), array.dims[axis])
    try:
        return tuple(str(v) for v in np.asarray(zarr.open_array(array.store.for_zarr(path), mode="r")[...]).tolist())
    except (FileNotFoundError, ValueError, KeyError):
        return ()


def _stack(
    arrays: list[ZarrArray],
    bands: tuple[tuple[int, ...], ...],
    count: int,
    dates: int,
    order: NDArray[np.intp],
    lying: _Lying,
) -> ZarrStack:
    first = arrays[0]
    height, width = (first.shape[first.roles.index(role)] for role in ("y", "x"))
    parts = tuple(Part(array, places) for array, places in zip(arrays, bands, strict=True))
    return ZarrStack(parts, (dates, count, height, width), order, lying.flips)


def _coordinate(array: ZarrArray, role: str, told: str, where: str) -> tuple[ZarrArray, NDArray[Any]]:
    """The coordinate of an axis and its values."""
    axis = array.roles.index(role)
    named = array.dims[axis] if len(array.dims) > axis else ""
    folder = posixpath.dirname(array.name)
    for name in (told, named) if told or named else NAMES[role]:
        if name:
            try:
                found = open_array(array.store, posixpath.join(folder, name), array.pool, where)
            except InputError:
                continue
            if found.shape == (array.shape[axis],):
                return found, _read_whole(found)
    remedy = "list the dates under dates:" if role == "time" else f"name it under {role}:"
    raise InputError(
        f"{where}: {array.name} has no coordinate {told or named or role!r} of {array.shape[axis]} values; {remedy}"
    )


def _read_whole(array: ZarrArray) -> NDArray[Any]:
    """A coordinate: short, and nothing of it may be absent."""
    out = np.empty(array.shape, array.numpy_dtype.newbyteorder("="))
    flat, chunk = array.scratch()
    for number in range(-(-array.shape[0] // array.chunk[0])):
        packed = array.fetch((number,))
        if packed is None:
            raise damaged(array.store, array.name, (number,), "is missing")
        array.decode((number,), packed, flat)
        start = number * array.chunk[0]
        out[start : start + array.chunk[0]] = chunk[: len(out) - start]
    return out


def _days(
    entry: ModalityEntry, array: ZarrArray, modality: Modality, where: str
) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Days in rising order, and the place in the store of each."""
    if "time" not in array.roles:
        if entry.dates or modality.kind in ("series", "weather"):
            raise InputError(
                f"{where}: {array.name} has no time axis, expected one as kind {modality.kind} has dates; correct dims"
            )
        return np.array([DAY_UNKNOWN], np.int32), np.zeros(1, np.intp)
    if entry.dates:
        days = days_of_dates(entry.dates, f"{where}.dates")
        if len(days) != array.shape[array.roles.index("time")]:
            raise InputError(
                f"{where}.dates: lists {len(days)} dates for {array.shape[array.roles.index('time')]} of {array.name}, "
                "expected one for each; correct the list"
            )
    else:
        time, values = _coordinate(array, "time", entry.time, where)
        days = days_of_times(values, time.attrs, f"{where}: {time.name}")
    order = np.argsort(days, kind="stable")
    return days[order], order


def _lie(description: Description, entry: ModalityEntry, array: ZarrArray, where: str) -> _Lying:
    y, rows = _coordinate(array, "y", entry.y, where)
    x, columns = _coordinate(array, "x", entry.x, where)
    south, step_y, falls = axis_of(rows, f"{where}: {y.name}")
    west, step_x, leftward = axis_of(columns, f"{where}: {x.name}")
    crs = description.file.crs or find_crs(_mappings(array), y.attrs)
    named, unit_m = short_crs(crs, where)
    place = Place(west, south + step_y * len(rows), step_x, step_y, named, unit_m)
    return _Lying(place, (not falls, leftward))


def _mappings(array: ZarrArray) -> list[Mapping[str, Any]]:
    """Attributes that may state the CRS: of the grid mapping that the array names, and its own."""
    found: list[Mapping[str, Any]] = []
    folder = posixpath.dirname(array.name)
    for name in (array.attrs.get("grid_mapping"), "spatial_ref", "crs"):
        if name:
            try:
                found.append(open_array(array.store, posixpath.join(folder, name), array.pool, "crs").attrs)
            except InputError:
                continue
    return [*found, array.attrs]


def _declared(arrays: list[ZarrArray], entry: ModalityEntry, where: str) -> list[float]:
    """Stored values that the archive's metadata declare as missing."""
    found: list[float] = []
    for array in arrays:
        stated = [array.attrs[key] for key in ("_FillValue", "missing_value") if array.attrs.get(key) is not None]
        fill = array.attrs.get("zarr_fill")  # version 2 has no other place for it; xarray takes it so
        if fill == 0 and not stated and entry.mask.nodata is None and not entry.mask.layer:
            raise InputError(
                f"{where}: {array.name} has fill value 0, which can mean missing or zero, expected the description to "
                "say; add mask: {nodata: [0]} or mask: {nodata: []}"
            )
        if fill:
            stated.append(fill)
        found += [_number(value) for value in stated]
    return found


def _number(value: Any) -> float:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:  # xarray writes floats into version 3 attributes so
            return float(struct.unpack("<d", base64.b64decode(value))[0])
    return float(value[0] if isinstance(value, list) else value)


def _check_layer(
    values: ZarrStack, layer: ZarrArray, first: ZarrArray, place: Place, expected: Place, where: str
) -> None:
    """The mask layer has the dates and the corner of the values."""
    if "time" in layer.roles and layer.shape[layer.roles.index("time")] != values.shape[0]:
        raise InputError(
            f"{where}: {layer.name} has {layer.shape[layer.roles.index('time')]} dates, {first.name} has "
            f"{values.shape[0]}, expected the same; name the layer of these dates"
        )
    away = max(abs(place.x0 - expected.x0), abs(place.y0 - expected.y0))
    if away > 0.05 * expected.step_x or place.crs != expected.crs:
        raise InputError(
            f"{where}: {layer.name} begins at {place.x0:.10g}, {place.y0:.10g}, the values at {expected.x0:.10g}, "
            f"{expected.y0:.10g}, expected one corner; resample it"
        )
