"""Every strategy gives the numbers of one process, keeps the teacher's closed form and resumes exactly."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as td
from safetensors.torch import load_file

from skyframe.config.skysense import SkySenseRecipe
from skyframe.data.datamodule import CubeDataModule
from skyframe.export import export_run
from skyframe.model.teacher import momentum_at
from skyframe.spec import InputError
from skyframe.train.checkpoint import read_checkpoint
from skyframe.train.module import PretrainModule
from skyframe.train.progress import read_metrics
from skyframe.train.run import pretrain
from skyframe.train.store import Reader
from skyframe.train.strategy import strategy_of
from tests.distributed import run_ranks
from tests.system.batches import nano_recipe
from tests.train.runs import modalities_by_rank, overrides

pytestmark = pytest.mark.xdist_group("strategies")  # they share runs of two ranks that take a minute
STEPS = 4
LOUD = ["optim.clip_norm=0.5", "loss.ema_start=0.9", "optim.lr=1e-3", "optim.warmup_steps=2"]
SHARE = ["train.global_batch=8", f"train.max_steps={STEPS}", "train.accelerator=cpu", "views.drop_frames=0.3"]
KEPT = ["train.checkpoint_every=1", "train.keep_checkpoints=9", "data.workers=1"]


def zero(stage: int, *more: str) -> list[str]:
    return ["train.strategy=deepspeed", f"train.deepspeed.stage={stage}", *more]


def cells(folder: Path) -> dict[str, list[str]]:
    """Runs on two ranks, all with two micro-steps but the last; those of one process and of every stage are proven by
    `make prove`."""
    split = folder / "split_all.json"
    split.write_text(json.dumps({"zero_optimization": {"stage3_param_persistence_threshold": 0}}))
    ways = {
        "ddp": ["train.strategy=ddp"],
        "zero0": zero(0),
        "zero1_offload": zero(1, "train.deepspeed.offload=optimizer", "train.recompute=true"),
        "zero2": zero(2),
        "zero3_split_all": zero(3, f"train.deepspeed.overlay={split}"),
        "zero3_offload": zero(3, "train.deepspeed.offload=parameters"),
    }
    return {name: [*words, "train.micro_steps=2"] for name, words in ways.items()} | {"zero2_1": zero(2)}


RESUMED = ("ddp", "zero2", "zero3_split_all")


def recipe_of(cubes: tuple[Path, Path], runs: Path, name: str, *more: str) -> SkySenseRecipe:
    where = [f"data.cubes=[{cubes[0]},{cubes[1]}]", *SHARE, *LOUD, *KEPT]
    return nano_recipe(*overrides(cubes[0].parent, runs, name, *where, *more))


def forget(run: Path, step: int) -> None:
    """As if the run had been killed after the save of a step."""
    for folder in (run / "checkpoints").glob("step_*"):
        if int(folder.name.removeprefix("step_")) > step:
            shutil.rmtree(folder)
    (run / "checkpoints" / "LATEST").write_text(f"step_{step:08d}")


def train_all(rank: int, world: int, cubes: tuple[Path, Path], runs: Path, named: dict[str, list[str]]) -> None:
    """Train every cell on these ranks; those of RESUMED once more from the middle, under the name `<cell>_again`."""
    multiprocessing.set_start_method("fork", force=True)  # of readers, as outside of spawned processes
    for name, words in named.items():
        os.environ["WORLD_SIZE"] = str(world)  # Lightning takes it away after each run
        pretrain(recipe_of(cubes, runs, name, f"train.devices={world}", *words), show=False)
        td.barrier()
        if name in RESUMED:
            again = runs / f"{name}_again"
            if rank == 0:
                shutil.copytree(runs / name, again)
                text = (again / "recipe.yaml").read_text()
                (again / "recipe.yaml").write_text(text.replace(f"name: {name}\n", f"name: {name}_again\n"))
                forget(again, 2)
            td.barrier()
            os.environ["WORLD_SIZE"] = str(world)
            recipe = recipe_of(cubes, runs, again.name, f"train.devices={world}", *words)
            pretrain(recipe, resume="auto", show=False)
            td.barrier()


@pytest.fixture(scope="module")
def cubes(earth: Path, optical_only: Path) -> tuple[Path, Path]:
    return earth / "a", optical_only


@pytest.fixture(scope="module")
def runs(cubes: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one process alone and all cells on two ranks."""
    folder = tmp_path_factory.mktemp("strategies")
    for micro in (1, 2):
        pretrain(recipe_of(cubes, folder, f"alone_{micro}", f"train.micro_steps={micro}"), show=False)
    run_ranks(train_all, cubes, folder, cells(folder), timeout_s=600)
    return folder


def checkpoint(run: Path, step: int) -> Reader:
    return Reader(run / "checkpoints" / f"step_{step:08d}")


def losses(run: Path) -> list[float]:
    rows = read_metrics(run)
    assert [r["step"] for r in rows] == [1, 2, 3, 4]
    return [r["total"] for r in rows]


CELLS = list(cells(Path("/tmp")))


def test_one_of_the_two_ranks_sees_no_sar(cubes, tmp_path):
    ranks = modalities_by_rank(recipe_of(cubes, tmp_path, "one"), 2)
    assert any("s1" not in held for steps in ranks for held in steps), ranks


@pytest.mark.parametrize("cell", CELLS)
def test_losses_are_those_of_one_process(runs, cell):
    alone = losses(runs / ("alone_1" if cell.endswith("_1") else "alone_2"))
    assert losses(runs / cell) == pytest.approx(alone, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_the_teacher_is_the_closed_form_of_the_saved_students(runs, cubes, cell):
    recipe = recipe_of(cubes, runs, cell)
    data = CubeDataModule(recipe)
    begun = PretrainModule(recipe, data.modalities, data.regions).state_dict()
    pairs = {k: k.replace("teacher", "student", 1) for k in begun if k.startswith("system.teacher.")}
    heads = {k: k.replace("teacher_heads", "heads", 1) for k in begun if k.startswith("system.teacher_heads.")}
    expected = {t: begun[t].double() for t in pairs | heads}
    for step in range(1, STEPS + 1):
        weights = checkpoint(runs / cell, step).state_dict()
        m = momentum_at(step / STEPS, 0.9, 1.0)
        for t, s in (pairs | heads).items():
            moved = m * expected[t] + (1 - m) * weights[s].double()
            expected[t] = moved if weights[t].is_floating_point() and "bank" not in t else weights[s].double()
    far = {t: float((weights[t].double() - expected[t]).abs().max()) for t in expected}
    assert max(far.values()) < 5e-7, max(far.items(), key=lambda item: item[1])
    gone = max(float((weights[t] - begun[t]).abs().max()) for t in pairs)
    assert gone > 1e-4  # the teacher moved a thousand times further than the bound


@pytest.mark.parametrize("cell", RESUMED)
def test_a_run_resumed_in_the_middle_is_bit_equal(runs, cell):
    left, right = (checkpoint(runs / name, STEPS) for name in (cell, f"{cell}_again"))
    assert left.tensors.keys() == right.tensors.keys() and len(left.tensors) > 600
    differing = [n for n in left.tensors if not torch.equal(left.whole(n), right.whole(n))]
    assert [n for n in differing if not n.startswith("random/")] == []
    assert losses(runs / cell) == losses(runs / f"{cell}_again")


def test_a_save_leaves_one_file_per_rank_and_two(runs):
    for cell in ("ddp", "zero1_offload", "zero3_offload"):
        folder = checkpoint(runs / cell, STEPS).folder
        names = ["index.json", "rank_00000.safetensors", "rank_00001.safetensors", "state.pt"]
        assert sorted(p.name for p in folder.iterdir()) == names
        sizes = [(folder / name).stat().st_size for name in names[1:3]]
        assert max(sizes) < 1.2 * min(sizes), (cell, sizes)


def test_export_takes_what_stage_3_saved_on_two_ranks_as_it_is(runs, cubes, tmp_path):
    exported = {}
    for name in ("alone_2", "zero3_split_all"):
        path = checkpoint(runs / name, STEPS).folder
        export_run(read_checkpoint(path), recipe_of(cubes, runs, name), tmp_path / name)
        exported[name] = load_file(tmp_path / name / "model" / "model.safetensors")
    one, other = exported.values()
    assert one.keys() == other.keys() and len(one) > 100
    for name in one:
        assert torch.allclose(one[name], other[name], rtol=1e-5, atol=2e-6), name


def chain(rank: int, world: int, cubes: tuple[Path, Path], runs: Path, words: list[str]) -> None:
    if world > 1:  # readers start as outside of spawned processes
        multiprocessing.set_start_method("fork", force=True)
    pretrain(recipe_of(cubes, runs, "chain", f"train.devices={world}", *words), resume="auto", show=False)


@pytest.mark.slow
def test_one_run_goes_on_with_other_ranks_and_stages(runs, cubes):
    """2 ranks ZeRO-2 -> 1 rank alone -> 4 ranks DDP -> 2 ranks ZeRO-3, a step each."""
    shutil.copytree(runs / "zero2_1", runs / "chain")
    text = (runs / "chain" / "recipe.yaml").read_text()
    (runs / "chain" / "recipe.yaml").write_text(text.replace("name: zero2_1\n", "name: chain\n"))
    forget(runs / "chain", 1)
    chain(0, 1, cubes, runs, [])
    forget(runs / "chain", 2)
    run_ranks(chain, cubes, runs, ["train.strategy=ddp"], world=4, timeout_s=240)
    forget(runs / "chain", 3)
    run_ranks(chain, cubes, runs, zero(3), timeout_s=240)
    wrote = [checkpoint(runs / "chain", s).index for s in range(1, 5)]
    assert [(i["world_size"], i["strategy"]) for i in wrote] == [
        (2, "deepspeed 2"), (1, "alone"), (4, "ddp"), (2, "deepspeed 3"),
    ]  # fmt: skip
    assert losses(runs / "chain") == pytest.approx(losses(runs / "alone_1"), rel=1e-6, abs=1e-6)
    left, right = (checkpoint(runs / name, STEPS).state_dict() for name in ("alone_1", "chain"))
    assert left.keys() == right.keys()
    for name in (n for n in left if "teacher" in n or n.endswith("bank") or ".center_" in n):
        assert torch.allclose(left[name], right[name], rtol=1e-5, atol=2e-6), name


def test_terms_that_leave_parameters_without_a_gradient_are_refused_under_deepspeed():
    recipe = nano_recipe("loss.alpha=0", *zero(1))
    with pytest.raises(InputError, match=r"no term reaches the fusion, expected a gradient for every parameter"):
        strategy_of(recipe, 10)
