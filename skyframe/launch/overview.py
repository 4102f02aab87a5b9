"""Everything that was launched, as rows of one table: runs, arrays and sweeps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from skyframe.launch.array_status import array_status, is_array
from skyframe.launch.status import Queued, Status, accounted, find_runs, launches, newest_of, status
from skyframe.launch.sweep_status import is_sweep, sweep_status


def statuses(folders: Iterable[Path], queue: list[Queued]) -> list[Status]:
    """How the runs, arrays and sweeps in some folders stand, and all that are in the queue, wherever they lie."""
    places = dict.fromkeys([*find_runs(folders), *(entry.run for entry in queue)])
    waiting = {entry.run for entry in queue}
    ended = accounted(newest_of(launches(place)).get("id", "") for place in places if place not in waiting)
    rows = []
    for place in places:
        own = [entry for entry in queue if entry.run == place]
        if is_sweep(place):
            rows.append(sweep_status(place, queue))
        else:
            rows.append(array_status(place, own) if is_array(place) else status(place, own, ended))
    return rows
