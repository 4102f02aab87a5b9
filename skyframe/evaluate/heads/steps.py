"""How long a head trains, at what rate, and the file that lets it go on."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from skyframe.config.heads import HeadTraining
from skyframe.spec import InputError


@dataclass(frozen=True)
class Steps:
    """Optimizer steps and epochs, the last of which may be cut short."""

    total: int
    per_epoch: int
    frozen_epochs: int  # of `frozen_first`

    @property
    def epochs(self) -> int:
        """Epochs begun."""
        return -(-self.total // self.per_epoch)

    @staticmethod
    def of(num_items: int, config: HeadTraining, name: str) -> Steps:
        """Of a training part.

        Raises:
            InputError: nothing to train on.
        """
        if num_items == 0:
            raise InputError(f"{name}: no training item, expected some; a head cannot be trained without")
        per_epoch = -(-num_items // config.batch)
        total = config.iterations or config.epochs * per_epoch
        epochs = -(-total // per_epoch)
        frozen = math.ceil(config.frozen_share * epochs) if config.encoder == "frozen_first" else 0
        return Steps(total, per_epoch, frozen)


def rate(config: HeadTraining, step: int, total: int) -> float:
    """Share of the learning rate at a step, counted from 0.

    A linear rise over the first `warmup` of the run; then `constant` and `plateau` stay, `cosine` falls along half a
    wave to 0, `poly` along a line to 0, and `multistep` to a tenth at each milestone.
    """
    ramp = round(config.warmup * total)
    if step < ramp:
        return (step + 1) / ramp
    share = (step - ramp) / max(1, total - ramp)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    if config.schedule == "poly":
        return 1 - share
    if config.schedule == "multistep":
        return float(0.1 ** sum(step >= m * total for m in config.milestones))
    return 1.0


def plateau(fall: float, waited: int, better: bool, rule: tuple[float, int, int]) -> tuple[float, int]:
    """What is left of the rate after an epoch.

    Args:
        fall: share of the rate so far.
        waited: epochs without a better score; below 0 while at rest after a fall.
        better: this epoch scores best so far.
        rule: factor of a fall, epochs without a better score that are borne, epochs of rest after a fall.

    Returns:
        `fall` and `waited` for the next epoch.
    """
    factor, patience, rest = rule
    waited = min(waited + 1, 0) if better or waited < 0 else waited + 1
    return (fall * factor, -rest) if waited > patience else (fall, waited)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Keep a training's state; a reader finds the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.stem}.{os.getpid()}.partial")
    torch.save(state, aside)
    os.replace(aside, path)


def read_state(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The kept state, None without one.

    Raises:
        InputError: it cannot be read.
    """
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torn bytes make the reader fail in any way
        short = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: a head's state cannot be read ({short}); delete the file and train again") from error
    return found
