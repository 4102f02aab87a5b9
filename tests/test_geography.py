"""Places, equal-area cells and prototype regions."""

import math
from collections import Counter

import numpy as np
import pytest

from skyframe.geography import EARTH_RADIUS_KM, RegionIndex, build_regions, check_crs, equal_area_cell, place_of
from skyframe.spec import METRES_PER_DEGREE, Grid, InputError, RegionGrid


def test_place_of_a_utm_point() -> None:
    # 500 km easting is the central meridian of zone 31 (3 E); 0 m northing is the equator
    lat, lon = place_of(Grid("EPSG:32631", 500_000.0, 0.0, 100.0, 100.0), 0.0, 0.0)
    assert (lat, lon) == (pytest.approx(0.0, abs=1e-9), pytest.approx(3.0, abs=1e-9))


def test_place_moves_south_and_east() -> None:
    grid = Grid("EPSG:32631", 500_000.0, 5_600_000.0, 1e4, 1e4)
    (lat, lon), (lat2, lon2) = place_of(grid, 0.0, 0.0), place_of(grid, 1000.0, 1000.0)
    assert place_of(grid, 0.0, 0.0).dtype == np.float64
    assert lat - lat2 == pytest.approx(1.0 / 111.2, rel=0.01)
    assert lon2 - lon == pytest.approx(1.0 / 111.3 / math.cos(math.radians(lat)), rel=0.01)


def test_bad_crs_is_one_sentence() -> None:
    check_crs("EPSG:32633")
    with pytest.raises(InputError, match="'EPSG:1' is not a coordinate reference system"):
        check_crs("EPSG:1")
    with pytest.raises(InputError, match="'EPSG:4326' is not projected, expected one in metres"):
        check_crs("EPSG:4326")


def test_equal_area_cells_have_equal_area() -> None:
    rng = np.random.default_rng(0)
    lat = np.degrees(np.arcsin(rng.uniform(-1, 1, 40_000)))  # uniform on the sphere
    lon = rng.uniform(-180, 180, 40_000)
    counts = Counter(equal_area_cell(float(a), float(b), 2e6) for a, b in zip(lat, lon, strict=True))
    sphere_km2 = 4 * math.pi * EARTH_RADIUS_KM**2
    assert len(counts) == pytest.approx(sphere_km2 / 2e6, rel=0.05)
    shares = np.array(sorted(counts.values())) / 40_000 * sphere_km2
    assert shares.min() > 1.2e6 and shares.max() < 2.8e6 and np.median(shares) == pytest.approx(2e6, rel=0.1)


def test_equal_area_cells_at_the_edges_of_the_world() -> None:
    assert equal_area_cell(90.0, 10.0, 4294.0) == equal_area_cell(89.9999, 10.0, 4294.0)
    south = equal_area_cell(-90.0, 0.0, 4294.0)
    assert south >= equal_area_cell(-89.0, 179.9, 4294.0)
    assert equal_area_cell(0.0, 180.0, 4294.0) == equal_area_cell(0.0, -180.0, 4294.0)
    assert equal_area_cell(0.0, 179.9999, 4294.0) != equal_area_cell(0.0, -179.9999, 4294.0)


def _footprint() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [np.array([50 + a, 5 + 3 * b]) for a, b in rng.uniform(0, 1, (300, 2))]


def test_balanced_regions_hold_equal_shares_of_the_footprint() -> None:
    places = _footprint()
    index = build_regions(places, RegionGrid("balanced", num_regions=7))
    assert index.num_regions == 7
    counts = Counter(index.region(*map(float, p)) for p in places)
    assert set(counts) == set(range(7))
    assert min(counts.values()) > 300 / 7 * 0.6 and max(counts.values()) < 300 / 7 * 1.5


def test_balanced_regions_know_the_seen_and_refuse_the_unseen() -> None:
    index = build_regions(_footprint(), RegionGrid("balanced", num_regions=4))
    assert index.region(50.5, 6.0) >= 0
    assert index.region(40.0, 6.0) == -1 and index.region(50.5, -6.0) == -1


def test_no_more_regions_than_places() -> None:
    assert build_regions([np.array([1.0, 2.0])] * 3, RegionGrid("balanced", num_regions=16)).num_regions == 3


def test_equal_area_regions_are_ranks_of_the_cells_touched() -> None:
    places = [np.array([10.0, 20.0]), np.array([-10.0, 20.0]), np.array([10.0, 20.001])]
    index = build_regions(places, RegionGrid("equal_area", cell_km2=4294.0))
    assert index.num_regions == 2 and list(index.cells) == sorted(index.cells)
    assert index.region(10.0, 20.0) == 0 and index.region(-10.0, 20.0) == 1 and index.region(60.0, 20.0) == -1


def test_region_index_survives_json() -> None:
    for kind in ("balanced", "equal_area"):
        index = build_regions(_footprint(), RegionGrid(kind, num_regions=3))  # type: ignore[arg-type]
        assert RegionIndex.from_dict(index.to_dict()) == index


def test_empty_footprint_is_an_error() -> None:
    with pytest.raises(InputError, match="footprint is empty, expected at least one window"):
        build_regions([], RegionGrid())


def test_regions_are_deterministic_for_any_order_of_places() -> None:
    places = _footprint()
    assert build_regions(places, RegionGrid(num_regions=5)) == build_regions(places[::-1], RegionGrid(num_regions=5))


def test_points_have_places_of_their_own() -> None:
    """Three sites, one row of 10 m each: the row says where, the corner nothing; borders belong to the next row."""
    places = ((50.0, 5.0), (-33.5, 151.25), (0.0, -70.0))
    grid = Grid("EPSG:4326", 0.0, 30.0, 10.0, 30.0, METRES_PER_DEGREE, places)
    for y_m, row in ((5.0, 0), (10.0, 1), (25.0, 2), (30.0, 2)):
        assert tuple(place_of(grid, y_m, 5.0)) == places[row]
