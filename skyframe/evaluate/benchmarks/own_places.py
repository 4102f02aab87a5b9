"""Where one's own labels lie: the cubes that a YAML names, and a window of one of them for every label."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN, date_of
from skyframe.config.own_data import OwnData
from skyframe.data.catalogue import Catalogue
from skyframe.data.cube import Cube, find_cubes
from skyframe.data.where import read_where
from skyframe.evaluate.benchmarks.own_table import LabelTable, Row
from skyframe.evaluate.benchmarks.places import POSITION_GSD_M
from skyframe.randomness import hash64
from skyframe.spec import InputError, Modality, Window, did_you_mean

SHOWN = 5
"""Rows of one fault that are told one by one."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """A window with its label, before it has a part."""

    key: str
    cube: Cube
    window: Window
    label: Any
    row: Row | None = None  # of the table; None = a truth layer


def cubes_of(own: OwnData) -> list[Cube]:
    """The cubes that a data set lies on."""
    if not own.catalogue:
        cubes = find_cubes(own.cubes, "cubes")
    else:
        catalogue = Catalogue(own.catalogue)
        chosen = catalogue.rows(read_where(own.where)) if own.where else np.ones(len(catalogue), bool)
        held = zip(catalogue.column("path"), chosen.tolist(), strict=True)
        paths = dict.fromkeys(str(p) for p, is_chosen in held if is_chosen)
        if not paths:
            raise InputError(f"{own.catalogue}: no row for {own.where!r}, expected some; widen the condition")
        beside = Path(own.catalogue).parent
        cubes = find_cubes([p if "://" in p else str(beside / p) for p in paths], "catalogue")
    for cube in cubes:
        if cube.grid.places:
            raise InputError(
                f"cubes: {cube.name} holds separate sites, expected cubes of ground; use its truth layers by a suite"
            )
    return cubes


def modalities_of(own: OwnData, cubes: Sequence[Cube]) -> dict[str, Modality]:
    """What the cubes hold, which must be the same wherever it is held."""
    found: dict[str, Modality] = {}
    for cube in cubes:
        for name, modality in cube.spec.modalities.items():
            if own.modalities and name not in own.modalities:
                continue
            before = found.setdefault(name, modality)
            for key in ("bands", "units", "scale", "offset", "gsd_m", "kind"):
                if getattr(before, key) != getattr(modality, key):
                    raise InputError(
                        f"{own.name}: {name} of cube {cube.name} differs in {key} from {cubes[0].name}, expected "
                        "cubes of one spec; describe them as two data sets"
                    )
    missing = [n for n in own.modalities if n not in found]
    if missing or not found:
        known = sorted({n for c in cubes for n in c.spec.modalities})
        raise InputError(
            f"{own.name}: no cube has modality {missing[0] if missing else ''!r}, they have {', '.join(known)}"
            f"{did_you_mean(missing[0], known) if missing else ''}"
        )
    kinds = ("series", "image", "static", "weather")  # masks lie on the first, which every place should have
    order = own.modalities or sorted(found, key=lambda n: kinds.index(found[n].kind))
    return {n: found[n] for n in order}


def _step_m(modalities: Mapping[str, Modality]) -> float:
    """Windows start on whole positions and whole pixels of every modality."""
    return max([POSITION_GSD_M, *(m.gsd_m for m in modalities.values() if m.kind != "weather")])


def grid_windows(own: OwnData, cubes: Sequence[Cube], modalities: Mapping[str, Modality]) -> list[Place]:
    """Windows of a truth layer side by side; where there are too many, the first by hash."""
    size = own.window_px * POSITION_GSD_M
    made = []
    for cube in cubes:
        rows, columns = int(cube.grid.height_m // size), int(cube.grid.width_m // size)
        for y, x in np.ndindex(rows, columns):
            window = Window(cube.url, y * size, x * size, size)
            if num_acquisitions(own, cube, modalities, window):
                made.append(Place(f"{cube.name}/{y}/{x}", cube, window, None))
    made.sort(key=lambda p: hash64("own", own.name, p.key))
    return sorted(made[: own.max_windows], key=lambda p: p.key)


def table_windows(
    own: OwnData, cubes: Sequence[Cube], modalities: Mapping[str, Modality], table: LabelTable, labels: dict[str, Any]
) -> tuple[list[Place], list[str]]:
    """A window for every row whose label is known; what is wrong with the others."""
    rows = [r for r in table.rows if r.key in labels]
    size, step = own.window_px * POSITION_GSD_M, _step_m(modalities)
    held = _holders(table.crs, rows, cubes)
    made: list[Place] = []
    outside: list[Row] = []
    small: list[Row] = []
    undated: list[Row] = []
    for row, found in zip(rows, held, strict=True):
        fitting = [h for h in found if min(h[0].grid.width_m, h[0].grid.height_m) >= size]
        windows = [(cube, _window(cube, y_m, x_m, size, step, own, row)) for cube, y_m, x_m in fitting]
        counts = [num_acquisitions(own, cube, modalities, window) for cube, window in windows]
        if any(counts):
            cube, window = windows[int(np.argmax(counts))]
            made.append(Place(row.key, cube, window, labels[row.key], row))
        else:
            (undated if fitting else small if found else outside).append(row)
    problems = [
        *_told(own, outside, "lies in no cube"),
        *_told(own, small, f"lies in cubes smaller than a window of {size:g} m"),
        *_told(own, undated, "has no acquisition around its date"),
    ]
    return made, problems


def _holders(crs: str, rows: Sequence[Row], cubes: Sequence[Cube]) -> list[list[tuple[Cube, float, float]]]:
    """For each row the cubes that hold its centroid, and where in them: metres south and east of the corner."""
    held: list[list[tuple[Cube, float, float]]] = [[] for _ in rows]
    centres = [row.geometry.centroid for row in rows]
    x, y = np.array([c.x for c in centres]), np.array([c.y for c in centres])
    for cube in cubes:
        x_m, y_m = metres_in(crs, cube)(x, y)
        inside = (x_m >= 0) & (x_m < cube.grid.width_m) & (y_m >= 0) & (y_m < cube.grid.height_m)
        for k in np.flatnonzero(inside).tolist():
            held[k].append((cube, float(y_m[k]), float(x_m[k])))
    return held


def _told(own: OwnData, rows: Sequence[Row], what: str) -> list[str]:
    shown = [f"{own.name}: row {r.key} ({_shown(r)}) {what}, left out" for r in rows[:SHOWN]]
    return shown + ([f"{own.name}: {len(rows) - SHOWN} further rows: {what}"] if len(rows) > SHOWN else [])


def _shown(row: Row) -> str:
    centre = row.geometry.centroid
    return f"{centre.x:.5g} {centre.y:.5g}{'' if row.day is None else ' on ' + date_of(row.day).isoformat()}"


def metres_in(crs: str, cube: Cube) -> Callable[[Floats, Floats], tuple[Floats, Floats]]:
    """From the table's x and y to metres east and south of a cube's corner."""
    from pyproj import CRS, Transformer
    from pyproj.exceptions import CRSError

    grid = cube.grid
    try:
        transform = Transformer.from_crs(CRS.from_user_input(crs), CRS.from_user_input(grid.crs), always_xy=True)
    except CRSError as error:
        raise InputError(f"crs: {crs[:60]!r} is no coordinate system ({error}); give one such as EPSG:4326") from error

    def way(x: Floats, y: Floats) -> tuple[Floats, Floats]:
        east, north = transform.transform(x, y)
        return np.asarray(east) * grid.unit_m - grid.x0_m, grid.y0_m - np.asarray(north) * grid.unit_m

    return way


def _window(cube: Cube, y_m: float, x_m: float, size: float, step: float, own: OwnData, row: Row) -> Window:
    """Around a point, on whole pixels and inside the cube."""

    def start(centre: float, extent: float) -> float:
        last = (extent - size) // step * step
        return min(max(round((centre - size / 2) / step) * step, 0.0), last)

    made = Window(cube.url, start(y_m, cube.grid.height_m), start(x_m, cube.grid.width_m), size)
    if row.day is None:
        return made
    first, last = row.day - own.dates.days_before, row.day + own.dates.days_after
    return dataclasses.replace(made, start_day=first, end_day=last + 1)


def num_acquisitions(own: OwnData, cube: Cube, modalities: Mapping[str, Modality], window: Window) -> int:
    """Images of all modalities that go with a window; layers without a date and the weather do not count.

    None where a pixel task lacks the modality that its masks lie on.
    """
    if own.task == "pixel" and not cube.covers(next(iter(modalities)), window):
        return 0
    total = 0
    for name, modality in modalities.items():
        if modality.kind in ("image", "series") and cube.covers(name, window):
            days = cube.days(name)
            inside = (days >= window.start_day) & (days < window.end_day)
            total += int((inside | (days == DAY_UNKNOWN)).sum())
    return total
