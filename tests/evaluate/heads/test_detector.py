import dataclasses

import numpy as np
import pytest
import torch

from skyframe.config.detection import DetectionConfig
from skyframe.evaluate.heads.detections import Found
from skyframe.evaluate.heads.detector import Detector, _locations, _rectangles, without_doubles

CONFIG = DetectionConfig(width=16, convs=1, strides=(8, 16))


def maps(num=2, side=64, strides=(4, 8), widths=(6, 10), seed=0):
    torch.manual_seed(seed)
    return [torch.randn(num, w, side // s, side // s) for w, s in zip(widths, strides, strict=True)]


def test_locations_and_rectangles_by_hand():
    at = _locations(torch.zeros(1, 1, 2, 3), 8)
    assert at.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    sides = torch.tensor([[[1.0, 2, 5, 4]]])  # left, top, right, bottom
    straight = _rectangles(torch.tensor([[10.0, 10]]), sides, torch.zeros(1, 1))
    assert straight[0, 0].tolist() == [12, 11, 6, 6, 0]
    turned = _rectangles(torch.tensor([[10.0, 10]]), sides, torch.full((1, 1), np.pi / 2))
    assert turned[0, 0].tolist() == pytest.approx([9, 12, 6, 6, np.pi / 2])  # right is down, down is left


@pytest.mark.parametrize("given", [((32,), (12,)), ((4, 8, 16), (6, 10, 12)), ((2,), (5,))])
def test_levels_have_the_wanted_strides_whatever_is_given(given):
    strides, widths = given
    detector = Detector(widths, strides, 3, False, CONFIG, 0)
    found = detector(maps(2, 64, strides, widths), 64)
    assert found.logits.shape == (2, 64 + 16, 3)
    assert found.rectangles.shape == (2, 80, 5)
    assert found.stride.tolist() == [8.0] * 64 + [16.0] * 16
    assert found.points[64].tolist() == [8, 8]


def test_every_weight_gets_a_gradient_and_seeds_decide():
    detector = Detector((6, 10), (4, 8), 3, True, CONFIG, 1)
    found = detector(maps(), 64)
    (found.logits.sum() + found.rectangles.sum() + found.centreness.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in detector.parameters())
    same, other = (Detector((6, 10), (4, 8), 3, True, CONFIG, seed) for seed in (1, 2))
    assert torch.equal(same.classes.weight, detector.classes.weight)
    assert not torch.equal(other.classes.weight, detector.classes.weight)


def test_an_untrained_head_holds_objects_to_be_rare():
    found = Detector((6, 10), (4, 8), 3, False, CONFIG, 0)(maps(), 64)
    assert found.logits.sigmoid().mean().item() == pytest.approx(0.01, abs=0.005)


@pytest.mark.parametrize("oriented", [False, True])
def test_detections_are_the_surest_locations_without_doubles(oriented):
    config = dataclasses.replace(CONFIG, most_overlap=0.3)  # neighbours share a third
    detector = Detector((6, 10), (4, 8), 2, oriented, config, 0)
    for layer in (detector.classes, detector.shape):  # the same answer everywhere: one cell to each side, class 1
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        detector.classes.bias.copy_(torch.tensor([-9.0, 2.0]))
    found = detector.detect(maps(1), 64)[0]
    assert set(found.classes.tolist()) == {1}
    assert found.scores == pytest.approx(np.sqrt(1 / (1 + np.exp(-2)) * 0.5), abs=1e-6)
    assert found.shapes.shape[1:] == ((4, 2) if oriented else (4,))
    assert len(found.shapes) < 80
    side = found.shapes.reshape(len(found.shapes), -1, 2)
    sizes = (side.max(1) - side.min(1)).round().astype(int)
    assert {tuple(s) for s in sizes.tolist()} <= {(16, 16), (32, 32)}
    torch.nn.init.constant_(detector.classes.bias, -9.0)
    assert len(detector.detect(maps(1), 64)[0].scores) == 0


def test_doubles_go_within_a_class_and_the_rest_is_bounded():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [50, 0, 60, 10]], np.float32)
    found = Found(boxes, np.array([0, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.zeros(4, bool))
    assert without_doubles(found, CONFIG).scores.tolist() == pytest.approx([0.9, 0.7, 0.6])
    few = without_doubles(found, DetectionConfig(per_image=2))
    assert few.scores.tolist() == pytest.approx([0.9, 0.7])
