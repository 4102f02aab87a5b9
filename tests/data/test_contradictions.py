"""Cubes and statistics made to contradict their spec."""

import dataclasses
import re

import numpy as np
import pytest

from skyframe.data.contradictions import contradictions
from skyframe.data.cube import open_cube
from skyframe.data.statistics import measure
from skyframe.data.write import CubeWriter
from skyframe.randomness import generator
from skyframe.spec import Band, CubeSpec, Grid, Modality
from tests.data.cubes import write_modality

MEAN, STD = (0.08, 0.11, 0.30), (0.03, 0.03, 0.08)
S2 = Modality(
    "s2", "series", (Band("B02"), Band("B04"), Band("B08")), 10.0, "reflectance", "float32", mean=MEAN, std=STD
)


def sentences(tmp_path, modality, values):
    """What is said about a cube of `values` `[C, pixels]` under a spec of one modality."""
    spec = CubeSpec("made", "to contradict", {modality.name: modality})
    side = int(np.sqrt(values.shape[1]))
    writer = CubeWriter(tmp_path / "made.zarr", spec, Grid("EPSG:32631", 0.0, 0.0, side * 10.0, side * 10.0), {})
    block = values.reshape(1, len(values), side, side).astype(modality.dtype)
    write_modality(writer, modality.name, np.array([8000], np.int32), block, np.ones((1, side, side), np.uint8))
    return contradictions(spec, measure([open_cube(writer.finish())], spec))


def drawn(means=MEAN, stds=STD, pixels=64 * 64):
    return generator(0, "contradictions").normal(
        np.reshape(means, (-1, 1)), np.reshape(stds, (-1, 1)), (len(means), pixels)
    )


def test_agreement_is_silent(tmp_path):
    assert sentences(tmp_path, S2, drawn()) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (drawn() * 1e-4, "the median is .* as of values 0-1 read as 0-10000; correct scale or units"),
        (drawn() * 1e4, "the median is .* as of values 0-10000 read as 0-1"),
        (drawn((0.10, 0.10, 0.30)), None),  # between the two: no verdict on their order
        (drawn((0.30, 0.11, 0.08)), "B02 looks like B08, B08 looks like B02 by the declared means"),
        (drawn((0.12, 0.11, 0.30)), r"s2: measured mean \+- std differ from the spec's in B02 0.1199"),
        (
            drawn(stds=(0.09, 0.03, 0.08)),
            r"in B02 0.07959.* \(declared 0.08 \+- 0.03\), expected a mean within 0.5 std",
        ),
        (drawn(stds=(0.005, 0.03, 0.08)), "a std of 1/4 to 2 times the declared"),
        (np.minimum(drawn(), [[1.0], [0.13], [1.0]]), "B04: .*% of the clear pixels hold just the highest value 0.13"),
        (
            drawn() * [[0.0], [1.0], [1.0]] + [[0.08], [0.0], [0.0]],
            "B02: every clear pixel holds 0.08; a constant band",
        ),
    ],
)
def test_reflectance_that_contradicts(tmp_path, values, words):
    said = sentences(tmp_path, S2, values)
    if words is None:
        assert not [s for s in said if "looks like" in s]
        return
    assert len(said) == 1 and "\n" not in said[0]
    assert re.search(words, said[0]), said[0]


def test_decibels_against_linear_power(tmp_path):
    radar = Modality("s1", "series", (Band("VV"), Band("VH")), 10.0, "dB", "float32")
    linear = 10 ** (drawn((-11.0, -18.0), (2.0, 2.0)) / 10)
    (said,) = sentences(tmp_path / "a", radar, linear)
    assert "units dB but hardly a value is below 0" in said
    assert sentences(tmp_path / "b", radar, drawn((-11.0, -18.0), (2.0, 2.0))) == []
    power = dataclasses.replace(radar, units="linear power")
    (said,) = sentences(tmp_path / "c", power, drawn((-11.0, -18.0), (2.0, 2.0)))
    assert "units linear power but values fall to -" in said


def test_classes_are_no_saturation(tmp_path):
    classes = Modality("scl", "series", (Band("SCL"),), 10.0, "class", "uint8")
    assert sentences(tmp_path, classes, np.resize(np.arange(12), (1, 4096))) == []


@pytest.fixture(autouse=True)
def _folders(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
