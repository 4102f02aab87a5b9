"""Self-distillation between two views: targets, cross-entropy, object centres, and how rows are chosen and matched."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skyframe import dist
from skyframe.objective.sinkhorn import fp32_island, sinkhorn
from skyframe.randomness import Draw

_GOLDEN_RATIO = 0.6180339887498949


@torch.no_grad()
def centred_targets(logits: Tensor, center: Tensor, temp: float) -> Tensor:
    """Teacher distribution `softmax((logits - center) / temp)`, without gradient.

    Args:
        logits: `[R, K]` teacher outputs, any float dtype.
        center: float32 `[K]`, as it stands before this step.
        temp: teacher temperature.

    Returns:
        float32 `[R, K]`, rows sum to 1.

    Source: DINO (arXiv 2104.14294) section 3.1.
    """
    return torch.softmax((logits.float() - center.float()) / temp, dim=-1)


def cross_entropy(student_logits: Tensor, targets: Tensor, student_temp: float) -> Tensor:
    """H(teacher, student) of each row: `-sum_k targets * log_softmax(student_logits / student_temp)`.

    Args:
        student_logits: `[R, K]`, any float dtype, carries gradient.
        targets: `[R, K]` from `centred_targets` or `sinkhorn_targets`; an all-zero row gives loss 0.
        student_temp: student temperature.

    Returns:
        float32 `[R]`.

    Source: DINO (arXiv 2104.14294) equation 2.
    """
    return -(targets.detach().float() * F.log_softmax(student_logits.float() / student_temp, dim=-1)).sum(-1)


def info_nce(student: Tensor, teacher: Tensor, sample: Tensor, temp: float) -> Tensor:
    """InfoNCE of each student row against its teacher row and those of other samples: instead of self-distillation.

    The slow, obvious form, over the rows of all ranks:

        for i in rows:
            others = [j for j in rows if j == i or sample[j] != sample[i]]
            loss[i] = -log(exp(s[i] . t[i] / temp) / sum(exp(s[i] . t[j] / temp) for j in others))

    Rows of one sample are no negatives of each other: neighbours in a field look alike, and should.

    Args:
        student: `[R, d]` embeddings, carry gradient; normalised here. R may differ between ranks and may be 0.
        teacher: `[R, d]` embeddings.
        sample: int64 `[R]`, 0 or more, different for different samples of all ranks.
        temp: temperature.

    Returns:
        float32 `[R]`.

    Source: van den Oord et al., arXiv 1807.03748, equation 4.
    """
    with fp32_island(student):
        rows, keys = F.normalize(student.float(), dim=-1), F.normalize(teacher.detach().float(), dim=-1)
        num = len(rows)
        longest = dist.all_max(torch.tensor(num, device=rows.device))
        most = num if longest.is_meta else int(longest)  # a count without values has as many rows on every rank
        everywhere = dist.gather_rows(F.pad(keys, (0, 0, 0, most - num)))
        owner = dist.gather_rows(F.pad(sample, (0, most - num), value=-1))
        own = torch.arange(num, device=rows.device) + dist.rank() * most
        left_out = (owner == sample[:, None]) | (owner < 0)
        left_out[torch.arange(num, device=rows.device), own] = False
        logits = (rows @ everywhere.mT / temp).masked_fill(left_out, -torch.inf)
        return F.cross_entropy(logits, own, reduction="none")


@torch.no_grad()
def update_center(center: Tensor, total: Tensor, count: Tensor, momentum: float) -> Tensor:
    """The centre after a step: `momentum * center + (1 - momentum) * total / count`, unchanged where count is 0.

    Args:
        center: float32 `[K]`.
        total: `[K]` sum of the teacher's raw logits over valid rows, over micro-steps and ranks (`dist.all_sum`).
        count: scalar, the number of those rows.
        momentum: 0.9 is usual.

    Returns:
        float32 `[K]`, a new tensor.

    Source: DINO (arXiv 2104.14294) equation 4.
    """
    mean = total.double() / count.double().clamp(min=1.0)
    moved = momentum * center.double() + (1.0 - momentum) * mean
    return torch.where(count > 0, moved.to(center.dtype), center)


def object_centres(
    teacher: Tensor, student: Tensor, valid: Tensor, num_centres: int, eps: float, iterations: int, rounds: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Object features of each frame: balanced cluster centres of its positions, in pairs.

    The slow, obvious form, for one frame with all positions valid and teacher rows `t` of unit norm:

        C = t[evenly strided]
        repeat rounds: A = sinkhorn(t @ C.T, eps, iterations);  C = normalise(A.T @ t)
        student_centres, teacher_centres = num_centres * A.T @ student, num_centres * A.T @ teacher

    Clusters found apart on both sides would not correspond, so both take the teacher's assignment: centre c of one is
    centre c of the other. Both are plain weighted means of the rows given, so equal towers give equal centres.

    Args:
        teacher: `[F, S, d]` teacher features, one frame per row, positions of both sides already matched.
        student: `[F, S, d]`, carries gradient.
        valid: bool `[F, S]`, True where both sides have the position.
        num_centres: C; where fewer positions are valid, centres repeat.
        eps: entropy of the assignment over cosine similarities.
        iterations: Sinkhorn iterations per round.
        rounds: assignment and centre updates, at least 1.

    Returns:
        student centres `[F, C, d]` and teacher centres `[F, C, d]` in float32, and bool `[F, C]` (False for a frame
        without a valid position, whose centres are 0).

    Source: SkySense (arXiv 2312.10115) section 3.3, object level; how pairs are made is unpublished.
    """
    with fp32_island(teacher):
        mask = valid[..., None]
        target = torch.where(mask, teacher.detach().float(), 0.0)
        unit = F.normalize(target, dim=-1)
        seeds = _strided(valid, num_centres)
        centres = torch.gather(unit, 1, seeds[..., None].expand(-1, -1, unit.shape[-1]))
        for _ in range(rounds):
            assignment = sinkhorn(unit @ centres.mT, eps, iterations, valid)
            centres = F.normalize(assignment.mT @ unit, dim=-1)
        weights = num_centres * assignment.mT
        student_centres = weights @ torch.where(mask, student.float(), 0.0)
        return student_centres, weights @ target, valid.any(1, keepdim=True).expand(-1, num_centres)


def _strided(valid: Tensor, num: int) -> Tensor:
    """int64 `[F, num]`: positions spread evenly over each frame's valid ones.

    The offset inside a stride walks by the golden ratio; a constant one puts all seeds of a square map in one column.
    """
    order = torch.argsort((~valid).to(torch.int8), dim=1, stable=True)
    count = valid.sum(1, keepdim=True)
    step = torch.arange(num, device=valid.device)
    offset = (step * _GOLDEN_RATIO % 1.0 * (count // num)).long()
    rank = step * count // num + offset
    return torch.gather(order, 1, rank.clamp(max=valid.shape[1] - 1))


def per_sample_mean(rows_loss: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of a loss over the valid rows of each sample, so that the result does not depend on ranks or micro-steps.

    Args:
        rows_loss: `[B, ...]`; values of other rows are never read, NaN included.
        valid: bool `[B, ...]`.

    Returns:
        float32 `[B]`, 0 where nothing is valid, and bool `[B]`, True where something is. The system sums over samples
        and divides by the global batch.
    """
    loss = torch.where(valid, rows_loss.float(), 0.0).flatten(1).sum(1)
    count = valid.flatten(1).sum(1)
    return loss / count.clamp(min=1), count > 0


def sample_rows(valid: Tensor, num: int, draw: Draw) -> tuple[Tensor, Tensor]:
    """Choose `num` positions of every frame, uniformly among the valid ones, by counter (a resumed run repeats it).

    Args:
        valid: bool `[B, T, N]`.
        num: positions per frame; at most N are returned.
        draw: the stream of this purpose, counters `[B]`.

    Returns:
        int64 `[B, T, min(num, N)]` positions without repetition, and bool of that shape: False where a frame has
        fewer valid positions than asked for.
    """
    _, num_frames, num_positions = valid.shape
    order = draw.uniform(num_frames * num_positions).reshape(valid.shape)
    order = torch.where(valid, order, 2.0)
    index = torch.argsort(order, dim=-1, stable=True)[..., : min(num, num_positions)]
    return index, torch.gather(valid, -1, index)


def match_pixels(pixel_u: Tensor, pixel_v: Tensor) -> Tensor:
    """Where view v shows the same ground as each position of view u.

    Args:
        pixel_u: int64 `[B, N]` canonical pixel ids of u's positions, negative where a position shows no known ground.
        pixel_v: int64 `[B, M]` the same of v; ids of one sample differ.

    Returns:
        int64 `[B, N]`: the position in v, -1 where v does not show it.
    """
    ids, order = torch.sort(pixel_v, dim=1)
    slot = torch.searchsorted(ids, pixel_u.contiguous()).clamp(max=ids.shape[1] - 1)
    found = (torch.gather(ids, 1, slot) == pixel_u) & (pixel_u >= 0)
    return torch.where(found, torch.gather(order, 1, slot), -1)
