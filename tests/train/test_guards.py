"""A NaN on one of two ranks: both drop the step, nothing but the data moves, and the run ends like one without it."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from skyframe.config.skysense import SkySenseRecipe
from skyframe.data.datamodule import StepSampler
from skyframe.spec import InputError
from skyframe.system import SkySense
from skyframe.train import module
from skyframe.train.progress import read_metrics
from skyframe.train.run import pretrain
from skyframe.train.store import Reader
from tests.distributed import run_ranks
from tests.system.batches import nano_recipe
from tests.train.runs import overrides

STEPS = 4
SHARE = ["train.global_batch=8", f"train.max_steps={STEPS}", "train.accelerator=cpu", "optim.clip_norm=0.5"]
LOUD = ["optim.lr=1e-3", "loss.ema_start=0.9", "train.checkpoint_every=1", "train.keep_checkpoints=9"]
ZERO = ["train.strategy=deepspeed", "train.deepspeed.stage=2"]
BAD = (1, 4)  # steps of the data: one in the middle, and the last that the run was planned with
CELLS = {
    "ddp": ["train.strategy=ddp", "data.workers=1"],
    "zero2": [*ZERO, "train.micro_steps=2"],
}


def recipe_of(earth: Path, runs: Path, name: str, *more: str) -> SkySenseRecipe:
    return nano_recipe(*overrides(earth, runs, name, *SHARE, *LOUD, *more))


def poison(patch: pytest.MonkeyPatch, bad: tuple[int, ...], micro_steps: int = 1) -> None:
    """NaN in the Sentinel-2 pixels that the student sees, in the last pass of the named steps of the data."""
    changed, trained = module.photometric, module.PretrainModule.training_step
    passes = {"done": 0, "left": 0}

    def step(self, windows, batch_idx):
        at, passes["done"] = passes["done"], passes["done"] + 1
        passes["left"] = int(at // micro_steps in bad and at % micro_steps == micro_steps - 1)
        return trained(self, windows, batch_idx)

    def photometric(view, *rest):
        view = changed(view, *rest)
        if passes["left"]:
            passes["left"] = 0
            view.series["s2"].values = view.series["s2"].values * torch.nan
        return view

    patch.setattr(module.PretrainModule, "training_step", step)
    patch.setattr(module, "photometric", photometric)


def leave_out(patch: pytest.MonkeyPatch, bad: tuple[int, ...], micro_steps: int = 1) -> None:
    """Let the order of the data pass over the named steps."""
    positions = StepSampler.positions
    kept = [b for b in range(99) if b // micro_steps not in bad]
    patch.setattr(StepSampler, "positions", lambda self, batch: positions(self, kept[batch]))


def train_all(rank: int, world: int, earth: Path, runs: Path) -> None:
    multiprocessing.set_start_method("fork", force=True)  # of readers, as outside of spawned processes
    for cell, words in CELLS.items():
        micro = 2 if "train.micro_steps=2" in words else 1
        for name, change in ((f"{cell}_nan", poison), (f"{cell}_without", leave_out)):
            with pytest.MonkeyPatch.context() as patch:
                if change is leave_out or rank == 1:
                    change(patch, BAD, micro)
                os.environ["WORLD_SIZE"] = str(world)  # Lightning takes it away after each run
                pretrain(recipe_of(earth, runs, name, f"train.devices={world}", *words), show=False)
            torch.distributed.barrier()


@pytest.fixture(scope="module")
def runs(earth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guards")
    run_ranks(train_all, earth, folder, timeout_s=240)
    return folder


def checkpoint(run: Path, step: int) -> Reader:
    return Reader(run / "checkpoints" / f"step_{step:08d}")


@pytest.mark.parametrize("cell", CELLS)
def test_every_step_is_bit_equal_to_that_of_a_run_without_the_batch(runs, cell):
    """Weights, moments, teacher, bank and centres, before and after the dropped step."""
    for step in range(1, STEPS + 1):
        left, right = (checkpoint(runs / f"{cell}_{name}", step) for name in ("nan", "without"))
        names = [n for n in left.tensors if not n.startswith("random/")]
        assert len(names) > 600 and left.tensors.keys() == right.tensors.keys()
        assert all(bool(left.whole(n).isfinite().all()) for n in names)
        assert [n for n in names if not torch.equal(left.whole(n), right.whole(n))] == []
    ended = left.state()["CubeDataModule"]
    micro = 2 if cell == "zero2" else 1
    assert (ended["consumed"], ended["skipped"]) == ((STEPS + 2) * micro, 2)


@pytest.mark.parametrize("cell", CELLS)
def test_losses_and_rates_are_those_of_the_run_without_and_the_skips_are_counted(runs, cell):
    left, right = (read_metrics(runs / f"{cell}_{name}") for name in ("nan", "without"))
    assert [r["step"] for r in left] == [1, 2, 3, 4]
    assert [r["skipped"] for r in left] == [0, 1, 1, 2]
    for a, b in zip(left, right, strict=True):
        same = [k for k in a if k.startswith(("loss/", "effective_rank/")) or k in ("total", "lr", "ema_momentum")]
        assert len(same) > 8 and [a[k] for k in same] == [b[k] for k in same]
