"""Days: int32 days since 2000-01-01, the null day, and day-of-year rows for the date encoding."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

DAY_ZERO = date(2000, 1, 1)
DAY_UNKNOWN = -(2**31)
DAYS_UNITS = "days since 2000-01-01"
"""CF `units` of every `day` array, so that xarray decodes it to datetimes."""

DATE_ROWS = 367
"""Rows of the date table: 366 days of the year (row 0 = 1 January) and a null row for an unknown date."""


def day_of(when: date) -> int:
    """Days since 2000-01-01 of a calendar date."""
    return (when - DAY_ZERO).days


def date_of(day: int) -> date:
    """Calendar date of a day number; `DAY_UNKNOWN` has none and raises ValueError."""
    if day == DAY_UNKNOWN:
        raise ValueError("DAY_UNKNOWN has no calendar date")
    return DAY_ZERO + timedelta(days=int(day))


def date_rows(days: NDArray[np.int32]) -> NDArray[np.int64]:
    """Row of the date table for each day: day of year - 1 (0..365), or 366 where the day is unknown.

    31 December of a leap year is row 365, so the table needs 366 rows (the published 365-row table overruns there).
    """
    known = days != DAY_UNKNOWN
    stamps = np.datetime64("2000-01-01", "D") + np.where(known, days, 0).astype("timedelta64[D]")
    rows = (stamps - stamps.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64)
    return np.where(known, rows, DATE_ROWS - 1)
