"""Contestants timed in turns, so that a machine that is busy for a while is busy for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Contestant = Callable[[int], Any]
"""Number of a sample -> that sample. Numbers come in rising order without gaps, so that a stream can serve as well."""


@dataclass(frozen=True)
class Turn:
    """One contestant in one round."""

    per_s: float
    """Samples a second of wall time."""

    cpu_ms: float
    """CPU time of a sample over all threads of this process."""


def interleave(
    contestants: Mapping[str, Contestant],
    rounds: int,
    seconds: float,
    start: int = 0,
    before: Mapping[str, Callable[[], None]] | None = None,
) -> dict[str, list[Turn]]:
    """Let every contestant read for `seconds`, round after round; every other round goes backwards.

    One more round goes before and is not counted: it fills caches.

    Args:
        contestants: by name; neighbours are timed next to each other.
        rounds: that count.
        seconds: a turn lasts at least so long, and at least one sample.
        start: number of the first sample.
        before: what to do, untimed, before each turn of a contestant.
    """
    position = dict.fromkeys(contestants, start)
    turns: dict[str, list[Turn]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name in list(contestants)[:: -1 if number % 2 else 1]:
            if before and name in before:
                before[name]()
            turn, position[name] = _take_turn(contestants[name], position[name], seconds)
            if number:
                turns[name].append(turn)
    return turns


def _take_turn(read: Contestant, first: int, seconds: float) -> tuple[Turn, int]:
    number, cpu, started = first, time.process_time(), time.perf_counter()
    while True:
        read(number)
        number += 1
        took = time.perf_counter() - started
        if took >= seconds:
            done = number - first
            return Turn(done / took, 1e3 * (time.process_time() - cpu) / done), number


def rate(turns: Sequence[Turn]) -> float:
    """Median samples a second."""
    return statistics.median(turn.per_s for turn in turns)


def ratio(turns: Sequence[Turn], others: Sequence[Turn]) -> float:
    """Median over the rounds of how many times as fast the first were as the others of the same round."""
    return statistics.median(a.per_s / b.per_s for a, b in zip(turns, others, strict=True))


def cpu_ratio(turns: Sequence[Turn], others: Sequence[Turn]) -> float:
    """The same by CPU time, which a busy machine disturbs less; of use where both keep one core busy and no disk."""
    return statistics.median(b.cpu_ms / a.cpu_ms for a, b in zip(turns, others, strict=True))
