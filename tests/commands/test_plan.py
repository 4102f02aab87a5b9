"""`skyframe plan --gpus`: what it prints without cubes, and options that make no sense as one sentence."""

import json

import pytest
from click.testing import CliRunner

from skyframe.cli import cli
from skyframe.spec import InputError

DEMO = ("plan", "skysense_demo", "data.cubes=[nowhere/*]")


def run(*words: str):
    return CliRunner().invoke(cli, [*DEMO, *words], catch_exceptions=True)


def test_a_recipe_without_cubes_is_told_its_cost(tmp_path):
    done = run("--gpus", "4", "--gpu", "h100", "--global-batch", "96", "--json", str(tmp_path / "plan.json"))
    assert done.exit_code == 0, done.output
    first, *_, last, wrote = done.output.strip().splitlines()
    assert first.startswith("what it would read is left out: data.cubes: nothing at 'nowhere/*'")
    assert last.startswith("take DDP with a micro batch of 24 per GPU, train.micro_steps=1:") and "60 steps" in last
    assert "a global batch of 96 calls for" in done.output and wrote == f"wrote {tmp_path / 'plan.json'}"
    saved = json.loads((tmp_path / "plan.json").read_text())
    assert (saved["recipe"], saved["gpus"], saved["cluster"]["peak_flops"]) == ("skysense_demo", 4, 67e12)


def test_without_gpus_the_cubes_are_needed_as_before():
    with pytest.raises(InputError, match="nothing at 'nowhere"):
        raise run().exception


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--global-batch", "96"), "--global-batch is about the cost of training; give --gpus"),
        (("--gpu-memory", "80"), "--gpu-memory is about the cost of training; give --gpus"),
        (("--json", "x.json"), "--json is about the cost of training; give --gpus"),
        (("--gpus", "0"), r"--gpus 0, expected 1 or more"),
        (("--gpus", "2", "--gpu", "a10O"), r"--gpu 'a10O' is not one of a100, h100, h200.*did you mean 'a100'"),
        (("--gpus", "2", "--gpu", "-3"), r"--gpu -3, expected 0.001 or more"),
        (("--gpus", "2", "--gpu-memory", "nan"), r"--gpu-memory nan, expected 2.5 or more"),
        (("--gpus", "2", "--mfu", "1.5"), r"--mfu 1.5, expected 0.001 or more and at most 1"),
        (("--gpus", "2", "--inter-gbps", "0"), r"--inter-gbps 0, expected 0.001 or more"),
        (("--gpus", "7"), r"global_batch 48 cannot be shared by 7 GPUs.*--global-batch 49 or --gpus"),
        (("--gpus", "2", "--global-batch", "0"), r"--global-batch 0, expected 1 sample"),
    ],
)
def test_options_that_make_no_sense_are_one_sentence(words, sentence):
    error = run(*words).exception
    with pytest.raises(InputError, match=sentence):
        raise error
    assert "\n" not in str(error)
