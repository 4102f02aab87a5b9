"""How often a run was started again, from where and why: `restarts.jsonl`, a line each."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skyframe.train.node_facts import node_name

FILE = "restarts.jsonl"
LEFT = "left.json"
"""Why the run was left before its end; gone once it goes on."""

UNKNOWN = "ended without a word: an error, a kill or a lost node"


def note_left(run: Path, why: str, step: int) -> None:
    """Keep why a run ends before its last step, for the line of its next start."""
    (run / LEFT).write_text(json.dumps({"at": _now(), "why": why, "step": step}) + "\n")


def note_restart(run: Path, step: int) -> None:
    """Count one more start of a run that had begun before; rank 0 calls it.

    Args:
        run: its folder.
        step: of the newest checkpoint, 0 where there is none.
    """
    left = run / LEFT
    why = json.loads(left.read_text())["why"] if left.is_file() else UNKNOWN
    line = {"at": _now(), "why": why, "step": step, "job": os.environ.get("SLURM_JOB_ID"), "host": node_name()}
    with (run / FILE).open("a") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())
    left.unlink(missing_ok=True)


def read_restarts(run: Path) -> list[dict[str, Any]]:
    """Lines of `restarts.jsonl`; one that a kill cut off is left out."""
    lines = []
    path = run / FILE
    for text in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
