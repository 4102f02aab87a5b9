"""iSAID as published and as crops: every image is a background with a ship in rows 0 to 3."""

import numpy as np

from tests.evaluate.layouts.rasters import noise, write_png

SHIP = (0, 0, 63)
IMAGES = {"train": ("P0000", "P0001", "P0003", "P0005", "P0007", "P0010"), "val": ("P0002", "P0004")}


def write_isaid(root, side=8):
    for part, names in IMAGES.items():
        for name in names:
            mask = np.zeros((3, side, side), np.uint8)
            mask[:, :4] = np.array(SHIP, np.uint8)[:, None, None]
            write_png(root / part / "images" / f"{name}.png", noise(3, side, side))
            write_png(root / part / "images" / f"{name}_instance_color_RGB.png", mask)
            write_png(root / part / "images" / f"{name}_instance_id_RGB.png", mask)
    return root


def write_isaid_crops(root, side=8):
    for part, names in IMAGES.items():
        for name in names:
            for at in (0, 4):
                mask = np.zeros((side, side), np.uint8)
                mask[:4], mask[7] = 1, 255
                crop = f"{name}_{at}_{at + side}_0_{side}"
                write_png(root / "img_dir" / part / f"{crop}.png", noise(3, side, side))
                write_png(root / "ann_dir" / part / f"{crop}_instance_color_RGB.png", mask)
    return root
