"""Saves that are written while training goes on."""

import time

import pytest
import torch

from skyframe.spec import InputError
from skyframe.train import save
from skyframe.train.checkpoint import Checkpoints, latest
from skyframe.train.progress import read_metrics
from skyframe.train.run import pretrain
from skyframe.train.store import Reader
from tests.train.test_guards import recipe_of

WORDS = ["train.max_steps=6", "train.checkpoint_every=2"]


def content(run, step):
    reader = Reader(run / "checkpoints" / f"step_{step:08d}")
    return {n: reader.whole(n) for n in reader.tensors if not n.startswith("random/")}, reader.state()


def test_what_is_written_in_the_background_is_what_there_was_when_it_was_begun(earth, tmp_path, monkeypatch):
    whole = pretrain(recipe_of(earth, tmp_path, "whole", *WORDS), show=False)
    write, settle, settled = save.write_rank, Checkpoints.settle, []

    def slow(*args):
        time.sleep(0.5)
        return write(*args)

    def watched(self, trainer):
        if self.save is not None:
            settled.append((self.saved_step, trainer.global_step))
        settle(self, trainer)

    monkeypatch.setattr(save, "write_rank", slow)
    monkeypatch.setattr(Checkpoints, "settle", watched)
    run = pretrain(recipe_of(earth, tmp_path, "behind", *WORDS, "train.async_save=true"), show=False)
    assert [begun for begun, _ in settled] == [2, 4, 6] and settled[0][1] > 2 and settled[1][1] > 4
    assert settled[2][1] == 6 and latest(run / "checkpoints").name == "step_00000006"
    for step in (2, 4, 6):
        (left, said), (right, expected) = content(run, step), content(whole, step)
        assert left.keys() == right.keys() and [n for n in left if not torch.equal(left[n], right[n])] == []
        assert said["global_step"] == expected["global_step"] == step
        assert said["CubeDataModule"] == expected["CubeDataModule"]
    assert list((run / "checkpoints").glob("*.tmp")) == []


def test_the_newest_stay_and_of_the_older_ones_every_so_many(earth, tmp_path):
    words = ["train.max_steps=7", "train.checkpoint_every=1", "train.keep_checkpoints=2", "train.keep_every=3"]
    run = pretrain(recipe_of(earth, tmp_path, "kept", *words), show=False)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        "LATEST", *(f"step_{step:08d}" for step in (3, 6, 7))
    ]  # fmt: skip


def test_a_disk_that_is_full_meanwhile_ends_the_run_and_keeps_the_save_before(earth, tmp_path, monkeypatch):
    write = save.write_rank

    def full(folder, *rest):
        if "00000004" in folder.name:
            raise OSError(28, "No space left on device")
        return write(folder, *rest)

    monkeypatch.setattr(save, "write_rank", full)
    with pytest.raises(InputError, match=r"could not be written \(rank 0: .*No space left.*\); free space there"):
        pretrain(recipe_of(earth, tmp_path, "full", *WORDS, "train.async_save=true"), show=False)
    assert latest(tmp_path / "full" / "checkpoints").name == "step_00000002"
    assert read_metrics(tmp_path / "full")[-1]["step"] in (5, 6)
