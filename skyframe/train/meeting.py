"""Where ranks meet before there is a process group: their places by the launcher, and a store with limits."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as td
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from skyframe.spec import InputError
from skyframe.train.node_facts import node_name

PREFIX = "skyframe/preflight"


@dataclass(frozen=True)
class Place:
    """Where this process stands in the run, and where ranks meet."""

    rank: int
    world: int
    local: int
    address: str
    port: int


def place_of(num_nodes: int) -> Place | None:
    """This process's place by the launcher's environment; None for one that Lightning itself starts on a node."""
    made: ClusterEnvironment
    if TorchElasticEnvironment.detect():
        made = TorchElasticEnvironment()
    elif "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        made = SLURMEnvironment(auto_requeue=False)
    else:
        made = LightningEnvironment()
        if made.local_rank() != 0:
            return None
        return Place(made.node_rank(), num_nodes, 0, made.main_address, made.main_port)
    return Place(made.global_rank(), made.world_size(), made.local_rank(), made.main_address, made.main_port)


class Meeting:
    """A store in which ranks leave words for each other, by name and rank; no wait is without an end."""

    def __init__(self, place: Place, begun: float, limit_s: float) -> None:
        """Open it on rank 0, or find it there.

        Args:
            place: of this process.
            begun: of the limit, on the monotonic clock.
            limit_s: for everything; a rank looks for rank 0 until 0.7 of it is spent.

        Raises:
            InputError: the port is taken, or does not answer.
        """
        self.place, self.begun, self.limit_s = place, begun, limit_s
        agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun holds the port itself
        serves = place.rank == 0 and not agent
        try:
            if not serves:
                _reach(place, begun + 0.7 * limit_s)  # the store itself tries for twice as long as it is told to
            wait = timedelta(seconds=max(2.0, self.left(0.7)))
            self.store = td.TCPStore(
                place.address, place.port, place.world, serves, wait, wait_for_workers=False, multi_tenant=True
            )
        except (OSError, RuntimeError) as error:
            trouble = "is taken, expected it free" if serves else f"does not answer within {self.spent():.0f} s"
            raise InputError(
                f"{node_name()}, rank {place.rank}: port {place.port} of {place.address} {trouble} "
                f"({str(error).splitlines()[0][:200]}); "
                f"{'set another MASTER_PORT' if serves else 'open it between the nodes, or set another MASTER_PORT'}"
            ) from error

    def spent(self) -> float:
        """Seconds since the begin."""
        return time.monotonic() - self.begun

    def left(self, share: float) -> float:
        """Seconds until a share of the limit is spent."""
        return max(0.1, share * self.limit_s - self.spent())

    def put(self, name: str, value: Any) -> None:
        """Leave a word of this rank that JSON can hold."""
        self.store.set(f"{PREFIX}/{name}/{self.place.rank}", json.dumps(value))

    def of_leader(self, name: str, wait_s: float) -> Any:
        """Rank 0's word, None where it does not come in time."""
        return self._of(name, 0, wait_s)

    def all_of(self, name: str, wait_s: float) -> tuple[dict[int, Any], list[int]]:
        """The word of each rank; and the ranks whose word did not come in time."""
        end, found = time.monotonic() + wait_s, dict[int, Any]()
        for rank in range(self.place.world):
            value = self._of(name, rank, max(0.01, end - time.monotonic()))
            if value is not None:
                found[rank] = value
        return found, [r for r in range(self.place.world) if r not in found]

    def _of(self, name: str, rank: int, wait_s: float) -> Any:
        key = f"{PREFIX}/{name}/{rank}"
        try:
            self.store.wait([key], timedelta(seconds=wait_s))
            return json.loads(self.store.get(key))
        except RuntimeError:  # time is up, or the leader is gone
            return None


def _reach(place: Place, end: float) -> None:
    """Wait until something listens where rank 0 will be, which may start later; the last reason why not, at the end."""
    while True:
        try:
            socket.create_connection((place.address, place.port), max(0.1, end - time.monotonic())).close()
            return
        except OSError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.2)
