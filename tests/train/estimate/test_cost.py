"""Which strategy is taken, what time it comes to, and the sentence for a GPU that is too small."""

import dataclasses

import pytest

from skyframe.config import load_recipe
from skyframe.spec import InputError
from skyframe.train.estimate.cost import Cluster, batch_per_gpu, estimate, first_fit, out_of_memory, plan_training
from skyframe.train.estimate.memory import STAGES
from skyframe.train.estimate.network import Network
from skyframe.train.estimate.view import as_values, closing_line, describe_training
from tests.train.estimate.test_memory import TWO_BILLION
from tests.train.estimate.test_network import STEP
from tests.train.estimate.whole import tiny

GIB = 2**30


def cluster(num_gpus: int = 8, gib: float = 80, mfu: float = 0.2) -> Cluster:
    return Cluster(num_gpus, int(gib * GIB), 312e12, mfu, Network(2400, 1600, 8))


def taken(gib: float, activations: int = 30 * GIB, splits=(1,)):
    """(strategy, micro-steps) for 2 G trained parameters with a teacher on 8 GPUs, activations halving per split."""
    recipe = load_recipe("skysense_paper")

    def look(micro_steps):
        step = dataclasses.replace(STEP, peak_bytes=activations // micro_steps)
        return step, {s: estimate(recipe, TWO_BILLION, step, s, 8, micro_steps, cluster(), 8) for s in STAGES}

    found = first_fit(splits, look, int(gib * GIB))
    return found and (found.stage, found.micro_steps)


def test_two_billion_parameters_take_zero_1_on_80_gib():
    """49 GB of DDP beside 32 GB of activations are too much; ZeRO-1 needs 29 GB beside them."""
    assert taken(80) == (1, 1)


def test_the_simplest_that_fits_is_taken():
    assert taken(200) == ("ddp", 1)
    assert taken(58) == (2, 1), "22.4 GB beside the activations"
    assert taken(48) == (3, 1)
    assert taken(30) is None


def test_more_micro_steps_come_before_zero_3_and_after_zero_2():
    assert taken(48, splits=(1, 2, 4)) == (1, 2)
    assert taken(58, splits=(1, 2, 4)) == (2, 1)
    assert taken(24, splits=(1, 2, 4)) == (3, 4)


def test_time_by_hand():
    step = dataclasses.replace(STEP, forward_flops=10**13, backward_flops=2 * 10**13, sent=())
    recipe = tiny("model.geo.enabled=false", "loss.alpha=0")
    alone = estimate(recipe, TWO_BILLION, step, "ddp", 2, 3, cluster(1), 1)
    assert alone.compute_s == pytest.approx(3 * 3e13 / (0.2 * 312e12)) and alone.exposed_s == 0
    assert alone.efficiency == 1 and alone.step_s == alone.compute_s
    slow = dataclasses.replace(cluster(), network=Network(1, 1, 8))
    joined = estimate(recipe, TWO_BILLION, step, "ddp", 2, 3, slow, 8)
    backward_s, gradients_s = 2e13 / (0.2 * 312e12), 2 * 7 / 8 * 8e9 * 8 / 1e9
    assert joined.exposed_s == pytest.approx(gradients_s - backward_s, rel=0.01)
    assert joined.efficiency == pytest.approx(
        joined.compute_s / (joined.compute_s + gradients_s - backward_s), rel=0.01
    )


def test_a_batch_that_cannot_be_shared_names_what_can():
    assert batch_per_gpu(load_recipe("skysense_paper"), 80) == 3
    with pytest.raises(
        InputError, match=r"global_batch 240 cannot be shared by 64 GPUs.*--global-batch 256 or --gpus 60"
    ):
        plan_training(load_recipe("skysense_paper"), cluster(64))


def test_the_paper_recipe_takes_zero_1_on_80_gpus():
    """24,600 A100-hours in the paper, from which the share of the peak is taken: the rest is waiting."""
    plan = plan_training(load_recipe("skysense_paper"), cluster(80))
    chosen = plan.chosen
    assert (chosen.stage, chosen.micro_batch, chosen.micro_steps) == (1, 3, 1)
    assert not plan.estimates["ddp"].memory.fits(80 * GIB)
    assert 55 * GIB < chosen.memory.total < 65 * GIB
    operations = (plan.step.forward_flops + plan.step.backward_flops) / 3
    assert operations == pytest.approx(4 * 6.58e12, rel=0.05), "the reference's count without heads, 3 G + G"
    assert 24_600 < plan.gpu_hours < 27_000
    efficiencies = [plan.scaling[n].efficiency for n in (8, 32, 128)]
    assert 0.9 < efficiencies[2] < efficiencies[1] < efficiencies[0] < 1
    assert closing_line(plan).startswith(
        "take ZeRO-1 with a micro batch of 3 per GPU, train.micro_steps=1: 61.2 GiB of"
    )


def test_a_plan_for_one_gpu_sends_nothing_and_knows_what_more_would():
    plan = plan_training(tiny("train.global_batch=2"), cluster(1))
    assert plan.chosen.stage == "ddp" and plan.chosen.traffic == [] and plan.chosen.efficiency == 1
    assert plan.scaling[8].efficiency < 1
    losses = {n: sum(t.bytes for t in e.traffic if t.what == "losses") for n, e in plan.scaling.items()}
    assert losses[32] == pytest.approx(4 * losses[8], rel=0.01) and losses[8] > 0


def test_a_plan_in_which_nothing_fits_says_so():
    plan = plan_training(tiny("train.global_batch=2"), cluster(2, gib=2.05))
    assert plan.chosen is None
    assert closing_line(plan).startswith(
        "nothing fits: ZeRO-3 with a micro batch of 1 per GPU, train.micro_steps=1 needs"
    )
    assert as_values(plan)["chosen"] is None
    assert [t.row_count for t in describe_training(plan)][2:] == [5, 2 + 3 + 3 + 3 + 4 + 5, 5, 3], "5 of all"


def test_out_of_memory_tells_the_estimate_and_what_to_change():
    recipe = tiny("train.global_batch=8")
    need = plan_training(recipe, cluster(1)).estimates["ddp"].memory
    sentence = out_of_memory(recipe, "ddp", cluster(1, gib=2 + (need.total - 0.2 * need.activations) / GIB / 0.95))
    assert sentence.startswith(
        "skysense_demo: out of GPU memory at the start; DDP with a micro batch of 8 per GPU needs"
    )
    assert f"{need.total / GIB:.1f} GiB ({need.activations / GIB:.1f} GiB of it activations)" in sentence
    assert "use train.micro_steps=2 (" in sentence and "recomputed activations" in sentence
    assert "\n" not in sentence
