"""A run that is told to make room saves, leaves, and goes on as if nothing had been."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl

from skyframe.spec import InputError
from skyframe.train.checkpoint import latest, step_of
from skyframe.train.leave import Leave
from skyframe.train.progress import read_metrics
from skyframe.train.restarts import UNKNOWN, note_left, note_restart, read_restarts
from skyframe.train.run import pretrain
from skyframe.train.signals import EXIT, Left, Told, listening
from skyframe.train.verdict import PLACE, BadNodes, leave_verdict
from tests.system.batches import nano_recipe
from tests.train.runs import assert_equal, finish, overrides, start, weights

SPARSE = ["train.checkpoint_every=100", "train.max_steps=12", "data.workers=1", "views.drop_frames=0.3"]
"""No save is due but the last, so whatever is kept before was asked for by a signal."""

TWO_RANKS_STEPS = 30
TWO_RANKS = [
    f"train.max_steps={TWO_RANKS_STEPS}", "train.checkpoint_every=1000", "views.drop_frames=0.3", "train.strategy=ddp",
    "train.accelerator=cpu", "train.threads=1",
]  # fmt: skip


def until(run: Path, step: int, process: subprocess.Popen | None = None, timeout_s: float = 120) -> None:
    """Wait for a row of the log."""
    deadline = time.monotonic() + timeout_s
    while not any(r["step"] >= step for r in read_metrics(run)):
        assert time.monotonic() < deadline, f"{run.name} is not at step {step} after {timeout_s:.0f} s"
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def saved_at(run: Path) -> int:
    return step_of(latest(run / "checkpoints"))


def assert_same_run(whole: Path, run: Path) -> None:
    """Bit-equal weights, and one log without a gap or a row twice."""
    assert_equal(weights(whole), weights(run))
    left, right = ([(r["step"], r["total"]) for r in read_metrics(r)] for r in (whole, run))
    assert left == right and [step for step, _ in left] == list(range(1, len(left) + 1))


@pytest.fixture(scope="module")
def whole(earth, tmp_path_factory) -> Path:
    """A run that nobody disturbed."""
    return pretrain(nano_recipe(*overrides(earth, tmp_path_factory.mktemp("runs"), "whole", *SPARSE)), show=False)


def test_a_signal_is_a_mark():
    with listening("SIGUSR2") as told:
        assert told.number == 0
        with listening("SIGUSR2") as inner:
            assert inner is told
        told.hold_term()
        os.kill(os.getpid(), signal.SIGTERM)
        assert told.number == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGUSR2)
        assert told.number == signal.SIGUSR2
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
        assert told.number == 0


def test_the_first_word_of_a_process_counts_unless_a_later_one_names_nodes(monkeypatch, tmp_path):
    leave_verdict(2)  # no script waits for it
    monkeypatch.setenv(PLACE, str(tmp_path / "verdict"))
    leave_verdict(75)
    leave_verdict(2)
    assert (tmp_path / "verdict").read_text() == "75 \n"
    leave_verdict(2, BadNodes("node n2, n7: off", ["n2", "n7"]))
    leave_verdict(2, InputError("port 1 of n1: does not answer"))
    assert (tmp_path / "verdict").read_text() == "2 n2,n7\n"


def test_restarts_are_kept_with_their_reasons(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    note_left(tmp_path, "told to leave by SIGUSR2", 40)
    note_restart(tmp_path, 40)
    note_restart(tmp_path, 60)
    kept = [(40, "5", "told to leave by SIGUSR2"), (60, "5", UNKNOWN)]
    assert [(line["step"], line["job"], line["why"]) for line in read_restarts(tmp_path)] == kept
    with (tmp_path / "restarts.jsonl").open("a") as file:
        file.write('{"at": "2026')
    assert len(read_restarts(tmp_path)) == 2


def test_a_run_alone_saves_where_none_is_due_and_goes_on_bit_equal(earth, tmp_path, whole):
    process = start(earth, tmp_path, "told", *SPARSE)
    run = tmp_path / "told"
    until(run, 3, process)
    process.send_signal(signal.SIGUSR2)
    output = process.communicate(timeout=60)[0]
    step = saved_at(run)
    assert process.returncode == EXIT == 75 and 3 <= step < 12, output
    assert f"saved at step {step}, add resume=auto to go on from there" in output
    finish(start(earth, tmp_path, "told", *SPARSE, "resume=auto"))
    assert_same_run(whole, run)
    assert [line["why"] for line in read_restarts(run)] == ["told to leave by SIGUSR2"]
    assert next(line["step"] for line in read_restarts(run)) == step and not (run / "left.json").exists()


def test_lightnings_handlers_are_not_there_and_a_caller_gets_an_exception(earth, tmp_path, monkeypatch):
    seen = []
    look = Leave.on_train_batch_end

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        seen.append((type(signal.getsignal(signal.SIGTERM)), type(signal.getsignal(signal.SIGUSR1))))
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        look(self, trainer, module, outputs, batch, batch_idx)

    monkeypatch.setattr(Leave, "on_train_batch_end", on_train_batch_end)
    with pytest.raises(Left, match=r"^saved at step 2, add resume=auto to go on from there$"):
        pretrain(nano_recipe(*overrides(earth, tmp_path, "r", "train.micro_steps=2")), show=False)
    assert saved_at(tmp_path / "r") == 2
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


@pytest.mark.slow
def test_torchrun_of_two_ranks_leaves_together_when_one_is_told(earth, tmp_path):
    words = ["pretrain", "skysense_demo", *overrides(earth, tmp_path, "run", *TWO_RANKS, "train.devices=2")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "skyframe"]
    env, run = {**os.environ, "OMP_NUM_THREADS": "1"}, tmp_path / "run"
    process = subprocess.Popen(
        [*launcher, *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    until(run, 3, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGUSR2)
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 1 and re.search(rf"exitcode\s*: {EXIT} ", output), output
    step = saved_at(run)
    assert 3 <= step < TWO_RANKS_STEPS and f"saved at step {step}, add resume=auto" in output
    assert max(r["step"] for r in read_metrics(run)) == step
