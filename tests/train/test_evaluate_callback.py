"""A run that is scored while it trains ends as one that is not, whatever happens to it in between."""

import json
import multiprocessing
import os
import random
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from skyframe.cli import cli
from skyframe.commands.scoring import TeacherScorer
from skyframe.config.recipe import EvaluateConfig, TrainConfig
from skyframe.evaluate.during import TEACHER
from skyframe.evaluate.protocol import read_rows, weights_sha256
from skyframe.evaluate.run import Run
from skyframe.evaluate.scores import read_scores
from skyframe.export import export_run, load_module
from skyframe.spec import InputError
from skyframe.train.checkpoint import latest, read_checkpoint
from skyframe.train.evaluate_callback import Scoring, untouched, whole_weights
from skyframe.train.module import PretrainModule
from skyframe.train.progress import ProgressLog, read_metrics
from skyframe.train.run import load_run, pretrain
from skyframe.train.signals import Left, Told
from skyframe.train.store import Reader
from skyframe.train.watchdog import Watchdog
from tests.distributed import run_ranks
from tests.evaluate.small_suites import small_suite
from tests.system.batches import nano_recipe
from tests.train.runs import overrides

LEAN = ["data.modalities=[s2, s1]", "train.checkpoint_every=2", "views.drop_frames=0.3"]
LEAN += ["loss.ema_start=0.2", "loss.ema_end=0.2", "optim.lr=3e-3"]  # a teacher that moves in two steps


def recipe_of(earth: Path, runs: Path, name: str, suite: Path | None, *more: str):
    scored = [] if suite is None else [f"train.evaluate={{every: 2, suite: {suite}}}"]
    return nano_recipe(*overrides(earth, runs, name, *LEAN, *scored, *more))


def train(recipe, resume: str = "no") -> Path:
    """A run whose random states begin alike, as those of a fresh process do."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  the global state is what is looked at
    scorer = TeacherScorer(recipe) if recipe.train.evaluate.every else None
    return pretrain(recipe, resume, show=False, scorer=scorer)


def assert_same(left: Path, right: Path, resumed: bool = False) -> None:
    """Weights, moments, losses and (nothing of ours draws from them, but a start does) random states, bit by bit."""
    one, other = (Reader(latest(run / "checkpoints")) for run in (left, right))
    assert one.tensors.keys() == other.tensors.keys() and any(n.startswith("random/") for n in one.tensors)
    differing = [n for n in one.tensors if not torch.equal(one.whole(n), other.whole(n))]
    assert [n for n in differing if not (resumed and n.startswith("random/"))] == []
    rows = [[{k: v for k, v in r.items() if k not in CLOCK} for r in read_metrics(run)] for run in (left, right)]
    assert rows[0] == rows[1] and [r["step"] for r in rows[0]] == list(range(1, one.index["step"] + 1))


class Gone(BaseException):
    """As if the process had been killed there."""


CLOCK = ("time_s", "samples_per_s", "tokens_per_s", "data_wait_pct", "mfu_pct")


@pytest.fixture(scope="module")
def suite(earth, tmp_path_factory) -> Path:
    return small_suite(earth, tmp_path_factory.mktemp("suites"))


@pytest.fixture(scope="module")
def plain(earth, tmp_path_factory) -> Path:
    """A run that is not scored."""
    return train(recipe_of(earth, tmp_path_factory.mktemp("runs"), "plain", None))


@pytest.fixture(scope="module")
def scored(earth, suite, tmp_path_factory) -> Path:
    return train(recipe_of(earth, tmp_path_factory.mktemp("runs"), "scored", suite))


def test_a_scored_run_is_bit_equal_to_one_that_is_not(plain, scored):
    assert_same(plain, scored)
    assert not (plain / "evaluation").exists()


def test_scores_stand_by_step_beside_their_baselines(scored):
    scores = read_scores(scored / "evaluation")
    kinds = [(s.step, s.task, s.protocol) for s in scores]
    protocols = ("knn_k5", "knn", "linear")
    assert kinds == [(step, t, p) for step in (2, 4) for t in ("crops", "crops_pixel") for p in protocols]
    assert all(s.suite == "small" and 0 <= s.lo <= s.value <= s.hi <= 1 for s in scores)
    assert [s.value for s in scores if s.step == 2] != [s.value for s in scores if s.step == 4]
    rows = read_rows(scored / "evaluation/step_00000004/results.csv")
    assert [r.value for r in rows] == [s.value for s in scores if s.step == 4]
    baselines = {r.encoder for r in read_rows(scored / "evaluation/baselines/results.csv")}
    assert baselines == {"raw_pixels", "random_init", "majority"}
    assert not list(scored.rglob("features"))


def test_what_is_scored_is_what_an_export_holds(scored, tmp_path):
    recipe, checkpoint = load_run(scored)
    export_run(read_checkpoint(checkpoint), recipe, tmp_path / "out")
    (sha,) = {r.weights_sha256 for r in read_rows(scored / "evaluation/step_00000004/results.csv")}
    assert sha == weights_sha256(load_module(tmp_path / "out/model"))


def test_curves_of_the_scores_are_in_tensorboard(scored):
    (file,) = (scored / "tensorboard").iterdir()
    found = {
        (event.step, value.tag): value.tensor.float_val[0]
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
        if value.tag.startswith("eval/")
    }
    scores = {(s.step, f"eval/{s.task}/{s.protocol}/{s.metric}"): s.value for s in read_scores(scored / "evaluation")}
    assert found == pytest.approx(scores, rel=1e-6) and len(found) == 12


def test_a_kill_in_the_middle_of_a_scoring_neither_repeats_nor_loses_a_score(
    earth, suite, plain, scored, tmp_path, monkeypatch
):
    calls, score = [], Run._probe

    def probe(self, subject, task, seed, protocols, majority):
        if subject.name == TEACHER:
            calls.append(task.name)
            if len(calls) == 2:
                raise Gone
        score(self, subject, task, seed, protocols, majority)

    monkeypatch.setattr(Run, "_probe", probe)
    recipe = recipe_of(earth, tmp_path, "killed", suite)
    with pytest.raises(Gone):
        train(recipe)
    run = tmp_path / "killed"
    assert calls == ["crops", "crops_pixel"] and read_scores(run / "evaluation") == []
    train(recipe, "auto")
    assert calls[2:] == ["crops_pixel", "crops", "crops_pixel"]
    assert read_scores(run / "evaluation") == read_scores(scored / "evaluation")
    assert_same(plain, run, resumed=True)


def test_a_signal_between_two_tasks_leaves_the_rest_for_the_next_start(earth, suite, scored, tmp_path, monkeypatch):
    score, begun = Run.score, []

    def told(self, subject, task, seed):
        if subject.name == TEACHER:
            begun.append(task.name)
            os.kill(os.getpid(), signal.SIGUSR2)
        score(self, subject, task, seed)

    monkeypatch.setattr(Run, "score", told)
    recipe = recipe_of(earth, tmp_path, "told", suite)
    with pytest.raises(Left, match="saved at step 2"):
        train(recipe)
    assert begun == ["crops"] and read_scores(tmp_path / "told/evaluation") == []
    monkeypatch.undo()

    def step(self, windows, batch_idx):
        raise Gone

    monkeypatch.setattr(PretrainModule, "training_step", step)
    with pytest.raises(Gone):  # in the next step; those scores are there before
        train(recipe, "auto")
    assert read_scores(tmp_path / "told/evaluation") == [s for s in read_scores(scored / "evaluation") if s.step == 2]


def test_suite_and_data_are_refused_before_the_first_step(earth, tmp_path):
    with pytest.raises(InputError, match=r"quik"):
        nano_recipe("train.evaluate={every: 2, suite: quik}")
    with pytest.raises(InputError, match=r"every 3 with how: apart, expected a multiple of train.checkpoint_every 2"):
        nano_recipe("train.evaluate={every: 3, how: apart}", "train.checkpoint_every=2")
    absent = small_suite(tmp_path / "nowhere", tmp_path)
    with pytest.raises(InputError, match=r"^train.evaluate: .*nowhere.*, or set train.evaluate.every=0$"):
        train(recipe_of(earth, tmp_path, "absent", absent))
    assert not (tmp_path / "absent").exists()
    eurosat = tmp_path / "e.yaml"
    eurosat.write_text("name: e\ntasks: {a: {benchmark: eurosat-rgb}}\n")
    with pytest.raises(InputError, match=r"lies below a folder of data sets, and none was given"):
        TeacherScorer(recipe_of(earth, tmp_path, "none", eurosat))
    words = [*overrides(earth, tmp_path, "cli", *LEAN), f"train.evaluate={{every: 2, suite: {eurosat}}}"]
    done = CliRunner().invoke(cli, ["pretrain", "skysense_demo", *words])
    assert "none was given; add --data ROOT" in str(done.exception) and not (tmp_path / "cli").exists()
    assert nano_recipe("train.evaluate={every: 0, suite: quik}").train.evaluate.suite == "quik"


class Recorder:
    """A scorer that does nothing but remember."""

    has_work = True

    def __init__(self, scored: set[int], trouble: list[str]) -> None:
        self.scored, self.trouble, self.calls = scored, trouble, []

    def steps(self) -> set[int]:
        return set(self.scored)

    def forget(self, after: int) -> None:
        self.calls.append(f"forget {after}")

    def curves(self, step: int) -> dict[str, float]:
        return {"eval/a/knn/accuracy": 0.5}

    def begin(self, module, enough, tell) -> list[str]:
        return []

    def score(self, module, weights, step, enough, tell) -> list[str]:
        torch.rand(3), random.random()
        self.calls.append(f"score {step} {sorted(weights)}")
        return self.trouble


def looked(scorer: Recorder, steps: list[int], tmp_path: Path) -> tuple[Scoring, SimpleNamespace]:
    """A callback that has seen these global steps at the ends of batches."""
    train_config = TrainConfig(max_steps=7, global_batch=1, evaluate=EvaluateConfig(every=2))
    callbacks = [Watchdog(tmp_path, 0.0), ProgressLog(tmp_path, False)]
    trainer = SimpleNamespace(callbacks=callbacks, is_global_zero=True, global_step=0, max_steps=7)
    module = SimpleNamespace(system=SimpleNamespace(exports=lambda: {"model": torch.nn.Linear(1, 1)}))
    scoring = Scoring(train_config, scorer, Told())
    scoring.done, scoring.begun = scorer.steps(), True
    for step in steps:
        trainer.global_step = step
        scoring._look(trainer, module)
    return scoring, trainer


def test_steps_are_scored_once_and_the_last_one_always(tmp_path, capsys):
    scorer = Recorder({4}, ["task a: it is broken"])
    scoring, trainer = looked(scorer, [0, 1, 1, 2, 2, 3, 4, 6, 7, 7], tmp_path)
    assert scorer.calls == [f"score {step} ['bias', 'weight']" for step in (2, 6, 7)]
    assert capsys.readouterr().err.count("warning: scoring step 2: task a: it is broken") == 1
    scoring.on_load_checkpoint(trainer, None, {"global_step": 4})
    assert scorer.calls[-1] == "forget 4" and scoring.done == {2, 4}


def test_nothing_that_is_drawn_inside_shows_outside():
    def states():
        return torch.rand(2).tolist(), np.random.rand(), random.random(), torch.backends.cudnn.benchmark  # noqa: NPY002

    for library in (torch.manual_seed, np.random.seed, random.seed):
        library(5)
    expected = states()
    for library in (torch.manual_seed, np.random.seed, random.seed):
        library(5)
    with pytest.raises(KeyError), untouched():
        states()
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        raise KeyError
    assert states() == expected


def test_whole_weights_are_a_copy():
    layer = torch.nn.BatchNorm1d(2)
    copied = whole_weights(layer, True)
    layer.weight.data.add_(1)
    assert copied["weight"].tolist() == [1, 1] and copied["running_var"].tolist() == [1, 1]
    assert whole_weights(layer, False) == {}


def two_ranks(rank: int, world: int, earth: Path, runs: Path, suite: Path) -> None:
    """The same run without and with scores on these ranks."""
    multiprocessing.set_start_method("fork", force=True)
    words = ["train.devices=2", "train.strategy=ddp", "train.accelerator=cpu", "train.threads=1"]
    for name, given in (("plain", None), ("scored", suite)):
        os.environ["WORLD_SIZE"] = str(world)  # Lightning takes it away after each run
        train(recipe_of(earth, runs, name, given, *words, "train.max_steps=2"))
        torch.distributed.barrier()


@pytest.mark.xdist_group("strategies")
def test_two_ranks_share_the_tasks_and_end_as_without(earth, suite, tmp_path):
    run_ranks(two_ranks, earth, tmp_path, suite, timeout_s=240, preload="tests.preloaded")
    assert_same(tmp_path / "plain", tmp_path / "scored")
    folder = tmp_path / "scored/evaluation"
    for rank, task in enumerate(("crops", "crops_pixel")):
        rows = read_rows(folder / f"step_00000002/rank_{rank:05d}/results.csv")
        assert {r.task for r in rows} == {task}
    assert [s.task for s in read_scores(folder) if s.step == 2] == ["crops"] * 3 + ["crops_pixel"] * 3
    assert json.loads((folder / "scores.jsonl").read_text().splitlines()[0])["step"] == 2
