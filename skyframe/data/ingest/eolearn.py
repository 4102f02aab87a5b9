"""eo-learn patches (EOPatch folders): `.npy` arrays `[T, y, x, C]`, `timestamps.json` and `bbox.geojson`.

Modalities: `ndvi` from data/NDVI, `s2` from data/BANDS or from a file of scenes beside the patch, `terrain` from
data_timeless/DEM; label `land_cover` from mask_timeless/LULC. Flags come from mask/CLM (1 = cloud) and mask/IS_VALID.

A file of scenes (`[K, y, x, 13]`, eo-learn's own reference) has no dates: each scene is dated by the one acquisition
whose NDVI its red and near infrared give back exactly. Arrays are mapped, not read: memory is that of a block.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN, day_of
from skyframe.data.cube import CLOUD, NODATA
from skyframe.data.ingest.source import (
    Block,
    Layer,
    Source,
    check_file,
    check_modalities,
    describe_files,
    short_crs,
)
from skyframe.data.ingest.units import flags_of, to_stored
from skyframe.spec import CubeSpec, Grid, InputError, Modality

S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
SAME_NDVI = 1e-6
"""Mean difference up to which a scene is an acquisition of the patch; the sample's other dates differ by over 0.02."""

MAX_DRIFT_PX = 0.1  # ours
"""Pixels by which the patch's far edge may lie off a grid of whole `gsd_m`: Sentinel Hub cuts a box given in degrees
into a whole number of pixels, which are then 9.995 m in place of 10 m."""


def open_source(paths: Sequence[Path], spec: CubeSpec, files: ExitStack) -> Source:
    """Open one patch.

    Args:
        paths: the EOPatch folder, and a `.npy` of full-band scenes where `s2` is not in the patch.
        spec: modalities ndvi, s2, terrain or some of them; label land_cover.
        files: unused: mapped arrays close themselves.

    Raises:
        InputError: no such folder, a file missing, a pointer, or arrays whose shapes do not fit each other.
    """
    check_modalities(spec, "eolearn", ("ndvi", "s2", "terrain"))
    folders, scenes = [p for p in paths if p.is_dir()], [p for p in paths if not p.is_dir()]
    if len(folders) != 1 or len(scenes) > 1:
        raise InputError(
            f"eolearn: got {', '.join(p.name for p in paths)}, expected one EOPatch folder and at most one .npy of "
            "scenes; ingest each patch into a cube of its own"
        )
    patch = _Patch(folders[0])
    grid = patch.grid(min(m.gsd_m for m in spec.modalities.values()))
    layers = []
    for modality in spec.modalities.values():
        if modality.name == "terrain":
            layers.append(_terrain(modality, patch))
        elif modality.name == "s2" and not (patch.folder / "data/BANDS.npy").exists():
            layers.append(_scenes(modality, patch, scenes))
        else:
            name = "data/NDVI" if modality.name == "ndvi" else "data/BANDS"
            known = ("ndvi",) if modality.name == "ndvi" else S2_BANDS
            layers.append(_series(modality, patch, patch.array(name), np.arange(len(patch.order)), known))
    labels = {name: patch.label(name, label.dtype) for name, label in spec.labels.items()}
    about = describe_files("eolearn", [*sorted(patch.used), *scenes])
    return Source(grid, tuple(layers), about | {"patch": patch.folder.name}, labels)


class _Patch:
    """Files of one folder; `order` sorts its acquisitions by time, `days` is in that order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.used: set[Path] = set()
        stamps = [datetime.fromisoformat(text) for text in self._json("timestamps.json", list)]
        if not stamps:
            raise InputError(f"{folder.name}: timestamps.json has no dates (length 0), expected at least one")
        self.order = sorted(range(len(stamps)), key=lambda i: stamps[i])
        self.days = np.array([day_of(stamps[i].date()) for i in self.order], np.int32)
        self.shape_px = tuple(int(n) for n in self.array("mask/CLM").shape[1:3])
        self.array("mask/IS_VALID")

    def _json(self, name: str, kind: type) -> Any:
        path = self.folder / name
        check_file(path, (b"[", b"{"), "JSON")
        self.used.add(path)
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InputError(f"{self.folder.name}: {name} is not JSON ({error}); fetch it again") from error
        if not isinstance(tree, kind):
            raise InputError(f"{self.folder.name}: {name} holds a {type(tree).__name__}, expected a {kind.__name__}")
        return tree

    def array(self, name: str) -> NDArray[Any]:
        """An array of the patch, mapped; dates in the file's order."""
        path = self.folder / f"{name}.npy"
        values = load_array(path)
        self.used.add(path)
        dates = not name.split("/")[0].endswith("_timeless")
        shape = values.shape[1:3] if dates else values.shape[:2]
        if values.ndim != (4 if dates else 3) or (dates and len(values) != len(self.order)):
            raise InputError(
                f"{self.folder.name}: {name} has shape {values.shape}, expected "
                f"{f'({len(self.order)}, y, x, bands) for its timestamps' if dates else '(y, x, bands)'}; save it again"
            )
        if hasattr(self, "shape_px") and shape != self.shape_px:
            raise InputError(
                f"{self.folder.name}: {name} has {shape[0]} x {shape[1]} pixels, expected {self.shape_px[0]} x "
                f"{self.shape_px[1]} as mask/CLM has; resample it to the patch"
            )
        return values

    def grid(self, gsd_m: float) -> Grid:
        """Pixels of exactly `gsd_m` about the middle of the bounding box, row 0 in the north."""
        tree = self._json("bbox.geojson", dict)
        try:
            corners = np.array(tree["coordinates"][0], np.float64)
            crs = short_crs(str(tree["crs"]["properties"]["name"]), self.folder.name)
            (west, south), (east, north) = corners.min(axis=0), corners.max(axis=0)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.folder.name}: bbox.geojson has no polygon and crs, expected what eo-learn writes; save it again"
            ) from error
        rows, columns = self.shape_px
        for extent, count in ((north - south, rows), (east - west, columns)):
            if abs(extent - count * gsd_m) / 2 > MAX_DRIFT_PX * gsd_m:
                raise InputError(
                    f"{self.folder.name}: {count} pixels over {extent:.2f} m are {extent / count:.4f} m each, expected "
                    f"{gsd_m:g} m as the spec's gsd_m says; use a spec with the patch's GSD or resample the patch"
                )
        middle_x, middle_y = (west + east) / 2, (south + north) / 2
        return Grid(crs, middle_x - columns * gsd_m / 2, middle_y + rows * gsd_m / 2, columns * gsd_m, rows * gsd_m)

    def flags(self, lost: NDArray[np.bool_], dates: Sequence[int], box: tuple[slice, slice]) -> NDArray[np.uint8]:
        """Flags `[T, h, w]` by the cloud mask and the validity mask of these acquisitions (the file's order)."""
        cloud = np.asarray(self.array("mask/CLM")[:, box[0], box[1], 0])[list(dates)] != 0
        valid = np.asarray(self.array("mask/IS_VALID")[:, box[0], box[1], 0])[list(dates)] != 0
        flags = flags_of(lost | (~valid & ~cloud))
        flags[cloud & ~lost] = CLOUD
        return flags

    def label(self, name: str, dtype: str) -> NDArray[Any]:
        if name != "land_cover":
            raise InputError(f"{self.folder.name}: no label {name}, expected land_cover; take it out of the spec")
        classes = np.asarray(self.array("mask_timeless/LULC"))[..., 0]
        if classes.min() < 0 or classes.max() > np.iinfo(dtype).max:
            raise InputError(
                f"{self.folder.name}: mask_timeless/LULC runs to {classes.max()}, more than {dtype} holds; widen the "
                "label's dtype in the spec"
            )
        return classes.astype(dtype)


def load_array(path: Path) -> NDArray[Any]:
    """An `.npy` file, mapped; pickled objects are refused."""
    check_file(path, (b"\x93NUMPY",), "NumPy")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path.name}: cannot be read ({' '.join(str(error).split())}); fetch it again") from error


def _series(
    modality: Modality, patch: _Patch, values: NDArray[Any], days_at: NDArray[np.intp], known: Sequence[str]
) -> Layer:
    """`values[i]` is the acquisition at position `days_at[i]` of the sorted dates, in the file's order of dates."""
    bands = _positions(modality, known, values.shape[-1], patch.folder.name)
    rank = {date: position for position, date in enumerate(patch.order)}
    rows = sorted(range(len(values)), key=lambda i: rank[int(days_at[i])])
    dates = [int(days_at[i]) for i in rows]
    where = f"{patch.folder.name}: {modality.name}"

    def read(y: int, x: int, height: int, width: int) -> Block:
        box = slice(y, y + height), slice(x, x + width)
        block = np.stack([values[i][box][..., bands] for i in rows]).astype(np.float64)
        stored, lost = to_stored(np.moveaxis(block, -1, 1), modality, where)
        return stored, patch.flags(lost, dates, box)

    return Layer(modality, patch.days[[rank[d] for d in dates]], (patch.shape_px[0], patch.shape_px[1]), read)


def _scenes(modality: Modality, patch: _Patch, given: Sequence[Path]) -> Layer:
    if not given:
        raise InputError(
            f"{patch.folder.name}: no data/BANDS.npy and no .npy of scenes was named, expected one because the "
            "spec lists s2; name the scenes' file after the folder or use a spec without s2"
        )
    scenes = load_array(given[0])
    if scenes.ndim != 4 or scenes.shape[1:] != (*patch.shape_px, len(S2_BANDS)):
        raise InputError(
            f"{given[0].name}: has shape {scenes.shape}, expected (scenes, {patch.shape_px[0]}, {patch.shape_px[1]}, "
            f"{len(S2_BANDS)}) of the patch's pixels; give the scenes of this patch"
        )
    ndvi = np.asarray(patch.array("data/NDVI"))[..., 0]
    dates = np.array([_date_of_scene(scene, ndvi, f"{given[0].name}: scene {i}") for i, scene in enumerate(scenes)])
    return _series(modality, patch, scenes, dates, S2_BANDS)


def _date_of_scene(scene: NDArray[Any], ndvi: NDArray[Any], where: str) -> int:
    red, near = (np.asarray(scene[..., S2_BANDS.index(b)]) for b in ("B04", "B08"))
    away = np.abs(ndvi - (near - red) / (near + red)).mean(axis=(1, 2))
    same = np.flatnonzero(away < SAME_NDVI)
    if len(same) != 1:
        raise InputError(
            f"{where}: its NDVI is that of {len(same)} acquisitions of the patch (nearest off by {away.min():.2g}), "
            "expected exactly one, which dates it; give scenes of this patch"
        )
    return int(same[0])


def _terrain(modality: Modality, patch: _Patch) -> Layer:
    heights = patch.array("data_timeless/DEM")
    bands = _positions(modality, ("elevation_m",), heights.shape[-1], patch.folder.name)

    def read(y: int, x: int, height: int, width: int) -> Block:
        block = np.asarray(heights[y : y + height, x : x + width][..., bands], np.float64)
        stored, lost = to_stored(np.moveaxis(block, -1, 0)[None], modality, f"{patch.folder.name}: {modality.name}")
        return stored, np.where(lost, NODATA, flags_of(lost)).astype(np.uint8)

    return Layer(modality, np.array([DAY_UNKNOWN], np.int32), (patch.shape_px[0], patch.shape_px[1]), read)


def _positions(modality: Modality, known: Sequence[str], stored: int, where: str) -> list[int]:
    strange = [band for band in modality.band_names if band not in known]
    if strange or stored != len(known):
        raise InputError(
            f"{where}: {modality.name} asks for {', '.join(modality.band_names)} of {stored} stored bands, "
            f"expected some of {', '.join(known)}; correct the spec or save the patch with those bands"
        )
    return [known.index(band) for band in modality.band_names]
