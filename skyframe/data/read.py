"""From a cube and a window to `Series`: decodes the chunks that the window and its dates need, and no others.

What the store lacks is told apart: a shard or chunk that was never written reads as masked, one that the manifest
lists and the disk does not hold is an error that names array and chunk.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN
from skyframe.data.cube import CLEAR, NEVER_WRITTEN, NODATA, ArrayRecord, Cube, whole_pixels
from skyframe.data.shard import ArrayLayout, OpenShard, damage
from skyframe.sample import Series
from skyframe.spec import CubeSpec, InputError, Modality, Window, did_you_mean

Backend = Literal["own", "zarr"]
Box = tuple[tuple[int, int], ...]  # first and past-the-last element along each axis after the first
Picks = Mapping[str, NDArray[np.integer[Any]]]


def read_series(
    cube: Cube,
    window: Window,
    spec: CubeSpec | None = None,
    names: Sequence[str] | None = None,
    dates: Picks | None = None,
    backend: Backend = "own",
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
        backend: `own` reads shards itself, `zarr` decodes by zarr-python; both return the same values.

    Returns:
        By modality: values `[T, C, H, W]`, valid `[T, H, W]` (flag 1, clear), day `[T]`; weather is the cell at the
        window's centre, `[T, C, 1, 1]`. A modality that the cube lacks, that was never written there, or that has no
        date in range is an absent key.

    Raises:
        InputError: the window leaves the cube or is no whole number of pixels; the cube's units, scale, offset, dtype
            or GSD contradict `spec`; a chunk is lost or altered.
    """
    series = {}
    for name in names if names is not None else (spec or cube.spec).modalities:
        wanted = spec.modality(name) if spec is not None else None
        if not cube.has(name):
            cube.check_inside(window)
            continue
        stored = cube.spec.modality(name)
        bands = match_bands(cube, stored, wanted)
        picks = _pick_dates(cube, name, window, dates)
        if len(picks) and cube.covers(name, window):
            series[name] = _read_modality(cube, name, cube.pixel_box(name, window), bands, picks, backend)
    return series


def read_flags(cube: Cube, name: str, pixels: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Flags `[T, h, w]` of every date of a modality (0 nodata, 1 clear, 2 cloud, 3 shadow, 255 never written).

    Args:
        cube: an opened store.
        name: a modality that it has.
        pixels: first and past-the-last row, then column, inside the modality's grid.
    """
    top, bottom, left, right = pixels
    record = cube.manifest.arrays[f"{name}/valid"]
    flags, _ = _read_box(cube, record, range(record.layout.shape[0]), ((top, bottom), (left, right)), "own")
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
    return _read_whole(cube, record, range(top, top + side), ((left, left + side),))


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
    return {column: _read_whole(cube, r, range(r.layout.shape[0]), ()) for column, r in records.items()}


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
    if picks.ndim != 1 or (
        len(picks) and (picks.dtype.kind not in "iu" or picks.min() < 0 or picks.max() >= len(days))
    ):
        raise InputError(
            f"cube {cube.name}: {name} dates {picks.tolist()} are not positions in its {len(days)} dates; index "
            f"into cube.days({name!r})"
        )
    return picks.astype(np.intp)


def _read_modality(
    cube: Cube,
    name: str,
    pixels: tuple[int, int, int, int],
    bands: NDArray[np.intp] | None,
    picks: NDArray[np.intp],
    backend: Backend,
) -> Series:
    top, bottom, left, right = pixels
    record = cube.manifest.arrays[f"{name}/values"]
    area: Box = ((top, bottom), (left, right))
    dates = picks.tolist()
    flags, _ = _read_box(cube, cube.manifest.arrays[f"{name}/valid"], dates, area, backend)
    values, missing = _read_box(cube, record, dates, ((0, record.layout.shape[1]), *area), backend)
    for chunk, rows, spot in missing:
        there = flags[(rows, *spot[1:])]
        if not np.isin(there, (NODATA, NEVER_WRITTEN)).all():
            raise damage(
                cube.path, record.layout, f"chunk {chunk}", "is missing although its flags say that it was observed"
            )
    carried = np.ones(values.shape[1], bool)
    if bands is not None:
        carried = bands >= 0
        values = values[:, np.maximum(bands, 0)]
        values[:, ~carried] = 0
    return Series(values=values, valid=flags == CLEAR, day=cube.days(name)[picks], bands=carried)


def _read_whole(cube: Cube, record: ArrayRecord, firsts: Sequence[int], box: Box) -> NDArray[np.generic]:
    """Truth: written at once, so that nothing of it may be missing."""
    out, missing = _read_box(cube, record, firsts, box, "own")
    for chunk, _, _ in missing:
        raise damage(cube.path, record.layout, f"chunk {chunk}", "is missing")
    return out


Missing = tuple[tuple[int, ...], list[int], Any]  # chunk, rows along the first axis, slices along the other axes


def _read_box(
    cube: Cube, record: ArrayRecord, firsts: Sequence[int], box: Box, backend: Backend
) -> tuple[NDArray[np.generic], list[Missing]]:
    """Elements `firsts` along the first axis (any order, repeats allowed), a box along the others.

    Returns:
        The array, and the chunks inside it that the store does not hold (there it has the fill value).
    """
    layout = record.layout
    out = np.empty((len(firsts), *(stop - start for start, stop in box)), layout.numpy_dtype)
    by_chunk: dict[int, list[int]] = {}
    for row, first in enumerate(firsts):
        by_chunk.setdefault(first // layout.chunk[0], []).append(row)
    missing: list[Missing] = []
    for place, target, inside, is_whole in _tiles(layout, box):
        if is_whole and backend == "own" and _read_straight(cube, record, firsts, place, out):
            continue
        for number, rows, shard, at in _walk(cube, record, by_chunk, place):
            if shard is None or not shard.has(at):
                out[(rows, *target)] = layout.fill
                missing.append(((number, *place), rows, target))
            elif backend == "own":
                in_chunk = [firsts[row] - number * layout.chunk[0] for row in rows]
                _decode(shard, at, out, rows, in_chunk, target, inside)
    if backend == "zarr":
        _fill_by_zarr(cube, layout, firsts, box, out)
    return out, missing


def _read_straight(
    cube: Cube, record: ArrayRecord, firsts: Sequence[int], place: tuple[int, ...], out: NDArray[np.generic]
) -> bool:
    """The usual case in one loop: an aligned window of one chunk, one chunk per date, one shard, nothing left out.

    Returns:
        Whether it was this case; nothing is read otherwise.
    """
    layout = record.layout
    shard_at, base = layout.locate((0, *place))
    if layout.chunk[0] != 1 or layout.shard_grid[0] != 1 or shard_at not in record.shards:
        return False
    shard = cube.pool.get(layout, shard_at, record.shards[shard_at])
    stride = layout.row_strides[0]
    rows = [base + first * stride for first in firsts]
    if not shard.has_all(rows):
        return False
    shard.read_chunks(rows, out)
    return True


def _walk(
    cube: Cube, record: ArrayRecord, by_chunk: dict[int, list[int]], place: tuple[int, ...]
) -> Iterator[tuple[int, list[int], OpenShard | None, int]]:
    """Chunks along the first axis at one place: number, output rows, shard (None: never written), row in its index."""
    layout = record.layout
    (_, *where), base = layout.locate((0, *place))
    count, stride = layout.chunks_per_shard[0], layout.row_strides[0]
    shard, opened = None, -1
    for number, rows in by_chunk.items():
        file, inner = divmod(number, count)
        if file != opened:
            key = (file, *where)
            shard = cube.pool.get(layout, key, record.shards[key]) if key in record.shards else None
            opened = file
        yield number, rows, shard, base + inner * stride


def _decode(
    shard: OpenShard, at: int, out: NDArray[np.generic], rows: list[int], in_chunk: list[int], target: Any, inside: Any
) -> None:
    """One chunk by way of a scratch array into the rows and the box of the output that it serves."""
    scratch = np.empty(shard.layout.chunk, out.dtype)
    shard.read_chunk(at, scratch)
    if len(rows) == 1:  # basic slicing is several times faster than a list of one
        out[(rows[0], *target)] = scratch[(in_chunk[0], *inside)]
    else:
        out[(rows, *target)] = scratch[(in_chunk, *inside)]


def _tiles(layout: ArrayLayout, box: Box) -> Iterator[tuple[tuple[int, ...], Any, Any, bool]]:
    """Chunks that a box touches along the axes after the first.

    Yields chunk numbers, slices in the output, slices in the chunk, and whether the chunk is the whole box, so that
    it can be decoded in place.
    """
    axes = []
    for (start, stop), size in zip(box, layout.chunk[1:], strict=True):
        axis = []
        for number in range(start // size, -(-stop // size)):
            first, last = max(start, number * size), min(stop, (number + 1) * size)
            inside = slice(first - number * size, last - number * size)
            axis.append((number, slice(first - start, last - start), inside, (stop - start) == (last - first) == size))
        axes.append(axis)
    for combination in itertools.product(*axes):
        numbers, targets, insides, wholes = zip(*combination, strict=True) if combination else ((), (), (), ())
        yield numbers, targets, insides, all(wholes)


def _fill_by_zarr(cube: Cube, layout: ArrayLayout, firsts: Sequence[int], box: Box, out: NDArray[np.generic]) -> None:
    """The contiguous span, then the picks in memory: zarr-python is several times slower at picking in a shard."""
    import zarr

    low, high = min(firsts), max(firsts) + 1
    try:
        span = np.asarray(
            zarr.open_array(cube.path / layout.name, mode="r")[(slice(low, high), *(slice(*b) for b in box))]
        )
    except (RuntimeError, ValueError) as error:
        raise damage(cube.path, layout, f"a chunk in {[(low, high), *box]}", f"does not decode ({error})") from error
    out[...] = span[[f - low for f in firsts]]
