"""A NaN on one of two ranks: both drop the step, nothing but the data moves, and the run ends like one without it."""

import json
import multiprocessing
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from skyframe.config.skysense import SkySenseRecipe
from skyframe.data.datamodule import CubeDataModule, StepSampler
from skyframe.spec import InputError
from skyframe.train import module
from skyframe.train import run as run_module
from skyframe.train.guards import all_finite
from skyframe.train.module import PretrainModule
from skyframe.train.progress import read_metrics
from skyframe.train.run import pretrain
from skyframe.train.store import Reader
from tests.distributed import run_ranks
from tests.system.batches import nano_recipe
from tests.train.runs import overrides

pytestmark = pytest.mark.xdist_group("guards")  # or each worker would make the runs of two ranks

SHARE = ["train.global_batch=8", "train.max_steps=2", "train.accelerator=cpu", "optim.clip_norm=0.5"]
LOUD = ["optim.lr=1e-3", "loss.ema_start=0.9", "train.checkpoint_every=1", "train.keep_checkpoints=9"]
BAD = (0, 2)  # steps of the data: the first, and after a step was taken the last that the readers know of
BACK = ["train.guards.on_spike=rollback", "train.max_steps=8", "train.checkpoint_every=4"]
UNDONE = (4, 5, 6)  # steps of the data after the checkpoint of step 4, the last with a loss that jumps
CELLS = {
    "ddp": ["train.strategy=ddp", "data.workers=1"],
    "zero2": ["train.strategy=deepspeed", "train.deepspeed.stage=2", "train.micro_steps=2"],
    "spike": ["train.strategy=deepspeed", "train.deepspeed.stage=3", *BACK],
}
NAN = ("ddp", "zero2")


def recipe_of(earth: Path, runs: Path, name: str, *more: str) -> SkySenseRecipe:
    return nano_recipe(*overrides(earth, runs, name, *SHARE, *LOUD, *more))


def in_bad_step(trained: PretrainModule, bad: tuple[int, ...]) -> bool:
    """Whether this is the last pass of one of the named steps of the data."""
    at, micro = trained.trainer.datamodule.consumed, trained.recipe.train.micro_steps
    return at // micro in bad and at % micro == micro - 1


def poison_pixels(patch: pytest.MonkeyPatch, bad: tuple[int, ...]) -> None:
    """NaN in the Sentinel-2 pixels of both views."""
    changed, step, now = module.photometric, PretrainModule.training_step, {"bad": False}

    def training_step(self, windows, batch_idx):
        now["bad"] = in_bad_step(self, bad)
        return step(self, windows, batch_idx)

    def photometric(view, *rest):
        view = changed(view, *rest)
        if now["bad"]:
            view.series["s2"].values = view.series["s2"].values * torch.nan
        return view

    patch.setattr(PretrainModule, "training_step", training_step)
    patch.setattr(module, "photometric", photometric)


def raise_loss(patch: pytest.MonkeyPatch, bad: tuple[int, ...]) -> None:
    """Fifty times the loss, and the gradient with it."""
    step = PretrainModule.training_step

    def training_step(self, windows, batch_idx):
        harmless = step(self, windows, batch_idx)
        if not in_bad_step(self, bad):
            return harmless
        self.terms["total"] *= 50
        return 50 * harmless

    patch.setattr(PretrainModule, "training_step", training_step)


def poison_gradient(patch: pytest.MonkeyPatch, bad: tuple[int, ...]) -> None:
    """A term whose value is 0 and whose gradient is NaN, for one parameter."""
    step = PretrainModule.training_step

    def training_step(self, windows, batch_idx):
        weight = next(p for p in self.parameters() if p.requires_grad)
        harmless = step(self, windows, batch_idx)
        return harmless + (0 * weight).sqrt().sum() if in_bad_step(self, bad) else harmless

    patch.setattr(PretrainModule, "training_step", training_step)


def leave_out(patch: pytest.MonkeyPatch, bad: tuple[int, ...], micro_steps: int) -> None:
    """Let the order of the data pass over the named steps."""
    positions = StepSampler.positions
    kept = [b for b in range(99) if b // micro_steps not in bad]
    patch.setattr(StepSampler, "positions", lambda self, batch: positions(self, kept[batch]))


def train_all(rank: int, world: int, earth: Path, runs: Path, cells: dict[str, list[str]]) -> None:
    multiprocessing.set_start_method("fork", force=True)  # of readers, as outside of spawned processes
    for cell, words in cells.items():
        for name in ("nan", "without"):
            recipe = recipe_of(earth, runs, f"{cell}_{name}", f"train.devices={world}", *words)
            with pytest.MonkeyPatch.context() as patch:
                if name == "without":
                    leave_out(patch, UNDONE if cell == "spike" else BAD, recipe.train.micro_steps)
                elif rank == 1:
                    raise_loss(patch, UNDONE[-1:]) if cell == "spike" else poison_pixels(patch, BAD)
                os.environ["WORLD_SIZE"] = str(world)  # Lightning takes it away after each run
                pretrain(recipe, show=False)
            torch.distributed.barrier()


@pytest.fixture(scope="module")
def runs(earth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guards")
    run_ranks(train_all, earth, folder, CELLS, timeout_s=240, preload="tests.preloaded")
    return folder


def tensors(run: Path, step: int) -> dict[str, Tensor]:
    """Weights, moments, teacher, bank and centres after a step."""
    reader = Reader(run / "checkpoints" / f"step_{step:08d}")
    return {n: reader.whole(n) for n in reader.tensors if not n.startswith("random/")}


def lines(run: Path, rank: int) -> list[dict]:
    return [json.loads(line) for line in (run / f"nonfinite_rank{rank}.jsonl").read_text().splitlines()]


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert len(left) > 600 and left.keys() == right.keys()
    assert [n for n in left if not bool(left[n].isfinite().all()) or not torch.equal(left[n], right[n])] == []


@pytest.mark.parametrize("cell", NAN)
def test_every_step_is_bit_equal_to_that_of_a_run_whose_order_leaves_the_batches_out(runs, cell):
    for step in (1, 2):
        assert_same(tensors(runs / f"{cell}_nan", step), tensors(runs / f"{cell}_without", step))
    state = Reader(runs / f"{cell}_nan" / "checkpoints" / "step_00000002").state()
    micro = 2 if cell == "zero2" else 1
    assert state["CubeDataModule"] == {"consumed": 4 * micro, "replaced": 0, "skipped": 2}
    assert state["global_step"] == 2


@pytest.mark.parametrize("cell", NAN)
def test_rows_are_those_of_the_run_without_and_count_the_skips(runs, cell):
    left, right = (read_metrics(runs / f"{cell}_{name}") for name in ("nan", "without"))
    assert [(r["step"], r["skipped"]) for r in left] == [(1, 1), (2, 2)]
    for a, b in zip(left, right, strict=True):
        same = [k for k in a if k.startswith(("loss/", "effective_rank/")) or k in ("total", "lr", "ema_momentum")]
        assert len(same) > 8 and [a[k] for k in same] == [b[k] for k in same]


def test_every_rank_lists_its_samples_and_the_one_at_fault_keeps_the_batch(runs, earth):
    run = runs / "ddp_nan"
    assert sorted(p.name for p in run.glob("nonfinite*")) == [
        "nonfinite_rank0.jsonl", "nonfinite_rank1.jsonl",
        "nonfinite_rank1_batch00000000.pt", "nonfinite_rank1_batch00000002.pt",
    ]  # fmt: skip
    innocent, guilty = lines(run, 0), lines(run, 1)
    assert [(line["step"], line["batch"]) for line in innocent] == [(1, 0), (2, 2)]
    assert all(set(line["not_finite"]) == {"align/hr-s2", "align/s2-s1", "total"} for line in innocent)
    assert [(line["step"], line["batch"], line["rank"]) for line in guilty] == [(1, 0, 1), (2, 2, 1)]
    assert all({"s2/pix", "total"} <= set(line["not_finite"]) for line in guilty)
    dataset = CubeDataModule(recipe_of(earth, runs, "again")).dataset()
    there = [dataset[2 * 8 + 4 + i] for i in range(4)]  # of rank 1 in the third batch of eight
    assert guilty[1]["index"] == [sample.index for sample in there] and guilty[1]["epoch"] == [0] * 4
    held = [{name for name, series in sample.series.items() if series.valid.any()} for sample in there]
    assert [set(names) for names in guilty[1]["modalities"]] == held and {"s2", "s1"} in held
    kept = torch.load(run / "nonfinite_rank1_batch00000002.pt", weights_only=True)
    assert kept["index"].tolist() == guilty[1]["index"] and kept["series"]["s2"]["values"].dtype == torch.uint16
    assert not set(innocent[1]["index"]) & set(guilty[1]["index"])


def test_a_gradient_alone_is_noticed_and_a_resumed_run_drops_the_same_steps(earth, tmp_path, monkeypatch):
    poison_gradient(monkeypatch, (1, 3))
    words = ["train.max_steps=3", "train.guards.max_skipped=2"]
    run = pretrain(recipe_of(earth, tmp_path, "run", *words), show=False)
    ended, said, rows = tensors(run, 3), lines(run, 0), read_metrics(run)
    assert [(line["step"], line["batch"], line["not_finite"]) for line in said] == [(2, 1, []), (3, 3, [])]
    assert [r["skipped"] for r in rows] == [0, 1, 2]
    shutil.rmtree(run / "checkpoints" / "step_00000003")  # as if killed after step 2 was saved
    (run / "checkpoints" / "LATEST").write_text("step_00000002")
    pretrain(recipe_of(earth, tmp_path, "run", *words), resume="auto", show=False)
    assert_same(ended, tensors(run, 3))
    assert lines(run, 0) == said and [r["total"] for r in read_metrics(run)] == [r["total"] for r in rows]


def test_ranks_go_back_together_and_on_past_the_data_that_the_loss_jumped_with(runs):
    assert_same(tensors(runs / "spike_nan", 8), tensors(runs / "spike_without", 8))
    left, right = (read_metrics(runs / f"spike_{name}") for name in ("nan", "without"))
    assert [r["step"] for r in left] == list(range(1, 9))
    assert [r["total"] for r in left] == [r["total"] for r in right]
    (back,) = [json.loads(line) for line in (runs / "spike_nan" / "rollbacks.jsonl").read_text().splitlines()]
    assert (back["from_step"], back["to_step"], back["batch"]) == (7, 4, 6)
    assert re.fullmatch(r"step 7: the loss jumped to \d+\.?\d*, \d+ spreads above the median of .*", back["why"])
    assert not (runs / "spike_without" / "rollbacks.jsonl").exists()


def test_many_dropped_in_a_row_make_it_go_back_and_a_resumed_run_does_the_same(earth, tmp_path, monkeypatch, capsys):
    words = ["train.max_steps=5", "train.checkpoint_every=2", "train.guards.max_skipped=2", "train.micro_steps=2"]
    with monkeypatch.context() as patch:
        leave_out(patch, (2, 3, 4), 2)
        without = pretrain(recipe_of(earth, tmp_path, "without", *words), show=False)
    poison_pixels(monkeypatch, (3, 4))
    run = pretrain(recipe_of(earth, tmp_path, "run", *words), show=False)
    assert "2 times in a row the loss or a gradient was not finite" in capsys.readouterr().err
    assert_same(tensors(run, 5), tensors(without, 5))
    rows, record = read_metrics(run), (run / "rollbacks.jsonl").read_text()
    assert [(r["step"], r["skipped"]) for r in rows] == [(1, 0), (2, 0), (3, 3), (4, 3), (5, 3)]
    assert json.loads(record)["batch"] == 9 and json.loads(record)["to_step"] == 2
    for step in (4, 5):  # as if killed when it had gone back
        shutil.rmtree(run / "checkpoints" / f"step_{step:08d}")
    (run / "checkpoints" / "LATEST").write_text("step_00000002")
    pretrain(recipe_of(earth, tmp_path, "run", *words), resume="auto", show=False)
    assert_same(tensors(run, 5), tensors(without, 5))
    assert (run / "rollbacks.jsonl").read_text() == record


def test_what_does_not_end_by_going_back_ends_the_run_with_a_sentence(earth, tmp_path, monkeypatch):
    poison_pixels(monkeypatch, tuple(range(99)))
    words = ["train.guards.max_skipped=2", "train.guards.max_rollbacks=1"]
    with pytest.raises(InputError, match=r"step 1: 2 times in a row .*; no checkpoint from before step 1 is there"):
        pretrain(recipe_of(earth, tmp_path, "none", *words), show=False)
    assert [line["batch"] for line in lines(tmp_path / "none", 0)] == [0, 1]
    assert not (tmp_path / "none" / "checkpoints").exists()
    monkeypatch.undo()
    poison_pixels(monkeypatch, tuple(range(1, 99)))
    with pytest.raises(InputError, match=r"step 2: 2 times .*went back to step_00000001 1 times already.* lower optim"):
        pretrain(recipe_of(earth, tmp_path, "again", *words), show=False)
    assert [line["batch"] for line in lines(tmp_path / "again", 0)] == [1, 2, 3, 4]


def test_nan_infinity_and_a_norm_past_fp32_are_not_finite():
    good = [torch.tensor([3.0, -4.0]), torch.ones(2, 2)]
    assert all_finite(good)
    for value in (float("nan"), float("inf"), 1e30):  # 1e30 squared is past 3.4e38
        assert not all_finite([*good, torch.tensor([value, 1.0])])


def test_out_of_memory_ends_with_the_estimate_and_what_to_change(earth, tmp_path, monkeypatch):
    def training_step(self, windows, batch_idx):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(PretrainModule, "training_step", training_step)
    monkeypatch.setattr(run_module, "device_bytes", lambda: 3 * 2**30)
    words = (
        r"skysense_demo: out of GPU memory at the start; DDP with a micro batch of 8 per GPU needs about [\d.]+ GiB "
        r"\([\d.]+ GiB of it activations\) of 3\.0 GiB; use train\.micro_steps=2"
    )
    with pytest.raises(InputError, match=words.replace("skysense_demo", "full")):
        pretrain(recipe_of(earth, tmp_path, "full"), show=False)
    assert not (tmp_path / "full").exists()  # its name is free for the recipe as advised
