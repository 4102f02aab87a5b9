"""Numbers that papers print, as reference rows beside own results and never ranked with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from skyframe.config import read_tree
from skyframe.spec import InputError, build

MARKS = {
    "seen": "read at the source",
    "second-hand": "from notes on the papers",
    "confirmed": "from notes, and an independent collection has the same number",
}


@dataclass(frozen=True)
class Published:
    """One number of one paper."""

    family: str  # such as classification
    datasets: tuple[str, ...]  # names that own results may carry for this data set
    metric: str
    model: str
    percent: float  # as printed
    setting: str  # what else the paper says of it
    protocol: str  # how it was come by, which is not how own results were
    source: str  # a key of `PublishedTable.sources`
    mark: Literal["seen", "second-hand", "confirmed"]


@dataclass(frozen=True)
class PublishedTable:
    """All of them."""

    sources: dict[str, str]  # citation by key
    numbers: tuple[Published, ...]

    def of(self, names: Iterable[str]) -> list[Published]:
        """Those of some data sets, in the file's order."""
        wanted = set(names)
        return [n for n in self.numbers if wanted & set(n.datasets)]


def load_published() -> PublishedTable:
    """The shipped table, recipes/eval/published.yaml.

    Raises:
        InputError: a wrong key, or a source that is not listed.
    """
    table: PublishedTable = build(PublishedTable, read_tree("recipes/eval", "published"), "published.yaml")
    for number, entry in enumerate(table.numbers):
        if entry.source not in table.sources:
            raise InputError(
                f"published.yaml: numbers[{number}].source {entry.source!r}, expected one of {', '.join(table.sources)}"
            )
    return table
