"""Runs a function on real gloo processes, for tests that compare several ranks with one.

from tests.distributed import run_ranks

def _half(rank: int, world: int, rows: Tensor) -> Tensor:      # module level, so that the children can import it
    return dist.all_sum(rows.chunk(world)[rank].sum(0))

first, second = run_ranks(_half, torch.ones(4, 3))
"""

from __future__ import annotations

import faulthandler
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as td
import torch.multiprocessing as mp


def run_ranks(
    function: Callable[..., Any], *args: Any, world: int = 2, timeout_s: float = 120.0, preload: str | None = None
) -> list[Any]:
    """Call `function(rank, world, *args)` on `world` processes that share a gloo group.

    Args:
        function: a function of a module (not a lambda or a closure); its result travels by `torch.save`.
        args: picklable arguments, the same for every rank.
        world: number of processes.
        timeout_s: after this long every process is killed and the test fails; hung ranks print their stacks.
        preload: a module of imports that takes longer than the test: ranks are forked from a process that has it.

    Returns:
        What each rank returned, in rank order.

    Raises:
        AssertionError: a rank raised (its traceback is in the message), died or did not end in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        context = mp.get_context("forkserver" if preload else "spawn")
        if preload:
            context.set_forkserver_preload([preload])
        ranks = [
            context.Process(target=_rank_main, args=(function, rank, world, folder, timeout_s, args))
            for rank in range(world)
        ]
        for process in ranks:
            process.start()
        late = ""
        try:
            if not _wait(ranks, time.monotonic() + timeout_s):
                late = f", not ended after {timeout_s:g} s"
        finally:
            for process in ranks:
                if process.is_alive():
                    process.kill()
                process.join()
        failed = "\n".join(p.read_text() for p in sorted(Path(folder).glob("error_*.txt")))
        codes = [process.exitcode for process in ranks]
        assert not failed and not any(codes), f"run_ranks({function.__name__}): exit codes {codes}{late}\n{failed}"
        return [torch.load(Path(folder) / f"result_{rank}.pt", weights_only=False) for rank in range(world)]


def _wait(ranks: list[Any], deadline: float) -> bool:
    """Until all have ended or one has failed (True), or time is up (False)."""
    while any(p.is_alive() for p in ranks):
        if any(p.exitcode not in (None, 0) for p in ranks):
            time.sleep(0.5)  # its peers may be writing their own error; they would wait for it for ever
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _rank_main(
    function: Callable[..., Any], rank: int, world: int, folder: str, timeout_s: float, args: tuple[Any, ...]
) -> None:
    faulthandler.dump_traceback_later(max(1.0, timeout_s - 2.0), exit=False)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    try:
        td.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
        torch.save(function(rank, world, *args), Path(folder) / f"result_{rank}.pt")
        td.barrier()
        td.destroy_process_group()
    except BaseException:
        (Path(folder) / f"error_{rank}.txt").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        os._exit(1)
