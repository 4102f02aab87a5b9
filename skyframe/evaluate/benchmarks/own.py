"""One's own labels over cubes, described by one YAML (`config/own_data.py`), as a data set like any other.

A row of a table becomes a square window around its geometry, cut from the cube that holds it (moved inwards at a
cube's edge), with the acquisitions around its date; a pixel task scores the pixels inside the geometry. A truth layer
is cut into windows side by side. Rows that no cube holds, that no acquisition goes with, or whose label is unknown are
left out and told. Split by place: equal-area blocks fall whole into one part, by hash of the block, and a window that
reaches into a block of another part is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skyframe.config.own_data import OwnData, load_own_data
from skyframe.data.cube import Cube
from skyframe.data.read import read_label, read_series
from skyframe.evaluate.benchmarks.own_places import (
    SHOWN,
    Place,
    cubes_of,
    grid_windows,
    metres_in,
    modalities_of,
    table_windows,
)
from skyframe.evaluate.benchmarks.own_table import class_labels, read_labels
from skyframe.evaluate.benchmarks.places import POSITION_GSD_M
from skyframe.evaluate.datasets.dataset import PARTS, Dataset, Item, hashed_part
from skyframe.geography import equal_area_cell, place_of
from skyframe.sample import Sample
from skyframe.spec import InputError, Modality, Window, did_you_mean


def open_own(path: Path, root: Path | None = None) -> Dataset:
    """The data set that a YAML describes.

    Args:
        path: of the YAML.
        root: folder that relative paths start from; the YAML's own by default.

    Raises:
        InputError: the YAML, a cube, the catalogue or the table as a whole cannot be used.
    """
    own = load_own_data(path, root)
    cubes = cubes_of(own)
    modalities = modalities_of(own, cubes)
    for modality in modalities.values():
        if modality.kind != "weather":
            modality.pixels(own.window_px * POSITION_GSD_M)
    first, crs, notes = next(iter(modalities.values())), "", []
    problems: list[str] = []
    if own.truth:
        classes = _truth_classes(own, cubes, first)
        places = grid_windows(own, cubes, modalities)
    else:
        table = read_labels(own)
        classes, labels, told = class_labels(own, table)
        places, lost = table_windows(own, cubes, modalities, table, labels)
        crs, problems = table.crs, [*table.problems, *told, *lost]
    items, split, unnamed = _with_parts(own, places, crs)
    if own.truth and own.task != "pixel":
        items, note = _labelled(own, items)
        notes.append(note)
    return Dataset(
        name=own.name,
        kind=own.task,
        classes=classes,
        modalities=modalities,
        items=tuple(items),
        read=partial(_read, own, len(classes), first),
        split="; ".join([split, *filter(None, notes)]),
        source=own.source or f"own labels of {path.name}",
        problems=(*problems, *unnamed),
    )


def _truth_classes(own: OwnData, cubes: Sequence[Cube], first: Modality) -> tuple[str, ...]:
    """Classes of a truth layer, equal in all cubes."""
    held = {}
    for cube in cubes:
        if own.truth not in cube.spec.labels:
            known = cube.spec.labels
            raise InputError(
                f"{own.name}: cube {cube.name} has no truth layer {own.truth!r}, it has {', '.join(known) or 'none'}"
                f"{did_you_mean(own.truth, known)}"
            )
        held[cube.name] = cube.spec.labels[own.truth].classes
    if len(set(held.values())) > 1:
        raise InputError(f"{own.name}: cubes {', '.join(held)} list different classes of {own.truth}")
    classes = next(iter(held.values()))
    if bool(classes) == (own.task == "regression"):
        raise InputError(
            f"{own.name}: truth layer {own.truth!r} has {len(classes)} classes, which task {own.task} does not fit; "
            "correct `task`"
        )
    gsd_m = cubes[0].spec.labels[own.truth].gsd_m
    factor = gsd_m / first.gsd_m
    if own.task == "pixel" and (factor < 1 or factor != int(factor)):
        raise InputError(
            f"{own.name}: truth layer {own.truth!r} has pixels of {gsd_m:g} m, {first.name} of {first.gsd_m:g} m, "
            "expected a multiple of the image's; name another modality first under `modalities`"
        )
    return classes


# --- parts ----------------------------------------------------------------------------------------------------------


def _with_parts(own: OwnData, places: Sequence[Place], crs: str) -> tuple[list[Item], str, list[str]]:
    """Items with their parts, the rule in words, and what is wrong with the column that names them."""
    items: list[Item] = []
    crossing, unnamed = 0, []
    for place in places:
        cell = _cell(own, place.cube, place.window, 0.5, 0.5)
        if own.split.by == "column" and place.row is not None:
            part = {"validation": "val", "valid": "val"}.get(place.row.split, place.row.split)
            if part not in PARTS:
                unnamed.append(
                    f"{own.name}: row {place.key} has split {place.row.split!r}, expected train, val or test"
                )
                continue
        else:
            part = _part(own, cell)
            corners = [_cell(own, place.cube, place.window, y, x) for y in (0.0, 1.0) for x in (0.0, 1.0)]
            if any(_part(own, c) != part for c in corners):
                crossing += 1
                continue
        about = {"cube": place.cube, "window": place.window, "row": place.row, "crs": crs}
        items.append(Item(place.key, part, {}, place.label, f"{cell}", about))
    if own.split.by == "column":
        return items, f"column {own.columns.split!r} of the table", unnamed[:SHOWN]
    shares = "/".join(f"{100 * s:g}" for s in own.split.shares)
    left = f"; {crossing} windows reach into a block of another part and are left out" if crossing else ""
    return items, f"by place, blocks of {own.split.block_km:g} km by hash, {shares}{left}", []


def _part(own: OwnData, cell: int) -> str:
    return hashed_part(str(cell), own.split.shares, f"own split {own.split.block_km:g} km")


def _cell(own: OwnData, cube: Cube, window: Window, y: float, x: float) -> int:
    """Equal-area block of a point of a window, given as shares of its side."""
    lat, lon = place_of(cube.grid, window.y_m + y * window.size_m, window.x_m + x * window.size_m)
    return equal_area_cell(float(lat), float(lon), own.split.block_km**2)


# --- reading --------------------------------------------------------------------------------------------------------


def _read(own: OwnData, num_classes: int, first: Modality, item: Item) -> Sample:
    cube: Cube = item.about["cube"]
    window: Window = item.about["window"]
    names = [n for n in (own.modalities or cube.spec.modalities) if cube.has(n) and cube.covers(n, window)]
    series = {n: s for n, s in read_series(cube, window, names=names).items() if len(s.day)}
    middle = window.size_m / 2
    place = place_of(cube.grid, window.y_m + middle, window.x_m + middle)
    return Sample(series, place, -1, targets=_target(own, item, num_classes, first))


def _target(own: OwnData, item: Item, num_classes: int, first: Modality) -> dict[str, NDArray[np.generic]]:
    if own.task == "scene":
        return {"class": np.asarray(np.int64(item.label))}
    if own.task == "multilabel":
        return {"classes": np.isin(np.arange(num_classes), item.label)}
    if own.task == "regression":
        return {"value": np.array(item.label, np.float32)}
    return {"mask": _truth_mask(own, item, first) if own.truth else _burnt(item, first)}


def _burnt(item: Item, first: Modality) -> NDArray[np.int64]:
    """The row's class on the pixels whose centre lies in its geometry (of a point, on its pixel), -1 elsewhere."""
    import shapely

    cube: Cube = item.about["cube"]
    window: Window = item.about["window"]
    side = first.pixels(window.size_m)
    way = metres_in(item.about["crs"], cube)
    moved = shapely.transform(
        item.about["row"].geometry,
        lambda xy: (np.stack(way(xy[:, 0], xy[:, 1]), 1) - [window.x_m, window.y_m]) / first.gsd_m,
    )
    mask = np.full((side, side), -1, np.int64)
    if moved.geom_type == "Point":
        row, column = (min(max(int(v), 0), side - 1) for v in (moved.y, moved.x))
        mask[row, column] = item.label
        return mask
    y, x = np.mgrid[0:side, 0:side] + 0.5
    mask[shapely.contains_xy(moved, x, y)] = item.label
    return mask


def _labelled(own: OwnData, items: Sequence[Item]) -> tuple[list[Item], str]:
    """Windows of a truth layer with their class or value; those that have none are left out."""
    made = []
    label: int | tuple[float, ...] | None
    for item in items:
        numbers = _truth_layer(own, item.about["cube"], item.about["window"])
        known = numbers[numbers >= 0] if own.task == "scene" else numbers[np.isfinite(numbers)]
        if own.task == "regression":
            label = (float(known.mean()),) if known.size else None
        else:
            counts = np.bincount(known.astype(np.int64), minlength=1)
            label = int(counts.argmax()) if counts.max() >= own.min_share * numbers.size else None
        if label is not None:
            made.append(dataclasses.replace(item, label=label))
    left = len(items) - len(made)
    what = f"a class on {100 * own.min_share:g} % of them" if own.task == "scene" else "a value"
    return made, f"{left} windows without {what} are left out" if left else ""


def _truth_layer(own: OwnData, cube: Cube, window: Window) -> NDArray[np.float64]:
    """A window of a truth layer; NaN where a continuous one tells nothing, -1 where a class map does."""
    label = cube.spec.labels[own.truth]
    values = np.asarray(read_label(cube, own.truth, window)).astype(np.float64)
    missing = ~np.isfinite(values) if label.nodata is None else (values == label.nodata) | ~np.isfinite(values)
    if not label.classes:
        return np.where(missing, np.nan, values)
    return np.where(missing | (values < 0) | (values >= len(label.classes)), -1, values)


def _truth_mask(own: OwnData, item: Item, first: Modality) -> NDArray[np.int64]:
    """A class map on the pixels of the first modality, which are not coarser."""
    cube: Cube = item.about["cube"]
    numbers = _truth_layer(own, cube, item.about["window"]).astype(np.int64)
    factor = round(cube.spec.labels[own.truth].gsd_m / first.gsd_m)
    return np.kron(numbers, np.ones((factor, factor), np.int64))
