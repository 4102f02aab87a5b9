"""One micro-step on the meta device: what it would compute, hold and send, counted without computing anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor, nn

from skyframe.train.estimate.cuda_form import CudaForm
from skyframe.train.estimate.gathering import Use, uses_of
from skyframe.train.estimate.ledger import Ledger


@dataclass(frozen=True)
class Sent:
    """One collective of a step: `bytes` is the size of the whole result on a rank."""

    kind: str  # all_reduce, all_gather, reduce_scatter, broadcast
    bytes: int


@contextmanager
def standing_for(num_ranks: int) -> Iterator[list[Sent]]:
    """Inside, `torch.distributed` answers as rank 0 of `num_ranks` and sends nothing; yields what would have been sent.

    The result of a collective has the right shape and no meaning, so only meta tensors belong in here.
    """
    sent: list[Sent] = []

    def reduce(tensor: Tensor, *_: Any, **__: Any) -> None:
        sent.append(Sent("all_reduce", tensor.nbytes))

    def gather(parts: list[Tensor], tensor: Tensor, *_: Any, **__: Any) -> None:
        sent.append(Sent("all_gather", tensor.nbytes * len(parts)))

    stand_ins: Mapping[str, Callable[..., Any]] = {
        "is_initialized": lambda: True,
        "get_world_size": lambda *_: num_ranks,
        "get_rank": lambda *_: 0,
        "all_reduce": reduce,
        "all_gather": gather,
    }
    before = {name: getattr(td, name) for name in stand_ins}
    try:
        for name, function in stand_ins.items():
            setattr(td, name, function)
        yield sent
    finally:
        for name, function in before.items():
            setattr(td, name, function)


@dataclass(frozen=True)
class Rehearsal:
    """What one micro-step of one rank came to."""

    forward_flops: int
    backward_flops: int  # recomputation included
    saved_bytes: int  # held when the forward pass is over, for the backward pass
    peak_bytes: int  # most held at a time beyond parameters, gradients and buffers
    kept_bytes: int  # still held when the backward pass is over: statistics that wait for the optimizer step
    copies_bytes: int  # bf16 copies of fp32 weights that autocast makes, held besides `peak_bytes`
    sent: tuple[Sent, ...]  # by the loss itself, forward and backward
    uses: tuple[Use, ...]  # runs of modules, which is when ZeRO-3 has to make them whole
    sizes: tuple[int, ...]  # elements of every parameter


def rehearse(system: nn.Module, loss: Callable[[], Tensor], bf16: bool, num_ranks: int = 1) -> Rehearsal:
    """Run a loss forward and backward on meta tensors and count.

    Args:
        system: on the meta device; its gradients are made here and taken as held.
        loss: makes the batch and returns the scalar.
        bf16: under autocast to bfloat16, or in float32 throughout.
        num_ranks: ranks that collectives inside the loss see.
    """
    for p in system.parameters():
        p.grad = torch.empty_like(p) if p.requires_grad else None
    known = [*system.parameters(), *system.buffers(), *(p.grad for p in system.parameters() if p.grad is not None)]
    ledger, form = Ledger(known), CudaForm()
    cast: AbstractContextManager[Any] = torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()
    with assumed_whole(), standing_for(num_ranks) as sent, uses_of(system) as uses, ledger:
        with form, cast:
            total = loss()
        copies = sum(copy.nbytes for _, copy in form.copies.values())
        forward, saved = ledger.flops, ledger.held - copies
        with form.where_recomputed(system):
            total.backward()  # type: ignore[no-untyped-call]
        del total
        form.copies.clear()
        return Rehearsal(
            forward_flops=forward,
            backward_flops=ledger.flops - forward,
            saved_bytes=saved,
            peak_bytes=ledger.peak - copies,
            kept_bytes=ledger.held,
            copies_bytes=copies,
            sent=tuple(sent),
            uses=tuple(uses),
            sizes=tuple(p.numel() for p in system.parameters()),
        )


def assumed_whole() -> AbstractContextManager[Any]:
    """Inside, every flag of a meta tensor counts as set: all pixels, dates and modalities are there."""
    from torch.fx.experimental import _config

    made: AbstractContextManager[Any] = _config.patch(meta_nonzero_assume_all_nonzero=True)  # type: ignore[attr-defined]
    return made


def wire_bytes(sent: Sent, num_ranks: int) -> int:
    """Bytes that leave each rank in a ring: the whole, for a reduction twice, less its own share."""
    turns = 2 if sent.kind == "all_reduce" else 1
    return math.ceil(turns * sent.bytes * (num_ranks - 1) / num_ranks)
