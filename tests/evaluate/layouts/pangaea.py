"""Tiny data sets in the layouts that PANGAEA reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.transform import from_origin

NM = (443, 492, 560, 665, 704, 740, 783, 833, 865, 1614, 2202)
"""Of Sentinel-2A; MADOS names its files by them."""
COARSE = {443: 60, **dict.fromkeys((704, 740, 783, 865, 1614, 2202), 20)}
DISASTERS = ("flood", "fire")


def tif(path: Path, values: NDArray[np.generic]) -> None:
    """A GeoTIFF of `[C, H, W]`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    about = {"count": count, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", transform=from_origin(5e5, 5e6, 10, 10), **about) as file:
        file.write(values)


def write_mados(root: Path, side_px: int = 12) -> Path:
    """Three scenes of one crop, one per part; band k holds k, the mask one class per row from 0 (not labelled)."""
    folder = root / "MADOS"
    (folder / "splits").mkdir(parents=True)
    for number, part in enumerate(("train", "val", "test")):
        scene = f"Scene_{number}"
        for k, nm in enumerate(NM):
            gsd = COARSE.get(nm, 10)
            side = side_px * 10 // gsd
            plane = np.full((1, side, side), float(k), np.float32)
            if nm == 492:
                plane[0, 0, 0] = np.nan
            tif(folder / scene / str(gsd) / f"{scene}_L2R_rhorc_{nm}_7.tif", plane)
        mask = np.repeat(np.arange(side_px, dtype=np.uint8)[:, None], side_px, 1)
        tif(folder / scene / "10" / f"{scene}_L2R_cl_7.tif", mask[None])
        (folder / "splits" / f"{part}_X.txt").write_text(f"{scene}_7\n")
    return folder


def write_burn_scars(root: Path, training: int = 20, side_px: int = 8) -> Path:
    """Twenty training images and two of validation, whose band k holds k; the lower half burned."""
    folder = root / "hls_burn_scars"
    for part, count in (("training", training), ("validation", 2)):
        for n in range(count):
            key = f"subsetted_512x512_HLS.S30.T10SD{chr(65 + n)}.2020248.v1.4"
            image = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((1, side_px, side_px), np.float32)
            image[:, 0, 0] = 9999
            mask = np.zeros((1, side_px, side_px), np.int16)
            mask[0, side_px // 2 :] = 1
            mask[0, 0, 1] = -1
            tif(folder / part / f"{key}_merged.tif", image)
            tif(folder / part / f"{key}.mask.tif", mask)
    return folder


def write_xview2(root: Path, side_px: int = 8) -> Path:
    """Ten images of two disasters in `train` and in `tier3`, two in `test`; the mask holds all five classes."""
    folder = root / "xView2"
    for part, count in (("train", 10), ("tier3", 10), ("test", 2)):
        for kind in ("images", "masks"):
            (folder / part / kind).mkdir(parents=True)
        for n in range(count):
            stem = f"{DISASTERS[n % 2]}_{n:08d}"
            for k, when in enumerate(("pre", "post")):
                pixels = np.full((side_px, side_px, 3), 100 * k + n, np.uint8)
                Image.fromarray(pixels).save(folder / part / "images" / f"{stem}_{when}_disaster.png")
            mask = np.zeros((side_px, side_px), np.uint8)
            mask[0, :5] = range(5)
            Image.fromarray(mask).save(folder / part / "masks" / f"{stem}_post_disaster.png")
    return folder


def write_biomassters(root: Path, side_px: int = 4) -> Path:
    """Two chips per part; month m of chip n holds 100 n + m, biomass n and n + 1 by halves; chip 0 lacks S2 in 03."""
    folder = root / "Biomassters"
    for part in ("train", "val", "test"):
        own = "test" if part == "test" else "train"
        chips = [f"{part}{n}" for n in range(2)]
        folder.mkdir(exist_ok=True, parents=True)
        (folder / f"{part}_Data_list.csv").write_text("chip_id\n" + "\n".join(chips))
        for n, chip in enumerate(chips):
            for month in range(12):
                s1 = np.full((4, side_px, side_px), 100 * n + month, np.float32)
                s1[:, 0, 0] = -9999
                tif(folder / f"{own}_features" / f"{chip}_S1_{month:02d}.tif", s1)
                s2 = np.full((11, side_px, side_px), 100 * n + month, np.uint16)
                if (n, month) != (0, 3):
                    tif(folder / f"{own}_features" / f"{chip}_S2_{month:02d}.tif", s2)
            biomass = np.full((1, side_px, side_px), n, np.float32)
            biomass[0, : side_px // 2] += 1
            tif(folder / f"{own}_agbm" / f"{chip}_agbm.tif", biomass)
    return folder


def write_spacenet7(root: Path, places: int = 12, side_px: int = 8) -> Path:
    """Two months at some places; a building in the middle, the upper left pixel clouded."""
    folder = root / "spacenet7"
    for n in range(places):
        place = f"L15-{n:04d}E-1257N_1327_3160_13"
        for month in (1, 2):
            key = f"global_monthly_2018_{month:02d}_mosaic_{place}"
            image = np.full((4, side_px, side_px), 10 * n + month, np.uint8)
            image[3] = 255
            image[3, 0, 0] = 0
            mask = np.zeros((1, side_px, side_px), np.uint8)
            mask[0, 4, 4] = 255
            tif(folder / "train" / place / "images_masked" / f"{key}.tif", image)
            tif(folder / "train" / place / "labels_raster" / f"{key}_Buildings.tif", mask)
    return folder
