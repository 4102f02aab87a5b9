from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from skyframe.evaluate.datasets.dataset import Dataset, Item
from skyframe.evaluate.datasets.imagery import image_sample, rgb
from skyframe.evaluate.heads.few_labels import few_labels, spread_order
from skyframe.spec import InputError


def scenes(counts):
    items = [Item(f"{c}/{i}", "train", {"image": Path("x")}, c) for c, num in enumerate(counts) for i in range(num)]
    classes = tuple(map(str, range(len(counts))))
    return Dataset("tiny", "scene", classes, {"rgb": rgb(1.0)}, tuple(items), lambda item: None, "", "")


def test_every_beginning_of_the_order_is_spread():
    assert spread_order(6) == [0, 4, 2, 1, 5, 3]
    assert spread_order(1) == [0]
    for num in (7, 64, 100):
        assert sorted(spread_order(num)) == list(range(num))
        for start in (4, num // 3):
            at = sorted(spread_order(num)[:start])
            assert max(b - a for a, b in pairwise(at)) <= 4 * num / start


def test_classes_keep_their_shares_and_smaller_shares_lie_in_larger_ones():
    data = scenes([400, 200, 40])
    found = {s: few_labels(data, data.items, s, seed=3) for s in (0.01, 0.1, 0.5, 1.0)}
    assert [len(v) for v in found.values()] == [7, 64, 320, 640]
    keys = [{i.key for i in v} for v in found.values()]
    assert keys[0] < keys[1] < keys[2] < keys[3]
    tenth = Counter(i.label for i in found[0.1])
    assert abs(tenth[0] - 40) <= 3 and abs(tenth[1] - 20) <= 3 and abs(tenth[2] - 4) <= 2
    assert {i.key for i in few_labels(data, data.items, 0.1, seed=4)} != keys[1]


def test_masks_are_stratified_by_the_thirds_that_classes_cover():
    masks = {"none": [0, 0, 0, -1], "some": [0, 0, 0, 1], "much": [1, 1, 1, 0]}
    items = [Item(f"{k}/{i}", "train", {}, about={"mask": v}) for k, v in masks.items() for i in range(40)]

    def read(item):
        return image_sample("rgb", np.zeros((3, 2, 2)), {"mask": np.array(item.about["mask"]).reshape(2, 2)})

    data = Dataset("tiny", "pixel", ("a", "b"), {"rgb": rgb(1.0)}, tuple(items), read, "", "")
    kinds = Counter(i.key.split("/")[0] for i in few_labels(data, items, 0.1, seed=0))
    assert sum(kinds.values()) == 12 and min(kinds[k] for k in masks) >= 3


def test_a_share_out_of_range_is_refused():
    with pytest.raises(InputError, match="above 0"):
        few_labels(scenes([3]), scenes([3]).items, 0.0, seed=0)
