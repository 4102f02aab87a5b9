"""What contradicts itself in one sample of a data set: targets that do not fit its pixels or its classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from skyframe.evaluate.datasets.dataset import Dataset
from skyframe.sample import Sample

Target = NDArray[np.generic]
BEYOND_PX = 1.0
"""How far a box may reach over the edge: annotations count pixels from 0 or from 1."""


def find_fault(dataset: Dataset, sample: Sample) -> str:
    """What keeps a sample from being scored, in words; empty where nothing does."""
    unknown = sorted(set(sample.series) - set(dataset.modalities))
    if unknown or not sample.series:
        return f"modalities {', '.join(unknown) or 'none'}, expected some of {', '.join(dataset.modalities)}"
    for name, series in sample.series.items():
        count = len(dataset.modalities[name].bands)
        if series.values.ndim != 4 or series.values.shape[1] != count:
            return f"{name} has shape {list(series.values.shape)}, expected {count} bands in [T, C, H, W]"
    faults: dict[str, Callable[[], str]] = {
        "scene": lambda: _number_fault(sample.targets["class"], len(dataset.classes), "class"),
        "multilabel": lambda: _shape_fault(sample.targets["classes"], (len(dataset.classes),), "classes"),
        "pixel": lambda: _mask_fault(dataset, sample, "mask", len(dataset.classes)),
        "change": lambda: _dates_fault(dataset, sample) or _mask_fault(dataset, sample, "mask", 2),
        "semantic_change": lambda: _mask_fault(dataset, sample, "masks", len(dataset.classes)),
        "boxes": lambda: _box_fault(dataset, sample, "boxes", (4,)),
        "oriented": lambda: _box_fault(dataset, sample, "corners", (4, 2)),
        "regression": lambda: (
            "" if np.isfinite(sample.targets["value"].astype(float)).all() else "value is not a finite number"
        ),
    }
    return faults[dataset.kind]()


def _first(dataset: Dataset, sample: Sample) -> tuple[int, ...]:
    """Dates, bands, height and width of the modality that targets are drawn on."""
    name = next((n for n in dataset.modalities if n in sample.series), "")
    return sample.series[name].values.shape


def _shape_fault(target: Target, shape: tuple[int, ...], name: str) -> str:
    return "" if target.shape == shape else f"{name} has shape {list(target.shape)}, expected {list(shape)}"


def _number_fault(target: Target, num_classes: int, name: str, least: int = 0) -> str:
    numbers = np.unique(target)
    wrong = numbers[(numbers < least) | (numbers >= num_classes)]  # type: ignore[operator]  # any integer dtype
    if not wrong.size:
        return ""
    ignored = " or -1 for what is not scored" if least < 0 else ""
    return f"{name} holds {', '.join(map(str, wrong[:3].tolist()))}, expected 0 to {num_classes - 1}{ignored}"


def _mask_fault(dataset: Dataset, sample: Sample, key: str, num_classes: int) -> str:
    shape = _first(dataset, sample)
    target = sample.targets[key]
    expected = shape[2:] if key == "mask" else (*target.shape[:1], *shape[2:])
    if target.shape != expected:
        return f"{key} has shape {list(target.shape)}, expected {list(expected)} as its image; fetch both again"
    return _number_fault(target, num_classes, key, -1)


def _dates_fault(dataset: Dataset, sample: Sample) -> str:
    num = _first(dataset, sample)[0]
    return "" if num == 2 else f"{num} dates, expected 2 to tell a change"


def _box_fault(dataset: Dataset, sample: Sample, key: str, shape: tuple[int, ...]) -> str:
    boxes, numbers = sample.targets[key], sample.targets["box_class"]
    height, width = _first(dataset, sample)[2:]
    hard = np.asarray(sample.targets.get("difficult", np.zeros(len(numbers))), bool)
    fault = (
        _shape_fault(boxes, (len(numbers), *shape), key)
        or _shape_fault(hard, (len(numbers),), "difficult")
        or _number_fault(numbers[~hard], len(dataset.classes), "box_class")
        or _number_fault(numbers, len(dataset.classes), "box_class", -1)  # a difficult one may be of no class
    )
    if fault or not len(boxes):
        return fault
    points = boxes.reshape(len(boxes), -1, 2).astype(np.float64)
    middle = points.mean(1)  # an object that the edge cuts reaches outside by right; its middle is inside
    beyond = np.maximum(-middle, middle - [width, height]).max(1)
    if not np.isfinite(points).all() or beyond.max() > BEYOND_PX:
        worst = int(np.where(np.isfinite(beyond), beyond, np.inf).argmax())
        return f"{key} {worst} at {_shown(points[worst])} lies beyond the image of {width} x {height} pixels"
    empty = np.flatnonzero((np.ptp(points, axis=1) <= 0).any(1))
    return f"{key} {empty[0]} at {_shown(points[empty[0]])} has no area" if empty.size else ""


def _shown(points: NDArray[np.float64]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
