"""Heads that are trained on an encoder's features, and how: published schedules as data. Torch-free dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from skyframe.spec import InputError


@dataclass(frozen=True)
class HeadSpec:
    """What stands on the encoder. Whole images take a linear map of pooled features, whatever `kind` says."""

    kind: Literal["token_linear", "fcn", "upernet"] = "upernet"
    channels: int = 512  # width of FCN and UPerNet
    pools: tuple[int, ...] = (1, 2, 3, 6)  # sides of UPerNet's pooled maps
    dropout: float = 0.1  # of whole channels before the last layer
    auxiliary: float = 0.0  # weight of the loss of an FCN on the last level but one; 0 = none
    auxiliary_channels: int = 256
    dates: Literal["encoder", "mean"] = "encoder"  # who joins dates: the encoder, or the mean over maps of each alone
    change: Literal["concat", "difference"] = "concat"  # of the two dates' maps


@dataclass(frozen=True)
class HeadTraining:
    """One way to train a head, and perhaps the encoder under it."""

    head: HeadSpec = field(default_factory=HeadSpec)
    encoder: Literal["frozen", "tunable", "frozen_first"] = "frozen"
    tunable: tuple[str, ...] = ()  # beginnings of names of the encoder's parameters that train; empty = all but `geo`
    frozen_share: float = 0.2  # frozen_first: share of the epochs that train the head alone
    unfrozen_factor: float = 0.1  # frozen_first: all rates are times this from then on
    lr: float = 1e-4
    weight_decay: float = 0.05  # of matrices and kernels; norms and biases have none
    layer_decay: float = 1.0  # rate of each layer of the encoder as a share of that of the next one
    epochs: int = 50
    iterations: int = 0  # optimizer steps; 0 = as many as `epochs` give
    batch: int = 8
    schedule: Literal["constant", "cosine", "multistep", "poly", "plateau"] = "cosine"
    milestones: tuple[float, ...] = (0.6, 0.9)  # multistep: shares of the run at which the rate falls to a tenth
    plateau: tuple[float, int, int] = (0.2, 2, 10)  # factor, epochs without a better score, epochs of rest after it
    warmup: float = 0.0  # share of the run over which the rate rises from near zero
    clip_norm: float = 0.0  # of the gradient; 0 = none
    side: int = 0  # positions along a crop; 0 = as in the encoder's training, at most the images'
    overlap: float = 0.5  # of neighbouring windows in prediction, as a share of their side
    flips: bool = True  # one of the square's eight symmetries per crop, the same for all modalities and masks
    scale: tuple[float, float] = (1.0, 1.0)  # crops are enlarged by a factor between these, drawn evenly
    metric: str = ""  # chooses the epoch on the validation part; empty = the first of the kind's


METRIC_OF = {
    "scene": "accuracy", "multilabel": "map", "pixel": "miou", "change": "f1", "semantic_change": "scs",
    "regression": "rmse",
}  # fmt: skip
"""What chooses the epoch, by kind of data set."""

LOWER_IS_BETTER = ("rmse", "mae", "ece")
"""Metrics that are errors."""

FINE_TUNE_LRS = (1e-4, 5e-4, 1e-3)
"""Rates of OlmoEarth's fine-tuning, chosen from on the validation part."""

PRESETS: dict[str, HeadTraining] = {
    # PANGAEA (pangaea-bench configs/): frozen encoder, UPerNet; its seed is 234. It has no augmentation by default.
    "pangaea": HeadTraining(
        HeadSpec("upernet", channels=512), epochs=80, lr=1e-4, weight_decay=0.05, schedule="multistep", flips=False
    ),
    "pangaea_scene": HeadTraining(epochs=50, lr=1e-4, weight_decay=0.05, schedule="multistep", flips=False),
    # OlmoEarth evals/finetune/constants.py; its rate is the best of FINE_TUNE_LRS.
    "olmoearth": HeadTraining(
        HeadSpec("token_linear"), encoder="frozen_first", epochs=50, lr=5e-4, weight_decay=0.01, schedule="plateau"
    ),
    # OlmoEarth's segmentation probe.
    "token_linear": HeadTraining(
        HeadSpec("token_linear"), epochs=50, lr=1e-3, weight_decay=0.01, warmup=0.1, flips=False
    ),
    # SkySense's iSAID (segmentation/ of its code release): 16 images per step there, photometric changes left out here.
    "isaid": HeadTraining(
        HeadSpec("upernet", channels=512, auxiliary=0.4), encoder="tunable", lr=6e-5, weight_decay=0.01,
        layer_decay=0.9, iterations=80_000, batch=16, schedule="poly", warmup=1500 / 80_000, side=28, scale=(0.5, 2.0),
    ),
    # The schedule of SkySense's DIOR detector (detection/ of its code release), whose heads stand elsewhere.
    "dior": HeadTraining(
        encoder="tunable", lr=1e-4, weight_decay=0.05, layer_decay=0.9, epochs=12, schedule="multistep",
        milestones=(8 / 12, 11 / 12), warmup=0.01,
    ),
    # SkySense++ finetune/configs (Atlantic, C2SMSFloods).
    "atlantic": HeadTraining(
        HeadSpec("upernet", channels=256), encoder="tunable", lr=6e-5, weight_decay=0.01, iterations=10_000,
        schedule="poly",
    ),
    "c2smsfloods": HeadTraining(
        HeadSpec("upernet", channels=256), encoder="tunable", lr=5e-4, weight_decay=0.015, layer_decay=0.84,
        iterations=10_000, schedule="poly",
    ),
}  # fmt: skip
"""Published ways to train by name, as far as their papers or code give numbers."""


def check_training(config: HeadTraining, where: str) -> None:
    """Rules of single fields.

    Raises:
        InputError: naming field, value and remedy.
    """
    positive = {"lr": config.lr, "epochs": config.epochs, "batch": config.batch, "head.channels": config.head.channels}
    for key, value in positive.items():
        if not value > 0:
            raise InputError(f"{where}: {key} is {value}, expected a number above 0")
    shares = {"overlap": config.overlap, "warmup": config.warmup, "head.dropout": config.head.dropout}
    for key, value in shares.items():
        if not 0 <= value < 1:
            raise InputError(f"{where}: {key} is {value}, expected a share of at least 0 and below 1")
    for key, value in (("layer_decay", config.layer_decay), ("frozen_share", config.frozen_share)):
        if not 0 < value <= 1:
            raise InputError(f"{where}: {key} is {value}, expected a share above 0 and at most 1")
    low, high = config.scale
    if not 0 < low <= high:
        raise InputError(f"{where}: scale is {low:g} to {high:g}, expected two rising factors above 0")
    if config.encoder == "frozen" and config.tunable:
        raise InputError(
            f"{where}: tunable names {', '.join(config.tunable)} of a frozen encoder; set encoder: tunable, or leave "
            "it out"
        )
