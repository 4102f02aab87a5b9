"""Tiny scene, multi-label and series data sets in the true layouts; band k of item n holds n * 100 + k + 1."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from numpy.typing import NDArray
from PIL import Image

PARTS = ("train", "val", "test")


def write_picture(path: Path, number: int, side_px: int = 64) -> None:
    """A picture whose red is `number`, written without loss where the suffix is not .jpg."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side_px, side_px), (number, 50, 100)).save(path)


def write_raster(path: Path, values: NDArray[np.generic]) -> None:
    """A GeoTIFF `[C, H, W]` in its dtype."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", crs="EPSG:32632", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), **profile) as f:
        f.write(values)


def stack(number: int, bands: int, side_px: int, dtype: str = "uint16") -> NDArray[np.generic]:
    """Band k of item n as n * 100 + k + 1, `[bands, side_px, side_px]`."""
    levels = number * 100 + np.arange(1, bands + 1)
    return np.broadcast_to(levels[:, None, None], (bands, side_px, side_px)).astype(dtype)


def write_class_folders(root: Path, folder: str, classes: Sequence[str], names: Sequence[str], suffix: str) -> None:
    """Five pictures of each class; the file of number n of class c is `<names[c]>_<n>`."""
    for c, (kind, name) in enumerate(zip(classes, names, strict=True)):
        for n in range(1, 6):
            write_picture(root / folder / kind / f"{name}_{n}{suffix}", 10 * c + n)


def write_lists(root: Path, first: str, names: Sequence[str], suffix: str) -> None:
    """Lists of three parts: numbers 1 to 3 of each class to train, 4 to val, 5 to test."""
    for part, numbers in zip(PARTS, ((1, 2, 3), (4,), (5,)), strict=True):
        lines = [f"{name}_{n}{suffix}\n" for name in names for n in numbers]
        (root / f"{first}-{part}.txt").write_text("".join(lines))


def write_aid(root: Path) -> None:
    """Three of the thirty classes; published files carry their class in lower case."""
    write_class_folders(root, "AID", ("Airport", "BareLand", "Viaduct"), ("airport", "bareland", "viaduct"), ".jpg")


def write_resisc45(root: Path) -> None:
    """Three of the 45 classes, with lists."""
    names = ("airplane", "baseball_diamond", "wetland")
    write_class_folders(root, "NWPU-RESISC45", names, names, ".jpg")
    write_lists(root, "resisc45", names, ".jpg")


def write_eurosat_rgb(root: Path) -> None:
    """Two of the ten classes, with lists."""
    names = ("AnnualCrop", "SeaLake")
    write_class_folders(root, "EuroSAT_RGB", names, names, ".jpg")
    write_lists(root, "eurosat", names, ".jpg")


def write_eurosat_ms(root: Path) -> None:
    """Two of the ten classes as thirteen bands, with lists that name .jpg as the published ones do."""
    for c, kind in enumerate(("AnnualCrop", "SeaLake")):
        for n in range(1, 6):
            folder = root / "ds/images/remote_sensing/otherDatasets/sentinel_2/tif" / kind
            write_raster(folder / f"{kind}_{n}.tif", stack(5 * c + n, 13, 64))
    write_lists(root, "eurosat", ("AnnualCrop", "SeaLake"), ".jpg")


S2_SIDES = {"B01": 20, "B09": 20, **dict.fromkeys(("B02", "B03", "B04", "B08"), 120)}
BIGEARTHNET_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
BIGEARTHNET = (
    ("S2A_MSIL2A_20170613T101031", "S1A_IW_GRDH_1SDV_20170613T165043", ("Pastures", "Sea and ocean")),
    ("S2A_MSIL2A_20170614T102021", "S1A_IW_GRDH_1SDV_20170614T165154", ("Olive groves", "Vineyards", "Airports")),
    ("S2B_MSIL2A_20170701T093029", "S1B_IW_GRDH_1SDV_20170702T045034", ("Mixed forest",)),
)
"""Overpass of Sentinel-2, of Sentinel-1 and CORINE classes of the patch of each part."""


def _write_patch(s2: Path, s1: Path, number: int) -> None:
    for k, band in enumerate(BIGEARTHNET_BANDS):
        side = S2_SIDES.get(band, 60)
        write_raster(s2 / f"{s2.name}_{band}.tif", np.full((1, side, side), number * 100 + k + 1, np.uint16))
    for k, band in enumerate(("VV", "VH")):
        write_raster(s1 / f"{s1.name}_{band}.tif", np.full((1, 120, 120), -10.0 - k, np.float32))


def write_bigearthnet_v1(root: Path) -> None:
    """A patch for each part, of both sensors, with lists."""
    for number, (part, (s2, s1, labels)) in enumerate(zip(PARTS, BIGEARTHNET, strict=True)):
        folders = root / "BigEarthNet-v1.0" / f"{s2}_26_57", root / "BigEarthNet-S1-v1.0" / f"{s1}_33UUP_26_57"
        _write_patch(*folders, number)
        for folder, more in zip(folders, ({}, {"corresponding_s2_patch": folders[0].name}), strict=True):
            (folder / f"{folder.name}_labels_metadata.json").write_text(json.dumps({"labels": labels} | more))
        (root / f"bigearthnet-{part}.csv").write_text(f"{folders[0].name},{folders[1].name}\n")


def write_bigearthnet_v2(root: Path) -> None:
    """A patch for each part and one under snow, of both sensors."""
    rows: list[dict[str, object]] = []
    for number, (part, (s2, s1, _)) in enumerate(zip(("train", "validation", "test"), BIGEARTHNET, strict=True)):
        patch, s1_patch = f"{s2}_N9999_R022_T33UUP_26_57", f"{s1}_33UUP_26_57"
        tile = root / "BigEarthNet-S2" / f"{s2}_N9999_R022_T33UUP"
        _write_patch(tile / patch, root / "BigEarthNet-S1" / s1 / s1_patch, number)
        rows.append({"patch_id": patch, "s1_name": s1_patch, "split": part, "labels": ["Pastures", "Marine waters"]})
    rows.append({**rows[0], "patch_id": "under_snow_1_1"})
    for i, row in enumerate(rows):
        row |= {"country": "Austria", "contains_seasonal_snow": i == 3, "contains_cloud_or_shadow": False}
    pq.write_table(pa.Table.from_pylist(rows), root / "metadata.parquet")


def write_fmow_sentinel(root: Path) -> None:
    """Two dates of one airport to train, one place each to val and test; sizes differ."""
    rows = {"train": (("airport", 0, 0), ("airport", 0, 1)), "val": (("zoo", 7, 3),), "test_gt": (("zoo", 9, 1),)}
    for part, images in rows.items():
        lines = ["category,location_id,image_id,timestamp,polygon"]
        for kind, place, image in images:
            stem = f"{kind}_{place}_{image}"
            path = root / "fmow-sentinel" / part / kind / f"{kind}_{place}" / f"{stem}.tif"
            write_raster(path, stack(image, 13, 8 + image))
            lines.append(f'{kind},{place},{image},2016-0{image + 1}-01T00:00:00Z,"POLYGON ((0 0, 1 1))"')
        (root / f"{part}.csv").write_text("\n".join(lines) + "\n")


def write_so2sat(root: Path) -> None:
    """Three rows of each part, of classes 0, 1 and 2; channel k of row n of `sen1` holds n + (k + 1) / 100."""
    for name in ("training", "validation", "testing"):
        rows = np.arange(3.0)[:, None, None, None]
        with h5py.File(root / f"{name}.h5", "w") as file:
            file["sen1"] = np.broadcast_to(rows + np.arange(1, 9) / 100, (3, 32, 32, 8))
            file["sen2"] = np.broadcast_to(rows / 10 + np.arange(1, 11) / 1000, (3, 32, 32, 10))
            file["label"] = np.eye(3, 17)


PLOTS = ("Abies_alba_1_1005_WEFL_NLF", "Quercus_rubra_1_92184_WEFL_NLF", "Alnus_spec._5_13114_WEFL_NLF")
GENERA = ([["Abies", 0.95], ["Tilia", 0.05]], [["Quercus", 0.6], ["Fagus", 0.4]], [["Alnus", 1.0]])


def _write_plots(root: Path, folder: str, lists: Sequence[str]) -> None:
    for number, plot in enumerate(PLOTS):
        write_raster(root / folder / f"{plot}.tif", stack(number % 2, 4, 32, "uint8"))
    (root / "labels").mkdir()
    labels = {f"{plot}.tif": genera for plot, genera in zip(PLOTS, GENERA, strict=True)}
    (root / "labels" / "TreeSatBA_v9_60m_multi_labels.json").write_text(json.dumps(labels))
    for name, plot in zip(lists, PLOTS, strict=True):
        path = root / f"{name}_filenames.lst"
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            file.write(f"{plot}.tif\n")


def write_treesatai(root: Path) -> None:
    """Two plots to train and one to test, of one date."""
    _write_plots(root, "aerial/60m", ("train", "train", "test"))
    for number, plot in enumerate(PLOTS):
        write_raster(root / "s2/60m" / f"{plot}.tif", stack(number, 12, 6))
        write_raster(root / "s1/60m" / f"{plot}.tif", np.full((3, 6, 6), -8.0, np.float32))


def write_treesatai_ts(root: Path) -> None:
    """A plot for each part: three dates of Sentinel-2, the second cloudy, and three of Sentinel-1 in two orbits."""
    _write_plots(root, "aerial", ("split/train", "split/val", "split/test"))
    (root / "sentinel-ts").mkdir()
    for plot in PLOTS:
        with h5py.File(root / "sentinel-ts" / f"{plot}_2020.h5", "w") as file:
            file["sen-2-data"] = np.broadcast_to(stack(1, 10, 6, "float32"), (3, 10, 6, 6))
            masks = np.zeros((3, 2, 6, 6), np.float32)
            masks[1, 1] = 51.0
            masks[2, 0, 0, 0] = 100.0
            file["sen-2-masks"] = masks
            file["sen-2-products"] = [f"S2A_MSIL2A_2020010{d}T102421_N0213_R065_T32UNC" for d in (2, 5, 7)]
            for orbit, days in (("asc", (3, 9)), ("des", (6,))):
                values = np.array(days, np.float32)[:, None, None, None] / 100
                file[f"sen-1-{orbit}-data"] = np.broadcast_to(values, (len(days), 2, 6, 6))
                file[f"sen-1-{orbit}-products"] = [f"S1A_IW_GRDH_1SDV_2020010{d}T170841" for d in days]


def write_presto_algae(root: Path) -> None:
    """Three sites of twelve months from October on; site n has VV of -10 - n dB and B02 of 1000 + n."""
    folder = root / "npy"
    folder.mkdir()
    series = np.zeros((3, 12, 18))
    series[..., 0] = -10 - np.arange(3)[:, None]
    series[..., 1] = -20
    series[..., 2:13] = 1000 + np.arange(3)[:, None, None]
    series[..., 13], series[..., 14] = 283.15, 0.002
    series[..., 15], series[..., 16], series[..., 17] = 300, 2, 99
    arrays = {
        "s1_s2_era5_srtm": series,
        "month": np.tile((np.arange(12) + 9) % 12, (3, 1)),
        "latlon": np.array([[40.0, -90.0], [41.0, -91.0], [42.0, -92.0]]),
        "target": np.array([1, 3, 5]),
        "is_test": np.array([0, 0, 1]),
        "uid": np.array(["aaff", "aajk", "aaql"]),
    }
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)


WRITERS: dict[str, Callable[[Path], None]] = {
    "aid": write_aid,
    "aid-20": write_aid,
    "aid-50": write_aid,
    "bigearthnet-v1": write_bigearthnet_v1,
    "bigearthnet-v1-43": write_bigearthnet_v1,
    "bigearthnet-v2": write_bigearthnet_v2,
    "eurosat-ms": write_eurosat_ms,
    "eurosat-rgb": write_eurosat_rgb,
    "fmow-sentinel": write_fmow_sentinel,
    "presto-algae": write_presto_algae,
    "resisc45": write_resisc45,
    "resisc45-10": write_resisc45,
    "resisc45-20": write_resisc45,
    "so2sat": write_so2sat,
    "treesatai": write_treesatai,
    "treesatai-ts": write_treesatai_ts,
}
"""Writer of each data set's whole layout by the name that `open_dataset` knows."""
