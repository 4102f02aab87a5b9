"""How often a shard's windows are visited in an epoch, where sources have weights; closed forms, nothing is kept.

A source of weight w visits each of its windows w times per epoch, on average: a shard of k windows gets floor(w k)
visits or one more. Shards of the same source and size take turns in having one more, so the number of visits of an
epoch is always the same, and the visits of a shard go round its windows: a window is seen again only after every
other one of its shard.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Turns:
    """Shards whose visits are no whole number: `member` numbers the shards of a group, `more` of `size` get one."""

    group: NDArray[np.int32]  # [s]
    member: NDArray[np.int32]  # [s]
    more: NDArray[np.int64]  # [groups]
    size: NDArray[np.int64]  # [groups]


@dataclass(frozen=True)
class Visits:
    """Visits of shards `[s]`: the same number in every epoch, or by turns one more."""

    least: NDArray[np.int32]
    turns: Turns | None = None

    def of(self, epoch: int) -> NDArray[np.int32]:
        """Visits of every shard in an epoch `[s]`."""
        if self.turns is None:
            return self.least
        t = self.turns
        place = (t.member - epoch * t.more[t.group]) % t.size[t.group]
        return self.least + (place < t.more[t.group]).astype(np.int32)

    def of_one(self, epoch: int, shard: int) -> int:
        """Visits of one shard in an epoch."""
        one = np.array([shard])
        return int(self.before(epoch + 1, one)[0] - self.before(epoch, one)[0])

    def before(self, epoch: int, shard: NDArray[np.int64]) -> NDArray[np.int64]:
        """Visits of some shards `[m]` in all epochs before this one."""
        sure = epoch * self.least[shard].astype(np.int64)
        if self.turns is None:
            return sure
        t, group = self.turns, self.turns.group[shard]
        return sure - (t.member[shard] - epoch * t.more[group]) // t.size[group]

    def sizes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Distinct numbers of visits, and how many shards have each; equal for every epoch."""
        sizes, shards = np.unique(self.of(0), return_counts=True)
        return sizes.astype(np.int64), shards


def visits_of(windows: NDArray[np.int32], weights: NDArray[np.float64], row: NDArray[np.int32]) -> Visits:
    """Visits of shards of `windows` windows `[s]` in a `row` of a table `[s]` whose rows have `weights` `[n]`."""
    if (weights == 1).all():
        return Visits(windows)
    weight = weights[row]
    exact = windows * weight
    least = np.floor(exact + 1e-9).astype(np.int32)
    pairs, number, size = np.unique(np.stack([windows, weight]), axis=1, return_inverse=True, return_counts=True)
    group = number.reshape(-1).astype(np.int32)
    order = np.argsort(group, kind="stable")
    member = np.empty(len(windows), np.int32)
    member[order] = np.arange(len(windows)) - np.repeat(np.cumsum(size) - size, size)
    share = pairs[0] * pairs[1]
    more = np.round((share - np.floor(share + 1e-9)) * size).astype(np.int64)
    return Visits(least, Turns(group, member, more, size.astype(np.int64)))
