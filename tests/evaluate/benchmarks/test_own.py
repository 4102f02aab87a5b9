"""One's own labels over simulated cubes: tables in three formats, truth layers, and rows that do not fit."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import yaml
from pyproj import CRS, Transformer

from skyframe.calendar import day_of
from skyframe.data.cube import open_cube
from skyframe.data.listing import list_cubes
from skyframe.data.read import read_label, read_series
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.datasets.check import check_dataset
from skyframe.evaluate.datasets.dataset import Dataset
from skyframe.spec import InputError, Window

SQUARE = "POLYGON((400205 5489905, 400255 5489905, 400255 5489865, 400205 5489865, 400205 5489905))"
"""50 m by 40 m in cube `a`: from 205 m east and 95 m south of its corner."""


def _opened(folder: Path, earth: Path, rows: list[dict[str, Any]] | None = None, **changes: Any) -> Dataset:
    tree: dict[str, Any] = {"name": "mine", "task": "scene", "cubes": [str(earth / "*")], "modalities": ["s2"]}
    tree |= {"columns": {"lat": "lat", "lon": "lon", "date": "date"}, "split": {"block_km": 0.3}, "window_px": 8}
    if rows is not None:
        lines = [",".join(rows[0]), *(",".join(f'"{v}"' for v in row.values()) for row in rows)]
        (folder / "rows.csv").write_text("\n".join(lines))
        tree["table"] = "rows.csv"
    (folder / "mine.yaml").write_text(yaml.safe_dump({**tree, **changes}))
    return open_dataset(str(folder / "mine.yaml"), folder)


def _degrees(east_m: float, north_m: float, crs: str = "EPSG:32631") -> tuple[float, float]:
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(east_m, north_m)
    return float(lat), float(lon)


def _rows(count: int = 40) -> list[dict[str, Any]]:
    made = []
    for k in range(count):
        lat, lon = _degrees(400000 + 60 + (k % 20) * 58, 5490000 - 60 - (k // 20) * 300)
        made.append({"lat": lat, "lon": lon, "date": "2021-07-01", "label": ("wheat", "maize")[k % 2]})
    return made


def test_points_of_a_csv_become_windows_around_them(tmp_path: Path, earth: Path) -> None:
    dataset = _opened(tmp_path, earth, _rows(), dates={"days_before": 30, "days_after": 10})
    assert dataset.problems == () and dataset.classes == ("maize", "wheat") and dataset.name == "mine"
    assert 0 < len(dataset.items) <= 40 and "by place, blocks of 0.3 km by hash, 60/20/20" in dataset.split
    item = next(i for i in dataset.items if i.key == str(min(int(i.key) for i in dataset.items)))
    k = int(item.key)
    window: Window = item.about["window"]
    centre_x, centre_y = 60 + (k % 20) * 58, 60 + (k // 20) * 300
    assert (window.x_m, window.y_m) == (round((centre_x - 40) / 10) * 10, round((centre_y - 40) / 10) * 10)
    sample = dataset.read(item)
    middle = day_of(date(2021, 7, 1))
    days = sample.series["s2"].day
    assert len(days) and days.min() >= middle - 30 and days.max() <= middle + 10
    expected = read_series(open_cube(earth / "a"), Window("", window.y_m, window.x_m, 80.0, middle - 30, middle + 11))
    np.testing.assert_array_equal(sample.series["s2"].values, expected["s2"].values)
    assert int(sample.targets["class"]) == {"wheat": 1, "maize": 0}[("wheat", "maize")[k % 2]] == item.label


def test_blocks_fall_whole_into_one_part(tmp_path: Path, earth: Path) -> None:
    dataset = _opened(tmp_path, earth, _rows())
    parts: dict[str, set[str]] = {}
    for item in dataset.items:
        parts.setdefault(item.cluster, set()).add(item.part)
    assert len(parts) > 3 and all(len(p) == 1 for p in parts.values())
    left = 40 - len(dataset.items)
    assert left > 0 and f"{left} windows reach into a block of another part and are left out" in dataset.split
    assert dataset.split_sha256 == _opened(tmp_path, earth, _rows()).split_sha256


def test_a_point_near_the_edge_keeps_a_whole_window(tmp_path: Path, earth: Path) -> None:
    lat, lon = _degrees(400000 + 3, 5490000 - 637)
    rows = [{"lat": lat, "lon": lon, "date": "2021-07-01", "label": k} for k in (0, 1)]
    dataset = _opened(tmp_path, earth, rows, split={"block_km": 100})
    window: Window = dataset.items[0].about["window"]
    assert (window.x_m, window.y_m, window.size_m) == (0.0, 560.0, 80.0)
    assert dataset.classes == ("0", "1")


def test_every_row_that_does_not_fit_is_told(tmp_path: Path, earth: Path) -> None:
    rows = _rows(4)
    rows += [
        {**rows[0], "lat": 10.0},
        {**rows[0], "date": "2017-01-01"},
        {**rows[0], "date": "yesterday"},
        {**rows[0], "label": "maise"},
        {**rows[0], "label": ""},
        {**rows[0], "lat": 123.0},
    ]
    dataset = _opened(tmp_path, earth, rows, classes=["maize", "wheat"], split={"block_km": 100})
    assert [i.key for i in dataset.items] == ["0", "1", "2", "3"]
    told = "\n".join(dataset.problems)
    assert "row 4 (1.6" in told and "10 on 2021-07-01) lies in no cube, left out" in told
    assert "on 2017-01-01) has no acquisition around its date, left out" in told
    assert "row 6: Invalid isoformat string: 'yesterday'" in told
    assert "1 rows are labelled 'maise', which is none of maize, wheat; did you mean 'maize'?" in told
    assert "row 8: no label" in told and "row 9: latitude 123.0, longitude" in told
    assert len(dataset.problems) == 6


def test_polygons_of_a_geoparquet_score_the_pixels_inside(tmp_path: Path, earth: Path) -> None:
    square = shapely.from_wkt(SQUARE)
    table = pa.table({
        "geometry": [shapely.to_wkb(square), shapely.to_wkb(shapely.Point(400503, 5489703))],
        "when": [date(2021, 6, 1), date(2021, 6, 1)],
        "crop": ["maize", "wheat"],
        "field": ["north", "south"],
        "part": ["train", "validation"],
    })  # fmt: skip
    about = {"columns": {"geometry": {"crs": json.loads(CRS.from_epsg(32631).to_json())}}}
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(about)}), tmp_path / "rows.parquet")
    columns = {"geometry": "geometry", "date": "when", "label": "crop", "id": "field", "split": "part"}
    changes: dict[str, Any] = {"task": "pixel", "table": "rows.parquet", "columns": columns, "split": {"by": "column"}}
    dataset = _opened(tmp_path, earth, **changes)
    assert dataset.problems == () and dataset.split == "column 'part' of the table"
    north, south = dataset.items
    assert (north.key, north.part, south.part) == ("north", "train", "val")
    window: Window = north.about["window"]
    assert (window.x_m, window.y_m) == (190.0, 80.0)
    expected = np.full((8, 8), -1)
    expected[2:5, 2:6] = 0  # pixel centres at 105 to 125 m south (95 lies on the border), 215 to 245 m east
    mask = dataset.read(north).targets["mask"]
    inside = [[shapely.contains_xy(square, 400195 + 10 * x, 5489915 - 10 * y) for x in range(8)] for y in range(8)]
    np.testing.assert_array_equal(mask, np.where(inside, 0, -1))
    np.testing.assert_array_equal(mask, expected)
    point = np.asarray(dataset.read(south).targets["mask"]).astype(int)
    assert np.argwhere(point >= 0).tolist() == [[3, 4]] and point.max() == 1  # 297 m south less 260


def test_several_labels_and_numbers_of_a_geojson(tmp_path: Path, earth: Path) -> None:
    lat, lon = _degrees(400300, 5489700)
    features = [
        {"geometry": {"type": "Point", "coordinates": [lon, lat]}, "properties": {"label": label, "n": n}}
        for label, n in (("oak;beech", 1.5), ("oak", 2.0), (["beech", "ash"], None))
    ]
    (tmp_path / "rows.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    same: dict[str, Any] = {"table": "rows.geojson", "split": {"block_km": 100}}
    many = _opened(tmp_path, earth, **same, task="multilabel", columns={"geometry": "geometry"})
    assert many.classes == ("ash", "beech", "oak") and many.problems == ()
    flags = [many.read(i).targets["classes"].tolist() for i in many.items]
    assert flags == [[False, True, True], [False, False, True], [True, True, False]]
    value = _opened(tmp_path, earth, **same, task="regression", columns={"geometry": "geometry", "label": "n"})
    assert [value.read(i).targets["value"].tolist() for i in value.items] == [[1.5], [2.0]]
    assert value.problems == ("rows.geojson: row 2: no label; correct the row",) and value.classes == ()


def test_a_truth_layer_is_cut_into_windows(tmp_path: Path, earth: Path) -> None:
    pixel = _opened(tmp_path, earth, truth="land_cover", task="pixel", window_px=16)
    item = pixel.items[0]
    cube, window = item.about["cube"], item.about["window"]
    np.testing.assert_array_equal(pixel.read(item).targets["mask"], read_label(cube, "land_cover", window))
    scene = _opened(tmp_path, earth, truth="land_cover", task="scene", window_px=16, min_share=0.9)
    kept = {i.key: i.label for i in scene.items}
    assert 0 < len(kept) < len(pixel.items) and "windows without a class on 90 % of them are left out" in scene.split
    for other in pixel.items:
        counts = np.bincount(np.asarray(pixel.read(other).targets["mask"]).ravel(), minlength=7)
        assert kept.get(other.key) == (int(counts.argmax()) if counts.max() >= 0.9 * 256 else None)
    wet = _opened(tmp_path, earth, truth="soil_moisture", task="regression", window_px=16, max_windows=7)
    one = wet.items[0]
    mean = read_label(one.about["cube"], "soil_moisture", one.about["window"]).astype(float).mean()
    assert len(wet.items) <= 7 and wet.read(one).targets["value"][0] == pytest.approx(mean, rel=1e-6)


def test_cubes_come_from_a_catalogue_by_a_condition(tmp_path: Path, earth: Path) -> None:
    list_cubes(tmp_path / "all.parquet", [str(earth / "a"), str(earth / "b")])
    same: dict[str, Any] = {"cubes": [], "catalogue": "all.parquet", "truth": "land_cover", "window_px": 16}
    east = _opened(tmp_path, earth, **same, where="lon > 10")
    assert {i.about["cube"].name for i in east.items} == {"b"}
    both = _opened(tmp_path, earth, **same, where="")
    assert {i.about["cube"].name for i in both.items} == {"a", "b"}
    with pytest.raises(InputError, match="no row for 'lon > 90', expected some; widen the condition"):
        _opened(tmp_path, earth, **same, where="lon > 90")


def test_the_check_of_a_data_set_of_ones_own(tmp_path: Path, earth: Path) -> None:
    report = check_dataset(_opened(tmp_path, earth, truth="land_cover", task="pixel", window_px=16))
    assert report.problems == () and sum(report.units["train"].values()) % 256 == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"truth": "land_covr"}, "has no truth layer 'land_covr'.*did you mean 'land_cover'"),
        ({"truth": "soil_moisture"}, "has 0 classes, which task scene does not fit"),
        ({"truth": "land_cover", "modalities": ["s3"]}, "no cube has modality 's3'"),
        ({"truth": "land_cover", "cubes": ["none/*"]}, "nothing at"),
        ({"table": "none.csv"}, "no such file"),
        ({"table": "rows.txt"}, "expected .parquet, .geojson or .csv"),
        ({"table": "bad.parquet"}, "not a readable Parquet file"),
        ({"table": "short.csv"}, "no column date, label, got lat, lon"),
        ({"table": "one.csv", "columns": {"lat": "lat", "lon": "lon"}}, "expected at least two classes"),
        ({"table": "one.csv", "columns": {"lat": "lat", "lon": "lon"}, "crs": "EPSG:0"}, "is no coordinate system"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, earth: Path, changes: dict[str, Any], told: str) -> None:
    (tmp_path / "rows.txt").write_text("x")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 cut")
    (tmp_path / "short.csv").write_text("lat,lon\n1,2\n")
    classes = ["a", "b"] if "crs" in changes else []
    (tmp_path / "one.csv").write_text("lat,lon,label\n49.5,1.6,a\n")
    with pytest.raises(InputError, match=told):
        _opened(tmp_path, earth, **changes, classes=classes)
