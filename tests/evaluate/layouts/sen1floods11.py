"""Sen1Floods11: five chips of 8 x 8 pixels; rows 0 and 1 are water, row 7 is not scored."""

import numpy as np

from tests.evaluate.layouts.rasters import noise, write_text, write_tif

CHIPS = {"train": ("Ghana_1", "Ghana_2", "India_3"), "valid": ("Spain_4",), "test": ("USA_5",)}


def write_sen1floods11(root, bucket=False, lists=True, side=8):
    chips = root / "v1.1/data/flood_events/HandLabeled" if bucket else root
    splits = root / "v1.1/splits/flood_handlabeled" if bucket else root
    for part, keys in CHIPS.items():
        for key in keys:
            mask = np.zeros((side, side), np.int16)
            mask[:2], mask[7] = 1, -1
            radar = -noise(2, side, side, high=20, dtype=np.float32)
            radar[0, 0, 0] = np.nan
            optical = 1 + noise(13, side, side, high=5000, dtype=np.int16)
            optical[:, 0, 1] = 0
            write_tif(chips / "LabelHand" / f"{key}_LabelHand.tif", mask)
            write_tif(chips / "S1Hand" / f"{key}_S1Hand.tif", radar)
            write_tif(chips / "S2Hand" / f"{key}_S2Hand.tif", optical)
        if lists:
            lines = [f"{k}_S1Hand.tif,{k}_LabelHand.tif" for k in keys]
            write_text(splits / f"flood_{part}_data.csv", *lines)
    return root
