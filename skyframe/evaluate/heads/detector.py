"""An anchor-free detection head on an encoder's maps: a pyramid, two towers, and boxes at every location.

Published numbers of DIOR come from Faster R-CNN and those of DIOR-R and FAIR1M from Oriented R-CNN, two-stage detectors
with many more parts: numbers of this head compare encoders with each other, and with those only roughly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from skyframe.config.detection import DetectionConfig
from skyframe.evaluate.heads.detections import Found
from skyframe.evaluate.heads.shapes import quads_of, suppress

MAX_SHUFFLE = 4
"""A coarse map is spread by learned weights up to this factor, and by interpolation beyond."""
RARE = 0.01
"""Share of locations that an untrained head takes for an object, as in the focal loss's paper."""


@dataclass(frozen=True)
class Answers:
    """What the head says at each of L locations of all levels."""

    logits: Tensor  # [B, L, C]
    rectangles: Tensor  # [B, L, 5] centre x, centre y, width, height in pixels, angle in radians (0 where horizontal)
    centreness: Tensor  # [B, L] logits
    points: Tensor  # [L, 2] x, y of the locations in pixels
    stride: Tensor  # [L] of their level in pixels


class Pyramid(nn.Module):
    """Maps of any strides as levels of the wanted ones.

    Each level comes from the map nearest in stride, spread by a sub-pixel convolution where it is coarser; where there
    are several maps, coarse levels are added to finer ones.

    Source: Li et al., Exploring plain vision transformer backbones for object detection (ViTDet, ECCV 2022), for one
    map; Lin et al., Feature pyramid networks (CVPR 2017), for several.
    """

    def __init__(self, widths: Sequence[int], given: Sequence[float], strides: Sequence[int], width: int) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.source = [min(range(len(given)), key=lambda i: abs(np.log2(given[i] / s))) for s in strides]
        self.lateral, self.smooth = nn.ModuleList(), nn.ModuleList()
        for stride, source in zip(strides, self.source, strict=True):
            factor = min(MAX_SHUFFLE, max(1, round(given[source] / stride)))
            self.lateral.append(
                nn.Sequential(nn.Conv2d(widths[source], width * factor**2, 1), nn.PixelShuffle(factor), _norm(width))
            )
            self.smooth.append(_conv(width))
        self.is_joined = len(given) > 1

    def forward(self, maps: Sequence[Tensor], side_px: int) -> list[Tensor]:
        """Levels `[B, width, h, w]`, finest first, of maps `[B, D, h, w]` that cover `side_px` pixels."""
        levels: list[Tensor] = []
        for stride, source, lateral in zip(self.strides, self.source, self.lateral, strict=True):
            levels.append(_resized(lateral(maps[source]), -(-side_px // stride)))
        if self.is_joined:
            for i in range(len(levels) - 2, -1, -1):
                levels[i] = levels[i] + _resized(levels[i + 1], levels[i].shape[-1])
        return [smooth(level) for smooth, level in zip(self.smooth, levels, strict=True)]


class Detector(nn.Module):
    """Pyramid and towers; at each location classes, distances to the box's sides, centre-ness, and perhaps an angle.

    Source: Tian et al., FCOS (ICCV 2019). With `oriented` the distances are measured in a frame turned by the angle.
    """

    def __init__(
        self,
        widths: Sequence[int],
        strides: Sequence[float],
        num_classes: int,
        oriented: bool,
        config: DetectionConfig,
        seed: int,
    ) -> None:
        """Fresh weights.

        Args:
            widths: channels of each given map.
            strides: of each given map, in pixels of the image.
            num_classes: C.
            oriented: rotated rectangles rather than horizontal boxes.
            config: sizes.
            seed: of the weights.
        """
        super().__init__()
        self.oriented, self.config = oriented, config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.pyramid = Pyramid(widths, strides, config.strides, config.width)
            self.towers = nn.ModuleList(
                nn.Sequential(*(_conv(config.width) for _ in range(config.convs))) for _ in range(2)
            )
            self.classes = nn.Conv2d(config.width, num_classes, 3, padding=1)
            self.shape = nn.Conv2d(config.width, 6 if oriented else 5, 3, padding=1)  # four sides, centre-ness, angle
        nn.init.constant_(self.classes.bias, -float(np.log((1 - RARE) / RARE)))  # type: ignore[arg-type]
        self.scale = nn.Parameter(torch.zeros(len(config.strides)))  # logarithm, per level

    def forward(self, maps: Sequence[Tensor], side_px: int) -> Answers:
        """Answers at every location.

        Args:
            maps: `[B, D_l, h_l, w_l]` of one square image each, in the order of `widths`.
            side_px: pixels along the image.
        """
        logits, rectangles, centreness, points, strides = [], [], [], [], []
        for level, stride, scale in zip(self.pyramid(maps, side_px), self.config.strides, self.scale, strict=True):
            at = _locations(level, stride)
            shape = rearrange(self.shape(self.towers[1](level)), "b k h w -> b (h w) k")
            sides = (shape[..., :4] + scale).clamp(max=8.0).exp() * stride
            logits.append(rearrange(self.classes(self.towers[0](level)), "b c h w -> b (h w) c"))
            rectangles.append(
                _rectangles(at, sides, shape[..., 5] if self.oriented else torch.zeros_like(shape[..., 0]))
            )
            centreness.append(shape[..., 4])
            points.append(at)
            strides.append(at.new_full((len(at),), stride))
        return Answers(
            torch.cat(logits, 1),
            torch.cat(rectangles, 1),
            torch.cat(centreness, 1),
            torch.cat(points),
            torch.cat(strides),
        )

    @torch.no_grad()
    def detect(self, maps: Sequence[Tensor], side_px: int) -> list[Found]:
        """Detections of each image without doubles, the surest first; scores are roots of class times centre-ness."""
        answers, config = self(maps, side_px), self.config
        scores = (answers.logits.sigmoid() * answers.centreness.sigmoid()[..., None]).sqrt()
        made = []
        for score, rectangles in zip(scores, answers.rectangles, strict=True):
            best, at = score.flatten().topk(min(config.candidates, score.numel()))
            at = at[best > config.least_score].cpu()
            found, number = rectangles.cpu()[at // score.shape[1]].double().numpy(), (at % score.shape[1]).numpy()
            shapes = quads_of(found) if self.oriented else np.hstack(
                [found[:, :2] - found[:, 2:4] / 2, found[:, :2] + found[:, 2:4] / 2]
            )  # fmt: skip
            made.append(
                without_doubles(
                    Found(
                        shapes.astype(np.float32), number, best[: len(at)].cpu().numpy(), np.zeros(len(at), bool)
                    ),
                    config,
                )
            )  # fmt: skip
        return made


def without_doubles(found: Found, config: DetectionConfig) -> Found:
    """Detections of one image after suppression within each class, at most `per_image`, the surest first."""
    most = config.most_overlap_oriented if found.shapes.ndim == 3 else config.most_overlap
    kept = suppress(found.shapes, found.scores, found.classes, most)[: config.per_image]
    return Found(found.shapes[kept], found.classes[kept], found.scores[kept], found.difficult[kept])


def _rectangles(points: Tensor, sides: Tensor, angle: Tensor) -> Tensor:
    """Rectangles `[B, L, 5]` from distances `[B, L, 4]` to left, top, right and bottom in a frame turned by `angle`."""
    left, top, right, bottom = sides.unbind(-1)
    along, across = (right - left) / 2, (bottom - top) / 2
    cos, sin = angle.cos(), angle.sin()
    x, y = points[:, 0] + cos * along - sin * across, points[:, 1] + sin * along + cos * across
    return torch.stack([x, y, left + right, top + bottom, angle], -1)


def _locations(level: Tensor, stride: int) -> Tensor:
    """Centres of a level's cells in pixels, `[h w, 2]` as x, y in row order."""
    y, x = (torch.arange(n, device=level.device, dtype=torch.float32).add(0.5).mul(stride) for n in level.shape[-2:])
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)


def _resized(level: Tensor, side: int) -> Tensor:
    if level.shape[-1] > side:
        return functional.adaptive_avg_pool2d(level, side)
    if level.shape[-1] < side:
        return functional.interpolate(level, size=(side, side), mode="bilinear", align_corners=False)
    return level


def _conv(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), _norm(width), nn.ReLU())


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(8, width)
