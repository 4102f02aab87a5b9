import multiprocessing
import pickle
import threading
import time

import numpy as np
import pytest
import zarr

from skyframe.data.box import by_zarr
from skyframe.data.cube import find_cubes, open_cube
from skyframe.data.integrity import check_cube
from skyframe.data.object_store import open_object_store
from skyframe.data.read import read_label, read_series, read_table
from skyframe.data.shard import OpenShard, ShardPool
from skyframe.data.store import LocalStore, open_store
from skyframe.data.transport import Client
from skyframe.spec import InputError, Window
from tests.data.cubes import tiny_cube
from tests.object_server import Fault, ServerProcess

WINDOWS = [Window("tiny", 0, 0, 640), Window("tiny", 0, 60, 640), Window("tiny", 130, 210, 160)]


@pytest.fixture(scope="module")
def cubes(tmp_path_factory):
    root = tmp_path_factory.mktemp("objects")
    tiny_cube(root / "tiny.zarr")
    tiny_cube(root / "other.zarr", seed=1, names=("s2",))
    with ServerProcess(root) as server:
        yield root, server


@pytest.fixture
def remote(cubes):
    cubes[1].set()
    return open_cube(f"{cubes[1].url}/tiny.zarr", client=Client(attempts=2, backoff_s=0.01, timeout_s=2.0))


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name in expected:
        for key in ("values", "valid", "day", "bands"):
            assert np.array_equal(getattr(got[name], key), getattr(expected[name], key)), (name, key)


@pytest.mark.parametrize("backend", ["own", "zarr"])
def test_the_same_cube_over_http_and_from_disk(cubes, remote, backend):
    local = open_cube(cubes[0] / "tiny.zarr")
    read = remote if backend == "own" else by_zarr(remote)
    for window in WINDOWS:
        names = None if window.size_m == 640 else ["s2", "s1"]
        assert_same(read_series(read, window, names=names), read_series(local, window, names=names))
    assert np.array_equal(read_label(read, "landcover", WINDOWS[0]), read_label(local, "landcover", WINDOWS[0]))
    for column, values in read_table(local, "vehicles").items():
        assert np.array_equal(read_table(read, "vehicles")[column], values)


def test_names_addresses_and_travel(cubes, remote):
    url = cubes[1].url
    assert remote.name == "tiny" and remote.url == f"{url}/tiny.zarr"
    again = pickle.loads(pickle.dumps(remote))
    assert again.store == remote.store and again.name == remote.name
    assert_same(read_series(again, WINDOWS[0]), read_series(remote, WINDOWS[0]))
    with pytest.raises(InputError, match="not a local folder, expected one here"):
        _ = remote.path
    store = open_object_store("https://user:secret@host:81/a b/c.zarr/?token=x")
    assert store.url == "https://host:81/a b/c.zarr" and "secret" not in repr(store) and "token" not in repr(store)
    assert (
        open_object_store("http://h/c?token=x y").address("s2/values/c/0").url == "http://h/c/s2/values/c/0?token=x y"
    )
    assert isinstance(open_store(cubes[0]), LocalStore)
    for wrong in ("ftp://host/a.zarr", "https:///a.zarr"):
        with pytest.raises(InputError, match="not an address that skyframe reads, expected a path, https"):
            open_store(wrong)


def test_many_cubes_by_address(cubes):
    url = cubes[1].url
    found = find_cubes([f"{url}/tiny.zarr", f"{url}/other.zarr", str(cubes[0] / "o*.zarr")][:2])
    assert [cube.name for cube in found] == ["tiny", "other"]
    assert found[0].store.client is found[1].store.client
    with pytest.raises(InputError, match="is an address with \\*, expected one cube; name each of them"):
        find_cubes([f"{url}/*.zarr"])
    with pytest.raises(InputError, match=r"/none.zarr: no manifest.json inside"):
        find_cubes([f"{url}/none.zarr"])


def test_verify_over_http(remote, cubes):
    assert check_cube(remote) == []
    record = remote.manifest.arrays["s2/values"]
    shard = OpenShard(remote.store, record.layout, (0, 0, 0, 0), 12)
    before = cubes[1].stats()["requests"]
    held = shard.ahead(np.array(list(shard.chunks())))
    out = np.empty(record.layout.chunk, record.layout.numpy_dtype)
    for row in shard.chunks():
        shard.read_chunk(row, out)
    assert cubes[1].stats()["requests"] - before == 1 and held  # twelve chunks side by side
    del held
    shard.read_chunk(0, out)
    assert cubes[1].stats()["requests"] - before == 2  # let go, so asked for again


def test_a_sample_takes_two_rounds_of_requests(remote, cubes):
    """Indices side by side, then chunks side by side: with 60 ms each that is far less than one after another."""
    cubes[1].set(latency_s=0.06)
    begun, requests = time.perf_counter(), cubes[1].stats()["requests"]
    read_series(remote, WINDOWS[0])
    took, asked = time.perf_counter() - begun, cubes[1].stats()["requests"] - requests
    cubes[1].set(latency_s=0.0)
    assert asked >= 12
    assert took < 0.06 * asked / 2


def test_neighbouring_dates_come_in_one_request(remote, cubes):
    read_series(remote, WINDOWS[0], names=["s1"])
    before = cubes[1].stats()["requests"]
    read_series(remote, WINDOWS[0], names=["s1"])
    assert cubes[1].stats()["requests"] - before == 2  # values and flags; shards stay open


def _read_in_child(cube, queue):
    queue.put({k: v.values for k, v in read_series(cube, WINDOWS[0]).items()})


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_reads_after_its_parent_did(remote, method):
    expected = read_series(remote, WINDOWS[0])
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=_read_in_child, args=(remote, queue)) for _ in range(2)]
    for child in children:
        child.start()
    for _ in children:
        got = queue.get(timeout=60)
        assert all(np.array_equal(got[name], expected[name].values) for name in expected)
    for child in children:
        child.join(20)
        assert child.exitcode == 0
    assert_same(read_series(remote, WINDOWS[0]), expected)


def test_a_fork_in_the_middle_of_requests(remote, cubes):
    """Threads of the parent hold locks and connections when it forks; the child must not meet them."""
    cubes[1].set(latency_s=0.02)
    stop = threading.Event()

    def keep_reading():
        while not stop.is_set():
            read_series(remote, WINDOWS[0])

    threads = [threading.Thread(target=keep_reading) for _ in range(4)]
    for thread in threads:
        thread.start()
    context = multiprocessing.get_context("fork")
    try:
        for _ in range(5):
            queue = context.Queue()
            child = context.Process(target=_read_in_child, args=(remote, queue))
            child.start()
            assert queue.get(timeout=60)["s2"].shape[0] == 6
            child.join(20)
            assert child.exitcode == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        cubes[1].set(latency_s=0.0)


def test_threads_share_a_pool_and_open_a_shard_once(cubes):
    cubes[1].set(latency_s=0.05)
    pool = ShardPool(limit=2)
    cube = open_cube(f"{cubes[1].url}/tiny.zarr", pool)
    before = cubes[1].stats()["requests"]
    record = cube.manifest.arrays["s2/values"]
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(pool.get(cube.store, record.layout, (0, 0, 0, 0), 12)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cubes[1].set(latency_s=0.0)
    assert len(got) == 8 and all(shard is got[0] for shard in got)
    assert cubes[1].stats()["requests"] - before == 1


def test_zarr_python_reads_through_the_same_client(remote, cubes):
    cubes[1].set(Fault("s2/values", "503", times=1), Fault("s2/values", "truncate", times=1))
    array = zarr.open_array(remote.store.for_zarr("s2/values"), mode="r")
    local = zarr.open_array(cubes[0] / "tiny.zarr/s2/values", mode="r")
    assert np.array_equal(array[2:4], local[2:4])
    with pytest.raises(FileNotFoundError):
        zarr.open_array(remote.store.for_zarr("s2/nothing"), mode="r")
