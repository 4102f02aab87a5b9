"""What a run writes beside its log: curves that TensorBoard reads."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from skyframe.train.progress import read_metrics


def test_a_row_is_one_event_with_all_its_curves(nano_run: Path):
    (file,) = (nano_run / "tensorboard").iterdir()
    events = [event for event in EventFileLoader(str(file)).Load() if event.summary.value]
    rows = read_metrics(nano_run)
    assert [event.step for event in events] == [row["step"] for row in rows] == [1, 2]
    for event, row in zip(events, rows, strict=True):
        curves = {value.tag: value.tensor.float_val[0] for value in event.summary.value}
        assert curves == pytest.approx({k: v for k, v in row.items() if k != "step"}, rel=1e-5, abs=1e-6)
