"""The plan as tables: sums and units."""

import json

from rich.console import Console

from skyframe.config.batch_rule import at_batch
from skyframe.train.estimate.cost import plan_training
from skyframe.train.estimate.model import system_on_meta, tokens_of
from skyframe.train.estimate.view import as_values, closing_line, describe_training
from tests.train.estimate.test_cost import cluster
from tests.train.estimate.whole import small, tiny


def text_of(tables, width: int = 80) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(*tables)
    return capture.get()


def test_tables_fit_a_terminal_and_give_units():
    recipe = tiny()
    plan = plan_training(recipe, cluster(4))
    text = text_of(describe_training(plan, at_batch(recipe, 4 * 48)))
    assert "…" not in text, "80 columns are enough"
    for words in (
        "trained, M", "buffers, MiB", "TFLOP forward", "memory per GPU, GiB, of 74.1", "sent per GPU, MiB", "alone, ms",
        "step, s", "GPU-hours", "a global batch of 192 calls for", "0.0006", "0.8145",
    ):  # fmt: skip
        assert words in text, words
    assert closing_line(plan).startswith("take DDP with a micro batch of 12 per GPU, train.micro_steps=1:")


def test_values_for_a_file_are_plain():
    plan = plan_training(tiny(), cluster(2))
    values = json.loads(json.dumps(as_values(plan)))
    assert values["gpus"] == 2 and values["chosen"] == "DDP" and set(values["scaling"]) == {"8", "32", "128"}
    held = values["estimates"]["DDP"]["memory"]
    assert values["estimates"]["DDP"]["total_bytes"] == sum(held.values())
    assert values["micro_step"]["forward_flops"] == plan.step.forward_flops


def test_tokens_of_a_sample_by_hand():
    """Tiny: HR 4 px x 32 in patches of 4, 20 + 10 dates of 4 px in patches of 2; 4 of 16 positions with 31 + 1."""
    patches = 32 * 32 + 30 * 4
    assert tokens_of(tiny(), system_on_meta(tiny())) == (2 * patches, 2 * 4 * 32)
    recipe = small("loss.symmetric=true")  # 4 + 3 dates in patches of 4, two local crops of half the side
    patches, local = 32 * 32 + 7 * 1, 2 * 16 * 16
    assert tokens_of(recipe, system_on_meta(recipe)) == (2 * (2 * patches + local), 2 * 2 * 16 * 9)
