"""Linear probe: every head of the grid learning rate x standardisation x pooling trained side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from skyframe.config.evaluate import LinearConfig
from skyframe.randomness import generator

Rows = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Head:
    """One cell of the grid."""

    lr: float
    standardise: bool  # features minus mean, over standard deviation, both of the training rows
    pooling: str

    def __str__(self) -> str:
        return f"lr={self.lr:g} standardise={'yes' if self.standardise else 'no'} pooling={self.pooling}"


@dataclass(frozen=True)
class Heads:
    """Trained heads: variants are standardisation x pooling, in the order of `variants`."""

    variants: tuple[tuple[bool, str], ...]
    lrs: tuple[float, ...]
    weight: Tensor  # [V, D, L, C]
    bias: Tensor  # [V, L, C]
    scaling: dict[str, tuple[Tensor, Tensor]]  # by pooling: mean and standard deviation [D] of the training rows

    def head(self, variant: int, lr: int) -> Head:
        """The grid cell of a variant and learning rate number."""
        standardise, pooling = self.variants[variant]
        return Head(self.lrs[lr], standardise, pooling)

    def scores(self, rows: Rows, only: tuple[int, int] | None = None, chunk: int = 8192) -> NDArray[np.float32]:
        """Logits by every head, float32 `[V, L, n, C]`, or by one variant and learning rate, `[1, 1, n, C]`."""
        v, lr = (slice(only[0], only[0] + 1), slice(only[1], only[1] + 1)) if only else (slice(None), slice(None))
        variants, weight, bias = self.variants[v], self.weight[v, :, lr], self.bias[v, lr]
        used = {pooling for _, pooling in variants}
        stacked = _inputs({k: torch.from_numpy(rows[k]).float() for k in rows if k in used}, variants, self.scaling)
        parts = [_logits(x, weight, bias) for x in stacked.split(chunk, dim=1)]
        found: NDArray[np.float32] = rearrange(torch.cat(parts, dim=1), "v n l c -> v l n c").numpy()
        return found


def train_heads(
    rows: Rows, labels: NDArray[np.generic], num_classes: int, config: LinearConfig, batch: int, seed: int
) -> Heads:
    """Train L x V heads in one pass over the features; each is what it would be if trained alone.

    Args:
        rows: pooling name -> float32 `[n, D]` (the same n rows under each pooling).
        labels: int `[n]` in 0..C-1 (softmax), or bool `[n, C]` where a row may have several labels (a sigmoid each).
        num_classes: C.
        config: learning rates, epochs, warm-up, weight decay.
        batch: rows per step.
        seed: of the row order. Heads start at zero (the problem is convex).

    Returns:
        The heads, for the caller to choose from on validation rows.

    Source: protocol of OlmoEarth's probe (8 learning rates, AdamW, 50 epochs, 10 % warm-up, cosine), run in parallel
    as DINOv2 does.
    """
    tensors = {k: torch.from_numpy(v).float() for k, v in rows.items()}
    scaling = {k: (v.mean(0), _spread(v)) for k, v in tensors.items()}
    variants = tuple((s, p) for p in rows for s in (False, True))
    inputs, many = _inputs(tensors, variants, scaling), labels.ndim == 2
    targets = torch.from_numpy(labels).float() if many else one_hot(torch.from_numpy(labels), num_classes).float()
    (num_variants, num, dims), num_lrs = inputs.shape, len(config.lrs)
    weight = _Adam(torch.zeros(num_variants, dims, num_lrs, num_classes))
    bias = _Adam(torch.zeros(num_variants, num_lrs, num_classes))
    peak = torch.tensor(config.lrs)[:, None]
    total, step = config.epochs * math.ceil(num / batch), 0
    for epoch in range(config.epochs):
        order = torch.from_numpy(generator(seed, "linear", epoch).permutation(num))
        for chosen in order.split(batch):
            x, y = inputs[:, chosen], targets[chosen]
            grad_weight, grad_bias = _gradient(x, y, weight.value, bias.value, many)
            lr = peak * _rate(step, total, config.warmup)
            step += 1
            weight.update(grad_weight, lr, config.weight_decay, step)
            bias.update(grad_bias, lr, config.weight_decay, step)
    return Heads(variants, config.lrs, weight.value, bias.value, scaling)


def _spread(rows: Tensor) -> Tensor:
    """Standard deviation per feature, infinite where it is below a thousandth of the features' mean one.

    A feature that hardly varies over the training rows says nothing there; blown up, it would rule wherever it differs.
    """
    std = rows.std(0, correction=0)
    return torch.where(std > max(1e-6, 1e-3 * float(std.mean())), std, torch.inf)


class _Adam:
    """AdamW on one tensor whose last two axes are learning rate and class, each rate with its own step size.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization (ICLR 2019); torch.optim.AdamW, which would
    need one tensor per rate and costs three seconds to import.
    """

    def __init__(self, value: Tensor, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.value, self.betas, self.eps = value, betas, eps
        self.mean, self.square = torch.zeros_like(value), torch.zeros_like(value)

    def update(self, grad: Tensor, lr: Tensor, weight_decay: float, step: int) -> None:
        """One step, counted from 1, at rates `[L, 1]`."""
        first, second = self.betas
        self.mean.lerp_(grad, 1 - first)
        self.square.mul_(second).addcmul_(grad, grad, value=1 - second)
        spread = (self.square / (1 - second**step)).sqrt_().add_(self.eps)
        self.value.mul_(1 - lr * weight_decay).sub_(lr / (1 - first**step) * self.mean / spread)


def _gradient(inputs: Tensor, targets: Tensor, weight: Tensor, bias: Tensor, many: bool) -> tuple[Tensor, Tensor]:
    """Of each head's mean cross-entropy, in closed form: probabilities minus targets `[n, C]`, times the inputs."""
    logits = _logits(inputs, weight, bias)
    error = logits.sigmoid_() if many else logits.softmax(-1)
    error -= targets[None, :, None]
    error /= inputs.shape[1]
    return torch.einsum("vnd,vnlc->vdlc", inputs, error), error.sum(1)


def _inputs(
    rows: Mapping[str, Tensor], variants: Sequence[tuple[bool, str]], scaling: Mapping[str, tuple[Tensor, Tensor]]
) -> Tensor:
    """`[V, n, D]`, one copy of the rows per variant."""
    return torch.stack([(rows[p] - scaling[p][0]) / scaling[p][1] if s else rows[p] for s, p in variants])


def _logits(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`[V, n, D]` by `[V, D, L, C]` to `[V, n, L, C]`."""
    return torch.einsum("vnd,vdlc->vnlc", rows, weight) + bias[:, None]


def _rate(step: int, total: int, warmup: float) -> float:
    """Share of the peak rate: linear over the first `warmup` of the steps, then half a cosine to zero."""
    ramp = max(1, round(warmup * total))
    if step < ramp:
        return (step + 1) / ramp
    return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, total - ramp)))
