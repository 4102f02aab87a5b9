"""A head on an encoder: what it answers, and how far that is from the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from skyframe.config.heads import HeadSpec
from skyframe.evaluate.datasets.check import TARGETS
from skyframe.evaluate.datasets.dataset import Kind
from skyframe.evaluate.heads.dense import feature_maps, fold_dates, mean_of_dates
from skyframe.evaluate.heads.upernet import WithAuxiliary
from skyframe.randomness import Draw
from skyframe.sample import Batch
from skyframe.spec import InputError


@dataclass
class Predictor:
    """An encoder with a head for one kind of target."""

    encoder: Any  # an `Encoder`, or a copy of the module inside one that trains
    head: nn.Module
    kind: Kind
    spec: HeadSpec
    dense: bool  # a map is answered, not one row per sample
    source: str  # modality whose encoder gives the earlier maps

    def features(self, batch: Batch, trains: bool = False, drop: Draw | None = None) -> list[Tensor]:
        """What the head sees: maps `[B, D_l, h_l, w_l]`, or one pooled `[B, D]`.

        Of a change set the two dates' maps joined; of a semantic change set every date by itself, `[B T, ...]`.

        Args:
            batch: stored units.
            trains: gradients flow into the encoder.
            drop: drop path, see `feature_maps`.

        Raises:
            InputError: a change set's item does not hold two dates.
        """
        with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
            alone = self.kind in ("change", "semantic_change") or self.spec.dates == "mean"
            folded, flags = fold_dates(batch) if alone else (batch, torch.empty(0))
            if not self.dense:
                pooled = self.encoder.encode(folded).pooled.float()
                return [mean_of_dates([pooled[..., None, None]], flags)[0].flatten(1) if alone else pooled]
            levels = self.spec.kind == "upernet" or bool(self.spec.auxiliary)
            stream = None if drop is None else drop.repeat(flags.shape[1]) if alone else drop
            found = feature_maps(self.encoder, folded, "all" if levels else "last", self.source, stream)
            found = [m.float() for m in found]
            if self.kind == "change":
                return [self._pair(m, flags.shape[1]) for m in found]
            return mean_of_dates(found, flags) if alone and self.kind != "semantic_change" else found

    def _pair(self, maps: Tensor, dates: int) -> Tensor:
        if dates != 2:
            raise InputError(f"change: items of {dates} dates, expected two; choose one before and one after")
        before, after = rearrange(maps, "(b t) d h w -> t b d h w", t=2)
        return after - before if self.spec.change == "difference" else torch.cat([before, after], 1)

    def answer(self, features: list[Tensor], size: int, num: int) -> Tensor:
        """Scores of `num` = B samples without gradients: `[B, C, size, size]`, `[B, T, C, size, size]` of semantic
        change, or `[B, C]`."""
        with torch.no_grad():
            found = self._score(features, size, None)
        return rearrange(found, "(b t) c h w -> b t c h w", b=num) if self.kind == "semantic_change" else found

    def loss(self, batch: Batch, size: int, trains: bool, drop: Draw, known: list[Tensor] | None = None) -> Tensor:
        """Mean over what is labelled; features that are not finite where nothing is do not matter.

        Args:
            batch: with its targets, numbers standardised.
            size: side of the mask in pixels.
            trains: gradients flow into the encoder.
            drop: stream for dropout, and drop path where the encoder trains.
            known: features of the batch, where they have been computed already.
        """
        target = batch.targets[TARGETS[self.kind]]
        found = known
        if found is None:
            found = self.features(batch, trains, drop if trains and hasattr(self.encoder, "maps") else None)
        if self.dense:
            target = target.flatten(0, 1) if self.kind == "semantic_change" else target
            found = [_hidden(m, _labelled(self.kind, target)) for m in found]
            drop = drop.repeat(len(target) // batch.size)
        total = _distance(self.kind, self._score(found, size, drop), target)
        if isinstance(self.head, WithAuxiliary):
            side = self.head.auxiliary(found, size, drop)
            total = total + self.spec.auxiliary * _distance(self.kind, side, target)
        return total

    def _score(self, features: list[Tensor], size: int, drop: Draw | None) -> Tensor:
        found: Tensor = self.head(features, size, drop) if self.dense else self.head(features[0])
        return found


def _labelled(kind: Kind, target: Tensor) -> Tensor:
    """Bool `[B, H, W]`."""
    return target.isfinite().any(1) if kind == "regression" else target >= 0


def _hidden(maps: Tensor, labelled: Tensor) -> Tensor:
    """Zeros for what is not finite at positions without a label: there it would spoil gradients though it is not
    scored."""
    cells = functional.adaptive_max_pool2d(labelled[:, None].float(), maps.shape[-2:]) > 0
    return torch.where(cells | maps.isfinite(), maps, torch.zeros((), device=maps.device))


def _distance(kind: Kind, scores: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over labelled units, binary cross-entropy of several labels, or squared error of numbers."""
    if kind == "multilabel":
        return functional.binary_cross_entropy_with_logits(scores, target.float())
    if kind == "regression":
        scored = target.isfinite()
        return (scores[scored] - target[scored]).square().sum() / scored.sum().clamp_min(1)
    if scores.ndim == 4:
        scores = rearrange(scores, "b c h w -> b h w c")
    scored = target >= 0
    loss = functional.cross_entropy(scores[scored], target[scored].long(), reduction="sum")
    return loss / scored.sum().clamp_min(1)
