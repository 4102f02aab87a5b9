"""Training a detection head on an encoder's maps, and asking it about whole images.

Images are cut into square tiles of whole positions; detections of overlapping tiles are joined by suppression. Maps of
a frozen encoder are computed once and kept while they fit, so that an epoch costs the head alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from skyframe.config.detection import DetectionConfig
from skyframe.evaluate.datasets.dataset import Dataset, Item, naming
from skyframe.evaluate.feed.fit import Fit
from skyframe.evaluate.feed.tiles import crop, tile_origins
from skyframe.evaluate.heads.detections import DetectionMeasure, Found
from skyframe.evaluate.heads.detector import Detector, without_doubles
from skyframe.evaluate.heads.detector_loss import Objects, losses
from skyframe.evaluate.heads.shapes import enclosing, rectangles_of
from skyframe.randomness import generator
from skyframe.sample import Batch, Sample, collate
from skyframe.spec import InputError

Maps = Callable[[Batch], list[Tensor]]
"""An encoder's maps `[B, D_l, h_l, w_l]` of a batch of squares, in any order of stride."""


@dataclass(frozen=True)
class Tile:
    """A square of one image that is trained on."""

    item: Item
    top: int  # positions
    left: int


@dataclass(frozen=True)
class TrainedDetector:
    """A head with the encoder's maps that it reads and the tile size that it was trained on."""

    detector: Detector
    maps: Maps
    fit: Fit
    side: int  # of a tile in positions


def train_detector(
    maps: Maps,
    fit: Fit,
    config: DetectionConfig,
    seed: int,
    tuned: Sequence[nn.Parameter] = (),
    items: Sequence[Item] | None = None,
    show: bool = True,
) -> TrainedDetector:
    """Train a head on the tiles with objects of the training part.

    Args:
        maps: of an encoder; run without gradients where nothing of it is tuned.
        fit: data set and contract.
        config: sizes, epochs, rates.
        seed: of weights, order and flips.
        tuned: the encoder's parameters that are trained beside the head; none = frozen.
        items: to train on; the training part by default.
        show: draw a bar.

    Raises:
        InputError: the data set has no boxes, or no object to train on.
    """
    if fit.dataset.kind not in ("boxes", "oriented"):
        raise InputError(f"{fit.dataset.name}: is of kind {fit.dataset.kind}, expected boxes or oriented")
    side, tiles = plan_tiles(fit, fit.dataset.part("train") if items is None else items, config, show)
    if not tiles:
        raise InputError(f"{fit.dataset.name}: the training part holds no object, expected some; check the data set")
    source = _TileSource(maps, fit, side, config, frozen=not tuned)
    first, _, side_px = source.batch(tiles[:1], None)
    detector = Detector(
        [m.shape[1] for m in first],
        [side_px / m.shape[-1] for m in first],
        len(fit.dataset.classes),
        fit.dataset.kind == "oriented",
        config,
        seed,
    ).to(first[0].device)
    weights = [*detector.parameters(), *tuned]
    total = config.epochs * -(-len(tiles) // config.batch)
    optimizer = torch.optim.AdamW(weights, lr=config.lr, weight_decay=config.weight_decay)
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, total, pct_start=config.warmup, cycle_momentum=False
    )
    plan = _steps(tiles, config, seed)
    for chosen, rng in track(plan, "training the detector", total, transient=True, disable=not _seen(show)):
        found, truth, side_px = source.batch(chosen, rng)
        terms = losses(detector(found, side_px), truth, detector.oriented)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(weights, 10.0)
        optimizer.step()
        rates.step()
    return TrainedDetector(detector.eval(), maps, fit, side)


def score_detector(trained: TrainedDetector, items: Sequence[Item], show: bool = True) -> DetectionMeasure:
    """Detections and truth of images, matched; images of one cluster are drawn together.

    Args:
        trained: a head.
        items: such as the test part.
        show: draw a bar.
    """
    answers, truths = [], []
    for item in track(items, "detecting", transient=True, disable=not _seen(show)):
        sample = _read(trained.fit.dataset, item)
        answers.append(detect(trained, sample))
        truths.append(truth_of(sample))
    names = [item.cluster or item.key for item in items]
    clusters = np.unique(names, return_inverse=True)[1] if names else np.empty(0, np.int64)
    return DetectionMeasure(answers, truths, len(trained.fit.dataset.classes), clusters.tolist())


def detect(trained: TrainedDetector, sample: Sample) -> Found:
    """Detections of one whole image of the data set, in its own pixels.

    What is found with its centre beyond the image is left out.
    """
    detector, fit, side = trained.detector, trained.fit, trained.side
    size = _size(fit.dataset, sample)
    px, extent = fit.label_px(sample), fit.extent(sample)
    whole = dataclasses.replace(fit(sample), targets={})
    parts = []
    origins = tile_origins(*extent, side, min(side - 1, detector.config.overlap_px // px))
    for at in range(0, len(origins), detector.config.batch):
        chosen = origins[at : at + detector.config.batch]
        batch = collate([crop(whole, y, x, side, extent, px) for y, x in chosen], fit.layouts(side, {}))
        with torch.no_grad():
            found = detector.detect(trained.maps(batch), side * px)
        for (y, x), part in zip(chosen, found, strict=True):
            shift = np.tile(np.array([x, y], np.float32) * px, 1 if part.shapes.ndim == 3 else 2)
            parts.append(dataclasses.replace(part, shapes=part.shapes + shift))
    joined = Found(
        *(np.concatenate([getattr(p, key) for p in parts]) for key in ("shapes", "classes", "scores", "difficult"))
    )
    around = enclosing(joined.shapes)
    middle = (around[:, :2] + around[:, 2:]) / 2
    inside = ((middle >= 0) & (middle < size[::-1])).all(1)
    # bounds the comparison of pairs below on images of many tiles
    inside &= joined.scores >= np.sort(joined.scores)[::-1][: 2 * detector.config.per_image].min(initial=1.0)
    kept = Found(*(getattr(joined, key)[inside] for key in ("shapes", "classes", "scores", "difficult")))
    return without_doubles(kept, detector.config)


def truth_of(sample: Sample) -> Found:
    """The objects drawn on an image."""
    targets = sample.targets
    shapes = np.asarray(targets["corners" if "corners" in targets else "boxes"], np.float32)
    classes, difficult = np.asarray(targets["box_class"], np.int64), np.asarray(targets["difficult"], bool)
    return Found(shapes, classes, np.ones(len(shapes), np.float32), difficult)


def objects_of(sample: Sample, device: torch.device) -> Objects:
    """The same as a head is taught them."""
    truth = truth_of(sample)
    if truth.shapes.ndim == 3:
        rectangles = rectangles_of(truth.shapes)
    else:
        low, high = truth.shapes[:, :2], truth.shapes[:, 2:]
        rectangles = np.column_stack([(low + high) / 2, high - low, np.zeros(len(low))])
    scored = torch.from_numpy(~truth.difficult & (truth.classes >= 0))
    made = torch.from_numpy(rectangles.astype(np.float32)), torch.from_numpy(truth.classes), scored
    return Objects(*(t.to(device) for t in made))


def plan_tiles(fit: Fit, items: Sequence[Item], config: DetectionConfig, show: bool) -> tuple[int, list[Tile]]:
    """The side of tiles in positions, at most what the largest image covers, and the tiles that hold an object."""
    seen = []
    for item in track(items, "looking at images", transient=True, disable=not _seen(show)):
        sample = _read(fit.dataset, item)
        around = enclosing(truth_of(sample).shapes)
        middle = (around[:, :2] + around[:, 2:]) / 2
        seen.append((item, fit.extent(sample), fit.label_px(sample), middle))
    if not seen:
        return 1, []
    side = min(max(1, config.tile_px // seen[0][2]), max(max(extent) for _, extent, _, _ in seen))
    tiles = []
    for item, extent, px, middle in seen:
        for y, x in tile_origins(*extent, side, min(side - 1, config.overlap_px // px)):
            offset = middle - np.array([x, y]) * px
            if ((offset >= 0) & (offset < side * px)).all(1).any():
                tiles.append(Tile(item, y, x))
    return side, tiles


def _read(dataset: Dataset, item: Item) -> Sample:
    with naming(dataset, item):
        return dataset.read(item)


class _TileSource:
    """Maps and objects of tiles: kept where the encoder is frozen, else computed anew from flipped tiles."""

    def __init__(self, maps: Maps, fit: Fit, side: int, config: DetectionConfig, frozen: bool) -> None:
        self.maps, self.fit, self.side, self.frozen = maps, fit, side, frozen
        self.room = config.cache_gb * 1e9 if frozen else 0.0
        self.flipped = self.room == 0
        self.kept: dict[tuple[str, int, int], tuple[list[Tensor], Objects, int]] = {}
        self.last: tuple[str, Sample, Sample] | None = None

    def batch(self, tiles: Sequence[Tile], rng: np.random.Generator | None) -> tuple[list[Tensor], list[Objects], int]:
        """Maps `[B, D, h, w]`, objects of each tile, and the tiles' side in pixels; `rng` flips them."""
        keys = [(t.item.key, t.top, t.left) for t in tiles]
        if all(k in self.kept for k in keys):
            rows = [self.kept[k] for k in keys]
            levels = [torch.stack(level) for level in zip(*(r[0] for r in rows), strict=True)]
            return levels, [r[1] for r in rows], rows[0][2]
        cuts = [self._cut(tile) for tile in tiles]
        samples = [flipped(s, px, *(rng.random(2) < 0.5)) if rng and self.flipped else s for s, px in cuts]
        batch = collate([dataclasses.replace(s, targets={}) for s in samples], self.fit.layouts(self.side, {}))
        with torch.set_grad_enabled(not self.frozen):
            levels = self.maps(batch)
        objects, side_px = [objects_of(s, levels[0].device) for s in samples], cuts[0][1]
        for row, key in enumerate(keys):
            size = sum(level[row].numel() * level.element_size() for level in levels)
            if size <= self.room and key not in self.kept:
                self.room -= size
                self.kept[key] = [level[row].clone() for level in levels], objects[row], side_px
        return levels, objects, side_px

    def _cut(self, tile: Tile) -> tuple[Sample, int]:
        """One tile as the contract wants it, and its side in pixels; the image read last is kept for its next tile."""
        if self.last is None or self.last[0] != tile.item.key:
            sample = _read(self.fit.dataset, tile.item)
            self.last = tile.item.key, sample, self.fit(sample)
        _, sample, whole = self.last
        px = self.fit.label_px(sample)
        return crop(whole, tile.top, tile.left, self.side, self.fit.extent(sample), px), self.side * px


def flipped(sample: Sample, side_px: int, left_right: bool, up_down: bool) -> Sample:
    """A square of `side_px` pixels mirrored along one or both axes, with its boxes or corners."""
    axes = tuple(axis for axis, is_wanted in ((-1, left_right), (-2, up_down)) if is_wanted)
    series = {
        n: dataclasses.replace(s, values=np.flip(s.values, axes), valid=np.flip(s.valid, axes))
        for n, s in sample.series.items()
    }
    key = "corners" if "corners" in sample.targets else "boxes"
    shapes = sample.targets[key]
    points = shapes.reshape(len(shapes), -1, 2).copy()
    for axis in axes:
        points[..., -1 - axis] = side_px - points[..., -1 - axis]
    if key == "boxes":
        points.sort(axis=1)  # the lower corner first again
    return dataclasses.replace(sample, series=series, targets={**sample.targets, key: points.reshape(shapes.shape)})


def _steps(
    tiles: Sequence[Tile], config: DetectionConfig, seed: int
) -> Iterator[tuple[list[Tile], np.random.Generator]]:
    """Batches of all epochs; the tiles of an image follow each other, so that it is read once an epoch."""
    by_item: dict[str, list[Tile]] = {}
    for tile in tiles:
        by_item.setdefault(tile.item.key, []).append(tile)
    groups = list(by_item.values())
    for epoch in range(config.epochs):
        rng = generator(seed, "detector", epoch)
        order = [tile for i in rng.permutation(len(groups)) for tile in groups[int(i)]]
        for at in range(0, len(order), config.batch):
            yield order[at : at + config.batch], rng


def _size(dataset: Dataset, sample: Sample) -> tuple[int, int]:
    """Height and width in pixels of the first modality, of which targets are."""
    height, width = sample.series[next(iter(dataset.modalities))].values.shape[-2:]
    return height, width


def _seen(show: bool) -> bool:
    return show and Console().is_terminal
