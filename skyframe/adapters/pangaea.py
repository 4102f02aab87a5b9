"""A SkyFrame encoder inside PANGAEA: `_target_: skyframe.adapters.pangaea.SkyFrameEncoder` in its configs.

PANGAEA standardises by its data set's statistics and tells no dates: the normaliser is `dataset`, the days are unknown.
With several dates the encoder's own fusion merges them, so no temporal decoder is wanted.
"""

from __future__ import annotations

from logging import Logger
from typing import Any

from pangaea.encoders.base import Encoder
from torch import Tensor

from skyframe.adapters.feed import batch_of, features_of, load_encoder, padded, token_map

NAMES = {"optical": "s2", "sar": "s1"}


class SkyFrameEncoder(Encoder):  # type: ignore[misc]  # the base class is the harness's own
    """Token map of an exported folder, once per output layer that the decoder asks for."""

    def __init__(
        self, encoder_weights: str, input_bands: dict[str, list[str]], input_size: int, num_outputs: int = 4, **_: Any
    ) -> None:
        """Load the folder.

        Args:
            encoder_weights: exported folder, e.g. `OUT/model`.
            input_bands: of `optical` and `sar`, in PANGAEA's words (B2 is B02).
            input_size: pixels of 10 m along a side.
            num_outputs: how often the same map is handed to a decoder that wants several layers.
        """
        exported = load_encoder(encoder_weights)
        width = exported.contract.num_features
        super().__init__(
            model_name="skyframe",
            encoder_weights=encoder_weights,
            input_bands=input_bands,
            input_size=input_size,
            embed_dim=width,
            output_layers=list(range(num_outputs)),
            output_dim=width,
            multi_temporal=True,
            multi_temporal_output=False,
            pyramid_output=False,
            download_url="",
        )
        self.exported = exported
        self.names = {NAMES.get(m, m): [padded(b) for b in bands] for m, bands in input_bands.items()}

    def load_encoder_weights(self, logger: Logger) -> None:
        """They are loaded already, strictly and with their canary."""

    def forward(self, x: dict[str, Tensor]) -> list[Tensor]:
        """`[B, C, T, H, W]` by modality to maps `[B, D, h, w]`."""
        images = {NAMES.get(m, m): v for m, v in x.items()}
        batch = batch_of(self.exported.contract, images, self.names, "z-score")
        return [token_map(features_of(self.exported, batch))] * len(self.output_layers)
