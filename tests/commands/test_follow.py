"""Checkpoints of a run scored from outside of it."""

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from skyframe.cli import cli
from skyframe.evaluate.protocol import read_rows
from skyframe.evaluate.run import Run
from skyframe.evaluate.scores import read_scores
from skyframe.spec import InputError
from skyframe.train import checkpoint
from skyframe.train.store import Reader
from tests.evaluate.small_suites import small_suite


@pytest.fixture(scope="module")
def suite(earth, tmp_path_factory) -> Path:
    return small_suite(
        earth, tmp_path_factory.mktemp("suites"), "\n  crops: {benchmark: simulated, label: crop_type}\n"
    )


@pytest.fixture
def run(nano_run, tmp_path) -> Path:
    """A finished run of two steps with a checkpoint of each."""
    copied = shutil.copytree(nano_run, tmp_path / "nano")
    shutil.copytree(copied / "checkpoints/step_00000002", copied / "checkpoints/step_00000001")
    return copied


def follow(*words: object) -> Result:
    return CliRunner().invoke(cli, ["follow", *map(str, words)], catch_exceptions=True)


def test_every_checkpoint_is_scored_once_until_the_last(run, suite):
    done = follow(run, "--suite", suite)  # ends by itself, as the run is finished
    assert done.exit_code == 0 and "2 checkpoints scored" in done.output, done.output
    scores = read_scores(run / "evaluation")
    assert [(s.step, s.protocol) for s in scores] == [(t, p) for t in (1, 2) for p in ("knn_k5", "knn", "linear")]
    assert {r.role for r in read_rows(run / "evaluation/baselines/results.csv")} == {"raw", "random", "majority"}
    again = follow(run, "--suite", suite)
    assert again.exit_code == 0 and "0 checkpoints scored" in again.output
    newer = run / "checkpoints/step_00000001/index.json"  # as a run that went back saves a step once more
    os.utime(newer, (newer.stat().st_atime, newer.stat().st_mtime + 1e6))
    third = follow(run, "--suite", suite, "--once")
    assert "scoring step 1" in third.output and "scoring step 2" not in third.output
    assert read_scores(run / "evaluation") == scores


def test_a_checkpoint_that_goes_away_while_it_is_read_is_passed_over(run, suite, monkeypatch):
    read = Reader.state_dict

    def state_dict(self):
        if self.folder.name == "step_00000001":
            checkpoint._remove(self.folder)  # as the run does when it has saved a newer one
        return read(self)

    monkeypatch.setattr(Reader, "state_dict", state_dict)
    done = follow(run, "--suite", suite)
    assert done.exit_code == 0 and "1 checkpoints scored" in done.output, done.output
    assert "warning: step 1 is passed over: it was removed while it was read" in done.output
    assert {s.step for s in read_scores(run / "evaluation")} == {2}


def test_ctrl_c_leaves_what_the_next_start_goes_on_with(run, suite, monkeypatch):
    score, begun = Run.score, []

    def interrupted(self, subject, task, seed):
        begun.append(subject.name)
        if begun.count("teacher") == 2:
            raise KeyboardInterrupt
        score(self, subject, task, seed)

    monkeypatch.setattr(Run, "score", interrupted)
    assert follow(run, "--suite", suite).exit_code == 1
    assert {s.step for s in read_scores(run / "evaluation")} == {1}
    monkeypatch.undo()
    assert "1 checkpoints scored" in follow(run, "--suite", suite).output
    assert {s.step for s in read_scores(run / "evaluation")} == {1, 2}


def test_what_cannot_be_followed_is_refused(run, suite, tmp_path):
    def refused(*words: object) -> str:
        error = follow(*words).exception
        assert isinstance(error, InputError) and "\n" not in str(error)
        return str(error)

    assert "no recipe.yaml, expected a run folder" in refused(tmp_path)
    absent = small_suite(tmp_path / "nowhere", tmp_path)
    assert "nowhere" in refused(run, "--suite", absent) and not list((run / "evaluation").glob("step_*"))
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text.replace("every: 0", "every: 1"))
    assert "the run scores itself (train.evaluate.how: here)" in refused(run)
    apart = text.replace("    every: 0", "    every: 2").replace("how: here", "how: apart")
    (run / "recipe.yaml").write_text(apart.replace("checkpoint_every: 100", "checkpoint_every: 1"))
    assert "1 checkpoints scored" in follow(run, "--suite", suite).output
    assert json.loads((run / "evaluation/scores.jsonl").read_text().splitlines()[0])["step"] == 2
