"""The manifest of a cube: what was written, shard by shard, so that "never written" and "lost" can be told apart."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from skyframe.data.shard import ArrayLayout
from skyframe.spec import CubeSpec, Grid, InputError, build

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ArrayRecord:
    """One array of a store and the chunks that each written shard holds; a shard not listed was never written."""

    layout: ArrayLayout
    shards: dict[tuple[int, ...], int]

    @cached_property
    def is_covered(self) -> bool:
        """Whether every shard was written."""
        return len(self.shards) == math.prod(self.layout.shard_grid)

    @cached_property
    def coverage(self) -> NDArray[np.bool_]:
        """Shards written, `[rows, columns]` of the shard grid; True where any date is there."""
        grid = self.layout.shard_grid
        if self.is_covered:
            return np.ones(grid[-2:], bool)
        covered = np.zeros(grid[-2:], bool)
        for *_, row, column in self.shards:
            covered[row, column] = True
        return covered


@dataclass(frozen=True)
class Manifest:
    """What a finished store holds."""

    spec: CubeSpec
    grid: Grid
    source: dict[str, Any]
    days: dict[str, NDArray[np.int32]]
    arrays: dict[str, ArrayRecord]
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> str:
        """Text of `manifest.json`, with a checksum over its body."""
        arrays = {
            name: {**asdict(r.layout), "shards": {"/".join(map(str, k)): n for k, n in sorted(r.shards.items())}}
            for name, r in self.arrays.items()
        }
        body = {
            "spec": self.spec.to_dict(),
            "grid": asdict(self.grid),
            "source": self.source,
            "days": {name: days.tolist() for name, days in self.days.items()},
            "arrays": arrays,
            "tables": {name: list(columns) for name, columns in self.tables.items()},
        }
        return json.dumps({"skyframe": FORMAT, "crc32c": _checksum(body), "body": body}, indent=1)

    @staticmethod
    def from_json(text: str, path: Path | str) -> Manifest:
        """Inverse of `to_json`; `path` names the store in errors.

        Raises:
            InputError: not a manifest, altered, or of another format number.
        """
        broken = f"{path}: {MANIFEST} is truncated or altered; restore it or run the ingest again"
        try:
            tree = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(broken) from error
        if not isinstance(tree, dict) or not isinstance(tree.get("skyframe"), int):
            raise InputError(
                f"{path}: {MANIFEST} holds no skyframe format number, expected {FORMAT}; this is not a SkyFrame cube"
            )
        if tree["skyframe"] != FORMAT:
            raise InputError(
                f"{path}: the cube has format {tree['skyframe']}, this version of skyframe reads format {FORMAT}; "
                "install the version that wrote it, or write the cube again"
            )
        body = tree.get("body")
        if not isinstance(body, dict) or _checksum(body) != tree.get("crc32c"):
            raise InputError(broken)
        return Manifest(
            spec=CubeSpec.from_dict(body["spec"], str(path)),
            grid=build(Grid, body["grid"], str(path)),
            source=body["source"],
            days={name: np.asarray(days, np.int32) for name, days in body["days"].items()},
            arrays={name: _record(entry) for name, entry in body["arrays"].items()},
            tables={name: tuple(columns) for name, columns in body["tables"].items()},
        )


def _record(entry: dict[str, Any]) -> ArrayRecord:
    axes = {key: tuple(entry[key]) for key in ("shape", "chunk", "shard")}
    rest = entry["dtype"], entry["fill"], entry["bitshuffle"], entry.get("codec", "lz4")
    layout = ArrayLayout(entry["name"], axes["shape"], axes["chunk"], axes["shard"], *rest)
    return ArrayRecord(layout, {tuple(map(int, key.split("/"))): n for key, n in entry["shards"].items()})


def _checksum(body: dict[str, Any]) -> int:
    return int(google_crc32c.value(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()))
