"""Memory per rank: what every strategy keeps of a model, and what a micro-step needs on top."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from skyframe.train.deepspeed_config import bucket_elements, prefetch_elements
from skyframe.train.estimate.gathering import Rules, gathered
from skyframe.train.estimate.rehearsal import Rehearsal

Stage = Literal["ddp", 0, 1, 2, 3]
"""`ddp`, or DeepSpeed with a ZeRO stage."""

STAGES: tuple[Stage, ...] = ("ddp", 0, 1, 2, 3)

PLAIN_BUCKET = 500_000_000
"""Gradients that ZeRO-0 joins for one collective (DeepSpeed's `MEMORY_OPT_ALLREDUCE_SIZE`)."""

RESERVE_BYTES = 2 * 2**30
"""CUDA context, NCCL's buffers and cuBLAS's workspaces, outside PyTorch's allocator  # ours"""

USABLE_SHARE = 0.95
"""Share of the rest that can be filled before fragments are in the way  # ours"""


@dataclass(frozen=True)
class Part:
    """One named module of a system."""

    name: str
    trainable: int  # parameters
    frozen: int
    buffer_bytes: int


def parts_of(system: nn.Module) -> list[Part]:
    """Parameters and buffers by module: children, and grandchildren where a child has several.

    What two modules share is counted once, with the first.
    """
    seen: set[int] = set()
    made = []
    for name, module in _modules(system):
        mine = [p for p in module.parameters() if id(p) not in seen]
        buffers = [b for b in module.buffers() if id(b) not in seen]
        seen |= {id(x) for x in (*mine, *buffers)}
        part = Part(
            name,
            sum(p.numel() for p in mine if p.requires_grad),
            sum(p.numel() for p in mine if not p.requires_grad),
            sum(b.nbytes for b in buffers),
        )
        if part.trainable or part.frozen or part.buffer_bytes:
            made.append(part)
    rest: list[Tensor] = [b for b in system.buffers() if id(b) not in seen]
    if rest:
        made.append(Part("centres and flags", 0, 0, sum(b.nbytes for b in rest)))
    return made


def _modules(system: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    for name, child in system.named_children():
        for inner, module in child.named_children():
            for deepest, leaf in module.named_children() if isinstance(module, nn.ModuleDict) else []:
                yield f"{name}.{inner}.{deepest}", leaf
            if not isinstance(module, nn.ModuleDict):
                yield f"{name}.{inner}", module
        yield name, child  # what none of its children held


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank when a step needs most."""

    parameters: int
    gradients: int
    optimizer: int  # AdamW's two moments, and ZeRO's master weights
    teacher: int
    bank: int  # prototype bank, centres and other buffers
    buckets: int  # gradients on their way to other ranks, and parameters gathered from them
    activations: int  # kept for the backward pass, and temporaries

    @property
    def total(self) -> int:
        """Bytes in PyTorch's allocator."""
        return (
            self.parameters
            + self.gradients
            + self.optimizer
            + self.teacher
            + self.bank
            + self.buckets
            + self.activations
        )

    def fits(self, gpu_bytes: int) -> bool:
        """Whether a device of this size holds it beside `RESERVE_BYTES`, with room for fragments."""
        return self.total <= usable(gpu_bytes)


def usable(gpu_bytes: int) -> int:
    """Bytes of a device that tensors can fill."""
    return int((gpu_bytes - RESERVE_BYTES) * USABLE_SHARE)


def memory_of(
    parts: Iterable[Part],
    step: Rehearsal,
    stage: Stage,
    num_ranks: int,
    micro_steps: int = 1,
) -> Memory:
    """Memory of a rank by what each strategy keeps.

    Bytes per trainable parameter (N ranks), in bf16-mixed as in float32:

        strategy    parameters  gradients  buckets        optimizer
        ddp         4           4          4              8
        ZeRO-0      4           4          one bucket     8
        ZeRO-1      4           4          two buckets    12 / N
        ZeRO-2      4           4 / N      two buckets    12 / N
        ZeRO-3      4 / N       4 / N      and whole ones 12 / N

    Under bf16-mixed every strategy keeps float32 weights and copies them to bf16 while a pass lasts. ZeRO keeps a
    master copy even of float32 weights. The teacher is float32, whole on every rank except under ZeRO-3; the bank is
    whole on every rank.

    Args:
        parts: from `parts_of`.
        step: of one micro-step of this rank's micro batch.
        stage: strategy.
        num_ranks: N.
        micro_steps: passes per optimizer step; statistics that wait for it add up.

    Source: Rajbhandari et al., SC 2020 (arXiv 1910.02054) section 3, and DeepSpeed's stage_1_and_2.py and stage3.py.
    """
    parts = list(parts)
    trained = sum(p.trainable for p in parts)
    towers = sum(p.frozen for p in parts if p.name.startswith("teacher"))
    frozen = sum(p.frozen for p in parts) - towers
    share = [num_ranks if stage != "ddp" and stage >= s else 1 for s in (1, 2, 3)]
    master = 4 if stage != "ddp" and stage >= 1 else 0
    in_flight = 2 * min(bucket_elements(trained), trained)
    if stage in ("ddp", 0):
        in_flight = trained if stage == "ddp" else min(PLAIN_BUCKET, trained)
    elif stage == 3:
        in_flight += gathered(step.uses, step.sizes, num_ranks, Rules(prefetch_elements(trained))).most_whole
    update = 4 * trained // share[0] + (4 * trained // share[0] if master else 0)  # Adam's square roots, fp32 gradients
    pass_bytes = step.peak_bytes + step.copies_bytes + (micro_steps - 1) * step.kept_bytes
    return Memory(
        parameters=4 * (trained + frozen) // share[2],
        gradients=4 * trained // share[1],
        optimizer=(8 + master) * trained // share[0],
        teacher=4 * towers // share[2],
        bank=sum(p.buffer_bytes for p in parts),
        buckets=4 * in_flight,
        activations=max(pass_bytes, update),
    )
