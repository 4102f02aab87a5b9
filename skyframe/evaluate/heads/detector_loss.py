"""What a detection head is taught: which location answers for which object, and the three losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from skyframe.evaluate.heads.detector import Answers

RADIUS = 1.5
"""Strides around an object's centre within which a location answers for it (FCOS's centre sampling)."""
REACH = 8
"""Objects whose longer side is at most so many strides go to a level, larger ones to the next."""


@dataclass(frozen=True)
class Objects:
    """Truth of one image as rotated rectangles."""

    rectangles: Tensor  # [g, 5] centre x, centre y, first side, second side in pixels, angle in radians
    classes: Tensor  # int64 [g]
    scored: Tensor  # bool [g], False = locations inside say nothing


@dataclass(frozen=True)
class Assigned:
    """What each of L locations should say."""

    of: Tensor  # int64 [L], number of the object, -1 = background
    counted: Tensor  # bool [L], False = the class there is not taught
    centreness: Tensor  # [L] in 0..1, 0 where background


def assign(points: Tensor, stride: Tensor, objects: Objects) -> Assigned:
    """Locations to objects.

    A location answers for an object of its level's size in which it lies, near whose centre it lies; of several for the
    smallest. An object without any such location gets the nearest of its level, so that none is too small to be learnt.
    Locations inside objects that are not scored are left out.

    Args:
        points: `[L, 2]` x, y in pixels.
        stride: `[L]` of their level in pixels.
        objects: of the image.

    Source: Tian et al., FCOS (ICCV 2019), section 3; levels by the object's size instead of by location.
    """
    if not len(objects.classes):
        nothing = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
        return Assigned(nothing, nothing < 0, torch.zeros_like(stride))
    x, y, first, second, angle = objects.rectangles.unbind(-1)
    offset = points[:, None] - torch.stack([x, y], -1)
    along = offset[..., 0] * angle.cos() + offset[..., 1] * angle.sin()
    across = offset[..., 1] * angle.cos() - offset[..., 0] * angle.sin()
    inside = (along.abs() < first / 2) & (across.abs() < second / 2)
    levels = stride.unique()
    level = torch.bucketize(torch.maximum(first, second), levels * REACH).clamp(max=len(levels) - 1)
    mine = (stride[:, None] == levels[level]) & objects.scored
    near = torch.maximum(along.abs(), across.abs()) <= RADIUS * stride[:, None]
    may = mine & inside & near
    distance = torch.where(mine, along.square() + across.square(), torch.inf)
    lonely = objects.scored & ~may.any(0)
    may[distance.argmin(0)[lonely], lonely.nonzero().flatten()] = True
    area, of = torch.where(may, first * second, torch.inf).min(1)
    of = torch.where(area < torch.inf, of, -1)
    left_out = (inside & ~objects.scored).any(1) & (of < 0)
    rows = torch.arange(len(points), device=points.device)
    u, v = (2 * d[rows, of].abs() / s[of] for d, s in ((along, first), (across, second)))
    shares = [((1 - t) / (1 + t)).clamp(min=0) for t in (u, v)]  # shorter distance to a side over the longer one
    centreness = torch.where(of >= 0, (shares[0] * shares[1]).sqrt(), 0.0)
    return Assigned(of, ~left_out, centreness)


def losses(answers: Answers, truth: Sequence[Objects], oriented: bool) -> dict[str, Tensor]:
    """Class, box and centre-ness losses of a batch, each a scalar.

    The class loss is summed over locations and divided by the number that answer for an object; the box loss is
    weighted by centre-ness.

    Args:
        answers: of the head for B images.
        truth: of each image.
        oriented: compare rotated rectangles as Gaussians rather than boxes by overlap.
    """
    assigned = [assign(answers.points, answers.stride, t) for t in truth]
    counted, centre = torch.stack([a.counted for a in assigned]), torch.stack([a.centreness for a in assigned])
    taught = torch.stack([a.of for a in assigned]) >= 0
    num = taught.sum().clamp(min=1)
    pairs = list(zip(truth, (a.of[a.of >= 0] for a in assigned), strict=True))
    wanted = torch.zeros_like(answers.logits)
    wanted[(*taught.nonzero(as_tuple=True), torch.cat([t.classes[of] for t, of in pairs]))] = 1.0
    by_class = (focal(answers.logits, wanted) * counted[..., None]).sum() / num
    target = torch.cat([t.rectangles[of] for t, of in pairs])
    weight = centre[taught].clamp(min=0.05)  # an object between two locations still counts a little
    distance = (gaussian_divergence if oriented else generalised_iou)(answers.rectangles[taught], target)
    by_centre = functional.binary_cross_entropy_with_logits(answers.centreness[taught], centre[taught], reduction="sum")
    return {
        "class": by_class,
        "box": (weight * distance).sum() / weight.sum().clamp(min=1e-6),
        "centre": by_centre / num,
    }


def focal(logits: Tensor, wanted: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Cross-entropy per entry that what is told rightly hardly adds to.

    Slow form: p = sigmoid(logit) of the right answer; -a (1 - p)^gamma log p, a = alpha for 1 and 1 - alpha for 0.

    Source: Lin et al., Focal loss for dense object detection (ICCV 2017).
    """
    plain = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    balance = alpha * wanted + (1 - alpha) * (1 - wanted)
    return balance * (1 - (-plain).exp()) ** gamma * plain


def generalised_iou(given: Tensor, wanted: Tensor) -> Tensor:
    """1 - generalised IoU of horizontal rectangles `[n, 5]` in pairs, `[n]` in 0..2.

    Source: Rezatofighi et al., Generalized intersection over union (CVPR 2019).
    """
    low, high = ([r[:, :2] + sign * r[:, 2:4] / 2 for r in (given, wanted)] for sign in (-1, 1))
    common = (torch.minimum(*high) - torch.maximum(*low)).clamp(min=0).prod(1)
    around = (torch.maximum(*high) - torch.minimum(*low)).prod(1).clamp(min=1e-6)
    union = (given[:, 2] * given[:, 3] + wanted[:, 2] * wanted[:, 3] - common).clamp(min=1e-6)
    return 1 - common / union + (around - union) / around


def gaussian_divergence(given: Tensor, wanted: Tensor) -> Tensor:
    """1 - 1 / (1 + log(1 + D)) of rotated rectangles `[n, 5]` in pairs, `[n]` in 0..1.

    D is the Kullback-Leibler divergence of the normal distribution around `given` from that around `wanted`, whose
    standard deviations are half the sides. It is smooth where IoU is not and the same for a rectangle turned by a
    quarter with sides exchanged; the angle of a square has no meaning to it.

    Source: Yang et al., Learning high-precision bounding box for rotated object detection via Kullback-Leibler
    divergence (NeurIPS 2021).
    """
    offset, (cos, sin) = given[:, :2] - wanted[:, :2], (wanted[:, 4].cos(), wanted[:, 4].sin())
    along, across = offset[:, 0] * cos + offset[:, 1] * sin, offset[:, 1] * cos - offset[:, 0] * sin
    turn = given[:, 4] - wanted[:, 4]
    c, s = turn.cos().square(), turn.sin().square()
    (w, h), (wt, ht) = (r[:, 2:4].clamp(min=1e-3).square().unbind(1) for r in (given, wanted))
    shift = 4 * (along.square() / wt + across.square() / ht)
    spread = (w * c + h * s) / wt + (w * s + h * c) / ht
    divergence = 0.5 * (shift + spread + (wt * ht / (w * h)).log()) - 1
    return 1 - 1 / (1 + divergence.clamp(min=0).log1p())
