"""A foreign array in tiles, whatever its file format, and the elements of a box of it in one piece."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skyframe.data.store import Buffer, Store
from skyframe.spec import InputError

ROLES = ("time", "band", "y", "x")
"""What an axis of an archive's array can be, in the order of a cube's arrays."""

Run = tuple[slice, slice]
"""Elements side by side in the output, and the same ones in the chunk."""

Picks = Sequence[tuple[int, Sequence[Run]]]
"""Per chunk number along an axis: the elements wanted of it."""

Spans = Sequence[tuple[int, slice, slice]]
"""Per chunk number along an axis: its slice of the output, and the same elements in the chunk."""


class Tiled(Protocol):
    """Reads whole chunks; `shape`, `chunk` and `roles` follow the array's own order of axes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""

    @property
    def chunk(self) -> tuple[int, ...]:
        """Of one chunk."""

    @property
    def roles(self) -> tuple[str, ...]:
        """What each axis is, of `ROLES`; `""` for one of length 1 that is none of them."""

    @property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        """As it lies in a decoded chunk, byte order included."""

    @property
    def fill(self) -> float:
        """What elements of an absent chunk read as."""

    def scratch(self) -> tuple[NDArray[np.uint8], NDArray[np.generic]]:
        """Room for one chunk, lent until the next call: as flat bytes, and as the array of chunk shape they are."""

    def fetch(self, number: tuple[int, ...]) -> Buffer | None:
        """The packed bytes of a chunk, good until the next call; None where the store does not hold it.

        Raises:
            InputError: it is cut short.
        """

    def decode(self, number: tuple[int, ...], packed: Buffer, flat: NDArray[np.uint8]) -> None:
        """Unpack a chunk.

        Raises:
            InputError: it is damaged.
        """

    def file_of(self, number: tuple[int, ...]) -> str:
        """Key of the object that holds a chunk."""


Ready = Mapping[tuple[str, tuple[int, ...]], Buffer | None]
"""Packed chunks by file and number, all that are touched; None where the store does not hold one."""


@dataclass(frozen=True)
class Target:
    """Where elements go: `out` `[T, C, h, w]`, and which parts of it the archive does not hold.

    Chunks that came over a network lie in `ready`; where it is None they are fetched one by one.
    """

    out: NDArray[np.generic]
    missing: list[tuple[slice, slice, slice, slice]]  # dates, bands, rows, columns
    ready: Ready | None = None


def damaged(store: Store, name: str, number: tuple[int, ...], what: str) -> InputError:
    """The error for a chunk that an archive lost or altered; names array and chunk."""
    return InputError(f"{name}: chunk {number} in {store.url} {what}; the archive is damaged, restore that chunk")


def spans(start: int, stop: int, size: int) -> Spans:
    """Chunks of `size` that the interval from `start` to `stop` touches."""
    found = []
    for number in range(start // size, -(-stop // size)):
        first, last = max(start, number * size), min(stop, (number + 1) * size)
        found.append((number, slice(first - start, last - start), slice(first - number * size, last - number * size)))
    return found


def picks(wanted: Sequence[int], size: int) -> Picks:
    """Chunks of `size` that single elements lie in; -1 is an element that the array does not have."""
    found: dict[int, list[tuple[int, int]]] = {}
    for place, element in enumerate(wanted):
        if element >= 0:
            found.setdefault(element // size, []).append((place, element % size))
    return [(number, runs(pairs)) for number, pairs in found.items()]


def runs(pairs: Sequence[tuple[int, int]]) -> list[Run]:
    """Places in the output and in the chunk, those that follow each other in both taken together."""
    found: list[Run] = []
    first = 0
    for at in range(1, len(pairs) + 1):
        (out, inside), (last_out, last_inside) = pairs[first], pairs[at - 1]
        if at == len(pairs) or pairs[at] != (last_out + 1, last_inside + 1):
            found.append((slice(out, last_out + 1), slice(inside, last_inside + 1)))
            first = at
    return found


def gather(tiled: Tiled, dates: Picks, bands: Picks, rows: Spans, columns: Spans, target: Target) -> None:
    """Decode every chunk that is needed once, and put its elements into their places.

    Memory: one chunk beside the output.
    """
    flat, chunk = tiled.scratch()
    view, order, out = _canonical(chunk, tiled.roles), _order(tiled.roles), target.out
    for date, band, (row, y_out, y_in), (column, x_out, x_in) in itertools.product(dates, bands, rows, columns):
        quad = (date[0], band[0], row, column, 0)
        number = tuple([quad[i] for i in order])
        packed = tiled.fetch(number) if target.ready is None else target.ready[tiled.file_of(number), number]
        if packed is not None:
            tiled.decode(number, packed, flat)
            for t, t_in in date[1]:
                for c, c_in in band[1]:
                    out[t, c, y_out, x_out] = view[t_in, c_in, y_in, x_in]
            continue
        for (t, _), (c, _) in itertools.product(date[1], band[1]):
            out[t, c, y_out, x_out] = tiled.fill
            target.missing.append((t, c, y_out, x_out))


def _canonical(chunk: NDArray[np.generic], roles: Sequence[str]) -> NDArray[np.generic]:
    """A view with the axes of `ROLES`, length 1 where the array has none such."""
    own = [roles.index(role) for role in ROLES if role in roles]
    unnamed = [axis for axis, role in enumerate(roles) if not role]
    view = chunk.transpose(*own, *unnamed).reshape([chunk.shape[axis] for axis in own])  # a view: the rest is length 1
    return view[tuple(slice(None) if role in roles else None for role in ROLES)]


def touched(tiled: Tiled, dates: Picks, bands: Picks, rows: Spans, columns: Spans) -> Iterator[tuple[int, ...]]:
    """Numbers of the chunks that `gather` would ask for."""
    order = _order(tiled.roles)
    for corner in itertools.product(*([entry[0] for entry in axis] for axis in (dates, bands, rows, columns))):
        yield tuple([(*corner, 0)[i] for i in order])


def _order(roles: Sequence[str]) -> list[int]:
    """Place among `ROLES` of each axis, one past them for an axis that is none."""
    return [ROLES.index(role) if role else len(ROLES) for role in roles]
