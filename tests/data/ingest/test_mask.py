import numpy as np
import pytest

from skyframe.data.ingest.gfmap import SCENE_CLASS_FLAGS
from skyframe.data.ingest.mask import SCENE_CLASSES, Bits, Mask, flags_by
from skyframe.spec import InputError, build

LANDSAT = Mask("BQA", bits={"nodata": (Bits(0),), "cloud": (Bits(4),), "shadow": (Bits(7, 2, 3),)})


def test_scene_classes_are_those_of_the_other_ingester():
    found = flags_by(SCENE_CLASSES, np.arange(12, dtype=np.float32), "a")
    assert found.tolist() == [SCENE_CLASS_FLAGS[c] for c in range(12)] == [0, 0, 3, 3, 1, 1, 1, 1, 2, 2, 2, 1]
    with pytest.raises(InputError, match=r"^a: the mask SCL holds 12, 40, expected classes among 0, 1, 2, "):
        flags_by(SCENE_CLASSES, np.array([12, 40, 4], np.float32), "a")


def test_missing_classes_are_nodata():
    assert flags_by(SCENE_CLASSES, np.array([np.nan, 4], np.float32), "a").tolist() == [0, 1]


def test_landsat_quality_bits_by_hand():
    """2720 clear; 1 fill; 2800 has bit 4 (cloud); 2976 has bits 7 and 8 (shadow, high); 2848 has 8 alone (medium)."""
    values = np.array([2720, 1, 2800, 2976, 2720 - 128 + 256], np.float32)
    assert flags_by(LANDSAT, values, "a").tolist() == [1, 0, 2, 3, 1]


def test_what_is_listed_goes_before_what_is_not():
    mask = Mask("QA", {"cloud": (2,)})
    assert flags_by(mask, np.array([0, 2, 9], np.float32), "a").tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"band": "QA", "classes": {"clouds": [1]}}, "no flag 'clouds', expected some of clear, shadow, cloud, nodata"),
        ({"band": "QA"}, "QA needs either classes or bits"),
        ({"band": "QA", "bits": {"cloud": [{"first": 23, "width": 2}]}}, "2 bits from bit 23"),
    ],
)
def test_masks_that_are_refused(tree, message):
    with pytest.raises(InputError, match=message):
        build(Mask, tree, "a.yaml")
