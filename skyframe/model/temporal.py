"""Fusion over dates and modalities, one place at a time, and the date encoding added to its tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from skyframe.calendar import DATE_ROWS, DAY_UNKNOWN
from skyframe.model.attention import Layer, drop_factors, drop_rates, init_normal, init_weights, run
from skyframe.randomness import Draw
from skyframe.spec import InputError


class DateEncoding(nn.Module):
    """A learned vector per day of the year, and one (row 366) for an unknown date.

    Args:
        dims: width of the tokens it is added to.
        init_std: 0 as published. Above 0 the table starts as six seasonal harmonics of 0.88 x this spread (in random
            directions, the k-th weighing 1/k), so that neighbouring days start alike and dates matter from the first
            step  # ours
        seed: the directions, where `init_std` is not 0.

    Source: SkySense (arXiv 2312.10115), `P_DTPE`; the published table has 365 rows and overruns on 31 December of a
    leap year.
    """

    def __init__(self, dims: int, init_std: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(DATE_ROWS, dims))
        if init_std and not self.table.is_meta:
            self.table.data[:-1] = init_std * _harmonics(dims, seed)

    def forward(self, day: Tensor) -> Tensor:
        """int32 `[B, T]` days since 2000-01-01 to `[B, T, D]`."""
        return functional.embedding(date_rows(day), self.table)


def _harmonics(dims: int, seed: int, count: int = 6) -> Tensor:
    """Smooth rows for 366 days, `[366, dims]`; spread 0.88, as directions are cut at two standard deviations."""
    order = torch.arange(1, count + 1)
    angle = 2 * math.pi * (torch.arange(DATE_ROWS - 1)[:, None] + 0.5) / (DATE_ROWS - 1) * order
    basis = torch.cat([angle.cos() / order, angle.sin() / order], dim=1)
    directions = torch.empty(2 * count, dims)
    init_normal(directions, 1.0, seed, "date_table")
    return basis @ directions / basis.square().sum(dim=1, keepdim=True).sqrt()


def date_rows(day: Tensor) -> Tensor:
    """Row of the date table per day, on the day's own device; `skyframe.calendar.date_rows` is the same on NumPy.

    Years are counted from 1 March, so that the leap day comes last.

    Args:
        day: int32, days since 2000-01-01, `DAY_UNKNOWN` where not known.

    Returns:
        int64 of the same shape: day of the year - 1 (0..365), 366 where unknown.

    Source: civil-calendar arithmetic of H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    """
    unknown = day == DAY_UNKNOWN
    since = day.masked_fill(unknown, 0).to(torch.int64) + 730425  # days since 1 March of the year 0
    in_era = since.remainder(146097)
    year = (in_era - in_era // 1460 + in_era // 36524 - in_era // 146096) // 365
    since_march = in_era - (365 * year + year // 4 - year // 100)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    rows = torch.where(since_march >= 306, since_march - 306, since_march + 59 + leap.to(torch.int64))
    return rows.masked_fill(unknown, DATE_ROWS - 1)


@dataclass(frozen=True)
class _Packing:
    """Sequences of extra token + valid tokens, shortest first, one after the other."""

    source: Tensor  # int64 [S] which token (of P * L) each packed token is
    slots: Tensor  # int64 [S] the row at which it stands
    first: Tensor  # int64 [P] the row of each place's extra token, in packed order
    back: Tensor  # int64 [P] packed number of each place
    place: Tensor  # int64 [S + P] place of each row
    groups: list[tuple[int, int]]  # (places, rows of each), lengths rising


def _pack(valid: Tensor) -> _Packing:
    """Where valid tokens stand once the others are left out. `valid`: bool `[P, L]`."""
    num, length = valid.shape
    if valid.is_meta:  # holds no values; shapes are those of all tokens valid
        every = torch.empty(num * length, dtype=torch.int64, device="meta")
        some = torch.empty(num, dtype=torch.int64, device="meta")
        rows = torch.empty(num * (length + 1), dtype=torch.int64, device="meta")
        return _Packing(every, every, some, some, rows, [(num, length + 1)])
    counts = valid.sum(dim=1)
    order = counts.argsort(stable=True)
    with_extra = torch.cat([valid.new_ones(num, 1), valid.index_select(0, order)], dim=1)
    cells = with_extra.flatten().nonzero().flatten()
    sequence, column = cells // (length + 1), cells % (length + 1)
    place = order.index_select(0, sequence)
    slots = column.nonzero().flatten()
    source = (place * length + column - 1).index_select(0, slots)
    lengths, members = counts.index_select(0, order).unique_consecutive(return_counts=True)
    groups = [(m, n + 1) for m, n in zip(members.tolist(), lengths.tolist(), strict=True)]
    return _Packing(source, slots, (column == 0).nonzero().flatten(), order.argsort(), place, groups)


class TemporalFusion(nn.Module):
    """Transformer over the tokens of one place; a learned extra token, always valid, gathers the answer.

    Only valid tokens are computed: the others are left out before the projection, so their values cannot matter, and a
    place with none gives the extra token's own, finite answer. The order of tokens has no influence. The last layer
    answers for the extra token alone. No norm after it.

    Args:
        input_dims: width of the tokens.
        embed_dims: width D of the fusion.
        num_layers, num_heads: depth and attention heads.
        mlp_ratio: hidden width of the feed-forward as a multiple of D.
        drop_path: drop-path rate of the last layer; earlier ones rise linearly to it.
        norm_eps: epsilon of the layer norms.
        recompute: recompute activations in the backward pass to save memory.
        seed: initial weights.

    Source: SkySense (arXiv 2312.10115), multi-modal temporal fusion; released `TransformerEncoder`.
    """

    def __init__(
        self,
        input_dims: int,
        embed_dims: int,
        num_layers: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        norm_eps: float = 1e-5,
        recompute: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_features, self.recompute = embed_dims, recompute
        self.rates = drop_rates(drop_path, num_layers)
        self.proj = nn.Linear(input_dims, embed_dims)
        self.extra_token = nn.Parameter(torch.empty(1, 1, embed_dims))
        self.layers = nn.ModuleList(Layer(embed_dims, num_heads, mlp_ratio, norm_eps) for _ in range(num_layers))
        init_weights(self, seed)

    def forward(self, tokens: Tensor, valid: Tensor, drop: Draw | None = None, chunk: int = 4096) -> Tensor:
        """Fuse each place.

        Args:
            tokens: `[P, L, input_dims]`, dates and modalities in any order, date encoding already added.
            valid: bool `[P, L]`.
            drop: drop-path stream with P counters (`draw.repeat(N)`); None = none.
            chunk: places computed at a time; bounds memory, not the result.

        Returns:
            `[P, D]`, finite wherever the valid tokens are.

        Raises:
            InputError: shapes of tokens and mask disagree.
        """
        if tokens.ndim != 3 or valid.shape != tokens.shape[:2] or valid.dtype != torch.bool:
            raise InputError(
                f"fusion: expected tokens [P, L, D] with a bool mask [P, L], got {list(tokens.shape)} with "
                f"{valid.dtype} {list(valid.shape)}; give one flag per token"
            )
        parts = []
        for i in range(0, len(tokens), chunk):
            part = slice(i, i + chunk)
            stream = None if drop is None else Draw(drop.key, drop.counters[part])
            parts.append(self._fuse(tokens[part], valid[part], stream))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _fuse(self, tokens: Tensor, valid: Tensor, drop: Draw | None) -> Tensor:
        pack = _pack(valid)
        chosen = tokens.flatten(0, 1).index_select(0, pack.source)
        rows = self.extra_token[0].expand(len(pack.place), -1)
        rows = rows.index_copy(0, pack.slots, self.proj(chosen).to(rows.dtype))
        for i, layer in enumerate(self.layers):
            last = i == len(self.layers) - 1
            factors = drop_factors(drop, i, self.rates[i], rows)
            if factors is not None:
                factors = factors.index_select(0, pack.place.index_select(0, pack.first) if last else pack.place)
            rows = run(layer, self.recompute, rows, pack.groups, factors, pack.first if last else None)
        return rows.index_select(0, pack.back)
