"""Lost or altered chunks in training: refused, or where the recipe says so replaced, alike everywhere, and counted."""

import shutil

import numpy as np
import pytest

from skyframe.data.cube import open_cube
from skyframe.data.datamodule import CubeDataModule
from skyframe.data.shard import DamageError
from skyframe.train.progress import read_metrics
from skyframe.train.run import pretrain
from tests.system.batches import nano_recipe
from tests.train.runs import Killed, assert_equal, overrides, watch_batches, weights

MORE = ("data.stride_px=4", "train.max_steps=4", "train.checkpoint_every=2", "data.on_damage=skip")


@pytest.fixture(scope="module")
def torn(earth, tmp_path_factory):
    """The two cubes; in `a` the eastern chunk of every fourth Sentinel-2 date has a flipped byte."""
    root = tmp_path_factory.mktemp("torn")
    for name in "ab":
        shutil.copytree(earth / name, root / name)
    cube = open_cube(root / "a")
    record = cube.manifest.arrays["s2/values"]
    shard = cube.reader.pool.get(cube.store, record.layout, (0, 0, 0, 0), record.shards[0, 0, 0, 0])
    file = root / "a/s2/values/c/0/0/0/0"
    raw = bytearray(file.read_bytes())
    for date in range(0, record.layout.shape[0], 4):
        start, length = shard._index[record.layout.locate((date, 0, 0, 1))[1]].tolist()
        raw[start + length // 2] ^= 0xFF
    file.unlink()  # the copy that is mapped stays as it was
    file.write_bytes(bytes(raw))
    return root


def dataset(torn, policy):
    recipe = nano_recipe(*overrides(torn, torn, "none", *MORE, f"data.on_damage={policy}"))
    return CubeDataModule(recipe).dataset()


def test_a_damaged_sample_is_refused_or_replaced_by_a_whole_one_of_the_same_epoch(torn):
    strict, first, again = dataset(torn, "raise"), dataset(torn, "skip"), dataset(torn, "skip")
    replaced = 0
    for position in range(60):
        got, same = first[position], again[position]
        assert got.index == same.index and got.damage == same.damage
        assert np.array_equal(got.series["s2"].values, same.series["s2"].values)
        try:
            expected = strict[position]
        except DamageError as error:
            replaced += 1
            assert got.damage == str(error) and "s2/values: chunk" in got.damage and "fails its checksum" in got.damage
            own = first.plan.at(*divmod(position, len(first.plan)))[1]
            assert got.index != own
        else:
            assert got.damage == "" and got.index == expected.index
    assert 3 < replaced < 30  # about a quarter of the ground, nearly every draw of dates


def test_replaced_samples_are_counted_alike_with_workers_and_over_a_resume(torn, tmp_path, monkeypatch, capsys):
    names = ("here", "workers", "stopped")
    here, workers, stopped = (
        nano_recipe(*overrides(torn, tmp_path, name, *MORE, f"data.workers={2 if name == 'workers' else 0}"))
        for name in names
    )
    pretrain(here, show=True)
    shown = " ".join(capsys.readouterr().err.split())
    pretrain(workers, show=False)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        watch_batches(patch, stop_after=3)
        pretrain(stopped, show=False)
    pretrain(stopped, resume="auto", show=False)

    data = CubeDataModule(here).dataset()
    damaged = [data[position].damage for position in range(4 * here.train.global_batch)]
    expected = sum(bool(sentence) for sentence in damaged)
    assert expected > 0
    for name in names:
        assert read_metrics(tmp_path / name)[-1]["replaced"] == expected, name
        assert_equal(weights(tmp_path / "here"), weights(tmp_path / name))
    lines = (tmp_path / "here/damaged_rank0.txt").read_text().splitlines()
    assert sorted(lines) == sorted(sentence for sentence in damaged if sentence)
    assert f"{expected} samples were replaced by others" in shown and "skyframe verify" in shown
