import pytest

from skyframe.data.ingest.query import LayerQuery
from skyframe.data.ingest.reflectance import baseline_of, scale_and_offset
from skyframe.spec import InputError

OLD, NEW = {"s2:processing_baseline": "03.01"}, {"s2:processing_baseline": "05.09"}
APPLIED = {"earthsearch:boa_offset_applied": True}


@pytest.mark.parametrize(
    ("properties", "bands", "offset"),
    [
        (OLD, {}, 0.0),
        (NEW, {}, -0.1),
        ({"s2:processing_baseline": "04.00"}, {}, -0.1),
        (NEW, {"scale": 1e-4, "offset": -0.1}, -0.1),
        ({}, {"scale": 1e-4, "offset": -0.1}, -0.1),
        (NEW | APPLIED, {"scale": 1e-4, "offset": -0.1}, 0.0),  # as Earth Search says it: the pixels' state goes first
        (NEW | {"earthsearch:boa_offset_applied": False}, {"offset": -0.1}, -0.1),
        ({"s2:product_uri": "S2B_MSIL2A_20250302T095029_N0511_R079_T33UXP_20250302T104753.SAFE"}, {}, -0.1),
        ({"s2:product_uri": "S2A_MSIL2A_20200102T102421_N0213_R065_T32UNC_20200102T115419"}, {}, 0.0),
    ],
)
def test_offset_of_sentinel_2(properties, bands, offset):
    scale, found = scale_and_offset("a", properties, bands, LayerQuery(), True)
    assert scale == 1e-4 and found == pytest.approx(offset, abs=1e-12)


def test_the_query_goes_first():
    assert scale_and_offset("a", NEW, {"offset": -0.1}, LayerQuery(boa_offset=0.0), True) == (1e-4, 0.0)
    assert scale_and_offset("a", {}, {}, LayerQuery(boa_offset=-1000.0), True)[1] == pytest.approx(-0.1)
    assert scale_and_offset("a", {}, {}, LayerQuery(scale=2.0, offset=1.0), True) == (2.0, 1.0)


def test_other_bands_keep_what_is_declared():
    assert scale_and_offset("a", NEW, {}, LayerQuery(), False) == (1.0, 0.0)
    assert scale_and_offset("a", NEW, {"scale": 0.5, "offset": 3}, LayerQuery(), False) == (0.5, 3.0)


def test_what_cannot_be_known_is_refused():
    with pytest.raises(
        InputError, match=r"^a: says neither its processing baseline nor a band offset.*give boa_offset"
    ):
        scale_and_offset("a", {}, {}, LayerQuery(), True)
    with pytest.raises(InputError, match=r"declares a band offset of 0 but baseline 05\.09, which has -1000"):
        scale_and_offset("a", NEW, {"offset": 0.0}, LayerQuery(), True)


def test_baseline_by_hand():
    assert baseline_of(NEW) == "05.09" and baseline_of({}) == "" and baseline_of({"s2:product_uri": "odd"}) == ""
