"""Everything that was launched, as rows of one table: runs and arrays."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from skyframe.launch.array_status import array_status, is_array
from skyframe.launch.status import Queued, Status, find_runs, status


def statuses(folders: Iterable[Path], queue: list[Queued]) -> list[Status]:
    """How the runs and arrays in some folders stand, and all that are in the queue, wherever they lie."""
    places = dict.fromkeys([*find_runs(folders), *(entry.run for entry in queue)])
    rows = []
    for place in places:
        own = [entry for entry in queue if entry.run == place]
        rows.append(array_status(place, own) if is_array(place) else status(place, own))
    return rows
