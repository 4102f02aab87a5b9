"""A cube on disk: the layout of its arrays, and opening it.

A cube is a Zarr v3 store with one group per modality (`values [day, band, y, x]`, `valid [day, y, x]`, `day`, `y`,
`x`, `spatial_ref`), truth under `truth/<label>`, and `manifest.json` at its root: what was written, shard by shard.
The manifest alone is read when a cube is opened; it is what tells "never written" from "lost".
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN
from skyframe.data.manifest import MANIFEST, Manifest
from skyframe.data.shard import ArrayLayout, ShardPool
from skyframe.spec import CubeSpec, Grid, InputError, Label, Modality, Window, did_you_mean, side_pixels

NODATA, CLEAR, CLOUD, SHADOW, NEVER_WRITTEN = 0, 1, 2, 3, 255
FLAG_MEANINGS = {NODATA: "nodata", CLEAR: "clear", CLOUD: "cloud", SHADOW: "shadow", NEVER_WRITTEN: "never_written"}

FINE_GSD_M = 2.0
"""Imagery finer than this is stored one shard per date: a place has few dates of it and many pixels."""


def tile_px(gsd_m: float) -> tuple[int, int]:
    """Sides in pixels of an inner chunk and of a shard."""
    return (256, 2048) if gsd_m < FINE_GSD_M else (64, 256)


def array_layouts(modality: Modality, num_dates: int, grid: Grid) -> tuple[ArrayLayout, ArrayLayout]:
    """Layouts of `<modality>/values` and `<modality>/valid`.

    Imagery has one chunk per date, so that a reader pays for the dates that it picks and no others. Flags are a
    thousandth of the bytes, and weather is read whole at one cell: both keep many dates in a chunk, as there the cost
    is the number of reads.
    """
    height, width = side_pixels(grid.height_m, modality.gsd_m), side_pixels(grid.width_m, modality.gsd_m)
    chunk, shard = tile_px(modality.gsd_m)
    bands, fine = len(modality.bands), modality.gsd_m < FINE_GSD_M
    dates, flag_dates, all_dates = 1, 1, 1
    if not fine:
        parts = -(-num_dates // 64)
        flag_dates = -(-num_dates // parts)
        all_dates = flag_dates * parts
    if modality.kind == "weather":
        dates, chunk = flag_dates, 8
    values = ArrayLayout(
        f"{modality.name}/values",
        (num_dates, bands, height, width),
        (dates, bands, chunk, chunk),
        (all_dates, bands, shard, shard),
        modality.dtype,
    )
    valid = ArrayLayout(
        f"{modality.name}/valid",
        (num_dates, height, width),
        (flag_dates, chunk, chunk),
        (all_dates, shard, shard),
        "uint8",
        NEVER_WRITTEN,
        bitshuffle=False,
    )
    return values, valid


def label_layout(label: Label, grid: Grid) -> ArrayLayout:
    """Layout of `truth/<label>/values`."""
    shape = side_pixels(grid.height_m, label.gsd_m), side_pixels(grid.width_m, label.gsd_m)
    chunk, shard = tile_px(label.gsd_m)
    return ArrayLayout(
        f"truth/{label.name}/values", shape, (chunk, chunk), (shard, shard), label.dtype, 0, label.units != ""
    )


def whole_pixels(name: str, metres: float, gsd_m: float) -> int:
    """Pixels along `metres`; an error where that is not a whole number."""
    count = metres / gsd_m
    if abs(count - round(count)) > 1e-6 * max(1.0, count):
        raise InputError(
            f"{name}: {metres:g} m is {count:.3f} pixels of {gsd_m:g} m, expected a whole number; use a multiple "
            f"of {gsd_m:g} m"
        )
    return round(count)


@dataclass(frozen=True)
class Cube:
    """An opened store. Holds no pixels and no open file until something is read; may be pickled and forked."""

    name: str
    path: Path
    spec: CubeSpec
    grid: Grid
    manifest: Manifest = field(repr=False)
    pool: ShardPool = field(repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Cube, (self.name, self.path, self.spec, self.grid, self.manifest, ShardPool(self.path))

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the truth layers."""
        return tuple(self.spec.labels)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the truth tables."""
        return tuple(self.manifest.tables)

    def has(self, modality: str) -> bool:
        """Whether the store carries this modality at all."""
        return modality in self.spec.modalities

    def days(self, modality: str) -> NDArray[np.int32]:
        """Acquisition days `[T]`, days since 2000-01-01 in rising order; several may fall on one day.

        Raises:
            InputError: the cube has no such modality.
        """
        return self.manifest.days[self.spec.modality(modality).name]

    def covers(self, modality: str, window: Window) -> bool:
        """Whether anything of this modality was written inside the window, by the manifest alone."""
        if not self.has(modality):
            return False
        record = self.manifest.arrays[f"{modality}/valid"]
        top, bottom, left, right = self.pixel_box(modality, window)
        rows, columns = record.layout.shard[-2:]
        return bool(record.coverage[top // rows : -(-bottom // rows), left // columns : -(-right // columns)].any())

    def pixel_box(self, modality: str, window: Window) -> tuple[int, int, int, int]:
        """First and past-the-last row, then column, of a window; for weather the one cell at its centre.

        Raises:
            InputError: the window leaves the cube, or is not a whole number of pixels.
        """
        self.check_inside(window)
        stored = self.spec.modality(modality)
        if stored.kind == "weather":
            height, width = self.manifest.arrays[f"{modality}/valid"].layout.shape[-2:]
            row = min(int((window.y_m + window.size_m / 2) / stored.gsd_m), height - 1)
            column = min(int((window.x_m + window.size_m / 2) / stored.gsd_m), width - 1)
            return row, row + 1, column, column + 1
        top, left, side = (stored.pixels(metres) for metres in (window.y_m, window.x_m, window.size_m))
        return top, top + side, left, left + side

    def check_inside(self, window: Window) -> None:
        """Raise InputError unless the window lies wholly inside the cube."""
        slack = 1e-6 * window.size_m
        for axis, start, extent in (("y_m", window.y_m, self.grid.height_m), ("x_m", window.x_m, self.grid.width_m)):
            if start < -slack or start + window.size_m > extent + slack or window.size_m <= 0:
                raise InputError(
                    f"cube {self.name}: window {axis} {start:g} m with size {window.size_m:g} m leaves the cube, "
                    f"expected 0 to {extent:g} m; move or shrink the window"
                )


def cube_name(path: str | Path) -> str:
    """Name of a cube: its folder without `.zarr`."""
    return Path(path).name.removesuffix(".zarr")


def open_cube(path: str | Path) -> Cube:
    """Open a finished cube by its folder; reads the manifest and nothing else.

    Raises:
        InputError: no such folder, a store that was never finished, a damaged manifest, or a future format.
    """
    path = Path(path)
    if not path.exists():
        if partial_path(path).exists():
            raise InputError(
                f"{path}: only {partial_path(path).name} is there, so the cube was never finished; run the ingest again"
            )
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.zarr")])
        raise InputError(f"{path}: no such cube, expected a folder with {MANIFEST}{near or '; check the path'}")
    if path.name.endswith(".partial"):
        raise InputError(f"{path}: a cube that was never finished; run the ingest again")
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{path}: no {MANIFEST} inside, so this is no cube or it was never finished; run the ingest again"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {MANIFEST} is truncated or altered; restore it or run the ingest again") from error
    manifest = Manifest.from_json(text, path)
    return Cube(cube_name(path), path, manifest.spec, manifest.grid, manifest, ShardPool(path))


def find_cubes(patterns: Sequence[str], where: str = "data.cubes") -> list[Cube]:
    """Open the cubes that paths or globs name, each pattern's matches in sorted order.

    A glob passes over files (quick-look pictures) and unfinished `.partial` folders; a plain path must be a cube.

    Raises:
        InputError: nothing matches, two cubes share a name, or one of them does not open.
    """
    paths: list[Path] = []
    for pattern in patterns:
        matches = [Path(pattern)]  # a plain path: opening it says what is wrong with it
        if glob.has_magic(pattern):
            matches = [p for p in map(Path, sorted(glob.glob(pattern))) if p.is_dir() and p.suffix != ".partial"]
        if not matches:
            raise InputError(
                f"{where}: nothing at {pattern!r}, expected finished cubes; write one with `skyframe simulate` or "
                "`skyframe ingest`"
            )
        paths += matches
    cubes = [open_cube(p) for p in paths]
    names = [c.name for c in cubes]
    for cube in cubes:
        if names.count(cube.name) > 1:
            raise InputError(
                f"{where}: {names.count(cube.name)} cubes are called {cube.name!r}, expected different folder "
                "names; rename one"
            )
    return cubes


def partial_path(path: Path) -> Path:
    """Where a cube grows until it is finished."""
    return path.with_name(path.name + ".partial")


def known_days(days: NDArray[np.int32]) -> NDArray[np.int32]:
    """The days that are known (a static layer has none)."""
    return days[days != DAY_UNKNOWN]
