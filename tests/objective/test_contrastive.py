"""Self-distillation pieces against the golden file and against naive loops."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from skyframe import dist
from skyframe.objective.contrastive import (
    centred_targets,
    cross_entropy,
    info_nce,
    match_pixels,
    object_centres,
    per_sample_mean,
    sample_rows,
    update_center,
)
from skyframe.objective.sinkhorn import sinkhorn, sinkhorn_targets
from skyframe.randomness import Draw
from tests.distributed import run_ranks

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "dino" / "self_distillation.safetensors"


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _golden_errors(golden: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference of each golden quantity over the three consecutive steps."""
    center, worst = torch.zeros(32), dict.fromkeys(("targets", "loss", "sinkhorn_loss", "center"), 0.0)
    for i in range(3):
        student, teacher = golden[f"student_logits.{i}"], golden[f"teacher_logits.{i}"]
        targets = centred_targets(teacher, center, 0.05)
        loss = cross_entropy(student, targets, 0.1).mean()
        balanced = cross_entropy(student, sinkhorn_targets(teacher, 0.05, 3), 0.1).mean()
        center = update_center(center, teacher.sum(0), torch.tensor(len(teacher)), 0.9)
        for key, ours, theirs in (
            ("targets", targets, golden[f"centered_targets.{i}"]),
            ("loss", loss, golden[f"centered_loss.{i}"]),
            ("sinkhorn_loss", balanced, golden[f"sinkhorn_loss.{i}"]),
        ):
            worst[key] = max(worst[key], float((ours - theirs).abs().max()))
    worst["center"] = float((center - golden["center_after"][0]).abs().max())
    return worst


def test_golden_self_distillation() -> None:
    errors = _golden_errors(load_file(GOLDEN))
    assert max(errors.values()) <= 1e-6, errors


def test_golden_notices_a_perturbed_logit() -> None:
    golden = load_file(GOLDEN)
    golden["teacher_logits.0"][0, 0] += 0.01
    golden["student_logits.0"][0, 0] += 0.01
    errors = _golden_errors(golden)
    assert min(errors.values()) > 1e-6, errors


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, -5.0]])
    targets = torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.0, 0.0]])
    loss = cross_entropy(logits, targets, 0.5)
    softplus = torch.log1p(torch.exp(torch.tensor(-2.0)))
    torch.testing.assert_close(loss, torch.stack([torch.tensor(2.0).log(), softplus, torch.tensor(0.0)]))


def test_loss_of_equal_towers_is_the_teachers_entropy_and_no_less_elsewhere() -> None:
    logits = _normal(30, 16)
    targets = centred_targets(logits, torch.zeros(16), 0.1)
    entropy = -(targets * targets.log()).sum(-1)
    torch.testing.assert_close(cross_entropy(logits, targets, 0.1), entropy)
    assert (cross_entropy(_normal(30, 16, seed=1), targets, 0.1) >= entropy).all()


def test_no_gradient_reaches_the_teacher() -> None:
    teacher, student = _normal(4, 8).requires_grad_(), _normal(4, 8, seed=1).requires_grad_()
    cross_entropy(student, centred_targets(teacher, torch.zeros(8), 0.05), 0.1).sum().backward()
    cross_entropy(student, torch.softmax(teacher, -1), 0.1).sum().backward()
    assert teacher.grad is None and student.grad is not None


SAMPLE = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4])


def _slow_info_nce(student: Tensor, teacher: Tensor, sample: Tensor, temp: float) -> Tensor:
    unit = [v.double() / v.double().norm() for v in student], [v.double() / v.double().norm() for v in teacher]
    loss = []
    for i, row in enumerate(unit[0]):
        others = [j for j in range(len(sample)) if j == i or sample[j] != sample[i]]
        scores = {j: float((row * unit[1][j]).sum()) / temp for j in others}
        loss.append(-math.log(math.exp(scores[i]) / sum(math.exp(s) for s in scores.values())))
    return torch.tensor(loss)


def test_info_nce_equals_the_slow_form_and_by_hand() -> None:
    student, teacher = _normal(8, 6), _normal(8, 6, seed=1)
    torch.testing.assert_close(info_nce(student, teacher, SAMPLE, 0.2), _slow_info_nce(student, teacher, SAMPLE, 0.2))
    axes = torch.eye(2) * torch.tensor([[3.0], [0.5]])  # lengths do not matter
    expected = torch.log1p(torch.exp(torch.tensor([-2.0, -2.0])))
    torch.testing.assert_close(info_nce(axes, torch.eye(2), torch.arange(2), 0.5), expected)


def test_info_nce_of_a_lone_sample_has_no_negative_and_of_no_row_is_empty() -> None:
    alone = info_nce(_normal(3, 6), _normal(3, 6, seed=1), torch.full((3,), 7), 0.1)
    assert torch.equal(alone, torch.zeros(3))
    assert info_nce(_normal(0, 6), _normal(0, 6), SAMPLE[:0], 0.1).shape == (0,)


def test_info_nce_moves_the_student_towards_its_own_teacher_row_alone() -> None:
    student, teacher = _normal(8, 6).requires_grad_(), _normal(8, 6, seed=1).requires_grad_()
    info_nce(student, teacher, SAMPLE, 0.1).sum().backward()
    assert teacher.grad is None
    assert (student.grad.norm(dim=1) > 1e-3).all()
    with torch.no_grad():
        stepped = student - 0.01 * student.grad
    assert info_nce(stepped, teacher, SAMPLE, 0.1).sum() < info_nce(student, teacher, SAMPLE, 0.1).sum()


def _info_nce_of_part(rank: int, world: int, cut: int) -> tuple[Tensor, Tensor]:
    part = slice(None) if world == 1 else slice(cut) if rank == 0 else slice(cut, None)
    student, teacher = (_normal(8, 6, seed=seed)[part].clone() for seed in (0, 1))
    student.requires_grad_()
    loss = info_nce(student, teacher, SAMPLE[part], 0.1)
    loss.sum().backward()
    return loss.detach(), student.grad


@pytest.mark.parametrize("cut", [3, 6, 8])  # the last leaves rank 1 without a row
def test_info_nce_of_two_ragged_ranks_equals_one(cut: int) -> None:
    loss, grad = _info_nce_of_part(0, 1, 0)
    parts = run_ranks(_info_nce_of_part, cut)
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), grad, rtol=1e-5, atol=1e-6)


def test_center_by_hand_and_unchanged_without_rows() -> None:
    center = torch.tensor([1.0, -2.0])
    moved = update_center(center, torch.tensor([10.0, 30.0]), torch.tensor(10), 0.9)
    torch.testing.assert_close(moved, torch.tensor([0.9 + 0.1, -1.8 + 0.3]))
    assert torch.equal(update_center(center, torch.zeros(2), torch.tensor(0), 0.9), center)


def _center_of_part(rank: int, world: int, logits: Tensor) -> Tensor:
    mine = logits[:5] if rank == 0 else logits[5:]
    total, count = dist.all_sum(mine.double().sum(0)), dist.all_sum(torch.tensor(len(mine)))
    return update_center(torch.zeros(logits.shape[1]), total, count, 0.9)


def test_center_of_two_ragged_ranks_equals_one() -> None:
    logits = _normal(12, 6)
    expected = update_center(torch.zeros(6), logits.double().sum(0), torch.tensor(12), 0.9)
    for result in run_ranks(_center_of_part, logits):
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-7)


def _slow_centres(teacher: Tensor, student: Tensor, num: int, rounds: int) -> tuple[Tensor, Tensor]:
    """One frame, all positions valid, by the docstring."""
    unit = teacher / teacher.norm(dim=1, keepdim=True)
    stride = len(unit) // num
    seeds = [c * len(unit) // num + int(c * 0.6180339887498949 % 1.0 * stride) for c in range(num)]
    centres = unit[seeds]
    for _ in range(rounds):
        assignment = sinkhorn(unit @ centres.T, 0.05, 3)
        centres = F.normalize(assignment.T @ unit, dim=1)
    means = [
        torch.stack([(assignment[:, c, None] * side).sum(0) / assignment[:, c].sum() for c in range(num)])
        for side in (student, teacher)
    ]
    return means[0], means[1]


def test_object_centres_equal_the_slow_form_frame_by_frame() -> None:
    teacher, student = _normal(3, 20, 6), _normal(3, 20, 6, seed=1)
    valid = torch.ones(3, 20, dtype=torch.bool)
    valid[1, ::4] = False
    s, t, present = object_centres(teacher, student, valid, 4, 0.05, 3, 3)
    assert present.all() and s.shape == t.shape == (3, 4, 6)
    for f in range(3):
        slow_s, slow_t = _slow_centres(teacher[f, valid[f]], student[f, valid[f]], 4, 3)
        torch.testing.assert_close(s[f], slow_s, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(t[f], slow_t, rtol=1e-4, atol=1e-5)


def test_object_centres_find_the_two_objects_of_a_scene() -> None:
    rows = torch.tensor([[1.0, 0.0]] * 8 + [[0.0, 1.0]] * 8)[None]
    student = torch.tensor([[3.0]] * 8 + [[7.0]] * 8)[None].expand(1, 16, 2)
    s, t, _ = object_centres(rows, student, torch.ones(1, 16, dtype=torch.bool), 2, 0.05, 5, 3)
    torch.testing.assert_close(t[0], torch.eye(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(s[0, :, 0], torch.tensor([3.0, 7.0]), atol=1e-3, rtol=0)


def test_object_centres_of_equal_towers_are_equal_and_carry_gradient_to_the_student_alone() -> None:
    teacher, valid = _normal(2, 16, 4).requires_grad_(), torch.ones(2, 16, dtype=torch.bool)
    student = teacher.detach().clone().requires_grad_()
    s, t, _ = object_centres(teacher, student, valid, 4, 0.05, 3, 3)
    assert torch.equal(s, t) and not t.requires_grad
    s.sum().backward()
    # each position spreads a mass of about C / S over its centres
    assert student.grad is not None and teacher.grad is None
    torch.testing.assert_close(student.grad.sum((1, 2)), torch.full((2,), 16.0))


def test_object_centres_never_read_invalid_positions() -> None:
    teacher, student = _normal(2, 12, 4), _normal(2, 12, 4, seed=1)
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[0, 2:5] = False
    valid[1] = False
    clean = object_centres(teacher, student, valid, 3, 0.05, 3, 2)
    gap = ~valid[..., None]
    poisoned_student = student.masked_fill(gap, float("inf")).requires_grad_()
    poisoned = object_centres(teacher.masked_fill(gap, float("nan")), poisoned_student, valid, 3, 0.05, 3, 2)
    for one, other in zip(clean, poisoned, strict=True):
        assert torch.equal(one, other)
    assert poisoned[2].tolist() == [[True] * 3, [False] * 3] and (poisoned[0][1] == 0).all()
    poisoned[0].sum().backward()
    assert poisoned_student.grad is not None and poisoned_student.grad.isfinite().all()


def test_object_centres_with_fewer_positions_than_centres() -> None:
    teacher, valid = _normal(1, 6, 3), torch.tensor([[False, True, False, False, True, False]])
    s, t, present = object_centres(teacher, teacher, valid, 4, 0.05, 3, 2)
    assert present.all() and s.isfinite().all() and torch.equal(s, t)


def test_per_sample_mean_by_hand() -> None:
    loss = torch.tensor([[[1.0, 3.0], [5.0, float("nan")]], [[float("nan")] * 2] * 2]).requires_grad_()
    valid = torch.tensor([[[True, True], [True, False]], [[False, False], [False, False]]])
    mean, present = per_sample_mean(loss, valid)
    assert mean.tolist() == [3.0, 0.0] and present.tolist() == [True, False]
    mean.sum().backward()
    assert loss.grad is not None
    torch.testing.assert_close(loss.grad, valid / 3.0)


def _draw(*counters: int) -> Draw:
    return Draw(7, torch.tensor(counters))


def test_sample_rows_are_valid_distinct_and_independent_of_the_batch() -> None:
    valid = torch.rand(3, 5, 30, generator=torch.Generator().manual_seed(0)) > 0.4
    index, chosen = sample_rows(valid, 8, _draw(10, 11, 12))
    assert index.shape == chosen.shape == (3, 5, 8) and chosen.all()
    assert torch.gather(valid, 2, index).all()
    assert all(len(set(row.tolist())) == 8 for row in index.flatten(0, 1))
    alone, _ = sample_rows(valid[1:2], 8, _draw(11))
    assert torch.equal(alone[0], index[1])
    longer = torch.cat([valid, torch.zeros(3, 2, 30, dtype=torch.bool)], 1)
    padded, present = sample_rows(longer, 8, _draw(10, 11, 12))
    assert torch.equal(padded[:, :5], index) and not present[:, 5:].any()


def test_sample_rows_differ_by_name_and_cover_positions_evenly() -> None:
    valid = torch.ones(400, 1, 10, dtype=torch.bool)
    counters = torch.arange(400)
    index, _ = sample_rows(valid, 3, Draw(1, counters))
    other, _ = sample_rows(valid, 3, Draw(1, counters).named("other"))
    assert not torch.equal(index, other)
    counts = torch.bincount(index.flatten(), minlength=10)
    assert counts.min() > 80 and counts.max() < 160  # 120 expected, standard deviation 9


def test_sample_rows_with_too_few_positions() -> None:
    valid = torch.tensor([[[True, False, False, True]]])
    index, chosen = sample_rows(valid, 9, _draw(0))
    assert index.shape == (1, 1, 4) and chosen.tolist() == [[[True, True, False, False]]]
    assert set(index[0, 0, :2].tolist()) == {0, 3}


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_match_pixels_undoes_turns_flips_and_shifts(turns: int) -> None:
    ground = torch.arange(64).reshape(8, 8)
    u = ground[0:6, 1:7]
    v = torch.rot90(ground[2:8, 0:6], turns).flip(0)
    index = match_pixels(u.reshape(1, -1), v.reshape(1, -1))[0]
    for position, pixel in enumerate(u.flatten().tolist()):
        places = (v.flatten() == pixel).nonzero().flatten().tolist()
        assert index[position] == (places[0] if places else -1)
    assert int((index >= 0).sum()) == 4 * 5


def test_match_pixels_skips_unknown_ground() -> None:
    u, v = torch.tensor([[5, -1, 7]]), torch.tensor([[-1, 7, 9, 5]])
    assert match_pixels(u, v).tolist() == [[3, -1, 1]]
