"""Cubes on a shared file system, read by way of a cache on the node's own disk."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from skyframe.config.recipe import CacheConfig
from skyframe.data.cache import BLOCK_BYTES, BlockCache
from skyframe.data.cached_file import CachedFile
from skyframe.data.cube import open_cube
from skyframe.data.datamodule import CubeDataModule
from skyframe.data.read import read_series
from skyframe.data.shard import DamageError
from skyframe.data.transport import Client
from skyframe.spec import InputError, Window
from tests.data.cubes import tiny_cube
from tests.system.batches import nano_recipe

WINDOW = Window("tiny", 0, 0, 640)


def used(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.glob("??/*"))


def spoil(cube: Path) -> None:
    """Other bytes in every shard, of the same size and time: whoever opens one would notice."""
    for file in (p for p in cube.rglob("*") if p.is_file() and "/c/" in str(p)):
        times = file.stat()
        file.write_bytes(bytes(times.st_size))
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def shared(cube: Path, cache: BlockCache):
    return open_cube(cube, client=Client(cache=cache))


def test_what_was_read_once_is_not_opened_again(tmp_path):
    plain = tiny_cube(tmp_path / "tiny.zarr", names=("s2",))
    expected = read_series(plain, WINDOW)["s2"]
    cache = BlockCache(tmp_path / "cache", 100 * BLOCK_BYTES, of_paths=True)
    first = read_series(shared(tmp_path / "tiny.zarr", cache), WINDOW)["s2"]
    assert np.array_equal(first.values, expected.values) and np.array_equal(first.valid, expected.valid)

    spoil(tmp_path / "tiny.zarr")
    again = read_series(shared(tmp_path / "tiny.zarr", cache), WINDOW)["s2"]  # as a process of the node that starts now
    assert np.array_equal(again.values, expected.values) and np.array_equal(again.valid, expected.valid)
    with pytest.raises(DamageError):
        read_series(shared(tmp_path / "tiny.zarr", BlockCache(tmp_path / "cache", 100 * BLOCK_BYTES)), WINDOW)


def test_an_altered_block_is_mended_from_the_shared_side(tmp_path):
    plain = tiny_cube(tmp_path / "tiny.zarr", names=("s2",))
    expected = read_series(plain, WINDOW)["s2"].values
    cache = BlockCache(tmp_path / "cache", 100 * BLOCK_BYTES, of_paths=True)
    read_series(shared(tmp_path / "tiny.zarr", cache), WINDOW)
    block = max((tmp_path / "cache").glob("??/*"), key=lambda f: f.stat().st_size)
    raw = bytearray(block.read_bytes())
    raw[len(raw) // 8] ^= 1
    block.write_bytes(raw)
    assert np.array_equal(read_series(shared(tmp_path / "tiny.zarr", cache), WINDOW)["s2"].values, expected)
    assert block.read_bytes() != raw


def test_a_file_written_anew_is_read_anew(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"old bytes")
    cache = BlockCache(tmp_path / "cache", BLOCK_BYTES, of_paths=True)
    blob = CachedFile(file, cache)
    assert blob.fetch([(4, 5), (0, 3), (7, 9), (9, 1)]) == [b"bytes", b"old", b"es", b""]
    file.write_bytes(b"new bytes")
    os.utime(file, ns=(0, 0))
    fresh = CachedFile(file, cache)
    assert fresh.fetch([(0, 3)]) == [b"new"] and fresh.again((0, 3)) == b"new"
    blob.close()
    with pytest.raises(InputError, match="was changed while it was read, expected a finished cube"):
        blob.again((0, 3))


def _train_reads(recipe, expected, failed):
    """The epochs of one rank."""
    dataset = CubeDataModule(recipe).dataset()
    for position in range(2 * len(dataset)):
        sample = dataset[position]
        if int(sample.series["s2"].values.sum()) != expected[position]:
            failed.put(position)


def test_ranks_of_a_node_share_it_within_the_bound(earth, tmp_path, monkeypatch):
    plain = CubeDataModule(nano_recipe(f"data.cubes=[{earth}/a]")).dataset()
    expected = [int(plain[n].series["s2"].values.sum()) for n in range(2 * len(plain))]
    monkeypatch.setenv("NODE_DISK", str(tmp_path))
    words = (f"data.cubes=[{earth}/a]", "data.cache={path: $NODE_DISK/cache, max_gb: 0.1, of: all}")
    recipe = nano_recipe(*words)
    context = multiprocessing.get_context("fork")
    failed = context.Queue()
    ranks = [context.Process(target=_train_reads, args=(recipe, expected, failed)) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0
    shards = [p for m in ("hr", "s2", "s1") for k in ("values", "valid") for p in (earth / f"a/{m}/{k}/c").rglob("*")]
    assert failed.empty()
    assert 0 < int((tmp_path / "cache/total").read_text()) == used(tmp_path / "cache") <= 100_000_000
    assert used(tmp_path / "cache") <= sum(p.stat().st_size for p in shards if p.is_file())  # nothing is there twice


def test_a_folder_of_the_node_may_hold_variables(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/local/7")
    monkeypatch.delenv("NO_SUCH_DISK", raising=False)
    assert CacheConfig("$TMPDIR/cubes", 1.0).folder == Path("/local/7/cubes")
    assert CacheConfig("~/cubes", 1.0).folder == Path.home() / "cubes"
    with pytest.raises(InputError, match=r"'\$NO_SUCH_DISK/cubes' holds a variable that is not set on .*TMPDIR"):
        _ = CacheConfig("$NO_SUCH_DISK/cubes", 1.0).folder
