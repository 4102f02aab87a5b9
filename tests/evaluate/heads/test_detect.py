import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from benchmarks.detection import SMALL, Stem, stem_fit
from skyframe.config.detection import DetectionConfig
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.datasets.dataset import Dataset, Item
from skyframe.evaluate.datasets.imagery import image_sample, rgb
from skyframe.evaluate.heads.detect import (
    TrainedDetector,
    _steps,
    _TileSource,
    detect,
    flipped,
    objects_of,
    plan_tiles,
    score_detector,
    train_detector,
)
from skyframe.evaluate.heads.shapes import corners_of, quads_of
from skyframe.evaluate.measures.measure import value_of
from skyframe.spec import InputError

CONFIG = DetectionConfig(width=32, convs=1, strides=(4, 8), tile_px=64, overlap_px=0, batch=4, epochs=40, lr=3e-3)


def painted(kind, size=(64, 64), num=4):
    """Bright rectangles on noise, one small upright one in red and one long slanted one in green per image."""
    colours = np.eye(3)[:2]

    def read(item):
        rng = np.random.default_rng(item.label)
        pixels = rng.integers(0, 60, (3, *size)).astype(np.uint8)
        centre = rng.uniform(14, 50, (2, 2))
        angle = rng.uniform(-1, 1, 2) if kind == "oriented" else np.zeros(2)
        rectangles = np.column_stack([centre, [[8, 8], [24, 10]], angle])
        y, x = np.mgrid[: size[0], : size[1]] + 0.5
        for (cx, cy, w, h, a), colour in zip(rectangles, colours, strict=True):
            along, across = (x - cx) * np.cos(a) + (y - cy) * np.sin(a), (y - cy) * np.cos(a) - (x - cx) * np.sin(a)
            inside = (np.abs(along) < w / 2) & (np.abs(across) < h / 2)
            pixels[:, inside] = (80 + 170 * colour[:, None]).astype(np.uint8)
        quads = quads_of(rectangles).astype(np.float32)
        shapes = quads if kind == "oriented" else np.concatenate([quads.min(1), quads.max(1)], 1)
        key = "corners" if kind == "oriented" else "boxes"
        return image_sample("rgb", pixels, {key: shapes, "box_class": np.arange(2), "difficult": np.zeros(2, bool)})

    items = tuple(Item(f"i{n}", "train", {}, n) for n in range(num))
    return Dataset("painted", kind, ("red", "green"), {"rgb": rgb(0.3125)}, items, read, "none", "drawn here")


class Plain:
    """Pixels themselves as maps, at stride 4 and 8: nothing to train."""

    calls = 0

    def __call__(self, batch):
        self.calls += 1
        pixels = batch.series["rgb"].values[:, 0].float() / 255
        return [torch.cat([avg_pool2d(pixels, s), avg_pool2d(pixels.square(), s)], 1) for s in (4, 8)]


@pytest.mark.parametrize("kind", ["boxes", "oriented"])
def test_a_head_on_frozen_maps_learns_and_computes_them_once(kind):
    dataset = painted(kind)
    fitted, maps = stem_fit(dataset), Plain()
    trained = train_detector(maps, fitted, CONFIG, seed=0, show=False)
    assert maps.calls <= 3  # the first tile for the widths, then the four once
    assert value_of(score_detector(trained, dataset.items, show=False), "voc_map50") > 0.8
    untrained = train_detector(maps, fitted, dataclasses.replace(CONFIG, epochs=1), 0, show=False)
    assert value_of(score_detector(untrained, dataset.items, show=False), "voc_map50") < 0.2


def test_real_boxes_are_learnt(shared_dir):
    dataset = open_dataset("hit-uav", shared_dir / "data" / "HIT-UAV")
    few = [i for i in dataset.items if i.key in ("0_80_50_0_06986", "0_80_40_0_06938")]
    fitted = stem_fit(dataset)
    stem = Stem(fitted.contract, width=16)
    config = dataclasses.replace(SMALL, width=32, tile_px=320, overlap_px=0, epochs=30, lr=3e-3)
    trained = train_detector(stem, fitted, config, 0, list(stem.parameters()), items=few, show=False)
    assert value_of(score_detector(trained, few, show=False), "map50") > 0.4  # an untrained head stays below 0.01


def test_equal_seeds_train_alike():
    dataset = painted("boxes")
    config = dataclasses.replace(CONFIG, epochs=2, cache_gb=0)
    fitted = stem_fit(dataset)
    first, same, other = (train_detector(Plain(), fitted, config, seed, show=False) for seed in (0, 0, 1))
    weights = [torch.cat([p.flatten() for p in t.detector.parameters()]) for t in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_tuned_encoder_is_trained_and_a_frozen_one_is_not():
    fitted = stem_fit(painted("boxes"))
    config = dataclasses.replace(CONFIG, epochs=1)
    for is_tuned in (True, False):
        stem = Stem(fitted.contract, width=16)
        before = [p.detach().clone() for p in stem.parameters()]
        train_detector(stem, fitted, config, 0, list(stem.parameters()) if is_tuned else (), show=False)
        assert all(torch.equal(a, b) for a, b in zip(before, stem.parameters(), strict=True)) != is_tuned


class Oracle:
    """Stands where a trained head does: tells every white pixel of the tile as a box of 4 pixels."""

    config = dataclasses.replace(CONFIG, overlap_px=32)

    def detect(self, maps, side_px):
        made = []
        for image in maps[0]:
            y, x = np.nonzero(image[0].numpy() > 200)
            boxes = np.column_stack([x - 2, y - 2, x + 2, y + 2]).astype(np.float32)
            made.append(objects_found(boxes))
        return made


def objects_found(boxes):
    from skyframe.evaluate.heads.detections import Found

    num = len(boxes)
    return Found(boxes, np.zeros(num, np.int64), np.full(num, 0.5, np.float32), np.zeros(num, bool))


def test_tiles_of_a_large_image_are_joined():
    pixels = np.zeros((3, 130, 200), np.uint8)
    places = [(10, 10), (50, 40), (120, 190), (64, 100)]
    for y, x in places:
        pixels[:, y, x] = 255
    truth = {"boxes": np.zeros((0, 4), np.float32), "box_class": np.zeros(0, np.int64), "difficult": np.zeros(0, bool)}
    sample = image_sample("rgb", pixels, truth)
    fitted = stem_fit(painted("boxes"))
    trained = TrainedDetector(Oracle(), lambda b: [b.series["rgb"].values[:, 0]], fitted, 2)
    found = detect(trained, sample)
    middles = (found.shapes[:, :2] + found.shapes[:, 2:]) / 2
    assert sorted(map(tuple, middles.tolist())) == sorted((x, y) for y, x in places)  # those in overlaps once


def test_tiles_without_objects_are_left_out_of_training():
    large = painted("boxes", (64, 64), 3)
    wide = dataclasses.replace(large, read=lambda item: _padded(large.read(item)))
    side, tiles = plan_tiles(stem_fit(wide), wide.items, CONFIG, show=False)
    assert side == 2
    assert {(t.top, t.left) for t in tiles} == {(0, 0)}  # of 4 x 6 positions
    assert len(tiles) == 3
    one = plan_tiles(stem_fit(wide), wide.items, dataclasses.replace(CONFIG, tile_px=4096), show=False)
    assert (one[0], len(one[1])) == (6, 3)


def _padded(sample):
    pixels = np.pad(sample.series["rgb"].values[0], [(0, 0), (0, 64), (0, 128)])
    return image_sample("rgb", pixels, sample.targets)


def test_every_tile_once_an_epoch():
    _, tiles = plan_tiles(stem_fit(painted("boxes", num=6)), painted("boxes", num=6).items, CONFIG, show=False)
    steps = [[t.item.key for t in chosen] for chosen, _ in _steps(tiles, dataclasses.replace(CONFIG, epochs=2), 0)]
    assert [len(s) for s in steps] == [4, 2, 4, 2]
    assert sorted(steps[0] + steps[1]) == sorted(steps[2] + steps[3]) == [f"i{n}" for n in range(6)]
    assert steps[:2] != steps[2:]


@pytest.mark.parametrize("kind", ["boxes", "oriented"])
def test_flips_move_pixels_and_shapes_alike(kind):
    sample = painted(kind).read(painted(kind).items[1])
    for left_right, up_down in ((True, False), (False, True), (True, True)):
        turned = flipped(sample, 64, left_right, up_down)
        for given in (sample, turned):
            found = objects_of(given, torch.device("cpu"))
            x, y = (int(v) for v in found.rectangles[1, :2])
            assert given.series["rgb"].values[0, :, y, x].tolist() == [80, 250, 80]
    twice = flipped(flipped(sample, 64, True, True), 64, True, True)
    key = "corners" if kind == "oriented" else "boxes"
    assert twice.targets[key] == pytest.approx(sample.targets[key], abs=1e-4)
    if kind == "boxes":
        assert (turned.targets[key][:, 2:] > turned.targets[key][:, :2]).all()


def test_maps_beyond_the_room_are_computed_again():
    fitted = stem_fit(painted("boxes"))
    maps = Plain()
    source = _TileSource(maps, fitted, 2, dataclasses.replace(CONFIG, cache_gb=1e-9), frozen=True)
    _, tiles = plan_tiles(fitted, fitted.dataset.items, CONFIG, show=False)
    first, second = source.batch(tiles[:2], None)[0], source.batch(tiles[:2], None)[0]
    assert maps.calls == 2
    assert torch.equal(first[0], second[0])


def test_objects_by_hand():
    boxes = np.array([[0, 0, 4, 2], [2, 2, 6, 12]], np.float32)
    for key, shapes in (("boxes", boxes), ("corners", corners_of(boxes).astype(np.float32))):
        sample = image_sample(
            "rgb", np.zeros((3, 8, 8), np.uint8),
            {key: shapes, "box_class": np.array([1, -1]), "difficult": np.array([False, True])},
        )  # fmt: skip
        found = objects_of(sample, torch.device("cpu"))
        assert found.rectangles.tolist() == [[2, 1, 4, 2, 0], [4, 7, 4, 10, 0]]
        assert found.scored.tolist() == [True, False]


def test_other_kinds_and_empty_sets_are_refused():
    dataset = painted("boxes")
    with pytest.raises(InputError, match="painted: is of kind scene, expected boxes or oriented"):
        train_detector(Plain(), stem_fit(dataclasses.replace(dataset, kind="scene")), CONFIG, 0, show=False)
    with pytest.raises(InputError, match="painted: the training part holds no object"):
        train_detector(Plain(), stem_fit(dataset), CONFIG, 0, items=[], show=False)
