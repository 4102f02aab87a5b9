"""Boxes and quadrilaterals in pixels: areas, overlaps of all pairs, suppression of doubles, rotated rectangles.

A shape is a horizontal box `[4]` (x0 y0 x1 y1) or a convex quadrilateral `[4, 2]` (corners in either direction). Edges
are lines between pixels, so that a box of one pixel has x1 = x0 + 1 and nothing is widened by one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PAIRS = 200_000
"""Pairs of quadrilaterals clipped at once, about 0.2 GB."""


def corners_of(boxes: NDArray[np.floating]) -> Floats:
    """Horizontal boxes `[..., 4]` as their corners `[..., 4, 2]`, clockwise on the screen from the upper left."""
    return np.asarray(boxes, np.float64)[..., [0, 1, 2, 1, 2, 3, 0, 3]].reshape(*boxes.shape[:-1], 4, 2)


def enclosing(shapes: NDArray[np.floating]) -> Floats:
    """The horizontal boxes `[n, 4]` around shapes; boxes are their own."""
    points = np.asarray(shapes, np.float64)
    return points if points.ndim == 2 else np.concatenate([points.min(1), points.max(1)], 1)


def areas(shapes: NDArray[np.floating]) -> Floats:
    """Areas `[n]` in square pixels, never negative."""
    values = np.asarray(shapes, np.float64)
    if values.ndim == 3:
        return np.abs(_signed_areas(values))
    sides: Floats = (values[:, 2:] - values[:, :2]).clip(0).prod(1)
    return sides


def intersections(first: NDArray[np.floating], second: NDArray[np.floating]) -> Floats:
    """Common area of every pair of shapes of one kind, `[n, m]` in square pixels."""
    a, b = enclosing(first), enclosing(second)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    common = (np.minimum(a[:, None, 2:], b[None, :, 2:]) - low).clip(0).prod(-1)
    if np.ndim(first) == 2:
        return np.asarray(common, np.float64)
    rows, columns = np.nonzero(common)  # quadrilaterals meet only where their enclosing boxes do
    found = np.zeros_like(common)
    for at in range(0, len(rows), PAIRS):
        r, c = rows[at : at + PAIRS], columns[at : at + PAIRS]
        found[r, c] = quad_intersections(np.asarray(first, np.float64)[r], np.asarray(second, np.float64)[c])
    return found


def overlaps(first: NDArray[np.floating], second: NDArray[np.floating]) -> Floats:
    """Intersection over union of every pair of shapes of one kind, `[n, m]` in 0..1, 0 for shapes without area."""
    common = intersections(first, second)
    union = areas(first)[:, None] + areas(second)[None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def quad_intersections(first: Floats, second: Floats) -> Floats:
    """Common area of P pairs of convex quadrilaterals.

    Args:
        first: `[P, 4, 2]`, corners in either direction.
        second: `[P, 4, 2]`.

    Returns:
        float64 `[P]`.

    Source: Sutherland and Hodgman, Reentrant polygon clipping (CACM 1974), all pairs at once; a corner more per edge.
    """
    origin = second[:, :1]  # near the corners, so that map coordinates lose nothing
    polygon, clip = first - origin, second - origin
    clip = np.where((_signed_areas(clip) < 0)[:, None, None], clip[:, ::-1], clip)
    for k in range(4):
        start, end = clip[:, k], clip[:, (k + 1) % 4]
        polygon = _cut(polygon, start, end - start)
    return np.abs(_signed_areas(polygon))


def _cut(polygon: Floats, start: Floats, along: Floats) -> Floats:
    """What of `[P, V, 2]` lies on the inner side of a line, `[P, V + 1, 2]`; places left over repeat a corner."""
    side = along[:, None, 0] * (polygon[..., 1] - start[:, None, 1]) - along[:, None, 1] * (
        polygon[..., 0] - start[:, None, 0]
    )
    following, next_side = np.roll(polygon, -1, 1), np.roll(side, -1, 1)
    inside: NDArray[np.bool_] = np.greater_equal(side, 0)
    crossing = inside != (next_side >= 0)
    share = np.divide(side, side - next_side, out=np.zeros_like(side), where=crossing)[..., None]
    points = np.stack([polygon, polygon + share * (following - polygon)], 2).reshape(len(polygon), -1, 2)
    kept = np.stack([inside, crossing], 2).reshape(len(polygon), -1)
    order = np.argsort(~kept, axis=1, kind="stable")[:, : polygon.shape[1] + 1]
    points = np.take_along_axis(points, order[..., None], 1)
    first = points[:, :1] * np.any(kept, axis=1).reshape(-1, 1, 1)
    return np.where(np.take_along_axis(kept, order, 1)[..., None], points, first)


def _signed_areas(polygons: Floats) -> Floats:
    x, y = polygons[..., 0], polygons[..., 1]
    twice: Floats = (x * np.roll(y, -1, -1) - np.roll(x, -1, -1) * y).sum(-1)
    return twice / 2


def is_convex(quads: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether corners `[n, 4, 2]` go round one way with an area, bool `[n]`; a bow tie, a line, a dent do not."""
    points = np.asarray(quads, np.float64)
    edges = np.roll(points, -1, -2) - points
    after = np.roll(edges, -1, -2)
    turns = edges[..., 0] * after[..., 1] - edges[..., 1] * after[..., 0]
    one_way = np.all(turns >= 0, axis=-1) | np.all(turns <= 0, axis=-1)
    return np.asarray(one_way & (np.abs(_signed_areas(points)) > 0), bool)


def suppress(
    shapes: NDArray[np.floating], scores: NDArray[np.floating], classes: NDArray[np.integer], most_overlap: float
) -> NDArray[np.int64]:
    """Indices of shapes that no better one of their class covers, best first (non-maximum suppression).

    Args:
        shapes: `[n, 4]` or `[n, 4, 2]`.
        scores: `[n]`; equal ones keep their order.
        classes: `[n]`.
        most_overlap: intersection over union above which the worse of two goes.
    """
    left, kept = np.argsort(-np.asarray(scores), kind="stable"), []
    while len(left):  # row by row: most pairs of a crowd are never looked at
        best, left = left[0], left[1:]
        kept.append(best)
        rivals = np.flatnonzero(classes[left] == classes[best])
        covered = overlaps(shapes[best : best + 1], shapes[left[rivals]])[0] > most_overlap
        left = np.delete(left, rivals[covered])
    return np.array(kept, np.int64)


def rectangles_of(quads: NDArray[np.floating]) -> Floats:
    """Rotated rectangles `[n, 5]` (centre x, centre y, first edge, second edge, angle) of quadrilaterals.

    Exact for rectangles; for others opposite edges are averaged. The angle in radians turns the x axis to the first
    edge, clockwise on the screen.
    """
    points = np.asarray(quads, np.float64)
    first = (points[:, 1] - points[:, 0] + points[:, 2] - points[:, 3]) / 2
    second = (points[:, 2] - points[:, 1] + points[:, 3] - points[:, 0]) / 2
    lengths = np.hypot(first[:, 0], first[:, 1]), np.hypot(second[:, 0], second[:, 1])
    return np.column_stack([points.mean(1), *lengths, np.arctan2(first[:, 1], first[:, 0])])


def quads_of(rectangles: NDArray[np.floating]) -> Floats:
    """Corners `[n, 4, 2]` of rotated rectangles `[n, 5]`, the inverse of `rectangles_of`."""
    x, y, w, h, angle = np.asarray(rectangles, np.float64).T[..., None]
    along, across = np.array([-0.5, 0.5, 0.5, -0.5]) * w, np.array([-0.5, -0.5, 0.5, 0.5]) * h
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([x + cos * along - sin * across, y + sin * along + cos * across], -1)
