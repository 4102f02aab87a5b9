"""What a process leaves for the script that started it: its exit code, and nodes that must not be used again.

Torch-free. `srun` tells one code for all its processes, the greatest: that of those which it killed because of the one
that had something to say.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from skyframe.spec import InputError

PLACE = "SKYFRAME_VERDICT"
"""Environment variable with the path of the file, which the scripts of `skyframe launch` set."""


class BadNodes(InputError):
    """Some nodes cannot take part; the rest could."""

    def __init__(self, sentence: str, nodes: Sequence[str]) -> None:
        """Say which.

        Args:
            sentence: for the user.
            nodes: names as SLURM has them.
        """
        super().__init__(sentence)
        self.nodes = tuple(nodes)


def leave_verdict(code: int, error: BaseException | None = None) -> None:
    """Write `<code> <node>,<node>`; nothing without a script that waits for it. The first word counts, unless a later
    one names nodes.

    Args:
        code: this process is about to end with.
        error: why; of `BadNodes` the nodes are kept.
    """
    place = os.environ.get(PLACE)
    nodes = error.nodes if isinstance(error, BadNodes) else ()
    if place and (nodes or not Path(place).exists()):
        with suppress(OSError):  # a full disk: the process says on its own log what else is wrong
            Path(place).write_text(f"{code} {','.join(nodes)}\n")
