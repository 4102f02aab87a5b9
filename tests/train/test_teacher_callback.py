"""The teacher moves when the optimizer has, once per optimizer step, whatever the number of micro-steps."""

import pytest
import torch

from skyframe.model.teacher import momentum_at
from skyframe.train.module import PretrainModule
from skyframe.train.run import pretrain
from tests.system.batches import nano_recipe
from tests.train.runs import overrides, weights

STEPS, START, END = 3, 0.5, 0.9
TOWERS = {"system.student.": "system.teacher.", "system.heads.": "system.teacher_heads."}

Weights = dict[str, torch.Tensor]


def students_after_each_step(monkeypatch) -> tuple[list[Weights], list[int]]:
    """Filled by the next run: the student and its heads at the start and after each optimizer step; passes so far."""
    students: list[Weights] = []
    passes = [0]
    configured, trained = PretrainModule.configure_optimizers, PretrainModule.training_step

    def keep(module):
        held = {f"system.{n}": p.detach().double() for n, p in module.system.named_parameters()}
        students.append({n: p.clone() for n, p in held.items() if n.startswith(tuple(TOWERS))})

    def configure(self):
        made = configured(self)
        keep(self)
        made["optimizer"].register_step_post_hook(lambda *_: keep(self))
        return made

    def step(self, *args):
        passes[0] += 1
        return trained(self, *args)

    monkeypatch.setattr(PretrainModule, "configure_optimizers", configure)
    monkeypatch.setattr(PretrainModule, "training_step", step)
    return students, passes


def largest_difference(left: Weights, right: Weights) -> float:
    return max(float((value.double() - right[name]).abs().max()) for name, value in left.items())


@pytest.mark.parametrize("micro_steps", [1, 4])
def test_the_trained_teacher_is_the_closed_form_over_the_students_of_all_optimizer_steps(
    earth, tmp_path, monkeypatch, micro_steps
):
    """`teacher = m * teacher + (1 - m) * student`, m on its cosine, from a teacher that begins as the student."""
    students, passes = students_after_each_step(monkeypatch)
    more = [f"loss.ema_start={START}", f"loss.ema_end={END}", f"train.max_steps={STEPS}", "optim.lr=1e-3"]
    run = pretrain(nano_recipe(*overrides(earth, tmp_path, "r", *more, f"train.micro_steps={micro_steps}")), show=False)
    assert len(students) == 1 + STEPS and passes == [STEPS * micro_steps]
    assert largest_difference(students[-2], students[-1]) > 1e-4, "the student moved in the last step too"

    expected = dict(students[0])
    for number, student in enumerate(students[1:], start=1):
        m = momentum_at(number / STEPS, START, END)
        expected = {name: m * old + (1 - m) * student[name] for name, old in expected.items()}
    stored = weights(run)
    trained = {s + n.removeprefix(t): v for n, v in stored.items() for s, t in TOWERS.items() if n.startswith(t)}
    assert trained.keys() - expected.keys() == {"system.student.geo.bank"}
    trained.pop("system.student.geo.bank")
    assert trained.keys() == expected.keys()
    assert largest_difference(trained, expected) < 1e-6
    assert largest_difference(trained, students[-1]) > 1e-4, "a teacher that trails its student"
