"""Statistics of cubes by sampling: mean and spread per band over clear pixels, quantiles, extremes, clear share.

What is sampled is a *unit*: one inner chunk of a modality, some of its dates. Units of all cubes and shards stand in
one row, of which evenly spaced ones are read, each at a seeded place in its stretch. So every shard is drawn from in
proportion to its size, no unit twice, and where there are fewer units than samples all are read.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyframe.data.cube import CLEAR, NEVER_WRITTEN, NODATA, Cube
from skyframe.data.read import SeriesRead, match_bands, read_box, read_flags
from skyframe.randomness import generator
from skyframe.spec import CubeSpec, InputError, Modality

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
KEPT_PIXELS = 400_000
"""Pixels kept per modality, evenly thinned: 13 bands of them are 21 MB, and a quantile is right to about 0.1 %."""

DATES_PER_UNIT = {"weather": 366}
"""Dates read together; for imagery, where every date is a chunk of its own, 4 that lie far apart."""

Tick = Callable[[int, int], None]
"""Called with units read and units in all."""


@dataclass(frozen=True)
class BandStatistics:
    """One band over the sampled clear pixels, in the modality's units.

    `mean` and `std` are those after clipping to the 1st and 99th percentile; `quantiles` belong to `QUANTILES`; `low`
    and `high` are the extremes of everything read; `at_high` is the share of pixels that hold just `high`; `values`
    are the pixels kept.
    """

    name: str
    mean: float
    std: float
    quantiles: tuple[float, ...]
    low: float
    high: float
    at_high: float
    values: NDArray[np.float32]


@dataclass(frozen=True)
class ModalityStatistics:
    """One modality: `clear` and `nodata` are shares of all pixels read, `num_pixels` how many of them were clear."""

    name: str
    units: str
    clear: float
    nodata: float
    num_pixels: int
    bands: tuple[BandStatistics, ...]


@dataclass(frozen=True)
class _Unit:
    cube: int
    box: tuple[int, int, int, int]
    picks: NDArray[np.intp]
    key: tuple[int | str, ...]


@dataclass
class _Read:
    values: NDArray[np.float32]  # [C, pixels], NaN in a band that the cube lacks
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    at_high: NDArray[np.int64]
    counts: tuple[int, int, int]  # clear, nodata, all


def measure(
    cubes: Sequence[Cube],
    spec: CubeSpec,
    samples: int = 512,
    seed: int = 0,
    progress: Tick | None = None,
    threads: int | None = None,
) -> dict[str, ModalityStatistics]:
    """Statistics of every modality of a spec that some cube holds; the same for any number of threads.

    Args:
        cubes: stores whose units, scale and dtype are the spec's.
        spec: modalities and band order.
        samples: units read per modality, at most.
        seed: of the draw.
        progress: told after each unit.
        threads: units read at a time; by default one per core.

    Raises:
        InputError: samples below 1, a cube that contradicts the spec, or no clear pixel of any modality.
    """
    if samples < 1:
        raise InputError(f"stats: --samples {samples}, expected at least 1")
    work = {name: _units(cubes, m, samples, seed) for name, m in spec.modalities.items()}
    total, done = sum(map(len, work.values())), 0
    local = threading.local()

    def read(modality: Modality, unit: _Unit, keep: float) -> _Read:
        if not hasattr(local, "cubes"):
            local.cubes = {}
        if unit.cube not in local.cubes:  # open files are a thread's own
            local.cubes[unit.cube] = pickle.loads(pickle.dumps(cubes[unit.cube]))
        return _read(local.cubes[unit.cube], modality, unit, keep)

    found = {}
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for name, units in work.items():
            modality = spec.modalities[name]
            pixels = sum(len(u.picks) * (u.box[1] - u.box[0]) * (u.box[3] - u.box[2]) for u in units)
            keep = min(1.0, KEPT_PIXELS / max(pixels, 1))
            parts = []
            for part in pool.map(lambda unit, m=modality, k=keep: read(m, unit, k), units):
                parts.append(part)
                done += 1
                if progress is not None:
                    progress(done, total)
            if parts and sum(p.counts[0] for p in parts):
                found[name] = _joined(modality, parts)
    if not found:
        raise InputError(
            f"stats: no clear pixel of {', '.join(spec.modalities)} in {', '.join(c.name for c in cubes)}, "
            "expected some; give other cubes or another spec"
        )
    return found


def _units(cubes: Sequence[Cube], modality: Modality, samples: int, seed: int) -> list[_Unit]:
    """Evenly spaced units, one at a seeded place of each stretch; only shards that were written count."""
    shards = []
    for at, cube in enumerate(cubes):
        if not cube.has(modality.name):
            continue
        match_bands(cube, cube.spec.modality(modality.name), modality)  # raises where the cube contradicts the spec
        record = cube.manifest.arrays[f"{modality.name}/valid"]
        (height, width), side = record.layout.shape[-2:], record.layout.shard[-1]
        chunk = record.layout.chunk[-1]
        groups = -(-record.layout.shape[0] // DATES_PER_UNIT.get(modality.kind, 4))
        for row, column in np.argwhere(record.coverage) * side:
            rows, columns = (-(-(min(side, n - a)) // chunk) for n, a in ((height, row), (width, column)))
            shards.append((at, int(row), int(column), rows, columns, groups))
    ends = np.cumsum([rows * columns * groups for *_, rows, columns, groups in shards], dtype=np.int64)
    total = int(ends[-1]) if shards else 0
    count = min(samples, total)
    draw = generator(seed, "statistics", modality.name).random(count)
    positions = np.floor((np.arange(count) + draw) * (total / max(count, 1))).astype(np.int64)
    made = []
    for position in np.minimum(positions, total - 1) if count < total else np.arange(total):
        at = int(np.searchsorted(ends, position, side="right"))
        which, top, left, rows, columns, groups = shards[at]
        cell, group = divmod(int(position - (ends[at - 1] if at else 0)), groups)
        layout = cubes[which].manifest.arrays[f"{modality.name}/valid"].layout
        (dates, height, width), chunk = layout.shape, layout.chunk[-1]
        y, x = top + cell // columns * chunk, left + cell % columns * chunk
        box = y, min(y + chunk, height), x, min(x + chunk, width)
        made.append(_Unit(which, box, np.arange(group, dates, groups), (seed, modality.name, which, y, x, group)))
    return made


def _read(cube: Cube, modality: Modality, unit: _Unit, keep: float) -> _Read:
    bands = match_bands(cube, cube.spec.modality(modality.name), modality)
    flags = read_flags(cube, modality.name, unit.box)[unit.picks]
    counts = int((flags == CLEAR).sum()), int(np.isin(flags, (NODATA, NEVER_WRITTEN)).sum()), flags.size
    if not counts[0]:
        nothing = np.full(len(modality.bands), np.nan, np.float32)
        empty = np.zeros((len(modality.bands), 0), np.float32)
        return _Read(empty, nothing, nothing, np.zeros(len(modality.bands), np.int64), counts)
    series = read_box(cube, SeriesRead(modality.name, unit.box, bands, unit.picks))
    stored = np.moveaxis(series.values, 1, 0)[:, series.valid]
    clear = (stored.astype(np.float64) * modality.scale + modality.offset).astype(np.float32)
    clear[~series.bands] = np.nan
    high = clear.max(axis=1)
    at_high = (clear == high[:, None]).sum(axis=1)
    kept = clear[:, generator(*unit.key).random(clear.shape[1]) < keep]
    return _Read(kept, clear.min(axis=1), high, at_high, counts)


def _joined(modality: Modality, parts: Sequence[_Read]) -> ModalityStatistics:
    seen = [part for part in parts if part.counts[0]]
    values = np.concatenate([part.values for part in seen], axis=1)
    if not values.shape[1]:  # so few clear pixels that thinning left none
        values = np.stack([part.low for part in seen], axis=1)
    clear, lost, total = (sum(part.counts[i] for part in parts) for i in range(3))
    bands = []
    for number, name in enumerate(modality.band_names):
        own = values[number][~np.isnan(values[number])]
        if not len(own):
            continue
        quantiles = np.quantile(own, QUANTILES)
        clipped = np.clip(own, quantiles[0], quantiles[-1]).astype(np.float64)
        with_band = [part for part in seen if not np.isnan(part.high[number])]
        high = max(float(part.high[number]) for part in with_band)
        at_high = sum(int(p.at_high[number]) for p in with_band if p.high[number] == high)
        share = at_high / sum(part.counts[0] for part in with_band)
        low = min(float(part.low[number]) for part in with_band)
        numbers = tuple(float(q) for q in quantiles)
        bands.append(BandStatistics(name, float(clipped.mean()), float(clipped.std()), numbers, low, high, share, own))
    return ModalityStatistics(modality.name, modality.units, clear / total, lost / total, clear, tuple(bands))
