import numpy as np
import pytest
from shapely.geometry import Polygon

from skyframe.evaluate.heads.shapes import (
    areas,
    corners_of,
    intersections,
    is_convex,
    overlaps,
    quad_intersections,
    quads_of,
    rectangles_of,
    suppress,
)


def random_quads(num, seed, spread=30.0):
    rng = np.random.default_rng(seed)
    centre, size = rng.uniform(0, spread, (num, 2)), rng.uniform(1, 25, (num, 2))
    return quads_of(np.column_stack([centre, size, rng.uniform(-7, 7, num)]))


def test_boxes_by_hand():
    boxes = np.array([[0, 0, 4, 2], [2, 1, 6, 3], [4, 0, 5, 1]])
    assert areas(boxes).tolist() == [8, 8, 1]
    assert intersections(boxes, boxes).tolist() == [[8, 2, 0], [2, 8, 0], [0, 0, 1]]
    assert overlaps(boxes, boxes)[0] == pytest.approx([1, 2 / 14, 0])
    assert overlaps(boxes, np.array([[1, 1, 1, 1]])).tolist() == [[0], [0], [0]]  # no area, no overlap


def test_quadrilaterals_by_hand():
    square = corners_of(np.array([[0.0, 0, 2, 2]]))
    diamond = np.array([[[1.0, -1], [3, 1], [1, 3], [-1, 1]]])  # its corners stick out by one on each side
    assert quad_intersections(square, diamond) == pytest.approx([4.0])
    assert quad_intersections(diamond, square) == pytest.approx([4.0])
    half = np.array([[[0.0, 0], [2, 2], [1, 3], [-1, 1]]])  # its first edge is the square's diagonal
    assert quad_intersections(square, half) == pytest.approx([2.0])
    assert quad_intersections(square, square + np.array([2, 0])) == pytest.approx([0.0])  # a common edge
    assert quad_intersections(square, square + np.array([9, 0])) == pytest.approx([0.0])
    assert quad_intersections(square, square[:, ::-1]) == pytest.approx([4.0])  # drawn the other way round


def test_quadrilaterals_agree_with_shapely():
    first, second = random_quads(150, 0), random_quads(150, 1)[:, ::-1]
    found = overlaps(first, second)
    theirs = np.array([[_shapely(a, b) for b in second[:40]] for a in first])
    assert found[:, :40] == pytest.approx(theirs, abs=1e-9)
    assert (found > 0.1).mean() > 0.2  # the drawn shapes do meet


def _shapely(a, b):
    first, second = Polygon(a), Polygon(b)
    return first.intersection(second).area / first.union(second).area


def test_quadrilaterals_far_from_the_origin_and_nearly_the_same():
    quads = random_quads(100, 2)
    assert np.diag(overlaps(quads, quads)) == pytest.approx(np.ones(100), abs=1e-12)
    far = quads + 1e5
    shifted = far + np.random.default_rng(0).normal(0, 1e-7, far.shape)
    assert np.diag(overlaps(far, shifted)) == pytest.approx(np.ones(100), abs=1e-5)


def test_straight_quadrilaterals_are_boxes():
    rng = np.random.default_rng(4)
    low = rng.uniform(0, 20, (30, 2))
    boxes = np.hstack([low, low + rng.uniform(1, 9, (30, 2))])
    assert overlaps(corners_of(boxes), corners_of(boxes)) == pytest.approx(overlaps(boxes, boxes), abs=1e-12)


def test_convex():
    square = [[0, 0], [2, 0], [2, 2], [0, 2]]
    bow_tie, line, dent = [square[i] for i in (0, 2, 1, 3)], [[0, 0], [1, 1], [2, 2], [3, 3]], [*square[:3], [1.5, 1]]
    found = is_convex(np.array([square, square[::-1], bow_tie, line, dent]))
    assert found.tolist() == [True, True, False, False, False]


def test_rectangles_and_back():
    given = np.array([[10.0, 20, 8, 2, np.pi / 6]])
    corners = quads_of(given)
    assert corners[0, 1] - corners[0, 0] == pytest.approx([8 * np.cos(np.pi / 6), 4.0])
    assert rectangles_of(corners) == pytest.approx(given)
    assert areas(corners) == pytest.approx([16.0])
    many = random_quads(50, 5)
    assert overlaps(quads_of(rectangles_of(many)), many).diagonal() == pytest.approx(np.ones(50), abs=1e-9)


@pytest.mark.parametrize("shape", [lambda b: b, corners_of], ids=["boxes", "corners"])
def test_suppression(shape):
    boxes = shape(np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [30, 0, 40, 10], [0, 0, 10, 4]]))
    scores, classes = np.array([0.5, 0.9, 0.8, 0.1, 0.4]), np.array([0, 0, 1, 0, 0])
    # 1 covers 0 by 90/110 and 4 by 36/104; 2 is of another class
    assert suppress(boxes, scores, classes, 0.5).tolist() == [1, 2, 4, 3]
    assert suppress(boxes, scores, classes, 0.9).tolist() == [1, 2, 0, 4, 3]
    assert suppress(boxes[:0], scores[:0], classes[:0], 0.5).tolist() == []
