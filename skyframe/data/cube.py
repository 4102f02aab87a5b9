"""A cube on disk: the layout of its arrays, and opening it.

A cube is a Zarr v3 store with one group per modality (`values [day, band, y, x]`, `valid [day, y, x]`, `day`, `y`,
`x`, `spatial_ref`), truth under `truth/<label>`, and `manifest.json` at its root: what was written, shard by shard.
The manifest alone is read when a cube is opened; it is what tells "never written" from "lost".
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN
from skyframe.data.manifest import MANIFEST, ArrayRecord, Manifest
from skyframe.data.shard import ArrayLayout, Codec, ShardPool
from skyframe.data.store import LocalStore, Store, is_address, open_store
from skyframe.data.transport import THREADS, Client
from skyframe.spec import CubeSpec, Grid, InputError, Label, Modality, Window, did_you_mean, side_pixels

NODATA, CLEAR, CLOUD, SHADOW, NEVER_WRITTEN = 0, 1, 2, 3, 255
FLAG_MEANINGS = {NODATA: "nodata", CLEAR: "clear", CLOUD: "cloud", SHADOW: "shadow", NEVER_WRITTEN: "never_written"}

ARCHIVE_SUFFIXES = (".yaml", ".yml")
"""A path that ends so is the description of an archive."""

FINE_GSD_M = 2.0
"""Imagery finer than this is stored one shard per date: a place has few dates of it and many pixels."""


def tile_px(gsd_m: float) -> tuple[int, int]:
    """Sides in pixels of an inner chunk and of a shard."""
    return (256, 2048) if gsd_m < FINE_GSD_M else (64, 256)


def array_layouts(
    modality: Modality, num_dates: int, grid: Grid, codec: Codec = "lz4"
) -> tuple[ArrayLayout, ArrayLayout]:
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
        codec=codec,
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


Box = tuple[tuple[int, int], ...]
"""First and past-the-last element along each axis of an array after the first."""

Missing = tuple[tuple[int, ...], NDArray[np.intp], Any]
"""A chunk that a store does not hold: its number, and what it would fill: rows along the first axis, slices along the
others."""


class Reader(Protocol):
    """Elements of one array of a cube; made for one kind of store. May be pickled and forked."""

    def read(
        self,
        record: ArrayRecord,
        firsts: NDArray[np.integer],
        box: Box,
        out: NDArray[np.generic] | None = None,
    ) -> tuple[NDArray[np.generic], list[Missing]]:
        """Elements `firsts` along the first axis (any order, repeats allowed), a box along the others.

        Args:
            record: of the array.
            firsts: positions along its first axis.
            box: first and past-the-last element along each other axis.
            out: C-contiguous array of the result's shape and the stored dtype, to be filled (default: a fresh one).

        Returns:
            The array (`out` where it was given), and the chunks inside it that the store does not hold (there it has
            the fill value).

        Raises:
            InputError: a chunk is lost or altered.
        """


@dataclass(frozen=True)
class Cube:
    """An opened store. Holds no pixels and no open file until something is read; may be pickled and forked."""

    name: str
    store: Store
    spec: CubeSpec
    grid: Grid
    manifest: Manifest = field(repr=False)
    reader: Reader = field(repr=False, compare=False)

    @property
    def url(self) -> str:
        """Folder or address."""
        return self.store.url

    @property
    def path(self) -> Path:
        """Its folder.

        Raises:
            InputError: the cube is not on a disk.
        """
        if not isinstance(self.store, LocalStore):
            raise InputError(f"{self.url}: not a local folder, expected one here; copy the cube to a disk first")
        return self.store.path

    @property
    def in_place(self) -> bool:
        """Whether its pixels lie in an archive that is not a SkyFrame cube."""
        return self.manifest.source.get("kind") == "archive"

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
        if record.is_covered:
            return True
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


def open_cube(path: str | Path, pool: ShardPool | None = None, client: Client | None = None) -> Cube:
    """Open a finished cube by its folder or address, or an archive in place by its YAML description; reads no pixels.

    Args:
        path: the folder, the description, or `https://host/cube.zarr`, `s3://bucket/cube.zarr`.
        pool: of open shards, shared with other cubes; by default the cube gets one of its own.
        client: for addresses, shared with other cubes; by default the cube gets one of its own.

    Raises:
        InputError: no such folder or object, a store that was never finished, a damaged manifest, or a future format.
    """
    from skyframe.data.box import ShardReader  # it needs Cube's types

    if Path(path).suffix in ARCHIVE_SUFFIXES and not is_address(path):
        from skyframe.data.archive import open_archive

        return open_archive(Path(path))
    if not is_address(path):
        _check_folder(Path(path))
    store = open_store(path, client)
    try:
        text = store.read(MANIFEST).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{store.url}: no {MANIFEST} inside, so this is no cube or it was never finished; check the name, or run "
            "the ingest again"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{store.url}: {MANIFEST} is truncated or altered; restore it or run the ingest again"
        ) from error
    manifest = Manifest.from_json(text, store.url)
    reader = ShardReader(store, pool or ShardPool())
    return Cube(cube_name(store.url), store, manifest.spec, manifest.grid, manifest, reader)


def _check_folder(path: Path) -> None:
    if not path.exists():
        if partial_path(path).exists():
            raise InputError(
                f"{path}: only {partial_path(path).name} is there, so the cube was never finished; run the ingest again"
            )
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.zarr")])
        raise InputError(f"{path}: no such cube, expected a folder with {MANIFEST}{near or '; check the path'}")
    if path.name.endswith(".partial"):
        raise InputError(f"{path}: a cube that was never finished; run the ingest again")


def find_cubes(patterns: Sequence[str], where: str = "data.cubes", client: Client | None = None) -> list[Cube]:
    """Open the cubes that paths, globs or addresses name, each pattern's matches in sorted order.

    A glob passes over files (quick-look pictures) and unfinished `.partial` folders, unless it asks for `.yaml` files
    (descriptions of archives); a plain path must be a cube.

    Args:
        patterns: of the cubes.
        where: the key that holds them, for messages.
        client: for addresses; by default they share one.

    Raises:
        InputError: nothing matches, two cubes share a name, or one of them does not open.
    """
    paths: list[str | Path] = []
    for pattern in patterns:
        matches: list[str | Path] = [pattern]  # a plain path: opening it says what is wrong with it
        if is_address(pattern):
            if "*" in pattern:
                raise InputError(f"{where}: {pattern!r} is an address with *, expected one cube; name each of them")
        elif glob.has_magic(pattern):
            matches = [p for p in map(Path, sorted(glob.glob(pattern))) if _is_cube(p, pattern)]
        if not matches:
            raise InputError(
                f"{where}: nothing at {pattern!r}, expected finished cubes; write one with `skyframe simulate` or "
                "`skyframe ingest`"
            )
        paths += matches
    pool, client = ShardPool(), client or Client()
    with ThreadPoolExecutor(THREADS if any(map(is_address, paths)) else 1) as threads:
        cubes = list(threads.map(lambda path: open_cube(path, pool, client), paths))
    names = [c.name for c in cubes]
    for cube in cubes:
        if names.count(cube.name) > 1:
            raise InputError(
                f"{where}: {names.count(cube.name)} cubes are called {cube.name!r}, expected different folder "
                "names; rename one"
            )
    return cubes


def _is_cube(path: Path, pattern: str) -> bool:
    """Whether a glob's match is meant."""
    if path.is_dir():
        return path.suffix != ".partial"
    return path.suffix == Path(pattern).suffix and path.suffix in ARCHIVE_SUFFIXES


def partial_path(path: Path) -> Path:
    """Where a cube grows until it is finished."""
    return path.with_name(path.name + ".partial")


def known_days(days: NDArray[np.int32]) -> NDArray[np.int32]:
    """The days that are known (a static layer has none)."""
    return days[days != DAY_UNKNOWN]
