"""What DeepSpeed is told: sizes by hand, the overlay on top, and what the recipe decides alone."""

import json

import pytest

from skyframe.spec import InputError
from skyframe.train.deepspeed_config import deepspeed_config, keep_config
from tests.system.batches import nano_recipe

SHARED = ["train.strategy=deepspeed", "train.global_batch=16", "train.devices=2", "train.micro_steps=4"]


def told(*words: str, parameters: int = 2_000_000_000, on_gpu: bool = True) -> dict:
    return deepspeed_config(nano_recipe(*SHARED, *words), parameters, on_gpu)


def test_batch_clipping_and_buckets_follow_recipe_and_size():
    config = told("train.deepspeed.stage=2", "optim.clip_norm=0.5")
    assert config["train_micro_batch_size_per_gpu"] == 2 and config["gradient_clipping"] == 0.5
    zero = config["zero_optimization"]
    assert zero["stage"] == 2 and zero["reduce_bucket_size"] == 200_000_000 == zero["allgather_bucket_size"]
    assert zero["overlap_comm"] and "offload_optimizer" not in zero and "torch_autocast" not in config
    small = told(parameters=80_000_003, on_gpu=False)["zero_optimization"]
    assert small["reduce_bucket_size"] == 10_000_000 and not small["overlap_comm"]
    assert told(parameters=1000)["zero_optimization"]["reduce_bucket_size"] == 1_000_000


def test_bf16_is_autocast_and_never_bf16_parameters():
    config = told("train.precision=bf16-mixed")
    assert config["torch_autocast"] == {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    assert "bf16" not in config


def test_offload_moves_states_and_at_stage_3_parameters():
    moved = {"device": "cpu", "pin_memory": True}
    optimizer = told("train.deepspeed.stage=1", "train.deepspeed.offload=optimizer")["zero_optimization"]
    assert optimizer["offload_optimizer"] == moved and "offload_param" not in optimizer
    both = told("train.deepspeed.stage=3", "train.deepspeed.offload=parameters")["zero_optimization"]
    assert both["offload_optimizer"] == moved == both["offload_param"]


def test_an_overlay_lies_on_top_and_the_whole_is_kept(tmp_path):
    (tmp_path / "mine.yaml").write_text("zero_optimization: {reduce_bucket_size: 6}\nwall_clock_breakdown: true\n")
    config = told(f"train.deepspeed.overlay={tmp_path}/mine.yaml")
    assert config["zero_optimization"]["reduce_bucket_size"] == 6 and config["zero_optimization"]["stage"] == 1
    assert json.loads(keep_config(config, tmp_path)) == config == json.loads((tmp_path / "deepspeed.json").read_text())
    assert config["wall_clock_breakdown"] is True


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"bf16": {"enabled": true}}', "holds bf16, which the recipe decides; remove it and set train.precision"),
        ('{"zero_optimization": {"stage": 3}}', "holds zero_optimization.stage, which the recipe decides"),
        ('{"train_batch_size": 8}', "remove it and set train.global_batch"),
        ("[1]", "expected a mapping of DeepSpeed's keys, got list"),
        ("{", "not readable as JSON or YAML"),
        (None, "not readable as JSON or YAML"),
    ],
)
def test_a_wrong_overlay_is_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as error:
        told(f"train.deepspeed.overlay={path}")
    assert sentence in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train.deepspeed.stage=2"], "train.deepspeed is set but train.strategy is 'auto', which does not read it"),
        (["train.strategy=deepspeed", "train.deepspeed.stage=4"], "4 is not one of 0, 1, 2, 3"),
        (
            ["train.strategy=deepspeed", "train.deepspeed.stage=2", "train.deepspeed.offload=parameters"],
            "offload 'parameters' with stage 2, expected stage 3 or more; set train.deepspeed.stage=3",
        ),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(words, sentence):
    with pytest.raises(InputError) as error:
        nano_recipe(*words)
    assert sentence in str(error.value)
