"""What a random window costs beside what it holds: chunks, files and bytes, as pixels lie now and after rechunking."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from skyframe.data.archive.source import ArchiveReader
from skyframe.data.archive.tiled import Tiled
from skyframe.data.cube import Cube, array_layouts
from skyframe.data.decode import blosc_decoder
from skyframe.data.shard import ArrayLayout, encode_chunk
from skyframe.randomness import generator

WINDOWS = 16
"""Random windows that are averaged over."""

Area = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Cost:
    """Means over random windows: what a sample touches of a modality, and the bytes of values that it uses."""

    chunks: float
    files: float
    decoded_bytes: float
    used_bytes: float

    @property
    def amplification(self) -> float:
        """Bytes decoded for each byte used."""
        return self.decoded_bytes / self.used_bytes


@dataclass(frozen=True)
class Gain:
    """One modality: its cost now and rechunked, and seconds of a sample now and (decoding alone) rechunked."""

    name: str
    side_px: int
    num_dates: int
    now: Cost
    after: Cost
    seconds: float
    seconds_after: float


def gains(cube: Cube, window_px: int = 64, num_dates: int = 20) -> list[Gain]:
    """Cost of random windows of each modality, and what `skyframe rechunk` would change.

    The speed-up is measured on the pixels of one window: reading it as it lies, and decoding it as chunks of a cube.

    Args:
        cube: a cube or an archive.
        window_px: side of the windows, less where the modality is smaller; offsets are whole windows.
        num_dates: random dates of each sample, fewer where there are fewer.
    """
    found = []
    for name, modality in cube.spec.modalities.items():
        values = cube.manifest.arrays[f"{name}/values"].layout
        side = 1 if modality.kind == "weather" else min(window_px, *values.shape[2:])
        count = min(num_dates, values.shape[0])
        samples = _samples(cube.name, name, values.shape, side, count)
        new = array_layouts(modality, values.shape[0], cube.grid)
        after = [_layout_cost(new, dates, area) for dates, area in samples]
        now = [_cost(cube, name, dates, area) for dates, area in samples]
        seconds, later = _measure(cube, name, new[0], samples)
        found.append(Gain(name, side, count, _mean(now), _mean(after), seconds, later))
    return found


def gains_table(found: Sequence[Gain]) -> Table:
    """One row per modality, for the terminal."""
    table = Table(
        title="one sample",
        caption="chunks, files and MB decoded are means over random windows; amplification = decoded / used bytes",
    )
    for heading in ("modality", "dates x window", "chunks", "files", "MB decoded", "MB used", "amplification"):
        table.add_column(heading, justify="left" if heading == "modality" else "right")
    for heading in ("rechunked", "ms now", "speed-up"):
        table.add_column(heading, justify="right")
    for gain in found:
        table.add_row(
            gain.name,
            f"{gain.num_dates} x {gain.side_px} px",
            f"{gain.now.chunks:.0f}",
            f"{gain.now.files:.0f}",
            f"{gain.now.decoded_bytes / 1e6:.2f}",
            f"{gain.now.used_bytes / 1e6:.2f}",
            f"{gain.now.amplification:.1f}",
            f"{gain.after.amplification:.1f}",
            f"{1e3 * gain.seconds:.1f}",
            f"about {gain.seconds / gain.seconds_after:.1f}x",
        )
    return table


def _samples(cube: str, name: str, shape: Sequence[int], side: int, count: int) -> list[tuple[NDArray[np.intp], Area]]:
    draw, found = generator(0, "amplification", cube, name), []
    for _ in range(WINDOWS):
        corner = [int(draw.integers(0, n // side)) * side for n in shape[2:]]
        dates = np.sort(draw.choice(shape[0], count, replace=False))
        found.append((dates, ((corner[0], corner[0] + side), (corner[1], corner[1] + side))))
    return found


def _cost(cube: Cube, name: str, dates: NDArray[np.intp], area: Area) -> Cost:
    layouts = cube.manifest.arrays[f"{name}/values"].layout, cube.manifest.arrays[f"{name}/valid"].layout
    if not isinstance(cube.reader, ArchiveReader):
        return _layout_cost(layouts, dates, area)
    touched = list(cube.reader.sources[name].touched(dates.tolist(), area))
    files = {tiled.file_of(number) for tiled, number in touched}
    return Cost(len(touched), len(files), sum(_chunk_bytes(t) for t, _ in touched), _used(layouts[0], dates, area))


def _chunk_bytes(tiled: Tiled) -> int:
    return int(np.prod(tiled.chunk)) * tiled.numpy_dtype.itemsize


def _layout_cost(layouts: Sequence[ArrayLayout], dates: NDArray[np.intp], area: Area) -> Cost:
    """Of values and flags of a cube; every band is read."""
    chunks = files = size = 0
    for layout in layouts:
        box = area if len(layout.shape) == 3 else ((0, layout.shape[1]), *area)
        counts = [len(np.unique(dates // layout.chunk[0]))], [len(np.unique(dates // layout.shard[0]))]
        for (start, stop), chunk, shard in zip(box, layout.chunk[1:], layout.shard[1:], strict=True):
            for group, side in zip(counts, (chunk, shard), strict=True):
                group.append(-(-stop // side) - start // side)
        chunks, files = chunks + int(np.prod(counts[0])), files + int(np.prod(counts[1]))
        size += int(np.prod(counts[0])) * layout.chunk_bytes
    return Cost(chunks, files, size, _used(layouts[0], dates, area))


def _used(values: ArrayLayout, dates: NDArray[np.intp], area: Area) -> int:
    (top, bottom), (left, right) = area
    return len(dates) * values.shape[1] * (bottom - top) * (right - left) * values.numpy_dtype.itemsize


def _mean(costs: Sequence[Cost]) -> Cost:
    return Cost(*(float(np.mean([getattr(c, k) for c in costs])) for k in Cost.__dataclass_fields__))


def _measure(
    cube: Cube, name: str, new: ArrayLayout, samples: Sequence[tuple[NDArray[np.intp], Area]]
) -> tuple[float, float]:
    """Median seconds of reading a window as it lies, and of decoding its chunks once they are those of a cube."""
    values, valid = (cube.manifest.arrays[f"{name}/{what}"] for what in ("values", "valid"))
    now, later = [], []
    for dates, area in samples:
        started = time.perf_counter()
        pixels, _ = cube.reader.read(values, dates, ((0, values.layout.shape[1]), *area))
        cube.reader.read(valid, dates, area)
        now.append(time.perf_counter() - started)
        later.append(_seconds_rechunked(pixels, new))
    return float(np.median(now)), float(np.median(later))


def _seconds_rechunked(values: NDArray[np.generic], new: ArrayLayout) -> float:
    """Decoding a window's pixels from chunks of the new cube."""
    packed = [
        encode_chunk(new, values, (date, 0, row, column))
        for date in range(-(-values.shape[0] // new.chunk[0]))
        for row in range(-(-values.shape[2] // new.chunk[2]))
        for column in range(-(-values.shape[3] // new.chunk[3]))
    ]
    room, decode = np.empty(new.chunk, new.numpy_dtype), blosc_decoder()
    started = time.perf_counter()
    for part in packed:
        decode(part, room.ctypes.data, new.chunk_bytes, 1)
    return time.perf_counter() - started
