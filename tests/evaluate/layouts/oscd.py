"""OSCD: two cities of 12 x 18 pixels at 10 m; B01 comes at 60 m (2 x 3); rows 0 and 1 changed."""

import numpy as np

from skyframe.evaluate.datasets.imagery import S2_BANDS
from tests.evaluate.layouts.rasters import noise, write_png, write_text, write_tif

CITIES = {"Train": ("beirut",), "Test": ("rio",)}
ARCHIVE = "Onera Satellite Change Detection dataset - "


def write_oscd(root, height=12, width=18, tif_mask=False, by_part=CITIES):
    for part, cities in by_part.items():
        for city in cities:
            images, labels = root / f"{ARCHIVE}Images" / city, root / f"{ARCHIVE}{part} Labels" / city / "cm"
            for number in (1, 2):
                for band in S2_BANDS:
                    size = (height // 6, width // 6) if band == "B01" else (height, width)
                    values = np.full(size, 600, np.uint16) if band == "B01" else 1 + noise(*size, dtype=np.uint16)
                    write_tif(images / f"imgs_{number}_rect" / f"{band}.tif", values)
            write_text(images / "dates.txt", "date_1: 20160120", "date_2: 20180328")
            changed = np.zeros((height, width), np.uint8)
            changed[:2] = 1
            if tif_mask:
                write_tif(labels / f"{city}-cm.tif", changed + 1)
            else:
                write_png(labels / "cm.png", changed * 255)
    return root
