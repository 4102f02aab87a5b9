"""Throughput by hand: tokens of a ragged batch, operations against PyTorch's counter, the clock, several ranks."""

import dataclasses
import shutil
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from skyframe.data.datamodule import select_modalities
from skyframe.sample import Batch
from skyframe.train import throughput
from skyframe.train.estimate.model import loss_of
from skyframe.train.estimate.useful import prices_of
from skyframe.train.progress import read_metrics
from skyframe.train.run import pretrain
from skyframe.train.tally import Part, Tally
from skyframe.train.throughput import Throughput, peak_of
from tests.distributed import run_ranks
from tests.system.batches import nano_recipe, nano_system
from tests.train.estimate.whole import system, tiny, windows
from tests.train.runs import overrides
from tests.train.throughput_ranks import measured

CPU = torch.device("cpu")
FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FLASH_BACK = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def ragged(batch: Batch) -> Batch:
    """All dates of sample 0; sample 1 has one date of s2, half clouded, and no s1; from sample 1 on there is no hr."""
    series = {name: dataclasses.replace(s, valid=s.valid.clone()) for name, s in batch.series.items()}
    side = series["s2"].valid.shape[-1]
    series["s2"].valid[1, 1:] = False
    series["s2"].valid[1, 0, : side // 2] = False
    series["s1"].valid[1] = False
    series["hr"].valid[1:] = False
    return dataclasses.replace(batch, series=series)


def nano_views(num: int = 3) -> tuple[Batch, Batch]:
    """Two equal ragged views of 4 x 4 positions."""
    batch = ragged(windows(nano_recipe("views.crop_px=4", "data.window_px=4"), num))
    batch = dataclasses.replace(batch, pixel=torch.arange(16).expand(num, 16))
    return batch, batch


def test_tokens_of_a_ragged_batch_by_hand():
    made = nano_system()
    tally = Tally(made)
    made.losses(nano_views(2))
    (samples, _), counts = tally.take(2, CPU)
    assert samples == 2
    form = {"hr": (3, 128, 128), "s2": (10, 4, 4), "s1": (2, 4, 4)}
    # 16 positions; sample 0 has 1 + 3 + 2 dates, sample 1 one date of s2 with 8 positions in the open
    frames = {"hr": [1, 16, 1], "s2": [3 + 1, 3 * 16 + 8, 1], "s1": [2, 2 * 16, 1]}
    places = [2 * 16, 6 * 16 + 8, 36 * 16 + 8]
    for tower in ("student", "teacher"):
        assert counts.pop(Part(tower)) == places
        for name, expected in frames.items():
            assert counts.pop(Part(tower, name, form[name])) == expected, (tower, name)
    assert counts == {}


def test_both_directions_count_and_passes_add_up_until_they_are_taken():
    made = nano_system("loss.symmetric=true")
    tally = Tally(made)
    for _ in range(3):
        made.losses(nano_views(2))
    (_, operations), counts = tally.take(6, CPU)
    tokens = [count[1] for part, count in counts.items() if part.modality]
    assert sum(tokens) == 3 * 2 * 2 * (16 + 56 + 32) and operations > 0
    assert tally.take(0, CPU) == ([0, 0], {})
    tally.close()
    made.losses(nano_views(2))
    assert tally.take(0, CPU) == ([0, 0], {})


def test_padding_is_neither_token_nor_useful_operation():
    found = []
    for dates in (2, 6):
        made = nano_system()
        tally = Tally(made)
        batch = windows(nano_recipe("data.window_px=4", f"data.frames={{s2: {dates}, s1: {dates}}}"), 2)
        for name in ("s2", "s1"):
            batch.series[name].valid[:, 2:] = False
        made.losses((batch, batch))
        found.append(tally.take(2, CPU))
    assert found[0] == found[1]
    assert sum(count[1] for part, count in found[0][1].items() if part.modality) == 2 * 2 * 16 * (1 + 2 + 2)


def _flash(q, k, v, *args, **kwargs):
    """Scores and their sum over values, which PyTorch's counter does not know of the CPU's fused kernel."""
    return 2 * 2 * q[0] * q[1] * q[2] * k[2] * q[3]


def _flash_back(gradient, q, k, v, *args, **kwargs):
    return 2 * _flash(q, k, v)


@pytest.mark.parametrize(
    "recipe",
    [
        nano_recipe(),
        nano_recipe("loss.cl=infonce", "loss.sources=[fused]", "views.split_dates=true", "model.fusion.positions=0.5"),
        nano_recipe("loss.symmetric=true", "views.local_crops=2", "views.local_px=2"),
        tiny("views.split_dates=true"),
    ],
    ids=["nano", "nano_infonce", "nano_local", "tiny"],
)
def test_useful_operations_of_a_real_step_on_ragged_input_against_the_counter_of_torch(recipe):
    """Within 10 % (4 % when written), and never more: the counter also has padded dates and the losses' products."""
    made, batch = system(recipe), ragged(windows(recipe, 3))
    meter = Throughput(recipe, made, CPU, 0.0)
    table = {FLASH: _flash, FLASH_BACK: _flash_back}
    with FlopCounterMode(display=False, custom_mapping=table) as counter:
        loss_of(recipe, made, batch).backward()
    (_, operations), counts = meter.tally.take(3, CPU)
    useful, counted = operations + meter._priced(counts), counter.get_total_flops()
    assert 0.9 * counted < useful <= counted, useful / counted


def test_recomputed_activations_are_of_no_use():
    found, parts = [], [Part("student", "s2", (10, 4, 4)), Part("student")]
    for recipe in (nano_recipe(), nano_recipe("train.recompute=true")):
        made = system(recipe)
        tally = Tally(made)
        loss_of(recipe, made, windows(recipe, 2)).backward()
        found.append((*tally.take(2, CPU), prices_of(recipe, parts)))
    assert found[0] == found[1]


def test_prices_of_a_fusion_by_hand():
    """Two layers of width 32: the last answers for the extra token alone."""
    recipe = nano_recipe()
    fusion = nano_system().student.fusion
    d, inputs, n = fusion.num_features, fusion.proj.in_features, 5
    hidden, layers = fusion.layers[0].ffn.up.out_features, len(fusion.layers)
    prices = prices_of(recipe, [Part("student"), Part("teacher")])
    rows = n + 1
    whole = rows * (4 * d * d + 2 * d * hidden) + 2 * rows * rows * d  # products of multiplication and addition
    last = rows * 2 * d * d + 2 * d * d + 2 * d * hidden + 2 * rows * d
    forward = 2 * (n * inputs * d + (layers - 1) * whole + last)
    for tower, passes in (("teacher", 1), ("student", 3)):
        a, b, c = prices[Part(tower)]
        assert a + b * n + c * n * n == passes * forward, tower


def test_a_learning_encoder_costs_thrice_its_teacher_but_for_the_gradient_of_pixels():
    parts = [Part(tower, "s2", (10, 4, 4)) for tower in ("student", "teacher")]
    (student, *_), (teacher, *_) = prices_of(nano_recipe(), parts).values()
    patch = 2 * 10 * 4 * 4 * nano_system().student.encoders["s2"].num_features
    assert student == 3 * teacher - patch


def test_two_ranks_one_without_radar_count_as_one_does():
    recipe, whole = nano_recipe(), ragged(windows(nano_recipe("data.window_px=4"), 2))
    ranks = []
    for rank in range(2):
        one = windows(nano_recipe("data.window_px=4"), 1)
        for name, s in whole.series.items():
            one.series[name].valid.copy_(s.valid[rank : rank + 1])
        ranks.append(one)
    (counts, row), (same, _) = run_ranks(measured, recipe, select_modalities(recipe.data), tuple(ranks))
    made = nano_system()
    tally = Tally(made)
    made.losses((whole, whole))
    _, alone = tally.take(2, CPU)
    assert {part: count[:2] for part, count in counts.items()} == {part: count[:2] for part, count in alone.items()}
    assert counts == same
    assert row["tokens_per_s"] / row["samples_per_s"] == pytest.approx(2 * (16 + 56 + 32) / 2)
    took = 2 / row["samples_per_s"]
    assert row["data_wait_pct"] == pytest.approx(100 * 0.5 / took), "of the rank that waited"


def test_figures_of_a_row_by_hand(monkeypatch):
    clock = iter([0.0, 100.0, 104.0, 104.0, 110.0, 110.0, 111.0, 111.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    recipe = nano_recipe("train.peak_tflops=1e-6")
    made = nano_system()
    meter = Throughput(recipe, made, CPU, waited_s=7.0)
    made.losses(nano_views(2))
    meter.samples += 2
    meter.restart(waited_s=50.0)  # a first step of 100 s
    made.losses(nano_views(2))
    meter.samples += 2
    row = meter.row(waited_s=51.0)
    parts = meter.prices
    assert row["samples_per_s"] == 2 / 4 and row["tokens_per_s"] == 2 * (16 + 56 + 32) / 4
    assert row["data_wait_pct"] == 25.0
    once = Tally(made)
    made.losses(nano_views(2))
    (_, operations), counts = once.take(2, CPU)
    useful = operations + sum(p * n for part, count in counts.items() for p, n in zip(parts[part], count, strict=True))
    assert row["mfu_pct"] == pytest.approx(100 * useful / (4 * 1e6))
    meter.samples += 6
    again = meter.row(waited_s=51.0)
    assert (again["samples_per_s"], again["data_wait_pct"]) == (1.0, 0.0), "nothing of before"
    rate, more = meter.in_short()
    monkeypatch.setattr(throughput.dist, "rank", lambda: 1)
    assert "mfu_pct" not in meter.row(waited_s=51.0), "rank 0 writes"
    assert rate == "1.0 samples/s" and more.startswith("35 tokens/s  waits 0 %  MFU "), more


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312, 19.5),
        ("NVIDIA A100-PCIE-40GB", 312, 19.5),
        ("NVIDIA H100 80GB HBM3", 989, 67),
        ("NVIDIA H200", 989, 67),
        ("NVIDIA H100 PCIe", 0, 0),
        ("NVIDIA H100 NVL", 0, 0),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 0, 0),
        ("Tesla V100-SXM2-16GB", 0, 0),
    ],
)
def test_the_peak_is_that_of_known_devices_alone(monkeypatch, name, bf16, fp32):
    monkeypatch.setattr(throughput.torch.cuda, "get_device_name", lambda device: name)
    cuda = torch.device("cuda:0")
    assert peak_of(nano_recipe("train.precision=bf16-mixed"), cuda) == bf16 * 1e12
    assert peak_of(nano_recipe(), cuda) == fp32 * 1e12
    assert peak_of(nano_recipe("train.peak_tflops=3.5"), cuda) == 3.5e12
    assert peak_of(nano_recipe(), CPU) == 0 and peak_of(nano_recipe("train.peak_tflops=3.5"), CPU) == 3.5e12


def test_rows_of_a_run_leave_its_first_step_out_whatever_the_micro_steps_and_after_a_resume(earth, tmp_path):
    words = {
        "each": ["train.log_every=1"],  # every row is one step
        "whole": ["train.log_every=2", "train.peak_tflops=0.1", "train.checkpoint_every=2"],
        "halves": ["train.log_every=2", "train.peak_tflops=0.1", "train.micro_steps=2"],
    }
    recipes = {
        name: nano_recipe(*overrides(earth, tmp_path, name, "views.drop_frames=0.5", *more))
        for name, more in words.items()
    }
    rows = {name: read_metrics(pretrain(recipe, show=False)) for name, recipe in recipes.items()}
    assert not any("mfu_pct" in r for r in rows["each"]), "the peak of a CPU is not known"
    assert all(0 < r["mfu_pct"] < 100 and 0 <= r["data_wait_pct"] < 100 for r in rows["whole"] + rows["halves"])
    tokens = {name: [r["tokens_per_s"] / r["samples_per_s"] for r in found] for name, found in rows.items()}
    _, second, third, fourth = tokens["each"]
    assert tokens["whole"] == pytest.approx([second, (third + fourth) / 2], rel=1e-4)
    assert tokens["halves"] == pytest.approx(tokens["whole"], rel=1e-4)
    assert all(16 < t <= 2 * 16 * (1 + 3 + 2) for t in tokens["each"])
    assert min(abs(second - third), abs(third - fourth)) > 1, "steps that could be taken for each other"

    saved = tmp_path / "whole" / "checkpoints"
    shutil.rmtree(saved / "step_00000004")  # as if killed before it was written
    (saved / "LATEST").write_text("step_00000002")
    row = read_metrics(pretrain(recipes["whole"], resume="auto", show=False))[-1]
    assert row["step"] == 4 and row["tokens_per_s"] / row["samples_per_s"] == pytest.approx(fourth, rel=1e-4)
