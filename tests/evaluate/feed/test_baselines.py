import numpy as np
import pytest
import torch

from skyframe.calendar import DAY_UNKNOWN, day_of
from skyframe.evaluate.feed.baselines import RawPixels
from skyframe.sample import Layout, Sample, Series, collate
from skyframe.spec import Band, Modality
from tests.evaluate.worlds import contract


def sensor(name, kind, gsd_m, bands=1):
    return Modality(
        name,
        kind,
        tuple(Band(f"b{i}") for i in range(bands)),
        gsd_m,
        "unit",
        "int16",
        scale=0.1,
        mean=(1.0,) * bands,
        std=(2.0,) * bands,
    )


def one(modality, values, valid, day, layout_dates=None):
    """Features of one sample that holds one modality."""
    c = contract(modalities={modality.name: modality})
    series = Series(
        np.asarray(values, np.int16),
        np.asarray(valid, bool),
        np.asarray(day, np.int32),
        np.ones(len(modality.bands), bool),
    )
    layout = {modality.name: Layout(layout_dates or len(day), len(modality.bands), series.values.shape[-1], "int16")}
    return RawPixels(c).encode(collate([Sample({modality.name: series}, np.zeros(2), -1)], layout))


def test_series_statistics_by_hand():
    from datetime import date

    days = [day_of(date(2021, 1, 10)), day_of(date(2021, 2, 10)), day_of(date(2021, 7, 10)), DAY_UNKNOWN]
    stored = np.array([30, 50, 110, 70])[:, None, None, None]  # physical 3, 5, 11, 7; normalised 1, 2, 5, 3
    features = one(sensor("s", "series", 10.0), stored, np.ones((4, 1, 1)), days)
    mean, std = 11 / 4, np.std([1, 2, 5, 3])
    expected = [
        mean,
        std,
        1.5,
        mean,
        mean,
        5.0,
        mean,
        mean,
    ]  # bins without a date take the mean; an unknown day is in none
    assert features.fused[0, 0].tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(features.pooled[0], features.fused[0, 0])


def test_invalid_pixels_are_never_read():
    valid = np.array([[[1, 0]], [[1, 0]]], bool).repeat(2, 1)  # left column clear, right never
    values = np.full((2, 1, 2, 2), 9999)
    values[:, :, :, 0] = 30
    features = one(sensor("s", "series", 10.0), values, valid, [0, 1])
    assert torch.isfinite(features.fused).all()
    assert features.fused[0, [1, 3]].abs().max() == 0  # nothing seen: the contract's mean
    assert features.pooled[0, 0] == 1.0  # pooled over positions where anything was seen


def test_finer_images_are_summarised_inside_each_position():
    values = np.array([[0, 20, 0, 0], [0, 20, 0, 0], [0, 0, 10, 10], [0, 0, 10, 10]])[None, None]
    features = one(sensor("h", "image", 5.0), values, np.ones((1, 4, 4)), [0])
    assert features.fused.shape == (1, 4, 2)
    assert features.fused[0, :, 0].tolist() == pytest.approx([0.0, -0.5, -0.5, 0.0])
    assert features.fused[0, 0, 1] == pytest.approx(0.5)  # two pixels at -0.5 and two at 0.5


def test_weather_is_repeated_over_positions_and_absent_modalities_are_zero():
    modalities = {"s": sensor("s", "series", 10.0), "w": sensor("w", "weather", 9000.0, 2)}
    c = contract(modalities=modalities)
    weather = Series(
        np.full((3, 2, 1, 1), 30, np.int16), np.ones((3, 1, 1), bool), np.arange(3, dtype=np.int32), np.ones(2, bool)
    )
    layouts = {"s": Layout(2, 1, 4, "int16"), "w": Layout(3, 2, 1, "int16")}
    features = RawPixels(c).encode(collate([Sample({"w": weather}, np.zeros(2), -1)], layouts))
    assert features.fused.shape == (1, 16, 8 + 4)
    assert features.fused[0, :, :8].abs().max() == 0
    assert (features.fused[0, :, 8:10] == 1.0).all()
