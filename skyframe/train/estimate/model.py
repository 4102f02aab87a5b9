"""A recipe's system and batch on the meta device, where a 2 B model takes no memory and seconds to walk through."""

from __future__ import annotations

import torch
from torch import Tensor

from skyframe.config.skysense import SkySenseRecipe
from skyframe.data.layout import layouts_for, select_modalities
from skyframe.data.photometric import photometric
from skyframe.data.views import make_views
from skyframe.geography import RegionIndex
from skyframe.randomness import Draw, hash64
from skyframe.sample import Batch, SeriesBatch
from skyframe.spec import CubeSpec
from skyframe.system import SYSTEMS
from skyframe.system.skysense import SkySense


def system_on_meta(recipe: SkySenseRecipe) -> SkySense:
    """The recipe's whole system, student, teacher, heads and bank, without values.

    The bank has as many regions as the recipe or the spec asks for; `equal_area` regions are known only from cubes, and
    then the number asked for stands in.
    """
    grid = recipe.data.regions or CubeSpec.load(recipe.data.spec).regions
    regions = RegionIndex(boxes=((0.0, 0.0, 1.0, 1.0),) * grid.num_regions)
    with torch.device("meta"):
        return SYSTEMS[recipe.system](recipe, select_modalities(recipe.data), regions)


def windows_on_meta(recipe: SkySenseRecipe, size: int) -> Batch:
    """A batch of `size` whole windows in stored dtypes, every date and modality there."""
    data = recipe.data
    layouts = layouts_for(select_modalities(data), data.frames, data.window_px)
    with torch.device("meta"):
        series = {}
        for name, m in layouts.items():
            shape = (size, m.num_dates, m.num_bands, m.side_px, m.side_px)
            series[name] = SeriesBatch(
                torch.empty(shape, dtype=getattr(torch, m.dtype)),
                torch.empty(shape[:2] + shape[3:], dtype=torch.bool),
                torch.empty(shape[:2], dtype=torch.int32),
                torch.empty((size, m.num_bands), dtype=torch.bool),
            )
        whole = torch.empty(size, dtype=torch.int64)
        return Batch(series, torch.empty((size, 2), dtype=torch.float64), whole, whole.clone(), whole.clone())


def loss_of(recipe: SkySenseRecipe, system: SkySense, windows: Batch) -> Tensor:
    """The weighted sum of a micro-step from stored windows on, as in training."""
    modalities = select_modalities(recipe.data)
    views = make_views(windows, recipe.views, recipe.data.window_px, recipe.seed)
    changed = tuple(
        photometric(v, modalities, recipe.views, Draw(hash64(recipe.seed, i), (v.epoch << 40) + v.index))
        for i, v in enumerate(views)
    )
    weights = system.weights()
    return torch.stack([weights[name] * value for name, value in system.losses(changed).items()]).sum()


def tokens_of(recipe: SkySenseRecipe, system: SkySense) -> tuple[int, int]:
    """Tokens of a sample in one pass, student and teacher together, all dates there.

    Returns:
        Patches that enter the spatial encoders, and tokens that enter the fusion, its extra token included.
    """
    views, dates, patches, local = recipe.views, 1, 0, 0  # the extra token stands for a date
    for name, m in layouts_for(system.student.modalities, recipe.data.frames, views.crop_px).items():
        rows, columns = system.student.encoders[name].encoder.patch.grid(m.side_px, m.side_px)
        patches, dates = patches + m.num_dates * rows * columns, dates + m.num_dates
        if name == "hr":
            local = views.local_crops * rows * columns * views.local_px**2 // views.crop_px**2
    fused = max(1, round(recipe.model.fusion.positions * views.crop_px**2)) * dates
    turns = 2 if recipe.loss.symmetric else 1
    return turns * (2 * patches + local), turns * 2 * fused
