"""Nano runs for tests of training: started in a process of their own or here, and compared by their checkpoints."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from skyframe.config import SkySenseRecipe
from skyframe.data.datamodule import CubeDataModule, StepSampler
from skyframe.sample import Batch
from skyframe.train.checkpoint import latest, read_checkpoint
from skyframe.train.module import PretrainModule
from skyframe.train.shards import MOMENTS
from skyframe.train.store import Reader
from tests.system.batches import NANO

SHIPPED = (
    "loss.cl=infonce",
    "loss.sources=[fused]",
    "views.split_dates=true",
    "model.fusion.positions=0.25",
    "loss.student_temp=0.05",
    "data.frames={s2: 8, s1: 4}",
)
"""The objective of the small shipped recipes, in place of NANO's; dates enough for a clear one on either side."""


def overrides(earth: Path, runs: Path, name: str, *more: str) -> list[str]:
    return [*NANO, f"data.cubes=[{earth}/a,{earth}/b]", f"train.run_dir={runs}", f"name={name}", *more]


def start(earth: Path, runs: Path, name: str, *more: str) -> subprocess.Popen:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "skyframe", "pretrain", "skysense_demo", *overrides(earth, runs, name, *more)]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=240)[0]  # also closes the pipe
    assert process.returncode == 0, output
    return output


def saved(run: Path) -> dict[str, Any]:
    return read_checkpoint(latest(run / "checkpoints"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return saved(run)["state_dict"]


def assert_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [k for k in left if not torch.equal(left[k], right[k])] == []


class Killed(Exception):
    """What `watch_batches` stops a run with."""


def watch_batches(monkeypatch, stop_after: int = 0) -> list[Batch]:
    """The windows of every pass of the runs to come; after `stop_after` passes in all the run is killed in the next."""
    passes: list[Batch] = []
    trained = PretrainModule.training_step

    def step(self, windows, batch_idx):
        if stop_after and len(passes) == stop_after:
            raise Killed
        passes.append(windows)
        return trained(self, windows, batch_idx)

    monkeypatch.setattr(PretrainModule, "training_step", step)
    return passes


def modalities_by_rank(recipe: SkySenseRecipe, world: int) -> list[list[set[str]]]:
    """What the samples of each rank hold together, step by step."""
    data = CubeDataModule(recipe)
    dataset, share = data.dataset(), recipe.train.global_batch // world
    ranks = []
    for rank in range(world):
        batches = StepSampler(recipe.train.max_steps, share, 1, rank, world)
        ranks.append([set().union(*(dataset[p].series for p in batch)) for batch in batches])
    return ranks


def assert_near(left: Path, right: Path, recipe: SkySenseRecipe, least_heard: int) -> None:
    """Gradient averages agree to rounding, and weights where the gradient is more than rounding.

    Adam divides a gradient by its own size, so a weight whose true gradient is 0 (a query's bias, attention over a
    single pixel) moves by a full step in the direction of its rounding error, which no two reduction orders share.
    Hence a weight counts if it was given a gradient, and each tensor's difference stands beside the way it came.
    """
    data = CubeDataModule(recipe)
    module = PretrainModule(recipe, data.modalities, data.regions)
    begun = dict(module.named_parameters())
    names = {id(p): n for n, p in begun.items()}
    groups = module.configure_optimizers()["optimizer"].param_groups
    readers = [Reader(latest(run / "checkpoints")) for run in (left, right)]
    weights = [reader.state_dict() for reader in readers]
    loudest = max(float(readers[0].whole(n).abs().max()) for n in readers[0].tensors if n.startswith("exp_avg/"))
    num_heard = 0
    for name in (names[id(p)] for group in groups for p in group["params"]):
        a, b = ({m: reader.whole(f"{m}/{name}") for m in MOMENTS} for reader in readers)
        assert float((a["exp_avg"] - b["exp_avg"]).abs().max()) < 3e-5 * loudest, name
        heard = a["exp_avg_sq"].sqrt() > 1e-4 * loudest
        way = (weights[0][name] - begun[name].detach())[heard].norm()
        assert (weights[0][name] - weights[1][name])[heard].norm() <= 3e-3 * way, name
        num_heard += int(heard.sum())
    assert num_heard > least_heard, num_heard
    for name in (n for n in weights[0] if "teacher" in n or n.endswith("bank") or ".center_" in n):
        value, other = (w[name].double() for w in weights)
        assert (value - other).norm() <= 5e-6 * value.norm() or float((value - other).abs().max()) < 5e-5, name
