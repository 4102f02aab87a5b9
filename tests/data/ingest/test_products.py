import pytest

from skyframe.calendar import date_of
from skyframe.data.ingest.products import acquisition
from skyframe.spec import InputError


@pytest.mark.parametrize(
    ("product", "day", "clock", "orbit"),
    [
        ("S2A_MSIL2A_20200102T102421_N0213_R065_T32UNC_20200102T115419", "2020-01-02", "102421", 65),
        # absolute orbit 30639: (30639 - 73) mod 175 + 1 = 117; 19692: (19692 - 27) mod 175 + 1 = 66
        ("S1A_IW_GRDH_1SDV_20200103T170841_20200103T170906_030639_0382D5_360A", "2020-01-03", "170841", 117),
        ("S1B_IW_GRDH_1SDV_20200106T053252_20200106T053317_019692_025399_6B7A", "2020-01-06", "053252", 66),
    ],
)
def test_day_time_and_relative_orbit_by_hand(product, day, clock, orbit):
    found = acquisition(product, "a.h5")
    assert (date_of(found[0]).isoformat(), *found[1:]) == (day, clock, orbit)


@pytest.mark.parametrize(
    ("product", "message"),
    [
        (
            "S2A_MSIL2A_20230102T102421_N0509_R065_T32UNC_20230102T115419",
            r"a\.h5: .* baseline 05\.09, expected one below 04\.00",
        ),
        (
            "S2A_MSIL2A_20200231T102421_N0213_R065_T32UNC_20200102T115419",
            "has the date 20200231, expected a day of the calendar",
        ),
        ("image_0001", "a.h5: 'image_0001' is not a Sentinel-1 GRD or Sentinel-2 L2A product name"),
    ],
)
def test_names_that_are_refused(product, message):
    with pytest.raises(InputError, match=message):
        acquisition(product, "a.h5")
