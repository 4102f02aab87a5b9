"""SkyFrame encoders inside stand-ins of three harnesses, whose base classes have the signatures of the true ones."""

import importlib
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skyframe.adapters.feed import batch_of, features_of, load_encoder, padded, token_map
from skyframe.spec import InputError


@dataclass
class BandSpec:
    """torchgeo-bench's description of a channel."""

    sensor: str
    name: str
    source_name: str
    mean: float
    std: float


class BenchModel(nn.Module):
    """torchgeo-bench's base class: normalises, then asks the hook."""

    def __init__(self, bands: list[BandSpec], normalization: str = "bandspec_zscore", **_: object) -> None:
        super().__init__()
        assert normalization == "bandspec_zscore"
        self.bands, self.num_channels = bands, len(bands)

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor([getattr(b, k) for b in self.bands])[:, None, None] for k in ("mean", "std"))
        return self._forward_patch_features((images - mean) / std)  # type: ignore[operator, no-any-return]


class PangaeaEncoder(nn.Module):
    """PANGAEA's base class."""

    def __init__(
        self, model_name: str, input_bands: dict[str, list[str]], input_size: int, embed_dim: int,
        output_layers: list[int], output_dim: int | list[int], multi_temporal: bool, multi_temporal_output: bool,
        pyramid_output: bool, encoder_weights: str, download_url: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self.output_layers, self.embed_dim, self.multi_temporal = output_layers, embed_dim, multi_temporal
        self.output_dim = [output_dim for _ in output_layers] if isinstance(output_dim, int) else output_dim


class Registry:
    """TerraTorch's registry of backbones."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}

    def register(self, constructor: Any) -> Any:
        self.made[constructor.__name__] = constructor
        return constructor


@pytest.fixture
def harnesses(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The three packages, as far as the adapters need them."""
    registry = Registry()
    held: dict[str, dict[str, Any]] = {
        "torchgeo_bench.models.interface": {"BenchModel": BenchModel},
        "pangaea.encoders.base": {"Encoder": PangaeaEncoder},
        "terratorch.registry": {"TERRATORCH_BACKBONE_REGISTRY": registry},
    }
    for path, names in held.items():
        parts = path.split(".")
        for k in range(1, len(parts) + 1):
            name = ".".join(parts[:k])
            if name not in sys.modules:
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        for key, value in names.items():
            setattr(sys.modules[path], key, value)
    adapters = ("torchgeo_bench", "pangaea", "terratorch")
    yield registry
    for adapter in adapters:
        sys.modules.pop(f"skyframe.adapters.{adapter}", None)


def _adapter(name: str) -> Any:
    return importlib.import_module(f"skyframe.adapters.{name}")


def test_standardised_numbers_become_the_contracts_stored_units(exported: Path) -> None:
    contract = load_encoder(exported / "encoder_s2").contract
    s2 = contract.modalities["s2"]
    image = torch.tensor([-1.0, 2.0])[None, :, None, None].expand(1, 2, 8, 8)
    batch = batch_of(contract, {"s2": image}, {"s2": ["red", "B03"]}, "z-score")
    red, green = s2.band_names.index("B04"), s2.band_names.index("B03")
    values = batch.series["s2"].values[0, 0, :, 0, 0]
    assert float(values[red]) == pytest.approx((s2.mean[red] - s2.std[red] - s2.offset) / s2.scale, rel=1e-5)
    assert float(values[green]) == pytest.approx((s2.mean[green] + 2 * s2.std[green] - s2.offset) / s2.scale, rel=1e-5)
    assert batch.series["s2"].bands[0].nonzero().flatten().tolist() == sorted([red, green])
    assert padded("B2") == "B02" and padded("B8A") == "B8A" and padded("B11") == "B11" and padded("VV") == "VV"
    with pytest.raises(InputError, match="takes s2, got s1"):
        batch_of(contract, {"s1": image}, {"s1": ["VV", "VH"]}, "z-score")
    with pytest.raises(InputError, match="with 2 bands VV, VH, expected some of B02"):
        batch_of(contract, {"s2": image}, {"s2": ["VV", "VH"]}, "z-score")


def test_the_bench_model_pools_what_the_encoder_gives(exported: Path, harnesses: Registry) -> None:
    bands = [BandSpec("s2", "red", "04 - Red", 700.0, 300.0), BandSpec("s2", "nir", "08 - NIR", 2000.0, 800.0)]
    bands.append(BandSpec("sar", "vv", "06 - VV.LEE Filtered", 0.3, 0.2))
    model = _adapter("torchgeo_bench").SkyFrameBench(bands, folder=str(exported / "encoder_s2"))
    images = torch.rand(2, 3, 8, 8) * 3000
    found = model(images)
    encoder = load_encoder(exported / "encoder_s2")
    standard = torch.stack([(images[:, 0] - 700) / 300, (images[:, 1] - 2000) / 800], 1)
    batch = batch_of(encoder.contract, {"s2": standard}, {"s2": ["B04", "B08"]}, "z-score")
    torch.testing.assert_close(found, encoder.encode(batch).pooled)
    assert found.shape == (2, encoder.contract.num_features)
    with pytest.raises(InputError, match="takes s2, the data set holds sar"):
        _adapter("torchgeo_bench").SkyFrameBench(bands[2:], folder=str(exported / "encoder_s2"))


def test_pangaea_gets_a_map_of_several_dates_and_sensors(exported: Path, harnesses: Registry) -> None:
    bands = {"optical": ["B2", "B3", "B4"], "sar": ["VV", "VH"]}
    encoder = _adapter("pangaea").SkyFrameEncoder(str(exported / "model"), bands, input_size=8, num_outputs=3)
    x = {"optical": torch.randn(2, 3, 4, 8, 8), "sar": torch.randn(2, 2, 4, 8, 8)}
    found = encoder(x)
    assert [f.shape for f in found] == [(2, encoder.embed_dim, 8, 8)] * 3
    assert encoder.output_dim == [encoder.embed_dim] * 3
    changed = encoder({**x, "sar": x["sar"] + 1.0})[0]
    assert float((changed - found[0]).abs().max()) > 0


def test_terratorch_builds_the_backbone_and_trains_it(exported: Path, harnesses: Registry) -> None:
    _adapter("terratorch")
    build = harnesses.made["skyframe_encoder"]
    backbone = build(folder=str(exported / "encoder_s2"), bands=["B2", "B3", "B4", "B8"], num_outputs=2)
    image = torch.randn(1, 4, 8, 8)
    found = backbone(image)
    assert [f.shape[1] for f in found] == backbone.out_channels and found[0].shape[2:] == (8, 8)
    found[0].square().mean().backward()
    assert any(p.grad is not None and bool((p.grad != 0).any()) for p in backbone.parameters())
    fresh = build(folder=str(exported / "encoder_s2"), bands=["B2", "B3", "B4", "B8"], pretrained=False)
    assert float((fresh(image)[0] - found[0]).detach().abs().max()) > 1e-3


def test_an_image_that_is_no_whole_number_of_positions_is_padded(exported: Path) -> None:
    encoder = load_encoder(exported / "model")
    side = encoder.contract.modalities["hr"].pixels(10.0)
    image = torch.randn(1, 3, side * 4 - 5, side * 4 - 5)
    batch = batch_of(encoder.contract, {"hr": image}, {"hr": ["red", "green", "blue"]}, "z-score")
    assert batch.series["hr"].values.shape[-1] == side * 4 and not bool(batch.series["hr"].valid[0, 0, -1, -1])
    assert token_map(features_of(encoder, batch)).shape == (1, encoder.contract.num_features, 4, 4)
    with pytest.raises(InputError, match="fusion has no features, expected model"):
        load_encoder(exported / "fusion")
