"""Memory per rank: against what a real step holds, and every strategy by hand."""

import pytest
import torch
from torch import nn

from skyframe.train.deepspeed_config import bucket_elements
from skyframe.train.estimate.memory import RESERVE_BYTES, Part, memory_of, parts_of, usable
from skyframe.train.estimate.model import loss_of, system_on_meta, windows_on_meta
from skyframe.train.estimate.rehearsal import rehearse
from tests.train.estimate.test_network import STEP
from tests.train.estimate.whole import most_held, small, system, tiny, windows

TWO_BILLION = [
    Part("student", 2_000_000_000, 0, 0),
    Part("teacher", 0, 2_000_000_000, 0),
    Part("bank", 0, 0, 800_000_000),
]


def size(tensors) -> int:
    return sum(t.untyped_storage().nbytes() for t in {t.untyped_storage()._cdata: t for t in tensors}.values())


def count(module: nn.Module, trained: bool) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad == trained)


@pytest.mark.parametrize("overrides", [(), ("loss.cl=dino", "loss.sources=[]")], ids=["infonce", "dino"])
def test_what_is_held_after_a_real_step_is_foretold(overrides):
    """Weights, gradients, moments, teacher and buffers of one process: byte by byte, but AdamW's counters."""
    recipe = tiny(*overrides)
    real, parts = system(recipe), parts_of(system_on_meta(recipe))
    optimizer = torch.optim.AdamW([p for p in real.parameters() if p.requires_grad])
    loss_of(recipe, real, windows(recipe, 1)).backward()
    optimizer.step()
    real.after_step(0.0)
    told = memory_of(parts, STEP, "ddp", 1)
    towers = [*real.teacher.parameters(), *real.teacher_heads.parameters()]
    held = {id(p) for p in towers}
    assert told.teacher == size(towers)
    assert told.parameters == size(p for p in real.parameters() if id(p) not in held)
    assert told.gradients == size(p.grad for p in real.parameters() if p.grad is not None)
    moments = size(t for state in optimizer.state.values() for t in state.values())
    assert told.optimizer == pytest.approx(moments, rel=1e-3)
    assert told.bank == size(real.buffers())
    assert told.buckets == told.gradients, "DDP's"


@pytest.mark.parametrize(("recipe", "samples"), [(tiny(), 2), (small(), 1)], ids=["tiny", "small"])
def test_the_most_that_a_whole_optimizer_step_holds_is_foretold(recipe, samples):
    """Weights, moments, teacher and all that PyTorch's profiler saw come and go from the forward pass to the end of
    `after_step`, in Lightning's order, with AdamW as on a GPU: within 10 %."""
    made = system_on_meta(recipe)
    step = rehearse(made, lambda: loss_of(recipe, made, windows_on_meta(recipe, samples)), bf16=False)
    told = memory_of(parts_of(made), step, "ddp", 1)
    real, batch = system(recipe), windows(recipe, samples)
    real.set_progress(0.0, watched=False)
    optimizer = torch.optim.AdamW([p for p in real.parameters() if p.requires_grad], foreach=True)
    optimizer.step()
    optimizer.zero_grad()
    moments = [t for state in optimizer.state.values() for t in state.values()]
    there = size([*real.parameters(), *real.buffers(), *moments])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        for p in real.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None  # of the step before: there till the loss is
        loss = loss_of(recipe, real, batch)
        optimizer.zero_grad()
        loss.backward()
        del loss
        optimizer.step()
        real.after_step(0.0)
    assert told.total - told.buckets == pytest.approx(there + most_held(profiler), rel=0.1)


@pytest.mark.parametrize("recipe", [tiny(), small()], ids=["tiny", "small"])
def test_parts_hold_every_parameter_and_buffer_once(recipe):
    made, parts = system_on_meta(recipe), parts_of(system_on_meta(recipe))
    assert sum(p.trainable for p in parts) == count(made, trained=True)
    assert sum(p.frozen for p in parts) == count(made, trained=False)
    shared = {id(b): b for b in made.buffers()}.values()
    assert sum(p.buffer_bytes for p in parts) == sum(b.nbytes for b in shared)
    by_name = {p.name: p for p in parts}
    assert by_name["student.fusion"].trainable == count(made.student.fusion, trained=True)
    assert by_name["student.spatial.s2"].trainable == count(made.student.spatial["s2"], trained=True)
    assert by_name["student.geo"].buffer_bytes == made.student.geo.bank.nbytes
    assert by_name["teacher.geo"].buffer_bytes == 0, "the bank is one"


def test_strategies_by_hand_for_two_billion_parameters_on_eight_gpus():
    """GB (10^9 bytes) of weights, gradients, optimizer, teacher, bank and buckets."""

    def told(stage):
        m = memory_of(TWO_BILLION, STEP, stage, 8)
        return [x / 1e9 for x in (m.parameters, m.gradients, m.optimizer, m.teacher, m.bank, m.buckets)]

    assert told("ddp") == [8, 8, 16, 8, 0.8, 8]
    assert told(0) == [8, 8, 16, 8, 0.8, 2], "half a billion gradients at a time"
    assert told(1) == [8, 8, 3, 8, 0.8, 1.6]
    assert told(2) == [8, 1, 3, 8, 0.8, 1.6]
    whole = 4 * (600_000 + 16) / 1e9  # what STEP's modules need at a time, and a small one padded
    assert told(3) == pytest.approx([1, 1, 3, 1, 0.8, 1.6 + whole])
    assert 4 * bucket_elements(2_000_000_000) == 8e8


def test_activations_are_the_larger_of_a_pass_and_the_optimizers_temporaries():
    few = [Part("student", 10, 0, 0)]
    assert memory_of(few, STEP, "ddp", 1).activations == STEP.peak_bytes
    assert memory_of(few, STEP, "ddp", 1, micro_steps=4).activations == STEP.peak_bytes + 3 * STEP.kept_bytes
    assert memory_of(TWO_BILLION, STEP, "ddp", 8).activations == 4 * 2_000_000_000
    assert memory_of(TWO_BILLION, STEP, 1, 8).activations == 8 * 2_000_000_000 // 8


def test_a_device_is_filled_up_to_its_usable_share():
    whole = 80 * 2**30
    assert usable(whole) == pytest.approx(0.95 * (whole - RESERVE_BYTES), abs=1)
    held = memory_of(TWO_BILLION, STEP, 1, 8)
    assert held.total == sum(vars(held).values())
    fitting = int(held.total / 0.95) + RESERVE_BYTES + 2
    assert held.fits(fitting) and not held.fits(fitting - 10)
