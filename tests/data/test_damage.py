"""The damage matrix: each kind of damage, by each reader, from a disk and over HTTP; nothing passes in silence."""

import shutil

import numpy as np
import pytest

from benchmarks.damage import BACKENDS, NETWORK, STORED, WINDOW, hurt, outcome
from skyframe.data.cube import open_cube
from skyframe.data.read import read_series
from skyframe.data.shard import DamageError
from skyframe.data.transport import Client
from skyframe.spec import InputError
from tests.data.cubes import tiny_cube
from tests.object_server import Fault, ServerProcess


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    tiny_cube(root / "tiny.zarr", names=("s2",))
    return root


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    with ServerProcess(root, hang_s=1.0) as server:
        yield root, server


def client():
    return Client(attempts=2, timeout_s=0.4, backoff_s=0.01)


@pytest.mark.parametrize("place", ["local", "http"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", STORED)
def test_stored_damage_is_an_error_that_names_array_and_chunk(whole, served, kind, backend, place):
    root, server = served
    server.set()
    folder = root / f"{kind}-{backend}-{place}".replace(" ", "_")
    shutil.copytree(whole / "tiny.zarr", folder)
    hurt(folder, kind)
    cube = open_cube(folder if place == "local" else f"{server.url}/{folder.name}", client=client())
    with pytest.raises(DamageError, match=STORED[kind]):
        read_series(BACKENDS[backend](cube), WINDOW)
    assert outcome(cube, backend, whole / "tiny.zarr").startswith("error: s2/values: ")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", NETWORK)
def test_network_faults_are_retried_or_one_sentence(whole, served, kind, backend):
    root, server = served
    server.set()
    folder = root / "tiny.zarr"
    if not folder.exists():
        shutil.copytree(whole / "tiny.zarr", folder)
    expected = read_series(open_cube(folder), WINDOW)["s2"].values
    cube = open_cube(f"{server.url}/tiny.zarr", client=client())
    server.set(Fault("s2/values/c", NETWORK[kind], times=1))
    if kind in ("not found", "bit flip"):  # met by the reading ahead it is mended by reading, else it is named
        assert outcome(cube, backend, folder)[:6] in ("whole", "error:")
    else:
        assert np.array_equal(read_series(BACKENDS[backend](cube), WINDOW)["s2"].values, expected)
    cube = open_cube(f"{server.url}/tiny.zarr", client=client())
    server.set(Fault("s2/values/c", NETWORK[kind]))
    with pytest.raises(InputError, match=r"s2/values"):
        read_series(BACKENDS[backend](cube), WINDOW)


def test_a_chunk_that_came_altered_is_fetched_once_more_and_then_named(whole, served):
    root, server = served
    folder = root / "flipped.zarr"
    shutil.copytree(whole / "tiny.zarr", folder)
    server.set()
    expected = read_series(open_cube(folder), WINDOW)["s2"].values
    cube = open_cube(f"{server.url}/flipped.zarr", client=client())
    read_series(cube, WINDOW)  # indices are held now
    server.set(Fault("s2/values/c", "flip", times=1))
    assert np.array_equal(read_series(cube, WINDOW)["s2"].values, expected)
    server.set(Fault("s2/values/c", "flip"))
    with pytest.raises(
        DamageError, match=r"s2/values: chunk \(\d, 0, 0, 0\) in http://.* fails its checksum; the store"
    ):
        read_series(cube, WINDOW)


def test_an_all_nodata_swath_that_was_never_written_is_no_damage_over_http(tmp_path):
    import zarr

    from skyframe.data.integrity import check_cube
    from tests.data.test_integrity import recount, rewrite

    cube = tiny_cube(tmp_path / "tiny.zarr", names=("s2",))
    flags = zarr.open_array(cube.path / "s2/valid", mode="r+")
    flags[4] = 0
    rewrite(cube, drop=[(4, 0, 0, 0), (4, 0, 0, 1)])
    again = recount(cube)
    with ServerProcess(tmp_path) as server:
        remote = open_cube(f"{server.url}/tiny.zarr")
        for backend in BACKENDS.values():
            got = read_series(backend(remote), WINDOW)["s2"]
            assert not got.valid[4].any() and not got.values[4].any() and got.values[3].any()
        assert check_cube(remote) == check_cube(again) == []
