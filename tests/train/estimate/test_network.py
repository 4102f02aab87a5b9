"""Traffic of a step: against what gloo ranks really send, and times by hand."""

import dataclasses

import pytest

from skyframe.data.layout import select_modalities
from skyframe.train.estimate.memory import parts_of
from skyframe.train.estimate.model import system_on_meta, windows_on_meta
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
from tests.train.estimate.ranks import Passes, sent_by_a_step
from tests.train.estimate.whole import windows

STEP = Rehearsal(
    forward_flops=10,
    backward_flops=20,
    saved_bytes=100,
    peak_bytes=120,
    kept_bytes=5,
    copies_bytes=0,
    sent=(Sent("all_gather", 300), Sent("all_reduce", 70)),
    trained_uses=1000,
    frozen_uses=400,
    trained_calls=9,
    frozen_calls=4,
)
NETWORK = Network(intra_gbps=800, inter_gbps=80, gpus_per_node=4)


def total(entries, kind: str) -> int:
    return sum(size for found, size in entries if found == kind)


@pytest.mark.parametrize(
    ("world", "overrides"), [(2, ()), (4, ("loss.cl=infonce", "loss.sources=[fused]"))], ids=["2 dino", "4 infonce"]
)
def test_bytes_that_gloo_ranks_send_are_foretold(world, overrides):
    """Every collective of gradients, losses and `after_step`: bytes within 5 % and as many calls (bytes were equal)."""
    recipe = nano_recipe(*overrides, f"train.global_batch={2 * world}")
    view = windows(dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, window_px=4)), 2)
    view = dataclasses.replace(view, region=view.region % recipe.data.regions.num_regions)
    modalities = select_modalities(recipe.data)
    found = run_ranks(sent_by_a_step, recipe, modalities, (view, view), world=world)
    assert all(other == found[0] for other in found), "every rank sends the same"

    made = system_on_meta(recipe)
    meta = windows_on_meta(dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, window_px=4)), 2)
    step = rehearse(made, lambda: Passes(made)(meta, meta), bf16=False, num_ranks=world)
    trained = sum(p.trainable for p in parts_of(made))
    told = {
        "gradients": [(t.kind, t.bytes) for t in strategy_traffic("ddp", trained, step, 1, world)],
        "losses": [(s.kind, s.bytes) for s in step.sent],
        "after_step": [(s.kind, s.bytes) for s in after_step_sent(recipe, world, num_regions=2)],
    }
    for phase, sent in found[0].items():
        for kind in ("all_reduce", "all_gather"):
            assert total(told[phase], kind) == pytest.approx(total(sent, kind), rel=0.05), (phase, kind)
        assert phase == "gradients" or len(told[phase]) == len(sent), phase


def test_traffic_of_every_strategy_by_hand():
    def told(stage, micro_steps=1):
        return [(t.what, t.kind, t.bytes) for t in strategy_traffic(stage, 1000, STEP, micro_steps, 8)]

    norm = ("gradient norm", "all_reduce", 4)
    assert told("ddp", 4) == [("gradients", "all_reduce", 4000)], "float32, once per step"
    assert told(0) == [("gradients", "all_reduce", 4000)]
    assert told(1, 4) == [("gradients", "all_reduce", 4000), ("new parameters", "all_gather", 4000), norm]
    assert told(2, 4) == [("gradients", "all_reduce", 16000), ("new parameters", "all_gather", 4000), norm]
    gathered = 2 * (2 * 4 * 1000 + 4 * 400)  # two micro-steps, forward and backward, the teacher once
    assert told(3, 2) == [("parameters", "all_gather", gathered), ("gradients", "reduce_scatter", 8000), norm]
    assert strategy_traffic(3, 1000, STEP, 1, 1) == [], "one rank sends nothing"


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
    assert sum(t.bytes for t in traffic[2:]) == sum(s.bytes for s in sent)
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
