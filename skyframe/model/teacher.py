"""The EMA teacher: a frozen copy of the student that follows it after every optimizer step."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from skyframe import dist

M = TypeVar("M", bound=nn.Module)


def copy_teacher(student: M) -> M:
    """An independent copy in evaluation mode whose parameters want no gradient.

    A parent's `train()` switches the copy too; our modules draw randomness only from an explicit Draw, so the mode
    decides nothing in them.
    """
    teacher = copy.deepcopy(student)
    return teacher.requires_grad_(False).eval()


@torch.no_grad()
def update_teacher(student: nn.Module, teacher: nn.Module, momentum: float) -> None:
    """`teacher = momentum * teacher + (1 - momentum) * student` in fp32; buffers are copied.

    Call it once per optimizer step, never per micro-step. Under ZeRO stage 3 student and teacher are partitioned alike,
    so every rank averages its own part and nothing is sent; gathering each pair instead would take three collectives
    per parameter and step. Parameters that stage 3 keeps whole are averaged a second time in their whole copy, which
    would go stale otherwise.

    Args:
        student: module whose parameters and buffers have the teacher's names.
        teacher: from `copy_teacher`; its floating parameters must be float32, as bf16 rounds small updates away.
        momentum: weight of the old teacher, 0..1.

    Raises:
        ValueError: the trees differ, or a teacher parameter is not float32.

    Source: Tarvainen and Valpola, NeurIPS 2017.
    """
    ours, theirs = dict(teacher.named_parameters()), dict(student.named_parameters())
    buffers = dict(student.named_buffers())
    differing = sorted((ours.keys() ^ theirs.keys()) | (buffers.keys() ^ dict(teacher.named_buffers()).keys()))
    if differing:
        raise ValueError(f"teacher: the student has not the same {differing[0]}; build the teacher with copy_teacher")
    for name, parameter in ours.items():
        if parameter.dtype != torch.float32:
            raise ValueError(f"teacher: {name} is {parameter.dtype}, expected torch.float32; keep the teacher in fp32")
    pairs = [pair for name in ours for pair in _local(ours[name], theirs[name])]
    if pairs:
        torch._foreach_lerp_([t for t, _ in pairs], [s.float() for _, s in pairs], 1.0 - momentum)
    for name in ours:
        if hasattr(ours[name], "ds_id") and dist.is_whole(ours[name]) and not _is_one(ours[name]):
            _refresh(ours[name], theirs[name], momentum)
    for name, buffer in teacher.named_buffers():
        buffer.copy_(buffers[name])


def _local(teacher: nn.Parameter, student: nn.Parameter) -> list[tuple[Tensor, Tensor]]:
    """What this rank stores of a pair, element by element the same; a part's padding is averaged too and never read."""
    if hasattr(teacher, "ds_id"):
        return [(teacher.ds_tensor.data, student.ds_tensor.data)]  # type: ignore[attr-defined]
    return [(teacher.data, student.data)]


def _is_one(parameter: nn.Parameter) -> bool:
    """Whether part and whole copy are the same memory, as on a single rank."""
    return bool(parameter.data.data_ptr() == parameter.ds_tensor.data_ptr())  # type: ignore[attr-defined]


def _refresh(teacher: nn.Parameter, student: nn.Parameter, momentum: float) -> None:
    """Average the whole copy too; the student's is gathered where only parts of it are there."""
    if dist.is_whole(student):
        teacher.data.lerp_(student.data.float(), 1.0 - momentum)
    else:
        with dist.full_parameters([student]):
            teacher.data.lerp_(student.data.float(), 1.0 - momentum)


def momentum_at(progress: float, start: float, end: float) -> float:
    """EMA momentum on a cosine from `start` at progress 0 to `end` at progress 1, constant outside.

    Source: DINO (arXiv 2104.14294) section 3.1, implementation details.
    """
    return end - (end - start) * 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
