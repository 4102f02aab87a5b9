import pytest
import torch

from skyframe.calendar import DAY_UNKNOWN
from skyframe.evaluate.feed.crops import joined
from skyframe.evaluate.feed.fit import fit
from skyframe.evaluate.heads.dense import feature_maps, fold_dates, mean_of_dates
from skyframe.export.folder import Exported
from skyframe.sample import Batch, Features, SeriesBatch
from skyframe.spec import InputError
from tests.evaluate.toy import Pixels, contract, dataset, spatial, whole


def batch_of(side=8, dates=1, num=2):
    data = dataset("pixel", num=num, side=side, dates=dates)
    fitted = fit(data, contract())
    return joined(fitted, [fitted.read(i) for i in data.part("train")], side)


def test_an_encoder_without_maps_gives_its_fused_positions_in_row_order():
    batch, encoder = batch_of(), Pixels(contract())
    (found,) = feature_maps(encoder, batch, "all")
    assert found.shape == (2, 2, 8, 8)
    assert torch.equal(found[:, :, 3, 5], encoder.encode(batch).fused[:, 3 * 8 + 5])


def test_features_that_are_no_square_are_refused():
    class Odd:
        def encode(self, batch):
            return Features(torch.zeros(2, 5, 3), torch.zeros(2, 3))

    with pytest.raises(InputError, match="5 positions, expected those of a square"):
        feature_maps(Odd(), batch_of())


def test_maps_have_gradients_in_the_module_and_none_in_what_was_exported():
    batch, module = batch_of(), whole()
    assert all(m.requires_grad for m in feature_maps(module, batch, "all"))
    exported = Exported(module, contract(module="model"))
    found = feature_maps(exported, batch, "all")
    assert not any(m.requires_grad for m in found)
    assert torch.equal(found[-1], feature_maps(exported, batch)[0])
    with pytest.raises(InputError, match="has no maps"):
        feature_maps(Exported(module.fusion, contract(module="fusion")), batch)


def test_dates_fold_into_samples_and_their_mean_is_the_encoders_own():
    batch, encoder = batch_of(dates=3), spatial()
    batch.series["s2"].valid[1, 2] = False
    folded, flags = fold_dates(batch)
    assert folded.size == 6 and flags.tolist() == [[True] * 3, [True, True, False]]
    assert torch.equal(folded.series["s2"].values[4, 0], batch.series["s2"].values[1, 1])
    assert folded.series["s2"].day.flatten().tolist() == [8000, 8030, 8060] * 2
    with torch.no_grad():
        alone = mean_of_dates(feature_maps(encoder, folded, "all"), flags)
        for a, b in zip(alone, feature_maps(encoder, batch, "all"), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_a_map_stands_beside_every_date_and_a_short_series_is_padded():
    def series(dates):
        ones = torch.ones(1, dates, 1, 2, 2)
        return SeriesBatch(
            ones, ones[:, :, 0].bool(), torch.full((1, dates), 9, dtype=torch.int32), torch.ones(1, 1).bool()
        )

    zero = torch.zeros(1, dtype=torch.int64)
    batch = Batch({"dem": series(1), "s1": series(2), "s2": series(3)}, torch.zeros(1, 2), zero, zero, zero)
    batch.series["s2"].valid[0, 2] = False
    folded, flags = fold_dates(batch)
    assert {n: s.valid.flatten(1).any(1).tolist() for n, s in folded.series.items()} == {
        "dem": [True] * 3, "s1": [True, True, False], "s2": [True, True, False],
    }  # fmt: skip
    assert flags.tolist() == [[True, True, False]], "a map alone makes no date"
    assert folded.series["s1"].day.flatten().tolist() == [9, 9, DAY_UNKNOWN]
