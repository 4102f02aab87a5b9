"""Encoders of others with the interfaces of timm, Presto and Galileo, a few hundred weights each."""

from typing import Any

import torch
from torch import Tensor, nn


class TinyViT(nn.Module):
    """timm's `forward_features`: a class token and one token per 4 x 4 patch."""

    def __init__(self, bands: int = 3, width: int = 6) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(bands, width, 4, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.norm = nn.LayerNorm(width)

    def forward_features(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        return self.norm(torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1))  # type: ignore[no-any-return]


class PrestoEncoder(nn.Module):
    """Mean over the channels that are not hidden; as Presto it takes rows of equally many hidden tokens only."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.rows: list[int] = []

    def forward(self, x: Tensor, dynamic_world: Tensor, latlons: Tensor, mask: Any, month: Any, eval_task: bool) -> Any:
        assert x.shape[2] == 17 and mask.shape == x.shape and bool((dynamic_world == 9).all()) and eval_task
        groups = ((0, 1), (2, 3, 4), (5, 6, 7), (8,), (9,), (10, 11), (12, 13), (14, 15), (16,))
        hidden = torch.stack([mask[..., list(g)].amax(-1) for g in groups], -1).sum((1, 2))
        assert len(hidden.unique()) == 1
        self.rows.append(len(x))
        kept = 1 - mask
        mean = (x * kept).sum((1, 2)) / kept.sum((1, 2)).clamp_min(1)
        return torch.stack([mean, latlons[:, 0], month.float(), kept[..., 16].sum(1)], 1) * self.scale


class Presto(nn.Module):
    """Weights below `encoder`, made by `construct`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = PrestoEncoder()

    @classmethod
    def construct(cls) -> "Presto":
        return cls()


class GalileoEncoder(nn.Module):
    """Tokens `[B, h, w, T, 7, D]` of what is not hidden, by patches."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, *inputs: Tensor, patch_size: int) -> Any:
        s_t_x, sp_x, t_x, st_x, s_t_m, sp_m, t_m, st_m, months = inputs
        batch, height, width, num, bands = s_t_x.shape
        assert bands == 13 and s_t_m.shape[-1] == 7 and months.shape == (batch, num)
        assert (sp_x.shape[-1], t_x.shape[-1], st_x.shape[-1]) == (16, 6, 18)
        assert bool((sp_m == 1).all()) and bool((t_m == 1).all()) and bool((st_m == 1).all())
        p = patch_size
        mean = s_t_x.reshape(batch, height // p, p, width // p, p, num, bands).mean((2, 4, 6))
        when = months[:, None, None].float().expand_as(mean)
        tokens = (torch.stack([mean, when], -1)[..., None, :] * self.scale).expand(-1, -1, -1, -1, 7, -1)
        return tokens, sp_x, t_x, st_x, s_t_m[:, ::p, ::p], sp_m, t_m, st_m, months
