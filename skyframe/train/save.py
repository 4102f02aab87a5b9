"""One checkpoint on its way to the disk: copied at once, written by a thread of each rank, finished by all together."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from skyframe import dist
from skyframe.spec import InputError
from skyframe.train.shards import Shard, aliases, steps_taken, to_write
from skyframe.train.store import Pieces, snapshot, write_index, write_rank


class Save:
    """Begun by all ranks between two steps; training may go on before it is finished.

    The thread writes and calls no collective: those belong to the main thread, whose order all ranks share.
    """

    def __init__(
        self, folder: Path, module: nn.Module, optimizer: Any, state: Mapping[str, Any], strategy: str
    ) -> None:
        """Copy what this rank holds, and begin to write it.

        Args:
            folder: new, not yet the checkpoint's final name.
            module: the LightningModule.
            optimizer: AdamW, or the ZeRO optimizer around it.
            state: what Lightning keeps of loops, callbacks, data and schedule.
            strategy: for whoever looks in.
        """
        self.folder = folder
        self._about = {"step": int(state["global_step"]), "world_size": dist.world_size(), "strategy": strategy}
        self._state = copy.deepcopy({k: v for k, v in state.items() if k not in ("state_dict", "optimizer_states")})
        self._state["optimizer"] = {"step": steps_taken(optimizer), "lr": [g["lr"] for g in optimizer.param_groups]}
        self._aliases = aliases(module)
        self._pieces: Pieces = []
        self._failed = ""
        shards = snapshot([*to_write(module, optimizer), *random_state()])
        self._thread = threading.Thread(target=self._write, args=(shards,), name="skyframe-save", daemon=True)
        self._thread.start()

    def is_written(self) -> bool:
        """Whether this rank's thread is done, well or not."""
        return not self._thread.is_alive()

    def finish(self) -> None:
        """Write the index of all ranks' files; all ranks call it, and fail together where one could not write.

        Raises:
            InputError: a rank's disk is full or its folder cannot be written.
        """
        self._thread.join()
        found = dist.all_objects((self._pieces, self._failed))
        failed = self._failed
        if dist.rank() == 0 and not any(f for _, f in found):
            try:
                write_index(self.folder, [p for p, _ in found], self._state, self._aliases, self._about)
            except OSError as error:
                failed = f"rank 0: {error}"
        reasons = [f for f in dist.all_objects(failed) if f]
        if reasons:
            raise InputError(
                f"{self.folder}: the checkpoint could not be written ({reasons[0]}); free space there and continue "
                "with resume=auto from the one before"
            )

    def _write(self, shards: list[Shard]) -> None:
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True, exist_ok=True)
            self._pieces = write_rank(self.folder, dist.rank(), shards)
        except (OSError, SafetensorError) as error:
            self._failed = f"rank {dist.rank()}: {error}"


def random_state() -> list[Shard]:
    """torch's global generators on this rank."""
    states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])
    return [Shard(f"random/{dist.rank()}/{i}", tuple(s.shape), 0, s, "part") for i, s in enumerate(states)]
