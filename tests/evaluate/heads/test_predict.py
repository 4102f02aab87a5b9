import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from skyframe.config.heads import HeadSpec
from skyframe.evaluate.feed.fit import fit
from skyframe.evaluate.heads.predict import Trained, measure_items, predict
from skyframe.evaluate.heads.predictor import Predictor
from skyframe.evaluate.measures.measure import value_of
from tests.evaluate.toy import Pixels, contract, dataset


class Same(nn.Module):
    """A head that says what it is given."""

    def forward(self, maps, size=0, drop=None):
        return maps[0] if isinstance(maps, list) else maps


def trained(data, side=8, overlap=0.5, batch=3, scale=None):
    dense = data.kind == "pixel" or data.items[0].about["kind"] == "map"
    predictor = Predictor(Pixels(contract()), Same(), data.kind, HeadSpec("token_linear"), dense, "s2")
    fitted = fit(data, contract())
    return Trained(predictor, fitted, fitted.read, side, overlap, batch, scale)


def test_windows_of_many_items_go_together_and_come_back_in_order():
    data = dataset("pixel", num=8, side=13)
    made = trained(data)
    for item, mask, answer in predict(made, data.part("val")):
        truth = data.read(item)
        assert np.array_equal(mask, truth.targets["mask"])
        want = (truth.series["s2"].values[0] * 1e-4 - [[[0.1]], [[0.3]]]) / [[[0.05]], [[0.2]]]
        np.testing.assert_allclose(answer, want, atol=1e-4)
    alone = [a for _, _, a in predict(dataclasses.replace(made, batch=1), data.part("val"))]
    together = [a for _, _, a in predict(made, data.part("val"))]
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(alone, together, strict=True))


def test_windows_of_a_whole_image_are_averaged_and_numbers_get_their_units_back():
    data = dataset("regression", side=16)
    scale = np.float32([100.0, 0.0]), np.float32([10.0, 1.0])
    plain, scaled = (
        [a for _, _, a in predict(trained(data, overlap=0.0, scale=s), data.part("val"))] for s in (None, scale)
    )
    whole = [a for _, _, a in predict(trained(data, side=16), data.part("val"))]
    np.testing.assert_allclose(plain, whole, atol=1e-5)
    np.testing.assert_allclose(scaled, np.stack(plain) * [10, 1] + [100, 0], rtol=1e-5)
    made = trained(data, scale=scale)
    assert np.allclose(made.numbers(made.standardised(np.float32([120, 3]))), [120, 3])


def test_items_of_one_cluster_count_as_one():
    data = dataset("pixel", num=8)
    items = [dataclasses.replace(i, cluster=f"scene{n // 2}") for n, i in enumerate(data.part("val"))]
    found = measure_items(trained(data), items)
    assert found.num_clusters == 2 and found.num_units == 4 * 12 * 12
    hits = []
    for item in items:
        sample = data.read(item)
        bright = (sample.series["s2"].values[0, 1] - 3000) / 2000 > (sample.series["s2"].values[0, 0] - 1000) / 500
        hits.append((bright == sample.targets["mask"]).mean())
    assert value_of(found, "accuracy") == pytest.approx(np.mean(hits))


def test_maps_of_numbers_are_scored_pixel_by_pixel():
    data = dataset("map", num=4)
    scale = np.float32([100.0]), np.float32([50.0])
    made = trained(data, scale=scale)
    made.predictor.head.forward = lambda maps, size, drop=None: maps[0][:, 1:]
    found = measure_items(made, data.part("val"))
    assert found.num_units == 2 * 12 * 12 and found.num_clusters == 2
    errors = [a - t for _, t, a in predict(made, data.part("val"))]
    assert value_of(found, "rmse") == pytest.approx(float(np.sqrt(np.mean(np.square(errors)))), rel=1e-5)
    assert torch.is_grad_enabled()
