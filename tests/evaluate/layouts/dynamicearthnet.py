"""DynamicEarthNet: three areas of 8 x 8 pixels over three months, with the lists of PANGAEA or of GEO-Bench-2.

Layer m of a label covers row m in month m, soil covers the rest; the last row is snow and the one above has no layer.
"""

import numpy as np

from tests.evaluate.layouts.rasters import noise, write_npy, write_text, write_tif

AREAS = {"1311_3077_13": "train", "2029_3764_13": "val", "4127_2991_13": "test"}
MONTHS = ("2018-01", "2018-02", "2018-03")
DAYS = (1, 5, 10, 15, 20, 25)
ZONE = "10N-122W-40N-L3H-SR"


def write_dynamicearthnet(root, lists="geobench2", suffix=".tif", side=8, radar_bands=2):
    rows = []
    for area, part in AREAS.items():
        for number, month in enumerate(MONTHS):
            planet = f"planet/10N/26E-183N/{area}/PF-SR"
            label = f"labels/{area}_10N/Labels/Raster/{ZONE}/{ZONE}-{month.replace('-', '_')}_01.tif"
            s1, s2 = (f"sentinel{n}/{area}/{area}_{month.replace('-', '_')}.tif" for n in (1, 2))
            for day in DAYS:
                frame = 1 + noise(4, side, side, high=3000, seed=day, dtype=np.uint16)
                frame[:, 0, 0] = day
                path = root / planet / f"{month}-{day:02d}{suffix}"
                write_npy(path, np.moveaxis(frame, 0, -1)) if suffix == ".npy" else write_tif(path, frame)
            write_tif(root / s2, 1 + noise(12, side, side, high=3000, dtype=np.uint16))
            write_tif(root / s1, -noise(radar_bands, side, side, high=20, dtype=np.float32))
            write_tif(root / label, _label(number, side))
            rows.append((part, planet, label, month, s1, s2))
    _write_lists(root, lists, rows)
    return root


def _label(number, side):
    layers = np.zeros((7, side, side), np.uint8)
    layers[4] = 255
    layers[4, number], layers[number, number] = 0, 255
    layers[4, -2:] = 0
    layers[6, -1] = 255
    return layers


def _write_lists(root, lists, rows):
    if lists == "geobench2":
        names = "split,planet_path,label_path,year_month,s1_path,s2_path,missing_s1,missing_s2"
        lines = [f"{p},{i},{t},{m},{s1},{s2},False,{m == '2018-03'}" for p, i, t, m, s1, s2 in rows]
        write_text(root / "split_info/splits.csv", names, *lines)
    elif lists == "pangaea":
        for part in ("train", "val", "test"):
            lines = [
                f"{i.replace('planet', '/reprocess-cropped/UTM-24000')} /{t} {m}"
                for p, i, t, m, *_ in rows
                if p == part
            ]
            write_text(root / "dynnet_training_splits" / f"{part}.txt", *lines)
