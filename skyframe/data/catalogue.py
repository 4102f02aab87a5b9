"""A catalogue: thousands of cubes as one Parquet file, a row per cube and calendar year.

Columns of a row: `cube`, `path` (beside the catalogue, absolute, or a URL), `spec`, `source` and its `weight`; where
it lies (`crs`, `x0_m`, `y0_m`, `width_m`, `height_m`; `lat`, `lon` of the centre, `south`, `west`, `north`, `east` in
degrees; `region`, its equal-area cell); when (`year`, 0 for none or several; `first_day` and `last_day` of imagery,
days since 2000-01-01; `start_day` <= day < `end_day`, what its windows take); `cloud` (cloud among observed pixels, of
the cloudiest modality), `clear` (clear among all pixels, of the least clear one); `modalities`, `labels`, `split`. For
each modality `m`: `m.kind`, `m.gsd_m`, `m.dates`, `m.cloud`, `m.clear`, `m.shard_m` (side of its shards) and
`m.written` (bits of the shard grid, row by row; empty = every shard). So a plan needs no manifest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyframe.data.split import PARTS, Footprints, SplitRule, split_rows
from skyframe.data.table import CubeTable, Layer, Ragged, Texts
from skyframe.data.where import Columns, Where
from skyframe.spec import KINDS, InputError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
KEY = b"skyframe"

GROUND = tuple(Footprints.__dataclass_fields__)[1:]
COLUMNS = {
    **dict.fromkeys(("cube", "path", "spec", "source", "crs", "split"), "string"),
    **dict.fromkeys(("weight", *GROUND, "cloud", "clear"), "float64"),
    **dict.fromkeys(("first_day", "last_day", "start_day", "end_day", "year"), "int32"),
    **dict.fromkeys(("region", "manifest", "dates_id"), "int64"),
    **dict.fromkeys(("modalities", "labels"), "list"),
    "pinned": "int8",
}
PER_MODALITY = {
    "kind": "string", "gsd_m": "float64", "dates": "int32", "cloud": "float64", "clear": "float64",
    "shard_m": "float64", "written": "binary",
}  # fmt: skip
HIDDEN = (
    *("path", "manifest", "dates_id", "pinned", "start_day", "end_day", "modalities", "labels"),
    *("kind", "shard_m", "written"),
)
"""Columns, and columns of modalities, that a condition has no use for."""

TABLE = ("cube", "path", "crs", "x0_m", "y0_m", "width_m", "height_m", "start_day", "end_day", "source", "weight")
LAYER = ("kind", "gsd_m", "shard_m", "written")


@dataclass(frozen=True)
class Settings:
    """How a catalogue was made; kept in the file, so that adding to it goes on in the same way."""

    period: str = "year"
    split: SplitRule | None = None


class Catalogue:
    """An opened catalogue. Columns are read when they are asked for.

    Raises:
        InputError: no such file, no Parquet file or a damaged one, or no catalogue of this format.
    """

    def __init__(self, path: str | Path) -> None:
        import pyarrow.parquet as pq
        from pyarrow import ArrowException

        self.path = Path(path)
        if not self.path.is_file():
            near = did_you_mean(self.path.name, [p.name for p in self.path.parent.glob("*.parquet")])
            remedy = near or "; write one with `skyframe catalogue`"
            raise InputError(f"{path}: no such catalogue, expected a Parquet file{remedy}")
        try:
            self._file = pq.ParquetFile(self.path, memory_map=True)
            self.schema = self._file.schema_arrow
        except (ArrowException, OSError) as error:
            raise InputError(
                f"{path}: is no Parquet file, or a truncated one; restore it, or write it with `skyframe catalogue`"
            ) from error
        tree = json.loads((self.schema.metadata or {}).get(KEY, b"{}"))
        if tree.get("format") != FORMAT:
            raise InputError(
                f"{path}: holds no catalogue of format {FORMAT}, got {tree.get('format')!r}; write it with `skyframe "
                "catalogue` of this version"
            )
        rule = tree["split"]
        self.settings = Settings(tree["period"], None if rule is None else SplitRule(**rule))
        self.modalities: list[str] = tree["modalities"]

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def read(self, names: Sequence[str] | None = None) -> pa.Table:
        """Some of the columns, or all, as Arrow."""
        from pyarrow import ArrowException

        try:  # one thread: the columns are small, and a pool of threads holds on to memory
            return self._file.read(columns=None if names is None else list(names), use_threads=False)
        except (ArrowException, OSError) as error:
            raise InputError(
                f"{self.path}: is damaged ({str(error).splitlines()[0]}); write it again with `skyframe catalogue`"
            ) from error

    def close(self) -> None:
        """Give back the memory that reading took; what `table` returned keeps its own."""
        import pyarrow as pa

        self._file.close()
        pa.default_memory_pool().release_unused()

    def column(self, name: str) -> NDArray[Any]:
        """One column: numbers as float64 with NaN where a row has none, texts as objects."""
        column = self.read([name]).column(0)
        if str(column.type) == "string":
            values, code = _coded(column)
            return np.array([*values, ""], dtype=object)[code]
        return numbers(column).astype(np.float64)

    def lists(self, name: str) -> list[list[str]]:
        """`modalities` or `labels` of every row."""
        found: list[list[str]] = self.read([name]).column(0).to_pylist()
        return found

    def rows(self, where: Where) -> NDArray[np.bool_]:
        """Rows that a condition holds for `[n]`."""
        labels = self.lists("labels") if "labelled" in where.text else []
        return where.rows(
            Columns(
                names=[name for name in self.schema.names if name.rpartition(".")[2] not in HIDDEN],
                modalities=self.modalities,
                labels=sorted({label for row in labels for label in row}),
                fetch=self.column,
                has=lambda name: self.column(f"{name}.dates") > 0,
                labelled=lambda name: np.array([name in row for row in labels], bool),
            )
        )

    def ground(self) -> Footprints:
        """Where the rows lie."""
        return ground_of(self.read(["crs", *GROUND]))

    def table(self, modalities: Sequence[str] | None = None) -> CubeTable:
        """What a plan needs of every row, for some of the modalities or all."""
        names = [name for name in modalities or self.modalities if name in self.modalities]
        read = self.read([*TABLE, *(f"{name}.{key}" for name in names for key in LAYER)])
        plain = {name: numbers(read[name]) for name in TABLE if COLUMNS[name] != "string"}
        crs, crs_of = _coded(read["crs"])
        sources, source_of = _coded(read["source"])
        return CubeTable(
            names=Texts(_ragged(read["cube"])),
            paths=Texts(_ragged(read["path"])),
            root=str(self.path.parent),
            crs=crs,
            crs_of=crs_of,
            sources=sources,
            source_of=source_of,
            layers={name: _layer(read, name) for name in names},
            sites={},
            **plain,
        )

    def duplicates(self) -> list[list[str]]:
        """Cubes that lie on the same rectangle with the same dates, group by group."""
        read = self.read(["cube", "crs", *GROUND, "dates_id", "year"])
        _, number = ground_of(read).distinct()
        key = np.stack([number, numbers(read["dates_id"]), numbers(read["year"])], axis=1)
        _, group, count = np.unique(key, axis=0, return_inverse=True, return_counts=True)
        names, group = read["cube"].to_pylist(), group.reshape(-1)
        groups: dict[int, list[str]] = {}
        for row in np.flatnonzero(count[group] > 1).tolist():
            groups.setdefault(int(group[row]), []).append(names[row])
        return sorted({tuple(sorted(g)): sorted(g) for g in groups.values()}.values())


def ground_of(read: pa.Table) -> Footprints:
    """Rectangles of Arrow rows."""
    return Footprints(_coded(read["crs"])[1], *(numbers(read[name]) for name in GROUND))


def arrow_schema(modalities: Sequence[str], settings: Settings) -> pa.Schema:
    """Names and types of the columns, and how they were made."""
    import pyarrow as pa

    types = {
        "string": pa.string(), "float64": pa.float64(), "int8": pa.int8(), "int32": pa.int32(), "int64": pa.int64(),
        "binary": pa.binary(), "list": pa.list_(pa.string()),
    }  # fmt: skip
    names = COLUMNS | {f"{m}.{key}": kind for m in modalities for key, kind in PER_MODALITY.items()}
    about = {"format": FORMAT, **asdict(settings), "modalities": list(modalities)}
    return pa.schema([(name, types[kind]) for name, kind in names.items()], metadata={KEY: json.dumps(about).encode()})


def write_catalogue(path: Path, table: pa.Table, settings: Settings) -> None:
    """Sort and write rows in one stroke: there is the whole file, or the one before."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    modalities = sorted({name for row in table["modalities"].to_pylist() for name in row})
    schema = arrow_schema(modalities, settings)
    table = table.sort_by([("cube", "ascending"), ("start_day", "ascending")])
    table = pa.table({f.name: table[f.name].cast(f.type) for f in schema}, schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".writing")
    pq.write_table(table, partial, compression="zstd")
    os.replace(partial, path)


def with_split(table: pa.Table, rule: SplitRule | None) -> pa.Table:
    """Fill the column `split`: by a rule, or by the globs of the cubes' own specs where there is none."""
    import pyarrow as pa

    pinned = numbers(table["pinned"])
    parts = np.where(pinned >= 0, pinned, 0) if rule is None else split_rows(ground_of(table), pinned, rule)
    column = pa.array([PARTS[part] for part in parts.tolist()], pa.string())
    return table.set_column(table.schema.get_field_index("split"), "split", column)


def numbers(column: pa.ChunkedArray) -> NDArray[Any]:
    """A numeric column as NumPy, float64 with NaN where values are missing.

    Read from Arrow's own buffers: `to_numpy` loads pandas, which takes longer than the whole plan.
    """
    array = column.combine_chunks()
    validity, data = array.buffers()
    kind = {"double": "float64"}.get(str(array.type), str(array.type))
    span = slice(array.offset, array.offset + len(array))
    values = np.frombuffer(data, kind)[span] if data else np.zeros(0, kind)
    if not array.null_count:
        return values
    there = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")[span].astype(bool)
    return np.where(there, values, np.nan)


def _coded(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int32]]:
    """Distinct texts, and for each row the place of its own among them, -1 where it has none."""
    import pyarrow as pa

    whole = column.combine_chunks().dictionary_encode()
    codes = numbers(pa.chunked_array([whole.indices]))
    return whole.dictionary.to_pylist(), np.where(np.isnan(codes), -1, codes).astype(np.int32)


def _layer(read: pa.Table, name: str) -> Layer:
    kinds, kind_of = _coded(read[f"{name}.kind"])
    kind = np.array([*map(KINDS.index, kinds), -1], np.int8)[kind_of]
    gsd_m, shard_m = (numbers(read[f"{name}.{key}"]) for key in ("gsd_m", "shard_m"))
    return Layer(kind, gsd_m, shard_m, _ragged(read[f"{name}.written"]))


def _ragged(column: pa.ChunkedArray) -> Ragged:
    array = column.combine_chunks()
    _, offsets, data = array.buffers()
    start = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    return Ragged(np.frombuffer(data or b"", np.uint8)[start[0] : start[-1]], start - start[0])
