"""Encoders that others made: any torch module as an `Encoder` with a contract, or loaded from one YAML.

In Python, forty lines of a notebook are enough: `Foreign(module, contract, call)`, where `call` feeds the module. From
the command line an encoder is a YAML (`config/foreign.py`) that names its file, weights and bands.
"""

from __future__ import annotations

import importlib.util
import operator
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from skyframe.config.contract import Contract
from skyframe.config.foreign import ForeignConfig, contract_of, load_foreign_config
from skyframe.evaluate.feed.fit import side_px
from skyframe.sample import Batch, Features, SeriesBatch
from skyframe.spec import InputError, Modality


@dataclass
class Frames:
    """One modality as a module of others takes it."""

    values: Tensor  # float32 [B, T, C, H, W], (physical - mean) / std, 0 where invalid
    valid: Tensor  # bool [B, T, C, H, W]
    day: Tensor  # int32 [B, T]
    modality: Modality  # of the contract


Call = Callable[[nn.Module, dict[str, Frames], Tensor], Tensor]
"""Module, modalities by name, place `[B, 2]` (latitude, longitude) -> features `[B, D]` or on a grid `[B, D, h, w]`."""


class Foreign(nn.Module):
    """A module of others as an encoder: normalised by its contract, its tokens repeated onto the 10 m positions."""

    def __init__(self, module: nn.Module, contract: Contract, call: Call, input_px: int = 0) -> None:
        """Nothing is computed.

        Args:
            module: any; it is put into evaluation mode.
            contract: what it was trained on; mean and std of each modality are its normaliser.
            call: how it is asked.
            input_px: side that images are resampled to; 0 = as they come.
        """
        super().__init__()
        self.module, self.contract, self.call, self.input_px = module.eval(), contract, call, input_px

    def encode(self, batch: Batch) -> Features:
        """Features of a batch in stored units; with gradients where they are wanted.

        Raises:
            InputError: none of the contract's modalities is there, or the module answers in another width.
        """
        known = {n: m for n, m in self.contract.modalities.items() if n in batch.series}
        if not known:
            raise InputError(f"{self.contract.module}: takes {', '.join(self.contract.modalities)}, got none of them")
        frames = {n: _frames(batch.series[n], m, self.input_px) for n, m in known.items()}
        found = self.call(self.module, frames, batch.place)
        if found.ndim not in (2, 4) or found.shape[1] != self.contract.num_features:
            raise InputError(
                f"{self.contract.module}: answers {list(found.shape)}, expected [B, {self.contract.num_features}] or "
                "that on a grid; correct width or call"
            )
        name, modality = next(iter(known.items()))
        seen = batch.series[name].valid.any(1)
        side = seen.shape[-1] // side_px(modality)
        grid = found if found.ndim == 4 else found[:, :, None, None]
        fused = functional.interpolate(grid, size=(side, side), mode="nearest").flatten(2).transpose(1, 2)
        cells = functional.adaptive_max_pool2d(seen[:, None].float(), side).flatten(1)
        weight = (cells / cells.sum(1, keepdim=True).clamp_min(1))[..., None]
        return Features(fused, (fused * weight).sum(1))


def _frames(series: SeriesBatch, modality: Modality, side: int) -> Frames:
    mean, std = (
        torch.tensor(x, dtype=torch.float32, device=series.values.device).reshape(-1, 1, 1)
        for x in (modality.mean, modality.std)
    )
    physical = series.values.float() * modality.scale + modality.offset
    valid = series.valid[:, :, None] & series.bands[:, None, :, None, None]
    values = torch.where(valid, (physical - mean) / std, 0.0)
    if side and values.shape[-1] not in (1, side):
        batch, dates = values.shape[:2]
        flat = functional.interpolate(values.flatten(0, 1), size=(side, side), mode="bilinear", antialias=True)
        seen = functional.interpolate(valid.flatten(0, 1).float(), size=(side, side), mode="nearest")
        values, valid = (x.unflatten(0, (batch, dates)) for x in (flat, seen > 0))
    return Frames(values, valid, series.day, modality)


def load_foreign(path: str | Path, trained: bool = True) -> Foreign:
    """The encoder that a YAML describes.

    Args:
        path: of the YAML.
        trained: with its weights; without them it is the random initialisation that scores stand beside.

    Raises:
        InputError: the YAML, the Python file or the weights do not fit; weights are loaded strictly or not at all.
    """
    from skyframe.evaluate.foreign_calls import call_of

    path = Path(path)
    config = load_foreign_config(path)
    module = _made(config, path.parent)
    if trained and config.weights:
        _load(module, config, path.parent / config.weights)
    return Foreign(module, contract_of(config), call_of(config), config.input_px)


def _made(config: ForeignConfig, folder: Path) -> nn.Module:
    file = folder / config.file
    spec = importlib.util.spec_from_file_location(f"skyframe_foreign_{config.name}", file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise InputError(f"{config.name}: no Python file {file}, expected the encoder's code; correct `file`")
    code = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(code)
        module = partial(operator.attrgetter(config.make)(code), **config.args)()
    except Exception as error:  # it is the user's code: whatever it raises, the sentence names it
        raise InputError(f"{file}: {config.make} failed with {type(error).__name__} ({error}); correct it") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"{file}: {config.make} returns {type(module).__name__}, expected a torch module")
    return module


def _load(module: nn.Module, config: ForeignConfig, path: Path) -> None:
    """Every weight of the file into the module, and every weight of the module from the file."""
    held = _state(path)
    if config.weights_key:
        if config.weights_key not in held:
            raise InputError(f"{path}: no key {config.weights_key!r}, it has {', '.join(map(str, list(held)[:6]))}")
        held = held[config.weights_key]
    nested = [k for k, v in held.items() if not isinstance(v, Tensor)] if isinstance(held, dict) else ["(no names)"]
    if nested:
        raise InputError(f"{path}: {nested[0]} is no weight, expected a state dict; name it by weights_key")
    weights = {}
    for name, tensor in held.items():
        for text in config.strip:
            name = name.replace(text, "")
        weights[name] = tensor
    own = module.state_dict()
    wrong = sorted(
        k
        for k in own.keys() | weights.keys()
        if k not in own or k not in weights or tuple(own[k].shape) != tuple(getattr(weights[k], "shape", ()))
    )
    if wrong:
        common = len(own.keys() & weights.keys())
        raise InputError(
            f"{path}: {len(wrong)} weights do not fit {config.make} (first: {wrong[0]}; {common} names in common), "
            "expected all to; correct args, weights_key or strip"
        )
    module.load_state_dict(weights)


def _state(path: Path) -> dict[str, Any]:
    """What a file of weights holds; code in it is never run."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the encoder's weights; correct `weights`")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: no file of weights alone ({reason}); save a state dict") from error
    if not isinstance(held, dict):
        raise InputError(f"{path}: holds {type(held).__name__}, expected a state dict")
    return held
