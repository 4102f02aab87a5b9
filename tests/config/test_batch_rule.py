"""The batch rule by hand."""

import math

import pytest

from skyframe.config import dump_recipe, load_recipe
from skyframe.config.batch_rule import at_batch

PAPER = load_recipe("skysense_paper")


def test_the_recipes_own_batch_changes_nothing():
    rule = at_batch(PAPER, 240)
    assert (rule.lr, rule.min_lr, rule.warmup_steps, rule.max_steps) == (2e-4, 1e-6, 1000, 875_000)
    assert (rule.ema_start, rule.ema_end, rule.center_momentum, rule.teacher_temp) == (0.996, 1.0, 0.9, 0.07)


def test_four_times_the_batch_by_hand():
    rule = at_batch(PAPER, 960)
    assert (rule.lr, rule.min_lr) == (4e-4, 2e-6), "square root of 4"
    assert (rule.warmup_steps, rule.max_steps) == (250, 218_750), "as many samples"
    assert rule.ema_start == pytest.approx(0.984095744256) and rule.ema_end == 1.0  # 0.996^4
    assert rule.center_momentum == pytest.approx(0.6561)
    assert rule.teacher_temp == 0.07


def test_a_smaller_batch_goes_the_other_way_and_back():
    rule = at_batch(PAPER, 60)
    assert rule.lr == 1e-4 and rule.max_steps == 3_500_000
    assert rule.ema_start**4 == pytest.approx(0.996)
    assert math.log(rule.center_momentum) == pytest.approx(math.log(0.9) / 4)


def test_a_tiny_run_keeps_a_step_and_the_recipe_stays():
    before = dump_recipe(PAPER)
    assert at_batch(PAPER, 10**9).max_steps == 1
    assert dump_recipe(PAPER) == before
