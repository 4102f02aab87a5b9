"""Checking a whole cube: every array, shard and chunk that its manifest lists, against its checksums."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from skyframe.data.cube import Cube
from skyframe.data.manifest import ArrayRecord
from skyframe.data.shard import OpenShard
from skyframe.spec import InputError

Progress = Callable[[str, int, int], None]
"""Called with the array's name, shards done and shards in all."""


def check_cube(cube: Cube, progress: Progress | None = None) -> list[str]:
    """Read every chunk of a cube once.

    Args:
        cube: an opened store.
        progress: told after each shard.

    Returns:
        One sentence per damaged shard or chunk, naming array and chunk; empty where the cube is whole.
    """
    found = []
    total = sum(len(record.shards) for record in cube.manifest.arrays.values())
    done = 0
    for record in cube.manifest.arrays.values():
        found += _check_metadata(cube, record)
        for shard, num_chunks in record.shards.items():
            found += _check_shard(cube, record, shard, num_chunks)
            done += 1
            if progress is not None:
                progress(record.layout.name, done, total)
    return found


def _check_metadata(cube: Cube, record: ArrayRecord) -> list[str]:
    """What plain xarray reads must say the same as the manifest."""
    layout, file = record.layout, cube.path / record.layout.name / "zarr.json"
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        got = tuple(tree["shape"]), tree["data_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return [f"{layout.name}: {file} is missing or not readable; restore it or run the ingest again"]
    if got != (layout.shape, layout.dtype):
        return [f"{layout.name}: {file} says {got}, the manifest {(layout.shape, layout.dtype)}; restore the store"]
    return []


def _check_shard(cube: Cube, record: ArrayRecord, shard: tuple[int, ...], num_chunks: int) -> list[str]:
    try:
        file = OpenShard(cube.path, record.layout, shard, num_chunks)
    except InputError as error:
        return [str(error)]
    found = []
    out = np.empty(record.layout.chunk, record.layout.numpy_dtype)
    for row in file.chunks():
        try:
            file.read_chunk(row, out)
        except InputError as error:
            found.append(str(error))
    file.close()
    return found
