"""Prototype sums over the samples of all ranks, and an update that keeps its scale."""

import torch
import torch.nn.functional as F
from torch import Tensor

from skyframe.objective.prototype import prototype_sums, updated_prototypes
from skyframe.objective.sinkhorn import sinkhorn
from tests.distributed import run_ranks


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_sums_equal_the_slow_form_over_all_rows_of_a_region() -> None:
    features, bank = _normal(50, 6), _normal(4, 5, 6, seed=1)
    region = torch.tensor([3, 0, 3, -1, 0]).repeat(10)
    ids, num, den = prototype_sums(features, region, bank, 0.05, 3)
    assert ids.tolist() == [0, 3]
    for k, r in enumerate(ids.tolist()):
        rows = features[region == r]
        common = bank[r].mean(0)
        cosine = F.cosine_similarity(rows[:, None] - common, bank[r][None] - common, dim=-1)
        assignment = sinkhorn(cosine, 0.05, 3)
        slow = sum(assignment[i][:, None] * rows[i][None] for i in range(len(rows)))
        torch.testing.assert_close(num[k].float(), slow, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(den[k].float(), torch.full((5,), 1 / 5))


def test_sums_carry_no_gradient_and_survive_a_tiny_eps() -> None:
    features, bank = _normal(8, 4).requires_grad_(), _normal(2, 3, 4, seed=1)
    _, num, den = prototype_sums(features, torch.zeros(8, dtype=torch.int64), bank, 1e-5, 3)
    assert not num.requires_grad and num.isfinite().all() and den.isfinite().all()


def test_prototypes_of_a_region_part_where_its_samples_differ() -> None:
    bank = F.normalize(_normal(1, 2, 4), dim=-1)
    kinds = torch.eye(4)[:2] * 3.0
    for _ in range(60):  # each sample alone shows one kind of ground
        _, num, den = prototype_sums(kinds.repeat_interleave(16, 0), torch.zeros(32, dtype=torch.int64), bank, 0.05, 3)
        bank = updated_prototypes(bank, num, den, 0.9)
    assert (F.normalize(bank[0], dim=-1) @ torch.eye(4)[:2].T).max(0).values.min() > 0.99


def test_prototypes_find_the_kinds_under_a_large_common_part() -> None:
    common, kinds = 12.0 * F.normalize(_normal(16, seed=3), dim=0), torch.eye(16)[:4]
    bank = F.normalize(_normal(1, 4, 16), dim=-1)
    for step in range(80):
        features = common + kinds.repeat_interleave(20, 0) + 0.2 * _normal(80, 16, seed=20 + step)
        _, num, den = prototype_sums(features, torch.zeros(80, dtype=torch.int64), bank, 0.05, 3)
        bank = updated_prototypes(bank, num, den, 0.9)
    found = torch.cdist(bank[0] - common, kinds).min(0)
    assert found.values.max() < 0.3 and len(found.indices.unique()) == 4


def test_sums_of_nothing() -> None:
    ids, num, den = prototype_sums(_normal(2, 4), torch.tensor([-1, -1]), _normal(5, 3, 4), 0.05, 3)
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
        _, num, den = prototype_sums(features, torch.zeros(60, dtype=torch.int64), bank, 0.05, 3)
        bank = updated_prototypes(bank, num, den, 0.95)
    ratio = float(bank.norm(dim=-1).mean() / features.norm(dim=-1).mean())
    assert 0.5 < ratio < 2.0


REGION = torch.tensor([3, 0, 3, 7, -1, 3]).repeat_interleave(30)


def _bank_after(rows: slice, bank: Tensor) -> Tensor:
    ids, num, den = prototype_sums(_normal(180, 5)[rows], REGION[rows], bank, 0.05, 3)
    after = bank.clone()
    after[ids] = updated_prototypes(bank[ids], num, den, 0.9)
    return after


def _on_rank(rank: int, world: int, cuts: list[int]) -> list[Tensor]:
    bank = _normal(8, 4, 5, seed=1)
    return [_bank_after(slice(0, cut) if rank == 0 else slice(cut, 180), bank) for cut in cuts]


def test_two_ranks_equal_one_whatever_the_split_and_absent_regions_are_bit_identical() -> None:
    bank = _normal(8, 4, 5, seed=1)
    whole = _bank_after(slice(0, 180), bank)
    present = [0, 3, 7]
    absent = [r for r in range(8) if r not in present]
    assert torch.equal(whole[absent], bank[absent]) and (whole[present] != bank[present]).any((1, 2)).all()
    cuts = [77, 1, 180]  # the last leaves rank 1 without a row
    for result in run_ranks(_on_rank, cuts):
        for after in result:
            assert torch.equal(after[absent], bank[absent])
            torch.testing.assert_close(after, whole, rtol=0, atol=1e-6)
