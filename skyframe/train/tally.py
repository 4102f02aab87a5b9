"""Real tokens and real work of a run, counted on the device while its passes go by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from skyframe import dist
from skyframe.model.factorised import FactorisedEncoder, SpatialEncoder
from skyframe.model.heads import DistillationHead
from skyframe.model.stem import position_valid
from skyframe.model.temporal import TemporalFusion


@dataclass(frozen=True, order=True)
class Part:
    """What real work is counted by: a modality's encoder with its way onto the position grid, or a fusion."""

    tower: str  # name of the `FactorisedEncoder` in its system
    modality: str = ""  # empty = the fusion
    form: tuple[int, ...] = ()  # bands, rows and columns of a frame


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
