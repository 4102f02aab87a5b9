"""What ZeRO-3 makes whole, by hand; against DeepSpeed itself in test_network.py."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from skyframe.train.estimate.gathering import Gathered, Rules, Use, gathered, uses_of

SIZES = (10, 20, 30, 3)
FORWARD = [Use(m, when, (m,)) for m in range(3) for when in ("forward", "after")]
BOTH = [*FORWARD, Use(2, "backward", (2,)), Use(1, "backward", (1,)), Use(0, "backward", (0,))]


def test_what_is_wanted_again_soon_stays_whole():
    """Each once, padded to multiples of 4 ranks: 12 + 20 + 32."""
    assert gathered(BOTH, SIZES, 4, Rules(prefetch=0, persistent=0)) == Gathered(3, 64, 0, 0, 60)


def test_what_is_wanted_much_later_is_gathered_again():
    """The last module's backward pass comes next, so it stays; of the others 10 and 20 come twice."""
    rules = Rules(prefetch=0, persistent=0, reuse=1)
    assert gathered(BOTH, SIZES, 1, rules) == Gathered(5, 2 * (10 + 20) + 30, 0, 0, 30)
    wider = Rules(
        prefetch=0, persistent=0, reuse=61
    )  # after the second come 30 and 30 elements, then its backward pass
    assert gathered(BOTH, SIZES, 1, wider) == Gathered(4, 2 * 10 + 20 + 30, 0, 0, 50)


def test_a_frozen_module_is_gathered_once():
    assert gathered(FORWARD, SIZES, 1, Rules(prefetch=0, persistent=0)) == Gathered(3, 60, 0, 0, 30)


def test_what_comes_next_is_asked_for_ahead_up_to_the_bucket_and_what_may_live():
    """With 10: the first asks for the second, which holds 20; with 21 for the third as well."""
    assert gathered(FORWARD, SIZES, 1, Rules(prefetch=10, persistent=0)).times == 3
    assert gathered(FORWARD, SIZES, 1, Rules(prefetch=21, persistent=0)).times == 2
    full = Rules(prefetch=21, persistent=0, live=10)
    assert gathered(FORWARD, SIZES, 1, full) == Gathered(3, 60, 0, 0, 30), "nothing ahead beside ten that live"


def test_small_parameters_stay_whole_and_come_after_the_step():
    rules = Rules(prefetch=0, persistent=10)
    assert gathered(BOTH, SIZES, 4, rules) == Gathered(2, 20 + 32, 2, 12 + 4, 12 + 4 + 50)


def test_of_several_calls_only_the_first_backward_pass_lets_go():
    """DeepSpeed counts the last call's inputs alone: the second backward pass does not release."""
    call = [Use(0, "forward", (0,)), Use(0, "after", (0,))]
    other = [Use(1, "forward", (1,)), Use(1, "after", (1,))]
    back, between = Use(0, "backward", (0,)), Use(2, "backward", (2,))
    rules = Rules(prefetch=0, persistent=0, reuse=1)
    uses = [*call, *other, *call, *other, *call, *other, back, between, back, between, back]
    assert gathered(uses, SIZES, 1, rules).elements == (3 + 2) * 10 + 3 * 20 + 2 * 30, "5 for 3 + 3 passes of the first"


def test_runs_of_modules_are_written_down_in_order_with_recomputed_ones():
    first, second = nn.Linear(2, 3), nn.Linear(3, 1, bias=False)
    system = nn.Sequential(first, nn.ReLU(), second)
    with uses_of(system) as uses:
        hidden = checkpoint(first, torch.ones(1, 2), use_reentrant=False)
        second(hidden).sum().backward()
    assert [(u.when, u.parameters) for u in uses[:5]] == [
        ("forward", (0, 1)), ("after", (0, 1)), ("forward", (2,)), ("after", (2,)), ("backward", (2,)),
    ]  # fmt: skip
    again = [u.when for u in uses[5:] if u.parameters == (0, 1)]
    assert again == ["backward", "forward"], "torch ends a recomputation before the module does"
    length = len(uses)
    system(torch.ones(1, 2))
    assert len(uses) == length, "nothing is watched afterwards"
