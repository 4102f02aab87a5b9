"""What scoring costs beside the encoder: features against the bare forward pass, and the sweep against one probe.

python -m benchmarks.evaluation ENCODER FOLDER   (an exported encoder; FOLDER/EuroSAT holds <Class>/<name>.jpg)
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch

from skyframe.config.evaluate import LinearConfig, TaskConfig
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.feed.features import batches, extract
from skyframe.evaluate.feed.fit import Fit, fit, training_statistics
from skyframe.evaluate.feed.inputs import dataset_inputs, limited
from skyframe.evaluate.probes.linear import train_heads
from skyframe.evaluate.protocol import Encoder, Subject
from skyframe.export import load_module

ROUNDS = 5
IMAGES = {"train": 300, "val": 100, "test": 100}


@click.command()
@click.argument("encoder", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--batch", default=32, show_default=True)
@click.option("--threads", default=1, show_default=True, help="of the encoder; a GPU leaves the other cores to reading")
def main(encoder: Path, data: Path, batch: int, threads: int) -> None:
    """Print the ratios, medians of rounds in turn."""
    torch.set_num_threads(threads)
    module = load_module(encoder)
    task = TaskConfig("eurosat-rgb", limit=IMAGES, side=16, tiles=4)
    dataset = limited(open_dataset("eurosat-rgb", data / "EuroSAT"), task, "benchmark")
    plan = fit(dataset, module.contract)
    plan = dataclasses.replace(plan, statistics=training_statistics(dataset, list(plan.matches)))
    print(f"features per second of `evaluate` / of the bare forward pass: {forward(plan, task, module, batch):.2f}")
    print(f"linear probe from images: sweep of 8 x 2 x 2 / one head: {from_images(plan, task, module, batch):.2f}")
    for dims in (64, 384, 1024):
        alone, whole = sweep(dims)
        print(f"linear probe, {dims} features, 2000 rows: sweep of 8 x 2 x 2 / one head: {whole / alone:.2f}")


def forward(plan: Fit, task: TaskConfig, module: Encoder, batch: int) -> float:
    """Samples a second when files are read anew, over those of the forward pass alone on batches in memory."""
    ratios = []
    for _ in range(ROUNDS):
        ready = [b for b, _ in batches(dataset_inputs(plan, task, 0, False), batch, "", False)]
        with torch.no_grad():
            module.encode(ready[0])
            bare = _seconds(partial(list, map(module.encode, ready)))
        inputs = dataset_inputs(plan, task, 0, False)
        with tempfile.TemporaryDirectory() as folder:
            whole = _seconds(partial(extract, Subject("e", module), inputs, batch, Path(folder), False))
        ratios.append(bare / whole)
    return statistics.median(ratios)


def from_images(plan: Fit, task: TaskConfig, module: Encoder, batch: int) -> float:
    """Seconds of features and sweep over those of features and one head, each from the files, 50 epochs."""
    inputs = dataset_inputs(plan, task, 0, False)
    labels = inputs.truth[""]
    seconds = []
    for config in (LinearConfig(lrs=(1e-2,)), LinearConfig()):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            table = extract(Subject("e", module), dataset_inputs(plan, task, 0, False), batch, Path(folder), False)
            rows = {"mean": table.mean} if len(config.lrs) == 1 else {"mean": table.mean, "max": table.max}
            train_heads(rows, labels, len(plan.dataset.classes), config, config.batch, 0)
            seconds.append(time.perf_counter() - begun)
    return seconds[1] / seconds[0]


def sweep(dims: int) -> tuple[float, float]:
    """Seconds of one head and of the whole grid on the same features."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 2000)
    rows = {p: rng.normal(size=(2000, dims)).astype(np.float32) for p in ("mean", "max")}
    one = LinearConfig(lrs=(1e-2,), epochs=5)
    grid = dataclasses.replace(one, lrs=LinearConfig().lrs)
    alone, whole = [], []
    for _ in range(ROUNDS):
        alone.append(_seconds(lambda: train_heads({"mean": rows["mean"]}, labels, 10, one, 128, 0)))
        whole.append(_seconds(lambda: train_heads(rows, labels, 10, grid, 128, 0)))
    return statistics.median(alone), statistics.median(whole)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
