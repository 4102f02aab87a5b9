"""Useful operations of a system's parts: of a frame in an encoder, of a place in the fusion, worked out on meta."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from skyframe.config.skysense import SkySenseRecipe
from skyframe.model.factorised import FactorisedEncoder
from skyframe.model.temporal import TemporalFusion
from skyframe.sample import SeriesBatch
from skyframe.train.estimate.ledger import Ledger
from skyframe.train.estimate.model import system_on_meta
from skyframe.train.estimate.rehearsal import assumed_whole
from skyframe.train.tally import Part


def prices_of(recipe: SkySenseRecipe, parts: Iterable[Part]) -> dict[Part, tuple[float, ...]]:
    """Operations of each part, 2 for a multiplication and an addition, backward included where it is trained.

    Args:
        recipe: what is trained; recomputed activations count once, as they are no use.
        parts: of the recipe's system.

    Returns:
        For an encoder (per frame, 0 per token, per pass); for a fusion (per place, per token, per squared number of
        tokens of a place), with which `price x count` is exact whatever the lengths are.
    """
    system = system_on_meta(dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, recompute=False)))
    ledger = Ledger([])  # one for all, as it knows again what it has seen: a teacher is its student
    made: dict[Part, tuple[float, ...]] = {}
    for part in sorted(parts):
        tower = system.get_submodule(part.tower)
        assert isinstance(tower, FactorisedEncoder)
        made[part] = _frame(tower, part, ledger) if part.modality else _place(tower.fusion, ledger)
    return made


def _frame(tower: FactorisedEncoder, part: Part, ledger: Ledger) -> tuple[float, ...]:
    """What comes once in a pass, such as Swin's position bias, is told from what comes with every frame."""
    name, form = part.modality, part.form
    encoder = tower.encoders[name]

    def at(frames: int) -> int:
        with torch.device("meta"):
            valid = torch.empty(1, frames, *form[1:], dtype=torch.bool)
            day, bands = torch.empty(1, frames, dtype=torch.int32), torch.empty(1, form[0], dtype=torch.bool)
            series = SeriesBatch(torch.empty(1, frames, *form), valid, day, bands)
        side, grid = encoder.side(series), encoder.token_grid(series)
        return _operations(lambda: tower._aligned(name, encoder(series)[0], side, grid), ledger)

    one, two = at(1), at(2)
    return float(two - one), 0.0, float(2 * one - two)


def _place(fusion: TemporalFusion, ledger: Ledger) -> tuple[float, ...]:
    """A polynomial of the second degree in the number of tokens is known by three of its values."""
    trained = fusion.proj.weight.requires_grad

    def at(length: int) -> int:
        tokens = torch.empty(1, length, fusion.proj.in_features, device="meta", requires_grad=trained)
        valid = torch.empty(1, length, dtype=torch.bool, device="meta")
        return _operations(lambda: fusion(tokens, valid), ledger)

    one, two, three = at(1), at(2), at(3)
    square = (three - 2 * two + one) / 2
    slope = two - one - 3 * square
    return one - slope - square, slope, square


def _operations(run: Callable[[], Tensor], ledger: Ledger) -> int:
    """Attention by plain products, as fused kernels do some of them twice in their backward pass."""
    before = ledger.flops
    with torch.enable_grad(), assumed_whole(), sdpa_kernel(SDPBackend.MATH), ledger:
        out = run()
        if out.requires_grad:
            out.sum().backward()  # type: ignore[no-untyped-call]
    return ledger.flops - before
