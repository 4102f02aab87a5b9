"""What real ranks send in one optimizer step of `pretrain`, collective by collective; imports Lightning when asked."""

import dataclasses
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as td
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.system.batches import nano_recipe

KINDS = {
    "allreduce_": "all_reduce",
    "allgather_": "all_gather",
    "_allgather_base_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "broadcast_": "broadcast",
}
"""Collectives as c10d's operators call them; another one is a KeyError."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One collective: bytes of the whole result, of the whole input where it is scattered."""

    ours: bool  # through skyframe.dist: losses, centres, bank, guards
    kind: str
    bytes: int


@dataclasses.dataclass
class Found:
    """What one rank sent in one optimizer step, and the regions of the samples that it saw there."""

    calls: list[Call] = dataclasses.field(default_factory=list)
    regions: set[int] = dataclasses.field(default_factory=set)


class Counter(TorchDispatchMode):
    """Writes down every collective of this rank, Python's as DDP's own from C++."""

    def __init__(self, found: Found) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            kind = KINDS[func._schema.name.partition("::")[2]]
            results, given = (sum(t.nbytes for t in tree_leaves(a) if isinstance(t, Tensor)) for a in args[:2])
            self.found.calls.append(Call(_is_ours(), kind, given if kind == "reduce_scatter" else results))
        return func(*args, **(kwargs or {}))


def _is_ours() -> bool:
    frame = sys._getframe(2)
    while frame.f_back is not None:
        if frame.f_code.co_filename.endswith(os.path.join("skyframe", "dist.py")):
            return True
        frame = frame.f_back
    return False


def sent_by_a_step(
    rank: int, world: int, earth: Path, runs: Path, shared: list[str], cells: dict[str, list[str]]
) -> dict[str, Found]:
    """Train every cell to the end of its third optimizer step (its second with micro-steps) and count in that one."""
    from skyframe.train.run import pretrain

    multiprocessing.set_start_method("fork", force=True)
    found = {}
    for name, words in cells.items():
        where = [f"data.cubes=[{earth}/a,{earth}/b]", f"train.run_dir={runs}", f"name={name}", "train.accelerator=cpu"]
        recipe = nano_recipe(*where, f"train.devices={world}", *shared, *words)
        os.environ["WORLD_SIZE"] = str(world)  # Lightning takes it away after each run
        found[name], restore = _watch(recipe.train.micro_steps)
        pretrain(recipe, show=False)
        restore()
        td.barrier()
    return found


def _watch(micro_steps: int) -> tuple[Found, Callable[[], None]]:
    """What the next run will send in one optimizer step, after which it ends, and a function that undoes the watch."""
    from skyframe.train.module import PretrainModule

    found, step, ended = Found(), PretrainModule.training_step, PretrainModule.on_train_batch_end
    counter, first = Counter(found), micro_steps if micro_steps > 1 else 2

    def watched_step(self: Any, batch: Any, batch_idx: int) -> Any:
        if batch_idx >= first:
            found.regions |= set(batch.region.tolist())
        return step(self, batch, batch_idx)

    def end(self: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == first - 1:
            counter.__enter__()
        if batch_idx == first + micro_steps - 1:
            counter.__exit__(None, None, None)
            self.trainer.should_stop = True

    def restore() -> None:
        PretrainModule.training_step, PretrainModule.on_train_batch_end = step, ended

    PretrainModule.training_step, PretrainModule.on_train_batch_end = watched_step, end
    return found, restore
