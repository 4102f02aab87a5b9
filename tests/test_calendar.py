"""Day numbers and date rows against hand values: an encoding error becomes part of the weights."""

from datetime import date, timedelta

import numpy as np
import pytest

from skyframe.calendar import DATE_ROWS, DAY_UNKNOWN, DAYS_UNITS, date_of, date_rows, day_of


@pytest.mark.parametrize(
    ("when", "day"),
    [
        (date(2000, 1, 1), 0),
        (date(1999, 12, 31), -1),
        (date(2000, 12, 31), 365),
        (date(2001, 1, 1), 366),
        (date(2020, 2, 29), 7364),
        (date(2024, 7, 1), 8948),
    ],
)
def test_day_numbers_by_hand(when: date, day: int) -> None:
    assert day_of(when) == day and date_of(day) == when


def test_an_unknown_day_has_no_date() -> None:
    with pytest.raises(ValueError, match="DAY_UNKNOWN has no calendar date"):
        date_of(DAY_UNKNOWN)
    assert np.iinfo(np.int32).min == DAY_UNKNOWN and DAYS_UNITS.endswith("2000-01-01")


@pytest.mark.parametrize(
    ("when", "row"),
    [
        (date(2021, 1, 1), 0),
        (date(2021, 3, 1), 59),
        (date(2020, 3, 1), 60),
        (date(2021, 12, 31), 364),
        (date(2020, 12, 31), 365),
        (date(2000, 12, 31), 365),
        (date(1999, 12, 31), 364),
        (date(1970, 1, 1), 0),
        (date(2100, 12, 31), 364),  # 2100 is no leap year
    ],
)
def test_rows_by_hand(when: date, row: int) -> None:
    assert date_rows(np.array([day_of(when)], np.int32)).tolist() == [row]


def test_unknown_days_get_the_null_row() -> None:
    rows = date_rows(np.array([[DAY_UNKNOWN, 0], [31, DAY_UNKNOWN]], np.int32))
    assert rows.tolist() == [[366, 0], [31, 366]] and DATE_ROWS == 367 and rows.dtype == np.int64


def test_rows_equal_the_calendar_over_sixty_years() -> None:
    days = np.arange(-14000, 8000, 7, dtype=np.int32)
    expected = [(date(2000, 1, 1) + timedelta(days=int(d))).timetuple().tm_yday - 1 for d in days]
    assert date_rows(days).tolist() == expected


def test_no_days_give_no_rows() -> None:
    assert date_rows(np.array([], np.int32)).shape == (0,)
