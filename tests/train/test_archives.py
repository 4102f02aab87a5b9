"""Training on an archive in place, from disk and from an address: the weights that the same pixels give as a cube."""

import numpy as np
import pytest
import yaml

from skyframe.data.cube import open_cube
from skyframe.data.datamodule import CubeDataModule
from skyframe.train.run import pretrain
from tests.object_server import ServerProcess
from tests.system.batches import nano_recipe
from tests.train.runs import assert_equal, weights

WORDS = ("data.modalities=[s2, s1]", "train.max_steps=3", "data.windows_per_shard=2")


@pytest.fixture(scope="module")
def server(earth):
    with ServerProcess(earth) as process:
        yield process


def describe(path, store, cube):
    """The store of a cube as somebody else's: stacked arrays, and its flags as a classification layer."""
    entries = {
        name: {
            "array": f"{name}/values",
            "band_order": list(cube.spec.modality(name).band_names),
            "mask": {"layer": f"{name}/valid", "clear": [1], "cloud": [2], "shadow": [3], "nodata": []},
        }
        for name in ("s2", "s1")
    }
    tree = {"skyframe_archive": 1, "spec": "simulated_earth", "crs": cube.grid.crs, "modalities": entries}
    path.write_text(yaml.safe_dump({**tree, "store": str(store)}))
    return path


@pytest.mark.parametrize(("remote", "workers"), [(False, 0), (False, 2), (True, 0), (True, 2)])
def test_an_archive_trains_like_the_cube_that_it_is(earth, server, tmp_path, remote, workers):
    cube = open_cube(earth / "a")
    archive = describe(tmp_path / "a.yaml", f"{server.url}/a" if remote else earth / "a", cube)
    runs = {"cube": earth / "a", "archive": archive}
    trained = {}
    for name, place in runs.items():
        words = (
            *WORDS,
            f"data.cubes=[{place}]",
            f"data.workers={workers}",
            f"train.run_dir={tmp_path}",
            f"name={name}",
        )
        trained[name] = weights(pretrain(nano_recipe(*words), show=False))
    assert_equal(trained["cube"], trained["archive"])


def test_batches_hold_the_archive_s_pixels(earth, tmp_path):
    archive = describe(tmp_path / "a.yaml", earth / "a", open_cube(earth / "a"))
    left, right = (
        CubeDataModule(nano_recipe(*WORDS, f"data.cubes=[{place}]")).train_dataloader()
        for place in (earth / "a", archive)
    )
    for batch, other in zip(left, right, strict=True):
        for name in ("s2", "s1"):
            assert np.array_equal(batch.series[name].values, other.series[name].values), name
            assert batch.series[name].valid.equal(other.series[name].valid) and batch.series[name].valid.any()
