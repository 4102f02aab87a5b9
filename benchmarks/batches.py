"""Proof of the batch rule: as many samples at other global batches, with the rule and without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.learning import Scored, difference, scored
from benchmarks.tables import Scores, collect, differences, table
from benchmarks.workplace import STEPS
from skyframe.config import load_recipe
from skyframe.config.batch_rule import at_batch


@dataclass(frozen=True)
class Way:
    """How as many samples are trained on."""

    global_batch: int
    micro_steps: int = 1
    follows: bool = True  # the rule; else the recipe's own rate and momentum for fewer or more steps
    longer: int = 1  # times as many samples, in as many more steps


BATCHES = {
    "64": Way(64),
    "16": Way(16),
    "256": Way(256),
    "256_accumulated": Way(256, micro_steps=4),
    "256_unchanged": Way(256, follows=False),
    "256_4x": Way(256, longer=4),
}


def batch(name: str, seed: int) -> dict[str, Any]:
    """Pretrain and score at one batch, over the samples of the recipe's own run."""
    way = BATCHES[name]
    rule = at_batch(load_recipe("skysense_s2s1", [f"train.max_steps={STEPS}"]), way.global_batch)
    overrides = [
        f"train.global_batch={way.global_batch}", f"train.micro_steps={way.micro_steps}",
        f"train.max_steps={way.longer * rule.max_steps}", f"optim.warmup_steps={rule.warmup_steps}",
    ]  # fmt: skip
    if way.follows:
        overrides += [
            f"optim.lr={rule.lr}", f"optim.min_lr={rule.min_lr}", f"loss.ema_start={rule.ema_start}",
            f"loss.ema_end={rule.ema_end}", f"loss.center_momentum={rule.center_momentum}",
        ]  # fmt: skip
    return scored(f"batch_{name}", seed, overrides) | {"batch": name, "steps": way.longer * rule.max_steps}


def batch_table(answers: list[dict[str, Any]]) -> str:
    """Scores at every batch, and what each is below or above 64 on the same places."""
    found: Scores = {}
    for a in answers:
        for row in a["rows"]:
            if row["role"] == "encoder":
                collect(found, row, (row["task"], row["protocol"]), a["batch"])
    steps = ", ".join(f"{name} {n}" for name, n in {a["batch"]: a["steps"] for a in answers}.items())
    about = (
        f"skysense_s2s1, tiny preset, the samples of {STEPS} steps at its own batch of 48; optimizer steps: {steps}. "
        "Rate, momentum and warm-up by `at_batch`; unchanged: as at 48, for fewer steps; accumulated: 4 passes a step, "
        "so terms that couple samples see 64 at a time; 4x: four times the samples, in as many steps as 64."
    )
    scores = table("The batch rule on the simulated Earth", about, {a["commit"] for a in answers}, found, [*BATCHES])
    others = [name for name in BATCHES if name != "64"]
    rows = []
    for task, probe in sorted(found):
        base = Scored("prove", task, "batch_64")
        rows.append([task, probe, *(difference(probe, Scored("prove", task, f"batch_{o}"), base) for o in others)])
    return scores + differences(["task", "probe", *(f"{o} - 64" for o in others)], rows)
