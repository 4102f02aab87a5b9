"""A modality whose dates and bands are COGs that a STAC file or a table lists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skyframe.data.archive.coordinates import short_crs
from skyframe.data.archive.description import BAND, Description, ModalityEntry
from skyframe.data.archive.geotiff import TiffArray
from skyframe.data.archive.placed import (
    Place,
    Placed,
    check_dtype,
    check_place,
    check_scaling,
    layer_ratio,
    rule_of,
)
from skyframe.data.archive.pool import OpenedPool
from skyframe.data.archive.scenes import Asset, Scene, days_of
from skyframe.data.archive.source import ModalitySource
from skyframe.data.archive.stack import SceneFile, SceneStack, unlike
from skyframe.data.store import Store
from skyframe.spec import InputError, Modality


def open_scene_modality(
    description: Description, name: str, store: Store, scenes: Sequence[Scene], pool: OpenedPool
) -> Placed:
    """Open one modality of a list of COGs.

    The grid of each file is that which the list states by STAC's projection extension; where it does not, the header
    of every file is read here.

    Raises:
        InputError: no scene has its assets, or files differ in grid, number type or scale.
    """
    entry, modality, where = description.file.modalities[name], description.spec.modality(name), description.where(name)
    names = _asset_names(entry, modality)
    chosen = [scene for scene in scenes if any(asset in scene.assets for asset in names)]
    if not chosen:
        known = sorted({asset for scene in scenes for asset in scene.assets})
        raise InputError(
            f"{where}: no scene has an asset {', '.join(names)}, they have {', '.join(known)}; name it under array: or "
            "bands:"
        )
    places = _places(entry, modality, names)
    listed = [[(s.assets[n], p) for n, p in zip(names, places, strict=True) if n in s.assets] for s in chosen]
    for asset, _ in (pair for files in listed for pair in files):
        check_scaling(modality, asset.scaling, f"{where}: {asset.key}")
    values = _stack(listed, len(modality.bands), store, pool, where)
    header = TiffArray(store, listed[0][0][0].key, pool).header
    check_dtype(modality, values.dtype, where)
    place = _place(values, description, where)
    check_place(modality, place, values.shape[2:], where)
    declared = [] if header.nodata is None else [header.nodata]
    rule = rule_of(entry.mask, declared, modality)
    if not entry.mask.layer:
        return Placed(ModalitySource(values, rule), days_of(chosen), place)
    lacking = [scene.name for scene in chosen if entry.mask.layer not in scene.assets]
    if lacking:
        raise InputError(
            f"{where}.mask: scene {lacking[0]} has no asset {entry.mask.layer!r}, expected it in every scene; take the "
            "scene out of the list"
        )
    mask = _stack([[(s.assets[entry.mask.layer], (0,))] for s in chosen], 1, store, pool, f"{where}.mask")
    ratio = layer_ratio(values.shape[2:], mask.shape[2:], f"{where}.mask")
    corners = [(stack.frame.transform[0], stack.frame.transform[2], stack.frame.crs) for stack in (values, mask)]
    if corners[0] != corners[1]:
        raise InputError(
            f"{where}.mask: begins at {corners[1]}, the values at {corners[0]}, expected one corner; resample it"
        )
    return Placed(ModalitySource(values, rule, mask, ratio), days_of(chosen), place)


def _asset_names(entry: ModalityEntry, modality: Modality) -> list[str]:
    if BAND not in entry.array:
        return [entry.array]
    return [entry.array.replace(BAND, entry.bands.get(band, band)) for band in modality.band_names]


def _places(entry: ModalityEntry, modality: Modality, names: Sequence[str]) -> list[tuple[int, ...]]:
    """By asset, which of its samples is which band."""
    count = len(modality.bands)
    if BAND in entry.array:
        return [tuple(0 if band == own else -1 for band in range(count)) for own in range(len(names))]
    stored = list(entry.band_order or modality.band_names)
    wanted = [entry.bands.get(band, band) for band in modality.band_names]
    lacking = [band for band in wanted if band not in stored]
    if lacking:
        raise InputError(
            f"{modality.name}: band {lacking[0]} is not among {', '.join(stored)}; name the file's bands in order "
            "under band_order:"
        )
    return [tuple(stored.index(band) for band in wanted)]


def _stack(
    listed: Sequence[Sequence[tuple[Asset, tuple[int, ...]]]], count: int, store: Store, pool: OpenedPool, where: str
) -> SceneStack:
    """All files as one, each checked against the first."""
    first = TiffArray(store, listed[0][0][0].key, pool)
    header = first.header
    dtype = np.dtype(header.dtype).newbyteorder("=").name
    for asset, places in (pair for files in listed for pair in files):
        frame = asset.frame
        if frame is None or asset.key == first.key:
            found = TiffArray(store, asset.key, pool).header
            frame = found.frame
            if max(places) >= found.samples:
                raise InputError(
                    f"{where}: {asset.key} has {found.samples} bands, expected {max(places) + 1} at least; say which "
                    "they are under band_order:"
                )
            if np.dtype(found.dtype).name != dtype:
                raise unlike(asset.key, store, frame, header.frame, np.dtype(found.dtype).name, dtype)
        if frame != header.frame:
            raise unlike(asset.key, store, frame, header.frame, dtype, dtype)
    depth = 1 if header.planar else header.samples
    shape = len(listed), count, *header.frame.shape
    files = tuple(tuple(SceneFile(asset.key, places) for asset, places in files) for files in listed)
    return SceneStack(store, files, shape, header.frame, dtype, (1, depth, *header.tile), pool)


def _place(values: SceneStack, description: Description, where: str) -> Place:
    x0, dx, y0, dy = values.frame.transform
    crs, unit_m = short_crs(description.file.crs or values.frame.crs, where)
    return Place(x0, y0, dx, -dy, crs, unit_m)
