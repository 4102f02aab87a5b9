"""SkySense's encoder: each modality in space, aligned onto one position grid, then fused over time and modality.

Source: SkySense (arXiv 2312.10115) section 3.1-3.2; module table of its code release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from skyframe.config.skysense import EncoderConfig, ModelConfig
from skyframe.model import ENCODERS
from skyframe.model.decoder import UpHead
from skyframe.model.geo_context import GeoContext
from skyframe.model.stem import normalise, position_valid
from skyframe.model.swin import SwinV2
from skyframe.model.temporal import DateEncoding, TemporalFusion
from skyframe.model.vit import ViT
from skyframe.randomness import Draw, hash64
from skyframe.sample import Batch, Features, SeriesBatch, Tokens
from skyframe.spec import InputError, Modality, did_you_mean

BASE_GSD_M = 10.0
"""Ground size of one position: a Sentinel pixel."""


def build_encoder(config: EncoderConfig, num_bands: int, seed: int, where: str) -> ViT | SwinV2:
    """A spatial encoder from its recipe entry; `where` names the entry in errors."""
    if config.encoder not in ENCODERS:
        raise InputError(
            f"{where}.encoder: {config.encoder!r} is not one of "
            f"{', '.join(ENCODERS)}{did_you_mean(config.encoder, ENCODERS)}"
        )
    if config.encoder == "vit" and len(config.depths) + len(config.num_heads) != 2:
        raise InputError(
            f"{where}: depths {list(config.depths)} and num_heads {list(config.num_heads)}, expected one of each; "
            "a ViT has one stage"
        )
    if config.encoder == "swin_v2":
        return SwinV2(
            num_bands,
            config.embed_dims,
            config.depths,
            config.num_heads,
            window_size=config.window_px,
            patch_size=config.patch_px,
            extra_norm_every=config.extra_norm_every,
            drop_path=config.drop_path,
            seed=seed,
        )
    return ViT(
        num_bands,
        config.embed_dims,
        config.depths[0],
        config.num_heads[0],
        patch_size=config.patch_px,
        table_side=config.train_px // config.patch_px,
        drop_path=config.drop_path,
        norm_eps=config.norm_eps,
        seed=seed,
    )


def build_fusion(config: ModelConfig, seed: int) -> TemporalFusion:
    """The fusion transformer of a model."""
    f = config.fusion
    return TemporalFusion(
        config.aligned_dims, f.embed_dims, f.num_layers, f.num_heads, drop_path=f.drop_path, seed=seed
    )


def _seed(seed: int, *names: str) -> int:
    """Every part has its own initial weights."""
    return hash64(seed, *names) % 2**31


class SpatialEncoder(nn.Module):
    """One modality's normaliser and image encoder; frames are encoded one by one, absent ones not at all."""

    def __init__(self, modality: Modality, config: EncoderConfig, seed: int = 0) -> None:
        super().__init__()
        if not modality.mean or not modality.std:
            raise InputError(
                f"{modality.name}: the spec gives no mean and std, which the normaliser needs; run statistics and "
                "add them"
            )
        self.modality = modality
        self.encoder = build_encoder(config, len(modality.bands), seed, f"model.encoders.{modality.name}")
        self.num_features: int = self.encoder.num_features
        self.up_scale = self._up_scale(config)

    def _up_scale(self, config: EncoderConfig) -> int:
        """How many positions of 10 m one encoder token spans along a side."""
        positions = self.encoder.stride * self.modality.gsd_m / BASE_GSD_M
        if positions < 1 or positions != int(positions):
            raise InputError(
                f"{self.modality.name}: encoder stride {self.encoder.stride} px x GSD {self.modality.gsd_m:g} m "
                f"spans {positions:g} positions of "
                f"{BASE_GSD_M:g} m, expected a whole number >= 1 (the high-resolution side must be 32 x the Sentinel "
                "side); "
                "ingest at GSD 0.3125 m or change patch_px"
            )
        return int(positions)

    def side(self, series: SeriesBatch) -> int:
        """Side s of the position grid that this series covers."""
        height, width = series.values.shape[-2:]
        side = height * self.modality.gsd_m / BASE_GSD_M
        if height != width or side != int(side):
            raise InputError(
                f"{self.modality.name}: got {height} x {width} pixels of {self.modality.gsd_m:g} m, "
                f"expected a square that is a whole number of {BASE_GSD_M:g} m positions"
            )
        return int(side)

    def forward(self, series: SeriesBatch, drop: Draw | None = None) -> tuple[Tensor, Tensor]:
        """Encode the frames that hold anything valid.

        Args:
            series: stored units, `[B, T, C, H, W]`.
            drop: stream for drop path, None in evaluation.

        Returns:
            Tokens `[B, T, n, D]` of the encoder's own grid (zeros for empty frames) and frame flags bool `[B, T]`.
        """
        frames, keep, frame_drop = self._frames(series, drop)
        return _dated(self.encoder(frames, frame_drop), keep, series), series.valid.flatten(2).any(-1)

    def _frames(self, series: SeriesBatch, drop: Draw | None) -> tuple[Tensor, Tensor, Draw | None]:
        """Normalised frames `[F, C, H, W]` that hold anything valid, their numbers in `(B T)`, and their stream."""
        m = self.modality
        pixels = normalise(series.values, series.valid, series.bands, m.mean, m.std, m.scale, m.offset)
        keep = series.valid.flatten(2).any(-1).flatten().nonzero().flatten()
        if len(keep) == 0:  # run on one empty frame, so that every parameter still gets a (zero) gradient
            keep = torch.zeros(1, dtype=torch.int64, device=keep.device)
        frames = rearrange(pixels, "b t c h w -> (b t) c h w")[keep]
        times = series.day.shape[1]
        return frames, keep, None if drop is None else Draw(drop.key, drop.counters.repeat_interleave(times)[keep])

    def levels(self, series: SeriesBatch, drop: Draw | None = None) -> list[Tensor]:
        """Tokens `[B, T, n_l, D_l]` of the encoder's `levels`, zeros for empty frames; the last are `forward`'s."""
        frames, keep, frame_drop = self._frames(series, drop)
        maps = self.encoder.maps(frames, frame_drop, self.encoder.levels)
        return [_dated(rearrange(m, "f d h w -> f (h w) d"), keep, series) for m in maps]

    def level_maps(self, levels: Sequence[Tensor], series: SeriesBatch) -> list[Tensor]:
        """What `levels` returned as maps `[B, D_l, h_l, w_l]` that cover the series exactly: the mean over valid dates.

        A map whose last tokens reach beyond the input is repeated onto the positions and cut, as in `encode`.
        """
        flags = series.valid.flatten(2).any(-1)
        share = flags.float() / flags.float().sum(1, keepdim=True).clamp_min(1)
        side, pixels, made = self.side(series), series.values.shape[-1], []
        for tokens, stride in zip(levels, self.encoder.strides, strict=False):
            rows = -(-pixels // stride)
            found = rearrange(torch.einsum("btnd,bt->bnd", tokens, share), "b (h w) d -> b d h w", h=rows)
            if rows * stride != pixels:
                k = round(stride * self.modality.gsd_m / BASE_GSD_M)
                found = found.repeat_interleave(k, 2).repeat_interleave(k, 3)[:, :, :side, :side]
            made.append(found)
        return made

    def maps(self, batch: Batch, source: str = "", drop: Draw | None = None) -> list[Tensor]:
        """Maps `[B, D_l, h_l, w_l]` of several depths, fine to coarse where the encoder coarsens.

        Args:
            batch: stored units.
            source: not used, as there is one modality.
            drop: stream for drop path, None in evaluation.
        """
        series = self._own(batch)
        return self.level_maps(self.levels(series, drop), series)

    def token_grid(self, series: SeriesBatch) -> tuple[int, int]:
        """Rows and columns of the encoder's tokens for this series."""
        height, width = series.values.shape[-2:]
        return self.encoder.grid(height, width)

    def encode(self, batch: Batch) -> Features:
        """Features of this encoder alone: the mean over valid dates, each token repeated onto the positions it spans.

        Raises:
            InputError: the batch has not this modality.
        """
        name, series = self.modality.name, self._own(batch)
        fused, seen = self.over_dates(series, *self(series))
        return Features(
            fused, masked_mean(fused, seen), {name: Tokens(fused[:, None], seen[:, None], series.day[:, :1])}
        )

    def over_dates(self, series: SeriesBatch, tokens: Tensor, flags: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of `forward`'s tokens over valid dates, on the position grid `[B, N, D]`, and what was seen `[B, N]`."""
        side, (rows, columns) = self.side(series), self.token_grid(series)
        share = flags.float() / flags.float().sum(1, keepdim=True).clamp_min(1)
        mean = torch.einsum("btnd,bt->bnd", tokens, share)
        grid = rearrange(mean, "b (h w) d -> b h w d", h=rows, w=columns)
        grid = grid.repeat_interleave(self.up_scale, 1).repeat_interleave(self.up_scale, 2)[:, :side, :side]
        fused = rearrange(grid, "b h w d -> b (h w) d").contiguous()
        return fused, position_valid(series.valid, side).any(1)

    def _own(self, batch: Batch) -> SeriesBatch:
        name = self.modality.name
        if name not in batch.series:
            raise InputError(
                f"encoder_{name}: the batch has no {name!r}, only {', '.join(batch.series) or 'nothing'}; collate with "
                "the contract's layouts"
            )
        return batch.series[name]


class FactorisedEncoder(nn.Module):
    """Spatial encoders -> aligned tokens -> fusion over time and modality -> region context."""

    def __init__(
        self, modalities: Mapping[str, Modality], config: ModelConfig, num_regions: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.spatial = nn.ModuleDict(
            {n: SpatialEncoder(m, config.encoders[n], _seed(seed, n)) for n, m in modalities.items()}
        )
        self.align = nn.ModuleDict()
        for name, encoder in self.encoders.items():
            same = encoder.up_scale == 1 and encoder.num_features == config.aligned_dims
            self.align[name] = (
                nn.Identity()
                if same
                else UpHead(encoder.num_features, config.aligned_dims, encoder.up_scale, _seed(seed, name, "align"))
            )
        self.dates = DateEncoding(config.aligned_dims, config.date_std, _seed(seed, "dates"))
        self.dated = frozenset(config.dates or modalities)
        f = config.fusion
        self.fusion = build_fusion(config, _seed(seed, "fusion"))
        self.chunk = f.chunk
        g = config.geo
        self.geo = (
            GeoContext(f.embed_dims, num_regions, g.num_prototypes, g.dims, seed=_seed(seed, "geo"))
            if g.enabled
            else None
        )
        self.num_features = f.embed_dims * (2 if g.enabled else 1)

    @property
    def encoders(self) -> dict[str, SpatialEncoder]:
        """Spatial encoders by modality."""
        return {name: cast(SpatialEncoder, module) for name, module in self.spatial.items()}

    @property
    def modalities(self) -> dict[str, Modality]:
        """Canonical modalities by name, in the order of the recipe."""
        return {name: encoder.modality for name, encoder in self.encoders.items()}

    def tokens(
        self, batch: Batch, drop: Draw | None = None, known: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tokens]:
        """Aligned tokens `[B, T, s*s, aligned_dims]` of every modality, without dates.

        Args:
            batch: stored units.
            drop: stream for drop path, None in evaluation.
            known: what the spatial encoders answer, where it has been computed already.

        Raises:
            InputError: a modality is missing from the batch, or their sides disagree.
        """
        made, sides = {}, {}
        for name, encoder in self.encoders.items():
            if name not in batch.series:
                raise InputError(
                    f"model: the batch has no {name!r}, expected {', '.join(self.spatial)}; collate with the "
                    "contract's layouts"
                )
            series = batch.series[name]
            sides[name] = encoder.side(series)
            if len(set(sides.values())) > 1:
                shown = ", ".join(f"{n} {s} x {s}" for n, s in sides.items())
                raise InputError(
                    f"model: modalities cover different numbers of 10 m positions ({shown}); the high-resolution "
                    "side must be "
                    "32 x the Sentinel side, and all Sentinel sides equal"
                )
            raw = (known or {}).get(name)
            if raw is None:
                raw, _ = encoder(series, None if drop is None else drop.named(name))
            made[name] = self.aligned_tokens(name, raw, series)
        return made

    def aligned_tokens(self, name: str, raw: Tensor, series: SeriesBatch) -> Tokens:
        """A spatial encoder's tokens `[B, T, n, D]` brought onto the position grid."""
        encoder = self.encoders[name]
        side = encoder.side(series)
        values = self._aligned(name, raw, side, encoder.token_grid(series))
        return Tokens(values, position_valid(series.valid, side), series.day)

    def _aligned(self, name: str, raw: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
        """Encoder tokens onto the position grid; rows and columns beyond it come from padding and are cut off."""
        head = self.align[name]
        if not isinstance(head, UpHead):
            return raw
        flat = head(rearrange(raw, "b t n d -> (b t) n d"), grid, (side, side))
        return rearrange(flat, "(b t) n d -> b t n d", t=raw.shape[1])

    def fuse(self, tokens: Mapping[str, Tokens], drop: Draw | None = None) -> tuple[Tensor, Tensor]:
        """F_fus^mm: one vector per position from all dates of all modalities.

        Returns:
            `[B, N, D]` and bool `[B, N]`, True where anything was valid. A position where nothing is valid gets the
            extra token's own answer, which is finite and the same everywhere.
        """
        dated = [t.values + self.dates(t.day)[:, :, None] if n in self.dated else t.values for n, t in tokens.items()]
        values = torch.cat(dated, 1)
        valid = torch.cat([t.valid for t in tokens.values()], 1)
        b, _, n, _ = values.shape
        rows = rearrange(values, "b t n d -> (b n) t d")
        flags = rearrange(valid, "b t n -> (b n) t")
        fused = self.fusion(rows, flags, None if drop is None else drop.named("fusion").repeat(n), chunk=self.chunk)
        return rearrange(fused, "(b n) d -> b n d", b=b), reduce(valid, "b t n -> b n", "max")

    def with_context(self, fused: Tensor, region: Tensor) -> Tensor:
        """F_fus = [F_fus^mm, region context] `[B, N, 2 D]`, or F_fus^mm alone without geo-context."""
        return fused if self.geo is None else torch.cat([fused, self.geo.read(fused, region)], -1)

    def forward(self, batch: Batch, drop: Draw | None = None) -> tuple[dict[str, Tokens], Tensor, Tensor]:
        """Aligned tokens by modality, F_fus^mm `[B, N, D]` and its validity `[B, N]`."""
        tokens = self.tokens(batch, drop)
        fused, valid = self.fuse(tokens, drop)
        return tokens, fused, valid

    def encode(self, batch: Batch) -> Features:
        """What evaluation sees; positions where nothing is valid do not count in the pooled vector."""
        tokens, fused, valid = self(batch)
        full = self.with_context(fused, batch.region)
        return Features(full, masked_mean(full, valid), tokens, context_dims=full.shape[-1] - fused.shape[-1])

    def maps(self, batch: Batch, source: str = "", drop: Draw | None = None) -> list[Tensor]:
        """Maps `[B, D_l, h_l, w_l]`: the earlier depths of one spatial encoder, then the fused map of all positions.

        Args:
            batch: stored units.
            source: modality whose encoder gives the earlier depths; the first of the recipe by default.
            drop: stream for drop path, None in evaluation.

        Raises:
            InputError: as `tokens`, or a source that the model has not.
        """
        name = source or next(iter(self.spatial))
        if name not in self.spatial or name not in batch.series:
            raise InputError(
                f"maps: no modality {name!r} in model and batch, expected one of {', '.join(self.spatial)}"
            )
        encoder, series = self.encoders[name], batch.series[name]
        levels = encoder.levels(series, None if drop is None else drop.named(name))
        fused, _ = self.fuse(self.tokens(batch, drop, {name: levels[-1]}), drop)
        full = self.with_context(fused, batch.region)
        return [
            *encoder.level_maps(levels[:-1], series),
            rearrange(full, "b (h w) d -> b d h w", h=encoder.side(series)),
        ]

    def prototype_map(self, batch: Batch) -> Tensor:
        """Index of the nearest prototype of the place's region per position, int64 `[B, N]`, -1 in an unseen region."""
        if self.geo is None:
            raise InputError("prototype_map: this encoder was trained without geo-context (model.geo.enabled=false)")
        return self.geo.nearest(self(batch)[1], batch.region)


def _dated(tokens: Tensor, keep: Tensor, series: SeriesBatch) -> Tensor:
    """Tokens `[F, n, D]` of the frames numbered `keep` as `[B, T, n, D]`, zeros for the others."""
    b, t = series.day.shape
    full = tokens.new_zeros((b * t, *tokens.shape[1:])).index_copy(0, keep, tokens)
    return rearrange(full, "(b t) n d -> b t n d", b=b)


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over N of `[B, N, D]` where `valid` `[B, N]`; over all N where nothing is valid, so it is always finite."""
    share = torch.where(valid.any(-1, keepdim=True), valid, torch.ones_like(valid)).to(values.dtype)
    return torch.einsum("bnd,bn->bd", values, share) / share.sum(-1, keepdim=True)
