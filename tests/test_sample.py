"""Collation: absent modalities become all-invalid stand-ins, short series are padded, nothing is dropped."""

import numpy as np
import pytest
import torch

from skyframe.calendar import DAY_UNKNOWN
from skyframe.sample import Layout, Sample, Series, collate, widened

S2, S1 = Layout(3, 2, 4, "uint16"), Layout(2, 1, 4, "int16")


def _series(num_dates: int, layout: Layout, fill: int = 7) -> Series:
    side = layout.side_px
    return Series(
        values=np.full((num_dates, layout.num_bands, side, side), fill, layout.dtype),
        valid=np.ones((num_dates, side, side), bool),
        day=np.arange(num_dates, dtype=np.int32) + 100,
        bands=np.ones(layout.num_bands, bool),
    )


def _sample(series: dict[str, Series], index: int = 0, **more: object) -> Sample:
    return Sample(series=series, place=np.array([51.219, 5.056]), region=index - 1, index=index, epoch=2, **more)  # type: ignore[arg-type]


def test_collate_pads_dates_and_stands_in_for_the_absent() -> None:
    samples = [_sample({"s2": _series(2, S2), "s1": _series(2, S1)}), _sample({"s2": _series(3, S2)}, 5)]
    batch = collate(samples, {"s2": S2, "s1": S1})
    assert batch.size == 2
    assert batch.series["s2"].values.shape == (2, 3, 2, 4, 4) and batch.series["s1"].values.shape == (2, 2, 1, 4, 4)
    assert batch.series["s2"].day.tolist() == [[100, 101, DAY_UNKNOWN], [100, 101, 102]]
    assert batch.series["s2"].valid.flatten(2).all(2).tolist() == [[True, True, False], [True] * 3]
    assert not batch.series["s1"].valid[1].any() and not batch.series["s1"].bands[1].any()
    assert batch.series["s1"].day[1].tolist() == [DAY_UNKNOWN] * 2
    assert batch.region.tolist() == [-1, 4] and batch.index.tolist() == [0, 5] and batch.epoch.tolist() == [2, 2]


def test_dtypes_keep_every_value() -> None:
    batch = collate([_sample({"s2": _series(3, S2, 65535), "s1": _series(2, S1, -2500)})], {"s2": S2, "s1": S1})
    assert batch.series["s2"].values.dtype == torch.uint16  # half the way to the device of int32
    assert int(widened(batch.series["s2"].values).max()) == 65535
    assert widened(batch.series["s2"].values).dtype == torch.int32
    assert batch.series["s1"].values.dtype == torch.int16 and int(batch.series["s1"].values.min()) == -2500
    assert batch.series["s2"].day.dtype == torch.int32 and batch.region.dtype == torch.int64
    assert batch.place.dtype == torch.float64 and batch.place[0].tolist() == [51.219, 5.056]


def test_only_what_the_recipe_names_is_collated() -> None:
    assert set(collate([_sample({"s2": _series(1, S2), "s1": _series(1, S1)})], {"s1": S1}).series) == {"s1"}


def test_pixels_and_targets_are_kept_where_all_samples_have_them() -> None:
    pixel = np.arange(16, dtype=np.int64)
    full = _sample({}, pixel=pixel, targets={"crop": np.full((4, 4), 3, np.uint8), "soil": np.float32(0.5)})
    bare = _sample({}, targets={"crop": np.full((4, 4), 1, np.uint8)})
    both = collate([full, full], {})
    assert both.pixel is not None and both.pixel.shape == (2, 16) and both.pixel.dtype == torch.int64
    assert both.targets["soil"].tolist() == [0.5, 0.5]
    mixed = collate([full, bare], {})
    assert mixed.pixel is None and set(mixed.targets) == {"crop"} and mixed.targets["crop"].shape == (2, 4, 4)


def test_frames_are_never_dropped_and_shapes_never_stretched() -> None:
    with pytest.raises(
        ValueError, match=r"s2: a series of shape \[4, 2, 4, 4\], expected at most 3 dates of \[2, 4, 4\]"
    ):
        collate([_sample({"s2": _series(4, S2)})], {"s2": S2})
    point = Series(np.ones((1, 2, 1, 1), np.uint16), np.ones((1, 1, 1), bool), np.zeros(1, np.int32), np.ones(2, bool))
    with pytest.raises(ValueError, match=r"s2: a series of shape \[1, 2, 1, 1\]"):
        collate([_sample({"s2": point})], {"s2": S2})


def test_batch_tensors_are_independent_of_the_samples() -> None:
    sample = _sample({"s1": _series(2, S1)})
    batch = collate([sample], {"s1": S1})
    sample.series["s1"].values[:] = 0
    assert (batch.series["s1"].values == 7).all()
