"""A task of a suite once its data are known: what is predicted, by which protocols, and on what."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from skyframe.config.evaluate import PROBES, Suite, TaskConfig, check_kind
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.datasets.dataset import Dataset, Kind
from skyframe.evaluate.feed.inputs import dataset_root, limited, with_validation
from skyframe.evaluate.protocol import digest
from skyframe.evaluate.record import config_digest, dataset_fingerprint, simulated_fingerprint

MAJORITY: Literal["majority"] = "majority"


@dataclass(frozen=True)
class Task:
    """One task of a suite."""

    name: str
    config: TaskConfig
    kind: Kind
    metrics: tuple[str, ...]
    protocols: tuple[str, ...]
    dataset: Dataset | None  # None = windows of the simulated Earth
    fingerprint: str  # of the data

    @property
    def probes(self) -> list[str]:
        """Its protocols over frozen features."""
        return [p for p in self.protocols if p in PROBES.get(self.kind, ())]

    @property
    def heads(self) -> list[str]:
        """Its protocols that train on the encoder's maps."""
        return [p for p in self.protocols if p not in PROBES.get(self.kind, ())]

    def settings(self, suite: Suite, protocol: str) -> dict[str, Any]:
        """Everything of a suite that bears on a score of this task under a protocol."""
        family = protocol.split("_")[0]
        numbers = getattr(suite, family, None)
        if protocol in self.heads:
            family, numbers = protocol, suite.training(protocol)
        task = dataclasses.asdict(dataclasses.replace(self.config, root="", protocols=(), metrics=self.metrics))
        return {
            "task": task,
            "protocol": family,
            "numbers": dataclasses.asdict(numbers) if numbers is not None else {},
            "bootstrap": suite.bootstrap,
            "data": self.fingerprint,
        }

    def config_sha256(self, suite: Suite, protocol: str) -> str:
        """Digest of `settings`."""
        return config_digest(self.settings(suite, protocol))


def open_tasks(suite: Suite, data: Path | None) -> dict[str, Task]:
    """The selected tasks with their data sets listed and found whole.

    Raises:
        InputError: a data set that is not there or not whole, or a metric or protocol of another kind.
    """
    made: dict[str, Task] = {}
    for name, config in suite.selected.items():
        where = f"suite {suite.name}: tasks.{name}"
        if config.benchmark == "simulated":
            assert suite.data.simulated is not None
            dataset: Dataset | None = None
            kind: Kind = config.level
            fingerprint = digest(simulated_fingerprint(suite.data.simulated))
        else:
            root = dataset_root(config, data, where)
            found = open_dataset(config.benchmark, root)
            dataset = limited(with_validation(found), config, where)
            kind, fingerprint = dataset.kind, digest(dataset_fingerprint(dataset))
        metrics, protocols = check_kind(suite, config, kind, where)
        made[name] = Task(name, config, kind, metrics, protocols, dataset, fingerprint)
    return made
