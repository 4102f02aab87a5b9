"""Average precision of detections, horizontal or oriented, with images resampled at will.

What a detection is matched to depends on its own image alone, so matching is done once; a metric over images that count
several times or not at all then costs a sort less than the first evaluation.

| metric | matching | area under the curve | IoU from |
|---|---|---|---|
| `map`, `map50`, `map75` | COCO: the best object still free | 101 points | 0.50, 0.55 ... 0.95; 0.5; 0.75 |
| `voc_map50`, `voc07_map50` | VOC: the best object, found once | all points; 11 points | 0.5 |

COCO counts the 100 best detections per image and class, VOC all.

IoU is of boxes, or of the corners' polygons as for DOTA. Means are over classes with at least one scored object.
**Objects that are not scored** (difficult, or of class -1, which any class may match): a detection matched to one is
neither right nor wrong, and any number may be. Under COCO they are its crowds: overlap is the share of the detection
that lies inside, and a scored object is preferred. Under VOC overlap is IoU and the best object decides.

Source: Lin et al., Microsoft COCO (ECCV 2014) and pycocotools; Everingham et al., The PASCAL VOC challenge (IJCV 2010)
and its development kit; Xia et al., DOTA (CVPR 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyframe.evaluate.heads.shapes import areas, intersections
from skyframe.evaluate.measures.measure import Floats, Ints
from skyframe.spec import InputError, did_you_mean

COCO = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
RULES = {
    "map": ("coco", COCO), "map50": ("coco", (0.5,)), "map75": ("coco", (0.75,)),
    "voc_map50": ("voc", (0.5,)), "voc07_map50": ("voc", (0.5,)),
}  # fmt: skip
"""Matching and IoU thresholds by metric."""
POINTS = {"map": 101, "map50": 101, "map75": 101, "voc07_map50": 11, "voc_map50": 0}
"""Recall levels at which precision is read; 0 = at every level reached."""
PER_IMAGE = 100
"""COCO counts the best so many detections of an image and class."""


@dataclass(frozen=True)
class Found:
    """Objects of one image: answers of a detector, or the truth with scores of 1."""

    shapes: NDArray[np.float32]  # [n, 4] x0 y0 x1 y1, or corners [n, 4, 2], in pixels
    classes: NDArray[np.int64]  # [n], -1 in the truth: of no class
    scores: NDArray[np.float32]  # [n], higher is surer
    difficult: NDArray[np.bool_]  # [n], in the truth: not scored


@dataclass(frozen=True)
class _Class:
    """Matched detections of one class over all images, the surest first."""

    cluster: Ints  # [k]
    right: NDArray[np.bool_]  # [rules, k]
    counted: NDArray[np.bool_]  # [rules, k] False = neither right nor wrong
    objects: Ints  # [W] scored objects by cluster


class DetectionMeasure:
    """Answers and truth of the test images, matched. A `Measure`."""

    def __init__(
        self, answers: Sequence[Found], truths: Sequence[Found], num_classes: int, clusters: Sequence[int] = ()
    ) -> None:
        """Match every image.

        Args:
            answers: of each image, without doubles.
            truths: of each image.
            num_classes: classes 0 to C - 1.
            clusters: number from 0 of the cluster that each image belongs to; each its own by default.
        """
        place = np.asarray(clusters or range(len(truths)), np.int64)
        self._num_clusters = int(place.max(initial=-1)) + 1
        self._rules = [(kind, t) for kind in ("coco", "voc") for t in (COCO if kind == "coco" else (0.5,))]
        matched = [_match_image(a, t, num_classes, self._rules) for a, t in zip(answers, truths, strict=True)]
        self._classes = [
            self._joined(c, [m[c] for m in matched], [_scored(t, c) for t in truths], place) for c in range(num_classes)
        ]

    def _joined(self, number: int, parts: Sequence[tuple[Floats, Ints]], objects: Sequence[int], place: Ints) -> _Class:
        scores = np.concatenate([np.empty(0), *(p[0] for p in parts)])
        state = np.concatenate([np.empty((len(self._rules), 0), np.int64), *(p[1] for p in parts)], axis=1)
        order = np.argsort(-scores, kind="stable")
        cluster = np.repeat(place, [len(p[0]) for p in parts])[order]
        totals = np.bincount(place, weights=objects, minlength=self._num_clusters).astype(np.int64)
        return _Class(cluster, state[:, order] == 1, state[:, order] >= 0, totals)

    @property
    def num_clusters(self) -> int:
        """Clusters W that may be drawn."""
        return self._num_clusters

    @property
    def num_units(self) -> int:
        """Objects that are scored."""
        return int(sum(c.objects.sum() for c in self._classes))

    def scores(self, metric: str, counts: Ints) -> Floats:
        """A metric over clusters counted several times or not at all, see `Measure`.

        Raises:
            InputError: a metric that is none of this module's.
        """
        by_class = self.by_class(metric, counts)
        known = np.isfinite(by_class)
        total = np.where(known, by_class, 0.0).sum(1)
        return np.divide(total, known.sum(1), out=np.full(len(by_class), np.nan), where=known.any(1))

    def by_class(self, metric: str, counts: Ints) -> Floats:
        """Average precision of each class, float64 `[R, C]`, NaN where a draw holds no scored object of it."""
        if metric not in RULES:
            raise InputError(
                f"metric {metric!r} is not of detections, expected one of "
                f"{', '.join(RULES)}{did_you_mean(metric, RULES)}"
            )
        kind, thresholds = RULES[metric]
        rules = [self._rules.index((kind, t)) for t in thresholds]
        found = np.full((len(counts), len(self._classes)), np.nan)
        for number, c in enumerate(self._classes):
            objects = counts @ c.objects
            for row in np.flatnonzero(objects):
                weight = counts[row][c.cluster]
                curves = [
                    _average(c.right[r] * weight, c.counted[r] * weight, objects[row], POINTS[metric]) for r in rules
                ]
                found[row, number] = np.mean(curves)
        return found


def _average(right: Ints, counted: Ints, objects: int, points: int) -> float:
    """Area under precision over recall; detections come in the order of their scores, by how often each counts."""
    hits, answers = right.cumsum(), counted.cumsum()
    recall, precision = hits / objects, hits / np.maximum(answers, 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # the best precision at this recall or a higher one
    if points:
        at = np.searchsorted(recall, np.linspace(0, 1, points), side="left")
        return float(np.append(best, 0.0)[at].mean())
    return float((np.diff(recall, prepend=0.0) * best).sum())


def _scored(truth: Found, number: int) -> int:
    return int(((truth.classes == number) & ~truth.difficult).sum())


def _match_image(
    answer: Found, truth: Found, num_classes: int, rules: Sequence[tuple[str, float]]
) -> list[tuple[Floats, Ints]]:
    """For each class the scores, sorted, and per rule 1 = right, 0 = wrong, -1 = neither, int `[rules, k]`."""
    made = []
    for number in range(num_classes):
        mine, theirs = np.flatnonzero(answer.classes == number), np.isin(truth.classes, (number, -1))
        mine = mine[np.argsort(-answer.scores[mine], kind="stable")]
        hidden = (truth.difficult | (truth.classes < 0))[theirs]
        shapes, objects = answer.shapes[mine], truth.shapes[theirs]
        state = np.zeros((len(rules), len(mine)), np.int64)
        if len(mine) and len(objects):
            common, own = intersections(shapes, objects), areas(shapes)[:, None]
            union = own + areas(objects)[None] - common
            iou = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
            share = np.divide(common, own, out=np.zeros_like(common), where=own > 0)
            for row, (kind, least) in enumerate(rules):
                overlap = np.where(hidden, share, iou) if kind == "coco" else iou
                state[row] = (_match_coco if kind == "coco" else _match_voc)(overlap, hidden, least)
        state[[i for i, (kind, _) in enumerate(rules) if kind == "coco"], PER_IMAGE:] = -1
        made.append((answer.scores[mine].astype(np.float64), state))
    return made


def _match_coco(overlap: Floats, hidden: NDArray[np.bool_], least: float) -> list[int]:
    """The best scored object that is free decides; without one, whether any hidden one is met."""
    free, state = ~hidden, []
    met_hidden = np.any(overlap[:, hidden] >= least, axis=1)
    for row, shaded in zip(overlap, met_hidden, strict=True):
        open_to = np.where(free, row, -1.0)
        best = len(row) - 1 - int(open_to[::-1].argmax())  # of equal ones the last, as in pycocotools
        if open_to[best] >= least:
            free[best] = False
            state.append(1)
        else:
            state.append(-1 if shaded else 0)
    return state


def _match_voc(overlap: Floats, hidden: NDArray[np.bool_], least: float) -> list[int]:
    """The best object decides: hidden, found already, or right."""
    taken, state = np.zeros(len(hidden), bool), []
    for row in overlap:
        best = int(row.argmax())
        if row[best] < least:
            state.append(0)
        elif hidden[best]:
            state.append(-1)
        else:
            state.append(0 if taken[best] else 1)
            taken[best] = True
    return state
