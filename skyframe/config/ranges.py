"""Which values the numbers of a recipe may take: one table, checked at the door."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from skyframe.spec import InputError

Rule = tuple[str, Callable[[float], bool]]
"""What is expected, in words, and whether a number is that."""

MAX_SKIPPED = 1000
"""Bounds how far a run reads on past its plan, before each step."""

CACHE_GB: Rule = ("at least 0.1", lambda v: v >= 0.1)
COUNT: Rule = ("at least 1", lambda v: v >= 1)
ZERO_UP: Rule = ("0 or more", lambda v: v >= 0)
POSITIVE: Rule = ("a positive number", lambda v: v > 0)
SHARE: Rule = ("a share from 0 to 1", lambda v: 0 <= v <= 1)
SOME: Rule = ("a share above 0, at most 1", lambda v: 0 < v <= 1)
ROWS: Rule = ("at least 5", lambda v: v >= 5)
SKIPPED: Rule = ("from 1 to 1000", lambda v: 1 <= v <= MAX_SKIPPED)
STAGE: Rule = ("0, 1, 2 or 3", lambda v: v in (0, 1, 2, 3))
HALF: Rule = ("from 0 to 0.5", lambda v: 0 <= v <= 0.5)
BELOW_ONE: Rule = ("at least 0 and below 1", lambda v: 0 <= v < 1)

RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            "data.frames.*", "data.window_px", "data.stride_px", "data.windows_per_shard", "data.regions.num_regions",
            "train.max_steps", "train.global_batch", "train.micro_steps", "train.devices", "train.num_nodes",
            "train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "train.guards.collapse_rows",
            "views.crop_px", "views.local_px",
            "model.aligned_dims", "model.encoders.*.embed_dims", "model.encoders.*.depths",
            "model.encoders.*.num_heads", "model.encoders.*.patch_px", "model.encoders.*.window_px",
            "model.encoders.*.extra_norm_every", "model.encoders.*.train_px", "model.fusion.embed_dims",
            "model.fusion.num_layers", "model.fusion.num_heads", "model.fusion.chunk", "model.geo.num_prototypes",
            "model.geo.dims", "model.geo.iterations", "model.head.hidden", "model.head.bottleneck",
            "model.head.outputs", "loss.pixel_rows", "loss.num_centres", "loss.object_iterations",
            "loss.object_rounds", "loss.sinkhorn_iterations", "loss.align_dims",
        ),
        COUNT,
    ),
    **dict.fromkeys(
        (
            "data.workers", "data.sources.*", "train.guards.least_rank", "train.guards.least_std",
            "train.guards.max_rollbacks", "train.guards.hung_s", "train.threads", "train.peak_tflops",
            "train.keep_every", "train.evaluate.every", "optim.min_lr", "optim.weight_decay",
            "optim.warmup_steps", "optim.clip_norm", "views.local_crops", "views.jitter_days", "views.gain",
            "views.offset", "model.date_std", "loss.alpha", "loss.beta",
        ),
        ZERO_UP,
    ),
    **dict.fromkeys(
        (
            "data.regions.cell_km2", "train.guards.spike_spreads", "optim.lr", "model.encoders.*.norm_eps",
            "model.geo.eps", "loss.student_temp",
            "loss.teacher_temp", "loss.teacher_temp_start", "loss.object_eps", "loss.align_temp",
        ),
        POSITIVE,
    ),
    **dict.fromkeys(
        (
            "data.min_clear", "views.blur", "views.solarize", "model.geo.momentum", "loss.teacher_temp_warmup",
            "loss.center_momentum", "loss.ema_start", "loss.ema_end",
        ),
        SHARE,
    ),
    "data.cache.max_gb": CACHE_GB,
    "train.deepspeed.stage": STAGE,
    "train.guards.max_skipped": SKIPPED,
    "train.guards.spike_rows": ROWS,
    "model.fusion.positions": SOME,
    "views.split_least": HALF,
    **dict.fromkeys(
        ("optim.betas", "views.drop_frames", "model.encoders.*.drop_path", "model.fusion.drop_path"), BELOW_ONE
    ),
}  # fmt: skip
"""Rule of each number by dotted key; `*` stands for a name, a list's rule holds for each of its numbers."""


def check_ranges(recipe: Any, where: str) -> None:
    """Compare every number of a recipe with its rule; nan and infinity keep none.

    Raises:
        InputError: the first key out of range, what is expected there, and what was given.
    """
    for pattern, key, value in numbers(recipe):
        if pattern in RULES:
            words, holds = RULES[pattern]
            if not (math.isfinite(value) and holds(value)):
                raise InputError(f"{where}: {key} is {value}, expected {words}")


def numbers(value: Any, pattern: str = "", key: str = "") -> Iterator[tuple[str, str, float]]:
    """Every number inside nested dataclasses: its key in `RULES`, its own dotted key, and the number."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            dot = "." if key else ""
            name = f"{dot}{field.name}"
            yield from numbers(getattr(value, field.name), pattern + name, key + name)
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            yield from numbers(entry, f"{pattern}.*", f"{key}.{name}")
    elif isinstance(value, tuple):
        for i, entry in enumerate(value):
            yield from numbers(entry, pattern, f"{key}[{i}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield pattern, key, value
