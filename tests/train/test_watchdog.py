"""A rank that stands still is named, and the run ends soon."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from skyframe.train import watchdog
from skyframe.train.module import PretrainModule
from skyframe.train.run import pretrain
from skyframe.train.watchdog import EXIT, State, Watchdog, blame
from tests.distributed import run_ranks
from tests.train.runs import start
from tests.train.test_guards import recipe_of

WORDS = ["train.strategy=ddp", "train.devices=2", "train.max_steps=500", "train.guards.hung_s=3"]


def at(batch: int, phase: int, waits: bool, still_s: float = 9.0) -> State:
    return State("n", 7, batch, phase, waits, still_s)


def test_who_is_to_blame_by_hand():
    both = [0, 1]
    gone = blame({0: at(3, 2, True), 1: at(3, 1, False)}, [0], 2)
    assert gone == "rank 1 on n: the process no longer runs, though it has not ended; the others wait for it"
    never = blame({0: at(3, 2, True)}, [0], 2)
    assert never.startswith("rank 1: the process no longer runs")
    behind = blame({0: at(4, 1, True), 1: at(3, 4, False, 8.4)}, both, 2)
    assert behind == (
        "rank 1 on n: no further for 8 s, past the step of batch 3 since the start, saving or waiting for the next "
        "batch; the others wait"
    )
    same = blame({0: at(3, 1, True), 1: at(3, 1, False)}, both, 2)
    assert same == "rank 1 on n: no further for 9 s, in the forward pass of batch 3 since the start; the others wait"
    unknown = blame({0: at(3, 2, False), 1: at(3, 2, False)}, both, 2)
    assert unknown.startswith("rank 0 on n, rank 1 on n: no further for 9 s, in the backward pass of batch 3")
    assert unknown.endswith("all stand there")


def test_a_rank_at_rest_is_not_late_however_long_it_takes(tmp_path, monkeypatch):
    told: list[State] = []
    store = SimpleNamespace(set=lambda key, text: told.append(State(**json.loads(text))), check=lambda keys: False)
    store.clone = lambda: store
    monkeypatch.setattr(watchdog, "_get_default_store", lambda: store)
    dog = Watchdog(tmp_path, 0.3)
    judged = threading.Event()
    dog._judge = lambda first, last: judged.set()
    thread = threading.Thread(target=dog._watch)
    with dog.rest():
        thread.start()
        time.sleep(0.9)
        assert max(s.still_s for s in told) < 0.3 and not judged.is_set()
    assert judged.wait(20)
    dog.ended.set()
    thread.join()


def sleep_in_the_third_batch(rank: int, world: int, earth: Path, runs: Path) -> None:
    step = PretrainModule.training_step

    def training_step(self, windows, batch_idx):
        if batch_idx == 2 and rank == 1:
            time.sleep(60)
        return step(self, windows, batch_idx)

    PretrainModule.training_step = training_step  # in a process of its own
    pretrain(recipe_of(earth, runs, "asleep", *WORDS), show=False)


def test_a_rank_that_sleeps_is_named_by_the_one_that_waits(earth, tmp_path, capfd):
    begun = time.monotonic()
    with pytest.raises(AssertionError, match=rf"exit codes \[({EXIT}|-9), ({EXIT}|-9)\]"):
        run_ranks(sleep_in_the_third_batch, earth, tmp_path)
    assert time.monotonic() - begun < 50
    said = capfd.readouterr().err
    assert "error: rank 1 on " in said and "in the forward pass of batch 3 since the start; the others wait" in said
    assert "in sleep_in_the_third_batch" not in said  # stacks are in files
    assert "in training_step" in (tmp_path / "asleep" / "hung_rank1.txt").read_text()
    assert "torch/distributed" in (tmp_path / "asleep" / "hung_rank0.txt").read_text()


def test_a_rank_whose_process_is_stopped_is_named_and_does_not_stay_behind(earth, tmp_path):
    process = start(earth, tmp_path, "stopped", *WORDS, "train.log_every=1", "train.global_batch=8")
    log = tmp_path / "stopped" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.is_file() and len(log.read_text().splitlines()) > 2):
        time.sleep(0.1)
    (child,) = (int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    os.kill(child, signal.SIGSTOP)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == EXIT, output
    assert "error: rank 1 on " in output and "the process no longer runs, though it has not ended" in output
    assert "add resume=auto to go on" in output
    deadline = time.monotonic() + 10
    while (left := Path(f"/proc/{child}")).exists() and time.monotonic() < deadline:  # until init has seen it
        time.sleep(0.1)
    assert not left.exists()
    assert json.loads(log.read_text().splitlines()[-1])["step"] < 500
