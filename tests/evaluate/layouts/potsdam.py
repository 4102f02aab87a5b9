"""Potsdam: two training tiles and one of test, 24 x 20 pixels, whose label is a building in column 0 and a car else."""

import numpy as np

from tests.evaluate.layouts.rasters import noise, write_tif

TILES = ("2_10", "6_7", "5_15")


def write_potsdam(root, labels="5_Labels_all", height=24, width=20):
    for tile in TILES:
        mask = np.zeros((3, height, width), np.uint8)
        mask[:] = np.array((252, 255, 0), np.uint8)[:, None, None]  # a car, as two published tiles store it
        mask[:, :, 0] = np.array((0, 0, 255), np.uint8)[:, None]
        write_tif(root / "4_Ortho_RGBIR" / f"top_potsdam_{tile}_RGBIR.tif", noise(4, height, width))
        write_tif(root / labels / f"top_potsdam_{tile}_label.tif", mask)
    return root
