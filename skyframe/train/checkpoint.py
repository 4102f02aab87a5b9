"""Checkpoints: written aside, synced, renamed, and only then named by LATEST; a kill leaves a good one."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from skyframe import dist
from skyframe.config.recipe import TrainConfig
from skyframe.data.datamodule import CubeDataModule
from skyframe.data.write import sync
from skyframe.spec import InputError
from skyframe.train.save import Save, random_state
from skyframe.train.shards import create_moments, held, set_steps
from skyframe.train.store import Reader

LATEST = "LATEST"
ASIDE = ".tmp"


class Checkpoints(pl.Callback):
    """Saves every so many optimizer steps and at the end. Stands after all callbacks with a state.

    With `async_save` a rank copies what it holds, goes on training, and writes meanwhile; a checkpoint is LATEST when
    it is whole.
    """

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        """Nothing is saved yet.

        Args:
            folder: of all checkpoints.
            config: how often, how many stay, and whether training waits.
        """
        self.folder, self.config = folder, config
        self.saved_step = 0
        self.save: Save | None = None  # under way

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch as consumed, then save where a step is due."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, CubeDataModule)
        datamodule.consumed += 1
        if self.save is not None and not dist.all_max(
            torch.tensor(not self.save.is_written(), dtype=torch.int32, device=pl_module.device)
        ):
            self.settle(trainer)
        step, is_last = trainer.global_step, trainer.global_step == trainer.max_steps
        whole = datamodule.consumed == (step + datamodule.skipped) * datamodule.recipe.train.micro_steps
        if (step % self.config.checkpoint_every == 0 or is_last) and step != self.saved_step and whole:
            self.settle(trainer)
            self._begin(trainer, step)
            if is_last or not self.config.async_save:
                self.settle(trainer)

    def save_now(self, trainer: pl.Trainer) -> None:
        """Have this step saved and named by LATEST before going on; after a batch that ended a step, on all ranks."""
        self.settle(trainer)
        if trainer.global_step != self.saved_step:
            self._begin(trainer, trainer.global_step)
            self.settle(trainer)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """The step that was saved need not be saved again."""
        self.saved_step = int(checkpoint["global_step"])

    def _begin(self, trainer: pl.Trainer, step: int) -> None:
        """Copy what each rank holds, and have it written under a temporary name."""
        final = self._at(step)
        aside = final.with_suffix(ASIDE)
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(f"*{ASIDE}"):  # of a save or a removal that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            if final.exists():  # saved before, and then gone on from an older one
                _remove(final)
            with contextlib.suppress(OSError):  # which all ranks will meet, and tell together
                aside.mkdir()  # by one: those who make the same folder at once wait for each other
        trainer.strategy.barrier()
        trainer.save_checkpoint(aside, weights_only=False)
        self.save, self.saved_step = trainer.strategy.save, step  # type: ignore[attr-defined]

    def settle(self, trainer: pl.Trainer) -> None:
        """Wait for a save that is under way, give it its name, and point LATEST at it; all ranks call it."""
        if self.save is None:
            return
        save, self.save = self.save, None
        save.finish()
        if trainer.is_global_zero:
            final = self._at(self.saved_step)
            sync(save.folder)
            os.replace(save.folder, final)
            sync(self.folder)
            _point(self.folder, final)
            for old in kept(self.folder)[: -self.config.keep_checkpoints]:
                if not self.config.keep_every or step_of(old) % self.config.keep_every:
                    _remove(old)
        trainer.strategy.barrier()

    def _at(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}"


def kept_before(folder: Path, step: int) -> Path | None:
    """The newest checkpoint of an earlier step, None where there is none; all ranks call it.

    Rank 0 looks for all, as a file system that they share may show them different moments.
    """
    found = [p for p in kept(folder) if step_of(p) < step] if dist.rank() == 0 else []
    newest: Path | None = dist.all_objects(max(found, default=None))[0]
    return newest


def go_back_to(folder: Path, checkpoint: Path) -> None:
    """Make an older checkpoint LATEST and take the newer ones away; rank 0 does it, all may call."""
    if dist.rank() == 0:
        _point(folder, checkpoint)
        for newer in (p for p in kept(folder) if p.name > checkpoint.name):
            _remove(newer)


def step_of(checkpoint: Path) -> int:
    """The optimizer step that a checkpoint is of, by its name."""
    return int(checkpoint.name.removeprefix("step_"))


def kept(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step_*") if p.suffix != ASIDE)


def _point(folder: Path, checkpoint: Path) -> None:
    """Let LATEST name a checkpoint."""
    pointer = folder / f"{LATEST}{ASIDE}"
    pointer.write_text(checkpoint.name)
    sync(pointer)
    os.replace(pointer, folder / LATEST)
    sync(folder)


def load_tensors(reader: Reader, module: nn.Module, optimizer: Any) -> None:
    """Fill parameters, buffers and optimizer states in place; every rank reads the ranges that it holds."""
    create_moments(optimizer, set(reader.tensors), module)
    kept = reader.state()["optimizer"]
    set_steps(optimizer, kept["step"])
    for group, lr in zip(optimizer.param_groups, kept["lr"], strict=True):
        group["lr"] = lr
    random = random_state()
    with torch.no_grad():
        reader.fill(held(module, optimizer))
        if all(s.name in reader.tensors for s in random):  # as many ranks as before; nothing of ours draws from it
            reader.fill(random)
            torch.set_rng_state(random[0].values)
            if torch.cuda.is_available():
                torch.cuda.set_rng_state(random[1].values)


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, None where there is none; LATEST alone is trusted.

    Raises:
        InputError: LATEST names a checkpoint that is not there.
    """
    pointer = folder / LATEST
    if not pointer.is_file():
        return None
    path = folder / pointer.read_text().strip()
    if not path.exists():
        raise InputError(
            f"{pointer}: names {path.name}, which is not in {folder}; restore it or delete LATEST to start anew"
        )
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of any number of ranks and any strategy as one: state, and `state_dict` with whole tensors.

    Raises:
        InputError: unreadable, not ours, of another format, or damaged.
    """
    reader = Reader(path)
    return reader.state() | {"state_dict": reader.state_dict()}


def _remove(folder: Path) -> None:
    """Take a checkpoint away under another name first, so that no half of it is ever found under its own."""
    aside = folder.with_suffix(ASIDE)
    os.replace(folder, aside)
    shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
