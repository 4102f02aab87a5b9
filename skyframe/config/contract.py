"""The contract that travels with exported weights: what an encoder expects and what it returns. Torch-free."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skyframe.spec import InputError, Modality, build, did_you_mean

CONTRACT_FORMAT = 1


@dataclass(frozen=True)
class Canary:
    """A stored input and what the module answered to it at export; recomputed whenever the module is loaded."""

    file: str = "canary.safetensors"
    tolerance: float = 1e-5  # max |difference| as a share of the largest stored output, fp32 CPU


@dataclass(frozen=True)
class Contract:
    """What an exported module expects. Modalities carry sensor, band order, units, scale, normaliser and GSD."""

    format: int
    system: str  # name in SYSTEMS
    module: str  # model | encoder_<modality> | fusion | geo_context
    modalities: dict[str, Modality]  # in the order the module was trained with
    frames: dict[str, int]  # dates per modality in training (any number works)
    crop_px: int  # Sentinel-grid side s of a training crop
    ratio: int  # pixels of the high-resolution modality per Sentinel pixel (32 for SkySense), 0 without one
    num_features: int  # width D of the output
    min_side_px: int = 1  # smallest legal input side on the Sentinel grid
    dates: str = "day of year; row 366 of the date table where the day is unknown"
    missing: str = "invalid pixels, absent bands and absent modalities are masked; their stored values are never read"
    normaliser: str = "pretraining"  # the numbers are each modality's mean and std
    regions: dict[str, Any] = field(default_factory=dict)  # geography.RegionIndex.to_dict()
    build: dict[str, Any] = field(default_factory=dict)  # plain arguments that rebuild the module
    weights_sha256: str = ""
    canary: Canary = field(default_factory=Canary)

    @staticmethod
    def load(folder: Path) -> Contract:
        """Read `contract.json` of an exported folder.

        Raises:
            InputError: no contract, not JSON, unknown keys, or a format that this version does not know.
        """
        path = folder / "contract.json"
        if not path.is_file():
            raise InputError(
                f"{folder}: no contract.json, expected a folder written by `skyframe export`; export the run first"
            )
        try:
            tree = json.loads(path.read_text())
        except ValueError as error:  # neither JSON nor even text
            raise InputError(f"{path}: not valid JSON ({error}); export the run again") from error
        found = tree.get("format") if isinstance(tree, dict) else None
        if found != CONTRACT_FORMAT:
            raise InputError(
                f"{path}: contract format {found!r}, expected {CONTRACT_FORMAT}; "
                "export with this version, or upgrade skyframe-eo"
            )
        contract: Contract = build(Contract, tree, str(path))
        return contract

    def save(self, folder: Path) -> None:
        """Write `contract.json`."""
        (folder / "contract.json").write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")


def check_input(contract: Contract, given: Modality) -> None:
    """Refuse a source that contradicts the contract, in one sentence naming expected and got.

    Bands may be a subset in any order (they are matched by name and absent ones masked); units, scale, offset and GSD
    must be equal, as no rule converts them exactly here.
    """
    if given.name not in contract.modalities:
        raise InputError(
            f"{contract.module}: takes no modality {given.name!r}; expected {', '.join(contract.modalities)}"
            f"{did_you_mean(given.name, contract.modalities)}"
        )
    want = contract.modalities[given.name]
    unknown = [b for b in given.band_names if b not in want.band_names]
    if not set(given.band_names) & set(want.band_names):
        raise InputError(
            f"{contract.module}: {given.name} bands {', '.join(unknown)} are none of those it was trained on "
            f"({', '.join(want.band_names)}); rename the bands in the cube's spec"
        )
    for key in ("units", "scale", "offset", "gsd_m"):
        if getattr(given, key) != getattr(want, key):
            raise InputError(
                f"{contract.module}: {given.name} has {key} {getattr(given, key)!r}, expected {getattr(want, key)!r}; "
                "ingest the source with the spec that the encoder was trained on"
            )
