"""A head before its first step: what it stands on, how large it is, and which of the encoder's parameters train."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skyframe.config.heads import HeadTraining
from skyframe.evaluate.datasets.dataset import Dataset, Item
from skyframe.evaluate.feed.crops import Reader, joined, training_crop
from skyframe.evaluate.feed.features import device_of, to_device
from skyframe.evaluate.heads import build_head, build_pooled
from skyframe.evaluate.heads.layer_decay import tunable_names
from skyframe.evaluate.heads.predict import Trained
from skyframe.evaluate.heads.predictor import Predictor
from skyframe.spec import InputError

PROBED = 16
"""Training items whose sizes decide the side of a crop, and whose numbers their scale where there are more."""


def prepared(
    encoder: Any, reader: Reader, items: Sequence[Item], config: HeadTraining, seed: int
) -> tuple[Trained, list[str]]:
    """The predictor before its first step, and the names of the encoder's parameters that train.

    Args:
        encoder: an `Encoder`; copied where it trains.
        reader: of the data set.
        items: to train on.
        config: head and what is tunable.
        seed: of the head's weights.

    Raises:
        InputError: an encoder without weights that should train, or names that it has not.
    """
    fit, data = reader.fit, reader.fit.dataset
    first = [reader(item) for item in items[:PROBED]]
    side = config.side or min(fit.contract.crop_px, max(max(w.extent) for w in first))
    side = max(side, fit.contract.min_side_px)
    chosen, names = encoder, list[str]()
    if config.encoder != "frozen":
        module = getattr(encoder, "module", encoder)
        if not isinstance(module, nn.Module):
            raise InputError(f"{data.name}: {type(encoder).__name__} has no weights to train; set encoder: frozen")
        chosen = copy.deepcopy(module).eval()
        names = tunable_names(chosen, config)
        for name, parameter in chosen.named_parameters():
            parameter.requires_grad_(name in names)
    value = first[0].sample.targets.get("value")
    dense = data.kind in ("pixel", "change", "semantic_change") or (value is not None and value.ndim == 3)
    outputs = len(data.classes) if value is None else value.shape[0]
    if data.kind == "change":
        outputs = 2
    source = next(iter(fit.matches.values())).want.name
    predictor = Predictor(chosen, nn.Identity(), data.kind, config.head, dense, source)
    device = device_of(chosen)
    probe = [training_crop(first[0], side, dataclasses.replace(config, scale=(1.0, 1.0), flips=False), seed)]
    size = side * first[0].label_px
    with torch.no_grad():
        seen = predictor.features(to_device(joined(fit, probe, side), device))
    shapes = [(int(m.shape[1]), int(m.shape[-1])) for m in seen]
    made = build_head(config.head, shapes, outputs, size, seed) if dense else build_pooled(shapes[0][0], outputs, seed)
    predictor.head = made.to(device)
    scale = _number_scale(data, reader, items) if data.kind == "regression" else None
    return Trained(predictor, fit, reader.read, side, config.overlap, config.batch, scale), names


def _number_scale(data: Dataset, reader: Reader, items: Sequence[Item]) -> tuple[NDArray[np.float32], ...]:
    """Mean and standard deviation of each quantity over training items, as many as are kept in memory at once."""
    rows = [reader(i).sample.targets["value"] for i in items[:: max(1, len(items) // 512)]]
    numbers = np.concatenate([r.reshape(len(r), -1).T for r in rows]).astype(np.float64)
    if not np.isfinite(numbers).any(0).all():
        raise InputError(f"{data.name}: a quantity without any number in the training part; check the labels")
    std = np.nanstd(numbers, 0)
    return np.nanmean(numbers, 0).astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)
