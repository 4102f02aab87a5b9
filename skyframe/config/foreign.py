"""An encoder that others made, as one YAML: its code, its weights, and what it was trained on. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from skyframe.config.contract import CONTRACT_FORMAT, Contract
from skyframe.spec import InputError, Modality, build, load_yaml


@dataclass(frozen=True)
class ForeignConfig:
    """What the YAML says. Paths are relative to it or absolute; `file` is Python that is run as yours."""

    name: str
    file: str  # Python file that holds `make`
    make: str  # class or function in it, such as build_model or Presto.construct
    modalities: dict[str, Modality]  # bands in the order the module takes them; its input is (physical - mean) / std
    width: int  # features per token D
    args: dict[str, Any] = field(default_factory=dict)  # of `make`
    weights: str = ""  # .pt, .pth or .safetensors, loaded strictly; empty = as `make` returns it
    weights_key: str = ""  # of the state dict inside the file, such as model; empty = the file is one
    strip: tuple[str, ...] = ()  # texts taken out of the names of the weights, such as module.
    call: Literal["plain", "timm", "presto", "galileo"] = "plain"  # how the module is asked (evaluate/foreign_calls.py)
    input_px: int = 0  # side that images are resampled to; 0 = as they come
    skip_tokens: int = 1  # timm: leading tokens that stand for no place (class token, registers)
    patch_px: int = 8  # galileo: side of its patches
    frames: dict[str, int] = field(default_factory=dict)  # dates per series modality that it is fed at most
    crop_px: int = 16  # positions of 10 m along a side that it is fed
    min_side_px: int = 1  # smallest side in positions


def load_foreign_config(path: Path) -> ForeignConfig:
    """Read the YAML of an encoder; bands may be names alone.

    Raises:
        InputError: file, key, type or rule; one sentence that names the place.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the YAML of an encoder")
    tree = load_yaml(path)
    if not isinstance(tree, Mapping) or not isinstance(tree.get("modalities"), Mapping):
        raise InputError(f"{path.name}: expected a mapping with name, file, make and modalities; correct the file")
    modalities = {str(k): _modality(str(k), v) for k, v in tree["modalities"].items()}
    config: ForeignConfig = build(ForeignConfig, {**tree, "modalities": modalities}, path.name)
    for name, modality in config.modalities.items():
        if not modality.mean or not modality.std:
            raise InputError(
                f"{path.name}: modalities.{name} has no mean and std, expected those of the encoder's training (0 and "
                "1 where it takes physical units)"
            )
    if not config.modalities or config.width < 1:
        raise InputError(f"{path.name}: {len(config.modalities)} modalities, width {config.width}, expected some")
    return config


def _modality(name: str, entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    bands = entry.get("bands") or ()
    listed = [{"name": b} if isinstance(b, str) else b for b in bands]
    return {"dtype": "float32", **entry, "name": name, "bands": listed}


def contract_of(config: ForeignConfig) -> Contract:
    """The contract under which an encoder of others is fed."""
    return Contract(
        format=CONTRACT_FORMAT,
        system="foreign",
        module=config.name,
        modalities=config.modalities,
        frames=config.frames,
        crop_px=config.crop_px,
        ratio=0,
        num_features=config.width,
        min_side_px=config.min_side_px,
        dates="as its own code takes them",
        missing="zero after normalisation, unless its own code takes a mask",
        build={"file": Path(config.file).name, "make": config.make, "args": config.args, "call": config.call},
    )
