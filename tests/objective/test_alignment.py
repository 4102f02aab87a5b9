"""Alignment against a naive loop, with absent places, and on two ranks."""

import torch
import torch.nn.functional as F
from torch import Tensor

from skyframe.objective.alignment import alignment
from tests.distributed import run_ranks


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _slow(a: Tensor, b: Tensor, present: Tensor, temp: float) -> Tensor:
    rows = present.nonzero().flatten().tolist()
    loss = torch.zeros(len(a))
    for i in rows:
        for x, y in ((a, b), (b, a)):
            similar = torch.stack([F.cosine_similarity(x[i], y[j], dim=0) / temp for j in rows])
            loss[i] += 0.5 * (similar.logsumexp(0) - similar[rows.index(i)])
    return loss


def test_equals_the_slow_form() -> None:
    a, b = _normal(6, 5), _normal(6, 5, seed=1)
    present = torch.tensor([True, True, False, True, False, True])
    torch.testing.assert_close(alignment(a, b, present, 0.07), _slow(a, b, present, 0.07), rtol=1e-5, atol=1e-5)


def test_two_places_by_hand() -> None:
    # unit features agree at home (1) and are orthogonal abroad (0): CE = log(1 + exp(-1 / temp))
    eye = torch.eye(2)
    loss = alignment(3 * eye, 5 * eye, torch.ones(2, dtype=torch.bool), 0.5)
    torch.testing.assert_close(loss, torch.log1p(torch.exp(torch.tensor([-2.0, -2.0]))))


def test_agreement_lowers_and_shuffling_raises_it() -> None:
    a, present = _normal(16, 8), torch.ones(16, dtype=torch.bool)
    near, far = a + 0.1 * _normal(16, 8, seed=1), a + 1.0 * _normal(16, 8, seed=1)
    agreeing = alignment(a, near, present, 0.1).mean()
    assert agreeing < alignment(a, far, present, 0.1).mean()
    assert agreeing < alignment(a, near.roll(1, 0), present, 0.1).mean() - 1.0


def test_absent_places_are_never_read() -> None:
    present = torch.tensor([True, False, True, False])
    a, b = _normal(4, 3), _normal(4, 3, seed=1)
    poisoned = a.clone()
    poisoned[1], poisoned[3] = float("nan"), float("inf")
    poisoned.requires_grad_()
    loss = alignment(poisoned, b, present, 0.07)
    torch.testing.assert_close(loss, alignment(a, b, present, 0.07))
    loss.sum().backward()
    assert poisoned.grad is not None and poisoned.grad.isfinite().all() and (poisoned.grad[~present] == 0).all()


def test_fewer_than_two_places_give_zero_loss_and_gradient() -> None:
    for count in (0, 1):
        a, b = _normal(3, 4).requires_grad_(), _normal(3, 4, seed=1).requires_grad_()
        loss = alignment(a, b, torch.arange(3) < count, 0.07)
        assert (loss == 0).all()
        loss.sum().backward()
        assert a.grad is not None and b.grad is not None
        assert (a.grad.abs() < 1e-6).all() and (b.grad.abs() < 1e-6).all()


def test_fp32_under_autocast() -> None:
    a, b, present = _normal(4, 8).bfloat16(), _normal(4, 8, seed=1).bfloat16(), torch.ones(4, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = alignment(a, b, present, 0.07)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, alignment(a.float(), b.float(), present, 0.07))


def _gradient(x: Tensor, y: Tensor, present: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Losses, and the gradient of a shared projection as the strategy would see it."""
    weight = torch.eye(x.shape[1]).requires_grad_()
    loss = alignment(x @ weight, y @ weight.T, present, 0.2)
    (loss.sum() * scale).backward()
    assert weight.grad is not None
    return loss.detach(), weight.grad


def _on_rank(rank: int, world: int, x: Tensor, y: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    mine = slice(rank * 4, rank * 4 + 4)
    loss, grad = _gradient(x[mine], y[mine], present[mine], world / len(x))
    torch.distributed.all_reduce(grad)
    return loss, grad / world


def test_two_ranks_give_the_loss_and_gradient_of_one() -> None:
    x, y = _normal(8, 5), _normal(8, 5, seed=1)
    for present in (torch.ones(8, dtype=torch.bool), torch.tensor([True, False, True, True] + [False] * 4)):
        loss, grad = _gradient(x, y, present, 1 / 8)
        ranks = run_ranks(_on_rank, x, y, present)
        torch.testing.assert_close(torch.cat([r[0] for r in ranks]), loss)
        for _, mean_grad in ranks:
            torch.testing.assert_close(mean_grad, grad, rtol=1e-5, atol=1e-6)
