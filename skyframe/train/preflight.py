"""Looks at every node before a run, in bounded time: a bad one is named instead of hanging all others."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as td

from skyframe.config.skysense import SkySenseRecipe
from skyframe.spec import InputError
from skyframe.train.meeting import PREFIX, Meeting, Place, place_of
from skyframe.train.node_facts import Facts, facts_of, misfits, within
from skyframe.train.verdict import BadNodes

LIMIT_S = 25.0
"""For all of it."""

SIZES_MB = (1, 64)
"""Of the all-reduce that is timed, in 10^6 bytes: what latency decides, and what bandwidth does."""

HEARD_S = 2.0
"""For the other ranks to hear of a refusal, and for rank 0 to tell it."""


@dataclass(frozen=True)
class Found:
    """What rank 0 learnt; other ranks have their own facts alone."""

    ranks: list[Facts]
    skews_s: dict[int, float] = field(default_factory=dict)  # of clocks, by rank
    seconds: dict[int, float] = field(default_factory=dict)  # of an all-reduce, by its size in 10^6 bytes
    store: Any = None  # kept until the run has met: its server is the one that the run will meet at

    def gb_per_s(self, size_mb: int) -> float:
        """What each rank sent and received at once, 10^9 bytes/s."""
        n = len(self.ranks)
        return 2 * (n - 1) / n * size_mb / 1e3 / self.seconds[size_mb]


def check_nodes(recipe: SkySenseRecipe | None, place: Place, limit_s: float = LIMIT_S) -> Found:
    """Compare all nodes and time a collective between them; every rank calls it, and none waits for ever.

    Args:
        recipe: what will run; None leaves disks and cubes out.
        place: of this process.
        limit_s: for all of it; ranks may begin within half of it of each other.

    Raises:
        InputError: on rank 0 the nodes that cannot take part; on a rank that cannot reach it, that.
        SystemExit: on other ranks, where rank 0 says why.
    """
    begun = time.monotonic()
    mine = facts_of(recipe, place.rank, place.local, 0.4 * limit_s)
    if place.world == 1:
        _refuse(misfits([mine], {}), [mine])
        return Found([mine])
    try:
        meet = Meeting(place, begun, limit_s)
    except InputError:
        if place.rank:
            time.sleep(2 * HEARD_S)  # as below
        raise
    meet.put("facts", asdict(mine))
    if place.rank == 0:
        try:
            return _lead(meet)
        except InputError as error:
            meet.put("verdict", str(error))
            raise
        finally:
            meet.put("heard", "")
            meet.all_of("heard", HEARD_S)  # lest the store goes before all know
    return _follow(meet, mine)


@contextmanager
def nodes_checked(recipe: SkySenseRecipe, show: bool) -> Iterator[None]:
    """What a run does before its model is built, where it has several nodes and `train.survival.preflight` says so.

    Inside, the place where ranks met stays open: the run meets there next, and some of its ranks may be early.
    """
    train = recipe.train
    place = place_of(train.num_nodes) if train.num_nodes > 1 and train.survival.preflight else None
    met = None if place is None else check_nodes(recipe, place)
    if place is not None and place.rank == 0 and met is not None and show:
        print(summary(met), flush=True)
    yield
    del met


def summary(found: Found) -> str:
    """The good news in a line, on rank 0."""
    nodes = len({f.node for f in found.ranks})
    said = f"{nodes} node{'s' if nodes > 1 else ''} alike"
    if not found.seconds:
        return f"preflight: {said}"
    skew = max(map(abs, found.skews_s.values()))
    rates = ", ".join(f"{size} MB at {found.gb_per_s(size):.2f} GB/s" for size in SIZES_MB)
    return f"preflight: {said}, {len(found.ranks)} ranks; clocks within {skew:.2f} s; all-reduce of {rates}"


def _lead(meet: Meeting) -> Found:
    said, late = meet.all_of("facts", meet.left(0.7))
    if late:
        nodes, of = _named(late)
        who = f"node {', '.join(nodes)}" if nodes else f"rank {', '.join(map(str, late))}"
        sentence = (
            f"{who}: no word at {meet.place.address}:{meet.place.port} within {meet.spent():.0f} s, expected all "
            f"{meet.place.world} ranks; its process does not run, or the port is blocked between the nodes"
        )
        raise _bad(sentence, nodes, of) if nodes else InputError(sentence)
    ranks = [Facts(**said[r]) for r in range(meet.place.world)]
    meet.put("clock", time.time())
    meet.put("skew", 0.0)
    skews, late = meet.all_of("skew", meet.left(0.8))
    _refuse(misfits(ranks, skews), ranks)
    of = len({f.node for f in ranks})
    if late:
        nodes = _nodes(ranks, late)
        silent = f"node {', '.join(nodes)}: fell silent after the first word, expected an answer; look at it"
        raise _bad(silent, nodes, of)
    meet.put("verdict", "")
    times, why = _time_collectives(meet)
    meet.put("network", [why, meet.spent()])
    failed, late = meet.all_of("network", meet.left(1.0) + 1.0)
    when = {r: second for r, (reason, second) in failed.items() if reason}
    if when or late:
        lost = late or [r for r in when if when[r] < min(when.values()) + 1.0]  # others failed as they waited for these
        reason = "no answer" if late else failed[lost[0]][0]
        nodes = _nodes(ranks, lost)
        sentence = (
            f"node {', '.join(nodes)}: no all-reduce with the others, expected one within {meet.limit_s:.0f} s "
            f"({reason}); let the nodes' ports above 1024 through, or name the interface in "
            "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
        )
        raise _bad(sentence, nodes, of)
    meet.put("end", "")
    return Found(ranks, skews, times, meet.store)


def _follow(meet: Meeting, mine: Facts) -> Found:
    clock = meet.of_leader("clock", meet.left(0.75))
    if clock is not None:
        meet.put("skew", time.time() - clock)
    verdict = meet.of_leader("verdict", meet.left(0.9))
    if verdict == "":
        times, why = _time_collectives(meet)
        meet.put("network", [why, meet.spent()])
        if meet.of_leader("end", meet.left(1.0) + 3.0) == "":
            meet.put("heard", "")
            return Found([mine], {}, times, meet.store)
    meet.put("heard", "")
    time.sleep(2 * HEARD_S)  # `srun --kill-on-bad-exit` would end rank 0 before it has spoken
    raise SystemExit(2)


def _time_collectives(meet: Meeting) -> tuple[dict[int, float], str]:
    """Seconds of an all-reduce by its size, over connections that are taken down again; and why there was none."""
    place, times = meet.place, dict[int, float]()
    limit_s = meet.left(1.0)
    device = torch.device("cuda", place.local) if torch.cuda.is_available() else torch.device("cpu")

    def run() -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device.index % torch.cuda.device_count())
        store = td.PrefixStore(f"{PREFIX}/group", meet.store)
        backend, wait = "nccl" if device.type == "cuda" else "gloo", timedelta(seconds=limit_s)
        td.init_process_group(backend, store=store, rank=place.rank, world_size=place.world, timeout=wait)
        try:
            for size in SIZES_MB:
                values = torch.ones(size * 250_000, device=device.type)
                td.all_reduce(values)  # the first one makes the connections
                begun = time.perf_counter()
                td.all_reduce(values)
                float(values[0])
                times[size] = time.perf_counter() - begun
        finally:
            td.destroy_process_group()

    return times, within(run, limit_s)


def _refuse(wrong: list[tuple[str, str]], ranks: list[Facts]) -> None:
    if wrong:
        sentence = "; ".join(f"node {node}: {reason}" for node, reason in wrong)
        raise _bad(sentence, [node for node, _ in wrong], len({f.node for f in ranks}))


def _bad(sentence: str, nodes: list[str], of: int) -> InputError:
    """Nodes to go on without, unless most are named: then the fault is where they are looked at from."""
    return BadNodes(sentence, nodes) if 2 * len(nodes) <= of else InputError(sentence)


def _nodes(ranks: list[Facts], which: list[int]) -> list[str]:
    return list(dict.fromkeys(ranks[r].node for r in which))


def _named(late: list[int]) -> tuple[list[str], int]:
    """The nodes that SLURM put ranks on which never came, and how many it gave; none where it cannot be asked."""
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    per_node = os.environ.get("SLURM_NTASKS_PER_NODE", "")
    if nodes and per_node.isdecimal() and shutil.which("scontrol"):
        asked = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=5)
        names = asked.stdout.split()
        if names and max(late) // int(per_node) < len(names):
            return list(dict.fromkeys(names[r // int(per_node)] for r in late)), len(names)
    return [], 0
