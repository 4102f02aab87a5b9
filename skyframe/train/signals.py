"""How a run hears that it must make room: a signal leaves a mark, and what follows happens between two steps.

Torch-free, so that a run listens before its heavy imports.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT = 75
"""Exit code of a run that stopped where it may go on: the operating system's word for "try again"."""


class Left(Exception):
    """The run was saved and ended before its last step, as a signal said; the message tells a user what now."""


class Told:
    """A signal handler that does no more than set a mark.

    A reader process that was forked from a rank has the same handler: what a launcher sends to all processes of a job
    is none of its business, as the run still needs it to reach the end of the step. Hence it ignores all but a second
    SIGTERM, by which its own parent ends it.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.number = 0  # of the signal that came, 0 = none
        self.ignored_term = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Set the mark."""
        is_term = number == signal.SIGTERM
        if os.getpid() == self.pid:
            self.number = number
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
