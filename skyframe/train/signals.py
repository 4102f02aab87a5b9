"""How a run hears that it must make room: a signal leaves a mark, and what follows happens between two steps.

Torch-free, so that a run listens before its heavy imports.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT = 75
"""Exit code of a run that stopped where it may go on: the operating system's word for "try again"."""

LEAVE, MAKE_ROOM = 1, 2
"""What a run was told: to end (SIGTERM: who sends it starts the job again, or wants it gone), or to queue again."""

PATIENCE_S = 30.0
"""For an answer of SLURM's controller."""


class Left(Exception):
    """The run was saved and ended before its last step, as a signal said; the message tells a user what now."""

    def __init__(self, sentence: str, code: int) -> None:
        """Say what was saved, and the exit code of the process.

        Args:
            sentence: for the user.
            code: 0 where SLURM starts the job again, EXIT where somebody else must.
        """
        super().__init__(sentence)
        self.code = code


class Told:
    """A signal handler that does no more than set a mark.

    A reader process that was forked from a rank has the same handler: what a launcher sends to all processes of a job
    is none of its business, as the run still needs it to reach the end of the step. Hence it ignores all but a second
    SIGTERM, by which its own parent ends it.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.word = 0  # 0 nothing, LEAVE, or MAKE_ROOM
        self.ignored_term = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Set the mark."""
        is_term = number == signal.SIGTERM
        if os.getpid() == self.pid:
            self.word = max(self.word, LEAVE if is_term else MAKE_ROOM)
        elif is_term and self.ignored_term:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        else:
            self.ignored_term = is_term or self.ignored_term

    def hold_term(self) -> None:
        """From now on SIGTERM is a mark as well: there is something to save."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self)


@contextmanager
def listening(name: str) -> Iterator[Told]:
    """Inside, a signal leaves a mark instead of ending the process; within another one it is the same.

    Args:
        name: the signal's, such as `SIGUSR2`.
    """
    number = signal.Signals[name]
    before = {n: signal.getsignal(n) for n in (number, signal.SIGTERM)}
    outer = before[number]
    if isinstance(outer, Told):
        yield outer
        return
    told = Told()
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield told
        return
    signal.signal(number, told)
    try:
        yield told
    finally:
        for n, handler in before.items():
            signal.signal(n, signal.SIG_DFL if handler is None else handler)


def node_name() -> str:
    """This machine, as SLURM calls it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def job_id() -> str | None:
    """This job as `scontrol` wants it named, None outside of SLURM.

    The number alone would be the whole array where an element has the array's own number.
    """
    array, element = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{element}" if array and element else os.environ.get("SLURM_JOB_ID")


def cannot_requeue() -> str:
    """Why this process could not put its SLURM job back into the queue; empty where it can, or outside of SLURM."""
    if job_id() is None or shutil.which("scontrol"):
        return ""
    return (
        "scontrol is not on PATH here, expected SLURM's command (a container must have it mounted), so the run cannot "
        f"put its own job back into the queue: it will save and end with code {EXIT}, for the batch script to do it"
    )


def requeue(job: str) -> str:
    """Put a job back into the queue; SLURM ends its processes then.

    Returns:
        Why it was not possible, empty where it was.
    """
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
    except FileNotFoundError:
        return cannot_requeue()
    except subprocess.TimeoutExpired:
        return f"scontrol requeue {job}: no answer within {PATIENCE_S:.0f} s"
    return "" if done.returncode == 0 else f"scontrol requeue {job}: {' '.join(done.stderr.split())}"
