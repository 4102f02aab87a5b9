"""Swin Transformer V2 with SkySense's extra norms: its encoder of high-resolution images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from skyframe.model.attention import (
    FeedForward,
    PatchEmbed,
    attend,
    drop_factors,
    drop_rates,
    init_weights,
    precise,
    run,
    wide,
)
from skyframe.model.vit import checked_indices
from skyframe.model.windows import Layout, reorder, window_layout
from skyframe.randomness import Draw
from skyframe.spec import InputError

LOGIT_SCALE_MAX = math.log(100.0)


class PositionBias(nn.Module):
    """Continuous position bias: `16 * sigmoid(mlp(log-spaced offset))` for every pair of positions in a window.

    An fp32 island: 16 * sigmoid in bfloat16 is wrong by 0.06.
    """

    def __init__(self, num_heads: int, window: int, hidden: int = 512) -> None:
        super().__init__()
        self.window = window
        self.up_weight = nn.Parameter(torch.empty(hidden, 2))
        self.up_bias = nn.Parameter(torch.zeros(hidden))
        self.down_weight = nn.Parameter(torch.empty(num_heads, hidden))

    def forward(self) -> Tensor:
        """float32 `[heads, n, n]`, n = window^2."""
        offsets, pairs = _offsets(self.window, self.up_weight.device)
        with precise(self.up_weight):
            up = wide(self.up_weight)
            table = functional.relu(functional.linear(offsets.to(up.dtype), up, wide(self.up_bias)))
            table = 16.0 * functional.linear(table, wide(self.down_weight)).sigmoid()
        return rearrange(table.index_select(0, pairs), "(n m) h -> h n m", n=self.window**2)


class WindowAttention(nn.Module):
    """Cosine attention inside windows with a continuous position bias.

    `softmax(exp(min(logit_scale, log 100)) * cos(q, k) + 16 * sigmoid(mlp(offset)))`; keys have no bias.
    """

    def __init__(self, dims: int, num_heads: int, window: int) -> None:
        super().__init__()
        if dims % num_heads:
            raise InputError(f"swin: width {dims} is not a multiple of {num_heads} heads; change one of the two")
        self.num_heads, self.window = num_heads, window
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10.0)))
        self.qkv_weight = nn.Parameter(torch.empty(3 * dims, dims))
        self.q_bias = nn.Parameter(torch.zeros(dims))
        self.v_bias = nn.Parameter(torch.zeros(dims))
        self.position_bias = PositionBias(num_heads, window)
        self.proj = nn.Linear(dims, dims)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """`[B, N, D]` in the window order of `layout`, to the same."""
        num, dims = x.shape[0], x.shape[-1]
        slots = layout.num_windows * self.window**2
        if layout.filled is not None:
            x = x.new_zeros(num, slots, dims).index_copy(1, layout.filled, x)
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = functional.linear(x, self.qkv_weight, bias)
        q, k, v = rearrange(
            qkv, "b (w n) (three h d) -> three (b w) h n d", w=layout.num_windows, three=3, h=self.num_heads
        )
        scale = wide(self.logit_scale).clamp(max=LOGIT_SCALE_MAX).exp()
        scores_bias = self.position_bias()
        if layout.mask is not None:
            scores_bias = (scores_bias + layout.mask[:, None]).repeat(num, 1, 1, 1)
        out = attend((_unit(q) * scale).to(v.dtype), _unit(k).to(v.dtype), v, scores_bias, scale=1.0)
        out = rearrange(out, "(b w) h n d -> b (w n) (h d)", b=num)
        if layout.filled is not None:
            out = out.index_select(1, layout.filled)
        projected: Tensor = self.proj(out)
        return projected


class SwinBlock(nn.Module):
    """Res-post-norm block: `x + norm1(attn(x))`, `x + norm2(ffn(x))`, then `norm3` on the stream where there is one."""

    def __init__(self, dims: int, num_heads: int, window: int, extra_norm: bool, norm_eps: float) -> None:
        super().__init__()
        self.attn = WindowAttention(dims, num_heads, window)
        self.norm1 = nn.LayerNorm(dims, eps=norm_eps)
        self.ffn = FeedForward(dims, 4 * dims)
        self.norm2 = nn.LayerNorm(dims, eps=norm_eps)
        self.norm3 = nn.LayerNorm(dims, eps=norm_eps) if extra_norm else None

    def forward(self, x: Tensor, layout: Layout, factors: Tensor | None = None) -> Tensor:
        """One block on `[B, N, D]` in window order; `factors` `[B, 2]`: drop path of the two branches."""
        branch = self.norm1(self.attn(x, layout))
        x = x + (branch if factors is None else branch * factors[:, None, :1])
        branch = self.norm2(self.ffn(x))
        x = x + (branch if factors is None else branch * factors[:, None, 1:])
        return x if self.norm3 is None else self.norm3(x)


class Merge(nn.Module):
    """2x2 tokens to one of twice the width; an odd map is padded with zeros at the bottom and right.

    The columns of `reduction` stand in the order (row, column, channel); the published order is (channel, row, column).
    """

    def __init__(self, dims: int, norm_eps: float) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dims, 2 * dims, bias=False)
        self.norm = nn.LayerNorm(2 * dims, eps=norm_eps)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """`[B, height * width, D]` to `[B, ceil(height/2) * ceil(width/2), 2 D]`."""
        if height % 2 or width % 2:
            x = rearrange(x, "b (h w) d -> b h w d", h=height)
            x = functional.pad(x, (0, 0, 0, width % 2, 0, height % 2)).flatten(1, 2)
        rows = rearrange(x, "b (h p w q) d -> b (h w) (p q d)", h=-(-height // 2), p=2, q=2)
        out: Tensor = self.norm(self.reduction(rows))
        return out


class Stage(nn.Module):
    """A merge (from the second stage on) and its blocks; every `extra_norm_every`-th block ends in an extra norm."""

    def __init__(
        self, dims: int, depth: int, num_heads: int, window: int, extra_norm_every: int, merge: bool, norm_eps: float
    ) -> None:
        super().__init__()
        self.downsample = Merge(dims // 2, norm_eps) if merge else None
        self.blocks = nn.ModuleList(
            SwinBlock(dims, num_heads, window, bool(extra_norm_every) and (i + 1) % extra_norm_every == 0, norm_eps)
            for i in range(depth)
        )


class SwinV2(nn.Module):
    """Swin Transformer V2 in four stages (or as many as `depths` has), strides patch, 2 patch, 4 patch, ...

    Inputs of any size work: pixels missing to a whole patch, odd maps before a merge, and maps that are no multiple of
    the window (or smaller than it) are padded with zeros at the bottom and right. A map whose shorter side is at most
    the window is not shifted.

    Args:
        in_channels: bands C.
        embed_dims: width of the first stage; it doubles per stage.
        depths, num_heads: blocks and attention heads per stage.
        patch_size: pixels along a patch.
        window_size: tokens along a window, in all stages.
        extra_norm_every: a further norm on the stream after every so many blocks of a stage, 0 for none.
        mask_padding: hide padded window positions from attention  # ours; the published model (False) attends to them.
        drop_path: drop-path rate of the last block; earlier ones rise linearly to it.
        norm_eps: epsilon of the layer norms.
        out_indices: stages whose normed maps `maps` returns; `forward` returns the last of them. Default: the last.
        recompute: recompute activations in the backward pass to save memory.
        seed: initial weights.

    Source: Liu et al., CVPR 2022; SkySense (arXiv 2312.10115) and its released `SwinTransformerV2`.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        patch_size: int = 4,
        window_size: int = 8,
        extra_norm_every: int = 6,
        mask_padding: bool = True,
        drop_path: float = 0.0,
        norm_eps: float = 1e-5,
        out_indices: Sequence[int] | None = None,
        recompute: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(depths) != len(num_heads) or window_size < 2:
            raise InputError(
                f"swin: expected as many depths as num_heads and a window of at least 2, got {list(depths)}, "
                f"{list(num_heads)} and {window_size}; give one number of heads per stage"
            )
        self.out_indices = checked_indices("swin", out_indices, len(depths))
        self.window, self.mask_padding, self.recompute = window_size, mask_padding, recompute
        self.num_features = embed_dims * 2 ** self.out_indices[-1]
        self.stride = patch_size * 2 ** self.out_indices[-1]
        self.rates = drop_rates(drop_path, sum(depths))
        self.patch = PatchEmbed(in_channels, embed_dims, patch_size)
        self.patch_norm = nn.LayerNorm(embed_dims, eps=norm_eps)
        self.stages = nn.ModuleList(
            Stage(embed_dims * 2**s, depth, heads, window_size, extra_norm_every, s > 0, norm_eps)
            for s, (depth, heads) in enumerate(zip(depths, num_heads, strict=True))
        )
        self.norms = nn.ModuleDict({str(s): nn.LayerNorm(embed_dims * 2**s, eps=norm_eps) for s in self.out_indices})
        init_weights(self, seed)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the last output map: `ceil(pixels / stride)`."""
        return -(-height // self.stride), -(-width // self.stride)

    def forward(self, x: Tensor, drop: Draw | None = None) -> Tensor:
        """Encode images.

        Args:
            x: `[B, C, H, W]`, normalised.
            drop: drop-path stream with B counters; None = none.

        Returns:
            `[B, N, D]`, the normed map of the last stage in `out_indices`, N = h * w of `grid(H, W)` in row order.
        """
        last = self.out_indices[-1]
        *_, (tokens, _) = self._stages(x, drop, last)
        out: Tensor = self.norms[str(last)](tokens)
        return out

    @property
    def levels(self) -> tuple[int, ...]:
        """All stages up to the last that is put out."""
        return tuple(range(self.out_indices[-1] + 1))

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels along a token of each of `levels`."""
        return tuple(self.patch.patch_size * 2**s for s in self.levels)

    def maps(self, x: Tensor, drop: Draw | None = None, indices: Sequence[int] | None = None) -> list[Tensor]:
        """Normed maps `[B, D, h, w]` of the stages in `indices`, by default in `out_indices`.

        A stage without a norm of its own (not in `out_indices`) gets one of weight 1 and bias 0, as the official
        weights leave theirs.
        """
        wanted = self.out_indices if indices is None else checked_indices("swin", indices, len(self.stages))
        found = []
        for stage, (tokens, height) in enumerate(self._stages(x, drop, wanted[-1])):
            if stage in wanted:
                own = str(stage) in self.norms
                normed = self.norms[str(stage)](tokens) if own else functional.layer_norm(tokens, tokens.shape[-1:])
                found.append(rearrange(normed, "b (h w) d -> b d h w", h=height))
        return found

    def _stages(self, x: Tensor, drop: Draw | None, last: int) -> Iterator[tuple[Tensor, int]]:
        """Tokens in row order after each stage, and the map's height."""
        height, width = self.patch.grid(*x.shape[-2:])
        tokens, block = self.patch_norm(self.patch(x)), 0
        for stage in self.stages[: last + 1]:
            assert isinstance(stage, Stage)
            if stage.downsample is not None:
                tokens = stage.downsample(tokens, height, width)
                height, width = -(-height // 2), -(-width // 2)
            here: Layout | None = None
            for i, layer in enumerate(stage.blocks):
                shift = self.window // 2 if i % 2 and min(height, width) > self.window else 0
                there = window_layout(height, width, self.window, shift, self.mask_padding, tokens.device)
                factors = drop_factors(drop, block, self.rates[block], tokens)
                tokens = run(layer, self.recompute, reorder(tokens, here, there), there, factors)
                here, block = there, block + 1
            tokens = reorder(tokens, here, None)
            yield tokens, height


def _unit(x: Tensor) -> Tensor:
    """L2-normalised along the last axis in float32; a zero vector stays zero with a bounded gradient."""
    return functional.normalize(wide(x), dim=-1, eps=1e-6)


@lru_cache(maxsize=32)
def _offsets(window: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Offsets between positions of a window.

    Returns:
        float32 `[(2w - 1)^2, 2]` log-spaced row and column offsets; int64 `[n * n]` which of them a pair has, n = w^2.
    """
    with torch.inference_mode(False), torch.device("cpu"):
        span = 2 * window - 1
        step = torch.arange(1 - window, window, dtype=torch.float32) / (window - 1) * 8
        step = step.sign() * torch.log2(step.abs() + 1.0) / math.log2(8.0)
        table = torch.stack(torch.meshgrid(step, step, indexing="ij"), dim=-1).reshape(span * span, 2)
        at = torch.arange(window * window)
        rows, columns = at // window, at % window
        pair = (rows[:, None] - rows[None] + window - 1) * span + columns[:, None] - columns[None] + window - 1
        return table.to(device), pair.flatten().to(device)
