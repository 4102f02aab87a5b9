"""Reading ahead over a network: all ranges of a sample at once, and those of the next samples while one is decoded.

Which chunks a read needs is arithmetic over the manifest and the shards' indices; they are asked for at once and held
as they came, compressed. Reading itself does not change: it finds what is under way and waits for it, so that
values and order are those of plain reading. Local cubes pass through here untouched.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from skyframe.data.box import ShardReader
from skyframe.data.cube import Box, Cube
from skyframe.data.manifest import ArrayRecord
from skyframe.data.object_store import ObjectStore
from skyframe.data.transport import Part

Read = tuple[ArrayRecord, NDArray[np.integer], Box]
"""Arguments of one `Reader.read`."""

AHEAD_SAMPLES = 96
AHEAD_BYTES = 256 * 1024 * 1024


class Begun:
    """Reads of one sample that are under way; what they bring lives as long as this does."""

    def __init__(self, parts: list[Part], opening: Sequence[Future[list[Part]]]) -> None:
        self._parts, self._opening = parts, opening
        self._num_bytes: int | None = None

    def settle(self) -> None:
        """Wait until every range is asked for (not until it is there). What failed is met again by reading."""
        for plan in self._opening:
            plan.exception()

    def num_bytes(self) -> int | None:
        """Bytes held or coming, None before all is asked for."""
        if self._num_bytes is None and all(plan.done() for plan in self._opening):
            opened = [part for plan in self._opening if plan.exception() is None for part in plan.result()]
            self._num_bytes = sum(part.stop - part.start for part in [*self._parts, *opened])
        return self._num_bytes


def begin(cube: Cube, reads: Sequence[Read]) -> Begun | None:
    """Ask for the chunks that reads need, without waiting; shards that are not open yet are opened in threads.

    Returns:
        None where reading is local, or not by shards.
    """
    store, reader = cube.store, cube.reader
    if not isinstance(store, ObjectStore) or not isinstance(reader, ShardReader):
        return None
    parts: list[Part] = []
    opening = []
    for read in reads:
        wanted = reader.wanted(*read)
        if reader.is_open(wanted):
            parts += reader.ahead(wanted)
        else:
            opening.append(store.client.live.plans.submit(reader.ahead, wanted))
    return Begun(parts, opening)


class ReadAhead:
    """Begins the samples that this process will be asked for next; of one loader, one per worker.

    Memory: `max_bytes` of compressed chunks, or one batch where that is more. Sizes are known once a sample's shards
    are open; until then a sample counts as the largest one so far.
    """

    def __init__(
        self,
        reads_at: Callable[[int], tuple[Cube, list[Read]]],
        stride: int,
        stop: int,
        samples: int = AHEAD_SAMPLES,
        max_bytes: int = AHEAD_BYTES,
    ) -> None:
        """Nothing is read yet.

        Args:
            reads_at: cube and reads of a position.
            stride: positions from one batch of this process to its next.
            stop: past the last position of the run.
            samples: to keep under way, at least; whole batches.
            max_bytes: of chunks held.
        """
        self.reads_at, self.stride, self.stop, self.samples, self.max_bytes = reads_at, stride, stop, samples, max_bytes
        self._clear()

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._clear()

    def _clear(self) -> None:
        self._pid = os.getpid()
        self._begun: dict[int, Begun | None] = {}
        self._queue: deque[int] = deque()
        self._largest = self._batch = 0

    def batch(self, positions: Sequence[int]) -> None:
        """Told before a batch is read: begin its samples, and those of the batches after it."""
        if self._pid != os.getpid():  # a child must not wait for what its parent began
            self._clear()
        self._batch = len(positions)
        batches = 1 + -(-self.samples // len(positions))
        wanted = [p + k * self.stride for k in range(batches) for p in positions if p + k * self.stride < self.stop]
        chosen = set(wanted)
        for left in [p for p in self._begun if p not in chosen]:
            del self._begun[left]
        self._queue = deque(p for p in dict.fromkeys(wanted) if p not in self._begun)
        self._pump()

    def settle(self, position: int) -> None:
        """Told before a sample is read: waits until its ranges are asked for, and begins what there is room for."""
        begun = self._begun.get(position)
        if begun is not None:
            begun.settle()
        self._pump()

    def done(self, position: int) -> None:
        """Told after a sample was read: what it brought is let go."""
        self._begun.pop(position, None)

    def _pump(self) -> None:
        sizes = [begun.num_bytes() for begun in self._begun.values() if begun is not None]
        self._largest = max([self._largest, *(size for size in sizes if size is not None)])
        held = sum(self._largest if size is None else size for size in sizes)
        while self._queue:
            room = held + self._largest <= self.max_bytes if self._largest else len(self._begun) < self._batch
            if not room and self._begun:
                return
            position = self._queue.popleft()
            self._begun[position] = begin(*self.reads_at(position))
            held += self._largest
