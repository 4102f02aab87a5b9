"""Small random batches and a nano SkySense for tests of the system and of training."""

import dataclasses

import numpy as np
import torch

from skyframe.config import load_recipe
from skyframe.data.layout import layouts_for, side_px
from skyframe.geography import RegionIndex
from skyframe.randomness import generator
from skyframe.sample import Batch, Sample, Series, collate
from skyframe.spec import CubeSpec
from skyframe.system import SkySense

SPEC = CubeSpec.load("simulated_earth")
CROP_PX = 4
REGIONS = RegionIndex(boxes=((0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 30.0, 30.0), (40.0, 40.0, 50.0, 50.0)))
NANO = (
    "model.preset=nano",
    f"views.crop_px={CROP_PX}",
    "data.window_px=8",
    "data.frames={s2: 3, s1: 2}",
    "train.global_batch=4",
    "loss.pixel_rows=4",
    "loss.num_centres=2",
    "model.head.outputs=32",
    "model.fusion.positions=1.0",
    "views.split_dates=false",
    "loss.cl=dino",
    "loss.sources=[]",
    "loss.centering=ema",
    "loss.teacher_temp_start=0.04",
    "loss.teacher_temp=0.07",
    "optim.warmup_steps=2",
    "train.max_steps=4",
    "train.log_every=1",
)


def nano_recipe(*overrides: str):
    """The demo recipe at a size for unit tests."""
    return load_recipe("skysense_demo", [*NANO, *overrides])


def nano_system(*overrides: str) -> SkySense:
    recipe = nano_recipe(*overrides)
    modalities = {n: SPEC.modalities[n] for n in recipe.data.modalities}
    return SkySense(recipe, modalities, REGIONS)


def random_sample(
    index: int, names=("hr", "s2", "s1"), region: int = 0, frames=None, view: int = 0, crop_px: int = CROP_PX
) -> Sample:
    """A place whose stored values are plausible for each sensor; some pixels are invalid."""
    frames = frames or {"s2": 3, "s1": 2}
    series = {}
    for name in names:
        m = SPEC.modalities[name]
        draw = generator(index, view, name)
        dates, side = frames.get(name, 1), side_px(m, crop_px)
        physical = draw.normal(
            np.reshape(m.mean, (-1, 1, 1)), np.reshape(m.std, (-1, 1, 1)), (dates, len(m.bands), side, side)
        )
        info = np.iinfo(m.dtype)
        values = np.clip((physical - m.offset) / m.scale, info.min, info.max).astype(m.dtype)
        valid = draw.random((dates, side, side)) < 0.95
        series[name] = Series(
            values, valid, (8000 + 30 * np.arange(dates)).astype(np.int32), np.ones(len(m.bands), bool)
        )
    pixel = np.arange(crop_px * crop_px)
    return Sample(series, np.array([5.0, 5.0]), region, index=index, pixel=pixel)


def random_batch(samples: list[Sample], names=("hr", "s2", "s1"), crop_px: int = CROP_PX) -> Batch:
    modalities = {n: SPEC.modalities[n] for n in names}
    return collate(samples, layouts_for(modalities, {"s2": 3, "s1": 2}, crop_px))


def views_of(
    samples_names: list[tuple[str, ...]], names=("hr", "s2", "s1"), regions=None, start: int = 0
) -> tuple[Batch, Batch]:
    """Two views of places that hold the named modalities each."""
    regions = regions or [0] * len(samples_names)
    made = []
    for view in range(2):
        rows = [
            random_sample(start + i, n, r, view=view)
            for i, (n, r) in enumerate(zip(samples_names, regions, strict=True))
        ]
        made.append(random_batch(rows, names))
    return made[0], made[1]


def with_values(batch: Batch, name: str, values: torch.Tensor) -> Batch:
    """A batch whose stored values of one modality are replaced."""
    series = {**batch.series, name: dataclasses.replace(batch.series[name], values=values)}
    return dataclasses.replace(batch, series=series)
