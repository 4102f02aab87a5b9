"""Modules: encoders of one image, fusion over dates and modalities, geo-context, heads. They know no store, no loss."""

from __future__ import annotations

from skyframe.model.swin import SwinV2
from skyframe.model.vit import ViT

ENCODERS: dict[str, type[ViT] | type[SwinV2]] = {
    "vit": ViT,
    "swin_v2": SwinV2,
}
"""Encoders by recipe name. Each is `forward(x [B, C, H, W], drop) -> [B, N, D]`, `grid(height, width) -> (h, w)` and
`maps(x, drop) -> [[B, D, h, w], ...]`, with `num_features` (D) and `stride`."""
