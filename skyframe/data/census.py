"""What a catalogue says of one cube: a row per calendar year (or one in all), from its manifest and its flags."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN, DAY_ZERO
from skyframe.data.cube import CLEAR, CLOUD, NODATA, SHADOW, Cube, known_days
from skyframe.data.manifest import ArrayRecord
from skyframe.data.read import read_flags
from skyframe.data.split import PARTS, part_by_name
from skyframe.data.table import ALL_DAYS, pack, shard_m
from skyframe.geography import equal_area_cell, places_of
from skyframe.spec import Grid, InputError

Period = Literal["year", "whole"]
Row = dict[str, Any]

MAX_CHUNKS = 64
"""Chunks of flags read per modality: all of them where there are no more, else evenly chosen ones."""


@dataclass(frozen=True)
class _Held:
    """One modality of a cube, with the flags counted date by date."""

    name: str
    days: NDArray[np.int32]
    record: ArrayRecord
    counts: NDArray[np.int64] | None  # [T, 4]: nodata, clear, cloud, shadow; None outside imagery


def rows_of(cube: Cube, period: Period, fingerprint: int) -> list[Row]:
    """Rows of a catalogue for one cube.

    Args:
        cube: an opened store.
        period: a row per calendar year in which imagery was acquired, or one row for all of it.
        fingerprint: of its manifest, kept to see later whether the cube changed.

    Returns:
        Rows by column name; what a modality does not have in a year is left out.

    Raises:
        InputError: the cube holds points, or a chunk of flags is lost or altered.
    """
    if cube.grid.places:
        raise InputError(
            f"catalogue: {cube.url} holds points, each with a place of its own, expected a cube that covers ground; "
            "name it under data.cubes"
        )
    held = [_hold(cube, name) for name in cube.spec.modalities]
    part = part_by_name(cube.spec.split, cube.name)
    common = {
        "cube": cube.name,
        "spec": cube.spec.name,
        "source": cube.spec.name,
        "weight": 1.0,
        **_lie(cube.grid),
        "labels": list(cube.labels),
        "pinned": -1 if part is None else part,
        "split": PARTS[part or 0],
        "manifest": fingerprint,
    }
    common["region"] = equal_area_cell(common["lat"], common["lon"], cube.spec.regions.cell_km2)
    return [{**common, **_span(cube, held, year, *days)} for year, *days in _spans(cube, held, period)]


def _hold(cube: Cube, name: str) -> _Held:
    imagery = cube.spec.modalities[name].kind in ("series", "image")
    record = cube.manifest.arrays[f"{name}/valid"]
    return _Held(name, cube.days(name), record, _count(cube, name, record) if imagery else None)


def _count(cube: Cube, name: str, record: ArrayRecord) -> NDArray[np.int64]:
    """Pixels of each flag and date in the chunks that are looked at."""
    layout, per_shard = record.layout, record.layout.chunks_per_shard[-2:]
    chunks = [-(-n // c) for n, c in zip(layout.shape[-2:], layout.chunk[-2:], strict=True)]
    written = record.coverage.repeat(per_shard[0], 0).repeat(per_shard[1], 1)[: chunks[0], : chunks[1]]
    places = np.argwhere(written)
    chosen = places[np.unique(np.linspace(0, len(places) - 1, min(len(places), MAX_CHUNKS)).astype(int))]
    counts = np.zeros((layout.shape[0], 4), np.int64)
    for top, left in (chosen * layout.chunk[-2:]).tolist():
        bottom, right = (
            min(start + side, n)
            for start, side, n in zip((top, left), layout.chunk[-2:], layout.shape[-2:], strict=True)
        )
        flags = read_flags(cube, name, (top, bottom, left, right))
        counts += np.stack([(flags == flag).sum((1, 2)) for flag in (NODATA, CLEAR, CLOUD, SHADOW)], axis=1)
    return counts


def _lie(grid: Grid) -> Row:
    """Where a cube lies; longitudes run on past 180 degrees rather than jump."""
    steps = np.array([0.0, 0.5, 1.0])
    y, x = (part.ravel() for part in np.meshgrid(steps, steps, indexing="ij"))
    places = places_of(grid.crs, grid.y0_m - y * grid.height_m, grid.x0_m + x * grid.width_m)
    lat, lon = places[4].tolist()
    around = lon + (places[:, 1] - lon + 180) % 360 - 180
    (south, north), (west, east) = ((float(v.min()), float(v.max())) for v in (places[:, 0], around))
    ground = {"crs": grid.crs, "x0_m": grid.x0_m, "y0_m": grid.y0_m, "width_m": grid.width_m, "height_m": grid.height_m}
    return ground | {"lat": lat, "lon": lon, "south": south, "west": west, "north": north, "east": east}


def _spans(cube: Cube, held: list[_Held], period: Period) -> Iterator[tuple[int, int, int]]:
    """Year, first day and past-the-last day of each row."""
    imagery = [h.days for h in held if h.counts is not None] or [h.days for h in held]
    years = np.unique(_years(known_days(np.concatenate(imagery)))).tolist()
    if period == "whole" or not years:
        yield years[0] if len(years) == 1 else 0, *ALL_DAYS
        return
    for year in years:
        first, last = (
            int((np.datetime64(f"{y}-01-01") - np.datetime64(DAY_ZERO)).astype(int)) for y in (year, year + 1)
        )
        yield year, first, last


def _years(days: NDArray[np.int32]) -> NDArray[np.int64]:
    return (np.datetime64(DAY_ZERO) + days.astype("timedelta64[D]")).astype("datetime64[Y]").astype(np.int64) + 1970


def _span(cube: Cube, held: list[_Held], year: int, first: int, last: int) -> Row:
    """What a cube holds in a span of days."""
    row: Row = {"year": year, "start_day": first, "end_day": last, "modalities": []}
    imagery: list[NDArray[np.int32]] = []
    identity = 0
    for h in held:
        inside = (h.days == DAY_UNKNOWN) | ((h.days >= first) & (h.days < last))
        if not inside.any():
            continue
        modality, days = cube.spec.modalities[h.name], h.days[inside]
        row["modalities"].append(h.name)
        row |= {f"{h.name}.kind": modality.kind, f"{h.name}.gsd_m": modality.gsd_m, f"{h.name}.dates": len(days)}
        row |= {f"{h.name}.shard_m": shard_m(cube, modality), f"{h.name}.written": pack(_written(h.record, inside))}
        identity = int(google_crc32c.extend(identity, h.name.encode() + days.astype("<i4").tobytes()))
        if h.counts is not None:
            imagery.append(known_days(days))
            row |= {f"{h.name}.{key}": share for key, share in _shares(h.counts[inside]).items()}
    known = np.concatenate(imagery) if imagery else np.zeros(0, np.int32)
    if len(known):
        row |= {"first_day": int(known.min()), "last_day": int(known.max())}
    for key, worst in (("cloud", max), ("clear", min)):
        shares = [row[name] for name in (f"{h.name}.{key}" for h in held) if row.get(name) is not None]
        row[key] = worst(shares) if shares else None
    row["dates_id"] = identity
    return row


def _shares(counts: NDArray[np.int64]) -> dict[str, float | None]:
    """Cloud among what was observed; clear among all, gaps too."""
    nodata, clear, cloud, shadow = counts.sum(0).tolist()
    seen = clear + cloud + shadow
    return {"cloud": cloud / seen if seen else None, "clear": clear / (seen + nodata) if seen + nodata else None}


def _written(record: ArrayRecord, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Shards of which a date inside the span was written; a shard that holds several dates counts for all of them."""
    layout = record.layout
    if layout.shard_grid[0] == 1:
        return record.coverage
    covered = np.zeros(layout.shard_grid[-2:], bool)
    wanted = set((np.flatnonzero(inside) // layout.shard[0]).tolist())
    for first, *_, row, column in record.shards:
        if first in wanted:
            covered[row, column] = True
    return covered
