"""Weights of sources as visits of shards: the same number in every epoch, every window in turn."""

import numpy as np
import pytest

from skyframe.data.visits import visits_of


def of(windows, weights):
    return visits_of(np.array(windows, np.int32), np.array(weights, float), np.arange(len(windows), dtype=np.int32))


def test_weight_one_is_every_window_once():
    visits = of([16, 9, 16], [1, 1, 1])
    assert visits.turns is None and visits.of(7).tolist() == [16, 9, 16]
    assert visits.before(3, np.array([1])).tolist() == [27]


def test_whole_weights_multiply():
    visits = of([16, 9], [2, 3])
    assert visits.of(0).tolist() == visits.of(5).tolist() == [32, 27]


def test_parts_of_a_visit_are_taken_in_turns():
    visits = of([3, 3, 3, 3, 8], [0.5, 0.5, 0.5, 0.5, 1])  # 1.5 visits of four shards: two of them get one more
    table = np.array([visits.of(epoch) for epoch in range(4)])
    assert table.tolist() == [[2, 2, 1, 1, 8], [1, 1, 2, 2, 8], [2, 2, 1, 1, 8], [1, 1, 2, 2, 8]]


@pytest.mark.parametrize("weight", [0.01, 0.3, 1.7, 2.5])
def test_visits_add_up_and_are_shared_fairly(weight):
    visits = of([5] * 30 + [16] * 11, [weight] * 41)
    table = np.array([visits.of(epoch) for epoch in range(100)])
    assert len(set(table.sum(1).tolist())) == 1
    assert table.sum(1)[0] == pytest.approx(weight * (150 + 176), abs=1)
    everyone = np.arange(41)
    for epoch in (0, 1, 37, 99):
        assert visits.before(epoch, everyone).tolist() == table[:epoch].sum(0).tolist()
    assert [visits.of_one(9, shard) for shard in everyone] == table[9].tolist()
    for same in (table[:, :30], table[:, 30:]):
        assert np.ptp(same.sum(0)) <= 1
    sizes, shards = visits.sizes()
    assert int((sizes * shards).sum()) == table[3].sum()
