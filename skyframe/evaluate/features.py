"""What benchmarks hand over (`Inputs`), and one pass of an encoder over it, kept on disk (`FeatureTable`)."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn

from skyframe.evaluate.protocol import Encoder, Subject, digest, weights_sha256
from skyframe.evaluate.received import Received
from skyframe.randomness import generator
from skyframe.sample import Batch, Features, Layout, Sample, SeriesBatch, collate
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

    samples: Sequence[
        Sample
    ]  # n, without targets that an encoder could see; of a data set they are read when asked for
    layouts: dict[str, Layout]
    row: Ints  # [n] row of each sample
    part: Ints  # [R] TRAIN, VAL or TEST
    cluster: Ints  # [R] rows with one number are not independent
    positions: Ints  # [n, P] positions whose features pixel tasks see; P = 0 without pixel tasks
    truth: dict[str, NDArray[Any]]  # label -> class maps [R, N] (-1 = no class), or [R, 1] for one class per row
    classes: dict[str, tuple[str, ...]]
    source: str  # what was fed, for the result row
    normaliser: str
    split: str  # digest of which rows lie in which part
    side_px: int = 0  # positions along a side of a sample
    identity: str = ""  # digest of files and of what is made from them, where the samples are read when asked for


@dataclass(frozen=True)
class FeatureTable:
    """Frozen features of all rows."""

    mean: Floats  # [R, D] mean over positions where anything was valid
    max: Floats  # [R, D] maximum over positions
    pixel: Floats  # [n, P, D] at `Inputs.positions`
    context_dims: int = 0  # the last of D that are region context
    received: dict[str, list[list[float]]] = field(default_factory=dict)  # see `Received.statistics`


def input_digest(inputs: Inputs) -> str:
    """Digest of everything an encoder is fed and of which positions are kept."""
    if inputs.identity:
        return digest(inputs.identity, inputs.positions)
    parts = [digest(inputs.row, inputs.positions, {k: dataclasses.asdict(v) for k, v in inputs.layouts.items()})]
    for sample in inputs.samples:
        fields = [np.ascontiguousarray(a) for s in sample.series.values() for a in (s.values, s.valid, s.day, s.bands)]
        parts.append(digest(sorted(sample.series), sample.place, sample.region, *fields))
    return digest(parts)


@dataclass(frozen=True)
class Group:
    """Encoders that share most of their work: one pass gives the features of all of them."""

    names: tuple[str, ...]  # of the subjects, in the order of the features
    encode: Callable[[Batch], Sequence[Features]]


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
    return extract_group([subject], inputs, batch_size, cache, None, show_progress)[0]


def extract_group(
    subjects: Sequence[Subject],
    inputs: Inputs,
    batch_size: int,
    cache: Path,
    group: Group | None,
    show_progress: bool = True,
) -> list[FeatureTable]:
    """As `extract`, for encoders whose features come from one pass: of the group, or of the only one."""
    paths = [cache / f"{weights_sha256(s.encoder)[:16]}-{input_digest(inputs)}.npz" for s in subjects]
    if all(path.is_file() for path in paths):
        return [_load(path) for path in paths]
    for subject in subjects:
        if isinstance(subject.encoder, nn.Module):
            subject.encoder.eval()
    encoder, received = subjects[0].encoder, Received(subjects[0].encoder.contract)
    parts: list[list[FeatureTable]] = [[] for _ in subjects]
    text = f"encoding {subjects[0].name}" if group is None else f"encoding {len(subjects)} subsets"
    for batch, chosen in batches(inputs, batch_size, text, show_progress):
        received.add(batch)
        moved = to_device(batch, device_of(encoder))
        with torch.no_grad():
            found = [encoder.encode(moved)] if group is None else group.encode(moved)
        for subject, features, made in zip(subjects, found, parts, strict=True):
            made.append(_kept(subject, inputs, features, chosen))
    tables = []
    for path, made in zip(paths, parts, strict=True):
        table = FeatureTable(
            _average_rows(np.concatenate([p.mean for p in made]), inputs.row, len(inputs.part)),
            _average_rows(np.concatenate([p.max for p in made]), inputs.row, len(inputs.part)),
            np.concatenate([p.pixel for p in made]),
            made[-1].context_dims,
            received.statistics(),
        )
        _save(path, table)
        tables.append(table)
    return tables


def batches(inputs: Inputs, batch_size: int, text: str, show_progress: bool) -> Iterator[tuple[Batch, slice]]:
    """Batches in order with the samples they hold; the next one is read while the caller works on this one."""
    num = len(inputs.samples)
    slices = [slice(at, min(at + batch_size, num)) for at in range(0, num, batch_size)]

    def read(chosen: slice) -> Batch:
        return collate(inputs.samples[chosen], inputs.layouts)

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, slices[0]) if slices else None
        for i, chosen in enumerate(watched(slices, text, show_progress)):
            assert ahead is not None
            batch = ahead.result()
            ahead = reader.submit(read, slices[i + 1]) if i + 1 < len(slices) else None
            yield batch, chosen


def _kept(subject: Subject, inputs: Inputs, features: Features, chosen: slice) -> FeatureTable:
    """What is kept of the features of the samples `chosen`, checked."""
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
    fields = {k: v for k, v in vars(table).items() if k != "received"}
    np.savez(part, received=np.array(json.dumps(table.received)), **fields)
    os.replace(part, path)


def _load(path: Path) -> FeatureTable:
    try:
        with path.open("rb") as file, np.load(file) as stored:
            received = json.loads(str(stored["received"]))
            arrays = stored["mean"], stored["max"], stored["pixel"]
            return FeatureTable(*arrays, int(stored["context_dims"]), received)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: cached features cannot be read ({error}); delete the file and evaluate again"
        ) from error
