"""What benchmarks hand over (`Inputs`), and one pass of an encoder over it, kept on disk (`FeatureTable`)."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn

from skyframe.evaluate.protocol import Encoder, Subject, digest, weights_sha256
from skyframe.randomness import generator
from skyframe.sample import Batch, Layout, Sample, SeriesBatch, collate
from skyframe.spec import InputError

TRAIN, VAL, TEST = 0, 1, 2
"""Values of `Inputs.part`."""

T = TypeVar("T")
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass
class Inputs:
    """Samples of one benchmark under one contract. A row is a window or an image; a row may hold several samples
    (tiles of an image), whose features are averaged."""

    samples: list[Sample]  # n, without targets that an encoder could see
    layouts: dict[str, Layout]
    row: Ints  # [n] row of each sample
    part: Ints  # [R] TRAIN, VAL or TEST
    cluster: Ints  # [R] rows with one number are not independent
    positions: Ints  # [n, P] positions whose features pixel tasks see; P = 0 without pixel tasks
    truth: dict[str, Ints]  # label -> class maps [R, N] (-1 = no class), or [R, 1] for one class per row
    classes: dict[str, tuple[str, ...]]
    source: str  # what was fed, for the result row
    normaliser: str
    split: str  # digest of which rows lie in which part
    side_px: int = 0  # positions along a side of a sample


@dataclass(frozen=True)
class FeatureTable:
    """Frozen features of all rows."""

    mean: Floats  # [R, D] mean over positions where anything was valid
    max: Floats  # [R, D] maximum over positions
    pixel: Floats  # [n, P, D] at `Inputs.positions`
    context_dims: int = 0  # the last of D that are region context


def input_digest(inputs: Inputs) -> str:
    """Digest of everything an encoder is fed and of which positions are kept."""
    parts = [digest(inputs.row, inputs.positions, {k: dataclasses.asdict(v) for k, v in inputs.layouts.items()})]
    for sample in inputs.samples:
        fields = [np.ascontiguousarray(a) for s in sample.series.values() for a in (s.values, s.valid, s.day, s.bands)]
        parts.append(digest(sorted(sample.series), sample.place, sample.region, *fields))
    return digest(parts)


def extract(subject: Subject, inputs: Inputs, batch_size: int, cache: Path, show_progress: bool = True) -> FeatureTable:
    """Features of all samples in one pass, or from the cache where the same weights saw the same input.

    Args:
        subject: the encoder; modules are put into evaluation mode.
        inputs: what to encode.
        batch_size: samples per forward pass.
        cache: folder of `.npz` files, written atomically.
        show_progress: draw a bar.

    Raises:
        InputError: features that are not finite, another number of positions than the samples have, or a cache file
            that cannot be read.
    """
    path = cache / f"{weights_sha256(subject.encoder)[:16]}-{input_digest(inputs)}.npz"
    if path.is_file():
        return _load(path)
    if isinstance(subject.encoder, nn.Module):
        subject.encoder.eval()
    pooled, top, pixel, context_dims = [], [], [], 0
    starts = range(0, len(inputs.samples), batch_size)
    for start in watched(starts, f"features of {subject.name}", show_progress):
        chosen = slice(start, start + batch_size)
        part = _encode(subject, inputs, chosen)
        pooled.append(part.mean)
        top.append(part.max)
        pixel.append(part.pixel)
        context_dims = part.context_dims
    table = FeatureTable(
        _average_rows(np.concatenate(pooled), inputs.row, len(inputs.part)),
        _average_rows(np.concatenate(top), inputs.row, len(inputs.part)),
        np.concatenate(pixel),
        context_dims,
    )
    _save(path, table)
    return table


def _encode(subject: Subject, inputs: Inputs, chosen: slice) -> FeatureTable:
    with torch.no_grad():
        batch = to_device(collate(inputs.samples[chosen], inputs.layouts), device_of(subject.encoder))
        features = subject.encoder.encode(batch)
        fused, pooled = features.fused.float().cpu(), features.pooled.float().cpu()
    if fused.shape[1] != inputs.side_px**2:
        raise InputError(
            f"{subject.name}: {fused.shape[1]} positions for samples of {inputs.side_px} x {inputs.side_px}, expected "
            "one per position of the 10 m grid; an encoder with coarser tokens must repeat them"
        )
    if not (bool(fused.isfinite().all()) and bool(pooled.isfinite().all())):
        raise InputError(
            f"{subject.name}: features of samples {chosen.start} to {chosen.stop - 1} are not finite, expected finite "
            "ones; check the run's losses and the cubes' values"
        )
    index = torch.from_numpy(inputs.positions[chosen])[..., None].expand(-1, -1, fused.shape[-1])
    return FeatureTable(pooled.numpy(), fused.amax(1).numpy(), fused.gather(1, index).numpy(), features.context_dims)


def watched(items: Sequence[T], text: str, show: bool) -> Iterable[T]:
    """The items, with a progress bar where the output is a terminal and `show` says so."""
    return track(items, text, transient=True) if show and Console().is_terminal else items


def choose_positions(num_samples: int, num_positions: int, keep: int, seed: int) -> Ints:
    """`keep` positions per sample, drawn without replacement and in ascending order, int64 `[n, P]`."""
    keep = min(keep, num_positions)
    rows = [generator(seed, "positions", i).permutation(num_positions)[:keep] for i in range(num_samples)]
    return np.sort(np.array(rows, np.int64).reshape(num_samples, keep), axis=1)


def feature_spread(rows: Floats) -> float:
    """Mean standard deviation of unit-length features times sqrt(D): 1 for directions spread evenly, 0 for collapse."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return float(unit.std(0).mean() * np.sqrt(rows.shape[1]))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its series and regions on a device."""
    if device.type == "cpu":
        return batch
    series = {
        k: SeriesBatch(s.values.to(device), s.valid.to(device), s.day.to(device), s.bands.to(device))
        for k, s in batch.series.items()
    }
    return dataclasses.replace(batch, series=series, region=batch.region.to(device), place=batch.place.to(device))


def device_of(encoder: Encoder) -> torch.device:
    """Where an encoder's weights are; the CPU for one without any."""
    if isinstance(encoder, nn.Module):
        for parameter in encoder.parameters():
            return parameter.device
    return torch.device("cpu")


def _average_rows(values: Floats, row: Ints, num_rows: int) -> Floats:
    total = np.zeros((num_rows, values.shape[1]), np.float64)
    np.add.at(total, row, values)
    averaged: Floats = (total / np.bincount(row, minlength=num_rows)[:, None]).astype(np.float32)
    return averaged


def _save(path: Path, table: FeatureTable) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.{os.getpid()}.partial.npz")
    np.savez(part, mean=table.mean, max=table.max, pixel=table.pixel, context_dims=np.int64(table.context_dims))
    os.replace(part, path)


def _load(path: Path) -> FeatureTable:
    try:
        with path.open("rb") as file, np.load(file) as stored:
            return FeatureTable(stored["mean"], stored["max"], stored["pixel"], int(stored["context_dims"]))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: cached features cannot be read ({error}); delete the file and evaluate again"
        ) from error
