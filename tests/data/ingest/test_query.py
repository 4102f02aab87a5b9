import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skyframe.data.ingest.query import Area, cover, grids_of, period
from skyframe.spec import Band, CubeSpec, Grid, InputError, Modality

CRS = "EPSG:32631"
SPEC = CubeSpec(
    "a", "a", {f"m{gsd}": Modality(f"m{gsd}", "series", (Band("b"),), float(gsd), "dn", "uint16") for gsd in (10, 60)}
)
HERE = Path("search.yaml")


def test_a_box_grows_to_whole_coarse_pixels():
    grids = grids_of(Area(CRS, bbox_m=(600_010, 5_599_930, 600_200, 5_600_000)), SPEC, HERE)
    assert grids == {"": Grid(CRS, 600_000.0, 5_600_040.0, 240.0, 120.0)}


def test_degrees_become_metres():
    (grid,) = grids_of(Area(CRS, bbox=(3.0, 50.0, 3.1, 50.1)), SPEC, HERE).values()
    assert grid.x0_m == pytest.approx(500_000, abs=60) and grid.y0_m - grid.height_m == pytest.approx(5_538_600, abs=60)
    assert grid.width_m == pytest.approx(7170, abs=130)  # 0.1 degrees of longitude at 50 N


@pytest.mark.parametrize(
    ("tile", "crs", "corner"),
    [
        ("31UFS", "EPSG:32631", (600_000.0, 5_700_000.0)),
        ("T33UXP", "EPSG:32633", (600_000.0, 5_400_000.0)),
        ("18TWL", "EPSG:32618", (499_980.0, 4_600_020.0)),
        ("56HLH", "EPSG:32756", (300_000.0, 6_300_000.0)),
    ],
)
def test_tiles_of_sentinel_2(tile, crs, corner):
    (grid,) = grids_of(Area(crs, tiles=(tile,)), SPEC, HERE).values()
    assert (grid.x0_m, grid.y0_m) == corner and (grid.width_m, grid.height_m) == (109_800.0, 109_800.0)


def test_cubes_share_one_lattice_and_follow_a_shape(tmp_path):
    grids = grids_of(Area(CRS, bbox_m=(601_000, 5_598_000, 604_000, 5_601_000), cube_km=3), SPEC, HERE)
    assert sorted(grids) == ["n5598_e600", "n5598_e603"]
    assert grids["n5598_e603"] == Grid(CRS, 603_000.0, 5_601_000.0, 3000.0, 3000.0)
    assert cover(grids) == Grid(CRS, 600_000.0, 5_601_000.0, 6000.0, 3000.0)
    line = {"type": "LineString", "coordinates": [[3.0, 50.0], [3.5, 50.5]]}
    (tmp_path / "line.geojson").write_text(json.dumps({"features": [{"geometry": line}]}))
    area = Area(CRS, geometry="line.geojson", cube_km=6)
    assert 10 <= len(grids_of(area, SPEC, tmp_path / "a.yaml")) <= 20  # along the diagonal of 6 x 10 cubes


def test_period_ends_after_its_last_day():
    assert period("2021-03-01/2021-03-31", "a") == (datetime(2021, 3, 1, tzinfo=UTC), datetime(2021, 4, 1, tzinfo=UTC))
    for text in ("2021-03-01", "2021-03-02/2021-03-01", "spring/autumn"):
        with pytest.raises(InputError, match=f"datetime is '{text}', expected first and last day"):
            period(text, "a")


@pytest.mark.parametrize(
    ("area", "message"),
    [
        (Area(CRS), "area has none of bbox, bbox_m, geometry and tiles, expected exactly one"),
        (Area(CRS, bbox_m=(1, 2, 3)), r"area\.bbox_m is \[1, 2, 3\], expected four numbers"),
        (Area(CRS, bbox_m=(5, 0, 1, 9)), "in rising order"),
        (Area(CRS, tiles=("31UFZ",)), "'31UFZ', expected Sentinel-2 tiles such as 31UFS"),
        (Area(CRS, tiles=("32UFS",)), r"tile 32UFS lies in EPSG:32632, area\.crs is EPSG:32631"),
        (Area(CRS, tiles=("31UJS",)), "zone 31 has no column J"),
        (Area(CRS, bbox_m=(0, 0, 1, 1), cube_km=1.001), "cube_km 1.001 is not a whole number of 60 m pixels"),
        (Area("EPSG:4326", bbox=(3, 50, 4, 51)), "is not projected"),
        (Area("moon", bbox=(3, 50, 4, 51)), "'moon' is not a coordinate reference system"),
        (Area(CRS, geometry="none.geojson"), "none.geojson cannot be read as GeoJSON"),
    ],
)
def test_areas_that_are_refused(area, message):
    with pytest.raises(InputError, match=message):
        grids_of(area, SPEC, HERE)
