import dataclasses
import math

import pytest
import torch

from skyframe.config.heads import PRESETS, HeadTraining
from skyframe.evaluate.heads.steps import Steps, plateau, rate, read_state, write_state
from skyframe.spec import InputError


def test_rates_by_hand():
    multi = PRESETS["pangaea"]
    assert [round(rate(multi, s, 100), 6) for s in (0, 59, 60, 89, 90, 99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    poly = dataclasses.replace(PRESETS["isaid"], warmup=0.1)
    assert [rate(poly, s, 100) for s in (0, 4, 9, 10, 55)] == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5])
    cosine = HeadTraining(schedule="cosine")
    assert [rate(cosine, s, 100) for s in (0, 50, 75)] == pytest.approx([1, 0.5, (1 + math.cos(0.75 * math.pi)) / 2])
    assert rate(PRESETS["olmoearth"], 99, 100) == 1.0


def test_epochs_and_iterations():
    assert Steps.of(20, HeadTraining(epochs=3, batch=8), "x") == Steps(9, 3, 0)
    by_steps = Steps.of(20, HeadTraining(iterations=7, batch=8), "x")
    assert (by_steps.total, by_steps.epochs) == (7, 3)
    assert Steps.of(20, dataclasses.replace(PRESETS["olmoearth"], epochs=50), "x").frozen_epochs == 10
    with pytest.raises(InputError, match="x: no training item"):
        Steps.of(0, HeadTraining(), "x")


def test_a_state_comes_back_and_nothing_lies_beside_it(tmp_path):
    path = tmp_path / "deep" / "a.pt"
    assert read_state(path, torch.device("cpu")) is None
    write_state(path, {"epoch": 3, "w": torch.ones(2)})
    found = read_state(path, torch.device("cpu"))
    assert found is not None and found["epoch"] == 3 and found["w"].tolist() == [1, 1]
    assert [p.name for p in path.parent.iterdir()] == ["a.pt"]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="delete the file"):
        read_state(path, torch.device("cpu"))


def test_a_plateau_is_torchs():
    rng = torch.Generator().manual_seed(0)
    scores = torch.rand(60, generator=rng).cumsum(0).clamp(max=12).tolist()
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", factor=0.2, patience=2, cooldown=10, threshold=0.0
    )
    fall, waited, best, falls = 1.0, 0, -1.0, []
    for score in scores:
        reference.step(score)
        fall, waited = plateau(fall, waited, score > best, (0.2, 2, 10))
        best = max(best, score)
        assert fall == pytest.approx(optimizer.param_groups[0]["lr"])
        falls.append(fall)
    assert len(set(falls)) > 2
