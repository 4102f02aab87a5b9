"""Views: same ground in every modality, invertible geometry, dates and draws that depend on the sample alone."""

import dataclasses

import numpy as np
import pytest

from skyframe.calendar import DAY_UNKNOWN
from skyframe.config.skysense import ViewsConfig
from skyframe.data.views import crop, make_views, symmetry
from skyframe.sample import Sample, Series
from skyframe.spec import InputError

WINDOW = 16


def _series(side: int, dates: int, ratio: int) -> Series:
    """Values hold the canonical pixel id, so that a crop can be checked against the ground it claims to show."""
    ids = np.arange(WINDOW * WINDOW, dtype=np.int32).reshape(WINDOW, WINDOW)
    values = np.repeat(np.repeat(ids, ratio, 0), ratio, 1)[None, None].repeat(dates, 0)
    assert values.shape[-1] == side
    days = np.arange(100, 100 + dates, dtype=np.int32)
    return Series(values, np.ones((dates, side, side), bool), days, np.ones(1, bool))


@pytest.fixture
def sample() -> Sample:
    series = {"s2": _series(WINDOW, 5, 1), "s1": _series(WINDOW, 3, 1), "hr": _series(WINDOW * 4, 1, 4)}
    return Sample(series, np.array([50.0, 5.0]), region=0, index=17, epoch=2)


@pytest.mark.parametrize("element", range(8))
def test_every_symmetry_is_a_different_rearrangement(element):
    square = np.arange(9).reshape(3, 3)
    turned = symmetry(square, element)
    assert sorted(turned.ravel()) == list(range(9))
    assert sum(np.array_equal(turned, symmetry(square, other)) for other in range(8)) == 1


@pytest.mark.parametrize("element", range(8))
def test_pixel_ids_name_the_ground_in_every_modality(sample, element):
    cut = crop(sample, WINDOW, 3, 5, 8, element)
    assert np.array_equal(cut.series["s2"].values[0, 0].ravel(), cut.pixel)
    coarse = cut.series["hr"].values[0, 0, ::4, ::4]
    assert np.array_equal(coarse.ravel(), cut.pixel)
    assert cut.pixel.min() == 3 * WINDOW + 5 and len(np.unique(cut.pixel)) == 64


def test_shared_geometry_shows_the_same_ground_and_overlap_shares_some(sample):
    views = ViewsConfig(crop_px=8)
    u, v = make_views(sample, views, WINDOW, seed=0)
    assert set(u.pixel) == set(v.pixel)
    shares = []
    for index in range(20):
        moved = dataclasses.replace(sample, index=index)
        u, v = make_views(moved, dataclasses.replace(views, geometry="overlap"), WINDOW, seed=0)
        shares.append(len(set(u.pixel) & set(v.pixel)) / 64)
    assert min(shares) > 0.2 and min(shares) < 1.0


def turns(sample: Sample, views: ViewsConfig, count: int = 60) -> list[tuple[int, ...]]:
    """Which symmetry each view was turned by, read off the ground it shows, for `count` samples."""
    square = np.arange(64).reshape(8, 8)
    found = []
    for index in range(count):
        pair = make_views(dataclasses.replace(sample, index=index), views, WINDOW, seed=0)
        row, column = (np.stack([v.pixel for v in pair]) // WINDOW, np.stack([v.pixel for v in pair]) % WINDOW)
        order = (row - row.min(1, keepdims=True)) * 8 + column - column.min(1, keepdims=True)
        same = [[np.array_equal(o.reshape(8, 8), symmetry(square, e)) for e in range(8)] for o in order]
        assert all(sum(s) == 1 for s in same)
        found.append(tuple(s.index(True) for s in same))
    return found


def test_flips_shared_turn_both_views_alike_and_the_place_decides_how(sample):
    pairs = turns(sample, ViewsConfig(crop_px=8))  # shared is the default
    assert all(u == v for u, v in pairs)
    assert {u for u, _ in pairs} == set(range(8))


def test_flips_independent_turn_each_view_by_itself(sample):
    pairs = turns(sample, ViewsConfig(crop_px=8, flips="independent"))
    assert {u for u, _ in pairs} == {v for _, v in pairs} == set(range(8))
    assert 0 < sum(u == v for u, v in pairs) < 20  # one in eight by chance


def test_flips_none_leave_north_up(sample):
    assert set(turns(sample, ViewsConfig(crop_px=8, flips="none"), 10)) == {(0, 0)}


@pytest.mark.parametrize("flips", ["none", "shared", "independent"])
def test_how_views_turn_changes_neither_where_they_lie_nor_their_dates(sample, flips):
    base = make_views(sample, ViewsConfig(crop_px=8, geometry="overlap", drop_frames=0.4), WINDOW, seed=0)
    other = make_views(sample, ViewsConfig(crop_px=8, geometry="overlap", drop_frames=0.4, flips=flips), WINDOW, seed=0)
    for a, b in zip(base, other, strict=True):
        assert set(a.pixel) == set(b.pixel)
        assert np.array_equal(a.series["s2"].day, b.series["s2"].day)
        assert np.array_equal(a.series["s2"].valid.any((1, 2)), b.series["s2"].valid.any((1, 2)))


@pytest.mark.parametrize("flips", ["none", "shared", "independent"])
def test_every_modality_of_a_turned_view_shows_the_views_ground(sample, flips):
    for view in make_views(sample, ViewsConfig(crop_px=8, flips=flips, geometry="overlap"), WINDOW, seed=4):
        assert np.array_equal(view.series["s2"].values[0, 0].ravel(), view.pixel)
        assert np.array_equal(view.series["s1"].values[-1, 0].ravel(), view.pixel)
        assert np.array_equal(view.series["hr"].values[0, 0, 3::4, 3::4].ravel(), view.pixel)


def test_same_sample_same_views_other_epoch_other_views(sample):
    views = ViewsConfig(crop_px=8, drop_frames=0.4)
    first, again = (make_views(sample, views, WINDOW, seed=1) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.pixel, b.pixel)
        assert np.array_equal(a.series["s2"].day, b.series["s2"].day)
        assert np.array_equal(a.series["s2"].valid, b.series["s2"].valid)
    other = make_views(dataclasses.replace(sample, epoch=3), views, WINDOW, seed=1)
    assert not np.array_equal(first[0].series["s2"].day, other[0].series["s2"].day)


def test_dates_move_within_the_jitter_and_unknown_ones_stay(sample):
    sample.series["s2"].day[2] = DAY_UNKNOWN
    views = ViewsConfig(crop_px=8, jitter_days=5)
    moved = (make_views(dataclasses.replace(sample, index=i), views, WINDOW, 0)[0] for i in range(60))
    days = np.stack([view.series["s2"].day for view in moved])
    moves = days - sample.series["s2"].day
    assert (days[:, 2] == DAY_UNKNOWN).all()
    assert moves[:, [0, 1, 3, 4]].min() == -5 and moves[:, [0, 1, 3, 4]].max() == 5


def test_hidden_frames_differ_between_views_and_images_are_never_hidden(sample):
    hidden = []
    for index in range(40):
        u, v = make_views(dataclasses.replace(sample, index=index), ViewsConfig(crop_px=8, drop_frames=0.5), WINDOW, 0)
        assert u.series["hr"].valid.all() and v.series["hr"].valid.all()
        hidden.append((~u.series["s2"].valid.any((1, 2)), ~v.series["s2"].valid.any((1, 2))))
    share = np.mean([h for pair in hidden for h in pair])
    assert 0.4 < share < 0.6
    assert any(not np.array_equal(a, b) for a, b in hidden)


def test_local_crops_hold_high_resolution_inside_the_students_crop(sample):
    views = make_views(sample, ViewsConfig(crop_px=8, local_crops=2, local_px=4), WINDOW, 0)
    assert len(views) == 4
    for local in views[2:]:
        assert list(local.series) == ["hr"] and local.series["hr"].values.shape[-1] == 16
        assert set(local.pixel) <= set(views[0].pixel)


def test_a_ratio_that_is_not_whole_is_refused(sample):
    sample.series["hr"] = _series(WINDOW * 4, 1, 4)
    sample.series["hr"].valid = sample.series["hr"].valid[:, :-1, :-1]
    with pytest.raises(InputError, match=r"hr: a window of 16 x 16 pixels of 10 m holds 63 x 63"):
        crop(sample, WINDOW, 0, 0, 8)
