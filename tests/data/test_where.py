"""Conditions: what they choose, worked out by hand, and each kind of mistake as one sentence."""

import numpy as np
import pytest

from skyframe.data.where import Columns, read_where
from skyframe.spec import InputError

VALUES = {
    "cloud": np.array([0.1, 0.5, np.nan, 0.9]),
    "year": np.array([2021.0, 2022.0, 2023.0, 2023.0]),
    "source": np.array(["a", "b", "a", "c"], dtype=object),
    "s2.dates": np.array([10.0, 20.0, np.nan, 5.0]),
}
COLUMNS = Columns(
    names=list(VALUES),
    modalities=["s2", "s1"],
    labels=["crop_type"],
    fetch=VALUES.__getitem__,
    has=lambda name: np.array([True, True, False, True]) if name == "s2" else np.zeros(4, bool),
    labelled=lambda name: np.array([False, True, True, False]),
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("cloud < 0.3", [0]),
        ("cloud >= 0.5 and year == 2023", [3]),
        ("cloud < 0.3 or year > 2022", [0, 2, 3]),
        ("not cloud < 0.3", [1, 2, 3]),  # the third is not known to be clear
        ("cloud != 0.5", [0, 3]),
        ("0.2 < cloud < 0.95", [1, 3]),
        ("0.05 < 0.1 <= cloud", [0, 1, 3]),
        ("year in [2021, 2022]", [0, 1]),
        ("cloud not in (0.1, -1)", [1, 3]),
        ("source in ['a', 'c'] and not source == 'c'", [0, 2]),
        ("source != 'a'", [1, 3]),
        ("s2.dates >= 10", [0, 1]),
        ("s2.dates > -5", [0, 1, 3]),
        ("has('s2') and not has('s1')", [0, 1, 3]),
        ("labelled('crop_type')", [1, 2]),
    ],
)
def test_conditions_choose_rows(text, rows):
    assert np.flatnonzero(read_where(text).rows(COLUMNS)).tolist() == rows


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("clouds < 0.3", "no column 'clouds' in 'clouds < 0.3'.*did you mean 'cloud'"),
        ("s2.date > 3", "no column 's2.date'.*did you mean 's2.dates'"),
        ("s2 == 1", r"no column 's2'.*write has\('s2'\) for a modality"),
        ("has('s3')", "no modality 's3'.*the catalogue has s2, s1; correct the name"),
        ("labelled('crops')", "no label 'crops'.*the catalogue has crop_type"),
        ("year == '2023'", "compares year with '2023', text with a number"),
        ("source in ['a', 2]", r"compares source with \['a', 2\], text with a number"),
        ("source < 3", "compares source with 3"),
        ("cloud", "'cloud' in 'cloud' is not allowed, expected a comparison"),
        ("cloud <", "is no condition, expected one such as"),
        ("", "is no condition"),
        ("1 < 2", "expected a column on one side"),
        ("cloud + 1 < 2", "is not allowed, expected"),
        ("cloud in 'abc'", r"expected column in \['a', 'b'\]"),
        ("cloud is None", "is not allowed"),
        ("has(s2)", r"expected has\('s1'\)"),
        ("__import__('os').system('true') == 0", "is not allowed"),
        ("open('x') == 1", "is not allowed"),
        ("[c for c in cloud]", "is not allowed"),
        ("cloud < True", "is not allowed"),
        ("(" * 500 + "cloud < 1" + ")" * 500, "is no condition"),
    ],
)
def test_mistakes_are_one_sentence(text, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        read_where(text).rows(COLUMNS)
    assert "\n" not in str(error.value)
