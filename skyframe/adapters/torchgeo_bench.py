"""A SkyFrame encoder as a model of torchgeo-bench: `_target_: skyframe.adapters.torchgeo_bench.SkyFrameBench`.

Its contract is one image without a date, so a series encoder sees one frame of unknown day. The harness's values are
standardised by its own band statistics, which is the normaliser `dataset` of SkyFrame's tables.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchgeo_bench.models.interface import BenchModel

from skyframe.adapters.feed import batch_of, features_of, load_encoder
from skyframe.evaluate.benchmarks.geobench1 import L8, RGB, S1, S2
from skyframe.spec import InputError

MODALITIES = {"s2": "s2", "sar": "s1", "s1": "s1", "landsat": "l8", "aerial": "hr", "planet": "hr", "worldview": "hr"}
"""Modality of a contract by the harness's sensor; colours may also be those of `s2`."""


class SkyFrameBench(BenchModel):  # type: ignore[misc]  # the base class is the harness's own
    """Pooled features of an exported folder."""

    def __init__(self, bands: list[Any], folder: str, **_: Any) -> None:
        """Load the folder and match its contract to the bands of a data set.

        Args:
            bands: the harness's `BandSpec`s, in the order of the channels.
            folder: exported module, e.g. `OUT/encoder_s2`.

        Raises:
            InputError: the folder, or bands of which the encoder takes none.
        """
        super().__init__(bands=bands, normalization="bandspec_zscore")
        self.exported = load_encoder(folder)
        known = self.exported.contract.modalities
        words = {**RGB, **L8, **S1, **S2}
        self.channels: dict[str, list[int]] = {}
        self.names: dict[str, list[str]] = {}
        for number, spec in enumerate(bands):
            wanted = MODALITIES.get(spec.sensor, spec.sensor)
            name = wanted if wanted in known else "s2" if wanted == "hr" else ""
            if name in known:
                self.channels.setdefault(name, []).append(number)
                band = words.get(spec.source_name, spec.source_name)
                self.names.setdefault(name, []).append(band.upper() if name == "s1" else band)
        if not self.channels:
            raise InputError(f"{folder}: takes {', '.join(known)}, the data set holds {bands[0].sensor}")

    def _forward_patch_features(self, images: Tensor) -> Tensor:
        """Standardised `[B, C, H, W]` to `[B, D]`."""
        chosen = {name: images[:, at] for name, at in self.channels.items()}
        batch = batch_of(self.exported.contract, chosen, self.names, "z-score")
        return features_of(self.exported, batch).pooled
