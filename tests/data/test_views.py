"""Views: same ground in every modality, invertible geometry, dates and draws that depend on the sample alone."""

import dataclasses

import numpy as np
import pytest
import torch

from skyframe.calendar import DAY_UNKNOWN
from skyframe.config.skysense import ViewsConfig
from skyframe.data.views import crop, make_views
from skyframe.sample import Batch, Layout, Sample, Series, SeriesBatch, collate
from skyframe.spec import InputError

WINDOW = 16


def _series(side: int, dates: int, ratio: int) -> Series:
    """Values hold the canonical pixel id, so that a crop can be checked against the ground it claims to show."""
    ids = np.arange(WINDOW * WINDOW, dtype=np.int32).reshape(WINDOW, WINDOW)
    values = np.repeat(np.repeat(ids, ratio, 0), ratio, 1)[None, None].repeat(dates, 0)
    assert values.shape[-1] == side
    days = np.arange(100, 100 + dates, dtype=np.int32)
    return Series(values, np.ones((dates, side, side), bool), days, np.ones(1, bool))


LAYOUTS = {
    "s2": Layout(6, 1, WINDOW, "int32"),
    "s1": Layout(3, 1, WINDOW, "int32"),
    "hr": Layout(1, 1, WINDOW * 4, "int32"),
}


def windows(indices=(17,), epoch=2, sample=None) -> Batch:
    """One and the same ground under several sample indices."""
    sample = sample or Sample(
        {"s2": _series(WINDOW, 5, 1), "s1": _series(WINDOW, 3, 1), "hr": _series(WINDOW * 4, 1, 4)},
        np.array([50.0, 5.0]),
        region=0,
    )
    return collate([dataclasses.replace(sample, index=i, epoch=epoch) for i in indices], LAYOUTS)


def symmetry(array, element):
    """The element of D4 by NumPy: a transpose (elements 4..7), then `element % 4` quarter turns."""
    turned = np.swapaxes(array, -1, -2) if element >= 4 else array
    return np.rot90(turned, element % 4, axes=(-2, -1))


def shown(view, name, step=1):
    """The ground that a modality's last valid frame shows, per sample in row order."""
    s = view.series[name]
    frame = s.values[:, len(s.values[0]) - 1 if name != "s2" else 4, 0]
    return frame[:, step - 1 :: step, step - 1 :: step].flatten(1)


@pytest.mark.parametrize("element", range(8))
def test_every_symmetry_is_the_one_of_numpy(element):
    corner, elements = torch.tensor([[3, 5]]), torch.tensor([element])
    cut = crop(windows(), WINDOW, corner, 8, elements)
    ids = np.arange(WINDOW * WINDOW).reshape(WINDOW, WINDOW)[3:11, 5:13]
    assert np.array_equal(cut.pixel[0].reshape(8, 8), symmetry(ids, element))
    assert torch.equal(shown(cut, "s2"), cut.pixel) and torch.equal(shown(cut, "s1"), cut.pixel)
    fine = np.repeat(np.repeat(ids, 4, 0), 4, 1)
    assert np.array_equal(cut.series["hr"].values[0, 0, 0], symmetry(fine, element))
    assert cut.series["s2"].valid[0, :5].all() and not cut.series["s2"].valid[0, 5].any()  # the padded frame


def test_shared_geometry_shows_the_same_ground_and_overlap_shares_some():
    batch = windows(range(20))
    u, v = make_views(batch, ViewsConfig(crop_px=8), WINDOW, seed=0)
    assert torch.equal(u.pixel.sort(1).values, v.pixel.sort(1).values)
    u, v = make_views(batch, ViewsConfig(crop_px=8, geometry="overlap"), WINDOW, seed=0)
    shares = [len(set(a.tolist()) & set(b.tolist())) / 64 for a, b in zip(u.pixel, v.pixel, strict=True)]
    assert min(shares) > 0.2 and min(shares) < 1.0
    assert int(v.pixel.min()) >= 0 and int(v.pixel.max()) < WINDOW * WINDOW


def turns(views: ViewsConfig, count: int = 60) -> list[tuple[int, ...]]:
    """Which symmetry each view was turned by, read off the ground it shows, for `count` samples."""
    square = np.arange(64).reshape(8, 8)
    found = []
    for view in make_views(windows(range(count)), views, WINDOW, seed=0):
        row, column = np.divmod(view.pixel.numpy(), WINDOW)
        order = (row - row.min(1, keepdims=True)) * 8 + column - column.min(1, keepdims=True)
        same = [[np.array_equal(o.reshape(8, 8), symmetry(square, e)) for e in range(8)] for o in order]
        assert all(sum(s) == 1 for s in same)
        found.append([s.index(True) for s in same])
    return list(zip(*found, strict=True))


def test_flips_shared_turn_both_views_alike_and_the_place_decides_how():
    pairs = turns(ViewsConfig(crop_px=8))  # shared is the default
    assert all(u == v for u, v in pairs)
    assert {u for u, _ in pairs} == set(range(8))


def test_flips_independent_turn_each_view_by_itself():
    pairs = turns(ViewsConfig(crop_px=8, flips="independent"))
    assert {u for u, _ in pairs} == {v for _, v in pairs} == set(range(8))
    assert 0 < sum(u == v for u, v in pairs) < 20  # one in eight by chance


def test_flips_none_leave_north_up():
    assert set(turns(ViewsConfig(crop_px=8, flips="none"), 10)) == {(0, 0)}


@pytest.mark.parametrize("flips", ["none", "shared", "independent"])
def test_how_views_turn_changes_neither_where_they_lie_nor_their_dates(flips):
    config = ViewsConfig(crop_px=8, geometry="overlap", drop_frames=0.4)
    base = make_views(windows(), config, WINDOW, seed=0)
    other = make_views(windows(), dataclasses.replace(config, flips=flips), WINDOW, seed=0)
    for a, b in zip(base, other, strict=True):
        assert torch.equal(a.pixel.sort(1).values, b.pixel.sort(1).values)
        assert torch.equal(a.series["s2"].day, b.series["s2"].day)
        assert torch.equal(a.series["s2"].valid.flatten(2).any(2), b.series["s2"].valid.flatten(2).any(2))


@pytest.mark.parametrize("flips", ["none", "shared", "independent"])
def test_every_modality_of_a_turned_view_shows_the_views_ground(flips):
    for view in make_views(windows(range(5)), ViewsConfig(crop_px=8, flips=flips, geometry="overlap"), WINDOW, seed=4):
        assert torch.equal(shown(view, "s2"), view.pixel)
        assert torch.equal(shown(view, "s1"), view.pixel)
        assert torch.equal(shown(view, "hr", 4), view.pixel)


def test_views_depend_on_the_sample_and_the_epoch_not_on_the_batch():
    views = ViewsConfig(crop_px=8, drop_frames=0.4, geometry="overlap")
    whole = make_views(windows(range(6)), views, WINDOW, seed=1)
    alone = make_views(windows([4]), views, WINDOW, seed=1)
    for a, b in zip(whole, alone, strict=True):
        assert torch.equal(a.pixel[4], b.pixel[0])
        assert torch.equal(a.series["s2"].day[4], b.series["s2"].day[0])
        assert torch.equal(a.series["s2"].valid[4], b.series["s2"].valid[0])
    other = make_views(windows([4], epoch=3), views, WINDOW, seed=1)
    assert not torch.equal(alone[0].series["s2"].day, other[0].series["s2"].day)


def test_dates_move_within_the_jitter_and_unknown_ones_stay():
    batch = windows(range(60))
    batch.series["s2"].day[:, 2] = DAY_UNKNOWN
    view, _ = make_views(batch, ViewsConfig(crop_px=8, jitter_days=5), WINDOW, 0)
    moves = (view.series["s2"].day - batch.series["s2"].day)[:, :5]
    assert (moves[:, 2] == 0).all() and (view.series["s2"].day[:, 5] == DAY_UNKNOWN).all()
    assert moves.min() == -5 and moves.max() == 5


def test_hidden_frames_differ_between_views_and_images_are_never_hidden():
    batch = windows(range(200))
    u, v = make_views(batch, ViewsConfig(crop_px=8, drop_frames=0.5), WINDOW, 0)
    assert u.series["hr"].valid.all() and v.series["hr"].valid.all()
    hidden = [~w.series["s2"].valid[:, :5].flatten(2).any(2) for w in (u, v)]
    assert all(0.45 < float(h.float().mean()) < 0.55 for h in hidden)
    assert not torch.equal(*hidden)


def test_the_only_date_of_a_series_is_never_hidden():
    batch = windows(range(40))
    batch.series["s2"].valid[:, 1:] = False
    for view in make_views(batch, ViewsConfig(crop_px=8, drop_frames=0.9), WINDOW, 0):
        assert view.series["s2"].valid[:, 0].all()


def test_local_crops_hold_high_resolution_inside_the_students_crop():
    views = make_views(windows(range(8)), ViewsConfig(crop_px=8, local_crops=2, local_px=4), WINDOW, 0)
    assert len(views) == 4
    for local in views[2:]:
        assert list(local.series) == ["hr"] and local.series["hr"].values.shape[-1] == 16
        assert all(set(a.tolist()) <= set(b.tolist()) for a, b in zip(local.pixel, views[0].pixel, strict=True))
        assert torch.equal(shown(local, "hr", 4), local.pixel)
    assert not torch.equal(views[2].pixel, views[3].pixel)


def test_weather_passes_unchanged():
    batch = windows()
    cell = SeriesBatch(
        torch.ones(1, 2, 3, 1, 1), torch.ones(1, 2, 1, 1, dtype=torch.bool), torch.ones(1, 2), torch.ones(1, 3)
    )
    cut = crop(dataclasses.replace(batch, series={"weather": cell}), WINDOW, torch.tensor([[0, 0]]), 8)
    assert cut.series["weather"] is cell


def test_unsigned_values_survive_the_cut():
    batch = windows()
    batch.series["s2"].values = torch.full((1, 6, 1, WINDOW, WINDOW), 65535, dtype=torch.uint16)
    assert (crop(batch, WINDOW, torch.tensor([[0, 0]]), 8).series["s2"].values == 65535).all()


def test_a_ratio_that_is_not_whole_is_refused():
    batch = windows()
    hr = batch.series["hr"]
    batch.series["hr"] = dataclasses.replace(hr, values=hr.values[..., :-1, :-1], valid=hr.valid[..., :-1, :-1])
    with pytest.raises(InputError, match=r"hr: a window of 16 x 16 pixels of 10 m holds 63 x 63"):
        crop(batch, WINDOW, torch.tensor([[0, 0]]), 8)
