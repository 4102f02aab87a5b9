"""The EMA teacher equals its closed form, owns its tensors, and gathers parameters one by one under ZeRO stage 3."""

import pytest
import torch
from torch import nn

from skyframe.model.teacher import copy_teacher, momentum_at, update_teacher


def _student() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    module[0].register_buffer("table", torch.arange(3))
    return module


def _nudge(student: nn.Module, step: int) -> None:
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.1 * torch.sin(torch.arange(parameter.numel()).reshape(parameter.shape) + step)


def test_copy_is_independent_frozen_and_in_eval_mode() -> None:
    student = _student().train()
    teacher = copy_teacher(student)
    assert student.training and all(p.requires_grad for p in student.parameters())
    assert not any(m.training for m in teacher.modules()) and not any(p.requires_grad for p in teacher.parameters())
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    _nudge(student, 0)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert before.keys() == student.state_dict().keys()


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.996, 1.0])
def test_closed_form_after_k_steps(momentum: float) -> None:
    student = _student()
    teacher = copy_teacher(student)
    expected = {k: p.detach().double() for k, p in teacher.named_parameters()}
    for step in range(7):
        _nudge(student, step)
        update_teacher(student, teacher, momentum)
        for name, p in student.named_parameters():
            expected[name] = momentum * expected[name] + (1 - momentum) * p.detach().double()
    for name, p in teacher.named_parameters():
        torch.testing.assert_close(p.double(), expected[name], rtol=0, atol=1e-6)
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_one_weight_by_hand() -> None:
    student = nn.Linear(1, 1, bias=False)
    student.weight.data.fill_(2.0)
    teacher = copy_teacher(student)
    student.weight.data.fill_(4.0)
    for _ in range(3):
        update_teacher(student, teacher, 0.5)
    assert float(teacher.weight.detach()) == 2.0 * 0.125 + 4.0 * 0.875


def test_buffers_are_copied() -> None:
    student = _student().train()
    teacher = copy_teacher(student)
    student(torch.randn(5, 3, generator=torch.Generator().manual_seed(1)))
    student[0].table += 5
    update_teacher(student, teacher, 0.99)
    assert torch.equal(teacher[1].running_mean, student[1].running_mean)
    assert teacher[1].num_batches_tracked == 1 and teacher[0].table.tolist() == [5, 6, 7]


def test_small_updates_of_a_bf16_student_are_not_rounded_away() -> None:
    student = nn.Linear(1, 1, bias=False).bfloat16()
    student.weight.data.fill_(1.0)
    teacher = copy_teacher(student).float()
    student.weight.data.fill_(1.0625)
    update_teacher(student, teacher, 0.999)
    assert float(teacher.weight.detach()) == pytest.approx(1.0000625, abs=1e-7)


def test_a_bf16_average_at_0_996_stands_still_and_ours_does_not() -> None:
    student = nn.Linear(1, 1, bias=False)
    student.weight.data.fill_(1.0)
    teacher = copy_teacher(student)
    rounded = teacher.weight.detach().bfloat16()
    student.weight.data.fill_(1.25)
    for _ in range(100):
        rounded.lerp_(student.weight.detach().bfloat16(), 0.004)
        update_teacher(student, teacher, 0.996)
    assert float(rounded) == 1.0  # each step of 0.001 is below half of bf16's unit at 1, 2^-8
    assert float(teacher.weight.detach()) == pytest.approx(1.25 - 0.25 * 0.996**100, abs=1e-6)


def test_refuses_another_tree_and_a_bf16_teacher() -> None:
    student = _student()
    with pytest.raises(ValueError, match=r"has not the same 0\.table; build the teacher with copy_teacher"):
        update_teacher(student, nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), 0.9)
    with pytest.raises(ValueError, match=r"0.weight is torch.bfloat16, expected torch.float32"):
        update_teacher(student, copy_teacher(student).bfloat16(), 0.9)


def test_momentum_is_a_cosine() -> None:
    assert momentum_at(0.0, 0.996, 1.0) == pytest.approx(0.996)
    assert momentum_at(0.5, 0.996, 1.0) == pytest.approx(0.998)
    assert momentum_at(1.0, 0.996, 1.0) == 1.0
    assert momentum_at(0.25, 0.0, 1.0) == pytest.approx(0.5 - 0.5 * 2**-0.5)
    assert momentum_at(1.5, 0.9, 0.99) == pytest.approx(0.99) and momentum_at(-1.0, 0.9, 0.99) == pytest.approx(0.9)
