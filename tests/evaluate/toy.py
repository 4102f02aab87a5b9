"""A tiny labelled data set whose truth follows a band, and encoders for it."""

import dataclasses

import numpy as np
import torch
from torch import nn

from skyframe.config.contract import CONTRACT_FORMAT, Contract
from skyframe.evaluate.datasets.dataset import Dataset, Item
from skyframe.evaluate.datasets.imagery import bands, series_of
from skyframe.model.factorised import FactorisedEncoder, SpatialEncoder
from skyframe.model.stem import normalise
from skyframe.randomness import generator
from skyframe.sample import Batch, Features, Sample
from skyframe.spec import Modality
from tests.system.batches import REGIONS, nano_recipe

NAMES = ("B02", "B08")
S2 = Modality(
    "s2", "series", bands(NAMES), 10.0, "reflectance", "float32", scale=1e-4, mean=(0.1, 0.3), std=(0.05, 0.2)
)
SIDE = 12


def contract(**changes) -> Contract:
    made = Contract(CONTRACT_FORMAT, "skysense", "encoder_s2", {"s2": S2}, {"s2": 1}, 8, 0, 2)
    return dataclasses.replace(made, **changes)


def blocks(key: str, side: int, block: int = 4) -> np.ndarray:
    """A random chessboard of 0 and 1."""
    cells = generator(key, "blocks").integers(0, 2, (-(-side // block),) * 2)
    return np.kron(cells, np.ones((block, block), int))[:side, :side]


def image(key: str, mask: np.ndarray) -> np.ndarray:
    """Stored numbers `[2, H, W]`: B08 is bright where the mask is 1; B02 is noise."""
    noise = generator(key, "noise").normal(0, 0.03, (2, *mask.shape))
    return ((np.stack([np.full(mask.shape, 0.1), 0.15 + 0.3 * mask]) + noise) / 1e-4).astype(np.float32)


def read(item: Item) -> Sample:
    kind, side, num = item.about["kind"], item.about["side"], item.about.get("dates", 1)
    masks = np.stack([blocks(f"{item.key}{t}", side) for t in range(num)])
    if kind in ("scene", "multilabel"):
        masks[:] = item.label if kind == "scene" else item.label[0] if item.label else 0
    values = np.stack([image(f"{item.key}{t}", m) for t, m in enumerate(masks)])
    targets = {
        "pixel": {"mask": masks[0]}, "change": {"mask": (masks[0] != masks[-1]).astype(np.int64)},
        "semantic_change": {"masks": masks}, "scene": {"class": np.int64(item.label) if kind == "scene" else 0},
        "multilabel": {"classes": np.array([bool(item.label), True])},
        "regression": {"value": np.float32([100 + 50 * masks[0].mean()])},
        "map": {"value": (100 + 50 * masks[:1]).astype(np.float32)},
    }[kind]  # fmt: skip
    series = series_of(values, np.arange(8000, 8000 + 30 * num, 30, dtype=np.int32))
    return Sample({"s2": series}, np.zeros(2), -1, targets={k: np.asarray(v) for k, v in targets.items()})


def dataset(kind: str, num: int = 16, side: int = SIDE, dates: int = 1) -> Dataset:
    """`num` training, and half as many validation and test items; `map` is a regression of maps."""
    items = []
    for part, count in (("train", num), ("val", num // 2), ("test", num // 2)):
        for i in range(count):
            label = i % 2 if kind == "scene" else (1,) * (i % 2) if kind == "multilabel" else None
            items.append(Item(f"{part}{i}", part, {}, label, about={"kind": kind, "side": side, "dates": dates}))
    classes = () if kind in ("regression", "map") else ("dark", "bright")
    known = "regression" if kind == "map" else kind
    return Dataset("toy", known, classes, {"s2": S2}, tuple(items), read, "made", "nobody")  # type: ignore[arg-type]


def parts(data: Dataset) -> dict[str, list[Item]]:
    return {p: data.part(p) for p in ("train", "val", "test")}


class Pixels(nn.Module):
    """Each position's own normalised values, the mean over dates, times a weight: an encoder without `maps`."""

    def __init__(self, given: Contract):
        super().__init__()
        self.contract = given
        self.weight = nn.Parameter(torch.ones(2))

    def encode(self, batch: Batch) -> Features:
        s = batch.series["s2"]
        found = normalise(s.values, s.valid, s.bands, S2.mean, S2.std, S2.scale).mean(1)
        fused = found.flatten(2).transpose(1, 2) * self.weight
        return Features(fused, fused.mean(1))


def spatial(seed: int = 0) -> SpatialEncoder:
    """A nano ViT with patches of 2 positions."""
    recipe = nano_recipe("model.encoders.s2.patch_px=2", "model.encoders.s2.train_px=8")
    return SpatialEncoder(S2, recipe.model.encoders["s2"], seed).eval()


def whole(seed: int = 0) -> FactorisedEncoder:
    recipe = nano_recipe("model.encoders.s2.patch_px=2", "model.encoders.s2.train_px=8")
    return FactorisedEncoder({"s2": S2}, recipe.model, REGIONS.num_regions, seed).eval()
