"""MMFlood: a tile of 6 x 8 pixels in an event of train and in one of test; row 0 is flooded, row 1 is not scored."""

import json

import numpy as np

from tests.evaluate.layouts.rasters import noise, write_text, write_tif

EVENTS = '{"EMSR1": {"subset": "train", "lat": 45.8, "lon": 14.5}, "EMSR2": {"subset": "test", "lat": -1, "lon": 30}}'


def write_mmflood(root, events=EVENTS):
    """The last pixel has no radar."""
    write_text(root / "activations.json", events)
    for code in json.loads(events):
        place, tile = root / "activations" / f"{code}-0", f"{code}-0.tif"
        radar = noise(2, 6, 8, dtype=np.float32) / 255
        radar[1, 5, 7] = np.nan
        mask = np.zeros((6, 8), np.float32)
        mask[0], mask[1] = 1, 255
        write_tif(place / "s1_raw" / tile, radar)
        write_tif(place / "DEM" / tile, noise(6, 8, dtype=np.float32))
        write_tif(place / "mask" / tile, mask)
    return root
