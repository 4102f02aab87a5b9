"""What an array runs over: N parts, a list, the cubes of a catalogue, the matches of a glob, the tasks of a suite."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from skyframe.config.evaluate import load_suite
from skyframe.spec import InputError, did_you_mean

MOST_PARTS = 100_000


@dataclass(frozen=True)
class Items:
    """The elements of an array, counted from 1."""

    texts: tuple[str, ...]  # what {item} is, or {part}: 3/20
    parts: bool  # whether they are parts of one piece of work


def read_items(text: str, here: Path) -> Items:
    """Understand `--array`.

    Args:
        text: a number of parts; else a list of one item a line (empty lines and those that begin with # are passed
            over) or a catalogue (.parquet), whose cubes are the items; else `tasks:SUITE`, the tasks of an evaluation
            suite; else a folder, or a glob, which passes over `.partial`; else items with commas or spaces between.
        here: where relative paths begin.

    Raises:
        InputError: none of these, nothing in it, an item twice, or one that would be taken for an option.
    """
    if re.fullmatch(r"-?\d+", text):
        number = int(text)
        if not 1 <= number <= MOST_PARTS:
            raise InputError(f"launch: --array {text}, expected 1 to {MOST_PARTS} parts; give another number")
        return Items(tuple(f"{k}/{number}" for k in range(1, number + 1)), True)
    path = here / text
    if path.is_file():
        found = _cubes(path) if path.suffix == ".parquet" else _lines(path)
    elif text.startswith("tasks:"):
        found = list(load_suite(text.removeprefix("tasks:")).selected)
    elif glob.has_magic(text) or path.is_dir():
        root = None if os.path.isabs(text) else here
        found = [match for match in sorted(glob.glob(text, root_dir=root)) if not match.endswith(".partial")]
    elif re.search(r"[\s,]", text):
        found = re.split(r"[\s,]+", text.strip(" ,"))
    else:
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*") if p.is_file()])
        raise InputError(
            f"launch: --array {text!r} is no number, no file and no glob, expected a number of parts, items with "
            "commas, a file of one item a line, a catalogue (.parquet), tasks:SUITE or a glob in quotes such as "
            f"'cubes/*'{near or '; correct it'}"
        )
    _check(found, text)
    return Items(tuple(found), False)


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise InputError(f"launch: --array {path} is no text, expected one item a line; write such a list") from None
    return [line for line in lines if line and not line.startswith("#")]


def _cubes(path: Path) -> list[str]:
    """Paths and addresses of a catalogue's cubes. A row is a cube's year, so that a cube stands in several."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        rows = pq.read_table(path, columns=["path"], use_threads=False)["path"].to_pylist()
    except (ArrowException, KeyError, OSError) as error:
        raise InputError(
            f"launch: --array {path} is no catalogue ({str(error).splitlines()[0]}), expected one of `skyframe "
            "catalogue`; write it again"
        ) from error
    return [text if "://" in text else os.path.normpath(path.parent / text) for text in dict.fromkeys(rows)]


def _check(found: Iterable[str], text: str) -> None:
    seen: set[str] = set()
    for item in found:
        if item in seen:
            raise InputError(f"launch: --array {text}: {item!r} is there twice, expected each item once; take one out")
        if item.startswith("-") or re.search(r"[\x00-\x1f]", item):
            raise InputError(
                f"launch: --array {text}: item {item!r} begins with - or holds a control character, expected a plain "
                "text; correct it"
            )
        seen.add(item)
    if not seen:
        raise InputError(f"launch: --array {text}: nothing there, expected at least one item; correct it")
