"""From a cube and a window to `Series`: decodes the chunks that the window and its dates need, and no others.

What the store lacks is told apart: a shard or chunk that was never written reads as masked, one that the manifest
lists and the disk does not hold is an error that names array and chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN
from skyframe.data.ahead import Read, begin
from skyframe.data.cube import CLEAR, NEVER_WRITTEN, NODATA, Box, Cube, whole_pixels
from skyframe.data.manifest import ArrayRecord
from skyframe.data.shard import damage
from skyframe.sample import Series
from skyframe.spec import CubeSpec, InputError, Modality, Window, did_you_mean

Picks = Mapping[str, NDArray[np.integer[Any]]]

Room = Callable[[str, int], tuple[NDArray[np.generic], NDArray[np.bool_]] | None]
"""Modality and number of dates -> arrays that its values and valid are to be read into, None = fresh ones."""


def read_series(
    cube: Cube,
    window: Window,
    spec: CubeSpec | None = None,
    names: Sequence[str] | None = None,
    dates: Picks | None = None,
    room: Room | None = None,
) -> dict[str, Series]:
    """Everything that a cube holds inside a window, in the stored dtype.

    Args:
        cube: an opened store.
        window: place and time range; a date that is not known lies in every range.
        spec: canonical modalities and band order (default: the cube's own). A band that the cube lacks has
            `bands` False and values 0.
        names: modalities to read (default: all of the spec).
        dates: per modality, positions in `cube.days(modality)`, in any order, repeats allowed; for a modality named
            here the window's time range is not applied.
        room: where to put what is read, such as the rows of a batch (default: fresh arrays).

    Returns:
        By modality: values `[T, C, H, W]`, valid `[T, H, W]` (flag 1, clear), day `[T]`; weather is the cell at the
        window's centre, `[T, C, 1, 1]`. A modality that the cube lacks, that was never written there, or that has no
        date in range is an absent key.

    Raises:
        InputError: the window leaves the cube or is no whole number of pixels; the cube's units, scale, offset, dtype
            or GSD contradict `spec`; a chunk is lost or altered.
    """
    chosen = plan_series(cube, window, spec, names, dates)
    begun = begin(cube, reads_of(cube, chosen))  # over a network all of it comes at once
    if begun is not None:
        begun.settle()
    return read_chosen(cube, chosen, room)


def read_chosen(cube: Cube, chosen: Sequence[SeriesRead], room: Room | None = None) -> dict[str, Series]:
    """What `plan_series` planned, as `read_series` returns it; over a network one modality after another."""
    return {one.name: read_box(cube, one, room) for one in chosen}


class SeriesRead(NamedTuple):
    """One modality of a window: pixel box, positions of its bands in the store (None: as they are), and its dates."""

    name: str
    pixels: tuple[int, int, int, int]
    bands: NDArray[np.intp] | None
    picks: NDArray[np.intp]


def plan_series(
    cube: Cube,
    window: Window,
    spec: CubeSpec | None = None,
    names: Sequence[str] | None = None,
    dates: Picks | None = None,
) -> list[SeriesRead]:
    """What `read_series` will read, by the manifest alone; takes its arguments."""
    chosen = []
    for name in names if names is not None else (spec or cube.spec).modalities:
        wanted = spec.modality(name) if spec is not None else None
        if not cube.has(name):
            cube.check_inside(window)
            continue
        bands = match_bands(cube, cube.spec.modality(name), wanted)
        picks = _pick_dates(cube, name, window, dates)
        if len(picks) and cube.covers(name, window):
            chosen.append(SeriesRead(name, cube.pixel_box(name, window), bands, picks))
    return chosen


def reads_of(cube: Cube, chosen: Sequence[SeriesRead]) -> list[Read]:
    """The flags and values that `read_series` asks the cube's reader for."""
    made: list[Read] = []
    for name, (top, bottom, left, right), _, picks in chosen:
        values = cube.manifest.arrays[f"{name}/values"]
        area: Box = ((top, bottom), (left, right))
        made.append((cube.manifest.arrays[f"{name}/valid"], picks, area))
        made.append((values, picks, ((0, values.layout.shape[1]), *area)))
    return made


def read_flags(cube: Cube, name: str, pixels: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Flags `[T, h, w]` of every date of a modality (0 nodata, 1 clear, 2 cloud, 3 shadow, 255 never written).

    Args:
        cube: an opened store.
        name: a modality that it has.
        pixels: first and past-the-last row, then column, inside the modality's grid.
    """
    top, bottom, left, right = pixels
    record = cube.manifest.arrays[f"{name}/valid"]
    flags, _ = cube.reader.read(record, np.arange(record.layout.shape[0]), ((top, bottom), (left, right)))
    return flags.astype(np.uint8, copy=False)


def read_label(cube: Cube, name: str, window: Window) -> NDArray[np.generic]:
    """Truth layer `[h, w]` inside a window, stored dtype.

    Raises:
        InputError: no such label, a window that leaves the cube or is no whole number of pixels, or a lost chunk.
    """
    if name not in cube.spec.labels:
        raise InputError(
            f"cube {cube.name}: no label {name!r}, it has "
            f"{', '.join(cube.labels) or 'none'}{did_you_mean(name, cube.labels)}"
        )
    cube.check_inside(window)
    gsd_m = cube.spec.labels[name].gsd_m
    top, left, side = (whole_pixels(f"label {name}", m, gsd_m) for m in (window.y_m, window.x_m, window.size_m))
    record = cube.manifest.arrays[f"truth/{name}/values"]
    return _read_whole(cube, record, np.arange(top, top + side), ((left, left + side),))


def read_table(cube: Cube, name: str) -> dict[str, NDArray[np.generic]]:
    """Columns `[N]` of a truth table.

    Raises:
        InputError: no such table, or a lost chunk.
    """
    if name not in cube.manifest.tables:
        raise InputError(
            f"cube {cube.name}: no table {name!r}, it has "
            f"{', '.join(cube.tables) or 'none'}{did_you_mean(name, cube.tables)}"
        )
    records = {column: cube.manifest.arrays[f"truth/{name}/{column}"] for column in cube.manifest.tables[name]}
    return {column: _read_whole(cube, r, np.arange(r.layout.shape[0]), ()) for column, r in records.items()}


def match_bands(cube: Cube, stored: Modality, wanted: Modality | None) -> NDArray[np.intp] | None:
    """Position in the store of each wanted band, -1 where the cube lacks it; None where the order is the same.

    Raises:
        InputError: units, scale, offset, dtype or GSD differ, or no band is shared.
    """
    if wanted is None:
        return None
    for key in ("units", "scale", "offset", "dtype", "gsd_m"):
        got, expected = getattr(stored, key), getattr(wanted, key)
        if got != expected:
            raise InputError(
                f"cube {cube.name}: {stored.name} has {key} {got!r}, the spec expects {expected!r}; ingest it "
                "with the spec of this run"
            )
    if stored.band_names == wanted.band_names:
        return None
    at = {band: position for position, band in enumerate(stored.band_names)}
    bands = np.array([at.get(band, -1) for band in wanted.band_names])
    if (bands < 0).all():
        raise InputError(
            f"cube {cube.name}: {stored.name} has bands {', '.join(stored.band_names)}, none of the spec's "
            f"{', '.join(wanted.band_names)}; check the band names"
        )
    return bands


def _pick_dates(cube: Cube, name: str, window: Window, dates: Picks | None) -> NDArray[np.intp]:
    days = cube.days(name)
    if dates is None or name not in dates:
        return np.flatnonzero(((days >= window.start_day) & (days < window.end_day)) | (days == DAY_UNKNOWN))
    picks = np.asarray(dates[name])
    listed = picks.tolist()
    if picks.ndim != 1 or (listed and (picks.dtype.kind not in "iu" or min(listed) < 0 or max(listed) >= len(days))):
        raise InputError(
            f"cube {cube.name}: {name} dates {listed} are not positions in its {len(days)} dates; index "
            f"into cube.days({name!r})"
        )
    return picks.astype(np.intp)


def read_box(cube: Cube, chosen: SeriesRead, room: Room | None = None) -> Series:
    """Some dates of a rectangle of one modality; `room` as in `read_series`.

    Raises:
        InputError: a chunk is lost or altered.
    """
    name, _, bands, picks = chosen
    of_flags, of_values = reads_of(cube, [chosen])
    record = of_values[0]
    values_room, valid_room = (room(name, len(picks)) if room is not None else None) or (None, None)
    values, missing = cube.reader.read(*of_values, out=values_room if bands is None else None)
    flags, _ = cube.reader.read(*of_flags)
    for chunk, rows, spot in missing:
        there = flags[(rows, *spot[1:])]
        if not ((there == NODATA) | (there == NEVER_WRITTEN)).all():  # np.isin takes ten times as long
            raise damage(
                cube.store, record.layout, f"chunk {chunk}", "is missing although its flags say that it was observed"
            )
    carried = np.ones(values.shape[1], bool)
    if bands is not None:
        carried = bands >= 0
        values = values.take(np.maximum(bands, 0), 1, values_room, "clip")
        values[:, ~carried] = 0
    valid = np.equal(flags, CLEAR, out=valid_room)
    return Series(values=values, valid=valid, day=cube.days(name)[picks], bands=carried)


def _read_whole(cube: Cube, record: ArrayRecord, firsts: NDArray[np.integer[Any]], box: Box) -> NDArray[np.generic]:
    """Truth: written at once, so that nothing of it may be missing."""
    out, missing = cube.reader.read(record, firsts, box)
    for chunk, _, _ in missing:
        raise damage(cube.store, record.layout, f"chunk {chunk}", "is missing")
    return out
