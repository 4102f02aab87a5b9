"""Collectives that are correct alone: with one process (or no process group) each is the identity."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor


def active() -> bool:
    """Whether a process group with more than one rank is up."""
    return td.is_available() and td.is_initialized() and td.get_world_size() > 1


def is_leader() -> bool:
    """Whether this process speaks for the run before a process group is up: rank 0 by every launcher's environment.

    torchrun, SLURM and Lightning's own launcher set different names, and an inherited one may stand beside a set one.
    """
    names = ("RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK", "LOCAL_RANK")
    return all(int(os.environ.get(name, "0")) == 0 for name in names)


def rank() -> int:
    """This process's rank, 0 when alone."""
    return td.get_rank() if td.is_available() and td.is_initialized() else 0


def world_size() -> int:
    """Number of ranks, 1 when alone."""
    return td.get_world_size() if td.is_available() and td.is_initialized() else 1


def all_sum(values: Tensor) -> Tensor:
    """Sum over ranks, without gradient; a new tensor of the same shape and dtype."""
    out = values.detach().clone()
    if active():
        td.all_reduce(out)
    return out


def all_max(values: Tensor) -> Tensor:
    """Maximum over ranks, without gradient."""
    out = values.detach().clone()
    if active():
        td.all_reduce(out, op=td.ReduceOp.MAX)
    return out


def all_objects(value: Any) -> list[Any]:
    """A picklable value of every rank, in rank order, on every rank."""
    found = [value] * world_size()
    if active():
        td.all_gather_object(found, value)
    return found


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(td.get_world_size())]
        td.all_gather(parts, rows.contiguous())
        ctx.num_rows = rows.shape[0]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        td.all_reduce(total)
        start = td.get_rank() * ctx.num_rows
        return total[start : start + ctx.num_rows]


def gather_rows(rows: Tensor) -> Tensor:
    """Join `[n, ...]` of every rank to `[n * world, ...]` in rank order, with gradient to this rank's rows.

    The gradient is summed over ranks: where every rank computes the same loss from the gathered rows, each rank's
    parameters get `world` times their share, which the strategy's mean over ranks divides out again.
    All ranks must bring the same `n`.
    """
    return _GatherWithGradient.apply(rows) if active() else rows  # type: ignore[no-any-return,no-untyped-call]


@contextmanager
def full_parameters(parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    """Inside, the parameters are whole and may be written on rank 0; an identity outside ZeRO stage 3."""
    partitioned = [p for p in parameters if hasattr(p, "ds_id")]
    if not partitioned:
        yield
        return
    import deepspeed  # only where DeepSpeed has partitioned something; deepspeed.zero is no module to import from

    with deepspeed.zero.GatheredParameters(partitioned, modifier_rank=0):
        yield


def is_whole(parameter: Tensor) -> bool:
    """Whether `parameter.data` holds every element on this rank; under ZeRO stage 3 that of small ones mostly does."""
    return not hasattr(parameter, "ds_id") or bool(parameter.ds_status.name == "AVAILABLE")  # type: ignore[attr-defined]
