"""Prototype statistics, their merge over samples and ranks, and an update that keeps its scale."""

import torch
import torch.nn.functional as F
from torch import Tensor

from skyframe.objective.prototype import merge_regions, prototype_statistics, updated_prototypes
from skyframe.objective.sinkhorn import sinkhorn
from tests.distributed import run_ranks


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_statistics_equal_the_slow_form() -> None:
    features, bank = _normal(3, 20, 6), F.normalize(_normal(3, 5, 6, seed=1), dim=-1)
    valid = torch.ones(3, 20, dtype=torch.bool)
    valid[1, 4:9] = False
    num, den = prototype_statistics(features, valid, bank, 0.05, 3)
    for k in range(3):
        rows = features[k, valid[k]]
        assignment = sinkhorn(F.cosine_similarity(rows[:, None], bank[k][None], dim=-1), 0.05, 3)
        slow_num = sum(assignment[i][:, None] * rows[i][None] for i in range(len(rows)))
        torch.testing.assert_close(num[k], slow_num, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(den[k], torch.full((5,), 1 / 5))


def test_statistics_never_read_invalid_positions_and_carry_no_gradient() -> None:
    features, bank = _normal(2, 8, 4), _normal(2, 3, 4, seed=1)
    valid = torch.tensor([[True] * 6 + [False] * 2, [False] * 8])
    clean = prototype_statistics(features, valid, bank, 0.05, 3)
    poisoned = features.masked_fill(~valid[..., None], float("nan")).requires_grad_()
    num, den = prototype_statistics(poisoned, valid, bank, 0.05, 3)
    assert torch.equal(num, clean[0]) and torch.equal(den, clean[1])
    assert not num.requires_grad and (num[1] == 0).all() and (den[1] == 0).all()


def test_merge_by_hand() -> None:
    num = torch.tensor([[[1.0, 2.0]], [[10.0, 20.0]], [[100.0, 200.0]], [[7.0, 7.0]]])
    ids, total, mass = merge_regions(torch.tensor([5, 2, 5, -1]), num, torch.tensor([[0.5], [0.25], [1.0], [9.0]]))
    assert ids.tolist() == [2, 5]
    assert total.tolist() == [[[10.0, 20.0]], [[101.0, 202.0]]] and mass.tolist() == [[0.25], [1.5]]


def test_merge_of_nothing() -> None:
    ids, num, den = merge_regions(torch.tensor([-1, -1]), _normal(2, 3, 4), _normal(2, 3))
    assert ids.shape == (0,) and num.shape == (0, 3, 4) and den.shape == (0, 3)


def test_update_by_hand_keeps_scale_and_untouched_columns() -> None:
    old = torch.tensor([[[1.0, 1.0], [3.0, -3.0]]])
    num, den = torch.tensor([[[0.02, 0.04], [5.0, 5.0]]]), torch.tensor([[0.01, 0.0]])
    new = updated_prototypes(old, num, den, 0.9)
    torch.testing.assert_close(new[0, 0], torch.tensor([0.9 + 0.1 * 2.0, 0.9 + 0.1 * 4.0]))
    assert torch.equal(new[0, 1], old[0, 1]) and new.dtype == torch.float32
    bare = torch.tensor([[[0.1 + 1e-9, 0.3]]])
    assert torch.equal(updated_prototypes(bare, torch.full((1, 1, 2), torch.nan), torch.zeros(1, 1), 0.5), bare)


def test_norms_stay_at_the_features_scale_over_200_updates() -> None:
    bank = F.normalize(_normal(1, 10, 8), dim=-1)
    modes = 4.0 * F.normalize(_normal(10, 8, seed=2), dim=-1)
    features = torch.zeros(0)
    for step in range(200):
        features = modes.repeat(6, 1) + 0.3 * _normal(60, 8, seed=10 + step)
        stats = prototype_statistics(features[None], torch.ones(1, 60, dtype=torch.bool), bank, 0.05, 3)
        _, num, den = merge_regions(torch.zeros(1, dtype=torch.int64), *stats)
        bank = updated_prototypes(bank, num, den, 0.95)
    ratio = float(bank.norm(dim=-1).mean() / features.norm(dim=-1).mean())
    assert 0.5 < ratio < 2.0


REGION = torch.tensor([3, 0, 3, 7, -1, 3])


def _samples() -> tuple[Tensor, Tensor, Tensor]:
    return _normal(6, 30, 5), torch.rand(6, 30, generator=torch.Generator().manual_seed(3)) > 0.3, _normal(8, 4, 5)


def _bank_after(rows: slice, bank: Tensor) -> Tensor:
    features, valid, _ = _samples()
    region = REGION[rows]
    num, den = prototype_statistics(features[rows], valid[rows], bank[region.clamp(min=0)], 0.05, 3)
    ids, num, den = merge_regions(region, num, den)
    after = bank.clone()
    after[ids] = updated_prototypes(bank[ids], num, den, 0.9)
    return after


def _on_rank(rank: int, world: int, cuts: list[int]) -> list[Tensor]:
    bank = _samples()[2]
    return [_bank_after(slice(0, cut) if rank == 0 else slice(cut, 6), bank) for cut in cuts]


def test_two_ranks_equal_one_whatever_the_split_and_absent_regions_are_bit_identical() -> None:
    bank = _samples()[2]
    whole = _bank_after(slice(0, 6), bank)
    present = [0, 3, 7]
    absent = [r for r in range(8) if r not in present]
    assert torch.equal(whole[absent], bank[absent]) and (whole[present] != bank[present]).any((1, 2)).all()
    cuts = [3, 1, 6]  # the last leaves rank 1 without a sample
    for result in run_ranks(_on_rank, cuts):
        for after in result:
            assert torch.equal(after[absent], bank[absent])
            torch.testing.assert_close(after, whole, rtol=0, atol=1e-6)
