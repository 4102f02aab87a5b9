"""Objectives on one core: Sinkhorn beside the multiplicative form, object centres batched beside frame by frame."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from skyframe.objective.contrastive import object_centres
from skyframe.objective.sinkhorn import sinkhorn

ROUNDS = 7


def _multiplicative(scores: Tensor, eps: float, iterations: int) -> Tensor:
    q = torch.exp(scores / eps)
    for _ in range(iterations):
        q = q / q.sum(-1, keepdim=True) / q.shape[-2]
        q = q / q.sum(-2, keepdim=True) / q.shape[-1]
    return q


def compare(title: str, forms: dict[str, Callable[[], object]]) -> None:
    """Print median milliseconds of each form, interleaved, and its ratio to the first."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(ROUNDS + 1):
        for name, form in forms.items():
            started = time.perf_counter()
            form()
            if turn:
                times[name].append(1e3 * (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in times.items()}
    first = next(iter(medians.values()))
    print(title)
    for name, value in medians.items():
        print(f"  {name:<24}{value:>9.2f} ms{value / first:>8.2f}x")


def main() -> None:
    """Prototype-sized and pixel-sized problems."""
    torch.set_num_threads(1)
    for rows, columns in ((256, 100), (4096, 100), (2048, 4096)):
        scores = torch.rand(rows, columns) * 2 - 1
        compare(
            f"sinkhorn {rows} x {columns}, 3 iterations",
            {
                "multiplicative": lambda s=scores: _multiplicative(s, 0.05, 3),  # type: ignore[misc]
                "log domain (ours)": lambda s=scores: sinkhorn(s, 0.05, 3),  # type: ignore[misc]
            },
        )
    features = torch.randn(93, 256, 256)
    valid = torch.ones(93, 256, dtype=torch.bool)
    compare(
        "object centres, 93 frames x 256 positions x 256, 16 centres, 3 rounds",
        {
            "frame by frame": lambda: [
                object_centres(f[None], f[None], v[None], 16, 0.05, 3, 3) for f, v in zip(features, valid, strict=True)
            ],
            "one batched call (ours)": lambda: object_centres(features, features, valid, 16, 0.05, 3, 3),
        },
    )


if __name__ == "__main__":
    main()
