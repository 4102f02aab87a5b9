"""Pictures of one scene: true colour, dense embeddings in PCA colour, truth and prototypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skyframe.data.cube import Cube
from skyframe.data.read import read_label, read_series
from skyframe.evaluate.benchmarks.places import POSITION_GSD_M, layouts_of, open_cubes, read_place
from skyframe.evaluate.datasets.colours import Rgb, class_colours, stretch, wheel
from skyframe.evaluate.feed.features import device_of, to_device
from skyframe.evaluate.protocol import Encoder
from skyframe.geography import RegionIndex
from skyframe.sample import Layout, Sample, collate
from skyframe.spec import InputError, Window


@dataclass(frozen=True)
class Picture:
    """One panel of the report."""

    title: str
    caption: str
    rgb: Rgb | None  # None: the caption says why there is none
    legend: tuple[tuple[str, str], ...] = ()  # class name, CSS colour


def scene_pictures(encoder: Encoder, scene: str | Path, side_px: int = 96, label: str = "land_cover") -> list[Picture]:
    """Encode the middle of a cube in overlapping tiles and draw it.

    Args:
        encoder: what to show.
        scene: a finished cube.
        side_px: side of the square in positions of 10 m, at most.
        label: truth layer to set beside it.

    Raises:
        InputError: the cube contradicts the encoder's contract or is smaller than one tile.
    """
    cube = open_cubes([str(scene)], encoder.contract, "report scene")[0]
    tile = 2 * encoder.contract.crop_px
    step = 3 * tile // 4  # a quarter overlaps, so that no seam shows
    room = int(min(side_px * POSITION_GSD_M, cube.grid.height_m, cube.grid.width_m) // POSITION_GSD_M)
    if room < tile:
        raise InputError(
            f"cube {cube.name}: {cube.grid.height_m:g} x {cube.grid.width_m:g} m, expected at least "
            f"{tile * POSITION_GSD_M:g} m a side for the report's scene"
        )
    side = tile + (room - tile) // step * step
    y0, x0 = (
        int((extent / POSITION_GSD_M - side) / 2) * POSITION_GSD_M for extent in (cube.grid.height_m, cube.grid.width_m)
    )
    whole = Window(cube.url, y0, x0, side * POSITION_GSD_M)
    dense, nearest = _encode(encoder, cube, whole, tile, step)
    where = f"{cube.name}, {whole.size_m / 1000:g} km x {whole.size_m / 1000:g} km, 10 m"
    caption = f"First three principal components of the fused features as red, green, blue ({dense.shape[-1]} features)"
    return [
        _true_colour(cube, whole, where),
        Picture("Embedding", caption, pca_colours(dense)),
        _truth(cube, whole, label),
        _prototypes(nearest),
    ]


def _encode(
    encoder: Encoder, cube: Cube, whole: Window, tile: int, step: int
) -> tuple[NDArray[np.float32], NDArray[np.int64] | str]:
    """Fused features `[H, W, D]`, blended where tiles overlap, and prototype numbers `[H, W]` of the tile whose centre
    is nearest, or why there are none."""
    contract = encoder.contract
    layouts = layouts_of(contract, {}, tile)
    regions = RegionIndex.from_dict(contract.regions) if contract.regions else RegionIndex()
    side = round(whole.size_m / POSITION_GSD_M)
    starts = range(0, side - tile + 1, step)
    ramp = np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 0.5
    share = np.outer(ramp, ramp).astype(np.float32)
    if isinstance(encoder, torch.nn.Module):
        encoder.eval()
    answers = []
    for y in starts:
        corners = [(whole.y_m + y * POSITION_GSD_M, whole.x_m + x * POSITION_GSD_M) for x in starts]
        windows = [Window(whole.cube, *corner, tile * POSITION_GSD_M) for corner in corners]
        samples = [read_place(cube, w, contract, layouts, regions, "scene") for w in windows]
        answers.append(_answers(encoder, samples, layouts))
    dense = np.zeros((side, side, answers[0][0].shape[-1]), np.float32)
    weight, best = np.zeros((side, side), np.float32), np.zeros((side, side), np.float32)
    nearest, reason = np.full((side, side), -1, np.int64), answers[0][2]
    for y, (features, numbers, _) in zip(starts, answers, strict=True):
        for i, x in enumerate(starts):
            spot = np.s_[y : y + tile, x : x + tile]
            dense[spot] += share[..., None] * features[i].reshape(tile, tile, -1)
            weight[spot] += share
            nearer = share > best[spot]
            nearest[spot][nearer] = numbers[i].reshape(tile, tile)[nearer]
            best[spot] = np.maximum(best[spot], share)
    return dense / weight[..., None], reason or nearest


def _answers(
    encoder: Encoder, samples: Sequence[Sample], layouts: Mapping[str, Layout]
) -> tuple[NDArray[np.float32], NDArray[np.int64], str]:
    """Fused features `[B, N, D]`, prototype numbers `[B, N]`, and why there are none (empty where there are)."""
    draw_map: Any = getattr(encoder, "prototype_map", None)
    with torch.no_grad():
        batch = to_device(collate(samples, layouts), device_of(encoder))
        fused = encoder.encode(batch).fused.float().cpu().numpy()
        none = np.full(fused.shape[:2], -1, np.int64)
        if draw_map is None:
            return fused, none, "This encoder has no prototypes"
        try:
            return fused, draw_map(batch).cpu().numpy(), ""
        except InputError as error:
            return fused, none, str(error)


def pca_colours(dense: NDArray[np.float32]) -> Rgb:
    """Three principal components of `[H, W, D]`, each stretched from its 2nd to its 98th percentile."""
    rows = dense.reshape(-1, dense.shape[-1]).astype(np.float64)
    rows = rows - rows.mean(0)
    _, _, axes = np.linalg.svd(rows.T @ rows)
    axes = axes[:3] * np.sign(axes[:3].sum(1, keepdims=True) + 1e-12)
    return stretch((rows @ axes.T).reshape(*dense.shape[:2], len(axes)))


def _true_colour(cube: Cube, whole: Window, where: str) -> Picture:
    for name, bands in (("s2", ("B04", "B03", "B02")), ("hr", ("red", "green", "blue"))):
        if cube.has(name) and set(bands) <= set(cube.spec.modality(name).band_names):
            found = read_series(cube, whole, names=[name])
            if name in found and found[name].valid.any():
                series = found[name]
                number = [cube.spec.modality(name).band_names.index(b) for b in bands]
                shown = series.valid.any((1, 2))
                values = np.where(series.valid[shown, None], series.values[shown][:, number].astype(np.float32), np.nan)
                filled = np.where(np.isfinite(values).any(0), values, 0.0)
                middle = np.moveaxis(np.nanmedian(filled, axis=0), 0, -1)
                return Picture(
                    "Optical, true colour",
                    f"{where}; median of {int(shown.sum())} date(s) of {name}, clear pixels",
                    stretch(middle),
                )
    return Picture("Optical, true colour", f"{where}: no optical bands with anything clear", None)


def _truth(cube: Cube, whole: Window, label: str) -> Picture:
    title = label.replace("_", " ").capitalize() + ", truth"
    if label not in cube.spec.labels:
        return Picture(title, f"This cube carries no truth layer {label}", None)
    values = np.asarray(read_label(cube, label, whole)).astype(np.int64)
    names = cube.spec.labels[label].classes
    colours = class_colours(names)
    known = (values >= 0) & (values < len(names))
    rgb = np.where(known[..., None], colours[np.where(known, values, 0)], 200).astype(np.uint8)
    legend = tuple((names[i], f"rgb{tuple(int(c) for c in colours[i])}") for i in np.unique(values[known]))
    return Picture(title, "What the simulation knows; no encoder sees it", rgb, legend)


def _prototypes(nearest: NDArray[np.int64] | str) -> Picture:
    title = "Prototypes"
    if isinstance(nearest, str):
        return Picture(title, nearest, None)
    if (nearest < 0).all():
        return Picture(
            title,
            "The scene lies in no region of the bank, so it has no prototypes; choose a scene inside the training "
            "footprint",
            None,
        )
    used = np.unique(nearest[nearest >= 0])
    colours = np.array([wheel(int(i)) for i in range(int(nearest.max()) + 1)], np.uint8)
    rgb = np.where((nearest >= 0)[..., None], colours[np.maximum(nearest, 0)], 220).astype(np.uint8)
    return Picture(title, f"Nearest prototype of the place's region; {len(used)} of them occur here", rgb)
