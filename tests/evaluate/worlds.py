"""A small labelled world for evaluation tests: parcels whose spectra and seasons follow their class."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import nn

from skyframe.config.contract import CONTRACT_FORMAT, Contract
from skyframe.data.cube import Cube, open_cube
from skyframe.data.write import CubeWriter
from skyframe.geography import RegionIndex, place_of
from skyframe.randomness import generator
from skyframe.sample import Batch, Features
from skyframe.spec import Band, CubeSpec, Grid, Label, Modality
from tests.data.cubes import write_modality

S2_BANDS = (("B02", 0.49), ("B03", 0.56), ("B04", 0.665), ("B08", 0.84))
LAND_COVER = ("water", "forest", "cropland")
CROPS = ("wheat", "maize")
NO_CROP = 255
DAYS = {"s2": np.arange(8000, 8360, 45, dtype=np.int32), "s1": np.arange(8004, 8360, 90, dtype=np.int32)}


def world_spec() -> CubeSpec:
    """Sentinel-2 with four bands and Sentinel-1, with statistics, and two truth layers."""
    s2 = Modality(
        "s2", "series", tuple(Band(n, w) for n, w in S2_BANDS), 10.0, "reflectance", "uint16",
        scale=1e-4, mean=(0.05, 0.08, 0.07, 0.25), std=(0.03, 0.04, 0.05, 0.12),
    )  # fmt: skip
    s1 = Modality(
        "s1", "series", (Band("VV"), Band("VH")), 10.0, "dB", "int16", scale=0.01, mean=(-12.0, -18.0), std=(4.0, 4.0)
    )
    labels = {
        "land_cover": Label("land_cover", 10.0, "uint8", classes=LAND_COVER),
        "crop_type": Label("crop_type", 10.0, "uint8", classes=CROPS, nodata=NO_CROP),
        "moisture": Label("moisture", 10.0, "float32", units="m3 m-3"),
    }
    return CubeSpec("world", "test world", {"s2": s2, "s1": s1}, labels)


def world_grid(seed: int, side_m: float) -> Grid:
    """Worlds of different seeds lie 300 km apart, out of reach of each other's regions."""
    return Grid("EPSG:32631", 500000.0, 5000000.0 + 300000.0 * seed, side_m, side_m)


def labelled_cube(path: Path, seed: int = 0, side_m: float = 1280.0, parcel_px: int = 8, cloud: float = 0.3) -> Cube:
    """Write and open a world: wheat is bright in spring and maize in summer, in S2's B08 and in S1's VH alike."""
    side, spec = int(side_m // 10), world_spec()
    parcels = generator(seed, "parcels").integers(0, 4, (side // parcel_px, side // parcel_px))
    kind = np.kron(parcels, np.ones((parcel_px, parcel_px), int))  # 0 water, 1 forest, 2 wheat, 3 maize
    season = {name: np.sin(2 * np.pi * ((days - 8000) / 365 - 0.1)) for name, days in DAYS.items()}
    noise = generator(seed, "noise")
    level, swing = np.array([0.02, 0.3, 0.2, 0.2])[kind], np.array([0, 0.02, 0.12, -0.12])[kind]
    green = {n: level + swing * season[n][:, None, None] for n in DAYS}
    s2 = np.stack([np.full_like(green["s2"], level) for level in (0.05, 0.08, 0.07)] + [green["s2"]], 1)
    s2 = np.clip(s2 + noise.normal(0, 0.03, s2.shape), 0, 1) / 1e-4
    s1 = np.stack([-14 + 10 * green["s1"], -20 + 20 * green["s1"]], 1)
    s1 = (s1 + noise.normal(0, 1.0, s1.shape)) / 0.01
    flags = np.where(noise.random((len(DAYS["s2"]), side, side)) < cloud, 2, 1).astype(np.uint8)
    writer = CubeWriter(path, spec, world_grid(seed, side_m), {"kind": "test", "seed": seed})
    write_modality(writer, "s2", DAYS["s2"], s2.astype(np.uint16), flags)
    write_modality(writer, "s1", DAYS["s1"], s1.astype(np.int16), np.ones((len(DAYS["s1"]), side, side), np.uint8))
    writer.write_label("land_cover", np.minimum(kind, 2).astype(np.uint8))
    writer.write_label("crop_type", np.where(kind >= 2, kind - 2, NO_CROP).astype(np.uint8))
    writer.write_label("moisture", np.zeros((side, side), np.float32))
    return open_cube(writer.finish())


def contract(cube: Cube | None = None, **changes) -> Contract:
    """What the test encoders expect; with a cube, its place is region 0 of a bank of four."""
    regions = {}
    if cube is not None:
        lat, lon = place_of(cube.grid, cube.grid.height_m / 2, cube.grid.width_m / 2)
        box = (lat - 0.03, lon - 0.03, lat + 0.03, lon + 0.03)
        elsewhere = [(-10.0 - i, 0.0, -9.5 - i, 1.0) for i in range(3)]
        regions = RegionIndex(boxes=(box, *elsewhere)).to_dict()
    made = Contract(
        CONTRACT_FORMAT, "skysense", "model", dict(world_spec().modalities), {"s2": 6, "s1": 3}, 8, 0, 12,
        regions=regions,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


class SeasonEncoder(nn.Module):
    """Band values weighted by seasonal waves: enough to tell the crops apart; `scale` 0 collapses it."""

    def __init__(self, given: Contract, scale: float = 1.0, seed: int = 0):
        super().__init__()
        self.contract = given
        width = sum(len(m.bands) for m in given.modalities.values()) * 3
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.mix = nn.Parameter(torch.randn(width, given.num_features) * scale)
        self.calls = 0

    def encode(self, batch: Batch) -> Features:
        self.calls += 1
        assert not self.training
        parts = []
        for name, m in self.contract.modalities.items():
            s = batch.series[name]
            mean, std = (torch.tensor(x)[:, None, None] for x in (m.mean, m.std))
            values = (s.values.float() * m.scale + m.offset - mean) / std
            values = torch.where(s.valid[:, :, None] & s.bands[:, None, :, None, None], values, 0.0)
            known = torch.where(s.day > -(2**31), s.day, 0).double()
            phase = 2 * torch.pi * ((known - 8000) / 365)
            count = s.valid.sum(1).clamp_min(1)[:, None]
            for wave in (torch.ones_like(phase), phase.sin(), phase.cos()):
                parts.append((values * wave.float()[:, :, None, None, None]).sum(1) / count)
        fused = torch.cat(parts, 1).flatten(2).transpose(1, 2) @ self.mix + (batch.region[:, None, None] >= 0) * 0.01
        return Features(fused, fused.mean(1))

    def prototype_map(self, batch: Batch) -> torch.Tensor:
        index = self.encode(batch).fused[..., :4].argmax(-1)
        return torch.where(batch.region[:, None] >= 0, index, -1)
