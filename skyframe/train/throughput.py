"""How fast a run is: samples, real tokens and useful operations per second since the last row of the log."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from skyframe import dist
from skyframe.config.skysense import SkySenseRecipe
from skyframe.model.factorised import FactorisedEncoder, SpatialEncoder
from skyframe.model.heads import DistillationHead
from skyframe.model.stem import position_valid
from skyframe.model.temporal import TemporalFusion
from skyframe.train.estimate.cost import GPUS, in_bf16
from skyframe.train.estimate.useful import Part, prices_of


class Tally:
    """Counts what enters a system's modules, pass by pass, without making the host wait for the device.

    A token is one 10 m position of one date of one modality with a valid pixel there, as a spatial encoder is given it:
    once for the student, once for the teacher, once more for a local crop. Padded dates, absent modalities and clouded
    positions are none. Work is counted apart, as an encoder computes a frame with something valid as a whole: frames
    per encoder; places, tokens and squared tokens per fusion; operations of other linear maps by their rows.

    Args:
        system: whose modules are watched until `close`.
    """

    def __init__(self, system: nn.Module) -> None:
        self.counts: dict[Part, Tensor] = {}  # int64 [frames, tokens, passes] or [places, tokens, squared tokens]
        self.operations = 0  # of linear maps outside of encoders and fusion, whose rows the host knows
        self.handles: list[Any] = []
        inside: set[nn.Module] = set()
        for name, tower in system.named_modules():
            if isinstance(tower, FactorisedEncoder):
                for modality, encoder in tower.encoders.items():
                    self.handles.append(encoder.register_forward_hook(partial(self._frames, name, modality)))
                    inside.update(encoder.modules())
                self.handles.append(tower.fusion.register_forward_hook(partial(self._places, name)))
                inside.update(tower.fusion.modules())
        for module in system.modules():
            if isinstance(module, nn.Linear) and module not in inside:
                self.handles.append(module.register_forward_hook(self._rows))
            elif isinstance(module, DistillationHead):
                self.handles.append(module.register_forward_hook(self._logits))

    def take(self, samples: int, device: torch.device) -> tuple[list[float], dict[Part, list[float]]]:
        """Counts since the last call, summed over ranks: all of them must call it, and the device is waited for.

        Returns:
            samples and operations of linear maps; counts by part.
        """
        parts = sorted(self.counts)  # the same on all ranks, which run all modules in every pass
        own = [torch.tensor([samples, self.operations], dtype=torch.float64, device=device)]
        total = dist.all_sum(torch.cat([*own, *(self.counts[part].double() for part in parts)])).tolist()
        found, at = {}, 2
        for part in parts:
            found[part] = total[at : at + len(self.counts[part])]
            at += len(self.counts[part])
        self.counts, self.operations = {}, 0
        return total[:2], found

    def close(self) -> None:
        """Watch no more."""
        for handle in self.handles:
            handle.remove()

    @torch.no_grad()
    def _add(self, part: Part, *numbers: Tensor) -> None:
        new = torch.stack(numbers)
        self.counts[part] = self.counts[part] + new if part in self.counts else new

    def _frames(self, tower: str, modality: str, module: SpatialEncoder, inputs: Any, output: Any) -> None:
        series = inputs[0]
        part = Part(tower, modality, tuple(series.values.shape[2:]))
        frames = output[1].sum()
        self._add(part, frames, position_valid(series.valid, module.side(series)).sum(), torch.ones_like(frames))

    def _places(self, tower: str, module: TemporalFusion, inputs: Any, output: Any) -> None:
        length = inputs[1].sum(1)
        self._add(Part(tower), torch.ones_like(length).sum(), length.sum(), length.square().sum())

    def _rows(self, module: nn.Linear, inputs: Any, output: Tensor) -> None:
        self.operations += _passes(module.weight) * 2 * inputs[0].numel() * module.out_features

    def _logits(self, module: DistillationHead, inputs: Any, output: Tensor) -> None:
        width = cast(nn.Linear, module.mlp[-1]).out_features  # ZeRO-3 may have taken `last` apart again
        self.operations += _passes(module.last) * 2 * output.numel() * width


def _passes(weight: Tensor) -> int:
    """A linear map that learns takes twice its forward operations backward."""
    return 3 if weight.requires_grad and torch.is_grad_enabled() else 1


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
            self.prices |= prices_of(self.recipe, new)
        return sum(p * n for part, count in counts.items() for p, n in zip(self.prices[part], count, strict=True))


def peak_of(recipe: SkySenseRecipe, device: torch.device) -> float:
    """Operations per second that one device could reach in the recipe's precision; 0 where that is not known."""
    if recipe.train.peak_tflops:
        return recipe.train.peak_tflops * 1e12
    words = torch.cuda.get_device_name(device).lower().replace("-", " ").split() if device.type == "cuda" else []
    kind = next((gpu for name, gpu in GPUS.items() if name in words), None)
    if kind is None or {"mig", "nvl"} & {*words} or {"h100", "pcie"} <= {*words}:  # a part of a GPU, or a slower form
        return 0.0
    return (kind.bf16_tflops if in_bf16(recipe) else kind.fp32_tflops) * 1e12


def _thousands(number: float) -> str:
    """1234 as 1.2k."""
    return f"{number / 1000:.1f}k" if number >= 1000 else f"{number:.0f}"
