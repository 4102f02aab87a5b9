"""Alarms over result rows: scores that cannot be right, or that show an encoder has learnt nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from skyframe.config.heads import LOWER_IS_BETTER
from skyframe.evaluate.protocol import ResultRow

COLLAPSED = 0.02
"""Feature spread below which embeddings count as collapsed (1 = directions spread evenly)."""


@dataclass(frozen=True)
class Alarm:
    """One thing to look at before believing a score."""

    kind: str  # identical | below_pixels | like_random | collapsed
    task: str
    encoder: str
    message: str

    def __str__(self) -> str:
        return self.message


def find_alarms(rows: Sequence[ResultRow]) -> list[Alarm]:
    """Look through rows of one or several suites.

    Only the protocols' main setting counts, not the further k of the nearest neighbours. `identical`: two encoders, or
    one under two normalisers, predict the very same classes and not all of them right. `below_pixels`: an encoder
    scores below pixel statistics. `like_random`: its score lies inside the interval of random weights.
    `collapsed`: its features hardly differ between rows.
    """
    found: dict[Alarm, None] = {}
    groups: dict[tuple[str, ...], list[ResultRow]] = {}
    for row in (r for r in rows if not r.protocol.startswith("knn_")):
        groups.setdefault((row.suite, row.task, row.protocol, row.metric, str(row.seed), row.split_sha256), []).append(
            row
        )
    for group in groups.values():
        for alarm in (*_identical(group), *_below_pixels(group), *_like_random(group), *_collapsed(group)):
            found[alarm] = None
    return list(found)


def _where(row: ResultRow) -> str:
    return f"{row.task} {row.protocol} {row.metric} (seed {row.seed})"


def _identical(group: Sequence[ResultRow]) -> Iterable[Alarm]:
    for i, a in enumerate(group):
        for b in group[i + 1 :]:
            same = a.predictions_sha256 == b.predictions_sha256 and a.value < 1
            if same and "majority" not in (a.role, b.role):
                names = f"{a.encoder} ({a.normaliser}) and {b.encoder} ({b.normaliser})"
                yield Alarm(
                    "identical",
                    a.task,
                    b.encoder,
                    f"{_where(a)}: {names} give the same prediction for every test row ({a.value:.4f}); weights or "
                    "normaliser may not be in use",
                )


def _below_pixels(group: Sequence[ResultRow]) -> Iterable[Alarm]:
    for raw in (r for r in group if r.role == "raw"):
        for row in (r for r in group if r.role == "encoder" and _worse(r, raw.value)):
            yield Alarm(
                "below_pixels",
                row.task,
                row.encoder,
                f"{_where(row)}: {row.encoder} {row.value:.3f} is below pixel statistics {raw.value:.3f}; check "
                "units and normaliser, or train longer",
            )


def _like_random(group: Sequence[ResultRow]) -> Iterable[Alarm]:
    for random in (r for r in group if r.role == "random"):
        for row in (r for r in group if r.role == "encoder" and not _better(r, random)):
            yield Alarm(
                "like_random",
                row.task,
                row.encoder,
                f"{_where(row)}: {row.encoder} {row.value:.3f} is not better than random weights {random.value:.3f} "
                f"[{random.lo:.3f}, {random.hi:.3f}]",
            )


def _worse(row: ResultRow, value: float) -> bool:
    return row.value > value if row.metric in LOWER_IS_BETTER else row.value < value


def _better(row: ResultRow, random: ResultRow) -> bool:
    """Whether a score lies beyond the interval of random weights."""
    return row.value < random.lo if row.metric in LOWER_IS_BETTER else row.value > random.hi


def _collapsed(group: Sequence[ResultRow]) -> Iterable[Alarm]:
    for row in group:
        if row.role == "encoder" and row.feature_std < COLLAPSED:
            yield Alarm(
                "collapsed",
                row.task,
                row.encoder,
                f"{row.task} (seed {row.seed}): features of {row.encoder} spread by {row.feature_std:.4f}, below "
                f"{COLLAPSED}; the embedding has collapsed",
            )
