"""Plain vision transformer for one image of any size: SkySense's encoder of Sentinel-2 and Sentinel-1 frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from skyframe.model.attention import Layer, PatchEmbed, drop_factors, drop_rates, init_weights, run, wide
from skyframe.randomness import Draw
from skyframe.spec import InputError


class ViT(nn.Module):
    """Pre-norm vision transformer with a class token that takes part inside and is dropped from every output.

    Inputs of any size work: pixels missing to a whole patch are zeros at the bottom and right (such a patch still sees
    real pixels, so nothing is masked), and the position table is resized to the grid. No norm after the last layer.

    Args:
        in_channels: bands C.
        embed_dims: width D.
        num_layers, num_heads: depth and attention heads.
        patch_size: pixels along a patch.
        table_side: position table of `table_side` x `table_side`, or (rows, columns).
        mlp_ratio: hidden width of the feed-forward as a multiple of D.
        drop_path: drop-path rate of the last layer; earlier ones rise linearly to it.
        norm_eps: epsilon of the layer norms.
        out_indices: layers whose maps `maps` returns; `forward` returns the last of them. Default: the last layer.
        recompute: recompute activations in the backward pass to save memory.
        seed: initial weights.

    Source: Dosovitskiy et al., ICLR 2021; SkySense (arXiv 2312.10115) and its released `VisionTransformer`.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        num_layers: int,
        num_heads: int,
        patch_size: int = 4,
        table_side: int | tuple[int, int] = 16,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        norm_eps: float = 1e-5,
        out_indices: Sequence[int] | None = None,
        recompute: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.table = (table_side, table_side) if isinstance(table_side, int) else tuple(table_side)
        self.out_indices = checked_indices("vit", out_indices, num_layers)
        self.num_features, self.stride, self.recompute = embed_dims, patch_size, recompute
        self.rates = drop_rates(drop_path, num_layers)
        self.patch = PatchEmbed(in_channels, embed_dims, patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dims))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.table[0] * self.table[1], embed_dims))
        self.layers = nn.ModuleList(Layer(embed_dims, num_heads, mlp_ratio, norm_eps) for _ in range(num_layers))
        init_weights(self, seed)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the output map: `ceil(pixels / patch_size)`."""
        return self.patch.grid(height, width)

    def forward(self, x: Tensor, drop: Draw | None = None) -> Tensor:
        """Encode images.

        Args:
            x: `[B, C, H, W]`, normalised.
            drop: drop-path stream with B counters; None = none.

        Returns:
            `[B, N, D]`, N = h * w of `grid(H, W)` in row order.
        """
        return self._tokens(x, drop, self.out_indices[-1:])[0]

    @property
    def levels(self) -> tuple[int, ...]:
        """Layers at the quarters of the depth (5, 11, 17 and 23 of 24), fewer where there are fewer layers."""
        num = len(self.layers)
        return tuple(sorted({max(0, num * quarter // 4 - 1) for quarter in (1, 2, 3, 4)}))

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels along a token of each of `levels`."""
        return (self.stride,) * len(self.levels)

    def maps(self, x: Tensor, drop: Draw | None = None, indices: Sequence[int] | None = None) -> list[Tensor]:
        """Maps `[B, D, h, w]` after each layer of `indices`, by default of `out_indices`."""
        height = self.grid(*x.shape[-2:])[0]
        wanted = self.out_indices if indices is None else checked_indices("vit", indices, len(self.layers))
        return [rearrange(t, "b (h w) d -> b d h w", h=height) for t in self._tokens(x, drop, wanted)]

    def _tokens(self, x: Tensor, drop: Draw | None, wanted: Sequence[int]) -> list[Tensor]:
        num, grid = x.shape[0], self.grid(*x.shape[-2:])
        tokens = torch.cat([self.cls_token.expand(num, -1, -1), self.patch(x)], dim=1) + self._positions(grid)
        length = tokens.shape[1]
        rows, groups, found = tokens.flatten(0, 1), [(num, length)], []
        for i in range(wanted[-1] + 1):
            factors = drop_factors(drop, i, self.rates[i], rows)
            factors = None if factors is None else factors.repeat_interleave(length, dim=0)
            rows = run(self.layers[i], self.recompute, rows, groups, factors)
            if i in wanted:
                found.append(rearrange(rows, "(b n) d -> b n d", b=num)[:, 1:])
        return found

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Position table of a grid, `[1, 1 + h * w, D]`; the class token's row is never resized."""
        if grid == self.table:
            return self.pos_embed
        table = rearrange(wide(self.pos_embed[:, 1:]), "1 (h w) d -> 1 d h w", h=self.table[0])
        resized = functional.interpolate(table, size=grid, mode="bicubic", align_corners=False)
        rows = rearrange(resized, "1 d h w -> 1 (h w) d").to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:, :1], rows], dim=1)


def checked_indices(name: str, indices: Sequence[int] | None, num: int) -> tuple[int, ...]:
    """Output indices in rising order, negative ones counted from the end; default the last.

    Raises:
        InputError: empty, out of range or repeated.
    """
    wanted = [num - 1] if indices is None else [i + num if i < 0 else i for i in indices]
    if not wanted or wanted != sorted(set(wanted)) or wanted[0] < 0 or wanted[-1] >= num:
        raise InputError(
            f"{name}: out_indices {list(indices or [])}, expected rising numbers from 0 to {num - 1}; correct the list"
        )
    return tuple(wanted)
