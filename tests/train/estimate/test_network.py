"""Traffic of a step: against what gloo ranks really send, and times by hand."""

import json
from pathlib import Path

import pytest

from skyframe.train.estimate.gathering import Rules, Use
from skyframe.train.estimate.memory import Stage, parts_of
from skyframe.train.estimate.model import loss_of, system_on_meta, windows_on_meta
from skyframe.train.estimate.network import (
    LATENCY_S,
    Network,
    Traffic,
    after_step_sent,
    exposed_seconds,
    strategy_traffic,
    system_traffic,
)
from skyframe.train.estimate.rehearsal import Rehearsal, Sent, rehearse
from tests.distributed import run_ranks
from tests.system.batches import nano_recipe
from tests.train.estimate.counted import Call, sent_by_a_step

STEP = Rehearsal(
    forward_flops=10,
    backward_flops=20,
    saved_bytes=100,
    peak_bytes=120,
    kept_bytes=5,
    copies_bytes=0,
    sent=(Sent("all_gather", 300), Sent("all_reduce", 70)),
    uses=(Use(0, "forward", (0, 1)), Use(0, "after", (0, 1)), Use(1, "forward", (2,)), Use(1, "after", (2,)),
          Use(0, "backward", (0, 1))),
    sizes=(200_000, 10, 400_000),
)  # fmt: skip
NETWORK = Network(intra_gbps=800, inter_gbps=80, gpus_per_node=4)


RULES = Rules(prefetch=10_000, persistent=2000, live=100_000, reuse=100_000)
"""For a nano system what DeepSpeed's own settings are for one of 2 G: most parameters are let go of meanwhile."""

STAGES_BY_CELL: dict[str, Stage] = {"ddp": "ddp", "zero0": 0, "zero1": 1, "zero2": 2, "zero3": 3}
RECIPES = {2: (), 4: ("loss.cl=infonce", "loss.sources=[fused]")}


def cells(world: int, folder: Path) -> dict[str, list[str]]:
    """Every strategy with one micro-step, and on two ranks ZeRO-1 to 3 with four, 2 samples per rank and pass."""
    overlay = folder / "rules.json"
    settings = {"prefetch_bucket_size": RULES.prefetch, "param_persistence_threshold": RULES.persistent}
    settings |= {"max_live_parameters": RULES.live, "max_reuse_distance": RULES.reuse}
    overlay.write_text(json.dumps({"zero_optimization": {f"stage3_{k}": v for k, v in settings.items()}}))
    made = {}
    for name, stage in STAGES_BY_CELL.items():
        words = ["train.strategy=ddp"]
        if stage != "ddp":
            words = ["train.strategy=deepspeed", f"train.deepspeed.stage={stage}"]
        if stage == 3:
            words.append(f"train.deepspeed.overlay={overlay}")
        made[name] = [*words, f"train.global_batch={2 * world}"]
        if world == 2 and stage in (1, 2, 3):
            made[f"{name} x4"] = [*words, f"train.global_batch={8 * world}", "train.micro_steps=4"]
    return made


@pytest.mark.xdist_group("strategies")
@pytest.mark.parametrize("world", [2, 4])
def test_bytes_that_gloo_ranks_send_in_a_step_of_pretrain_are_foretold(world, earth, tmp_path):
    """Every collective of an optimizer step, by kind, the strategy's own and ours: bytes within 5 %."""
    shared = [
        *RECIPES[world],
        "data.modalities=[hr,s2]",
        "optim.clip_norm=0.5",
        "train.log_every=99",
        "train.max_steps=99",
    ]
    named = cells(world, tmp_path)
    args = (earth, tmp_path / "runs", [*shared, "train.checkpoint_every=99"], named)
    found = run_ranks(sent_by_a_step, *args, world=world, timeout_s=400, preload="tests.preloaded")
    recipe = nano_recipe(*shared, f"train.global_batch={2 * world}")
    made = system_on_meta(recipe)
    step = rehearse(made, lambda: loss_of(recipe, made, windows_on_meta(recipe, 2)), bf16=False, num_ranks=world)
    trained = sum(p.trainable for p in parts_of(made))
    for name, words in named.items():
        first = found[0][name].calls
        assert all(rank[name].calls == first for rank in found), f"{name}: every rank sends the same"
        recipe = nano_recipe(*shared, *words)
        regions = len(set().union(*(rank[name].regions for rank in found)))
        stage, passes = STAGES_BY_CELL[name.removesuffix(" x4")], recipe.train.micro_steps
        traffic = strategy_traffic(stage, trained, step, passes, world, RULES)
        traffic += [
            t for t in system_traffic(recipe, step, passes, world) if t.what not in ("losses", "centres and bank")
        ]
        told = [Call(t.what == "gradient check", t.kind, t.bytes) for t in traffic]
        told += [Call(True, s.kind, s.bytes) for s in (*step.sent * passes, *after_step_sent(recipe, world, regions))]
        for key in {(c.ours, c.kind) for c in (*first, *told)}:
            sent, expected = (sum(c.bytes for c in calls if (c.ours, c.kind) == key) for calls in (first, told))
            assert expected == pytest.approx(sent, rel=0.05), (name, key)


def test_traffic_of_every_strategy_by_hand():
    def told(stage, micro_steps=1):
        return [(t.what, t.kind, t.times, t.bytes) for t in strategy_traffic(stage, 1_000_000, STEP, micro_steps, 8)]

    norm, check = ("gradient norm", "all_reduce", 2, 8), ("gradient check", "all_reduce", 1, 4)
    once, new = ("gradients", "all_reduce", 1, 4_000_000), ("new parameters", "all_gather", 2, 4_000_000)
    assert told("ddp", 4) == [("gradients", "all_reduce", 2, 4_000_000), check], "float32, once per step: 1 MiB, rest"
    assert told(0) == [once, ("gradient norm", "all_reduce", 1, 4), check]
    assert told(1, 4) == [once, new, norm]
    assert told(2, 4) == [("gradients", "all_reduce", 4, 16_000_000), new, norm]
    assert told(3, 2) == [
        ("parameters", "all_gather", 2 * 2, 2 * 4 * 600_000),  # whole from forward to backward pass
        ("small parameters", "all_gather", 1, 4 * 16),  # ten elements, padded to two for each of 8 ranks
        ("gradients", "reduce_scatter", 2, 8_000_000),
        ("gradient norm", "all_reduce", 2, 16),
    ]
    assert strategy_traffic(3, 1_000_000, STEP, 1, 1) == [], "one rank sends nothing"


def test_traffic_of_the_system_by_hand():
    recipe = nano_recipe()  # 3 modalities and fused at 3 levels, 32 outputs; batch 4, 4 regions, 16 prototypes of 32
    sent = after_step_sent(recipe, 2)
    centres = [Sent("all_reduce", 4 * 32), Sent("all_reduce", 4)] * 12
    masses = [Sent("all_reduce", 8 * 4 * 16)] * 4
    bank = [Sent("all_reduce", 8), Sent("all_gather", 8 * 2 * 2), Sent("all_reduce", 8 * 4), *masses]
    assert sent == [*centres, *bank, Sent("all_reduce", 8 * 4 * 16 * 32), Sent("all_reduce", 4 * 3)]

    traffic = system_traffic(recipe, STEP, micro_steps=3, num_ranks=2)
    assert [(t.what, t.kind, t.times, t.bytes) for t in traffic[:2]] == [
        ("losses", "all_reduce", 3, 210),
        ("losses", "all_gather", 3, 900),
    ]
    assert sum(t.bytes for t in traffic[2:-1]) == sum(s.bytes for s in sent)
    assert traffic[-1] == Traffic("stop signal", "broadcast", 3, 24, "nothing"), "Lightning's, before every pass"
    assert system_traffic(recipe, STEP, 3, 1) == []


def test_seconds_by_hand():
    assert NETWORK.seconds(Sent("all_reduce", 10**9), 1) == 0
    inside = 2 * 0.75 * 8e9 / 800e9  # 1.5 GB out of each of 4 GPUs of a node
    assert NETWORK.seconds(Sent("all_reduce", 10**9), 4) == pytest.approx(inside + 2 * LATENCY_S)
    across = (7 / 8) * 8e9 / 80e9
    assert NETWORK.seconds(Sent("all_gather", 10**9), 8, 10) == pytest.approx(across + 30 * LATENCY_S)


def test_what_hides_behind_computing_shows_only_its_last_part():
    whole = NETWORK.seconds(Sent("all_reduce", 10**9), 8, 10)  # 0.1756 s in ten buckets

    def waits(behind, passes_s, backward_s):
        traffic = [Traffic("x", "all_reduce", 10, 10**9, behind)]
        return exposed_seconds(traffic, NETWORK, 8, passes_s, backward_s)

    assert waits("nothing", 9.0, 6.0) == pytest.approx(whole)
    assert waits("backward", 9.0, 6.0) == pytest.approx(whole / 10)
    assert waits("backward", 9.0, 0.05) == pytest.approx(whole - 0.05)
    assert waits("passes", 0.1, 0.0) == pytest.approx(whole - 0.1)
