import dataclasses

import pytest
import torch
from torch import nn

from skyframe.config.heads import HeadSpec
from skyframe.evaluate.feed.crops import joined
from skyframe.evaluate.feed.fit import fit
from skyframe.evaluate.heads.predictor import Predictor, _distance, _hidden
from skyframe.randomness import Draw
from tests.evaluate.toy import Pixels, contract, dataset, spatial


def batch_of(kind, dates, side=8):
    data = dataset(kind, num=2, side=side, dates=dates)
    fitted = fit(data, contract())
    return joined(fitted, [fitted.read(i) for i in data.part("train")], side)


def predictor(kind, encoder=None, **spec):
    dense = kind not in ("scene", "multilabel", "regression")
    made = HeadSpec("token_linear", **spec)
    return Predictor(encoder or Pixels(contract()), nn.Identity(), kind, made, dense, "s2")


def test_losses_by_hand():
    log_odds = torch.tensor([[[[0.0, 5.0]], [[2.0, 5.0]]]])  # [B, C, H, W] of 1 x 2 pixels
    mask = torch.tensor([[[1, -1]]])
    assert float(_distance("pixel", log_odds, mask)) == pytest.approx(torch.log1p(torch.tensor(2.0).neg().exp()).item())
    assert float(_distance("pixel", log_odds, torch.full_like(mask, -1))) == 0
    assert float(_distance("scene", torch.zeros(2, 4), torch.tensor([1, 3]))) == pytest.approx(1.386294)
    assert float(_distance("multilabel", torch.zeros(1, 3), torch.tensor([[True, False, True]]))) == pytest.approx(
        0.693147
    )
    numbers = torch.tensor([[1.0, torch.nan], [4.0, 2.0]])
    assert float(_distance("regression", torch.tensor([[2.0, 9.0], [4.0, 5.0]]), numbers)) == pytest.approx(10 / 3)


def test_features_without_a_label_are_hidden_only_where_they_are_not_finite():
    maps = torch.tensor([[[[1.0, torch.nan], [torch.nan, torch.inf]]]])
    labelled = torch.zeros(1, 4, 4, dtype=torch.bool)
    labelled[0, 1, 3] = True  # in the second position
    found = _hidden(maps, labelled)[0, 0]
    assert found[0, 0] == 1 and found[0, 1].isnan() and found[1].tolist() == [0, 0]


def test_two_dates_are_set_side_by_side_or_subtracted():
    batch, encoder = batch_of("change", 2), Pixels(contract())
    before, after = (
        encoder.encode(dataclasses.replace(batch, series={"s2": _date(batch.series["s2"], t)})).fused for t in (0, 1)
    )
    (both,) = predictor("change").features(batch)
    torch.testing.assert_close(both.flatten(2).transpose(1, 2), torch.cat([before, after], -1))
    (apart,) = predictor("change", change="difference").features(batch)
    torch.testing.assert_close(apart.flatten(2).transpose(1, 2), after - before)


def _date(series, t):
    return type(series)(series.values[:, t : t + 1], series.valid[:, t : t + 1], series.day[:, t : t + 1], series.bands)


def test_the_mean_over_dates_is_that_of_an_encoder_which_takes_it_itself():
    batch = batch_of("pixel", 3)
    for kind in ("pixel", "scene"):
        for encoder in (Pixels(contract()), spatial()):
            with torch.no_grad():
                (alone,) = predictor(kind, encoder, dates="mean").features(batch)
                (joint,) = predictor(kind, encoder).features(batch)
            torch.testing.assert_close(alone, joint, atol=1e-5, rtol=0)


def test_every_date_of_a_semantic_change_is_answered_for():
    made = predictor("semantic_change")
    made.head = nn.Module()
    made.head.forward = lambda maps, size, drop=None: maps[0]
    batch = batch_of("semantic_change", 3)
    found = made.answer(made.features(batch), 8, 2)
    assert found.shape == (2, 3, 2, 8, 8) and not found.requires_grad
    loss = made.loss(batch, 8, False, Draw(0, batch.index))
    each = torch.nn.functional.cross_entropy(found.transpose(1, 2), batch.targets["masks"])
    assert float(loss) == pytest.approx(float(each), rel=1e-6)
