"""Memory that batches are read into and travel in: used again and again, and shared with the reader processes.

Fresh memory is expensive. The pages of a batch take about as long to come as lz4 takes to fill them, and torch's way
from a worker to its parent copies the batch into another fresh piece. Here a worker decodes into memory that both
processes map from the start, sends the number of the piece, and may use it again when the last tensor over it is gone.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from skyframe.sample import Batch, BatchBuffers, Layout, batch_bytes

PER_WORKER = 6
"""Pieces of one reader: two in its queue, and those that training holds while it has the next ready."""


@dataclass(frozen=True)
class Parcel:
    """What a reader sends of a batch that lies in a slab."""

    slab: int
    size: int  # samples
    damage: list[str]


class Slabs:
    """Pieces of anonymous shared memory, each large enough for a batch; pages come when they are first written.

    Made before the readers are forked. Each piece is written by one reader only; one byte of it says whether it is in
    use: the reader sets it, and `open`'s tensors clear it when the last of them goes. A batch that is kept is thus
    never overwritten; a reader without a free piece uses memory of its own.
    """

    def __init__(self, readers: int, size: int, layouts: Mapping[str, Layout]) -> None:
        """Nothing is touched yet.

        Args:
            readers: processes that will write.
            size: samples of a batch.
            layouts: of its modalities.
        """
        self.layouts = layouts
        self._bytes = batch_bytes(size, layouts)
        self._pieces = [mmap.mmap(-1, max(1, self._bytes)) for _ in range(readers * PER_WORKER)]
        self._used = mmap.mmap(-1, len(self._pieces))
        # Only a subclass can be referred to weakly; its life is that of the tensors over it.
        self._lent: Any = type("_Lent", (ctypes.c_char * max(1, self._bytes),), {})

    def __reduce__(self) -> NoReturn:
        raise TypeError("slabs are inherited by fork and cannot be pickled")

    def take(self, reader: int) -> int | None:
        """A free piece of this reader, now in use; None where there is none."""
        for number in range(reader * PER_WORKER, (reader + 1) * PER_WORKER):
            if not self._used[number]:
                self._used[number] = 1
                return number
        return None

    def buffers(self, slab: int, size: int) -> BatchBuffers:
        """Room for a batch of at most the size that the slabs were made for."""
        return BatchBuffers(size, self.layouts, self._pieces[slab])

    def give_back(self, slab: int) -> None:
        """A piece that is free again."""
        self._used[slab] = 0

    def open(self, parcel: Parcel) -> Batch:
        """The batch that a reader sent; its piece is free again when nothing refers to its tensors any more."""
        lent = self._lent.from_buffer(self._pieces[parcel.slab])
        weakref.finalize(lent, self.give_back, parcel.slab).atexit = False
        buffers = BatchBuffers(parcel.size, self.layouts, lent)
        buffers.damage = parcel.damage
        return buffers.batch()
