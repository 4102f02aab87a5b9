import math

import pytest
import torch

from skyframe.evaluate.heads.detector import Answers, _locations
from skyframe.evaluate.heads.detector_loss import (
    Objects,
    assign,
    focal,
    gaussian_divergence,
    generalised_iou,
    losses,
)

TURN = math.pi / 2


def objects(*rows, classes=None, scored=None):
    num = len(rows)
    return Objects(
        torch.tensor(rows, dtype=torch.float32).reshape(-1, 5),
        torch.zeros(num, dtype=torch.int64) if classes is None else torch.tensor(classes),
        torch.ones(num, dtype=torch.bool) if scored is None else torch.tensor(scored),
    )


def grid(side_px=64, strides=(8, 16)):
    points = [_locations(torch.zeros(1, 1, side_px // s, side_px // s), s) for s in strides]
    return torch.cat(points), torch.cat([torch.full((len(p),), float(s)) for p, s in zip(points, strides, strict=True)])


def test_focal_is_its_slow_form():
    logits, wanted = torch.tensor([0.3, -2.0, 1.5]), torch.tensor([1.0, 0.0, 0.0])
    p = logits.sigmoid()
    slow = [-0.25 * (1 - p[0]) ** 2 * p[0].log(), *(-0.75 * p[i] ** 2 * (1 - p[i]).log() for i in (1, 2))]
    assert torch.allclose(focal(logits, wanted), torch.stack(slow), atol=1e-6)


def test_generalised_iou_by_hand():
    box = torch.tensor([[5.0, 5, 10, 10, 0]])
    assert generalised_iou(box, box).item() == pytest.approx(0.0, abs=1e-6)
    half = torch.tensor([[10.0, 5, 10, 10, 0]])  # 50 in common, 150 in all, nothing empty around them
    assert generalised_iou(half, box).item() == pytest.approx(1 - 50 / 150)
    apart = torch.tensor([[25.0, 5, 10, 10, 0]])  # 300 around both, 100 of it empty
    assert generalised_iou(apart, box).item() == pytest.approx(1 + 100 / 300)


def test_gaussian_divergence_by_hand():
    box = torch.tensor([[5.0, 5, 10, 4, 0]])
    loss = lambda d: 1 - 1 / (1 + math.log1p(d))  # noqa: E731
    assert gaussian_divergence(box, box).item() == pytest.approx(0.0, abs=1e-6)
    moved = torch.tensor([[10.0, 5, 10, 4, 0]])  # by one standard deviation, half of the first side
    assert gaussian_divergence(moved, box).item() == pytest.approx(loss(0.5), abs=1e-6)
    wide = torch.tensor([[5.0, 5, 20, 4, 0]])  # spread 4 + 1, volume ratio 1/4
    assert gaussian_divergence(wide, box).item() == pytest.approx(loss(0.5 * (5 + math.log(1 / 4)) - 1), abs=1e-6)
    crossed = torch.tensor([[5.0, 5, 10, 4, TURN]])
    assert gaussian_divergence(crossed, box).item() == pytest.approx(loss(0.5 * (100 / 16 + 16 / 100) - 1), abs=1e-6)
    same = torch.tensor([[5.0, 5, 4, 10, TURN]])  # turned by a quarter with sides exchanged
    assert gaussian_divergence(same, box).item() == pytest.approx(0.0, abs=1e-6)


def test_divergence_sees_the_frame_of_the_truth():
    wanted = torch.tensor([[0.0, 0, 10, 4, TURN]])
    along = torch.tensor([[0.0, 5, 10, 4, TURN]])  # down the screen, which is along its first side
    across = torch.tensor([[5.0, 0, 10, 4, TURN]])
    assert gaussian_divergence(along, wanted).item() == pytest.approx(1 - 1 / (1 + math.log1p(0.5)), abs=1e-5)
    assert gaussian_divergence(across, wanted).item() > gaussian_divergence(along, wanted).item()


def test_locations_near_the_centre_answer_for_an_object_of_their_level():
    points, stride = grid()
    # centre on a location of stride 8, half a side 12: that one and its eight neighbours lie within
    found = assign(points, stride, objects([28.0, 28, 24, 24, 0]))
    mine = (found.of == 0).nonzero().flatten()
    assert points[mine].tolist() == [[x, y] for y in (20, 28, 36) for x in (20, 28, 36)]
    assert (stride[mine] == 8).all()
    middle = mine[4]
    assert found.centreness[middle].item() == pytest.approx(1.0)
    assert found.centreness[mine[3]].item() == pytest.approx(math.sqrt(4 / 20))  # 4 px to one side, 20 to the other
    large = assign(points, stride, objects([32.0, 32, 65, 40, 0]))  # more than eight strides of 8
    assert set(stride[large.of == 0].tolist()) == {16.0}


def test_turned_objects_are_met_in_their_own_frame():
    points, stride = grid()
    upright = assign(points, stride, objects([28.0, 28, 24, 8, TURN]))
    assert points[upright.of == 0].tolist() == [[28, y] for y in (20, 28, 36)]
    assert upright.centreness[upright.of == 0].tolist() == pytest.approx([math.sqrt(4 / 20), 1, math.sqrt(4 / 20)])


def test_no_object_is_too_small_and_the_smaller_one_wins():
    points, stride = grid()
    tiny = assign(points, stride, objects([16.5, 17, 2, 2, 0]))  # between locations
    assert points[tiny.of == 0].tolist() == [[20, 20]]
    both = assign(points, stride, objects([28.0, 28, 40, 40, 0], [28.0, 28, 10, 10, 0]))
    assert both.of[(points == 28).all(1)].item() == 1
    assert (both.of == 0).sum() == 8


def test_objects_that_are_not_scored_are_left_out():
    points, stride = grid()
    hidden = assign(points, stride, objects([28.0, 28, 24, 24, 0], classes=[-1], scored=[False]))
    assert (hidden.of == -1).all()
    inside = ((points - 28).abs() < 12).all(1)
    assert torch.equal(hidden.counted, ~inside)
    empty = assign(points, stride, objects())
    assert (empty.of == -1).all()
    assert empty.counted.all()


def answers(rectangles, logits, centreness, points, stride):
    return Answers(logits, rectangles, centreness, points, stride)


@pytest.mark.parametrize("oriented", [False, True])
def test_right_answers_cost_little_and_wrong_ones_more(oriented):
    points, stride = grid()
    truth = [objects([28.0, 28, 24, 16, 0.4 * oriented], classes=[1]), objects()]
    assigned = assign(points, stride, truth[0])
    logits = torch.full((2, len(points), 3), -9.0)
    logits[0, assigned.of == 0, 1] = 9.0
    rectangles = truth[0].rectangles.expand(2, len(points), 5)
    centre = torch.logit(assigned.centreness.clamp(1e-6, 1 - 1e-6)).expand(2, -1)
    right = losses(answers(rectangles, logits, centre, points, stride), truth, oriented)
    assert right["class"].item() < 1e-6
    assert right["box"].item() == pytest.approx(0.0, abs=1e-5)
    wrong = losses(answers(rectangles + 5, -logits, centre + 3, points, stride), truth, oriented)
    assert all(wrong[k] > right[k] + 0.05 for k in right)


def test_a_batch_without_objects_has_a_loss_and_gradients():
    points, stride = grid()
    logits = torch.zeros(1, len(points), 2, requires_grad=True)
    given = answers(torch.ones(1, len(points), 5), logits, torch.zeros(1, len(points)), points, stride)
    terms = losses(given, [objects()], False)
    assert terms["class"].item() == pytest.approx(len(points) * 2 * 0.75 * 0.25 * math.log(2), rel=1e-5)
    assert terms["box"].item() == terms["centre"].item() == 0.0
    terms["class"].backward()
    assert logits.grad.abs().sum() > 0
