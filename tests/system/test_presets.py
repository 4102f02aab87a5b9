"""Every preset as its recipe builds it, on the meta device: each module's size follows from the preset's integers."""

from functools import lru_cache
from itertools import pairwise

import pytest
import torch
from torch import nn

from skyframe.calendar import DATE_ROWS
from skyframe.config import PRESETS, SkySenseRecipe, load_recipe
from skyframe.config.skysense import EncoderConfig
from skyframe.data.layout import select_modalities
from skyframe.geography import RegionIndex
from skyframe.system import SkySense

ROUTES = {
    "nano": ("skysense_demo", "model.preset=nano"),
    "tiny": ("skysense_demo",),
    "tiny without hr": ("skysense_s2s1",),
    "tiny on mixed sources": ("skysense_mixed",),
    "small": ("skysense_small",),
    "base": ("skysense_small", "model.preset=base"),
    "paper": ("skysense_paper",),
}
STUDENTS = {
    "nano": 612_971,
    "tiny": 3_017_219,
    "tiny without hr": 2_641_344,
    "tiny on mixed sources": 3_017_219,
    "small": 44_309_210,
    "base": 369_362_168,
    "paper": 1_660_063_888,
}


def recipe_of(route: str) -> SkySenseRecipe:
    return load_recipe(ROUTES[route][0], ROUTES[route][1:])


@lru_cache(maxsize=1)
def on_meta(route: str) -> tuple[SkySenseRecipe, SkySense]:
    recipe = recipe_of(route)
    regions = RegionIndex(boxes=((0.0, 0.0, 1.0, 1.0),) * recipe.data.regions.num_regions)
    with torch.device("meta"):
        return recipe, SkySense(recipe, select_modalities(recipe.data), regions)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def swin(c: EncoderConfig, bands: int) -> int:
    """Patches and their norm, merges, blocks with cosine attention and position bias, extra norms, output norm."""
    total = c.embed_dims * (bands * c.patch_px**2 + 1) + 2 * c.embed_dims
    for i, (depth, heads) in enumerate(zip(c.depths, c.num_heads, strict=True)):
        d = c.embed_dims * 2**i
        attention = 4 * d * d + 3 * d + heads + (2 * 512 + 512 + 512 * heads)
        total += depth * (attention + 8 * d * d + 5 * d + 2 * 2 * d) + depth // c.extra_norm_every * 2 * d
        total += 2 * d * d + 2 * d if i else 0
    return total + 2 * d


def layers(num: int, d: int) -> int:
    return num * (12 * d * d + 13 * d)


def vit(c: EncoderConfig, bands: int) -> int:
    d, cells = c.embed_dims, (c.train_px // c.patch_px) ** 2
    return layers(c.depths[0], d) + d + (cells + 1) * d + d * bands * c.patch_px**2 + d


def student(recipe: SkySenseRecipe) -> int:
    """The whole student without its bank, from nothing but the recipe's integers."""
    m, total = recipe.model, 0
    for name, modality in select_modalities(recipe.data).items():
        c, bands = m.encoders[name], len(modality.bands)
        total += swin(c, bands) if name == "hr" else vit(c, bands)
        width, up = (c.embed_dims * 2 ** (len(c.depths) - 1), 1) if name == "hr" else (c.embed_dims, c.patch_px)
        total += 0 if (width, up) == (m.aligned_dims, 1) else (width + 1) * up * up * m.aligned_dims
    d = m.fusion.embed_dims
    fusion = layers(m.fusion.num_layers, d) + d + (m.aligned_dims + 1) * d
    context = (d + 1) * m.geo.dims + (m.geo.dims + 1) * d
    return total + fusion + DATE_ROWS * m.aligned_dims + context


def head(recipe: SkySenseRecipe, width: int) -> int:
    h = recipe.model.head
    return (width + 1) * h.hidden + (h.hidden + 1) * h.hidden + (h.hidden + 1) * h.bottleneck + h.outputs * h.bottleneck


@pytest.mark.parametrize("route", ROUTES)
def test_a_recipe_builds_its_preset_with_as_many_parameters_as_its_integers_say(route):
    recipe, system = on_meta(route)
    assert system.student.fusion.proj.weight.is_meta, "nothing was computed or filled"
    assert count(system.student) == count(system.teacher) == student(recipe) == STUDENTS[route]
    g, bank = recipe.model.geo, system.student.geo.bank
    assert bank.shape == (recipe.data.regions.num_regions, g.num_prototypes, g.dims)
    assert system.teacher.geo.bank is bank and not [n for n, _ in system.named_parameters() if n.endswith("bank")]

    aligned, fused = recipe.model.aligned_dims, 2 * recipe.model.fusion.embed_dims
    widths = {**dict.fromkeys(recipe.data.modalities, aligned), "fused": fused}
    sources = recipe.loss.sources or tuple(widths)
    assert count(system.heads) == sum(head(recipe, widths[s]) for s in sources)
    assert count(system.projectors) == len(recipe.data.modalities) * (aligned + 1) * recipe.loss.align_dims
    frozen = recipe.model.head.outputs * recipe.model.head.bottleneck * len(sources) * (recipe.loss.cl == "infonce")
    trained = sum(p.numel() for p in system.parameters() if p.requires_grad)
    assert trained == count(system.student) + count(system.heads) + count(system.projectors) - frozen


def test_every_preset_is_built_here_and_they_grow_from_nano_to_paper():
    presets = list(PRESETS["skysense"])
    assert set(presets) <= set(ROUTES)
    sizes = [student(recipe_of(preset)) for preset in presets]
    assert 0.4e6 <= sizes[0] <= 0.8e6, "a nano student has about half a million parameters"
    assert all(3 * less < more for less, more in pairwise(sizes))


def test_the_paper_preset_has_the_sizes_of_the_published_modules():
    """Swin V2-Huge 655,074,704 (last stage's output norm alone); ViT-L 24 (12 * 1024^2 + 13 * 1024) + 1024
    + 257 * 1024 + 1024 * 16 c + 1024 = 302,738,432 for c = 10 and 302,607,360 for c = 2; UPHead 1024 * 45056 + 45056
    = 46,182,400, twice; fusion 302,309,376 + 1024 + 2816 * 1024 + 1024 = 305,195,008. Ours: 367 instead of 365 rows of
    dates, 367 * 2816 = 1,033,472; the bank's projections 1024 * 512 + 512 + 512 * 1024 + 1024 = 1,050,112. In all
    1,660,063,888, beside a bank of 4096 * 100 * 512 = 209,715,200. Heads 107,496,448 and projectors 2,163,456 bring
    what a run trains or keeps, without the teacher, to 1,979,438,992.
    """
    _, system = on_meta("paper")
    encoder = system.student
    sizes = {n: count(m) for n, m in encoder.spatial.items()} | {
        f"align {n}": count(m) for n, m in encoder.align.items()
    }
    assert sizes == {
        "hr": 655_074_704,
        "s2": 302_738_432,
        "s1": 302_607_360,
        "align hr": 0,
        "align s2": 46_182_400,
        "align s1": 46_182_400,
    }
    rest = {"fusion": encoder.fusion, "dates": encoder.dates, "geo": encoder.geo}
    assert [count(m) for m in rest.values()] == [305_195_008, 1_033_472, 1_050_112]
    assert encoder.geo.bank.numel() == 209_715_200
    whole = count(encoder) + encoder.geo.bank.numel() + count(system.heads) + count(system.projectors)
    assert (count(encoder), whole) == (1_660_063_888, 1_979_438_992)
