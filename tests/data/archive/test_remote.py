"""Archives at an address: the same pixels as on the disk, all chunks of a window asked for at once."""

import threading
import time

import numpy as np
import pytest
import yaml
import zarr

from skyframe.data.archive.zarr_array import ZarrArray
from skyframe.data.cube import open_cube
from skyframe.data.read import read_series
from skyframe.spec import InputError, Window
from tests.data.archive.archives import SCL, classes, per_band, put, write
from tests.data.archive.test_from_scenes import scenes
from tests.object_server import Fault, ServerProcess


def in_zarr(folder, zarr_format=2, **more):
    per_band(folder, zarr_format, **more)
    put(zarr.open_group(folder / "made.zarr"), "SCL", classes(), ("time", "y", "x"), chunks=(3, 50, 60))
    return write(folder, {"array": "{band}", "mask": SCL}, store="made.zarr"), "made.zarr"


def in_cogs(folder):
    scenes(folder, driver="COG", tiled=None, blockxsize=None, blockysize=None, blocksize=64)
    return write(folder, {"array": "{band}"}, scenes="items.json"), "items.json"


FORMS = {
    "Zarr v2": in_zarr,
    "Zarr v3": lambda folder: in_zarr(folder, 3),
    "sharded": lambda folder: in_zarr(folder, 3, shards=(4, 80, 100)),
    "COGs": in_cogs,
}


@pytest.mark.parametrize("form", FORMS)
def test_windows_equal_those_on_the_disk(tmp_path, form):
    description, place = FORMS[form](tmp_path)
    local = open_cube(description)
    with ServerProcess(tmp_path) as server:
        tree = yaml.safe_load(description.read_text())
        key = "store" if "store" in tree else "scenes"
        remote_file = tmp_path / "remote.yaml"
        remote_file.write_text(yaml.safe_dump({**tree, key: f"{server.url}/{place}"}))
        remote = open_cube(remote_file)
        draw = np.random.default_rng(3)
        for _ in range(6):
            window = Window("", *(10.0 * draw.integers(0, 100, 2)), 320.0)
            dates = {"s2": draw.permutation(len(local.days("s2")))[:3]}
            got, expected = (read_series(cube, window, dates=dates)["s2"] for cube in (remote, local))
            assert np.array_equal(got.values, expected.values) and np.array_equal(got.valid, expected.valid)
            assert expected.valid.any()
        server.set(Fault("B04", "truncate"))
        with pytest.raises(InputError, match="B04"):
            read_series(remote, Window("", 0.0, 0.0, 320.0))


def test_the_chunks_of_a_window_are_fetched_side_by_side(tmp_path, monkeypatch):
    description, place = in_zarr(tmp_path)
    at_once, most, lock = [0], [0], threading.Lock()
    fetch = ZarrArray.fetch

    def slow(self, number):
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.05)
        with lock:
            at_once[0] -= 1
        return fetch(self, number)

    monkeypatch.setattr(ZarrArray, "fetch", slow)
    with ServerProcess(tmp_path) as server:
        tree = yaml.safe_load(description.read_text()) | {"store": f"{server.url}/{place}"}
        (tmp_path / "remote.yaml").write_text(yaml.safe_dump(tree))
        read_series(open_cube(tmp_path / "remote.yaml"), Window("", 0.0, 0.0, 320.0))
    assert most[0] == 3 * 3 + 3  # three chunks of dates of three bands, three of the classification
