"""Rows of a labelled table: geometry, day and label from Parquet, GeoJSON or CSV."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyframe.calendar import day_of
from skyframe.config.own_data import Columns, OwnData
from skyframe.evaluate.datasets.files import need_file, read_json, read_table
from skyframe.spec import InputError, did_you_mean

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

DEGREES = "EPSG:4326"
SHOWN = 5
"""Labels of one fault that are told one by one."""


@dataclass(frozen=True)
class Row:
    """One labelled place, geometry in the CRS of its table."""

    key: str
    geometry: BaseGeometry
    day: int | None  # None = the table tells no dates
    label: Any
    split: str


@dataclass(frozen=True)
class LabelTable:
    """Rows that can be read, what the others lack, and the CRS of the geometries."""

    rows: tuple[Row, ...]
    crs: str
    problems: tuple[str, ...]


def read_labels(own: OwnData) -> LabelTable:
    """All rows of the table of a data set.

    Raises:
        InputError: no such file, another format, or a column that it lacks.
    """
    path = Path(own.table)
    need_file(path)
    lines, crs = _lines(path, own.columns)
    known = {name for line in lines for name in line}
    for column in filter(None, vars(own.columns).values()):
        if lines and column not in known:
            raise InputError(
                f"{path}: no column {column!r}, it has {', '.join(sorted(known))}{did_you_mean(column, known)}; "
                "correct `columns`"
            )
    rows, problems = [], []
    for number, line in enumerate(lines):
        key = str(line[own.columns.id]) if own.columns.id else str(number)
        try:
            rows.append(_row(key, line, own.columns))
        except (ValueError, TypeError, KeyError) as error:
            problems.append(f"{path.name}: row {key}: {' '.join(str(error).split())[:160]}; correct the row")
    twice = sorted({r.key for r in rows if own.columns.id} & _twice([r.key for r in rows]))
    if twice:
        raise InputError(f"{path}: {own.columns.id} {twice[0]} stands in several rows, expected each once")
    return LabelTable(tuple(rows), own.crs or crs, tuple(problems))


def _twice(keys: Sequence[str]) -> set[str]:
    seen: set[str] = set()
    return {key for key in keys if key in seen or seen.add(key)}  # type: ignore[func-returns-value]


def _lines(path: Path, columns: Columns) -> tuple[list[Mapping[str, Any]], str]:
    if path.suffix == ".parquet":
        return _parquet(path, columns)
    if path.suffix == ".csv":
        wanted = [c for c in vars(columns).values() if c]
        return list(read_table(path, wanted)), DEGREES
    if path.suffix in (".geojson", ".json"):
        tree = read_json(path)
        features = tree.get("features") if isinstance(tree, dict) else None
        if not isinstance(features, list) or not all(isinstance(f, dict) for f in features):
            raise InputError(f"{path}: no list of features, expected a GeoJSON FeatureCollection")
        name = columns.geometry or "geometry"
        return [{**(f.get("properties") or {}), name: f.get("geometry")} for f in features], DEGREES
    raise InputError(f"{path}: {path.suffix or 'no suffix'}, expected .parquet, .geojson or .csv; convert the table")


def _parquet(path: Path, columns: Columns) -> tuple[list[Mapping[str, Any]], str]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        table = pq.read_table(path)
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(f"{path}: not a readable Parquet file ({reason}); write it again") from error
    lost = [c for c in vars(columns).values() if c and c not in table.column_names]
    if lost:
        raise InputError(
            f"{path}: no column {lost[0]!r}, it has {', '.join(table.column_names)}"
            f"{did_you_mean(lost[0], table.column_names)}; correct `columns`"
        )
    about = json.loads((table.schema.metadata or {}).get(b"geo", b"{}"))
    crs = about.get("columns", {}).get(columns.geometry, {}).get("crs")
    return table.to_pylist(), json.dumps(crs) if crs else DEGREES


def _row(key: str, line: Mapping[str, Any], columns: Columns) -> Row:
    """One row.

    Raises:
        ValueError: what it lacks.
    """
    geometry = _geometry(line, columns)
    day = _day(line[columns.date]) if columns.date else None
    label = line[columns.label]
    if label is None or label == "" or (isinstance(label, float) and math.isnan(label)):
        raise ValueError("no label")
    return Row(key, geometry, day, label, str(line[columns.split] or "") if columns.split else "")


def _geometry(line: Mapping[str, Any], columns: Columns) -> BaseGeometry:
    import shapely

    if columns.lat:
        lat, lon = float(line[columns.lat]), float(line[columns.lon])
        if not (abs(lat) <= 90 and abs(lon) <= 180):
            raise ValueError(f"latitude {lat}, longitude {lon}, expected degrees")
        return shapely.Point(lon, lat)
    value = line[columns.geometry]
    if value is None or value == "":
        raise ValueError("no geometry")
    try:
        if isinstance(value, bytes):
            made = shapely.from_wkb(value)
        elif isinstance(value, dict):
            made = shapely.from_geojson(json.dumps(value))
        else:
            made = shapely.from_wkt(value) if "(" in str(value) else shapely.from_wkb(str(value))
    except shapely.errors.ShapelyError as error:
        raise ValueError(f"geometry cannot be read ({error})") from error
    if made.is_empty or made.geom_type not in ("Point", "Polygon", "MultiPolygon"):
        raise ValueError(f"geometry {made.geom_type}{' without points' if made.is_empty else ''}, expected a polygon")
    if not made.is_valid:
        raise ValueError("a polygon that crosses itself")
    return made


def _day(value: Any) -> int:
    if isinstance(value, datetime | date):
        return day_of(date(value.year, value.month, value.day))
    return day_of(date.fromisoformat(str(value).strip()[:10]))


def class_labels(own: OwnData, table: LabelTable) -> tuple[tuple[str, ...], dict[str, Any], tuple[str, ...]]:
    """Class names, the label of every row that has a known one, and what is wrong with the others."""
    if own.task == "regression":
        return _numbers(table)
    texts = {r.key: _texts(r.label) if own.task == "multilabel" else [_text(r.label)] for r in table.rows}
    found = {t for names in texts.values() for t in names}
    classes = own.classes or tuple(sorted(found, key=lambda t: (0, int(t), "") if t.isdigit() else (1, 0, t)))
    if len(classes) < 2:
        raise InputError(f"{own.table}: labels {', '.join(classes) or '(none)'}, expected at least two classes")
    number = {name: k for k, name in enumerate(classes)}
    unknown = Counter(t for names in texts.values() for t in names if t not in number)
    problems = tuple(
        f"{own.name}: {count} rows are labelled {text!r}, which is none of {', '.join(classes)}"
        f"{did_you_mean(text, classes)}"
        for text, count in unknown.most_common(SHOWN)
    )
    known = {k: tuple(number[t] for t in names) for k, names in texts.items() if all(t in number for t in names)}
    if own.task == "multilabel":
        return classes, known, problems
    return classes, {k: v[0] for k, v in known.items()}, problems


def _numbers(table: LabelTable) -> tuple[tuple[str, ...], dict[str, Any], tuple[str, ...]]:
    labels, problems = {}, []
    for row in table.rows:
        try:
            values = row.label if isinstance(row.label, list) else [row.label]
            labels[row.key] = tuple(float(v) for v in values)
        except (TypeError, ValueError):
            problems.append(f"row {row.key}: label {str(row.label)[:40]!r} is no number; correct the row")
    sizes = {len(v) for v in labels.values()}
    if len(sizes) > 1:
        raise InputError(f"labels of {sorted(sizes)} numbers, expected as many in every row; correct the table")
    return (), labels, tuple(problems)


def _text(label: Any) -> str:
    whole = isinstance(label, float) and label.is_integer()
    return str(int(label)) if whole else str(label).strip()


def _texts(label: Any) -> list[str]:
    parts = label if isinstance(label, list) else str(label).split(";")
    return [_text(p) for p in parts if str(p).strip()]
