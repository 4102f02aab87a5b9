"""What one rank holds of a run's tensors under any strategy: flat ranges, to be written or filled in place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from skyframe import dist

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's states that have a parameter's shape."""


@dataclass(frozen=True)
class Shard:
    """A flat range of a named tensor."""

    name: str  # model/<key of the state dict> or <moment>/<parameter>
    shape: tuple[int, ...]  # of the whole tensor
    start: int  # first element, in the tensor's flat order
    values: Tensor  # [elements], where they lie on this rank: writing here changes the run
    kind: Literal["replica", "part", "copy"]  # every rank holds it all | this rank alone | a second place of another


def to_write(module: nn.Module, optimizer: Any) -> list[Shard]:
    """What this rank writes: its own parts, and an even share of what every rank holds."""
    shards = list(held(module, optimizer))
    replicas = [s for s in shards if s.kind == "replica"]
    total, world = sum(s.values.numel() for s in replicas), dist.world_size()
    first, last = (total * (dist.rank() + i) // world for i in (0, 1))
    mine = [s for s in shards if s.kind == "part"]
    before = 0
    for s in replicas:
        low, high = max(0, first - before), min(s.values.numel(), last - before)
        before += s.values.numel()
        if low < high or (s.values.numel() == 0 and dist.rank() == 0):
            mine.append(Shard(s.name, s.shape, low, s.values[low:high], "part"))
    return mine


def aliases(module: nn.Module) -> dict[str, str]:
    """Keys of the state dict whose tensor another, earlier key holds already."""
    first: dict[int, str] = {}
    return {k: name for k, v in module.state_dict(keep_vars=True).items() if (name := first.setdefault(id(v), k)) != k}


def held(module: nn.Module, optimizer: Any) -> Iterator[Shard]:
    """Every range that this rank holds, parameters and buffers first, then AdamW's moments.

    Args:
        module: the LightningModule; under ZeRO its parameters carry DeepSpeed's marks.
        optimizer: AdamW, or the ZeRO optimizer around it.
    """
    doubled = aliases(module)
    tensors = {k: v for k, v in module.state_dict(keep_vars=True).items() if k not in doubled}
    trained = {id(p) for p in module.parameters() if p.requires_grad}
    for name, tensor in tensors.items():
        yield from _of_tensor(f"model/{name}", tensor, id(tensor) in trained)
    for moment in MOMENTS:
        for name, p in module.named_parameters():
            if p.requires_grad:
                yield from _of_moment(moment, name, p, optimizer)


def create_moments(optimizer: Any, names: set[str], module: nn.Module) -> None:
    """Make AdamW's states, zeros until they are filled; of plain AdamW only for parameters that `names` knows."""
    inner = optimizer.optimizer if _is_zero(optimizer) else optimizer
    known = {id(p) for n, p in module.named_parameters() if f"{MOMENTS[0]}/{n}" in names}
    for group in _flat_groups(optimizer):
        for p, options in group:
            if (_is_zero(optimizer) or id(p) in known) and not inner.state[p]:
                on = p.device if options.get("fused") or options.get("capturable") else "cpu"
                inner.state[p] = {"step": torch.zeros((), device=on), **{m: torch.zeros_like(p) for m in MOMENTS}}


def steps_taken(optimizer: Any) -> int:
    """AdamW's own count, the same for every parameter that was ever stepped; 0 before the first step."""
    inner = optimizer.optimizer if _is_zero(optimizer) else optimizer
    counts = {int(state["step"]) for state in inner.state.values() if "step" in state}
    if len(counts) > 1:
        raise ValueError(f"optimizer: parameters were stepped {sorted(counts)} times, expected one count")
    return counts.pop() if counts else 0


def set_steps(optimizer: Any, count: int) -> None:
    """Set AdamW's own count everywhere."""
    inner = optimizer.optimizer if _is_zero(optimizer) else optimizer
    for state in inner.state.values():
        state["step"].fill_(count)


def _of_tensor(name: str, tensor: Tensor, trained: bool) -> Iterator[Shard]:
    if hasattr(tensor, "ds_id"):
        yield from _of_partitioned(name, tensor, trained)
        return
    shape, flat = tuple(tensor.shape), tensor.data.view(-1)
    mapping = getattr(tensor, "_hp_mapping", None)
    partitioned = trained and hasattr(tensor, "_hp_mapping")
    yield Shard(name, shape, 0, flat, "copy" if partitioned else "replica")
    if partitioned and mapping is not None:
        yield Shard(name, shape, mapping.lp_fragment_address.start, mapping.get_hp_fragment().data, "part")


def _of_partitioned(name: str, p: Any, trained: bool) -> Iterator[Shard]:
    """Stage 3: every rank holds an equal part, the last one's end is padding."""
    shape, start, size = tuple(p.ds_shape), *_range(p)
    here = p.ds_tensor.data.view(-1)[:size]
    if dist.is_whole(p):
        yield Shard(name, shape, 0, p.data.view(-1), "copy")
    if not trained:
        if size:
            yield Shard(name, shape, start, here, "part")
        return
    master = p._z3_optimizer._get_fp32_opt_state_partition(p, False)[0].data[:size]
    if size:
        yield Shard(name, shape, start, master, "part")
        if master.data_ptr() != here.data_ptr():
            yield Shard(name, shape, start, here, "copy")


def _of_moment(moment: str, name: str, p: Any, optimizer: Any) -> Iterator[Shard]:
    key = f"{moment}/{name}"
    if hasattr(p, "ds_id"):
        start, size = _range(p)
        if size and any(p._z3_optimizer.optimizer.state.values()):
            values = p._z3_optimizer._get_fp32_opt_state_partition(p, False, moment)[0].data[:size]
            yield Shard(key, tuple(p.ds_shape), start, values, "part")
    elif hasattr(p, "_hp_mapping"):
        mapping = p._hp_mapping
        if mapping is None:  # nothing of it on this rank
            return
        # Not DeepSpeed's own views of the states: of several groups it links those of the first alone.
        flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
        if optimizer.optimizer.state[flat]:
            at = mapping.hp_fragment_address
            values = optimizer.optimizer.state[flat][moment].narrow(0, at.start, at.numel)
            yield Shard(key, tuple(p.shape), mapping.lp_fragment_address.start, values, "part")
    elif moment in optimizer.state.get(p, {}):
        yield Shard(key, tuple(p.shape), 0, optimizer.state[p][moment].view(-1), "replica")


def _range(p: Any) -> tuple[int, int]:
    """First element and number of elements of this rank's part, without padding."""
    part = p.partition_numel()
    start = min(part * dist.rank(), p.ds_numel)
    return start, min(part, p.ds_numel - start)


def _is_zero(optimizer: Any) -> bool:
    return hasattr(optimizer, "single_partition_of_fp32_groups") or hasattr(optimizer, "fp32_partitioned_groups_flat")


def _flat_groups(optimizer: Any) -> list[list[tuple[Tensor, dict[str, Any]]]]:
    """Tensors that AdamW steps, with the options of their group."""
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):  # stage 3: sub-groups of at most 10^9 elements
        options = optimizer.optimizer.param_groups[0]
        return [[(p, options) for p in optimizer.fp32_partitioned_groups_flat]]
    inner = optimizer.optimizer if _is_zero(optimizer) else optimizer
    return [[(p, group) for p in group["params"]] for group in inner.param_groups]
