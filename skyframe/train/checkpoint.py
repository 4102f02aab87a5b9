"""Checkpoints: written aside, synced, renamed, and only then named by LATEST; a kill leaves a good one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from skyframe.data.datamodule import CubeDataModule
from skyframe.spec import InputError

CHECKPOINT_FORMAT = 1
LATEST = "LATEST"


class Checkpoints(pl.Callback):
    """Saves every `every` optimizer steps and at the end; keeps the newest `keep`. Stands last among the callbacks."""

    def __init__(self, folder: Path, every: int, keep: int) -> None:
        self.folder, self.every, self.keep = folder, every, keep
        self.saved_step = -1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch as consumed, then save where a step is due."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, CubeDataModule)
        datamodule.consumed += 1
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps
        if due and step != self.saved_step and datamodule.consumed == step * datamodule.recipe.train.micro_steps:
            self.saved_step = step
            save(trainer, self.folder, step, self.keep)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stamp the format, so that a later version is refused in one sentence."""
        checkpoint["skyframe_format"] = CHECKPOINT_FORMAT

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """The step that was saved need not be saved again."""
        self.saved_step = int(checkpoint["global_step"])


def save(trainer: pl.Trainer, folder: Path, step: int, keep: int) -> None:
    """Write `step_<n>.ckpt` atomically and point LATEST at it. All ranks call it; rank 0 writes."""
    final = folder / f"step_{step:08d}.ckpt"
    aside = final.with_suffix(".tmp")
    if trainer.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("*.tmp"):  # of a save that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    trainer.strategy.barrier()
    trainer.save_checkpoint(aside, weights_only=False)
    if trainer.is_global_zero:
        _sync(aside)
        os.replace(aside, final)
        pointer = folder / f"{LATEST}.tmp"
        pointer.write_text(final.name)
        _sync(pointer)
        os.replace(pointer, folder / LATEST)
        _sync(folder)
        for old in sorted(folder.glob("step_*.ckpt"))[:-keep]:
            old.unlink()
    trainer.strategy.barrier()


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, None where there is none; LATEST alone is trusted.

    Raises:
        InputError: LATEST names a file that is not there.
    """
    pointer = folder / LATEST
    if not pointer.is_file():
        return None
    path = folder / pointer.read_text().strip()
    if not path.is_file():
        raise InputError(
            f"{pointer}: names {path.name}, which is not in {folder}; restore the file or delete LATEST to start anew"
        )
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint and check its format.

    Raises:
        InputError: unreadable, not ours, or of a later format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(
            f"{path}: not a readable checkpoint ({type(error).__name__}); choose another step_*.ckpt"
        ) from error
    except Exception as error:  # torch raises pickle errors of several kinds for damaged files
        raise InputError(
            f"{path}: not a readable checkpoint ({type(error).__name__}); choose another step_*.ckpt"
        ) from error
    found = state.get("skyframe_format") if isinstance(state, dict) else None
    if found != CHECKPOINT_FORMAT:
        raise InputError(
            f"{path}: checkpoint format {found!r}, expected {CHECKPOINT_FORMAT}; upgrade skyframe-eo or train the "
            "run again"
        )
    return dict(state)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
