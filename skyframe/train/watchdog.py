"""Ends a run in which a rank stands still, and says which: the others would wait for it in a collective for hours."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from torch.distributed.distributed_c10d import _get_default_store

from skyframe import dist
from skyframe.train.signals import EXIT

PHASES = (
    "before the first batch",
    "in the forward pass",
    "in the backward pass",
    "in the optimizer step",
    "past the step",
)
"""What a rank does with each batch, in order; past the step it logs, saves and waits for the next batch."""

BEATS = 4
"""Looks at the others before one whose beat is the same is taken for stopped."""

INSIDE = 12
"""Innermost frames that are searched for a collective."""


@dataclass
class State:
    """What a rank tells the others about itself."""

    host: str
    beat: int  # counts up while the process runs at all
    batch: int  # passes begun
    phase: int  # of PHASES
    waits: bool  # its main thread is inside a collective
    still_s: float  # since it came there


class Watchdog(pl.Callback):
    """Watches from a thread of its own, through the store that the ranks met at, from the first batch's end on.

    Stands first among the callbacks. A rank that comes no further for `limit_s` writes where it stands to
    `hung_rank<r>.txt`, the first of those that are alive names the ones that all wait for, and the process ends.
    """

    def __init__(self, run: Path, limit_s: float) -> None:
        """Nothing is watched yet.

        Args:
            run: the run's folder.
            limit_s: the longest that a pass, a save or the wait for a batch may take; 0 = no limit.
        """
        self.run, self.limit_s = run, limit_s
        self.pause_s = min(10.0, limit_s / 10)  # between beats
        self.batch = self.phase = 0
        self.since = time.monotonic()
        self.resting = False
        self.main = threading.get_ident()
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None
        self.launcher: Any = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A batch is here."""
        self._at(1)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Any) -> None:
        """The loss is known."""
        self._at(2)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Gradients are known."""
        self._at(3)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The pass is over; with the first one the watch begins, as a start may compile for minutes."""
        self._at(4)
        if self.limit_s and self.thread is None and dist.active():
            self.main, self.launcher = threading.get_ident(), trainer.strategy.launcher
            self.thread = threading.Thread(target=self._watch, name="skyframe-watchdog", daemon=True)
            self.thread.start()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The run is over, well or with an error of its own."""
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """An error of this rank ends the process by itself."""
        self._stop()

    def _stop(self) -> None:
        self.ended.set()
        if self.thread is not None:  # which uses the store that is taken down next
            self.thread.join()
            self.thread = None

    @contextmanager
    def rest(self) -> Iterator[None]:
        """Inside, this rank may take as long as it likes."""
        self.resting = True
        try:
            yield
        finally:
            self.since, self.resting = time.monotonic(), False

    def _at(self, phase: int) -> None:
        self.batch += phase == 1
        self.phase, self.since = phase, time.monotonic()

    def _watch(self) -> None:
        default: Any = _get_default_store()
        store = default.clone()  # a connection of its own: on the main thread's a wait would hold it up
        beat, before, seen = 0, time.monotonic(), list[dict[int, State]]()
        while not self.ended.wait(self.pause_s):
            now = time.monotonic()
            if now - before > 5 * self.pause_s:  # the whole process was stopped, as by a debugger or `scontrol suspend`
                self.since += now - before
            if self.resting:
                self.since = now
            before, beat = now, beat + 1
            mine = State(socket.gethostname(), beat, self.batch, self.phase, self._waits(), now - self.since)
            is_late = mine.still_s > self.limit_s
            try:
                store.set(_key(dist.rank()), json.dumps(asdict(mine)))
                seen = [*seen, _states(store)] if is_late else []
            except Exception as error:  # whatever the store's kind raises
                if is_late:
                    self._end(
                        f"rank {dist.rank()}: no further for {mine.still_s:.0f} s, and the store is gone ({error})"
                    )
            if len(seen) == 1:
                with (self.run / f"hung_rank{dist.rank()}.txt").open("w") as file:
                    faulthandler.dump_traceback(file, all_threads=True)
            if len(seen) == BEATS:
                self._judge(seen[0], seen[-1])

    def _waits(self) -> bool:
        frame: FrameType | None = sys._current_frames().get(self.main)
        for _ in range(INSIDE):
            if frame is None:
                return False
            name = frame.f_code.co_filename
            if f"torch{os.sep}distributed{os.sep}" in name or f"deepspeed{os.sep}comm{os.sep}" in name:
                return True
            frame = frame.f_back
        return False

    def _judge(self, first: dict[int, State], last: dict[int, State]) -> None:
        """End the run; the first rank that is alive says why."""
        alive = [r for r, s in last.items() if r not in first or s.beat > first[r].beat]
        if dist.rank() == min(alive):
            said = blame(last, alive, dist.world_size())
            self._end(f"{said}; where each rank stood is in {self.run}/hung_rank*.txt, add resume=auto to go on")
        time.sleep(2 * self.pause_s)  # lest a launcher ends all before that is said
        os._exit(EXIT)

    def _end(self, sentence: str) -> None:
        console = Console(stderr=True, soft_wrap=True)
        console.show_cursor()
        console.print(f"error: {sentence}", markup=False)
        sys.stderr.flush()
        if hasattr(self.launcher, "kill"):  # it started the others, and one that is stopped hears nothing else
            self.launcher.kill(signal.SIGKILL)
        os._exit(EXIT)


def _key(rank: int) -> str:
    return f"skyframe/watchdog/{rank}"


def _states(store: Any) -> dict[int, State]:
    keys = {rank: _key(rank) for rank in range(dist.world_size())}
    return {rank: State(**json.loads(store.get(key))) for rank, key in keys.items() if store.check([key])}


def blame(states: dict[int, State], alive: list[int], world: int) -> str:
    """Which ranks the others wait for, in words.

    Ranks whose process does not run come first; then those that are furthest behind; among ranks at the same place
    those that are not inside a collective.

    Args:
        states: the newest of each rank that ever told one.
        alive: ranks whose beat went on.
        world: number of ranks.
    """
    gone = [r for r in range(world) if r not in alive]
    if gone:
        where = ", ".join(f"rank {r} on {states[r].host}" if r in states else f"rank {r}" for r in gone)
        return f"{where}: the process no longer runs, though it has not ended; the others wait for it"
    least = min((s.batch, s.phase) for s in states.values())
    behind = {r: s for r, s in states.items() if (s.batch, s.phase) == least}
    if any(not s.waits for s in behind.values()):
        behind = {r: s for r, s in behind.items() if not s.waits}
    where = ", ".join(f"rank {r} on {s.host}" for r, s in behind.items())
    doing = f"{PHASES[least[1]]} of batch {least[0]} since the start"
    if least[1] == len(PHASES) - 1:
        doing += ", saving or waiting for the next batch"
    others = "all stand there" if len(behind) == world else "the others wait"
    return f"{where}: no further for {min(s.still_s for s in behind.values()):.0f} s, {doing}; {others}"
