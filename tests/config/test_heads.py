import dataclasses

import pytest

from skyframe.config.heads import METRIC_OF, PRESETS, HeadSpec, HeadTraining, check_training
from skyframe.spec import InputError


def test_presets_hold_the_published_numbers():
    for name, preset in PRESETS.items():
        check_training(preset, name)
    p = PRESETS["pangaea"]
    assert (p.encoder, p.head.kind, p.head.channels, p.epochs, p.lr, p.weight_decay, p.batch, p.milestones) == (
        "frozen", "upernet", 512, 80, 1e-4, 0.05, 8, (0.6, 0.9),
    )  # fmt: skip
    i = PRESETS["isaid"]
    assert (i.lr, i.layer_decay, i.iterations, i.head.auxiliary, i.side * 32) == (6e-5, 0.9, 80_000, 0.4, 896)
    assert PRESETS["dior"].epochs * PRESETS["dior"].milestones[0] == 8
    assert PRESETS["olmoearth"].plateau == (0.2, 2, 10) and PRESETS["olmoearth"].frozen_share == 0.2
    assert METRIC_OF["semantic_change"] == "scs"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": 0.0}, "lr is 0.0, expected a number above 0"),
        ({"overlap": 1.0}, "overlap is 1.0"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0"),
        ({"scale": (2.0, 1.0)}, "scale is 2 to 1"),
        ({"tunable": ("fusion",)}, "tunable names fusion of a frozen encoder"),
        ({"head": HeadSpec(dropout=1.0)}, "head.dropout is 1.0"),
    ],
)
def test_wrong_numbers_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        check_training(dataclasses.replace(HeadTraining(), **changes), "mine.yaml")
