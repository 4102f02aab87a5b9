"""SkyFrame encoders in TerraTorch's registry: import this module, then ask for the backbone `skyframe_encoder`."""

from __future__ import annotations

from collections.abc import Sequence

from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
from torch import Tensor, nn

from skyframe.adapters.feed import batch_of, features_of, load_encoder, padded, token_map


class Backbone(nn.Module):
    """An exported folder as TerraTorch wants a backbone: a list of maps, and their widths in `out_channels`."""

    def __init__(self, folder: str, modality: str, bands: Sequence[str], num_outputs: int) -> None:
        super().__init__()
        self.exported = load_encoder(folder)
        self.modality, self.bands = modality, [padded(b) for b in bands]
        self.out_channels = [self.exported.contract.num_features] * num_outputs

    def forward(self, x: Tensor) -> list[Tensor]:
        """Standardised `[B, C, H, W]` or `[B, C, T, H, W]` to maps `[B, D, h, w]`."""
        images, names = {self.modality: x}, {self.modality: self.bands}
        batch = batch_of(self.exported.contract, images, names, "z-score")
        return [token_map(features_of(self.exported, batch))] * len(self.out_channels)


@TERRATORCH_BACKBONE_REGISTRY.register
def skyframe_encoder(
    folder: str, bands: Sequence[str], modality: str = "s2", num_outputs: int = 1, pretrained: bool = True
) -> nn.Module:
    """The backbone of an exported folder.

    Args:
        folder: e.g. `OUT/encoder_s2`.
        bands: names of the channels, B2 or B02.
        modality: of the contract.
        num_outputs: how often the map is handed on.
        pretrained: False starts from fresh weights.
    """
    made = Backbone(folder, modality, bands, num_outputs)
    if not pretrained:
        from skyframe.export.folder import random_copy

        made.exported = random_copy(made.exported, seed=0)
    made.exported.module.requires_grad_(True)
    return made
