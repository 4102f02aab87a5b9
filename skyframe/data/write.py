"""Writing a cube: it grows under `<path>.partial` and becomes `<path>` in one rename, so no half of it ever opens.

A killed writer is resumed by starting it again with the same description: shards that are whole are kept.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import uuid
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.data.cube import CLEAR, FLAG_MEANINGS, array_layouts, label_layout, partial_path
from skyframe.data.manifest import MANIFEST, ArrayRecord, Manifest
from skyframe.data.metadata import consolidate, create_label, create_modality, create_root, create_table
from skyframe.data.shard import ArrayLayout, Codec, OpenShard, encode_shard, shard_key
from skyframe.data.store import LocalStore
from skyframe.geography import check_crs
from skyframe.spec import CubeSpec, Grid, InputError, Modality

DESCRIPTION = "partial.json"
_TEMPORARY = ".tmp"


class CubeWriter:
    """Writes one cube block by block.

    Several processes may write different blocks of one cube: each opens its own writer with the same description, one
    calls `finish` when all are done.
    """

    def __init__(
        self, path: str | Path, spec: CubeSpec, grid: Grid, source: dict[str, Any], codec: Codec = "lz4"
    ) -> None:
        """Start `<path>.partial`, or resume it.

        Args:
            path: where the finished cube shall stand; must not exist yet.
            spec: modalities and labels; those never created are left out of the finished cube's spec.
            grid: CRS, corner and extent.
            source: plain values that say where the pixels came from; the same on every start (no time of writing).
            codec: `lz4` decodes 2.4 times as fast, `zstd` is a tenth smaller.

        Raises:
            InputError: `path` exists, the CRS is not projected, or the partial store is of another cube or of none.
        """
        self.path, self.spec, self.grid = Path(path), spec, grid
        self.source, self.codec = _plain(source), codec
        if self.path.exists():
            raise InputError(f"{self.path}: already exists, expected a new path; delete it or write elsewhere")
        check_crs(grid.crs, grid.unit_m)
        self._root = partial_path(self.path)
        self._days: dict[str, NDArray[np.int32]] = {}
        self._layouts: dict[str, ArrayLayout] = {}
        self._tables: dict[str, tuple[str, ...]] = {}
        self._describe()

    def _describe(self) -> None:
        """Write down what is being written before anything of it, or compare it with what an earlier start wrote down.

        A writer that was killed in the last steps of `finish` left the manifest alone, which says it as well.
        """
        description = {"spec": self.spec.to_dict(), "grid": vars(self.grid), "source": self.source, "codec": self.codec}
        expected = found = _plain(description)
        there = {entry.name for entry in self._root.iterdir()} if self._root.exists() else set()
        if DESCRIPTION in there:
            found = json.loads((self._root / DESCRIPTION).read_text(encoding="utf-8"))
        elif MANIFEST in there:
            whole = Manifest.from_json((self._root / MANIFEST).read_text(encoding="utf-8"), self._root)
            found = _plain({"spec": whole.spec.to_dict(), "grid": vars(whole.grid), "source": whole.source})
            del expected["codec"]  # shard by shard
            expected |= {"spec": _plain(_reduced(self.spec, whole.spec.modalities, whole.spec.labels))}
        elif there - {_TEMPORARY}:
            raise InputError(
                f"{self._root}: holds {', '.join(sorted(there - {_TEMPORARY}))} but no {DESCRIPTION}, expected an "
                "unfinished cube that says what it is; delete that folder or write elsewhere"
            )
        different = [key for key, value in expected.items() if found.get(key) != value]
        if different:
            raise InputError(
                f"{self._root}: holds another unfinished cube (different {', '.join(different)}), expected the one "
                f"that is being written; delete that folder or write elsewhere"
            )
        (self._root / _TEMPORARY).mkdir(parents=True, exist_ok=True)
        if DESCRIPTION not in there:
            self._replace(self._root / DESCRIPTION, json.dumps(description).encode())
        (self._root / MANIFEST).unlink(missing_ok=True)  # what it lists may change from here on
        aside = self._aside()
        create_root(aside, self.spec.name)
        for name in ("zarr.json", "truth/zarr.json"):
            if not (self._root / name).exists():
                (self._root / name).parent.mkdir(exist_ok=True)
                os.replace(aside / name, self._root / name)

    def _aside(self) -> Path:
        """A path of one's own to make things in: writers that start at one moment do not undo each other, and their
        process numbers may be equal on two machines."""
        return self._root / _TEMPORARY / uuid.uuid4().hex

    def create(self, modality: str, days: NDArray[np.int32]) -> None:
        """Add a modality with its dates; the same again after a resume.

        Args:
            days: int32 `[T]`, days since 2000-01-01, not falling; DAY_UNKNOWN for a static layer.

        Raises:
            InputError: no dates, dates out of order, a modality that the spec lacks, or other dates than before.
        """
        stored = self.spec.modality(modality)
        days = np.asarray(days)
        if days.ndim != 1 or not len(days) or days.dtype.kind != "i":
            raise InputError(
                f"{modality}: days has shape {days.shape} and dtype {days.dtype}, expected at least one date as "
                "int32 [T]; check the source's dates"
            )
        if (np.diff(days.astype(np.int64)) < 0).any():
            raise InputError(
                f"{modality}: days fall at position {int(np.argmax(np.diff(days) < 0)) + 1}, expected rising "
                "order; sort the dates with their pixels"
            )
        days = days.astype(np.int32)
        values, valid = array_layouts(stored, len(days), self.grid, self.codec)
        if not (self._root / modality).exists():
            aside = self._aside()
            create_modality(aside, stored, self.grid, days, values, valid)
            with contextlib.suppress(OSError):  # another writer was first: what it made is compared below
                os.rename(aside / modality, self._root / modality)
        before = create_modality(self._root, stored, self.grid, days, values, valid)
        if not np.array_equal(before, days):
            raise InputError(
                f"{modality}: {self._root} was begun with {len(before)} dates, now {len(days)} or other ones; "
                "delete that folder and start again"
            )
        self._days[modality] = days
        self._layouts[values.name], self._layouts[valid.name] = values, valid

    def is_written(self, modality: str, y_px: int, x_px: int) -> bool:
        """Whether the block whose upper-left pixel this is stands whole on disk (its first shard, every date)."""
        values, valid = self._pair(modality)
        place = y_px // valid.shard[1], x_px // valid.shard[2]
        return all(
            self._is_whole(values, (first, 0, *place)) and self._is_whole(valid, (first, *place))
            for first in range(valid.shard_grid[0])
        )

    def _is_whole(self, layout: ArrayLayout, shard: tuple[int, ...]) -> bool:
        if not (self._root / layout.name / shard_key(shard)).exists():
            return False
        try:
            found = OpenShard(LocalStore(self._root), layout, shard)
        except InputError:  # a torn file of a machine that lost power: written anew
            return False
        return found.num_chunks == layout.expected_chunks(shard)

    def write(self, modality: str, y_px: int, x_px: int, values: NDArray[np.generic], flags: NDArray[np.uint8]) -> None:
        """Write one block of every date.

        Args:
            y_px, x_px: its upper-left pixel, on the shard grid of the modality (256 px; 2048 px where finer than 2 m).
            values: `[T, C, h, w]` in the stored dtype; h and w are whole shards or end at the cube's edge.
            flags: uint8 `[T, h, w]`: 0 nodata, 1 clear, 2 cloud, 3 shadow.

        Raises:
            InputError: shape, dtype, position or flag values differ from that, or a clear pixel is not finite or
                holds the modality's `nodata` in every band.
        """
        layouts = self._pair(modality)
        _check_block(self.spec.modality(modality), layouts[0], y_px, x_px, values, flags)
        for layout, block in zip(layouts, (values, flags), strict=True):
            for shard, part in _cut(layout, block, (0,) * (block.ndim - 2) + (y_px, x_px)):
                self._replace(self._root / layout.name / shard_key(shard), encode_shard(layout, part))

    def _pair(self, modality: str) -> tuple[ArrayLayout, ArrayLayout]:
        if modality not in self._days:
            raise InputError(f"{modality}: written to before it was created; call create({modality!r}, days) first")
        return self._layouts[f"{modality}/values"], self._layouts[f"{modality}/valid"]

    def write_label(self, name: str, values: NDArray[np.generic]) -> None:
        """Write a truth layer `[H, W]` whole, in the dtype that the spec's `labels` gives it."""
        if name not in self.spec.labels:
            raise InputError(
                f"label {name}: spec {self.spec.name} has no such label, only "
                f"{', '.join(self.spec.labels) or 'none'}; add it under labels:"
            )
        label = self.spec.labels[name]
        layout = label_layout(label, self.grid)
        if values.shape != layout.shape or values.dtype != layout.numpy_dtype:
            raise InputError(
                f"label {name}: got {values.dtype} {list(values.shape)}, expected {layout.dtype} "
                f"{list(layout.shape)} (grid over {label.gsd_m:g} m)"
            )
        create_label(self._root, label, self.grid, layout)
        self._write_whole(layout, values)

    def write_table(self, name: str, columns: Mapping[str, NDArray[np.generic]]) -> None:
        """Write a truth table of equally long 1-D numeric columns (boxes); it may have no rows."""
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise InputError(f"table {name}: columns have {sorted(lengths)} rows, expected one common number")
        for column, values in columns.items():
            if values.ndim != 1 or values.dtype.kind not in "biuf":
                raise InputError(
                    f"table {name}: column {column} is {values.dtype} {list(values.shape)}, expected numbers [N]; "
                    "store codes for text"
                )
            size = (max(1, len(values)),)
            layout = ArrayLayout(f"truth/{name}/{column}", values.shape, size, size, values.dtype.name)
            create_table(self._root, name, layout)
            self._write_whole(layout, values)
        self._tables[name] = tuple(columns)

    def _write_whole(self, layout: ArrayLayout, values: NDArray[np.generic]) -> None:
        for shard, part in _cut(layout, values, (0,) * values.ndim):
            self._replace(self._root / layout.name / shard_key(shard), encode_shard(layout, part))
        self._layouts[layout.name] = layout

    def _replace(self, file: Path, content: bytes) -> None:
        temporary = self._aside()
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, file)

    def finish(self) -> Path:
        """Check every shard, consolidate, write the manifest, flush to disk and move the cube to its place.

        The description goes last, when the manifest is safe on disk: a start after a kill finds one of the two.

        Raises:
            InputError: nothing was created, or a shard on disk is torn.
        """
        if not self._days:
            raise InputError(
                f"{self._root}: no modality was created, expected at least one of {', '.join(self.spec.modalities)}"
            )
        manifest = self._manifest()
        consolidate(self._root)
        self._replace(self._root / MANIFEST, manifest.to_json().encode())
        shutil.rmtree(self._root / _TEMPORARY)
        for folder, _, files in os.walk(self._root, topdown=False):
            for entry in (*(Path(folder) / name for name in files), Path(folder)):
                sync(entry)
        (self._root / DESCRIPTION).unlink()
        sync(self._root)
        os.replace(self._root, self.path)
        sync(self.path.absolute().parent)
        return self.path

    def _manifest(self) -> Manifest:
        tree = _reduced(
            self.spec, self._days, [name for name in self.spec.labels if f"truth/{name}/values" in self._layouts]
        )
        arrays = {name: ArrayRecord(layout, dict(self._written(layout))) for name, layout in self._layouts.items()}
        return Manifest(
            CubeSpec.from_dict(tree, str(self.path)), self.grid, self.source, self._days, arrays, self._tables
        )

    def _written(self, layout: ArrayLayout) -> Iterator[tuple[tuple[int, ...], int]]:
        for shard in np.ndindex(*layout.shard_grid):
            if (self._root / layout.name / shard_key(shard)).exists():
                yield shard, OpenShard(LocalStore(self._root), layout, shard).num_chunks


def _reduced(spec: CubeSpec, modalities: Container[str], labels: Container[str]) -> dict[str, Any]:
    """Plain values of a spec without the modalities and labels that are not named."""
    tree = spec.to_dict()
    for group, names in (("modalities", modalities), ("labels", labels)):
        tree[group] = {name: entry for name, entry in tree[group].items() if name in names}
    return tree


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values as JSON gives them back: tuples are lists, keys are text."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _cut(
    layout: ArrayLayout, block: NDArray[np.generic], start: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], NDArray[np.generic]]]:
    """The shards of a block whose first element lies at `start` (on the shard grid) of the array."""
    firsts = [s // n for s, n in zip(start, layout.shard, strict=True)]
    counts = [-(-size // n) for size, n in zip(block.shape, layout.shard, strict=True)]
    for step in itertools.product(*map(range, counts)):
        part = block[tuple(slice(i * n, (i + 1) * n) for i, n in zip(step, layout.shard, strict=True))]
        yield tuple(f + i for f, i in zip(firsts, step, strict=True)), part


def _check_block(
    modality: Modality, layout: ArrayLayout, y_px: int, x_px: int, values: NDArray[np.generic], flags: NDArray[np.uint8]
) -> None:
    where = f"{modality.name}: block at row {y_px}, column {x_px}"
    num_dates, num_bands = layout.shape[:2]
    if values.ndim != 4 or values.shape[:2] != (num_dates, num_bands) or flags.shape != (num_dates, *values.shape[2:]):
        raise InputError(
            f"{where}: values {list(values.shape)} and flags {list(flags.shape)}, expected "
            f"[{num_dates}, {num_bands}, h, w] and [{num_dates}, h, w]; bring all dates and bands of the block at once"
        )
    if values.dtype != layout.numpy_dtype or flags.dtype != np.uint8:
        raise InputError(
            f"{where}: values are {values.dtype} and flags {flags.dtype}, expected {layout.dtype} and uint8; "
            "convert before writing"
        )
    for axis, start, size in ((2, y_px, values.shape[2]), (3, x_px, values.shape[3])):
        shard, extent = layout.shard[axis], layout.shape[axis]
        ends_well = start + size == extent or (size % shard == 0 and start + size < extent)
        if start % shard or size == 0 or not ends_well:
            raise InputError(
                f"{where}: rows or columns {start} to {start + size} of {extent}, expected to begin at a multiple of "
                f"{shard} and to end at one or at the cube's edge; cut the block on the shard grid"
            )
    unknown = ~np.isin(np.arange(256), list(FLAG_MEANINGS))[flags]
    if unknown.any():
        raise InputError(
            f"{where}: flags hold {np.unique(flags[unknown]).tolist()}, "
            f"expected only {', '.join(map(str, FLAG_MEANINGS))}"
        )
    if values.dtype.kind == "f" and not np.isfinite(values.swapaxes(0, 1)[:, flags == CLEAR]).all():
        raise InputError(f"{where}: a clear pixel is not a finite number; flag it 0 (nodata)")
    if modality.nodata is not None:
        absent = (values == modality.nodata).all(axis=1) & (flags == CLEAR)
        if absent.any():
            date, row, column = (int(i) for i in np.argwhere(absent)[0])
            raise InputError(
                f"{where}: the pixel at date {date}, row {y_px + row}, column {x_px + column} is flagged clear but "
                f"holds nodata ({modality.nodata:g}) in every band, expected a value; flag it 0 (nodata)"
            )


def sync(path: Path) -> None:
    """Have a file or a folder on disk before going on."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
