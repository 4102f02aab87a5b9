"""Windows and systems with values, every date and pixel there: what the meta device takes for granted."""

from itertools import accumulate

import torch

from skyframe.config import SkySenseRecipe, load_recipe
from skyframe.sample import Batch, SeriesBatch
from skyframe.system.skysense import SkySense
from skyframe.train.estimate.model import system_on_meta, windows_on_meta

TINY = ("views.split_dates=false",)
SMALL = (
    "views.crop_px=4",
    "data.window_px=8",
    "data.stride_px=8",
    "data.frames={s2: 4, s1: 3}",
    "data.regions.num_regions=4",
    "views.local_px=2",
    "model.head.outputs=512",
    "train.devices=1",
    "train.accelerator=cpu",
)


def tiny(*overrides: str) -> SkySenseRecipe:
    """The demo recipe; `views.split_dates` off, as the meta device gives every date to both sides."""
    return load_recipe("skysense_demo", [*TINY, *overrides])


def small(*overrides: str) -> SkySenseRecipe:
    """The small recipe with its 45 M parameters, on views small enough for a CPU."""
    return load_recipe("skysense_small", [*SMALL, *overrides])


def windows(recipe: SkySenseRecipe, size: int) -> Batch:
    """A batch like `windows_on_meta`, with values."""
    torch.manual_seed(1)
    series = {}
    for name, s in windows_on_meta(recipe, size).series.items():
        values = torch.randint(1, 3000, s.values.shape, dtype=torch.int32).to(s.values.dtype)
        day = (8000 + 20 * torch.arange(s.day.shape[1], dtype=torch.int32)).expand(s.day.shape)
        series[name] = SeriesBatch(
            values, torch.ones(s.valid.shape, dtype=torch.bool), day, torch.ones_like(s.bands, device="cpu")
        )
    rows = torch.arange(size)
    return Batch(series, torch.full((size, 2), 5.0, dtype=torch.float64), rows % 4, rows, torch.zeros_like(rows))


def system(recipe: SkySenseRecipe) -> SkySense:
    """The recipe's system with some values (its own start takes longer to draw), gradients of zero at hand."""
    made = system_on_meta(recipe).to_empty(device="cpu")
    for buffer in made.buffers():
        buffer.fill_(0.1)
    torch.manual_seed(0)
    for p in made.parameters():
        p.data.uniform_(-0.05, 0.05)
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    return made


def most_held(profiler: torch.profiler.profile) -> int:
    """Most bytes at a time that were allocated since a memory profile began."""
    steps = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(steps, key=lambda e: e.start_ns())))
