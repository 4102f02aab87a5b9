"""Cubes as columns: what a plan needs to know of a hundred thousand cubes, without opening one.

A row is a cube and a span of days; a cube stands in one row per calendar year where it came from a catalogue.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.data.cube import Cube, open_cube
from skyframe.data.shard import ShardPool
from skyframe.data.store import is_address
from skyframe.data.transport import Client
from skyframe.spec import KINDS, Grid, Modality, Window

ALL_DAYS = Window.start_day, Window.end_day


@dataclass(frozen=True)
class Ragged:
    """Bytes of different length per row in one array: a hundred thousand Python objects would be slow and large."""

    data: NDArray[np.uint8]
    start: NDArray[np.int64]  # [n + 1]

    @staticmethod
    def of(values: Sequence[bytes]) -> Ragged:
        """From one value per row."""
        return Ragged(np.frombuffer(b"".join(values), np.uint8), np.cumsum([0, *map(len, values)]))

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Rows without a byte `[n]`."""
        return self.start[1:] == self.start[:-1]

    def keep(self, mask: NDArray[np.bool_]) -> Ragged:
        """The same for the rows of a mask `[n]`."""
        length = np.diff(self.start)
        return Ragged(self.data[np.repeat(mask, length)], np.concatenate([[0], np.cumsum(length[mask])]))


@dataclass(frozen=True)
class Texts(Sequence[str]):
    """One text per row, decoded where it is asked for."""

    packed: Ragged

    @staticmethod
    def of(values: Sequence[str]) -> Texts:
        """From Python texts."""
        return Texts(Ragged.of([value.encode() for value in values]))

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, row: Any) -> Any:
        start, stop = self.packed.start[row : row + 2].tolist()
        return self.packed.data[start:stop].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        data, ends = self.packed.data.tobytes(), self.packed.start.tolist()
        return (data[start:stop].decode() for start, stop in pairwise(ends))


@dataclass(frozen=True)
class Layer:
    """One modality of the rows of a table, arrays `[n]`."""

    kind: NDArray[np.int8]  # position in KINDS; -1 where the row lacks the modality
    gsd_m: NDArray[np.float64]
    shard_m: NDArray[np.float64]  # side of a shard
    bits: Ragged  # shards that were written, row by row of the shard grid, packed; none = every one

    @property
    def there(self) -> NDArray[np.bool_]:
        """Rows that carry the modality `[n]`."""
        return self.kind >= 0

    @property
    def whole(self) -> NDArray[np.bool_]:
        """Rows of which every shard was written `[n]`."""
        return self.there & self.bits.empty

    def keep(self, mask: NDArray[np.bool_]) -> Layer:
        """The same for the rows of a mask `[n]`."""
        return Layer(self.kind[mask], self.gsd_m[mask], self.shard_m[mask], self.bits.keep(mask))


@dataclass(frozen=True)
class CubeTable:
    """Rows of cubes as columns `[n]`; lengths in metres of each row's CRS."""

    names: Texts
    paths: Texts  # relative to `root`, absolute, or URLs
    root: str
    crs: Sequence[str]  # the distinct ones
    crs_of: NDArray[np.int32]
    x0_m: NDArray[np.float64]
    y0_m: NDArray[np.float64]
    width_m: NDArray[np.float64]
    height_m: NDArray[np.float64]
    start_day: NDArray[np.int32]
    end_day: NDArray[np.int32]
    sources: Sequence[str]  # the distinct ones
    source_of: NDArray[np.int32]
    weight: NDArray[np.float64]  # visits of a window per epoch, on average
    layers: dict[str, Layer] = field(repr=False)
    sites: dict[str, Grid] = field(default_factory=dict)  # by name, of stores of points

    def __len__(self) -> int:
        return len(self.names)

    def keep(self, mask: NDArray[np.bool_]) -> CubeTable:
        """The same for the rows of a mask `[n]`."""
        if mask.all():
            return self
        columns = ("crs_of", "x0_m", "y0_m", "width_m", "height_m", "start_day", "end_day", "source_of", "weight")
        kept = {name: getattr(self, name)[mask] for name in columns}
        names, paths = (Texts(texts.packed.keep(mask)) for texts in (self.names, self.paths))
        layers = {name: layer.keep(mask) for name, layer in self.layers.items()}
        return replace(self, names=names, paths=paths, layers=layers, **kept)


def table_of(cubes: Sequence[Cube]) -> CubeTable:
    """Columns of opened cubes, one row each for all their days; the source is the name of the cube's spec."""
    crs, crs_of = code([cube.grid.crs for cube in cubes])
    sources, source_of = code([cube.spec.name for cube in cubes])

    def column(of: Callable[[Cube], float]) -> NDArray[np.float64]:
        return np.array([of(cube) for cube in cubes], np.float64)

    names = {name: None for cube in cubes for name in cube.spec.modalities}
    return CubeTable(
        names=Texts.of([cube.name for cube in cubes]),
        paths=Texts.of([cube.url for cube in cubes]),
        root="",
        crs=crs,
        crs_of=crs_of,
        x0_m=column(lambda c: c.grid.x0_m),
        y0_m=column(lambda c: c.grid.y0_m),
        width_m=column(lambda c: c.grid.width_m),
        height_m=column(lambda c: c.grid.height_m),
        start_day=np.full(len(cubes), ALL_DAYS[0], np.int32),
        end_day=np.full(len(cubes), ALL_DAYS[1], np.int32),
        sources=sources,
        source_of=source_of,
        weight=np.ones(len(cubes)),
        layers={name: _layer(cubes, name) for name in names},
        sites={cube.name: cube.grid for cube in cubes if cube.grid.places},
    )


def code(values: Sequence[str]) -> tuple[list[str], NDArray[np.int32]]:
    """Distinct values in order of appearance, and for each value its place among them."""
    places: dict[str, int] = {}
    codes = np.array([places.setdefault(value, len(places)) for value in values], np.int32)
    return list(places), codes


def shard_m(cube: Cube, modality: Modality) -> float:
    """Side of a modality's shard in metres."""
    return cube.manifest.arrays[f"{modality.name}/valid"].layout.shard[-1] * modality.gsd_m


def pack(coverage: NDArray[np.bool_]) -> bytes:
    """A shard grid as bits, empty where all of it was written."""
    return b"" if coverage.all() else np.packbits(coverage).tobytes()


def _layer(cubes: Sequence[Cube], name: str) -> Layer:
    held = [cube.spec.modalities.get(name) for cube in cubes]
    bits = [
        pack(cube.manifest.arrays[f"{name}/valid"].coverage) if modality else b""
        for cube, modality in zip(cubes, held, strict=True)
    ]
    return Layer(
        kind=np.array([KINDS.index(m.kind) if m else -1 for m in held], np.int8),
        gsd_m=np.array([m.gsd_m if m else np.nan for m in held]),
        shard_m=np.array([shard_m(cube, m) if m else np.nan for cube, m in zip(cubes, held, strict=True)]),
        bits=Ragged.of(bits),
    )


class CubeSet(Mapping[str, Cube]):
    """The cubes of a table by name, each opened where it is first read; the `limit` last ones used stay open.

    They share one pool of shards and one client, so that the open files of a process are bounded whatever `limit` is.
    May be pickled and forked: an opened cube holds no file, the pool is emptied in a child process.
    """

    def __init__(self, table: CubeTable, limit: int = 128, client: Client | None = None) -> None:
        self.table, self.limit, self.pool, self.client = table, limit, ShardPool(), client or Client()
        self._opened: OrderedDict[str, Cube] = OrderedDict()

    @cached_property
    def _rows(self) -> dict[str, int]:
        """Some row of each name; made where the first cube is opened, not where a run is planned."""
        return {name: row for row, name in enumerate(self.table.names)}

    def __getitem__(self, name: str) -> Cube:
        cube = self._opened.get(name)
        if cube is not None:
            self._opened.move_to_end(name)
            return cube
        path = self.table.paths[self._rows[name]]
        cube = open_cube(path if is_address(path) else Path(self.table.root, path), self.pool, self.client)
        self._opened[name] = cube
        if len(self._opened) > self.limit:
            self._opened.popitem(last=False)
        return cube

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows
