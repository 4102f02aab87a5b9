"""One modality of an archive, opened: its source, dates and place; and the common grid of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.data.archive.description import MaskSource
from skyframe.data.archive.source import ModalitySource, Rule
from skyframe.data.cube import NODATA
from skyframe.data.manifest import ArrayRecord
from skyframe.data.shard import ArrayLayout
from skyframe.spec import Grid, InputError, Modality

BLOCK_PX = 256
"""Least side of a plan's block: as a cube's shard, where the archive's chunks are smaller."""


@dataclass(frozen=True)
class Place:
    """Upper-left corner and pixel size, in the units of the CRS, and what one of those is in metres."""

    x0: float
    y0: float
    step_x: float
    step_y: float
    crs: str
    unit_m: float


@dataclass(frozen=True)
class Placed:
    """An opened modality; `days` in rising order."""

    source: ModalitySource
    days: NDArray[np.int32]
    place: Place


def check_scaling(modality: Modality, scaling: tuple[float, float] | None, where: str) -> None:
    """Refuse values that mean something else than the spec says.

    Args:
        modality: as the spec describes it.
        scaling: scale and offset that the archive states, None where it states none.
        where: for messages.

    Raises:
        InputError: they differ.
    """
    expected = modality.scale, modality.offset
    if scaling is not None and not np.allclose(scaling, expected, rtol=1e-6, atol=1e-12):
        raise InputError(
            f"{where}: the archive says scale {scaling[0]:g} and offset {scaling[1]:g}, the spec's {modality.name} has "
            f"scale {expected[0]:g} and offset {expected[1]:g}; correct the spec"
        )


def check_dtype(modality: Modality, dtype: str, where: str) -> None:
    """Refuse another number type than the spec's: values are handed on as they are stored.

    Raises:
        InputError: they differ.
    """
    if dtype != modality.dtype:
        raise InputError(
            f"{where}: the archive holds {dtype}, the spec's {modality.name} has dtype {modality.dtype}; correct "
            "the spec"
        )


def check_place(modality: Modality, place: Place, shape: tuple[int, int], where: str) -> None:
    """Refuse pixels that are not square or not of the spec's size.

    Raises:
        InputError: the pixel size adds up to half a pixel more or less over the archive.
    """
    for step, count in ((place.step_y, shape[0]), (place.step_x, shape[1])):
        gsd_m = step * place.unit_m
        if abs(gsd_m / modality.gsd_m - 1) > min(1e-3, 0.5 / count):
            raise InputError(
                f"{where}: pixels of {place.step_y:.10g} x {place.step_x:.10g} in {place.crs} are {gsd_m:.8g} m, the "
                f"spec's {modality.name} has gsd_m {modality.gsd_m:g}; correct the spec"
            )


def rule_of(mask: MaskSource, declared: Sequence[float], modality: Modality) -> Rule:
    """The rule for flags: the description's, with what the archive and the spec declare as missing by default."""
    spec = () if modality.nodata is None else (modality.nodata,)
    nodata = mask.nodata if mask.nodata is not None else (*declared, *spec)
    finite = tuple(dict.fromkeys(value for value in nodata if math.isfinite(value)))
    return Rule(finite, mask.valid_min, mask.valid_max, mask.clear, mask.cloud, mask.shadow)


def layer_ratio(values: tuple[int, int], layer: tuple[int, int], where: str) -> int:
    """Pixels of the values along one of the mask layer.

    Raises:
        InputError: not one whole number along rows and columns.
    """
    ratio = round(values[0] / layer[0])
    if ratio < 1 or any(-(-v // ratio) != n for v, n in zip(values, layer, strict=True)):
        raise InputError(
            f"{where}: the mask layer has {layer[0]} x {layer[1]} pixels, the values {values[0]} x {values[1]}, "
            "expected the same or a whole part of them; resample it"
        )
    return ratio


def common_grid(placed: Mapping[str, tuple[Modality, Placed]], where: str) -> Grid:
    """The rectangle that all modalities cover from one corner.

    Raises:
        InputError: CRS or upper-left corners differ.
    """
    first_name, (first, one) = min(placed.items(), key=lambda item: item[1][0].gsd_m)
    at = one.place
    for name, (_, other) in placed.items():
        away = max(abs(other.place.x0 - at.x0), abs(other.place.y0 - at.y0)) * at.unit_m
        if other.place.crs != at.crs or away > 0.05 * first.gsd_m:
            raise InputError(
                f"{where}: {name} begins at {other.place.x0:.10g}, {other.place.y0:.10g} in {other.place.crs}, "
                f"{first_name} at {at.x0:.10g}, {at.y0:.10g} in {at.crs}, expected one corner; describe them apart"
            )
    sides = [
        min(other.source.values.shape[axis] * modality.gsd_m for modality, other in placed.values()) for axis in (2, 3)
    ]
    return Grid(at.crs, at.x0 * at.unit_m, at.y0 * at.unit_m, sides[1], sides[0], at.unit_m)


def records_of(modality: Modality, placed: Placed) -> dict[str, ArrayRecord]:
    """Records of `<modality>/values` and `<modality>/valid`: the foreign chunk, blocks for the plan, all covered."""
    values = placed.source.values
    shape, chunk = values.shape, values.chunk
    shard = tuple(
        -(-(n if axis < 2 else BLOCK_PX) // c) * c for axis, (n, c) in enumerate(zip(shape, chunk, strict=True))
    )
    layouts = (
        ArrayLayout(f"{modality.name}/values", shape, chunk, shard, values.dtype),
        ArrayLayout(
            f"{modality.name}/valid",
            (shape[0], *shape[2:]),
            (chunk[0], *chunk[2:]),
            (shard[0], *shard[2:]),
            "uint8",
            NODATA,
        ),
    )
    return {
        layout.name: ArrayRecord(layout, {at: layout.expected_chunks(at) for at in np.ndindex(*layout.shard_grid)})
        for layout in layouts
    }


def scaling_of(attrs: Mapping[str, Any]) -> tuple[float, float] | None:
    """CF scale and offset, None where neither is stated."""
    if "scale_factor" not in attrs and "add_offset" not in attrs:
        return None
    return float(attrs.get("scale_factor", 1.0)), float(attrs.get("add_offset", 0.0))
