import dataclasses

import numpy as np
import pytest
import torch

from skyframe.config.heads import HeadSpec, HeadTraining
from skyframe.evaluate.feed.fit import fit
from skyframe.evaluate.heads.predict import measure_items, predict
from skyframe.evaluate.heads.train import train_head
from skyframe.evaluate.measures.measure import value_of
from skyframe.export.folder import Exported
from skyframe.spec import InputError
from tests.evaluate.toy import SIDE, Pixels, contract, dataset, parts, spatial, whole

QUICK = HeadTraining(HeadSpec("token_linear"), lr=0.05, weight_decay=0.0, epochs=6, batch=4, schedule="constant")


def trained_on(kind, config=QUICK, encoder=None, seed=0, **of_data):
    data = dataset(kind, **of_data)
    return train_head(encoder or Pixels(contract()), fit(data, contract()), parts(data), config, seed), data


@pytest.mark.parametrize(
    ("kind", "metric", "least"),
    [("pixel", "miou", 0.9), ("scene", "accuracy", 0.99), ("multilabel", "macro_f1", 0.9), ("regression", "r2", 0.8),
     ("map", "r2", 0.8), ("semantic_change", "scs", 0.8)],
)  # fmt: skip
def test_a_head_learns_what_follows_a_band(kind, metric, least):
    found, data = trained_on(
        kind, dataclasses.replace(QUICK, side=SIDE, epochs=20, lr=0.1), dates=2 if kind == "semantic_change" else 1
    )
    assert value_of(measure_items(found, data.part("test")), metric) > least
    assert len(found.history) == 20 and found.history[-1]["loss"] < found.history[0]["loss"]


@pytest.mark.parametrize("how", ["concat", "difference"])
def test_two_dates_tell_a_change(how):
    spec = HeadSpec("fcn", channels=16, change=how, dropout=0.0)
    config = dataclasses.replace(QUICK, head=spec, lr=0.01, epochs=12)
    found, data = trained_on("change", config, dates=2)
    assert value_of(measure_items(found, data.part("test")), "f1") > 0.8
    with pytest.raises(InputError, match="items of 3 dates, expected two"):
        trained_on("change", config, dates=3)


def test_windows_of_a_point_wise_head_are_the_whole_image():
    found, data = trained_on("pixel", side=20)
    assert found.side == 8
    for overlap in (0.0, 0.5):
        tiled = dataclasses.replace(found, overlap=overlap)
        at_once = dataclasses.replace(found, side=20)
        for (_, mask, a), (_, _, b) in zip(
            predict(tiled, data.part("val")), predict(at_once, data.part("val")), strict=True
        ):
            assert a.shape == b.shape == (2, 20, 20) == (2, *mask.shape)
            np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("side", [6, 21])
def test_images_smaller_and_larger_than_a_window(side):
    config = dataclasses.replace(QUICK, head=HeadSpec("upernet", channels=8), lr=0.01, epochs=1)
    found, data = trained_on("pixel", config, Exported(spatial(), contract()), num=4, side=side)
    answers = [a for _, _, a in predict(found, data.part("test"))]
    assert all(a.shape == (2, side, side) and np.isfinite(a).all() for a in answers)


def test_a_frozen_encoder_keeps_its_weights_and_a_tunable_one_is_copied():
    encoder = Exported(spatial(), contract())
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    spec = HeadSpec("upernet", channels=8)
    frozen = dataclasses.replace(QUICK, head=spec, epochs=1)
    found, _ = trained_on("pixel", frozen, encoder, num=4)
    assert found.predictor.encoder is encoder
    tunable = dataclasses.replace(frozen, encoder="tunable", lr=1e-3, layer_decay=0.9)
    tuned, _ = trained_on("pixel", tunable, encoder, num=4)
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    moved = tuned.predictor.encoder.state_dict()
    assert all(not torch.equal(before[f"module.{k}"], v) for k, v in moved.items() if k.endswith("weight"))
    assert not any(p.requires_grad for p in tuned.predictor.encoder.parameters())


def test_only_what_is_named_trains_and_only_after_the_frozen_epochs():
    encoder = Exported(whole(), contract(module="model"))
    before = {k: v.clone() for k, v in encoder.module.state_dict().items()}
    config = dataclasses.replace(
        QUICK, head=HeadSpec("token_linear"), encoder="frozen_first", tunable=("fusion",), frozen_share=0.5, epochs=2
    )
    still, _ = trained_on("pixel", dataclasses.replace(config, iterations=1), encoder, num=8)
    assert all(torch.equal(before[k], v) for k, v in still.predictor.encoder.state_dict().items())
    data = dataset("pixel", num=8)
    only_train = {"train": data.part("train")}
    moved = train_head(encoder, fit(data, contract()), only_train, config).predictor.encoder.state_dict()
    changed = {k.split(".")[0] for k, v in moved.items() if not torch.equal(before[k], v)}
    assert changed == {"fusion"}


SPEC = HeadSpec("upernet", channels=8, dropout=0.3, auxiliary=0.4, auxiliary_channels=8)
LONGER = HeadTraining(SPEC, lr=1e-3, epochs=3, batch=4, schedule="cosine", warmup=0.2)


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(LONGER, encoder="tunable", scale=(0.8, 1.5)),
        dataclasses.replace(LONGER, flips=False, side=SIDE),
    ],
    ids=["tunable", "frozen"],
)
def test_two_runs_are_equal_to_the_bit_and_one_that_was_cut_off_goes_on(config, tmp_path, monkeypatch):
    encoder = Exported(spatial(), contract())
    first, _ = trained_on("pixel", config, encoder, num=6)
    second, data = trained_on("pixel", config, encoder, num=6)
    assert first.history == second.history
    states = [t.predictor.head.state_dict() for t in (first, second)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])

    from skyframe.evaluate.heads import train as module

    whole_epoch = module._Run.one_epoch

    def breaks(run, bar, task):
        if run.epoch == 2:
            raise KeyboardInterrupt
        whole_epoch(run, bar, task)

    monkeypatch.setattr(module._Run, "one_epoch", breaks)
    call = (encoder, fit(data, contract()), parts(data), config, 0, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train_head(*call)
    monkeypatch.setattr(module._Run, "one_epoch", whole_epoch)
    resumed = train_head(*call)
    assert resumed.history == first.history and resumed.chosen == first.chosen
    state = resumed.predictor.head.state_dict()
    assert all(torch.equal(states[0][k], state[k]) for k in state)
    assert [p.suffix for p in tmp_path.iterdir()] == [".pt"]


def test_a_state_is_not_taken_for_that_of_items_which_are_read_otherwise(tmp_path):
    data = dataset("pixel", num=4, dates=2)
    fitted = fit(data, contract())

    def first_date(item):
        sample = fitted.read(item)
        s = sample.series["s2"]
        kept = dataclasses.replace(s, values=s.values[:1], valid=s.valid[:1], day=s.day[:1])
        return dataclasses.replace(sample, series={"s2": kept})

    config = dataclasses.replace(QUICK, epochs=1)
    for read in (None, first_date, None):
        train_head(Pixels(contract()), fitted, parts(data), config, folder=tmp_path, read=read)
    assert len(list(tmp_path.iterdir())) == 2


class Counting(Pixels):
    """Counts the samples that it is given."""

    samples = 0

    def encode(self, batch):
        self.samples += batch.size
        return super().encode(batch)


def test_a_frozen_encoder_sees_what_never_changes_once(monkeypatch):
    config = dataclasses.replace(QUICK, side=SIDE, flips=False)
    once, _ = trained_on("pixel", config, Counting(contract()), num=6)
    assert once.predictor.encoder.samples == 1 + 6 + 3, "to learn the shape, training items, validation items"
    for where in ("skyframe.evaluate.heads.train", "skyframe.evaluate.heads.predict"):
        monkeypatch.setattr(f"{where}.KEPT_FEATURES", 0)
    anew, _ = trained_on("pixel", config, Counting(contract()), num=6)
    assert anew.predictor.encoder.samples == 1 + 4 + 6 * (6 + 3), "four before it is found that memory lacks"
    assert [r["loss"] for r in anew.history] == pytest.approx([r["loss"] for r in once.history], rel=1e-5)
    drawn, _ = trained_on("pixel", dataclasses.replace(config, side=8), Counting(contract()), num=6)
    assert drawn.predictor.encoder.samples == 1 + 6 * (6 + 3 * 4), "crops differ, and an image has four windows"


def test_nan_features_where_nothing_is_labelled_do_not_matter():
    data = dataset("pixel", num=4)
    fitted = fit(data, contract())

    class Holes(Pixels):
        def encode(self, batch):
            found = super().encode(batch)
            found.fused[:, 0] = torch.nan
            return found

    def read(item):
        sample = fitted.read(item)
        mask = np.full_like(sample.targets["mask"], -1)
        mask[4:, 4:] = sample.targets["mask"][4:, 4:]
        return dataclasses.replace(sample, targets={"mask": mask})

    config = dataclasses.replace(QUICK, side=SIDE, flips=False, epochs=2)
    found = train_head(Holes(contract()), fitted, parts(data), config, read=read)
    assert all(p.isfinite().all() for p in found.predictor.head.parameters())
    plain = train_head(Pixels(contract()), fitted, parts(data), config, read=read)
    assert [r["loss"] for r in found.history] == pytest.approx([r["loss"] for r in plain.history])
    with pytest.raises(InputError, match="loss of step 0 is not finite"):
        train_head(Holes(contract()), fitted, parts(data), config)


def test_the_best_epoch_on_validation_is_kept():
    found, data = trained_on("pixel", dataclasses.replace(QUICK, lr=0.3, schedule="plateau"))
    scores = [r["miou"] for r in found.history]
    assert found.chosen == f"epoch={scores.index(max(scores)) + 1} miou={max(scores):.4f}"
    again = dataclasses.replace(found, overlap=0.0)
    assert value_of(measure_items(again, data.part("val")), "miou") == pytest.approx(max(scores))
    lowest, _ = trained_on("regression", dataclasses.replace(QUICK, epochs=3))
    assert f"rmse={min(r['rmse'] for r in lowest.history):.4f}" in lowest.chosen


class Blind(Pixels):
    """An encoder that never gives gradients."""

    @torch.no_grad()
    def encode(self, batch):
        return super().encode(batch)


def test_what_cannot_be_trained_is_refused(tmp_path):
    data = dataset("pixel", num=4)
    fitted = fit(data, contract())
    with pytest.raises(InputError, match="no training item"):
        train_head(Pixels(contract()), fitted, {"train": []}, QUICK)
    with pytest.raises(InputError, match="has no weights to train"):
        train_head(object(), fitted, parts(data), dataclasses.replace(QUICK, encoder="tunable"))
    with pytest.raises(InputError, match="no gradient reaches the encoder"):
        train_head(Blind(contract()), fitted, parts(data), dataclasses.replace(QUICK, encoder="tunable"))
    config = dataclasses.replace(QUICK, epochs=1)
    train_head(Pixels(contract()), fitted, parts(data), config, folder=tmp_path)
    next(tmp_path.iterdir()).write_bytes(b"torn")
    with pytest.raises(InputError, match="delete the file and train again"):
        train_head(Pixels(contract()), fitted, parts(data), config, folder=tmp_path)
