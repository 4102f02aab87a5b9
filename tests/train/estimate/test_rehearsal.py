"""Counts on the meta device: operations by hand, memory against what a real step on the CPU holds."""

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as td
from torch.autograd.graph import saved_tensors_hooks

from skyframe import dist
from skyframe.train.estimate.ledger import Ledger
from skyframe.train.estimate.model import loss_of, system_on_meta, windows_on_meta
from skyframe.train.estimate.rehearsal import (
    Rehearsal,
    Sent,
    assumed_whole,
    rehearse,
    standing_for,
    wire_bytes,
)
from tests.train.estimate.whole import most_held, small, system, tiny, windows


def on_meta(recipe, size: int, bf16: bool = False, num_ranks: int = 1) -> Rehearsal:
    made = system_on_meta(recipe)
    return rehearse(made, lambda: loss_of(recipe, made, windows_on_meta(recipe, size)), bf16, num_ranks)


def test_every_flag_counts_as_set():
    flags = torch.empty(3, 4, dtype=torch.bool, device="meta")
    with assumed_whole():
        assert flags.nonzero().shape == (12, 2)


def test_collectives_of_stand_in_ranks_are_written_down_and_torch_is_left_as_it_was():
    before = (td.all_reduce, td.is_initialized, td.get_world_size)
    rows = torch.ones(2, 3, device="meta", requires_grad=True)
    with standing_for(4) as sent:
        joined = dist.gather_rows(rows)
        dist.all_sum(torch.ones(5, dtype=torch.float64, device="meta"))
        joined.sum().backward()
    assert joined.shape == (8, 3)
    assert sent == [Sent("all_gather", 8 * 3 * 4), Sent("all_reduce", 5 * 8), Sent("all_reduce", 8 * 3 * 4)]
    assert before == (td.all_reduce, td.is_initialized, td.get_world_size) and not dist.active()


def test_bytes_on_the_wire_by_hand():
    assert wire_bytes(Sent("all_reduce", 1000), 4) == 1500 and wire_bytes(Sent("all_gather", 1000), 4) == 750
    assert wire_bytes(Sent("reduce_scatter", 1000), 4) == 750 and wire_bytes(Sent("all_reduce", 1000), 1) == 0


@pytest.mark.parametrize(("recipe", "bf16"), [(tiny(), False), (small(), True)])
def test_what_a_real_step_keeps_for_its_backward_pass_is_foretold(recipe, bf16):
    """Storages that autograd saves on the CPU, without parameters: within 10 % (2 % when written)."""
    told, real = on_meta(recipe, 1, bf16), system(recipe)
    batch = windows(recipe, 1)
    known = {t.untyped_storage()._cdata for t in (*real.parameters(), *real.buffers())}
    saved: dict[int, torch.Tensor] = {}

    def keep(x):
        saved[x.untyped_storage()._cdata] = x.detach()
        return x

    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext(), saved_tensors_hooks(keep, lambda x: x):
        total = loss_of(recipe, real, batch)
    measured = sum(x.untyped_storage().nbytes() for key, x in saved.items() if key not in known)
    assert total.isfinite() and measured > 10e6
    assert told.saved_bytes + told.copies_bytes == pytest.approx(measured, rel=0.1)
    assert (told.copies_bytes > 0) == bf16


def test_the_peak_of_a_real_step_is_foretold():
    """Against every allocation and release that PyTorch's profiler saw: within 10 % (3 % when written)."""
    recipe = tiny()
    told, real = on_meta(recipe, 2), system(recipe)
    batch = windows(recipe, 2)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        loss_of(recipe, real, batch).backward()
    assert told.peak_bytes == pytest.approx(most_held(profiler), rel=0.1)
    assert told.kept_bytes < 0.01 * told.peak_bytes


def test_operations_of_a_real_step_are_foretold():
    """Within 5 %: torch's table of operations lacks the CPU's fused attention, which the count on meta includes."""
    recipe = tiny()
    told, real = on_meta(recipe, 1), system(recipe)
    batch = windows(recipe, 1)
    with Ledger([*real.parameters(), *real.buffers()]) as ledger:
        total = loss_of(recipe, real, batch)
        forward = ledger.flops
        total.backward()
    assert told.forward_flops == pytest.approx(forward, rel=0.05)
    assert told.backward_flops == pytest.approx(ledger.flops - forward, rel=0.05)


@pytest.mark.parametrize("bf16", [False, True])
def test_recomputation_trades_memory_for_operations(bf16):
    recipe, made = tiny(), system_on_meta(tiny())

    def loss() -> torch.Tensor:
        return loss_of(recipe, made, windows_on_meta(recipe, 2))

    plain = rehearse(made, loss, bf16)
    for module in made.student.modules():
        if hasattr(module, "recompute"):
            module.recompute = True
    again = rehearse(made, loss, bf16)
    assert again.forward_flops == plain.forward_flops and again.saved_bytes < 0.6 * plain.saved_bytes
    assert 1.2 * plain.backward_flops < again.backward_flops < 1.6 * plain.backward_flops
