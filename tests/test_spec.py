"""Specs are strict: unknown keys, wrong types and impossible values are one sentence that names the place."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from skyframe.spec import (
    Band,
    CubeSpec,
    Grid,
    InputError,
    Modality,
    RegionGrid,
    Split,
    build,
    did_you_mean,
    find_yaml,
    side_pixels,
)


def _tree(**changes: Any) -> dict[str, Any]:
    s2: dict[str, Any] = {
        "kind": "series",
        "bands": [{"name": "B04", "wavelength_um": 0.665}, {"name": "B08", "wavelength_um": 0.842}],
        "gsd_m": 10,
        "units": "reflectance",
        "dtype": "uint16",
        "scale": "1e-4",
        "mean": [0.1, 0.3],
        "std": [0.05, 0.1],
        **changes,
    }
    return {"name": "toy", "description": "a toy", "modalities": {"s2": {k: v for k, v in s2.items() if v is not ...}}}


def _refused(tree: Any) -> str:
    with pytest.raises(InputError) as caught:
        CubeSpec.from_dict(tree, "toy.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_from_plain_values() -> None:
    spec = CubeSpec.from_dict(_tree(), "toy.yaml")
    s2 = spec.modality("s2")
    assert s2.band_names == ("B04", "B08") and s2.bands[1] == Band("B08", 0.842)
    assert s2.name == "s2" and s2.gsd_m == 10.0 and isinstance(s2.gsd_m, float) and s2.scale == 1e-4
    assert spec.regions == RegionGrid() and s2.nodata is None


def test_round_trip_through_json() -> None:
    tree = {**_tree(), "labels": {"crop": {"gsd_m": 10, "dtype": "uint8", "classes": ["wheat", "maize"]}}}
    tree["split"] = {"train": ["north"], "test": ["south"]}
    spec = CubeSpec.from_dict(tree, "toy.yaml")
    assert CubeSpec.from_dict(json.loads(json.dumps(spec.to_dict())), "manifest") == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gsd": 10}, "toy.yaml.modalities.s2: unknown key 'gsd'; did you mean 'gsd_m'?"),
        ({"units": ...}, "toy.yaml.modalities.s2: missing units"),
        ({"gsd_m": "ten"}, "toy.yaml.modalities.s2.gsd_m: expected float, got 'ten'"),
        ({"gsd_m": True}, "toy.yaml.modalities.s2.gsd_m: expected float, got True"),
        ({"gsd_m": 0}, "s2: gsd_m must be positive metres, got 0.0"),
        ({"gsd_m": float("nan")}, "s2: gsd_m must be positive metres, got nan"),
        ({"kind": "movie"}, "toy.yaml.modalities.s2.kind: 'movie' is not one of 'image', 'series', 'static'"),
        ({"bands": []}, "s2: no bands; list at least one under modalities.s2.bands"),
        ({"bands": "B04"}, "toy.yaml.modalities.s2.bands: expected a list, got 'B04'"),
        ({"bands": ["B04"]}, "toy.yaml.modalities.s2.bands[0]: expected a mapping with name, wavelength_um, got 'B04'"),
        ({"mean": [0.1]}, "s2: mean has 1 values for 2 bands (B04, B08); give one per band"),
        ({"std": [0.1, 0.0]}, "s2: std must be positive, got [0.1, 0.0]"),
        ({"bands": [{"name": "B04"}, {"name": "B04"}]}, "s2: band B04 is listed twice; give every band its own name"),
    ],
)
def test_bad_modalities(changes: dict[str, Any], message: str) -> None:
    assert message in _refused(_tree(**changes))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([], "toy.yaml: expected a mapping with name, description and modalities, got list"),
        ({**_tree(), "modalities": []}, "toy.yaml: modalities must be a mapping by name, got list"),
        ({"name": "a", "description": "b", "modalities": {}}, "toy.yaml: no modalities; describe at least one"),
        ({"name": "a", "modalities": {}}, "toy.yaml: missing description"),
        ({**_tree(), "region": {}}, "toy.yaml: unknown key 'region'; did you mean 'regions'?"),
        ({**_tree(), "regions": {"num_regions": 1.5}}, "toy.yaml.regions.num_regions: expected int, got 1.5"),
        ({**_tree(), "regions": {"num_regions": 0}}, "regions: num_regions must be at least 1, got 0"),
        ({**_tree(), "regions": {"cell_km2": 0}}, "regions: cell_km2 must be positive square kilometres, got 0.0"),
        ({**_tree(), "modalities": {"s2": None}}, "toy.yaml.modalities.s2: expected a mapping with name, kind"),
    ],
)
def test_bad_specs(tree: Any, message: str) -> None:
    assert message in _refused(tree)


def test_an_unknown_modality_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="spec toy: no modality 's2a'; it has s2; did you mean 's2'"):
        CubeSpec.from_dict(_tree(), "toy.yaml").modality("s2a")


def test_pixels_by_arithmetic() -> None:
    hr = Modality("hr", "image", (Band("red"),), 0.3125, "1", "uint8")
    assert hr.pixels(160.0) == 512
    assert Modality("fine", "image", (Band("red"),), 0.3, "1", "uint8").pixels(153.6) == 512
    with pytest.raises(InputError, match=r"hr: 100.1 m is 320.320 pixels of 0.3125 m, expected a whole number"):
        hr.pixels(100.1)


def test_side_pixels_rounds_up_but_not_over_noise() -> None:
    assert (side_pixels(100.0, 10.0), side_pixels(101.0, 10.0), side_pixels(0.3 * 2048, 0.3)) == (10, 11, 2048)


def test_grid_needs_positive_sides() -> None:
    with pytest.raises(InputError, match=r"width and height must be positive metres, got 0\.0 x 5\.0"):
        Grid("EPSG:32631", 0.0, 0.0, 0.0, 5.0)


def test_did_you_mean() -> None:
    assert did_you_mean("wdith", ["width", "height"]) == "; did you mean 'width'?"
    assert did_you_mean("zzz", ["width"]) == ""


def test_load_by_path_and_error_for_bad_yaml(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(json.dumps(_tree()))
    bad.write_text("name: [")
    assert CubeSpec.load(good).name == "toy"
    with pytest.raises(InputError, match=r"bad.yaml: not valid YAML"):
        CubeSpec.load(bad)


def test_find_yaml_lists_what_ships() -> None:
    with pytest.raises(InputError, match="data_specs: no file 'nowhere'; give a path to a YAML file or one of"):
        find_yaml("data_specs", "nowhere")


def test_a_split_holds_cubes_out_by_name_or_glob():
    assert not Split().held_out("anything")
    kept = Split(test=("test_*",), val=("north",))
    assert [kept.held_out(name) for name in ("test_a", "north", "south", "a_test_")] == [True, True, False, False]
    chosen = Split(train=("train_*",), test=("train_last",))
    assert [chosen.held_out(name) for name in ("train_1", "other", "train_last")] == [False, True, True]


def test_points_and_sources_survive_json() -> None:
    """Places come back as tuples, so that a resumed writer finds its own grid again."""
    grid = Grid("EPSG:4326", 0.0, 20.0, 10.0, 20.0, 111_320.0, ((50.0, 5.0), (51.0, 6.0)))
    assert build(Grid, json.loads(json.dumps(dataclasses.asdict(grid))), "manifest") == grid
    spec = CubeSpec.from_dict({**_tree(), "source": {"s2": {"factor": 0.01}}}, "toy.yaml")
    assert CubeSpec.from_dict(spec.to_dict(), "manifest") == spec and spec.source["s2"] == {"factor": 0.01}
