import dataclasses

import numpy as np
import pytest

from skyframe.config.heads import HeadTraining
from skyframe.evaluate.feed import crops
from skyframe.evaluate.feed.crops import Reader, ahead, enlarged, training_crop, turned
from skyframe.evaluate.feed.fit import fit
from skyframe.sample import Sample, Series
from tests.evaluate.toy import contract, dataset

PLAIN = HeadTraining(flips=False)


def numbered(side=3):
    values = np.arange(side * side, dtype=np.float32).reshape(1, 1, side, side)
    series = Series(values, values[:, 0] > 0, np.zeros(1, np.int32), np.ones(1, bool))
    weather = Series(np.ones((2, 4, 1, 1)), np.ones((2, 1, 1), bool), np.zeros(2, np.int32), np.ones(4, bool))
    targets = {"mask": values[0, 0].astype(np.int64), "class": np.int64(3)}
    return Sample({"s2": series, "w": weather}, np.zeros(2), -1, targets=targets)


def test_pixels_and_masks_are_turned_alike():
    seen = set()
    for element in range(8):
        found = turned(numbered(), element)
        s2 = found.series["s2"]
        assert np.array_equal(s2.values[0, 0], found.targets["mask"]) and found.targets["class"] == 3
        assert np.array_equal(s2.valid, s2.values[:, 0] > 0)
        assert found.series["w"].values.shape == (2, 4, 1, 1)
        seen.add(s2.values.tobytes())
    assert len(seen) == 8
    assert turned(numbered(2), 1).targets["mask"].tolist() == [[1, 3], [0, 2]]
    assert turned(numbered(2), 4).targets["mask"].tolist() == [[1, 0], [3, 2]]


def test_an_enlarged_square_by_hand():
    found = enlarged(numbered(2), 2, 4, 2)
    assert found.targets["mask"].shape == (8, 8) and set(found.targets["mask"].ravel()) == {0, 1, 2, 3}
    np.testing.assert_allclose(found.series["s2"].values[0, 0, 0], [0, 0.25, 0.75, 1])
    assert not found.series["s2"].valid[0, 0, :2].any() and found.series["s2"].valid[0, 3, 3]


def test_crops_are_drawn_by_seed_epoch_and_key_alone():
    data = dataset("pixel", side=20)
    reader = Reader(fit(data, contract()), fit(data, contract()).read)
    whole = reader(data.items[0])
    draws = [training_crop(whole, 8, HeadTraining(), *d) for d in ((0, 1, "a"), (0, 1, "a"), (0, 2, "a"), (1, 1, "a"))]
    assert [d.targets["mask"].shape for d in draws] == [(8, 8)] * 4
    assert np.array_equal(draws[0].series["s2"].values, draws[1].series["s2"].values)
    assert all(not np.array_equal(draws[0].series["s2"].values, d.series["s2"].values) for d in draws[2:])
    found = training_crop(whole, 24, PLAIN, 0)
    assert (found.targets["mask"][20:] == -1).all() and not found.series["s2"].valid[:, 20:].any()
    assert np.array_equal(found.targets["mask"][:20, :20], whole.sample.targets["mask"])
    larger = training_crop(whole, 8, dataclasses.replace(PLAIN, scale=(2.0, 2.0)), 0)
    assert larger.series["s2"].values.shape == (1, 2, 8, 8) and larger.targets["mask"].shape == (8, 8)


def test_items_are_read_once_as_far_as_memory_allows(monkeypatch):
    data = dataset("pixel", num=2)
    read = []
    fitted = fit(data, contract())
    reader = Reader(fitted, lambda item: read.append(item.key) or fitted.read(item))
    size = 12 * 12 * (2 * 4 + 1 + 8)
    monkeypatch.setattr(crops, "KEPT_BYTES", size)
    for _ in range(2):
        for item in data.part("train"):
            assert reader(item).extent == (12, 12)
    assert read == ["train0", "train1", "train1"] and reader.num_bytes == size


def test_what_is_made_ahead_comes_in_order_and_its_errors_arrive():
    assert list(ahead(lambda i: i * i, 4)) == [0, 1, 4, 9]
    assert list(ahead(lambda i: i, 0)) == []
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda i: 1 // (1 - i), 3))


def test_a_map_of_numbers_is_unknown_beyond_the_edge():
    data = dataset("map", side=6)
    fitted = fit(data, contract())
    found = training_crop(Reader(fitted, fitted.read)(data.items[0]), 8, PLAIN, 0).targets["value"]
    assert found.shape == (1, 8, 8) and np.isfinite(found[:, :6, :6]).all() and np.isnan(found[:, 6:]).all()
