"""The DeepSpeed JSON that a recipe means: derived here, laid over by the user's own file, kept in the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from skyframe.config import merge
from skyframe.config.recipe import Recipe
from skyframe.spec import InputError

MAX_BUCKET = 200_000_000
"""Elements sent at once: 800 MB of fp32; a smaller model sends eighths of itself, so that sending overlaps backward."""
MIN_BUCKET = 1_000_000

PERSISTENCE_ELEMENTS = 100_000
"""Parameters up to this size stay whole under ZeRO-3."""

OWNED = {
    "bf16": "train.precision",
    "fp16": "train.precision",
    "torch_autocast.enabled": "train.precision",
    "gradient_accumulation_steps": "train.micro_steps",
    "train_batch_size": "train.global_batch",
    "train_micro_batch_size_per_gpu": "train.global_batch",
    "gradient_clipping": "optim.clip_norm",
    "optimizer": "optim",
    "scheduler": "optim",
    "zero_optimization.stage": "train.deepspeed.stage",
    "zero_optimization.offload_optimizer": "train.deepspeed.offload",
    "zero_optimization.offload_param": "train.deepspeed.offload",
}
"""Keys that an overlay may not hold, and where the recipe says the same."""


def bucket_elements(num_parameters: int) -> int:
    """Gradients that are sent together: an eighth of all, within bounds, and an even number as DeepSpeed wants."""
    return max(MIN_BUCKET, min(MAX_BUCKET, num_parameters // 8)) // 2 * 2


def prefetch_elements(num_parameters: int) -> int:
    """Parameters that ZeRO-3 asks for ahead at a time: a quarter of a bucket."""
    return bucket_elements(num_parameters) // 4


def deepspeed_config(recipe: Recipe, num_parameters: int, on_gpu: bool) -> dict[str, Any]:
    """What DeepSpeed is told.

    Parameters stay fp32 in every precision: bf16-mixed is autocast, as under DDP. So the teacher averages fp32 weights,
    autocast-free islands see fp32 weights, and a run may go on under another strategy with the same arithmetic.

    Args:
        recipe: checked recipe.
        num_parameters: trainable parameters, for the sizes of the buckets.
        on_gpu: gradients are sent while backward goes on, and offloaded states lie in pinned memory.

    Returns:
        The JSON without `gradient_accumulation_steps`, which Lightning adds.

    Raises:
        InputError: the overlay is unreadable or holds a key that the recipe decides.
    """
    train = recipe.train
    chosen = train.deepspeed
    bucket = bucket_elements(num_parameters)
    zero: dict[str, Any] = {
        "stage": chosen.stage,
        "contiguous_gradients": True,
        "overlap_comm": on_gpu,
        "reduce_bucket_size": bucket,
    }
    if chosen.stage in (1, 2):
        zero |= {"allgather_bucket_size": bucket, "reduce_scatter": True}
    if chosen.stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": prefetch_elements(num_parameters),
            "stage3_param_persistence_threshold": PERSISTENCE_ELEMENTS,
        }
    moved = {"device": "cpu", "pin_memory": on_gpu}
    if chosen.offload != "none":
        zero["offload_optimizer"] = moved
    if chosen.offload == "parameters":
        zero["offload_param"] = moved
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": train.global_batch // (train.micro_steps * train.devices * train.num_nodes),
        "gradient_clipping": recipe.optim.clip_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW steps offloaded states, nothing to compile
        "steps_per_print": 2**31 - 1,
        "zero_optimization": zero,
    }
    if train.precision == "bf16-mixed":
        # No module is "safe": weights and gradients are sent in fp32, since some are read outside autocast.
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return merge(config, _overlay(chosen.overlay)) if chosen.overlay else config


def keep_config(config: Mapping[str, Any], run: Path) -> str:
    """Write `deepspeed.json` into the run folder; returns its text."""
    text = json.dumps(config, indent=2) + "\n"
    (run / "deepspeed.json").write_text(text)
    return text


def _overlay(path: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text())  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"train.deepspeed.overlay {path}: not readable as JSON or YAML ({str(error).splitlines()[0]}); give a file "
            "with keys of DeepSpeed's configuration"
        ) from error
    if not isinstance(tree, dict):
        raise InputError(
            f"train.deepspeed.overlay {path}: expected a mapping of DeepSpeed's keys, got {type(tree).__name__}; give "
            "a file such as {'zero_optimization': {'reduce_bucket_size': 5000000}}"
        )
    for key, owner in OWNED.items():
        first, _, second = key.partition(".")
        inner = tree.get(first)
        if first in tree and (not second or (isinstance(inner, dict) and second in inner)):
            raise InputError(
                f"train.deepspeed.overlay {path}: holds {key}, which the recipe decides; remove it and set {owner}"
            )
    return tree
