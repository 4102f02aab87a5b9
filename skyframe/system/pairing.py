"""Which tokens of student and teacher meet: by ground, by position, by date."""

from __future__ import annotations

from collections.abc import Mapping

from einops import rearrange
from torch import Tensor

from skyframe.model.factorised import masked_mean
from skyframe.objective.contrastive import match_pixels
from skyframe.sample import Batch, Tokens


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows `[B, T, R, D]` of `[B, T, N, D]` at index `[B, T, R]`."""
    return values.gather(2, index[..., None].expand(*index.shape, values.shape[-1]))


def frame_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Spatial mean per frame, `[B, T, 1, D]`."""
    b = values.shape[0]
    mean = masked_mean(rearrange(values, "b t n d -> (b t) n d"), rearrange(valid, "b t n -> (b t) n"))
    return rearrange(mean, "(b t) d -> b t 1 d", b=b)


def matched(u: Batch, v: Batch, tokens: Mapping[str, Tokens]) -> dict[str, Tokens]:
    """The teacher's tokens in the order of the student's positions; invalid where its view does not show the ground."""
    if u.pixel is None or v.pixel is None:
        return dict(tokens)
    index = match_pixels(u.pixel, v.pixel)
    moved = at_positions(tokens, index.clamp_min(0))
    return {n: Tokens(t.values, t.valid & (index >= 0)[:, None], t.day) for n, t in moved.items()}


def of_side(tokens: Mapping[str, Tokens], own: Mapping[str, Tensor], side: int) -> dict[str, Tokens]:
    """Tokens of the dates that are this side's; all where nothing was dealt out."""
    return {
        n: Tokens(t.values, t.valid & (own[n] == side)[..., None], t.day) if n in own else t for n, t in tokens.items()
    }


def at_positions(tokens: Mapping[str, Tokens], index: Tensor | None) -> dict[str, Tokens]:
    """Tokens at positions int64 `[B, P]`; None = all of them."""
    if index is None:
        return dict(tokens)
    found = {}
    for name, t in tokens.items():
        rows = index[:, None].expand(-1, t.values.shape[1], -1)
        found[name] = Tokens(take(t.values, rows), t.valid.gather(2, rows), t.day)
    return found
