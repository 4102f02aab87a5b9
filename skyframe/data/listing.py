"""Writing a catalogue: cubes that it does not list yet, or that changed, are opened and counted; the rest is kept."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np

from skyframe.data.catalogue import Catalogue, Settings, arrow_schema, with_split, write_catalogue
from skyframe.data.census import Row, rows_of
from skyframe.data.cube import cube_name, open_cube
from skyframe.data.manifest import MANIFEST
from skyframe.data.split import SplitRule
from skyframe.spec import InputError

if TYPE_CHECKING:
    import pyarrow as pa

SAVE_EVERY_S = 60.0
"""How often what was counted so far is kept, for an interrupted start to go on from."""


@dataclass(frozen=True)
class Listed:
    """What was done."""

    num_cubes: int
    num_rows: int
    num_read: int
    num_kept: int


def settings_for(out: Path, period: str | None, split: SplitRule | None) -> Settings:
    """What was asked for; what was not, as in the catalogue that is there, else a row per year and the specs' split."""
    before = Catalogue(out).settings if out.exists() else Settings()
    return Settings(period or before.period, split or before.split)


def list_cubes(
    out: str | Path,
    patterns: Sequence[str],
    settings: Settings | None = None,
    source: str | None = None,
    weight: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Listed:
    """Write a catalogue, or add to the one that is there.

    A cube that `out` lists with the manifest it has now is not read again; cubes of `out` that are not named here stay.
    An interrupted start left `out`.partial behind, and goes on from there.

    Args:
        out: Parquet file.
        patterns: paths, globs or URLs of finished cubes.
        settings: period and split; by default those of `out`, or a row per year and the specs' own split.
        source: name of the source of these cubes; the name of their spec by default.
        weight: visits of their windows per epoch; 1 by default.
        progress: told cubes done and cubes in all.

    Raises:
        InputError: nothing found, two cubes of one name, a cube that does not open, or another period than `out` has.
    """
    out = Path(out)
    partial = out.with_name(out.name + ".partial")
    there = Catalogue(out) if out.exists() else None
    if there and settings and settings.period != there.settings.period:
        raise InputError(
            f"{out}: has a row per {there.settings.period}, --period {settings.period} would mix the two; use the "
            "same, or another file"
        )
    settings = settings or settings_for(out, None, None)
    if weight is not None and not (np.isfinite(weight) and weight >= 0):
        raise InputError(f"--weight: got {weight:g}, expected 0 or more visits per epoch")
    paths = {_stored(path, out): path for path in expand(patterns)}
    known: list[pa.Table] = []
    for earlier in (there, Catalogue(partial) if partial.exists() else None):
        if earlier is not None and earlier.settings.period == settings.period:
            known.append(earlier.read())
    rows = _gather(known)
    _check_names(paths, rows)
    rows, todo = _outdated(rows, paths)
    parts = [rows] if rows is not None else []
    saved = time.monotonic()
    for done, counted in enumerate(_count(todo, settings), 1):
        parts.append(_arrow(counted, settings))
        if progress is not None:
            progress(len(paths) - len(todo) + done, len(paths))
        if time.monotonic() - saved > SAVE_EVERY_S:
            parts = [_join(parts)]
            write_catalogue(partial, parts[0], settings)
            saved = time.monotonic()
    whole = _relabel(_join(parts), set(paths), source, weight)
    write_catalogue(out, with_split(whole, settings.split), settings)
    partial.unlink(missing_ok=True)
    if progress is not None:
        progress(len(paths), len(paths))
    return Listed(len(set(whole["cube"].to_pylist())), len(whole), len(todo), len(paths) - len(todo))


def expand(patterns: Sequence[str]) -> list[str]:
    """Paths that patterns name, each pattern's in sorted order; a glob passes over files and unfinished cubes."""
    paths = []
    for pattern in patterns:
        matches = [pattern]
        if glob.has_magic(pattern) and "://" not in pattern:
            matches = [p for p in sorted(glob.glob(pattern)) if os.path.isdir(p) and not p.endswith(".partial")]
        if not matches:
            raise InputError(
                f"catalogue: nothing at {pattern!r}, expected finished cubes; write one with `skyframe simulate` or "
                "`skyframe ingest`"
            )
        paths += matches
    return list(dict.fromkeys(paths))


def _stored(path: str, out: Path) -> str:
    """A path as the catalogue holds it: relative ones are relative to the catalogue's folder."""
    if "://" in path or os.path.isabs(path):
        return path.rstrip("/")
    return os.path.relpath(path, out.parent)


def _fingerprint(path: str) -> int | None:
    """Checksum of a cube's manifest; None where only opening the cube can tell."""
    try:
        return int(google_crc32c.value((Path(path) / MANIFEST).read_bytes()))
    except OSError:
        return None


def _gather(known: Sequence[pa.Table]) -> pa.Table | None:
    """Rows listed earlier; a cube that the later table holds is the later one's."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(known) == 2:
        again = pc.is_in(known[0]["path"], pa.array(set(known[1]["path"].to_pylist()), pa.string()))
        return _join([known[0].filter(pc.invert(again)), known[1]])
    return known[0] if known else None


def _check_names(paths: dict[str, str], rows: pa.Table | None) -> None:
    by_name = {} if rows is None else dict(zip(rows["cube"].to_pylist(), rows["path"].to_pylist(), strict=True))
    for stored in paths:
        other = by_name.setdefault(cube_name(stored), stored)
        if other != stored:
            raise InputError(
                f"catalogue: {other} and {stored} are both called {cube_name(stored)!r}, expected different folder "
                "names; rename one"
            )


def _outdated(rows: pa.Table | None, paths: dict[str, str]) -> tuple[pa.Table | None, dict[str, str]]:
    """Rows that still hold, and the cubes to count: new ones, and those whose manifest is another now."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if rows is None:
        return None, paths
    listed = dict(zip(rows["path"].to_pylist(), rows["manifest"].to_pylist(), strict=True))
    todo = {s: path for s, path in paths.items() if s not in listed or _fingerprint(path) != listed[s]}
    stale = pc.is_in(rows["path"], pa.array(list(todo), pa.string()))
    return rows.filter(pc.invert(stale)), todo


def _count(todo: dict[str, str], settings: Settings) -> Iterator[list[Row]]:
    """Rows of each cube, several cubes at a time: the work is waiting for files and decompression."""

    def one(item: tuple[str, str]) -> list[Row]:
        stored, path = item
        fingerprint = _fingerprint(path)
        cube = open_cube(path)
        rows = rows_of(cube, "whole" if settings.period == "whole" else "year", fingerprint or 0)
        return [{**row, "path": stored} for row in rows]

    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        work = list(todo.items())
        for start in range(0, len(work), 256):  # an error ends the work soon
            yield from pool.map(one, work[start : start + 256])


def _arrow(rows: list[Row], settings: Settings) -> pa.Table:
    import pyarrow as pa

    modalities = sorted({name for row in rows for name in row["modalities"]})
    schema = arrow_schema(modalities, settings).remove_metadata()
    return pa.table({f.name: pa.array([row.get(f.name) for row in rows], f.type) for f in schema}, schema=schema)


def _join(parts: Sequence[pa.Table]) -> pa.Table:
    """One table of all columns; what a part lacks is null."""
    import pyarrow as pa

    return pa.concat_tables([part.replace_schema_metadata(None) for part in parts], promote_options="default")


def _relabel(table: pa.Table, paths: set[str], source: str | None, weight: float | None) -> pa.Table:
    """Set source and weight of the cubes named, where they were given."""
    import pyarrow as pa
    import pyarrow.compute as pc

    named = pc.is_in(table["path"], pa.array(paths, pa.string()))
    for name, value in (("source", source), ("weight", weight)):
        if value is not None:
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, pc.if_else(named, pa.scalar(value), table[name]))
    return table
