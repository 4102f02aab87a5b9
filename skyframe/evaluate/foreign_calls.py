"""How modules of others are asked: plainly, as timm's, as Presto, as Galileo.

Presto and Galileo see months: acquisitions of one month are averaged where valid, at most twelve from the first month
on; a series without dates is taken as one January. What they could be fed and a benchmark does not hold (ERA5, Dynamic
World, night lights, population) is masked, as their authors do.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from skyframe.calendar import DAY_UNKNOWN
from skyframe.config.foreign import ForeignConfig
from skyframe.evaluate.foreign import Call, Frames
from skyframe.spec import InputError

MONTHS = 12
S1 = ("VV", "VH")
S2 = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
GROUPS = ((0, 1), (2, 3, 4), (5, 6, 7), (8,), (9,), (10, 11), (-1,))
"""Channels that share a token, of S1, S2 and the vegetation index; equal in Presto and Galileo."""
GALILEO_NDVI = 0.2892116502999044 - 2 * 0.2720939024500081, 4 * 0.2720939024500081
"""Mean less two standard deviations, and four: the normaliser of its authors' `config/normalization.json`."""
NO_DYNAMIC_WORLD = 9
"""Presto's number for a land cover that is not known."""


def call_of(config: ForeignConfig) -> Call:
    """The way that a YAML names.

    Raises:
        InputError: a modality that this way does not take.
    """
    if config.call in ("presto", "galileo"):
        wanted = {"s1": S1, "s2": S2}
        for name, modality in config.modalities.items():
            if modality.band_names != wanted.get(name):
                raise InputError(
                    f"{config.name}: {name} has bands {', '.join(modality.band_names)}, expected s1 with "
                    f"{', '.join(S1)} and s2 with {', '.join(S2)}, which {config.call} takes in this order"
                )
    if config.call == "presto":
        return presto
    if config.call == "galileo":
        return partial(galileo, patch_px=config.patch_px)
    return partial(timm, skip=config.skip_tokens) if config.call == "timm" else plain


def plain(module: nn.Module, frames: dict[str, Frames], place: Tensor) -> Tensor:
    """`module(image [B, C, H, W])` of the only modality, its dates averaged."""
    return module(_only(frames))  # type: ignore[no-any-return]


def timm(module: nn.Module, frames: dict[str, Frames], place: Tensor, skip: int = 1) -> Tensor:
    """`module.forward_features(image)`: tokens `[B, skip + h * w, D]` or a map `[B, D, h, w]`."""
    found: Tensor = module.forward_features(_only(frames))  # type: ignore[operator]
    if found.ndim == 4:
        return found
    tokens = found[:, skip:]
    side = round(tokens.shape[1] ** 0.5)
    if side**2 != tokens.shape[1]:
        raise InputError(f"timm: {tokens.shape[1]} tokens of places, expected a square; correct skip_tokens")
    return rearrange(tokens, "b (h w) d -> b d h w", h=side)


def presto(module: nn.Module, frames: dict[str, Frames], place: Tensor) -> Tensor:
    """Presto on every pixel by itself, features `[B, D, H, W]`.

    It takes rows of equally many hidden tokens only, so rows are grouped by their number.

    Source: Tseng et al., Presto, 2023; the interface of its `single_file_presto.py`.
    """
    values, seen, months = _monthly(frames)
    batch, num, _, height, width = values.shape
    ndvi, known = _ndvi(frames, values, seen)
    others = values.new_zeros(batch, num, 4, height, width)  # ERA5 and SRTM
    x = torch.cat([values, others, ndvi], 2)
    missing = torch.cat([~seen, torch.ones_like(others, dtype=torch.bool), ~known], 2)
    pixels, hidden = (rearrange(a.float(), "b t c h w -> (b h w) t c") for a in (x, missing))
    each = height * width
    latlon = repeat(place.nan_to_num().float().to(x.device), "b c -> (b n) c", n=each)
    month = repeat(months[:, 0], "b -> (b n)", n=each)
    count = torch.stack([hidden[..., list(g)].amax(-1).sum(1) for g in GROUPS], 1).sum(1)
    made = x.new_zeros(len(pixels), 0)
    for number in count.unique():
        rows = torch.nonzero(count == number).flatten()
        unknown = torch.full((len(rows), num), NO_DYNAMIC_WORLD, dtype=torch.long, device=x.device)
        found: Tensor = module.encoder(  # type: ignore[operator, union-attr]
            pixels[rows], unknown, latlon[rows], mask=hidden[rows], month=month[rows], eval_task=True
        )
        if not made.shape[1]:
            made = found.new_zeros(len(pixels), found.shape[1])
        made = made.index_copy(0, rows, found)
    return rearrange(made, "(b h w) d -> b d h w", h=height, w=width)


def galileo(module: nn.Module, frames: dict[str, Frames], place: Tensor, patch_px: int = 8) -> Tensor:
    """Galileo's space-time tokens averaged over dates and band groups, features `[B, D, h, w]` by patch.

    A patch of which less than half was seen is hidden.

    Source: Tseng et al., Galileo, ICML 2025; the interface of its `single_file_galileo.py`.
    """
    values, seen, months = _monthly(frames)
    batch, num, _, height, width = values.shape
    patch = next(p for p in range(min(patch_px, height), 0, -1) if height % p == 0 and width % p == 0)
    ndvi, known = _ndvi(frames, values, seen, *GALILEO_NDVI)
    x = rearrange(torch.cat([values, ndvi], 2), "b t c h w -> b h w t c")
    there = torch.cat([seen, known], 2)
    groups = torch.stack([there[:, :, list(g)].all(2) for g in GROUPS], 2).float()
    share = reduce(groups, "b t g (h p) (w q) -> b h w t g", "mean", p=patch, q=patch)
    hidden = repeat((share < 0.5).float(), "b h w t g -> b (h p) (w q) t g", p=patch, q=patch)
    zeros, ones = values.new_zeros, values.new_ones
    made = module(
        *(x, zeros(batch, height, width, 16), zeros(batch, num, 6), zeros(batch, 18)),
        *(hidden, ones(batch, height, width, 3), ones(batch, num, 3), ones(batch, 4)),
        months,
        patch_size=patch,
    )
    tokens, weight = made[0], (made[4] == 0).float()[..., None]
    averaged = (tokens * weight).sum((3, 4)) / weight.sum((3, 4)).clamp_min(1)
    return rearrange(averaged, "b h w d -> b d h w")


def _only(frames: dict[str, Frames]) -> Tensor:
    """The image of the only modality; of several dates the mean where valid."""
    if len(frames) != 1:
        raise InputError(f"call: {', '.join(frames)}, expected one modality; write your own call in Python")
    one = next(iter(frames.values()))
    return one.values.sum(1) / one.valid.sum(1).clamp_min(1)


def _monthly(frames: dict[str, Frames]) -> tuple[Tensor, Tensor, Tensor]:
    """S1 and S2 `[B, M, 12, H, W]` by month, which of it was seen, and the months of the year `[B, M]` from 0."""
    some = next(iter(frames.values()))
    batch, _, _, height, width = some.values.shape
    numbers = {name: _month_numbers(f.day) for name, f in frames.items()}
    known = torch.cat([torch.where(n >= 0, n, 2**30) for n in numbers.values()], 1)
    first = known.amin(1, keepdim=True)
    first = torch.where(first == 2**30, 0, first)
    at = {name: torch.where(n >= 0, n - first, 0) for name, n in numbers.items()}
    last = max(int(torch.where(f.valid.flatten(2).any(2), at[n], 0).max()) for n, f in frames.items())
    num = min(last + 1, MONTHS)
    values = some.values.new_zeros(batch, num, len(S1) + len(S2), height, width)
    seen = torch.zeros_like(values, dtype=torch.bool)
    for name, f in frames.items():
        chosen = torch.nn.functional.one_hot(at[name].clamp(0, num).long(), num + 1)[..., :num].float()
        total = torch.einsum("btm,btchw->bmchw", chosen, f.values)
        count = torch.einsum("btm,btchw->bmchw", chosen, f.valid.float())
        span = slice(0, len(S1)) if name == "s1" else slice(len(S1), None)
        values[:, :, span], seen[:, :, span] = total / count.clamp_min(1), count > 0
    months = (first + torch.arange(num, device=first.device)) % 12
    return values, seen, months


def _month_numbers(day: Tensor) -> Tensor:
    """Months since January 2000 `[B, T]`, -1 where the day is unknown."""
    days = day.cpu().numpy().astype(np.int64)
    known = days != DAY_UNKNOWN
    dates = np.datetime64("2000-01-01") + np.where(known, days, 0).astype("timedelta64[D]")
    months = (dates.astype("datetime64[M]") - np.datetime64("2000-01")).astype(np.int64)
    return torch.from_numpy(np.where(known, months, -1)).to(day.device)


def _ndvi(
    frames: dict[str, Frames], values: Tensor, seen: Tensor, lowest: float = 0.0, spread: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Vegetation index of physical B08 and B04, as (index - lowest) / spread, and where it is known."""
    red, nir = (len(S1) + S2.index(b) for b in ("B04", "B08"))
    index, known = torch.zeros_like(values[:, :, :1]), torch.zeros_like(seen[:, :, :1])
    if "s2" not in frames:
        return index, known
    stored = frames["s2"].modality
    low, high = (values[:, :, k] * stored.std[k - len(S1)] + stored.mean[k - len(S1)] for k in (red, nir))
    total = high + low
    index = torch.where(total > 0, (high - low) / total.clamp_min(1e-6), 0.0)
    known = seen[:, :, red] & seen[:, :, nir]
    return torch.where(known, (index - lowest) / spread, 0.0)[:, :, None], known[:, :, None]
