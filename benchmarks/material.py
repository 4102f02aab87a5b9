"""What the contestants of `reader.py` read: one Sentinel-2 series of the simulated Earth in every format, and which
windows and dates of it. Built once under `.bench/`, reused afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.data.cube import Cube, open_cube
from skyframe.data.read import read_flags
from skyframe.data.shard import Codec
from skyframe.data.write import CubeWriter
from skyframe.spec import CubeSpec, Grid

SIDE_PX = 64
CODECS: tuple[Codec, ...] = ("lz4", "zstd")
MODALITY = "s2"
GSD_M = 10.0
SHARD_PX = 256


@dataclass(frozen=True)
class Pick:
    """One sample: positions of its dates `[T]`, in random order, and the upper-left pixel of its 64 x 64 window."""

    dates: NDArray[np.intp]
    row: int
    column: int

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.row, self.row + SIDE_PX), slice(self.column, self.column + SIDE_PX)


@dataclass(frozen=True)
class Material:
    """The pixels that all formats hold, and the folder where those lie.

    `aligned` windows are one chunk of the stores each, `straddling` ones touch four.
    """

    folder: Path
    values: NDArray[np.uint16]
    """`[T, C, H, W]`"""

    aligned: Sequence[Pick]
    straddling: Sequence[Pick]

    def store(self, codec: Codec) -> Path:
        """SkyFrame's store of them."""
        return self.folder / f"{codec}.zarr"

    def expected(self, pick: Pick) -> NDArray[np.uint16]:
        """The sample, from the source."""
        return self.values[(pick.dates, slice(None), *pick.box)]


def built(target: Path, build: Callable[[Path], object]) -> Path:
    """The file or folder, built first where it is not there; a build that was stopped leaves nothing under its name."""
    if not target.exists():
        unfinished = target.with_name(f"unfinished_{target.name}")
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        build(unfinished)
        os.replace(unfinished, target)
    return target


def simulated(folder: Path, extent_km: float, num_dates: int, num_samples: int, dates_each: int) -> Material:
    """Material from a simulated cube of that extent: its first dates, all its Sentinel-2 bands."""

    def simulate(target: Path) -> None:
        options = ["--extent", f"{extent_km}x{extent_km}", "--hr-share", "0"]
        subprocess.run([sys.executable, "-m", "skyframe", "simulate", str(target), *options], check=True)

    def keep_source(target: Path) -> None:
        cube = open_cube(built(folder / "earth.zarr", simulate))
        shape = cube.manifest.arrays[f"{MODALITY}/values"].layout.shape
        with target.open("wb") as file:
            np.save(file, _read_whole(cube, "values", num_dates, shape[1:]))
        np.save(folder / "flags.npy", read_flags(cube, MODALITY, (0, shape[2], 0, shape[3]))[:num_dates])
        np.save(folder / "days.npy", cube.days(MODALITY)[:num_dates])

    source = built(folder / "source.npy", keep_source)
    values = np.load(source, mmap_mode="r")
    days = np.load(folder / "days.npy")
    write_stores(folder, values, np.load(folder / "flags.npy", mmap_mode="r"), days)
    return material(folder, values, num_samples, dates_each)


def _read_whole(cube: Cube, kind: str, num_dates: int, shape: Sequence[int]) -> NDArray[Any]:
    record = cube.manifest.arrays[f"{MODALITY}/{kind}"]
    return cube.reader.read(record, np.arange(num_dates), tuple((0, n) for n in shape))[0]


def write_stores(folder: Path, values: NDArray[np.uint16], flags: NDArray[np.uint8], days: NDArray[np.int32]) -> None:
    """One SkyFrame store per codec, of the same pixels.

    Args:
        folder: for the stores.
        values: `[T, C, H, W]`.
        flags: `[T, H, W]`.
        days: `[T]`.
    """
    height, width = values.shape[2:]
    grid = Grid("EPSG:32631", 400_000.0, 5_490_000.0, width * GSD_M, height * GSD_M)
    for codec in CODECS:
        target = folder / f"{codec}.zarr"
        if target.exists():
            continue
        writer = CubeWriter(target, CubeSpec.load("simulated_earth"), grid, {}, codec=codec)
        writer.create(MODALITY, days)
        for row in range(0, height, SHARD_PX):
            for column in range(0, width, SHARD_PX):
                box = slice(row, row + SHARD_PX), slice(column, column + SHARD_PX)
                block = np.ascontiguousarray(values[(..., *box)]), np.ascontiguousarray(flags[(..., *box)])
                writer.write(MODALITY, row, column, *block)
        writer.finish()


def material(folder: Path, values: NDArray[np.uint16], num_samples: int, dates_each: int) -> Material:
    """Random windows and dates, the same for the same seed; straddling windows lie across both chunk borders."""
    rng = np.random.default_rng(0)
    num_dates, _, height, width = values.shape
    aligned, straddling = [], []
    for _ in range(num_samples):
        dates = rng.choice(num_dates, dates_each, replace=False)
        row, column = (int(rng.integers(n // SIDE_PX)) * SIDE_PX for n in (height, width))
        aligned.append(Pick(dates, row, column))
        row, column = (
            int(rng.integers(n // SIDE_PX - 1)) * SIDE_PX + int(rng.integers(1, SIDE_PX)) for n in (height, width)
        )
        straddling.append(Pick(dates, row, column))
    return Material(folder, values, aligned, straddling)
