"""Which units a task scores: label shares leave out rows of the training and validation parts and nothing else."""

import numpy as np

from skyframe.config.evaluate import TaskConfig
from skyframe.evaluate.feed.features import TEST, TRAIN, VAL
from skyframe.evaluate.scoring import make_target

ROWS, PIXELS = 300, 4
PART = np.repeat([TRAIN, VAL, TEST], ROWS // 3)


def _target(share: float):
    labels = np.arange(ROWS * PIXELS).reshape(ROWS, PIXELS) % 2
    task = TaskConfig("simulated", "pixel", "crop", label_share=share)
    return make_target("t", task, "pixel", labels, PART, np.arange(ROWS), ("a", "b"))


def _rows(target, part):
    return set((target.index[target.of(part)] // PIXELS).tolist())


def test_a_label_share_keeps_whole_rows_nested_and_never_touches_the_test_part():
    full, half, tenth = _target(1.0), _target(0.5), _target(0.1)
    for part in (TRAIN, VAL):
        assert [len(_rows(t, part)) for t in (full, half, tenth)] == [100, 50, 10]
        assert _rows(tenth, part) < _rows(half, part) < _rows(full, part)
        assert len(tenth.of(part)) == 10 * PIXELS
    assert _rows(tenth, TEST) == _rows(full, TEST) == set(range(200, 300))


def test_the_smallest_share_leaves_one_row():
    assert len(_rows(_target(1e-6), TRAIN)) == 1
