"""Any cube or archive as a SkyFrame cube: the same values and flags in chunks that a random window does not waste."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.data.cube import NEVER_WRITTEN, NODATA, Cube, array_layouts
from skyframe.data.read import read_table
from skyframe.data.shard import Codec, damage
from skyframe.data.write import CubeWriter
from skyframe.spec import InputError

Progress = Callable[[int, int], None]
"""Called with blocks done and blocks in all."""


def rechunk(cube: Cube, out: str | Path, codec: Codec = "lz4", progress: Progress | None = None) -> Path:
    """Write a cube that holds what another one, or an archive, holds: bit for bit, block by block.

    Killed and started again it goes on where it was. Memory: one block of every date of a modality (256 x 256 pixels,
    2048 x 2048 of imagery finer than 2 m), twice.

    Args:
        cube: what is read.
        out: where the new cube shall stand; must not exist yet.
        codec: `lz4` decodes 2.4 times as fast, `zstd` is a tenth smaller.
        progress: told after each block.

    Returns:
        The path of the finished cube.

    Raises:
        InputError: `out` exists or holds another unfinished cube, or a chunk of the source is damaged.
    """
    source = {"kind": "rechunk", "of": cube.name, "from": cube.manifest.source}
    writer = CubeWriter(out, cube.spec, cube.grid, source, codec)
    for name in cube.spec.modalities:
        writer.create(name, cube.days(name))
    blocks = [(name, y, x) for name in cube.spec.modalities for y, x in _blocks(cube, name)]
    for done, (name, y_px, x_px) in enumerate(blocks, 1):
        if not writer.is_written(name, y_px, x_px):
            block = _read_block(cube, name, y_px, x_px)
            if block is not None:
                writer.write(name, y_px, x_px, *block)
        if progress is not None:
            progress(done, len(blocks))
    for label in cube.labels:
        writer.write_label(label, _read_label(cube, label))
    for table in cube.tables:
        writer.write_table(table, read_table(cube, table))
    return writer.finish()


def _blocks(cube: Cube, name: str) -> Iterator[tuple[int, int]]:
    """Upper-left pixels of the new cube's shards."""
    valid = array_layouts(cube.spec.modality(name), len(cube.days(name)), cube.grid)[1]
    yield from itertools.product(*(range(0, n, s) for n, s in zip(valid.shape[1:], valid.shard[1:], strict=True)))


def _read_block(cube: Cube, name: str, y_px: int, x_px: int) -> tuple[NDArray[np.generic], NDArray[np.uint8]] | None:
    """Every date of a block, None where nothing of it was ever written."""
    layout = array_layouts(cube.spec.modality(name), len(cube.days(name)), cube.grid)[1]
    spans = zip((y_px, x_px), layout.shard[1:], layout.shape[1:], strict=True)
    area = tuple((start, min(start + side, extent)) for start, side, extent in spans)
    record, dates = cube.manifest.arrays[f"{name}/values"], np.arange(layout.shape[0])
    values, missing = cube.reader.read(record, dates, ((0, record.layout.shape[1]), *area))
    flags, _ = cube.reader.read(cube.manifest.arrays[f"{name}/valid"], dates, area)
    if (flags == NEVER_WRITTEN).all():
        return None
    for chunk, rows, spot in missing:
        there = flags[(rows, *spot[1:])]
        if not ((there == NODATA) | (there == NEVER_WRITTEN)).all():
            raise damage(cube.store, record.layout, f"chunk {chunk}", "is missing although it was observed")
    return values, flags.astype(np.uint8, copy=False)


def _read_label(cube: Cube, name: str) -> NDArray[Any]:
    record = cube.manifest.arrays[f"truth/{name}/values"]
    height, width = record.layout.shape
    values, missing = cube.reader.read(record, np.arange(height), ((0, width),))
    if missing:
        raise InputError(
            f"truth/{name}/values: chunk {missing[0][0]} in {cube.url} is missing; the store is damaged, restore it"
        )
    return values
