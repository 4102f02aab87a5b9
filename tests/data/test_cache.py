import multiprocessing
import os
import time

import numpy as np
import pytest

from skyframe.data.cache import BLOCK_BYTES, TORN_AFTER_S, BlockCache
from skyframe.data.cube import open_cube
from skyframe.data.read import read_series
from skyframe.data.transport import Client
from skyframe.spec import InputError, Window
from tests.data.cubes import tiny_cube
from tests.object_server import ServerProcess

SIZE = 3 * BLOCK_BYTES + 1000


def content(start, stop):
    return (np.arange(start, stop) % 251).astype(np.uint8).tobytes()


class Source:
    """Downloads and remembers what was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, start, stop):
        self.asked.append((start, stop))
        return content(start, stop)


def used(folder):
    return sum(f.stat().st_size for f in folder.glob("??/*"))


def test_blocks_are_downloaded_once_and_cut(tmp_path):
    cache, source = BlockCache(tmp_path, 10 * BLOCK_BYTES), Source()
    assert cache.read("a", 10, 20, SIZE, source) == content(10, 20)
    assert cache.read("a", BLOCK_BYTES - 5, BLOCK_BYTES + 5, SIZE, source) == content(BLOCK_BYTES - 5, BLOCK_BYTES + 5)
    assert cache.read("a", 0, SIZE, SIZE, source) == content(0, SIZE)
    assert cache.read("a", 0, SIZE, SIZE, source) == content(0, SIZE)
    assert source.asked == [(0, BLOCK_BYTES), (BLOCK_BYTES, 2 * BLOCK_BYTES), (2 * BLOCK_BYTES, SIZE)]
    cache.read("another version", 0, 10, SIZE, source)
    cache.read("a", 0, 10, SIZE, source, fresh=True)
    assert source.asked[3:] == [(0, BLOCK_BYTES)] * 2
    assert used(tmp_path) == int((tmp_path / "total").read_text()) == 4 * BLOCK_BYTES + 1000


def test_the_least_recently_read_goes_first_and_the_bound_holds(tmp_path):
    cache, source = BlockCache(tmp_path, 4 * BLOCK_BYTES), Source()
    for name in "abcd":
        cache.read(name, 0, 10, BLOCK_BYTES, source)
        time.sleep(0.01)
    cache.read("a", 0, 10, BLOCK_BYTES, source)  # used again
    assert len(source.asked) == 4
    cache.read("e", 0, 10, BLOCK_BYTES, source)
    assert used(tmp_path) <= 4 * BLOCK_BYTES
    cache.read("a", 0, 10, BLOCK_BYTES, source)
    assert len(source.asked) == 5  # still there, while the oldest is not
    cache.read("b", 0, 10, BLOCK_BYTES, source)
    assert len(source.asked) == 6


def test_torn_blocks_and_a_crash_while_counting(tmp_path):
    cache, source = BlockCache(tmp_path, 4 * BLOCK_BYTES), Source()
    cache.read("a", 0, 10, SIZE, source)
    (block,) = tmp_path.glob("??/*")
    block.write_bytes(block.read_bytes()[:1000])  # as after a crash of the machine
    assert cache.read("a", 2000, 2010, SIZE, source) == content(2000, 2010)
    assert source.asked == [(0, BLOCK_BYTES)] * 2
    torn = block.with_suffix(".tmp")
    torn.write_bytes(bytes(100))
    os.utime(torn, (0, time.time() - TORN_AFTER_S - 1))
    (tmp_path / "total.changing").touch()  # a process was killed between a block and its count
    (tmp_path / "total").write_text("7")
    cache.read("b", 0, 10, SIZE, source)
    assert int((tmp_path / "total").read_text()) == used(tmp_path) == 2 * BLOCK_BYTES
    assert not torn.exists() and not (tmp_path / "total.changing").exists()


def _fill(cache, seed, failed):
    draw = np.random.default_rng(seed)
    for _ in range(60):
        name, start = f"o{draw.integers(6)}", int(draw.integers(SIZE - 100))
        if cache.read(name, start, start + 100, SIZE, content) != content(start, start + 100):
            failed.put(name)


def test_processes_share_it(tmp_path):
    cache, context = BlockCache(tmp_path, 5 * BLOCK_BYTES), multiprocessing.get_context("fork")
    failed = context.Queue()
    workers = [context.Process(target=_fill, args=(cache, seed, failed)) for seed in range(4)]
    for worker in workers:
        worker.start()
    largest = 0
    while any(worker.is_alive() for worker in workers):
        kept = [f for f in tmp_path.glob("??/*") if f.suffix != ".tmp"]
        largest = max(largest, len(kept))
        time.sleep(0.005)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert failed.empty() and 0 < largest <= 8  # a block may go while the folder is listed
    assert int((tmp_path / "total").read_text()) == used(tmp_path) <= 5 * BLOCK_BYTES


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"data.cache.path .*/file/cache: cannot keep a block \(Not a directory\)"):
        BlockCache(tmp_path / "file" / "cache", BLOCK_BYTES).read("a", 0, 1, 10, content)


def test_a_cube_is_read_once_over_the_network_and_altered_blocks_again(tmp_path):
    local = tiny_cube(tmp_path / "tiny.zarr", names=("s2",))
    window = Window("tiny", 0, 0, 640)
    expected = read_series(local, window)["s2"]
    with ServerProcess(tmp_path) as server:

        def sent(cube):
            before = server.stats()["bytes"]
            assert np.array_equal(read_series(cube, window)["s2"].values, expected.values)
            return server.stats()["bytes"] - before

        client = Client(cache=BlockCache(tmp_path / "cache", 10 * BLOCK_BYTES))
        first = sent(open_cube(f"{server.url}/tiny.zarr", client=client))
        again = sent(open_cube(f"{server.url}/tiny.zarr", client=client))
        assert first > 500_000 and again < 5000  # two indices
        blocks = [f for f in (tmp_path / "cache").glob("??/*") if f.stat().st_size > 400_000]
        raw = bytearray(blocks[0].read_bytes())
        raw[len(raw) // 8] ^= 1
        blocks[0].write_bytes(raw)
        assert sent(open_cube(f"{server.url}/tiny.zarr", client=client)) > 400_000
        assert sent(open_cube(f"{server.url}/tiny.zarr", client=client)) < 5000  # mended on the disk
