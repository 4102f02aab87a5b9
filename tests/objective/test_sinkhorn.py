"""Sinkhorn against the multiplicative loop, the golden self-distillation file, and two ranks."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from skyframe.objective.sinkhorn import sinkhorn, sinkhorn_targets
from tests.distributed import run_ranks

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "dino" / "self_distillation.safetensors"


def _scores(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def _slow_sinkhorn(scores: Tensor, eps: float, iterations: int) -> Tensor:
    q = torch.exp(scores.double() / eps)
    for _ in range(iterations):
        q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return q


def _slow_targets(logits: Tensor, temp: float, iterations: int) -> Tensor:
    q = torch.exp(logits.double() / temp).T
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(1, keepdim=True) * q.shape[0]
        q /= q.sum(0, keepdim=True) * q.shape[1]
    return (q * q.shape[1]).T


@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_equals_the_slow_form(iterations: int) -> None:
    scores = _scores(40, 7)
    slow = _slow_sinkhorn(scores, 0.05, iterations)
    torch.testing.assert_close(sinkhorn(scores, 0.05, iterations).double(), slow, rtol=2e-5, atol=1e-9)


def test_two_by_two_by_hand() -> None:
    # exp(scores / 1) = [[3, 1], [1, 1]]; the balanced matrix has a/b = sqrt(3) and a + b = 1/2
    scores = torch.tensor([[3.0, 1.0], [1.0, 1.0]]).log()
    a = 0.5 * 3**0.5 / (1 + 3**0.5)
    expected = torch.tensor([[a, 0.5 - a], [0.5 - a, a]])
    torch.testing.assert_close(sinkhorn(scores, 1.0, 200), expected)


def test_marginals_after_100_iterations() -> None:
    assignment = sinkhorn(_scores(2, 3, 64, 10), 0.05, 100)
    torch.testing.assert_close(assignment.sum(-2), torch.full((2, 3, 10), 1 / 10), rtol=1e-6, atol=0)
    torch.testing.assert_close(assignment.sum(-1), torch.full((2, 3, 64), 1 / 64), rtol=1e-4, atol=0)


def test_invalid_rows_are_exactly_zero_and_take_no_part() -> None:
    scores = _scores(2, 12, 4)
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[0, 3] = valid[0, 11] = valid[1, 0] = False
    poisoned = scores.masked_fill(~valid[..., None], float("nan"))
    assignment = sinkhorn(poisoned, 0.1, 5, valid)
    assert (assignment[~valid] == 0).all()
    for i in range(2):
        torch.testing.assert_close(assignment[i, valid[i]], sinkhorn(scores[i, valid[i]], 0.1, 5))


def test_no_valid_row_gives_zeros() -> None:
    assert (sinkhorn(_scores(3, 4), 0.05, 3, torch.zeros(3, dtype=torch.bool)) == 0).all()


def test_adversarial_rows_stay_finite_and_balanced_at_small_eps() -> None:
    scores = _scores(32, 8)
    scores[0] = 1.0
    scores[1] = -1.0
    scores[2] = torch.tensor([1.0] + [-1.0] * 7)
    scores[3] = 50.0
    scores[4] = torch.tensor([-50.0] + [50.0] * 7)
    assignment = sinkhorn(scores, 0.005, 10)
    assert assignment.isfinite().all()
    torch.testing.assert_close(assignment.sum(0), torch.full((8,), 1 / 8), rtol=1e-6, atol=0)


def test_fp32_whatever_the_input_and_autocast() -> None:
    scores = _scores(16, 4).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = sinkhorn(scores, 0.05, 3)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, sinkhorn(scores.float(), 0.05, 3))
    assert not sinkhorn(_scores(3, 2).requires_grad_(), 0.05, 3).requires_grad


def test_golden_sinkhorn_targets() -> None:
    golden = load_file(GOLDEN)
    for i in range(3):
        targets = sinkhorn_targets(golden[f"teacher_logits.{i}"], 0.05, 3)
        assert (targets - golden[f"sinkhorn_targets.{i}"]).abs().max() <= 1e-6
    nudged = golden["teacher_logits.0"].clone()
    nudged[0, 0] += 0.01
    assert (sinkhorn_targets(nudged, 0.05, 3) - golden["sinkhorn_targets.0"]).abs().max() > 1e-6


def test_targets_equal_the_slow_form_and_rows_sum_to_one() -> None:
    logits = _scores(20, 6)
    targets = sinkhorn_targets(logits, 0.1, 4)
    torch.testing.assert_close(targets.double(), _slow_targets(logits, 0.1, 4), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(targets.sum(1), torch.ones(20))


def test_targets_of_no_rows() -> None:
    assert sinkhorn_targets(_scores(9, 5)[:0], 0.1, 3).shape == (0, 5)


def test_targets_stay_finite_at_a_small_temperature() -> None:
    logits = _scores(12, 5) * 30
    targets = sinkhorn_targets(logits, 0.005, 3)
    assert targets.isfinite().all()
    torch.testing.assert_close(targets.sum(1), torch.ones(12))


def _targets_of_part(rank: int, world: int, logits: Tensor, splits: list[list[int]]) -> list[Tensor]:
    return [sinkhorn_targets(torch.split(logits, split)[rank], 0.05, 3) for split in splits]


def test_two_ranks_equal_one_also_ragged_and_empty() -> None:
    logits = load_file(GOLDEN)["teacher_logits.0"]
    splits = [[6, 6], [9, 3], [0, 12]]
    ranks = run_ranks(_targets_of_part, logits, splits)
    whole = sinkhorn_targets(logits, 0.05, 3)
    for number in range(len(splits)):
        joined = torch.cat([result[number] for result in ranks])
        assert (joined - whole).abs().max() <= 1e-6
