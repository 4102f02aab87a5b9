"""One exported module: rebuild it from its contract, load it strictly, check its canary."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from skyframe.config.contract import Contract
from skyframe.config.skysense import ModelConfig
from skyframe.model.factorised import FactorisedEncoder, SpatialEncoder, build_fusion
from skyframe.model.geo_context import GeoContext
from skyframe.randomness import hash64, uniform
from skyframe.sample import Batch, Features, SeriesBatch
from skyframe.spec import InputError, build

WEIGHTS = "model.safetensors"


class Exported(nn.Module):
    """A module with the contract it was exported under, in evaluation mode."""

    def __init__(self, module: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.module = module.eval().requires_grad_(False)
        self.contract = contract

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward pass."""
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def encode(self, batch: Batch) -> Features:
        """Features of a batch in stored units; only whole models and spatial encoders have them."""
        if not isinstance(self.module, FactorisedEncoder | SpatialEncoder):
            raise InputError(
                f"{self.contract.module}: has no features of its own, expected `model` or an `encoder_<modality>` "
                "folder"
            )
        return self.module.encode(batch)

    @torch.no_grad()
    def maps(self, batch: Batch, source: str = "") -> list[Tensor]:
        """Maps `[B, D_l, h_l, w_l]` of several depths, see `FactorisedEncoder.maps`; training goes through `module`."""
        if not isinstance(self.module, FactorisedEncoder | SpatialEncoder):
            raise InputError(f"{self.contract.module}: has no maps, expected `model` or an `encoder_<modality>` folder")
        return self.module.maps(batch, source)

    @torch.no_grad()
    def prototype_map(self, batch: Batch) -> Tensor:
        """Nearest prototype per position, int64 `[B, N]`; only a whole model with geo-context has one."""
        if not isinstance(self.module, FactorisedEncoder):
            raise InputError(f"{self.contract.module}: has no prototypes, expected the `model` folder")
        return self.module.prototype_map(batch)


def load_module(folder: str | Path) -> Exported:
    """Load an exported folder.

    Args:
        folder: one module's folder, e.g. `OUT/model` or `OUT/encoder_s2`.

    Returns:
        The module with its contract.

    Raises:
        InputError: contract, checksum, keys, shapes or the canary do not agree; nothing is loaded in part.
    """
    folder = Path(folder)
    contract = Contract.load(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise InputError(f"{folder}: no {WEIGHTS}, expected the weights beside contract.json; export the run again")
    if file_sha256(path) != contract.weights_sha256:
        raise InputError(
            f"{path}: checksum differs from the contract's {contract.weights_sha256[:12]}, the file was changed or "
            "cut off; copy it again"
        )
    module = rebuild(contract)
    weights = _read(path)
    own = module.state_dict()
    wrong = sorted(
        k for k in own.keys() | weights.keys() if k not in own or k not in weights or own[k].shape != weights[k].shape
    )
    if wrong:
        raise InputError(
            f"{path}: {len(wrong)} tensors do not fit {contract.module} (first: {wrong[0]}); export the run again "
            "with this version"
        )
    module.load_state_dict(weights)
    exported = Exported(module, contract)
    check_canary(exported, folder)
    return exported


def rebuild(contract: Contract, seed: int = 0) -> nn.Module:
    """The module that a contract describes, with fresh weights."""
    missing = [key for key in ("model", "num_regions") if key not in contract.build]
    if missing:
        raise InputError(
            f"contract of {contract.module}: build lacks {', '.join(missing)}, expected what the exporter wrote; "
            "export the run again"
        )
    model: ModelConfig = build(ModelConfig, contract.build["model"], f"contract of {contract.module}")
    num_regions = int(contract.build["num_regions"])
    if contract.module == "model":
        return FactorisedEncoder(contract.modalities, model, num_regions, seed)
    if contract.module == "fusion":
        return build_fusion(model, seed)
    if contract.module == "geo_context":
        return GeoContext(model.fusion.embed_dims, num_regions, model.geo.num_prototypes, model.geo.dims, seed=seed)
    name = contract.module.removeprefix("encoder_")
    if contract.module.startswith("encoder_") and name in contract.modalities:
        return SpatialEncoder(contract.modalities[name], model.encoders[name], seed)
    raise InputError(
        f"contract: module {contract.module!r} is not one of model, fusion, geo_context, encoder_<modality>"
    )


def random_copy(exported: Exported, seed: int) -> Exported:
    """The same architecture with fresh weights: the baseline that every score stands beside."""
    return Exported(rebuild(exported.contract, hash64(seed, "random_copy")), exported.contract)


def canary_input(contract: Contract) -> dict[str, Tensor]:
    """A small fixed input: counter-based numbers of plausible size, some of it invalid."""
    model: ModelConfig = build(ModelConfig, contract.build["model"], "contract")
    if contract.module == "fusion":
        tokens = _numbers("tokens", 4, 5, model.aligned_dims) * 2 - 1
        return {"tokens": tokens, "valid": _numbers("valid", 4, 5) < 0.8}
    if contract.module == "geo_context":
        region = torch.arange(2) % max(1, int(contract.build["num_regions"]))
        return {"fused": _numbers("fused", 2, 4, model.fusion.embed_dims) * 2 - 1, "region": region}
    made: dict[str, Tensor] = {"region": torch.zeros(1, dtype=torch.int64)}
    wanted = (
        contract.modalities
        if contract.module == "model"
        else {k: v for k, v in contract.modalities.items() if contract.module == f"encoder_{k}"}
    )
    for name, m in wanted.items():
        side = m.pixels(contract.crop_px * 10.0)
        dates = min(3, contract.frames.get(name, 1))
        shape = (1, dates, len(m.bands), side, side)
        spread = torch.tensor(m.std).reshape(-1, 1, 1) * 2 * (_numbers(name, *shape) - 0.5)
        made[f"{name}.values"] = ((torch.tensor(m.mean).reshape(-1, 1, 1) + spread - m.offset) / m.scale).round()
        made[f"{name}.valid"] = _numbers(f"{name}.valid", 1, dates, side, side) < 0.9
        made[f"{name}.day"] = (7000 + 37 * torch.arange(dates, dtype=torch.int32))[None]
    return made


def canary_output(exported: Exported, inputs: dict[str, Tensor]) -> Tensor:
    """What the module answers to its canary input."""
    with torch.no_grad():
        if exported.contract.module == "fusion":
            return exported.module(inputs["tokens"], inputs["valid"])  # type: ignore[no-any-return]
        if exported.contract.module == "geo_context":
            return exported.module.read(inputs["fused"], inputs["region"])  # type: ignore[operator, no-any-return]
        return exported.encode(_canary_batch(inputs)).fused


def check_canary(exported: Exported, folder: Path) -> None:
    """Recompute the canary and compare.

    Raises:
        InputError: the file is missing, or the answer differs by more than the contract's tolerance.
    """
    canary = exported.contract.canary
    path = folder / canary.file
    if not path.is_file():
        raise InputError(f"{folder}: no {canary.file}, expected the canary beside the weights; export the run again")
    stored = _read(path)
    if stored.keys() != {*canary_input(exported.contract), "expected"}:
        raise InputError(
            f"{path}: holds {', '.join(sorted(stored))}, expected the canary's inputs and its answer; export the run "
            "again"
        )
    expected = stored.pop("expected")
    got = canary_output(exported, stored)
    error = (
        float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
        if got.shape == expected.shape
        else float("inf")
    )
    if not error <= canary.tolerance:
        raise InputError(
            f"{folder}: the canary embedding is off by {error:.1e} of its scale, expected at most "
            f"{canary.tolerance:.0e}; export the run again"
        )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); export the run again") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _numbers(name: str, *shape: int) -> Tensor:
    count = 1
    for n in shape:
        count *= n
    return uniform(hash64("canary", name), torch.zeros(1, dtype=torch.int64), count).reshape(shape)


def _canary_batch(inputs: dict[str, Tensor]) -> Batch:
    series = {}
    for name in (k.removesuffix(".values") for k in inputs if k.endswith(".values")):
        values = inputs[f"{name}.values"]
        bands = torch.ones(values.shape[0], values.shape[2], dtype=torch.bool)
        series[name] = SeriesBatch(values, inputs[f"{name}.valid"], inputs[f"{name}.day"], bands)
    zeros = torch.zeros(1, dtype=torch.int64)
    return Batch(series, torch.zeros(1, 2, dtype=torch.float64), inputs["region"], zeros, zeros)
