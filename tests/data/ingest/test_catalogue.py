from datetime import UTC, datetime

import pytest

from skyframe.data.ingest.catalogue import fits, when_of
from skyframe.data.ingest.query import LayerQuery
from skyframe.spec import InputError

FIRST, LAST = datetime(2021, 1, 1, tzinfo=UTC), datetime(2022, 1, 1, tzinfo=UTC)
HERE = (5.0, 50.0, 6.0, 51.0)


def item(box=HERE, when="2021-06-01T10:00:00Z", **properties):
    return {"id": "a", "bbox": list(box), "properties": {"datetime": when} | properties}


def test_sensing_times():
    assert when_of(item(when="2021-06-01T12:00:00+02:00")) == datetime(2021, 6, 1, 10, tzinfo=UTC)
    spans = {"properties": {"datetime": None, "start_datetime": "2021-06-01T00:00:00"}}
    assert when_of(spans) == datetime(2021, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("found", "layer", "expected"),
    [
        (item(), LayerQuery(), True),
        (item((6.1, 50, 7, 51)), LayerQuery(), False),
        (item((5, 50, 0, 6, 51, 900)), LayerQuery(), True),  # with heights
        (item((179, 50, -179, 51)), LayerQuery(), True),  # across the antimeridian: rather opened than lost
        (item(when="2022-01-01T00:00:00Z"), LayerQuery(), False),
        (item(**{"eo:cloud_cover": 61.0}), LayerQuery(max_cloud=60), False),
        (item(**{"eo:cloud_cover": 60.0}), LayerQuery(max_cloud=60), True),
        (item(**{"sat:orbit_state": "descending"}), LayerQuery(filter={"sat:orbit_state": "ascending"}), False),
    ],
)
def test_which_items_fit(found, layer, expected):
    assert fits(found, layer, HERE, FIRST, LAST) is expected


def test_clouds_that_no_item_tells():
    with pytest.raises(InputError, match="a: has no eo:cloud_cover"):
        fits(item(), LayerQuery(max_cloud=60), HERE, FIRST, LAST)
