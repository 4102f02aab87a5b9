"""How fast a run is: samples, real tokens and useful operations per second since the last row of the log."""

from __future__ import annotations

import time

import torch
from torch import nn

from skyframe import dist
from skyframe.config.skysense import SkySenseRecipe
from skyframe.train.tally import Part, Tally


class Throughput:
    """The clock and the counts of a run between two rows of its log.

    Args:
        recipe: what is trained.
        system: being trained.
        device: of this rank; all are taken to be alike.
        waited_s: how long this rank has waited for data so far.
    """

    def __init__(self, recipe: SkySenseRecipe, system: nn.Module, device: torch.device, waited_s: float) -> None:
        self.recipe, self.device = recipe, device
        self.peak = peak_of(recipe, device)
        self.tally = Tally(system)
        self.prices: dict[Part, tuple[float, ...]] = {}
        self.samples = 0  # of this rank, since the last row
        self.begun, self.waited_s = time.perf_counter(), waited_s
        self.last: dict[str, float] = {}

    def restart(self, waited_s: float) -> None:
        """Forget what was counted; all ranks must call it. After the first step, which is slower than the others."""
        self.tally.take(self.samples, self.device)
        self.samples, self.begun, self.waited_s = 0, time.perf_counter(), waited_s

    def row(self, waited_s: float) -> dict[str, float]:
        """Figures of the time since the last row, over all ranks, which must all call it; a new span begins.

        Args:
            waited_s: how long this rank has waited for data so far.

        Returns:
            `samples_per_s`, `tokens_per_s`, `data_wait_pct` of the rank that waited longest, and on rank 0 `mfu_pct`
            where the peak of the devices is known.
        """
        (samples, operations), counts = self.tally.take(self.samples, self.device)
        took = max(1e-9, time.perf_counter() - self.begun)
        waited = dist.all_max(torch.tensor(waited_s - self.waited_s, device=self.device))
        tokens = sum(count[1] for part, count in counts.items() if part.modality)
        self.last = {
            "samples_per_s": samples / took,
            "tokens_per_s": tokens / took,
            "data_wait_pct": 100 * float(waited) / took,
        }
        if self.peak and dist.rank() == 0:
            useful = operations + self._priced(counts)
            self.last["mfu_pct"] = 100 * useful / (took * dist.world_size() * self.peak)
        self.samples, self.begun, self.waited_s = 0, time.perf_counter(), waited_s
        return self.last

    def in_short(self) -> tuple[str, str]:
        """For a progress line: samples per second of the last row, before it those so far; and what else is known."""
        if not self.last:
            so_far = self.samples * dist.world_size() / max(1e-9, time.perf_counter() - self.begun)
            return f"{so_far:.1f} samples/s", ""
        more = f"{_thousands(self.last['tokens_per_s'])} tokens/s  waits {self.last['data_wait_pct']:.0f} %"
        more += f"  MFU {self.last['mfu_pct']:.1f} %" if "mfu_pct" in self.last else ""
        return f"{self.last['samples_per_s']:.1f} samples/s", more

    def close(self) -> None:
        """Leave the system alone."""
        self.tally.close()

    def _priced(self, counts: dict[Part, list[float]]) -> float:
        """Useful operations of encoders and fusion."""
        new = [part for part in counts if part not in self.prices]
        if new:
            from skyframe.train.estimate.useful import prices_of  # on rank 0 alone, where a peak is known

            self.prices |= prices_of(self.recipe, new)
        return sum(p * n for part, count in counts.items() for p, n in zip(self.prices[part], count, strict=True))


def peak_of(recipe: SkySenseRecipe, device: torch.device) -> float:
    """Operations per second that one device could reach in the recipe's precision; 0 where that is not known."""
    if recipe.train.peak_tflops:
        return recipe.train.peak_tflops * 1e12
    if device.type != "cuda":
        return 0.0
    from skyframe.train.estimate.cost import GPUS, in_bf16

    words = torch.cuda.get_device_name(device).lower().replace("-", " ").split()
    kind = next((gpu for name, gpu in GPUS.items() if name in words), None)
    if kind is None or {"mig", "nvl"} & {*words} or {"h100", "pcie"} <= {*words}:  # a part of a GPU, or a slower form
        return 0.0
    return (kind.bf16_tflops if in_bf16(recipe) else kind.fp32_tflops) * 1e12


def _thousands(number: float) -> str:
    """1234 as 1.2k."""
    return f"{number / 1000:.1f}k" if number >= 1000 else f"{number:.0f}"
