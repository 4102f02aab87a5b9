"""Checking a whole cube: every array, shard and chunk that its manifest lists, against its checksums."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import zarr

from skyframe.data.cube import Cube
from skyframe.data.manifest import ArrayRecord
from skyframe.data.shard import DamageError, OpenShard

TOGETHER = 64
"""Chunks of a shard that are asked for at a time."""

Progress = Callable[[str, int, int], None]
"""Called with the array's name, shards done and shards in all."""


def check_cube(cube: Cube, progress: Progress | None = None, threads: int | None = None) -> list[str]:
    """Read every chunk of a cube once, and the dates and coordinates that plain xarray sees.

    Args:
        cube: an opened store.
        progress: told after each shard.
        threads: shards checked at a time; by default one per core. Each holds one chunk in memory,
            over a network 64 compressed ones as well.

    Returns:
        One sentence per damaged shard or chunk, naming array and chunk; empty where the cube is whole.
    """
    records = cube.manifest.arrays.values()
    found = [finding for record in records for finding in _check_metadata(cube, record)]
    found += [finding for modality in cube.manifest.days for finding in _check_coordinates(cube, modality)]
    shards = [(record, shard) for record in records for shard in record.shards]
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        results = pool.map(partial(_check_shard, cube), *zip(*shards, strict=True))
        for done, ((record, _), findings) in enumerate(zip(shards, results, strict=True), 1):
            found += findings
            if progress is not None:
                progress(record.layout.name, done, len(shards))
    return found


def _check_metadata(cube: Cube, record: ArrayRecord) -> list[str]:
    """What plain xarray reads must say the same as the manifest."""
    layout = record.layout
    key = f"{layout.name}/zarr.json"
    file = f"{key} in {cube.url}"
    try:
        tree = json.loads(cube.store.read(key))
        got = tuple(tree["shape"]), tree["data_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return [f"{layout.name}: {file} is missing or not readable; restore it or run the ingest again"]
    if got != (layout.shape, layout.dtype):
        return [f"{layout.name}: {file} says {got}, the manifest {(layout.shape, layout.dtype)}; restore the store"]
    return []


def _check_coordinates(cube: Cube, modality: str) -> list[str]:
    """The small arrays beside a modality: readable, and the dates those of the manifest."""
    found = []
    for name in ("day", "y", "x", "spatial_ref"):
        place = f"{modality}/{name}"
        try:
            values = np.asarray(zarr.open_array(cube.store.for_zarr(place), mode="r")[...])
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            found.append(f"{place}: does not read ({error}); restore the store or run the ingest again")
            continue
        if name == "day" and not np.array_equal(values, cube.manifest.days[modality]):
            found.append(f"{place}: differs from the manifest's dates; restore the store or run the ingest again")
    return found


def _check_shard(cube: Cube, record: ArrayRecord, shard: tuple[int, ...]) -> list[str]:
    try:
        file = OpenShard(cube.store, record.layout, shard, record.shards[shard])
    except DamageError as error:
        return [str(error)]
    found = []
    out = np.empty(record.layout.chunk, record.layout.numpy_dtype)
    rows = np.array(list(file.chunks()), np.intp)
    for some in np.array_split(rows, -(-len(rows) // TOGETHER)) if len(rows) else []:
        held = file.ahead(some)  # over a network they come side by side
        for row in some.tolist():
            try:
                file.read_chunk(row, out)
            except DamageError as error:
                found.append(str(error))
        del held
    file.close()
    return found
