"""How an array stands: which of its elements are done, failed, running or still to come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyframe.launch.array_script import FINISH
from skyframe.launch.status import Queued, Status, alive, launches, tail
from skyframe.spec import InputError, load_yaml

DESCRIPTION = "array.json"
ITEMS = "items"


@dataclass(frozen=True)
class Result:
    """What <k>.result says of an element, or of the last step."""

    code: str  # of its exit; running = none yet
    launch: int
    sentence: str  # the last error


@dataclass(frozen=True)
class Element:
    """An element that is not done, and why."""

    key: str  # its number, or finish
    item: str
    code: str  # of its exit; none = it was ended before it had one
    sentence: str


@dataclass(frozen=True)
class Summary:
    """An array as a whole."""

    count: int  # elements; each is done, failed, running or waiting
    done: int
    running: int
    waiting: int  # not begun, or to be done again by a launch that is under way
    failed: tuple[Element, ...]  # the last step too, where it did
    last: str  # the last step: done, failed, running or waiting; empty where there is none
    state: str  # SLURM's while it is in the queue, else RUNNING (here), FINISHED, ENDED
    job: str
    message: str  # where nothing is known of any element: what the script said last


def is_array(folder: Path) -> bool:
    """Whether a folder is an array's."""
    return (folder / DESCRIPTION).is_file()


def read_items_of(folder: Path) -> tuple[str, ...]:
    """The items of an array, the first of which is element 1."""
    return tuple((folder / ITEMS).read_text(encoding="utf-8").splitlines())


def read_results(folder: Path) -> dict[str, Result]:
    """Results of an array's elements by number, and of its last step."""
    found = {}
    for path in folder.glob("*.result"):
        first, _, sentence = path.read_text(errors="replace").partition("\n")
        code, _, launch = first.partition(" ")
        found[path.stem] = Result(code, int(launch), " ".join(sentence.split()))
    return found


def summarise(folder: Path, queue: list[Queued]) -> Summary:
    """How an array stands.

    Args:
        folder: the array's.
        queue: its jobs in the queue.
    """
    items, results, records = read_items_of(folder), read_results(folder), launches(folder)
    number = max(records, default=0)
    newest: dict[str, Any] = records.get(number, {})
    here = bool(newest) and alive(newest)
    works = here or any(entry.state == "RUNNING" for entry in queue)

    def standing(key: str) -> str:
        found = results.get(key)
        if found is None:
            return "waiting"
        if found.code == "0":
            return "done"
        if found.code == "running" and works and found.launch == number:
            return "running"
        again = found.launch < number or found.code == "running"
        return "waiting" if again and (here or queue) else "failed"

    keys = [str(k) for k in range(1, len(items) + 1)]
    states = [standing(key) for key in keys]
    failed = [
        _element(key, item, results[key]) for key, item, s in zip(keys, items, states, strict=True) if s == "failed"
    ]
    last = standing(FINISH) if load_yaml(folder / DESCRIPTION)["finish"] else ""
    failed += [_element(FINISH, "", results[FINISH])] if last == "failed" else []
    whole = states.count("done") == len(items) and last in ("", "done")
    state = "RUNNING" if works else queue[0].state if queue else "FINISHED" if whole else "ENDED"
    said = [] if results else [line for line in _script_says(folder / "launch" / str(number)) if line.strip()]
    return Summary(
        len(items), states.count("done"), states.count("running"), states.count("waiting"), tuple(failed), last, state,
        str(newest.get("id", "")), queue[0].reason if state == "PENDING" else said[-1] if said else "",
    )  # fmt: skip


def array_status(folder: Path, queue: list[Queued]) -> Status:
    """An array as a row of `skyframe jobs`: its elements are its steps."""
    found = summarise(folder, queue)
    left = queue[0].left if queue else ""
    return Status(
        folder, found.job, found.state, found.done, found.count, None, None, max(0, len(launches(folder)) - 1), left,
        ", ".join(filter(None, [counted(found), found.message])),
    )  # fmt: skip


def counted(found: Summary) -> str:
    """The numbers of an array in words."""
    failed = sum(element.key != FINISH for element in found.failed)
    last = f"; last step {found.last}" if found.last else ""
    return (
        f"{found.done} done, {failed} failed, {found.running} running, {found.waiting} waiting of {found.count}{last}"
    )


def item_log(folder: Path, key: str) -> Path:
    """The log of an element, or of the last step.

    Raises:
        InputError: no such element, or one that has not begun.
    """
    count = len(read_items_of(folder))
    if key != FINISH and not (key.isdigit() and 1 <= int(key) <= count):
        raise InputError(f"logs {folder}: --item {key!r}, expected 1 to {count}, or {FINISH}; correct it")
    path = folder / f"{key}.log"
    if not path.is_file():
        raise InputError(f"{path}: is not there, as the element has not begun; see `skyframe jobs {folder}`")
    return path


def _element(key: str, item: str, result: Result) -> Element:
    if result.code != "running":
        return Element(key, item, result.code, result.sentence)
    return Element(
        key, item, "none", f"was ended before it had an exit code: time limit, node or cancel; see {key}.log"
    )


def _script_says(launch: Path) -> list[str]:
    """Lines of the newest log of the scripts themselves: what went wrong before any element."""
    logs = sorted(launch.glob("*.log"), key=lambda path: path.stat().st_mtime_ns)
    return tail(logs[-1]) if logs else []
