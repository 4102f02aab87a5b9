"""Collectives: the identity alone, the joined result on two real gloo processes."""

import time

import pytest
import torch
from torch import Tensor

from skyframe import dist
from tests.distributed import run_ranks


def test_alone_every_collective_is_the_identity() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    assert (dist.active(), dist.rank(), dist.world_size()) == (False, 0, 1)
    assert torch.equal(dist.all_sum(rows), rows.detach()) and not dist.all_sum(rows).requires_grad
    assert torch.equal(dist.all_max(rows), rows.detach())
    assert dist.gather_rows(rows) is rows
    layer = torch.nn.Linear(2, 2)
    with dist.full_parameters(layer.parameters()):
        layer.weight.data.fill_(1.0)
    assert float(layer.weight.detach().sum()) == 4.0


def test_all_sum_returns_a_new_tensor() -> None:
    values = torch.ones(3)
    dist.all_sum(values).add_(1.0)
    assert values.tolist() == [1.0, 1.0, 1.0]


def _loss_of(rows: Tensor) -> Tensor:
    """Couples every row with every other one."""
    return ((rows @ rows.T) ** 3).sum()


def _collectives(rank: int, world: int, joined: Tensor) -> dict[str, object]:
    mine = joined.chunk(world)[rank].clone().requires_grad_()
    gathered = dist.gather_rows(mine)
    _loss_of(gathered).backward()
    return {
        "who": (dist.active(), dist.rank(), dist.world_size()),
        "sum": dist.all_sum(mine),
        "max": dist.all_max(mine),
        "integers": dist.all_sum(torch.tensor([2**40 + rank])),
        "gathered": gathered.detach(),
        "grad": mine.grad,
    }


def _raise_on_one(rank: int, world: int) -> Tensor:
    if rank == 1:
        raise ValueError("rank one gives up")
    return dist.all_sum(torch.ones(1))


def _never_joined(rank: int, world: int) -> None:
    if rank == 0:
        dist.all_sum(torch.ones(1))  # rank 1 never comes
    else:
        time.sleep(60.0)


def test_two_ranks_give_the_joined_result() -> None:
    joined = torch.arange(12, dtype=torch.float32).reshape(4, 3) / 7 - 0.8
    ranks = run_ranks(_collectives, joined)
    reference = joined.clone().requires_grad_()
    _loss_of(reference).backward()
    assert reference.grad is not None
    for number, result in enumerate(ranks):
        assert result["who"] == (True, number, 2)
        assert torch.allclose(result["sum"], joined[:2] + joined[2:])
        assert torch.equal(result["max"], torch.maximum(joined[:2], joined[2:]))
        assert result["integers"].tolist() == [2**41 + 1]
        assert torch.equal(result["gathered"], joined)
        # both ranks computed the whole loss, so each holds `world` times its share
        torch.testing.assert_close(result["grad"] / 2, reference.grad.chunk(2)[number])


def test_a_failing_rank_fails_the_call_with_its_traceback() -> None:
    with pytest.raises(AssertionError, match="rank one gives up"):
        run_ranks(_raise_on_one)


def test_a_hung_collective_fails_the_call_in_time() -> None:
    started = time.monotonic()
    with pytest.raises(AssertionError, match="not ended after 4 s"):
        run_ranks(_never_joined, timeout_s=4.0)
    assert time.monotonic() - started < 30.0


@pytest.mark.parametrize(
    ("environment", "leads"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),  # a second node: Lightning's own launcher
        ({"LOCAL_RANK": "0", "RANK": "4", "GROUP_RANK": "1"}, False),  # torchrun
        ({"SLURM_PROCID": "8", "SLURM_LOCALID": "0"}, False),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),  # inherited from an interactive job
        ({"SLURM_PROCID": "0", "RANK": "0", "LOCAL_RANK": "0"}, True),
    ],
)
def test_one_process_of_a_run_leads(environment, leads, monkeypatch) -> None:
    for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert dist.is_leader() is leads
