"""LEVIR-CD in both layouts."""

import numpy as np

from tests.evaluate.layouts.rasters import noise, write_png


def write_levir(root, flat=False):
    """Two pairs a part, rows 0 and 1 changed; flat is torchgeo's layout."""
    mask = np.zeros((8, 8), np.uint8)
    mask[:2] = 255
    for part in ("train", "val", "test"):
        for number in (1, 2):
            for side in ("A", "B", "label"):
                file = f"{part}_{number}.png"
                path = root / side / file if flat else root / part / side / file
                write_png(path, mask if side == "label" else noise(3, 8, 8, seed=ord(side[0])))
    return root
