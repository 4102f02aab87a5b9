"""One's own labelled data as one YAML: a table of places, dates and labels, or a truth layer, over SkyFrame cubes.

Torch-free dataclasses. `evaluate/benchmarks/own.py` turns them into a data set that every protocol scores.
"""

from __future__ import annotations

import dataclasses
import glob
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from skyframe.spec import InputError, build, load_yaml


@dataclass(frozen=True)
class Columns:
    """What the columns of the table are called; an empty name = the table has none."""

    geometry: str = ""  # WKB, WKT or a GeoJSON geometry; points or polygons
    lat: str = ""  # degrees; with `lon` in place of `geometry`
    lon: str = ""
    date: str = ""  # 2021-06-30; empty = every date of the cubes goes with every label
    label: str = "label"  # class name or number; several separated by ; or a list; or a number
    id: str = ""  # of the row, for messages and results; empty = its number in the table
    split: str = ""  # train, val (or validation) or test; used with `split.by: column`


@dataclass(frozen=True)
class Dates:
    """Which acquisitions go with a label of a date."""

    days_before: int = 365  # the last one counts
    days_after: int = 0


@dataclass(frozen=True)
class SplitBy:
    """How rows become parts."""

    by: Literal["place", "column"] = "place"
    block_km: float = 10.0  # side of the equal-area blocks that fall whole into one part
    shares: tuple[float, ...] = (0.6, 0.2, 0.2)  # of blocks: train, val, test


@dataclass(frozen=True)
class OwnData:
    """A labelled data set over cubes. Relative paths start from the data root, the YAML's own folder without one."""

    name: str
    task: Literal["scene", "multilabel", "pixel", "regression"]
    cubes: tuple[str, ...] = ()  # paths or globs of finished cubes
    catalogue: str = ""  # or a catalogue, of which `where` holds
    where: str = ""  # such as "cloud < 0.3 and has('s1')"; empty = all rows
    modalities: tuple[str, ...] = ()  # in this order, masks lie on the pixels of the first; empty = all, series first
    window_px: int = 16  # side of a window in positions of 10 m
    table: str = ""  # Parquet, GeoJSON or CSV
    truth: str = ""  # or a truth layer of the cubes, cut into windows side by side
    max_windows: int = 5000  # of a truth layer, the first by hash
    min_share: float = 0.5  # of a window that its majority class must cover (scene labels of a truth layer)
    crs: str = ""  # of the geometries; empty = as a GeoParquet file says, else longitude and latitude
    columns: Columns = field(default_factory=Columns)
    classes: tuple[str, ...] = ()  # in the order of their numbers; empty = the labels found, sorted
    dates: Dates = field(default_factory=Dates)
    split: SplitBy = field(default_factory=SplitBy)
    source: str = ""  # citation or origin, printed beside every score


def load_own_data(path: Path, root: Path | None = None) -> OwnData:
    """Read a YAML and make its paths absolute.

    Args:
        path: of the YAML.
        root: folder that relative paths start from; the YAML's own by default.

    Raises:
        InputError: file, key, type or rule; one sentence that names the place.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the YAML of a labelled data set")
    own: OwnData = build(OwnData, load_yaml(path), path.name)
    check_own_data(own, path.name)
    base = (root or path.parent).resolve()

    def placed(text: str) -> str:
        return text if not text or "://" in text else str(base / text)

    cubes = tuple(placed(c) for c in own.cubes)
    return dataclasses.replace(own, cubes=cubes, catalogue=placed(own.catalogue), table=placed(own.table))


def check_own_data(own: OwnData, where: str) -> None:
    """Rules that tie fields together.

    Raises:
        InputError: naming field, value and remedy.
    """
    columns = own.columns
    rules = [
        (not own.name or glob.has_magic(own.name) or "/" in own.name, "name", repr(own.name), "a plain name"),
        (bool(own.cubes) == bool(own.catalogue), "cubes", list(own.cubes), "either cubes or a catalogue"),
        (bool(own.where) and not own.catalogue, "where", repr(own.where), "a catalogue beside it"),
        (bool(own.table) == bool(own.truth), "table", repr(own.table), "either a table or a truth layer"),
        (own.window_px < 1, "window_px", own.window_px, "at least 1 position"),
        (own.max_windows < 1, "max_windows", own.max_windows, "at least 1"),
        (not 0 < own.min_share <= 1, "min_share", own.min_share, "a share above 0 and at most 1"),
        (len(set(own.classes)) != len(own.classes), "classes", list(own.classes), "different names"),
        (len(own.classes) == 1, "classes", list(own.classes), "at least two"),
        (bool(own.classes) and own.task == "regression", "classes", list(own.classes), "none for a regression"),
        (bool(own.truth) and own.task == "multilabel", "truth", repr(own.truth), "a task that a class map serves"),
        (min(own.dates.days_before, own.dates.days_after) < 0, "dates", own.dates, "0 or more days"),
        (not own.split.block_km > 0, "split.block_km", own.split.block_km, "positive kilometres"),
        (
            len(own.split.shares) != 3 or min(own.split.shares) < 0 or abs(sum(own.split.shares) - 1) > 1e-6,
            *("split.shares", list(own.split.shares), "three shares that sum to 1"),
        ),
        (own.split.by == "column" and not columns.split, "split.by", "'column'", "the column's name in columns.split"),
        (bool(columns.lat) != bool(columns.lon), "columns", "one of lat and lon", "both or neither"),
        (
            bool(columns.lat) == bool(columns.geometry) and bool(own.table),
            *("columns", "no place or two", "geometry, or lat and lon"),
        ),
    ]
    for broken, key, got, expected in rules:
        if broken:
            raise InputError(f"{where}: {key} is {got}, expected {expected}; correct the file")
