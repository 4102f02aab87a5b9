"""Dates and relative orbits from the names of Sentinel products."""

from __future__ import annotations

import re
from datetime import date

from skyframe.calendar import day_of
from skyframe.spec import InputError

OFFSET_BASELINE = 400
"""From processing baseline 04.00 on, Level-2A digital numbers carry +1000; no such file of this source is known."""


def acquisition(product: str, where: str) -> tuple[int, str, int]:
    """Day, sensing time (HHMMSS) and relative orbit of a Sentinel product name.

    Sentinel-2 names its relative orbit (`R065`). Sentinel-1 names the absolute one, from which it follows:
    (absolute - 73) mod 175 + 1 for S1A, (absolute - 27) mod 175 + 1 for S1B.

    Raises:
        InputError: another name, a Sentinel-2 baseline whose digital numbers carry an offset, or an impossible date.
    """
    optical = re.match(r"S2[A-D]_MSIL2A_(\d{8})T?(\d{6})_N(\d{4})_R(\d{3})_", product)
    radar = re.match(r"S1([AB])_\w\w_GRD\w_\w{4}_(\d{8})T(\d{6})_\d{8}T\d{6}_(\d{6})_", product)
    if optical:
        stamp, clock, baseline, orbit = optical[1], optical[2], int(optical[3]), int(optical[4])
        if baseline >= OFFSET_BASELINE:
            raise InputError(
                f"{where}: {product} is of baseline {baseline / 100:05.2f}, expected one below 04.00: later "
                "ones add 1000 to every value; subtract the offset and rename the product, or leave the date out"
            )
    elif radar:
        stamp, clock = radar[2], radar[3]
        orbit = (int(radar[4]) - {"A": 73, "B": 27}[radar[1]]) % 175 + 1
    else:
        raise InputError(
            f"{where}: {product!r} is not a Sentinel-1 GRD or Sentinel-2 L2A product name, so its date is "
            "unknown; repair the file"
        )
    try:
        day = day_of(date(int(stamp[:4]), int(stamp[4:6]), int(stamp[6:])))
    except ValueError as error:
        raise InputError(
            f"{where}: {product} has the date {stamp}, expected a day of the calendar; repair the file"
        ) from error
    return day, clock, orbit
