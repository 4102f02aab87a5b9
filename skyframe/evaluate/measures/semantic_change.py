"""Semantic change: whether a pixel changed, and into what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyframe.evaluate.measures.confusion import confusion_of, one_class
from skyframe.evaluate.measures.measure import Floats, Ints
from skyframe.evaluate.measures.metrics import score
from skyframe.spec import InputError


@dataclass(frozen=True)
class SemanticChangeMeasure:
    """Scores `scs` = (`bc` + `sc`) / 2, `bc`, `sc`, and `miou` of the land cover itself.

    Per pixel of each pair of successive dates, with truth a -> b and answer p -> q:

        changed = a != b;  said = p != q
        bc = |changed and said| / |changed or said|
        sc = mean over the classes k with any (changed and b == k) of
             |changed and b == k and q == k| / |changed and (b == k or q == k)|

    so `sc` does not see pixels that never changed, and a pixel without a class (-1) has no part in `sc` but counts in
    `bc` as if that were a class of its own, as in the reference.

    Source: Toker et al., DynamicEarthNet, CVPR 2022, section 4; `codalab_eval/` of aysim/dynnet.
    """

    changes: Ints  # [W, 2, 2] changed by row, said by column
    becomes: Ints  # [W, C, C] true class after a change by row, answered class by column
    cover: Ints  # [W, C, C] all dates

    @property
    def num_clusters(self) -> int:
        """Clusters W."""
        return len(self.changes)

    @property
    def num_units(self) -> int:
        """Pixels of pairs of dates."""
        return int(self.changes.sum())

    def scores(self, metric: str, counts: Ints) -> Floats:
        """See `skyframe.evaluate.measures.measure.Measure`."""
        if metric == "miou":
            return score(_sum(counts, self.cover), "miou")
        if metric not in ("scs", "bc", "sc"):
            raise InputError(f"metric {metric!r} is not one of semantic change, expected scs, bc, sc or miou")
        binary = one_class(_sum(counts, self.changes), "iou", 1)
        if metric == "bc":
            return binary
        after = _sum(counts, self.becomes)
        hit = np.diagonal(after, axis1=-2, axis2=-1)
        true = after.sum(-1)
        iou = hit / np.maximum(true + after.sum(-2) - hit, 1)
        num = (true > 0).sum(-1)
        semantic = np.where(num > 0, iou.sum(-1) / np.maximum(num, 1), np.nan)
        return np.asarray(semantic if metric == "sc" else (binary + semantic) / 2)


def change_counts(truth: NDArray[np.generic], answer: NDArray[np.generic], num_classes: int) -> Ints:
    """What `SemanticChangeMeasure` needs of one cluster.

    Args:
        truth: classes `[T, H, W]` at successive dates, -1 = none.
        answer: `[T, H, W]`.
        num_classes: C.

    Returns:
        int64 `[4 + 2 C C]`: changes, classes after a change, classes; `semantic_change` takes them apart.
    """
    changed, said = truth[1:] != truth[:-1], answer[1:] != answer[:-1]
    after = np.where(changed, truth[1:], -1)
    parts = (
        confusion_of(changed.astype(np.int64), said, 2),
        confusion_of(after, answer[1:], num_classes),
        confusion_of(truth, answer, num_classes),
    )
    return np.concatenate([p.ravel() for p in parts])


def semantic_change(counts: Ints, num_classes: int) -> SemanticChangeMeasure:
    """Rows of `change_counts`, one per cluster, as a measure."""
    num, size = len(counts), num_classes
    changes, becomes, cover = np.split(counts, [4, 4 + size**2], axis=1)
    return SemanticChangeMeasure(
        changes.reshape(num, 2, 2), becomes.reshape(num, size, size), cover.reshape(num, size, size)
    )


def _sum(counts: Ints, per_cluster: Ints) -> Floats:
    """Clusters counted `[R, W]` times: `[R, ...]`."""
    flat = counts.astype(np.float64) @ per_cluster.reshape(len(per_cluster), -1).astype(np.float64)
    return flat.reshape(len(counts), *per_cluster.shape[1:])
