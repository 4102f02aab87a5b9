import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from skyframe.data.ahead import ReadAhead
from skyframe.data.box import ShardReader
from skyframe.data.cube import open_cube
from skyframe.data.datamodule import CubeDataModule
from skyframe.data.read import plan_series, reads_of
from skyframe.spec import Window
from tests.data.cubes import tiny_cube
from tests.object_server import ServerProcess
from tests.system.batches import nano_recipe


@pytest.fixture(scope="module")
def served(earth):
    with ServerProcess(earth) as server:
        yield server


def loader_of(where, workers=0, steps=6, *more):
    cubes = f"data.cubes=[{where}/a,{where}/b]"
    return CubeDataModule(
        nano_recipe(cubes, f"data.workers={workers}", f"train.max_steps={steps}", *more)
    ).train_dataloader()


def assert_batches(left, right):
    count = 0
    for batch, other in zip(left, right, strict=True):
        assert torch.equal(batch.index, other.index) and torch.equal(batch.place, other.place)
        for name in other.series:
            for key in ("values", "valid", "day", "bands"):
                assert torch.equal(getattr(batch.series[name], key), getattr(other.series[name], key)), (name, key)
        count += 1
    assert count


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_over_http_equal_those_from_disk(earth, served, workers):
    remote = loader_of(served.url, workers)
    assert remote.dataset.ahead.stride == 4 * max(1, workers)
    assert_batches(remote, loader_of(earth, 0))


def test_spawned_workers_read_the_same(earth, served):
    remote, local = loader_of(served.url), loader_of(earth)
    next(iter(remote))  # the parent has read and begun more
    assert remote.dataset.slabs is not None  # they stay behind
    spawned = DataLoader(
        remote.dataset,
        batch_sampler=remote.batch_sampler,
        collate_fn=remote.collate_fn,
        num_workers=2,
        multiprocessing_context="spawn",
    )
    assert_batches(spawned, local)


def test_forked_workers_after_the_parent_has_read_ahead(earth, served):
    remote = loader_of(served.url)
    next(iter(remote))
    remote.dataset.slabs = None  # as a plain loader opens no parcels
    forked = DataLoader(remote.dataset, batch_sampler=remote.batch_sampler, num_workers=2, collate_fn=remote.collate_fn)
    assert_batches(forked, loader_of(earth))


def test_local_cubes_read_nothing_ahead(earth):
    assert loader_of(earth).dataset.ahead is None


def test_every_request_was_planned(served, earth):
    """What the plan asks for is what reading asks for: no byte range is fetched beside it."""
    remote = loader_of(served.url)
    dataset, positions = remote.dataset, list(range(4))
    dataset.ahead.batch(positions)
    for position in positions:
        dataset.ahead.settle(position)
    for begun in dataset.ahead._begun.values():
        begun.settle()
    before = -1
    while before != (before := served.stats()["requests"]):
        time.sleep(0.2)
    for position in positions:
        dataset[position]
    assert served.stats()["requests"] == before


def test_latency_is_hidden(served):
    """30 ms a request, 0.05 s of work per batch: with read-ahead the loader is no longer bound by round trips."""
    served.set(latency_s=0.03)
    took = {}
    for ahead in (False, True):
        loader = loader_of(served.url, 0, 8)
        if not ahead:
            loader.dataset.ahead = None
        batches = iter(loader)
        next(batches)
        begun = time.perf_counter()
        for _ in batches:
            time.sleep(0.05)
        took[ahead] = time.perf_counter() - begun
    served.set(latency_s=0.0)
    assert took[True] < 0.6 * took[False]


def test_memory_is_bounded(tmp_path):
    root = tmp_path / "tiny.zarr"
    tiny_cube(root)
    with ServerProcess(tmp_path) as server:
        cube = open_cube(f"{server.url}/tiny.zarr")
        window = Window("tiny", 0, 0, 640)
        reads = reads_of(cube, plan_series(cube, window, names=["s2"]))
        one = sum(part.stop - part.start for read in reads for part in cube.reader.ahead(cube.reader.wanted(*read)))
        assert one > 400_000  # six dates of ten bands of noise
        ahead = ReadAhead(lambda position: (cube, reads), stride=2, stop=100, samples=16, max_bytes=3 * one)
        ahead.batch([0, 1])
        held = []
        for step in range(0, 20, 2):
            ahead.batch([step, step + 1])
            for position in (step, step + 1):
                ahead.settle(position)
                held.append(sum(begun.num_bytes() or one for begun in ahead._begun.values()))
                ahead.done(position)
        assert one <= max(held) <= 3 * one


def test_reads_ahead_only_by_the_shard_reader_of_a_remote_store(tmp_path):
    cube = tiny_cube(tmp_path / "tiny.zarr")
    reads = reads_of(cube, plan_series(cube, Window("tiny", 0, 60, 640)))
    assert [r[0].layout.name for r in reads[:2]] == ["s2/valid", "s2/values"]
    assert isinstance(cube.reader, ShardReader) and cube.reader.ahead(cube.reader.wanted(*reads[1])) == []
    assert np.array_equal(reads[1][1], np.arange(6)) and reads[1][2] == ((0, 10), (0, 64), (6, 70))
