"""Samples for an encoder's contract from windows of cubes: dates by stratum, bands matched, region by place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from skyframe.config.contract import Contract, check_input
from skyframe.data.cube import Cube, find_cubes
from skyframe.data.read import read_series
from skyframe.geography import RegionIndex, place_of
from skyframe.randomness import generator
from skyframe.sample import Layout, Sample
from skyframe.spec import CubeSpec, InputError, Modality, Window

POSITION_GSD_M = 10.0
"""Ground size of one position: a Sentinel pixel."""


def open_cubes(patterns: Sequence[str], contract: Contract, key: str) -> list[Cube]:
    """Open the cubes that paths or globs name and check them against the contract.

    Raises:
        InputError: nothing found, a source that contradicts the contract, or no modality in common.
    """
    cubes = find_cubes(patterns, key)
    for cube in cubes:
        shared = [n for n in contract.modalities if cube.has(n)]
        if not shared:
            raise InputError(
                f"{key}: cube {cube.name} has none of {', '.join(contract.modalities)}, which the encoder takes"
            )
        for name in shared:
            check_input(contract, cube.spec.modality(name))
    return cubes


def layouts_of(contract: Contract, frames: Mapping[str, int], side_px: int) -> dict[str, Layout]:
    """Batch layout of every modality of a contract for samples of `side_px` positions."""
    return {
        name: Layout(_num_dates(m, contract, frames), len(m.bands), side_of(m, side_px), m.dtype)
        for name, m in contract.modalities.items()
    }


def side_of(modality: Modality, side_px: int) -> int:
    """Pixels of a modality along `side_px` positions; weather is one cell."""
    return 1 if modality.kind == "weather" else modality.pixels(side_px * POSITION_GSD_M)


def _num_dates(modality: Modality, contract: Contract, frames: Mapping[str, int]) -> int:
    if modality.kind not in ("series", "weather"):
        return 1
    count = {**contract.frames, **frames}.get(modality.name)
    if count is None:
        raise InputError(
            f"frames: the contract gives no number of dates for {modality.name!r}; set "
            f"data.simulated.frames.{modality.name}"
        )
    return count


def read_place(
    cube: Cube, window: Window, contract: Contract, layouts: Mapping[str, Layout], regions: RegionIndex, *key: int | str
) -> Sample:
    """One window as the contract wants it.

    Args:
        cube: where to read.
        window: a square of whole positions.
        contract: bands and their order.
        layouts: dates per modality.
        regions: the encoder's region index.
        key: of the draw of dates; equal keys and days give equal dates.
    """
    names = [n for n in contract.modalities if cube.has(n)]
    dates = {n: choose_dates(cube.days(n), layouts[n].num_dates, *key, n) for n in names}
    spec = CubeSpec(name=f"{contract.system} contract", description="", modalities=contract.modalities)
    series = read_series(cube, window, spec=spec, names=names, dates=dates)
    place = place_of(cube.grid, window.y_m + window.size_m / 2, window.x_m + window.size_m / 2)
    return Sample(series=series, place=place, region=regions.region(float(place[0]), float(place[1])))


def choose_dates(days: NDArray[np.int32], count: int, *key: int | str) -> NDArray[np.int64]:
    """Indices of `count` acquisitions: the year cut into `count` runs of equal length, one drawn from each.

    All acquisitions where there are no more than `count`.
    """
    if len(days) <= count:
        return np.arange(len(days))
    edges = np.linspace(0, len(days), count + 1).round().astype(np.int64)
    draw = generator(*key, "dates").random(count)
    return edges[:-1] + (draw * np.diff(edges)).astype(np.int64)
