import dataclasses
import math
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from skyframe.data.box import ShardReader
from skyframe.data.cube import Cube, array_layouts
from skyframe.data.manifest import ArrayRecord, Manifest
from skyframe.data.plan import WindowPlan
from skyframe.data.shard import ShardPool
from skyframe.data.store import LocalStore
from skyframe.data.table import table_of
from skyframe.spec import CubeSpec, Grid, InputError, Window
from tests.data.cubes import tiny_spec


def fake_cube(name, side_m, modalities=("s2",), written=None, corner_m=(660000.0, 5610000.0)):
    """A cube without pixels; `written`: per modality the shards that exist (default all)."""
    spec = tiny_spec()
    spec = CubeSpec(name, "", {m: spec.modality(m) for m in modalities})
    grid = Grid("EPSG:32631", *corner_m, side_m, side_m)
    arrays = {}
    for m in modalities:
        for layout in array_layouts(spec.modality(m), 1, grid):
            places = [tuple(p) for p in np.ndindex(*layout.shard_grid)]
            if written and m in written:
                places = [p for p in places if p[-2:] in written[m]]
            arrays[layout.name] = ArrayRecord(layout, dict.fromkeys(places, 1))
    manifest = Manifest(spec, grid, {}, {m: np.zeros(1, np.int32) for m in modalities}, arrays)
    store = LocalStore(Path(name + ".zarr"))
    return Cube(name, store, spec, grid, manifest, ShardReader(store, ShardPool()))


def epoch_of(plan, epoch=0):
    return [plan.at(epoch, position) for position in range(len(plan))]


def shard_of(window):
    return window.cube, int(window.y_m // 2560), int(window.x_m // 2560)


def test_windows_of_one_cube_by_hand():
    plan = WindowPlan([fake_cube("a", 1500.0)], size_m=640, stride_m=640, seed=0, slots=1)
    got = sorted(epoch_of(plan), key=lambda item: item[1])
    corners = [(0.0, 0.0), (0.0, 640.0), (640.0, 0.0), (640.0, 640.0)]
    assert got == [(Window("a", y, x, 640), index) for index, (y, x) in enumerate(corners)]


def test_every_window_once_in_whole_steps():
    cubes = [fake_cube("a", 10000.0), fake_cube("b", 1000.0)]  # 15 x 15 windows in ragged shards, and one
    plan = WindowPlan(cubes, 640, 640, seed=3, slots=4, windows_per_shard=4)
    assert plan.num_windows == 226
    items = epoch_of(plan)
    assert len(items) == len(plan) == plan.num_steps * 4
    assert len(plan) > 0.95 * 226
    assert len({index for _, index in items}) == len({window for window, _ in items}) == len(items)
    for window, index in items:
        offset, columns = {"a": (0, 15), "b": (225, 1)}[window.cube]
        assert index == offset + round(window.y_m / 640) * columns + round(window.x_m / 640)
        assert max(window.y_m, window.x_m) + 640 <= {"a": 10000, "b": 1000}[window.cube]


def test_a_slot_stays_in_a_shard_and_slots_never_share_one():
    plan = WindowPlan([fake_cube("a", 4 * 2560.0)], 640, 640, seed=1, slots=4, windows_per_shard=4)  # 16 shards of 16
    assert (plan.num_passes, plan.num_steps) == (4, 64)
    table = np.array([[hash(shard_of(plan.at(0, step * 4 + slot)[0])) for slot in range(4)] for step in range(64)])
    for row in table:
        assert len(set(row)) == 4
    for start in range(0, 64, 4):
        assert (table[start : start + 4] == table[start]).all()
        assert start == 0 or (table[start] != table[start - 1]).any()


@pytest.mark.parametrize("slots", [3, 7, 16])
def test_slots_of_one_step_differ_in_ragged_shards(slots):
    plan = WindowPlan([fake_cube("a", 9000.0), fake_cube("b", 8000.0)], 640, 320, seed=1, slots=slots)
    for step in range(plan.num_steps):
        shards = [shard_of(plan.at(0, step * slots + slot)[0]) for slot in range(slots)]
        assert len(set(shards)) == slots


def test_more_slots_than_shards_spread_evenly():
    plan = WindowPlan([fake_cube("a", 2 * 2560.0)], 640, 640, seed=1, slots=8)  # 4 shards
    for step in range(plan.num_steps):
        shards = [shard_of(plan.at(0, step * 8 + slot)[0]) for slot in range(8)]
        assert sorted(shards.count(s) for s in set(shards)) == [2, 2, 2, 2]


def test_order_resumes_anywhere_and_survives_pickling():
    cubes = [fake_cube("a", 9000.0)]
    plan = WindowPlan(cubes, 640, 640, seed=5, slots=8, windows_per_shard=4)
    whole = epoch_of(plan, 1)
    later = pickle.loads(pickle.dumps(WindowPlan(cubes, 640, 640, seed=5, slots=8, windows_per_shard=4)))
    assert [later.at(1, p) for p in range(37, len(plan))] == whole[37:]


def test_epochs_and_seeds_differ():
    def order(seed, epoch):
        plan = WindowPlan([fake_cube("a", 9000.0)], 640, 640, seed=seed, slots=4)
        return [index for _, index in epoch_of(plan, epoch)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_the_rest_of_an_epoch_changes():
    plan = WindowPlan([fake_cube("a", 9000.0)], 640, 640, seed=0, slots=5)
    used = [{index for _, index in epoch_of(plan, epoch)} for epoch in range(6)]
    assert len(used[0]) < plan.num_windows
    assert len(set.union(*used)) == plan.num_windows


def test_unwritten_shards_are_left_out():
    written = {"s2": {(0, 0)}, "hr": {(3, 3)}}
    cube = fake_cube("a", 4 * 2560.0, ("s2", "hr"), written)
    only_s2 = WindowPlan([cube], 640, 640, seed=0, slots=1, names=["s2"])
    assert {shard_of(window) for window, _ in epoch_of(only_s2)} == {("a", 0, 0)}
    assert only_s2.num_windows == 16
    both = WindowPlan([cube], 640, 640, seed=0, slots=1)  # hr shard (3, 3) of 2560 m is s2's block (3, 3)
    assert {shard_of(window) for window, _ in epoch_of(both)} == {("a", 0, 0), ("a", 3, 3)}


def test_stride_that_does_not_divide_the_shard():
    plan = WindowPlan([fake_cube("a", 9000.0)], 600, 600, seed=0, slots=1)
    assert len({index for _, index in epoch_of(plan)}) == 15 * 15


def test_places_are_spread_over_the_footprint():
    plan = WindowPlan(
        [fake_cube("a", 10240.0), fake_cube("b", 10240.0, corner_m=(400000.0, 5000000.0))], 640, 640, 0, 4
    )
    places = np.stack(plan.places(max_points=100))
    assert places.shape == (100, 2)
    north, south = places[places[:, 0] > 48], places[places[:, 0] < 48]
    assert len(north) == len(south) == 50
    assert np.allclose(north.mean(0), [50.57, 5.33], atol=0.05)


def test_twenty_one_million_windows_plan_in_two_seconds():
    base = fake_cube("c", 102400.0)
    cubes = [Cube(f"c{i}", base.store, base.spec, base.grid, base.manifest, base.reader) for i in range(840)]
    start = time.process_time()
    plan = WindowPlan(cubes, 640, 640, seed=0, slots=4096)
    assert plan.num_windows == 840 * 160 * 160 == 21_504_000
    indices = {plan.at(2, position)[1] for position in range(0, len(plan), len(plan) // 500)}
    assert time.process_time() - start < 2
    assert len(indices) >= 500
    assert math.isclose(len(plan), plan.num_windows, rel_tol=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": 5}, "hold 4 windows of 640 m, expected at least 5"),
        ({"size_m": 2000}, "no window of 2000 m fits"),
        ({"size_m": 645}, "s2: 645 m is 64.500 pixels"),
        ({"stride_m": 645}, "s2: 645 m is 64.500 pixels"),
        ({"stride_m": 0}, "must be positive"),
        ({"cubes": []}, "no cubes"),
        ({"names": ["s1"]}, r"carries s2, none of the modalities of the run \(s1\)"),
    ],
)
def test_bad_plans(change, message):
    arguments = {"cubes": [fake_cube("a", 1500.0)], "size_m": 640, "stride_m": 640, "seed": 0, "slots": 1} | change
    with pytest.raises(InputError, match=message):
        WindowPlan(**arguments)


@pytest.mark.parametrize("weights", [(1, 1), (2, 1), (0.3, 2.5)])
def test_arrays_of_positions_give_the_same_windows(weights):
    table = table_of([fake_cube("a", 9000.0), fake_cube("b", 8000.0)])
    table = dataclasses.replace(table, weight=np.array(weights, float))
    plan = WindowPlan(table, 640, 640, seed=1, slots=8, windows_per_shard=4)
    for epoch in (0, 3):
        found = plan.at_many(epoch, np.arange(len(plan)))
        for position, (window, index) in enumerate(epoch_of(plan, epoch)):
            assert (found.index[position], found.y_m[position], found.x_m[position]) == (index, window.y_m, window.x_m)
            assert ["a", "b"][found.row[position]] == window.cube
    with pytest.raises(IndexError, match="outside an epoch"):
        plan.at_many(0, np.array([0, len(plan)]))


@pytest.mark.parametrize("weight", [0.25, 2, 2.5])
def test_a_weighted_source_is_visited_that_often_and_evenly(weight):
    table = table_of([fake_cube("a", 7700.0), fake_cube("b", 7700.0)])  # 12 x 12 windows each, in 3 x 3 full shards
    plan = WindowPlan(dataclasses.replace(table, weight=np.array([weight, 1.0])), 640, 640, seed=1, slots=2)
    assert plan.num_windows == 288 and len(plan) == 144 + 144 * weight
    assert plan.samples_by_source() == {"a": 144 * weight, "b": 144}
    seen = np.zeros(288, int)
    for epoch in range(4):
        index = plan.at_many(epoch, np.arange(len(plan))).index
        assert len(set(index.tolist())) == len(plan), "an index names one sample of an epoch"
        assert (index % 288 >= 144).sum() == 144
        seen += np.bincount(index % 288, minlength=288)
    assert (seen[144:] == 4).all()
    assert (seen[:144] == 4 * weight).all(), "over whole rounds every window has had its visits"


@pytest.mark.parametrize(("world", "workers"), [(1, 1), (2, 3), (7, 2)])
def test_ranks_and_workers_read_the_one_order(world, workers):
    from skyframe.data.datamodule import StepSampler

    plan = WindowPlan([fake_cube("a", 9000.0), fake_cube("b", 8000.0)], 640, 320, seed=1, slots=14)
    index = plan.at_many(0, np.arange(len(plan))).index
    read = np.full(len(plan), -1)
    for rank in range(world):
        batches = list(StepSampler(plan.num_steps, 14 // world, 1, rank, world))
        for worker in range(workers):
            own = pickle.loads(pickle.dumps(plan))
            mine = np.array(batches[worker::workers]).ravel()
            assert (read[mine] == -1).all()
            read[mine] = own.at_many(0, mine).index
    assert np.array_equal(read, index) and len(set(index.tolist())) == len(plan)
    again = StepSampler(plan.num_steps, 14, 1, 0, 1)
    again.start = 11
    assert plan.at_many(0, np.array(list(again)).ravel()).index.tolist() == index[11 * 14 :].tolist()


def test_positions_are_checked():
    plan = WindowPlan([fake_cube("a", 1500.0)], 640, 640, seed=0, slots=2)
    with pytest.raises(IndexError, match="position 4 is outside an epoch of 4"):
        plan.at(0, 4)
