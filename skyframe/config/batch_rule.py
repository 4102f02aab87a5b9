"""How learning rate, teacher momentum and temperature follow the global batch: one function, torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass

from skyframe.config.skysense import SkySenseRecipe


@dataclass(frozen=True)
class BatchRule:
    """What a recipe's values become at another global batch."""

    global_batch: int  # samples per optimizer step
    lr: float  # peak learning rate
    min_lr: float
    warmup_steps: int
    max_steps: int  # optimizer steps; as many samples as before
    ema_start: float  # teacher momentum at the first step
    ema_end: float
    center_momentum: float
    teacher_temp: float  # unchanged


def at_batch(recipe: SkySenseRecipe, global_batch: int) -> BatchRule:
    """Values that let a run at another global batch follow the recipe's own, sample for sample.

    With k = new batch / recipe's batch, over the same number of samples:

    * learning rates times sqrt(k): AdamW divides by the gradient's size, and averaging k times as many samples divides
      its noise by sqrt(k) (linear scaling is for SGD);
    * moving averages to the power k: one step now stands for k steps, so the teacher keeps m^k of its old weights, as
      do the centres of self-distillation;
    * steps, of warm-up too, divided by k;
    * temperatures unchanged: they weigh similarities within a sample and know no batch.

    It holds while k samples more give a better gradient and not only a larger step, and no longer: far beyond the
    batch at which the gradient's noise is as large as the gradient, nothing makes up for the fewer steps. "What
    training costs" in docs/ tells where that was on the simulated Earth. Betas and the prototype bank's momentum stay
    as they are: the bank moves per region, and how often a step meets a region depends on the regions. Terms that
    couple samples (Sinkhorn, cross-sample negatives) see another set and follow no rule.

    Args:
        recipe: checked recipe; it is not changed.
        global_batch: samples per optimizer step, 1 or more.

    Source: Malladi et al., NeurIPS 2022 (arXiv 2205.10287), square-root rule for Adam; Busbridge et al., NeurIPS 2023
    (arXiv 2307.13813), momentum to the power k.
    """
    k = global_batch / recipe.train.global_batch
    optim, loss = recipe.optim, recipe.loss
    return BatchRule(
        global_batch=global_batch,
        lr=optim.lr * math.sqrt(k),
        min_lr=optim.min_lr * math.sqrt(k),
        warmup_steps=round(optim.warmup_steps / k),
        max_steps=max(1, round(recipe.train.max_steps / k)),
        ema_start=loss.ema_start**k,
        ema_end=loss.ema_end**k,
        center_momentum=loss.center_momentum**k,
        teacher_temp=loss.teacher_temp,
    )
