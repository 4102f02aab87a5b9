"""Tiny data sets of every kind, made in memory, whole or wrong in one way."""

import dataclasses

import numpy as np

from skyframe.evaluate.datasets.dataset import Dataset, Item
from skyframe.evaluate.datasets.imagery import image_sample, rgb, sentinel1, sentinel2, series_of
from skyframe.sample import Sample
from skyframe.spec import InputError

NAMES = ("water", "forest", "town")
S2 = ("B02", "B03", "B04", "B08")
TARGETS = {
    "scene": lambda n: {"class": np.int64(n % 3)},
    "multilabel": lambda n: {"classes": np.array([n % 2 == 0, True, False])},
    "pixel": lambda n: {"mask": np.arange(64).reshape(8, 8) % 4 - 1},
    "change": lambda n: {"mask": np.arange(64).reshape(8, 8) % 3 - 1},
    "semantic_change": lambda n: {"masks": np.arange(128).reshape(2, 8, 8) % 4 - 1},
    "boxes": lambda n: objects({"boxes": np.array([[1, 1, 4, 5], [0, 0, 8, 8]], np.float32)}),
    "oriented": lambda n: objects(
        {"corners": np.array([[[4, 1], [7, 4], [4, 7], [1, 4]], [[-1, 1], [3, 1], [3, 4], [-1, 4]]], np.float32)}
    ),
    "regression": lambda n: {"value": np.array([n / 2], np.float32)},
}


def objects(shapes):
    return {**shapes, "box_class": np.array([0, 2]), "difficult": np.array([False, True])}


def toy(kind="scene", count=12, **changes):
    """A data set of 8 x 8 pictures; two dates where two are needed; train, val and test in turn."""
    dates = 2 if "change" in kind else 1

    def read(item: Item) -> Sample:
        number = item.about["n"]
        if number < 0:
            raise InputError(f"{item.key}.png: 0 bytes, the download broke off; fetch the file again")
        pixels = np.random.default_rng(number).integers(0, 256, (dates, 3, 8, 8)).astype(np.uint8)
        sample = image_sample("rgb", pixels[0], TARGETS[kind](number))
        return dataclasses.replace(sample, series={"rgb": series_of(pixels)})

    items = tuple(
        Item(f"i{n}", ("train", "test", "val")[n % 3], {}, n % 3, about={"n": n // 3 * 4 + n}) for n in range(count)
    )
    made = Dataset(
        name="toy", kind=kind, classes=() if kind == "regression" else NAMES, modalities={"rgb": rgb(1.0)},
        items=items, read=read, split="in turn", source="nobody, 2026",
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def with_targets(dataset, **targets):
    """The same with other targets in every sample."""

    def read(item):
        sample = dataset.read(item)
        return dataclasses.replace(sample, targets={**sample.targets, **targets})

    return dataclasses.replace(dataset, read=read)


def with_items(dataset, *changes):
    """The same with the fields of single items changed: pairs of number and what differs."""
    items = list(dataset.items)
    for number, change in changes:
        items[number] = dataclasses.replace(items[number], **change)
    return dataclasses.replace(dataset, items=tuple(items))


def point_series():
    """Twelve dates of one pixel, two modalities."""
    days = np.arange(12, dtype=np.int32) * 30 + 7000

    def read(item: Item) -> Sample:
        rng = np.random.default_rng(item.about["n"])
        s2, s1 = (
            rng.uniform(0, 3000, (12, 4, 1, 1)).astype(np.float32),
            rng.normal(-12, 3, (12, 2, 1, 1)).astype(np.float32),
        )
        known = np.arange(12).reshape(12, 1, 1) > 2
        return Sample(
            {"s2": series_of(s2, days, known), "s1": series_of(s1, days)},
            np.zeros(2),
            -1,
            targets={"value": np.ones(1)},
        )

    modalities = {"s2": sentinel2(S2, many=True), "s1": sentinel1(many=True)}
    return dataclasses.replace(toy("regression"), modalities=modalities, read=read)


def radar_series():
    """Five dates of 8 x 8 pixels of radar in linear power, with a mask."""

    def read(item: Item) -> Sample:
        power = np.random.default_rng(item.about["n"]).uniform(0, 1, (5, 2, 8, 8)).astype(np.float32)
        series = series_of(power, np.arange(5, dtype=np.int32) * 12 + 7000)
        return Sample({"s1": series}, np.zeros(2), -1, targets=TARGETS["pixel"](0))

    return dataclasses.replace(toy("pixel"), modalities={"s1": sentinel1(units="linear power", many=True)}, read=read)
