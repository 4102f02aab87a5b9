"""Splits by place: nothing leaks over a border, stores of one place stay together, and it is fast."""

import time

import numpy as np
import pytest

from skyframe.data.split import NONE, PARTS, Footprints, SplitRule, part_by_name, read_rule, split_rows
from skyframe.geography import places_of
from skyframe.spec import InputError, Split

CRS = ("EPSG:32631", "EPSG:32632")


def footprints(x0, y0, side_m, crs_of=None):
    """Squares in UTM zone 31, or 32 where `crs_of` says so."""
    x0, y0 = np.asarray(x0, float), np.asarray(y0, float)
    side = np.broadcast_to(np.asarray(side_m, float), x0.shape).copy()
    crs_of = np.zeros(len(x0), np.int32) if crs_of is None else np.asarray(crs_of, np.int32)
    corners = np.empty((5, len(x0), 2))
    for n, crs in enumerate(CRS):
        at = crs_of == n
        for k, (dy, dx) in enumerate([(0.5, 0.5), (0, 0), (0, 1), (1, 0), (1, 1)]):
            corners[k, at] = places_of(crs, (y0 - dy * side)[at], (x0 + dx * side)[at])
    lat, lon = corners[..., 0], corners[..., 1]
    bounds = lat.min(0), lon.min(0), lat.max(0), lon.max(0)
    return Footprints(crs_of, x0, y0, side, side, lat[0], lon[0], *bounds)


def grid(n, side_m, gap_m=0.0):
    step = np.arange(n) * (side_m + gap_m)
    x, y = np.meshgrid(300_000 + step, 5_600_000 - step)
    return footprints(x.ravel(), y.ravel(), side_m)


FREE = np.int8(-1)


def gaps(ground, a, b):
    """Metres between every square of `a` and every one of `b`, in one CRS; negative where they overlap."""
    dx = np.abs(ground.x0_m[a][:, None] - ground.x0_m[b]) - ground.width_m[a][:, None]
    dy = np.abs(ground.y0_m[a][:, None] - ground.y0_m[b]) - ground.width_m[a][:, None]
    return np.where((dx > 0) & (dy > 0), np.hypot(dx, dy), np.maximum(dx, dy))


def test_parts_keep_their_distance_and_their_shares():
    ground = grid(45, 2560.0)
    rule = SplitRule(0.7, 0.1, 0.2, cell_km2=100, buffer_m=3000, seed=1)
    parts = split_rows(ground, np.full(2025, FREE), rule)
    apart = split_rows(ground, np.full(2025, FREE), SplitRule(0.7, 0.1, 0.2, 100, 0, 1))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert gaps(ground, parts == a, parts == b).min() >= 3000
        assert gaps(ground, apart == a, apart == b).min() >= 0
    assert (apart != NONE).all(), "neighbours that touch do not overlap"
    shares = np.bincount(apart, minlength=4) / 2025
    assert np.allclose(shares[:3], [0.7, 0.1, 0.2], atol=0.1)
    assert np.array_equal(parts[apart == 1], apart[apart == 1]), "the smallest part loses nothing"
    lost = apart[(parts == NONE) & (apart != NONE)]
    assert (lost == 0).sum() > (lost == 2).sum() > 0
    needed = gaps(ground, apart == 0, (parts == 1) | (parts == 2)).min(1) < 3000
    assert np.array_equal(parts[apart == 0] == NONE, needed), "and training no more than it has to"


def test_one_place_in_two_stores_and_in_two_zones_is_one_part():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(690_000, 710_000, 200), rng.uniform(5_500_000, 5_700_000, 200)
    from pyproj import Transformer

    east, north = Transformer.from_crs(*CRS, always_xy=True).transform(x + 320, y - 320)
    ground = footprints([*x, *x, *(east - 320)], [*y, *y, *(north + 320)], 640.0, np.repeat([0, 0, 1], 200))
    parts = split_rows(ground, np.full(600, FREE), SplitRule(0.5, 0.25, 0.25, cell_km2=50, buffer_m=0))
    first, again, other_zone = parts.reshape(3, 200)
    assert np.array_equal(first, again)
    known = (first != NONE) & (other_zone != NONE)
    assert np.array_equal(first[known], other_zone[known]) and known.mean() > 0.8


def test_pins_hold_and_free_neighbours_give_way():
    ground = footprints([500_000, 502_000, 540_000], [5_600_000] * 3, 1000.0)
    pinned = np.array([2, -1, 0], np.int8)
    parts = split_rows(ground, pinned, SplitRule(1, 0, 0, buffer_m=1500))
    assert [PARTS[p] for p in parts] == ["test", "none", "train"]
    twins = footprints([500_000] * 3, [5_600_000] * 3, 1000.0)
    parts = split_rows(twins, np.array([0, 2, -1], np.int8), SplitRule(1, 0, 0))
    assert [PARTS[p] for p in parts] == ["none", "test", "test"]


def test_a_large_cube_beside_small_ones():
    small = grid(30, 1000.0)
    ground = footprints([*small.x0_m, 330_000], [*small.y0_m, 5_600_000], [*small.width_m, 100_000.0])
    parts = split_rows(ground, np.array([0] * 900 + [2], np.int8), SplitRule(0.9, 0, 0.1, buffer_m=2500))
    assert parts[-1] == 2
    column = (small.x0_m - 300_000) / 1000
    assert np.array_equal(parts[:-1] == NONE, column > 26.5), "closer than 2500 m to the large one's western edge"


def test_the_draw_depends_on_seed_and_not_on_company():
    ground = grid(20, 2560.0)
    free = np.full(400, FREE)
    rule = SplitRule(0.6, 0.2, 0.2, cell_km2=60, buffer_m=0)
    parts = split_rows(ground, free, rule)
    half = footprints(ground.x0_m[::2], ground.y0_m[::2], 2560.0)
    assert np.array_equal(split_rows(half, free[::2], rule), parts[::2])
    assert not np.array_equal(split_rows(ground, free, SplitRule(0.6, 0.2, 0.2, 60, 0, seed=5)), parts)


def test_a_hundred_thousand_rows_take_seconds():
    ground = grid(317, 2560.0)
    began = time.process_time()
    parts = split_rows(ground, np.full(317**2, FREE), SplitRule(0.8, 0.1, 0.1))
    assert time.process_time() - began < 10
    assert {0, 1, 2, 3} == set(parts.tolist())


def test_globs_of_a_spec():
    split = Split(val=("val_*",), test=("test_*", "x"))
    assert [part_by_name(split, n) for n in ("val_1", "test_a", "x", "y")] == [1, 2, 2, None]
    assert [part_by_name(Split(train=("t*",)), n) for n in ("t1", "u")] == [0, NONE]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("train=0.8,val=0.1", "whose sum is 1"),
        ("train=0.8,dev=0.2", "got 'dev=0.2', expected shares such as"),
        ("train=most", "got 'train=most'"),
        ("train=1.5,val=-0.5", "expected three from 0 to 1"),
    ],
)
def test_wrong_shares(words, sentence):
    with pytest.raises(InputError, match=sentence):
        read_rule(words, 100, 0, 0)
    with pytest.raises(InputError, match="expected a positive area"):
        SplitRule(1, 0, 0, cell_km2=0)


def test_shares_are_read():
    assert read_rule("train=0.5, test=0.5", 10, 20, 3) == SplitRule(0.5, 0, 0.5, 10, 20, 3)
