"""The YAML of one's own labelled data: what it says, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from skyframe.config.own_data import OwnData, load_own_data
from skyframe.spec import InputError


def _written(folder: Path, **changes: Any) -> Path:
    tree = {"name": "mine", "task": "scene", "cubes": ["cubes/*"], "table": "rows.csv", "columns": {"geometry": "wkt"}}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**tree, **changes}.items() if v is not None}))
    return path


def test_paths_start_from_the_root_or_the_yaml_and_defaults_stand(tmp_path: Path) -> None:
    own = load_own_data(_written(tmp_path))
    assert own.table == str(tmp_path / "rows.csv") and own.cubes == (str(tmp_path / "cubes/*"),)
    assert own.window_px == 16 and own.split.shares == (0.6, 0.2, 0.2) and own.dates.days_before == 365
    far = load_own_data(_written(tmp_path, cubes=["https://host/a.zarr", "/data/b"]), tmp_path / "root")
    assert far.cubes == ("https://host/a.zarr", "/data/b") and far.table == str(tmp_path / "root/rows.csv")
    assert isinstance(own, OwnData) and own.catalogue == ""


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"taks": "scene"}, "unknown key 'taks'; did you mean 'task'"),
        ({"task": "boxes"}, "task: 'boxes' is not one of"),
        ({"name": "a/b"}, "name is 'a/b', expected a plain name"),
        ({"catalogue": "c.parquet"}, "expected either cubes or a catalogue"),
        ({"where": "year == 2021"}, "expected a catalogue beside it"),
        ({"truth": "land_cover"}, "expected either a table or a truth layer"),
        ({"window_px": 0}, "window_px is 0"),
        ({"classes": ["wheat", "wheat"]}, "expected different names"),
        ({"classes": ["wheat"]}, "expected at least two"),
        ({"task": "regression", "classes": ["a", "b"]}, "expected none for a regression"),
        ({"dates": {"days_before": -1}}, "expected 0 or more days"),
        ({"split": {"shares": [0.5, 0.2]}}, "expected three shares that sum to 1"),
        ({"split": {"block_km": 0}}, "expected positive kilometres"),
        ({"split": {"by": "column"}}, "expected the column's name in columns.split"),
        ({"columns": {"lat": "lat"}}, "columns is one of lat and lon"),
        ({"columns": {}}, "expected geometry, or lat and lon"),
    ],
)
def test_a_wrong_file_is_told_in_one_sentence(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as error:
        load_own_data(_written(tmp_path, **changes))
    assert told in str(error.value) and str(error.value).startswith("mine.yaml")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file, expected the YAML"):
        load_own_data(tmp_path / "none.yaml")
