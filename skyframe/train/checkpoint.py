"""Checkpoints: written aside, synced, renamed, and only then named by LATEST; a kill leaves a good one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors import SafetensorError
from torch import nn

from skyframe import dist
from skyframe.data.datamodule import CubeDataModule
from skyframe.data.write import sync
from skyframe.spec import InputError
from skyframe.train.shards import Shard, aliases, create_moments, held, set_steps, steps_taken, to_write
from skyframe.train.store import Pieces, Reader, write_index, write_rank

LATEST = "LATEST"
ASIDE = ".tmp"


class Checkpoints(pl.Callback):
    """Saves every `every` optimizer steps and at the end; keeps the newest `keep`. Stands last among the callbacks."""

    def __init__(self, folder: Path, every: int, keep: int) -> None:
        self.folder, self.every, self.keep = folder, every, keep
        self.saved_step = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch as consumed, then save where a step is due."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, CubeDataModule)
        datamodule.consumed += 1
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps
        whole = datamodule.consumed == (step + datamodule.skipped) * datamodule.recipe.train.micro_steps
        if due and step != self.saved_step and whole:
            self.saved_step = step
            save(trainer, self.folder, step, self.keep)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """The step that was saved need not be saved again."""
        self.saved_step = int(checkpoint["global_step"])


def save(trainer: pl.Trainer, folder: Path, step: int, keep: int) -> None:
    """Write `step_<n>/` atomically and point LATEST at it. All ranks call it, and each writes what it holds."""
    final = folder / f"step_{step:08d}"
    aside = final.with_suffix(ASIDE)
    if trainer.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"*{ASIDE}"):  # of a save or a removal that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if final.exists():  # saved before, and then gone on from an older one
            _remove(final)
    trainer.strategy.barrier()
    trainer.save_checkpoint(aside, weights_only=False)
    if trainer.is_global_zero:
        sync(aside)
        os.replace(aside, final)
        sync(folder)
        _point(folder, final)
        for old in _kept(folder)[:-keep]:
            _remove(old)
    trainer.strategy.barrier()


def kept_before(folder: Path, step: int) -> Path | None:
    """The newest checkpoint of an earlier step, None where there is none; all ranks call it.

    Rank 0 looks for all, as a file system that they share may show them different moments.
    """
    found = [p for p in _kept(folder) if int(p.name.removeprefix("step_")) < step] if dist.rank() == 0 else []
    newest: Path | None = dist.all_objects(max(found, default=None))[0]
    return newest


def go_back_to(folder: Path, checkpoint: Path) -> None:
    """Make an older checkpoint LATEST and take the newer ones away; rank 0 does it, all may call."""
    if dist.rank() == 0:
        _point(folder, checkpoint)
        for newer in (p for p in _kept(folder) if p.name > checkpoint.name):
            _remove(newer)


def _kept(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step_*") if p.suffix != ASIDE)


def _point(folder: Path, checkpoint: Path) -> None:
    """Let LATEST name a checkpoint."""
    pointer = folder / f"{LATEST}{ASIDE}"
    pointer.write_text(checkpoint.name)
    sync(pointer)
    os.replace(pointer, folder / LATEST)
    sync(folder)


def write_checkpoint(folder: Path, module: nn.Module, optimizer: Any, state: Mapping[str, Any], strategy: str) -> None:
    """Write a checkpoint into `folder`; all ranks call it, and fail together where one cannot write.

    Args:
        folder: new, not yet the checkpoint's final name.
        module: the LightningModule.
        optimizer: AdamW, or the ZeRO optimizer around it.
        state: what Lightning keeps of loops, callbacks, data and schedule.
        strategy: for whoever looks in.

    Raises:
        InputError: a rank's disk is full or its folder cannot be written.
    """
    pieces: Pieces = []
    failed = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pieces = write_rank(folder, dist.rank(), [*to_write(module, optimizer), *_random_state()])
    except (OSError, SafetensorError) as error:
        failed = f"rank {dist.rank()}: {error}"
    found = dist.all_objects((pieces, failed))
    if dist.rank() == 0 and not any(f for _, f in found):
        kept = {k: v for k, v in state.items() if k not in ("state_dict", "optimizer_states")}
        kept["optimizer"] = {"step": steps_taken(optimizer), "lr": [g["lr"] for g in optimizer.param_groups]}
        about = {"step": int(state["global_step"]), "world_size": dist.world_size(), "strategy": strategy}
        try:
            write_index(folder, [p for p, _ in found], kept, aliases(module), about)
        except OSError as error:
            failed = f"rank 0: {error}"
    reasons = [f for f in dist.all_objects(failed) if f]
    if reasons:
        raise InputError(
            f"{folder}: the checkpoint could not be written ({reasons[0]}); free space there and continue with "
            "resume=auto from the one before"
        )


def load_tensors(reader: Reader, module: nn.Module, optimizer: Any) -> None:
    """Fill parameters, buffers and optimizer states in place; every rank reads the ranges that it holds."""
    create_moments(optimizer, set(reader.tensors), module)
    kept = reader.state()["optimizer"]
    set_steps(optimizer, kept["step"])
    for group, lr in zip(optimizer.param_groups, kept["lr"], strict=True):
        group["lr"] = lr
    random = _random_state()
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


def _random_state() -> list[Shard]:
    """torch's global generators on this rank."""
    states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])
    return [Shard(f"random/{dist.rank()}/{i}", tuple(s.shape), 0, s, "part") for i, s in enumerate(states)]


def _remove(folder: Path) -> None:
    """Take a checkpoint away under another name first, so that no half of it is ever found under its own."""
    aside = folder.with_suffix(ASIDE)
    os.replace(folder, aside)
    shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
