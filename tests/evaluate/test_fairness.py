"""What would spoil a score is refused or warned of: units, scales, normalisers, bands, dates, masks. And what is only
written differently gives the same features."""

import dataclasses

import numpy as np
import pytest

from skyframe.config.evaluate import Suite, TaskConfig
from skyframe.evaluate import task as task_module
from skyframe.evaluate.datasets.dataset import Dataset, Item
from skyframe.evaluate.datasets.imagery import bands, sentinel1, sentinel2
from skyframe.evaluate.feed.fit import fit
from skyframe.evaluate.protocol import Subject
from skyframe.evaluate.suite import evaluate
from skyframe.sample import Sample, Series
from skyframe.spec import InputError, Modality
from tests.evaluate.worlds import S2_BANDS, SeasonEncoder, contract, world_spec

NAMES = tuple(n for n, _ in S2_BANDS)
SIDE, NUM = 8, 60
DAYS = np.array([8010, 8100, 8200], np.int32)


def dataset(s2=None, s1=None, change=lambda sample: sample, num_dates=3):
    """Two classes in reflectance x 10000 and dB, drawn from the statistics that the test encoders expect.

    `change` spoils what is read; `s2` and `s1` say what is claimed of it.
    """
    spec = world_spec()

    def read(item: Item) -> Sample:
        rng = np.random.default_rng(int(item.key))
        series = {}
        for name, m in spec.modalities.items():
            shift = np.zeros(len(m.bands)) + (0.4 if item.label else -0.4)
            drawn = rng.normal(shift[:, None, None], 1.0, (num_dates, len(m.bands), SIDE, SIDE))
            physical = drawn * np.array(m.std)[:, None, None] + np.array(m.mean)[:, None, None]
            values = (physical * 1e4 if name == "s2" else physical).astype(np.float32)
            seen = np.ones((num_dates, SIDE, SIDE), bool)
            series[name] = Series(values, seen, DAYS[:num_dates].copy(), np.ones(len(m.bands), bool))
        return change(Sample(series, np.full(2, np.nan), -1, targets={"class": np.int64(item.label)}))

    parts = ["train"] * 36 + ["val"] * 12 + ["test"] * 12
    items = tuple(Item(str(i), part, {}, i % 2) for i, part in enumerate(parts))
    given = {"s2": s2 or sentinel2(NAMES, many=True, dtype="float32"), "s1": s1 or sentinel1(many=True)}
    return Dataset("made", "scene", ("low", "high"), given, items, read, "by number", "made here")


def scored(monkeypatch, tmp_path, made, **task):
    monkeypatch.setattr(task_module, "open_dataset", lambda name, root: made)
    suite = Suite("f", tasks={"t": TaskConfig("made", **task)}, protocols=("knn",), bootstrap=20)
    return evaluate(suite, [Subject("season", SeasonEncoder(contract()))], tmp_path, False, tmp_path)


def stored(name, function):
    """A change of one modality's stored numbers."""

    def change(sample: Sample) -> Sample:
        s = sample.series[name]
        series = {**sample.series, name: dataclasses.replace(s, values=function(s.values).astype(np.float32))}
        return dataclasses.replace(sample, series=series)

    return change


def dated(function):
    """A change of the days of every modality."""

    def change(sample: Sample) -> Sample:
        series = {n: dataclasses.replace(s, day=function(s.day)) for n, s in sample.series.items()}
        return dataclasses.replace(sample, series=series)

    return change


def test_plausible_input_raises_no_suspicion_and_learns(monkeypatch, tmp_path):
    outcome = scored(monkeypatch, tmp_path, dataset())
    assert not [a for a in outcome.alarms if a.kind == "input"]
    row = next(r for r in outcome.rows if r.encoder == "season" and r.protocol == "knn")
    assert row.value > 0.9 and row.normaliser == "pretraining"
    assert row.source == "made s2>s2:B02+B03+B04+B08 s1>s1:VV+VH, 1 tile(s) of 8 positions"


WARNED = {
    "reflectance as it is, said to be x 10000": dataset(change=stored("s2", lambda v: v * 1e-4)),
    "numbers x 10000, said to be reflectance": dataset(sentinel2(NAMES, many=True, dtype="float32", scale=1.0)),
    "the offset of a processing baseline forgotten": dataset(change=stored("s2", lambda v: v + 1000)),
    "numbers normalised already": dataset(change=stored("s2", lambda v: (v * 1e-4 - 0.1) / 0.05)),
    "bands in another order than said": dataset(change=stored("s2", lambda v: v[:, [3, 2, 1, 0]])),
    "linear power, said to be dB": dataset(change=stored("s1", lambda v: 10 ** (v / 10))),
    "a constant instead of pixels": dataset(change=stored("s2", lambda v: np.full_like(v, 900))),
}


@pytest.mark.parametrize("case", WARNED)
def test_numbers_that_the_network_was_not_trained_on_are_warned_of(case, monkeypatch, tmp_path):
    outcome = scored(monkeypatch, tmp_path, WARNED[case])
    messages = [str(a) for a in outcome.alarms if a.kind == "input"]
    assert len(messages) == 1
    assert "after the normaliser" in messages[0] and "expected about 0 and 1; check units, scale" in messages[0]


FOREIGN = Modality("s2", "series", bands(("a", "b", "c", "d")), 10.0, "reflectance", "float32")
TOP_OF_ATMOSPHERE = sentinel2(NAMES, level="L1C", many=True, dtype="float32")
REFUSED = {
    "dB, said to be linear power": (
        dataset(s1=sentinel1(many=True, units="linear power")),
        {"modalities": ("s1",)},
        "not one valid pixel reached season",
    ),
    "top of the atmosphere as ground": (
        dataset(TOP_OF_ATMOSPHERE),
        {"normalisers": ("pretraining",)},
        "s2 is in top-of-atmosphere reflectance, the encoder's s2 in reflectance, and no exact rule",
    ),
    "other bands altogether": (
        dataset(FOREIGN),
        {"modalities": ("s2",)},
        "made: holds s2 with a, b, c, d.*none of which the encoder takes",
    ),
    "fewer bands than said": (
        dataset(change=stored("s2", lambda v: v[:, :3])),
        {},
        "item 0: s2 has 3 bands, expected 4",
    ),
    "dates out of order": (
        dataset(change=dated(lambda d: d[::-1].copy())),
        {},
        "item 0: dates of s2 are out of order",
    ),
    "days counted from 1970": (
        dataset(change=dated(lambda d: d + 10957)),
        {},
        "item 0: s2 is dated 2051-12-06, expected 1972-07-23 to 2040-01-01; days count from 2000-01-01",
    ),
    "nothing valid": (
        dataset(change=stored("s2", lambda v: v * np.nan)),
        {"modalities": ("s2",)},
        "not one valid pixel reached season",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_contradicts_the_contract_is_refused(case, monkeypatch, tmp_path):
    made, task, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        scored(monkeypatch, tmp_path, made, **task)


def same(first: Sample, second: Sample) -> bool:
    return all(
        np.allclose(first.series[n].values, second.series[n].values, atol=1e-3)
        and (first.series[n].valid == second.series[n].valid).all()
        for n in first.series
    )


def test_what_is_only_written_differently_is_converted_exactly():
    plain = dataset()
    item = plain.items[0]
    wanted = fit(plain, contract())(plain.read(item))
    shuffled = dataset(
        sentinel2(tuple(reversed(NAMES)), many=True, dtype="float32"), change=stored("s2", lambda v: v[:, ::-1])
    )
    offset = dataset(
        sentinel2(NAMES, many=True, dtype="float32", offset_dn=-1000), change=stored("s2", lambda v: v + 1000)
    )
    unit = dataset(sentinel2(NAMES, many=True, dtype="float32", scale=1.0), change=stored("s2", lambda v: v * 1e-4))
    power = dataset(s1=sentinel1(many=True, units="linear power"), change=stored("s1", lambda v: 10 ** (v / 10)))
    amplitude = dataset(
        s1=sentinel1(many=True, units="linear amplitude"), change=stored("s1", lambda v: 10 ** (v / 20))
    )
    for other in (shuffled, offset, unit, power, amplitude):
        assert same(fit(other, contract())(other.read(item)), wanted)


def test_statistics_of_the_data_set_stand_in_where_no_rule_is_exact(monkeypatch, tmp_path):
    made = dataset(
        sentinel2(NAMES, level="L1C", many=True, dtype="float32"), change=stored("s2", lambda v: v * 3 + 500)
    )
    outcome = scored(monkeypatch, tmp_path, made)
    row = next(r for r in outcome.rows if r.encoder == "season" and r.protocol == "knn")
    assert row.normaliser == "dataset" and row.value > 0.9
    assert "s2>s2:B02+B03+B04+B08 by statistics" in row.source
    assert not [a for a in outcome.alarms if a.kind == "input"]
