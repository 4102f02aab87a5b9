"""A run that is told to make room saves, leaves, and goes on as if nothing had been."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl

from skyframe.spec import InputError
from skyframe.train.checkpoint import latest
from skyframe.train.progress import read_metrics
from skyframe.train.requeue import Requeue
from skyframe.train.restarts import UNKNOWN, note_left, note_restart, read_restarts
from skyframe.train.run import pretrain
from skyframe.train.signals import EXIT, LEAVE, MAKE_ROOM, Left, Told, cannot_requeue, job_id, listening, requeue
from tests.system.batches import nano_recipe
from tests.train.runs import assert_equal, finish, overrides, start, weights

SPARSE = ["train.checkpoint_every=100", "train.max_steps=12", "data.workers=1", "views.drop_frames=0.3"]
"""No save is due but the last, so whatever is kept before was asked for by a signal."""


def until(run: Path, step: int, process: subprocess.Popen | None = None, timeout_s: float = 120) -> None:
    """Wait for a row of the log."""
    deadline = time.monotonic() + timeout_s
    while not any(r["step"] >= step for r in read_metrics(run)):
        assert time.monotonic() < deadline, f"{run.name} is not at step {step} after {timeout_s:.0f} s"
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def saved_at(run: Path) -> int:
    return int(latest(run / "checkpoints").name.removeprefix("step_"))


def assert_same_run(whole: Path, run: Path) -> None:
    """Bit-equal weights, and one log without a gap or a row twice."""
    assert_equal(weights(whole), weights(run))
    left, right = ([(r["step"], r["total"]) for r in read_metrics(r)] for r in (whole, run))
    assert left == right and [step for step, _ in left] == list(range(1, len(left) + 1))


@pytest.fixture(scope="module")
def whole(earth, tmp_path_factory) -> Path:
    """A run that nobody disturbed."""
    return pretrain(nano_recipe(*overrides(earth, tmp_path_factory.mktemp("runs"), "whole", *SPARSE)), show=False)


def test_a_signal_is_a_mark_that_the_stronger_word_keeps():
    with listening("SIGUSR2") as told:
        assert told.word == 0
        with listening("SIGUSR2") as inner:
            assert inner is told
        told.hold_term()
        os.kill(os.getpid(), signal.SIGTERM)
        assert told.word == LEAVE
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert told.word == MAKE_ROOM
    assert signal.getsignal(signal.SIGUSR2) == signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_reader_process_ignores_what_is_meant_for_the_run_but_ends_by_its_parent():
    with listening("SIGUSR2") as told:
        told.hold_term()
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2):
            time.sleep(0.1)
            os.kill(child, number)
        time.sleep(0.1)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        os.kill(child, signal.SIGTERM)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
        assert told.word == 0


def test_a_job_is_named_by_its_element_and_what_scontrol_says_is_told(monkeypatch, tmp_path):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert job_id() is None and cannot_requeue() == ""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert job_id() == "17"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert job_id() == "17_3"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cannot_requeue().startswith("scontrol is not on PATH here, expected SLURM's command")
    assert requeue("17_3") == cannot_requeue() != ""


def test_restarts_are_counted_and_too_many_in_vain_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    note_left(tmp_path, "been told to make room", 40)
    note_restart(tmp_path, 40, 2)
    note_restart(tmp_path, 60, 2)
    note_restart(tmp_path, 60, 2)
    lines = read_restarts(tmp_path)
    assert [(line["step"], line["job"], line["why"]) for line in lines] == [
        (40, "5", "been told to make room"), (60, "5", UNKNOWN), (60, "5", UNKNOWN)
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"started again 2 times in a row from step 60 \(train.survival.max_restarts"):
        note_restart(tmp_path, 60, 2)
    note_restart(tmp_path, 61, 2)
    monkeypatch.setenv("SLURM_JOB_ID", "6")
    note_restart(tmp_path, 61, 1)  # submitted anew, by somebody who looked at it
    assert len(read_restarts(tmp_path)) == 5
    with (tmp_path / "restarts.jsonl").open("a") as file:
        file.write('{"at": "2026')
    assert len(read_restarts(tmp_path)) == 5


def test_a_run_alone_saves_where_none_is_due_and_goes_on_bit_equal(earth, tmp_path, whole):
    process = start(earth, tmp_path, "told", *SPARSE)
    run = tmp_path / "told"
    until(run, 3, process)
    process.send_signal(signal.SIGUSR2)
    output = process.communicate(timeout=60)[0]
    step = saved_at(run)
    assert process.returncode == EXIT == 75 and 3 <= step < 12, output
    assert f"saved at step {step}, add resume=auto to go on from there" in output
    again = start(earth, tmp_path, "told", *SPARSE, "resume=auto")
    until(run, step + 2, again)
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=60)
    assert again.returncode == EXIT and saved_at(run) > step
    finish(start(earth, tmp_path, "told", *SPARSE, "resume=auto"))
    assert_same_run(whole, run)
    assert [line["why"] for line in read_restarts(run)] == ["been told to make room", "been told to end (SIGTERM)"]
    assert next(line["step"] for line in read_restarts(run)) == step and not (run / "left.json").exists()


def test_lightnings_handlers_are_not_there_and_a_caller_gets_an_exception(earth, tmp_path, monkeypatch):
    seen = []
    look = Requeue.on_train_batch_end

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        seen.append((type(signal.getsignal(signal.SIGTERM)), type(signal.getsignal(signal.SIGUSR1))))
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        look(self, trainer, module, outputs, batch, batch_idx)

    monkeypatch.setattr(Requeue, "on_train_batch_end", on_train_batch_end)
    with pytest.raises(Left, match=r"^saved at step 2, add resume=auto to go on from there$") as left:
        pretrain(nano_recipe(*overrides(earth, tmp_path, "r", "train.micro_steps=2")), show=False)
    assert left.value.code == 75 and saved_at(tmp_path / "r") == 2
    assert [handler for handler, _ in seen] == [Told] * 4 and seen[0][1] is not Told
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_finished_run_is_never_trained_again(earth, whole, monkeypatch, capsys):
    monkeypatch.setattr(pl.Trainer, "fit", None)
    recipe = nano_recipe(*overrides(earth, whole.parent, whole.name, *SPARSE))
    assert pretrain(recipe, resume="auto") == whole
    assert "the run is finished, its last checkpoint is that of step 12" in capsys.readouterr().out
    assert read_restarts(whole) == []
    command = [sys.executable, "-X", "importtime", "-m", "skyframe", "pretrain", str(whole / "recipe.yaml")]
    done = subprocess.run([*command, "resume=auto"], capture_output=True, text=True)
    assert done.returncode == 0 and "is finished" in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.rpartition("|")[2].strip() == "deepspeed"]
