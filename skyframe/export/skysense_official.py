"""SkySense's published weight layout, read and written: weights travel both ways.

`build` makes one of our modules from a state dict with the authors' keys; `to_official` writes that layout back, bit
for bit; `split_checkpoint` takes the published files apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from skyframe.calendar import DATE_ROWS
from skyframe.model.decoder import UpHead
from skyframe.model.swin import SwinV2
from skyframe.model.temporal import TemporalFusion
from skyframe.model.vit import ViT
from skyframe.spec import InputError, did_you_mean

StateDict = Mapping[str, Tensor]

_VIT: dict[str, Any] = {
    "embed_dims": 1024,
    "num_layers": 24,
    "num_heads": 16,
    "out_indices": (-1,),
    "patch_size": 4,
    "in_channels": 10,
    "train_img_size": (64, 64),
    "norm_eps": 1e-5,
    "output_layout": "B C H W",
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "hr": {
        "embed_dims": 352,
        "depths": (2, 2, 18, 2),
        "num_heads": (8, 16, 32, 64),
        "extra_norm_every_n_blocks": 6,
        "window_size": 8,
        "patch_size": 4,
        "in_channels": 3,
        "out_indices": (0, 1, 2, 3),
        "output_layout": "B C H W",
    },
    "s2": _VIT,
    "s1": {**_VIT, "in_channels": 2},
    "fusion": {
        "input_dims": 2816,
        "embed_dims": 1024,
        "num_layers": 24,
        "num_heads": 16,
        "output_cls_token": True,
        "input_layout": "positions tokens channels",
    },
    "up_head": {"in_dim": 1024, "out_dim": 2816, "up_scale": 4},
}
"""Configuration keys of each kind, with the values of the published weights."""

_FIXED = {"output_layout": "B C H W", "output_cls_token": True, "input_layout": "positions tokens channels"}
"""Keys that describe what the authors' classes could do otherwise; ours does exactly this."""

_TRANSFORMER = (
    (r"^layers\.(\d+)\.norm([12])\.", r"layers.\1.ln\2."),
    (r"\.attn\.qkv_(weight|bias)$", r".attn.attn.in_proj_\1"),
    (r"\.attn\.out\.", r".attn.attn.out_proj."),
    (r"\.ffn\.up\.", r".ffn.layers.0.0."),
    (r"\.ffn\.down\.", r".ffn.layers.1."),
)
_PATCH = ((r"^patch\.(weight|bias)$", r"patch_embed.projection.\1"),)
_RENAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "hr": (
        *_PATCH,
        (r"^patch_norm\.", r"patch_embed.norm."),
        (r"^norms\.(\d+)\.", r"norm\1."),
        (r"\.attn\.", r".attn.w_msa."),
        (r"\.qkv_weight$", r".qkv.weight"),
        (r"\.position_bias\.up_(weight|bias)$", r".cpb_mlp.0.\1"),
        (r"\.position_bias\.down_weight$", r".cpb_mlp.2.weight"),
        (r"\.ffn\.up\.", r".ffn.layers.0.0."),
        (r"\.ffn\.down\.", r".ffn.layers.1."),
    ),
    "s2": (*_PATCH, *_TRANSFORMER),
    "s1": (*_PATCH, *_TRANSFORMER),
    "fusion": (*_TRANSFORMER, (r"^proj\.", r"porj_linear."), (r"^extra_token$", r"cls_token")),
    "up_head": ((r"^(weight|bias)$", r"decoder.0.\1"),),
}
"""Our key -> the authors' key, by substitution (`porj_linear` is their spelling); its inverse is taken per module."""

_TOLERATED_UNEXPECTED = {"hr": ("mask_token",)}
_TOLERATED_MISSING = {"hr": tuple(f"norm{i}.{key}" for i in range(3) for key in ("weight", "bias"))}


@dataclass(frozen=True)
class LoadReport:
    """What loading tolerated: keys of the file without a place, and places left at identity for lack of a key."""

    unexpected: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class OfficialModule(nn.Module):
    """One of our modules with the authors' calling convention: one input, a tensor or a list of maps.

    `inner` is our module, for everything else; `load_report` says what loading tolerated.
    """

    def __init__(self, kind: str, inner: nn.Module) -> None:
        super().__init__()
        self.kind, self.inner = kind, inner
        self.load_report = LoadReport()

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """hr, s2, s1: `[B, C, H, W]` to maps `[B, D, h, w]`; fusion: `[P, L, D]` to `[P, D]`; up_head: map to map."""
        if isinstance(self.inner, TemporalFusion):
            fused: Tensor = self.inner(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))
            return fused
        if isinstance(self.inner, UpHead):
            height, width = x.shape[-2:]
            tokens = self.inner(rearrange(x, "b c h w -> b (h w) c"), (height, width))
            return rearrange(tokens, "b (h w) c -> b c h w", h=height * self.inner.up_scale)
        assert isinstance(self.inner, SwinV2 | ViT)
        maps = self.inner.maps(x)
        return maps if len(maps) > 1 else maps[0]


def build(kind: str, state_dict: StateDict, **config: Any) -> OfficialModule:
    """Make a module from the authors' weights, strictly.

    Args:
        kind: hr, s2, s1, fusion or up_head.
        state_dict: the authors' keys without file prefix (see `split_checkpoint`).
        config: keys of `DEFAULTS[kind]`; those left out have the published values.

    Returns:
        The module in eval mode, float32, called on one input. Its `load_report` lists what was tolerated, which is
        exactly: an unexpected `mask_token`, and missing `norm0..norm2` (left at identity), both of `hr` alone.

    Raises:
        InputError: unknown kind or key, a value that our module does not do, or keys or shapes that do not fit.
    """
    if kind not in DEFAULTS:
        raise InputError(
            f"official weights: kind {kind!r} is not one of {', '.join(DEFAULTS)}{did_you_mean(kind, DEFAULTS)}"
        )
    with torch.device("meta"):
        inner = _construct(kind, _checked(kind, config))
    names = official_keys(kind, inner)
    report = _compare(kind, names, inner, state_dict)
    loaded = {}
    for ours, theirs in names.items():
        if theirs in report.missing:
            like = inner.state_dict()[ours]
            loaded[ours] = torch.ones(like.shape) if ours.endswith("weight") else torch.zeros(like.shape)
        else:
            value = state_dict[theirs].detach().to("cpu", torch.float32)
            loaded[ours] = _to_ours(kind, ours, value, inner).contiguous().clone()
    inner.load_state_dict(loaded, strict=True, assign=True)
    module = OfficialModule(kind, inner.requires_grad_(True))
    module.load_report = report
    return module.eval()


def to_official(kind: str, module: nn.Module) -> dict[str, Tensor]:
    """Weights of a module in the authors' layout; the inverse of `build`, bit for bit.

    Args:
        kind: hr, s2, s1, fusion or up_head.
        module: what `build` returned, or our SwinV2, ViT, TemporalFusion or UpHead.
    """
    inner = module.inner if isinstance(module, OfficialModule) else module
    if kind not in DEFAULTS or not isinstance(inner, _CLASSES[kind]):
        fitting = [k for k, c in _CLASSES.items() if isinstance(inner, c)]
        raise InputError(
            f"official weights: kind {kind!r} does not describe a {type(inner).__name__}, "
            f"expected {' or '.join(fitting) or 'a module with an official layout'}; change the kind or the module"
        )
    state = inner.state_dict()
    return {
        theirs: _to_theirs(kind, ours, state[ours].detach(), inner).contiguous().clone()
        for ours, theirs in official_keys(kind, inner).items()
    }


def official_keys(kind: str, inner: nn.Module) -> dict[str, str]:
    """Our key -> the authors' key for every tensor of a module."""
    names = {}
    for ours in inner.state_dict():
        theirs = ours
        for pattern, replacement in _RENAMES[kind]:
            theirs = re.sub(pattern, replacement, theirs)
        names[ours] = theirs
    return names


_PREFIXES = {
    "backbone_gep.": "hr",
    "backbone.": "hr",
    "backbone_s2.": "s2",
    "backbone_s1.": "s1",
    "fusion.": "fusion",
    "head_s2.": "head_s2",
    "head_s1.": "head_s1",
    "head_gep.": "head_gep",
}


def split_checkpoint(state_dict: StateDict, kind: str | None = None) -> dict[str, dict[str, Tensor]]:
    """Take a published file apart.

    Args:
        state_dict: the whole model (`torch.load(path)["model"]`), or one module's file.
        kind: what keys without a prefix belong to (the files of the S2, S1, fusion and head modules have none).

    Returns:
        State dicts by part, keys without prefix: `hr`, `s2`, `s1`, `fusion` for `build`, `head_s2` and `head_s1` for
        `build("up_head", ...)`, `head_gep` as it is, and `ctpe` (its one tensor, for `date_table`). Only those found.

    Raises:
        InputError: a key that belongs to none of them.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state_dict.items():
        prefix = next((p for p in _PREFIXES if key.startswith(p)), None)
        if prefix is not None:
            parts.setdefault(_PREFIXES[prefix], {})[key.removeprefix(prefix)] = value
        elif key == "ctpe":
            parts["ctpe"] = {key: value}
        elif kind is not None:
            parts.setdefault(kind, {})[key] = value
        else:
            raise InputError(
                f"official checkpoint: key {key!r} has none of the prefixes {', '.join(_PREFIXES)}; "
                "say which module a file without prefixes holds (kind)"
            )
    return parts


def date_table(ctpe: Tensor) -> Tensor:
    """Our date table `[367, D]` from the published `[1, 365, D]`: day 366 repeats day 365, the unknown day is zero."""
    if ctpe.ndim != 3 or ctpe.shape[:2] != (1, 365):
        raise InputError(
            f"official date table: expected shape [1, 365, D], got {list(ctpe.shape)}; give the checkpoint's ctpe"
        )
    rows = ctpe[0].detach()
    table = torch.cat([rows, rows[-1:], torch.zeros_like(rows[:1])])
    assert len(table) == DATE_ROWS
    return table


def official_date_table(table: Tensor) -> Tensor:
    """The published `[1, 365, D]` layout of our `[367, D]` table; the two rows that it lacks are left out."""
    return table.detach()[None, :365].clone()


def _construct(kind: str, config: Mapping[str, Any]) -> nn.Module:
    return _MAKERS[kind]({k: v for k, v in config.items() if k not in _FIXED})


def _make_swin(config: dict[str, Any]) -> nn.Module:
    return SwinV2(mask_padding=False, extra_norm_every=config.pop("extra_norm_every_n_blocks"), **config)


def _make_vit(config: dict[str, Any]) -> nn.Module:
    patch, size = config["patch_size"], config.pop("train_img_size")
    rows, columns = (size, size) if isinstance(size, int) else size
    return ViT(table_side=(rows // patch, columns // patch), **config)


_CLASSES: dict[str, type[nn.Module]] = {
    "hr": SwinV2,
    "s2": ViT,
    "s1": ViT,
    "fusion": TemporalFusion,
    "up_head": UpHead,
}
_MAKERS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "hr": _make_swin,
    "s2": _make_vit,
    "s1": _make_vit,
    "fusion": lambda config: TemporalFusion(**config),
    "up_head": lambda config: UpHead(**config),
}


def _checked(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    known = DEFAULTS[kind]
    for key, value in config.items():
        if key not in known:
            raise InputError(
                f"official {kind}: unknown key {key!r}{did_you_mean(key, known)} (known: {', '.join(known)})"
            )
        if key in _FIXED and value != _FIXED[key]:
            raise InputError(
                f"official {kind}: {key} {value!r} is not supported, expected {_FIXED[key]!r}; leave it out"
            )
    return {**known, **config}


def _compare(kind: str, names: Mapping[str, str], inner: nn.Module, state_dict: StateDict) -> LoadReport:
    """Which keys do not fit; raises unless all of them are tolerated."""
    wanted = set(names.values())
    missing = sorted(wanted - set(state_dict))
    unexpected = sorted(set(state_dict) - wanted)
    bad_missing = [k for k in missing if k not in _TOLERATED_MISSING.get(kind, ())]
    bad_unexpected = [k for k in unexpected if k not in _TOLERATED_UNEXPECTED.get(kind, ())]
    if bad_missing or bad_unexpected:
        raise InputError(
            f"official {kind}: the state dict lacks {_some(bad_missing)} and has unexpected {_some(bad_unexpected)}, "
            f"expected {len(wanted)} tensors; check the configuration, or take the file apart with split_checkpoint"
        )
    for ours, like in inner.state_dict().items():
        theirs = names[ours]
        if theirs in missing:
            continue
        shape = tuple(_to_theirs(kind, ours, like, inner).shape)
        if tuple(state_dict[theirs].shape) != shape:
            raise InputError(
                f"official {kind}: {theirs} has shape {list(state_dict[theirs].shape)}, expected {list(shape)}; "
                "check the configuration"
            )
    return LoadReport(unexpected=tuple(unexpected), missing=tuple(missing))


def _some(keys: Sequence[str]) -> str:
    if not keys:
        return "nothing"
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def _to_ours(kind: str, ours: str, value: Tensor, inner: nn.Module) -> Tensor:
    """A tensor of theirs in our order (theirs is channel-major where four positions or r x r pixels are merged)."""
    if isinstance(inner, UpHead):
        rows = value.flatten(1) if value.ndim == 4 else value
        return rearrange(rows, "(c k) ... -> (k c) ...", c=inner.out_dim)
    if kind == "hr" and ours.endswith("downsample.reduction.weight"):
        return rearrange(value, "d (c k) -> d (k c)", k=4)
    return value


def _to_theirs(kind: str, ours: str, value: Tensor, inner: nn.Module) -> Tensor:
    """Inverse of `_to_ours`."""
    if isinstance(inner, UpHead):
        rows = rearrange(value, "(k c) ... -> (c k) ...", c=inner.out_dim)
        return rows[:, :, None, None] if rows.ndim == 2 else rows
    if kind == "hr" and ours.endswith("downsample.reduction.weight"):
        return rearrange(value, "d (k c) -> d (c k)", k=4)
    return value
