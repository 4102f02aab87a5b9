"""PASTIS-R and PASTIS-HD with dates: five patches of 8 x 8 pixels, one per fold, in Lambert-93 as published."""

import json

import numpy as np

from tests.evaluate.layouts.rasters import noise, write_npy, write_tif

DATES = {
    "S2": {"0": 20180917, "1": 20181002, "2": 20181231},
    "S1A": {"0": 20180916, "1": 20181003},
    "S1D": {"0": 20180918},
}


def write_pastis(root, high_resolution=False, side=8):
    """Row 0 of every mask is void, column 0 below it meadow, the rest background."""
    features = []
    for fold in range(1, 6):
        key = 10000 + fold
        write_npy(root / "DATA_S2" / f"S2_{key}.npy", noise(3, 10, side, side, high=8000, dtype=np.int16))
        for role, first in (("S1A", -10), ("S1D", -20)):
            series = np.full((len(DATES[role]), 3, side, side), first, np.float16)
            series[0, 0, 0, 0] = np.nan
            write_npy(root / f"DATA_{role}" / f"{role}_{key}.npy", series)
        mask = np.zeros((3, side, side), np.uint8)
        mask[0, :, 0], mask[0, 0] = 1, 19
        write_npy(root / "ANNOTATIONS" / f"TARGET_{key}.npy", mask)
        if high_resolution:
            path = root / "DATA_SPOT/PASTIS_SPOT6_RVB_1M00_2019" / f"SPOT6_RVB_1M00_2019_{key}.tif"
            write_tif(path, noise(3, 10 * side, 10 * side))
        x, y = 700000.0, 6600000.0  # Lambert-93: 3 E, 46.5 N
        ring = [[x, y], [x + 80, y], [x + 80, y + 80], [x, y + 80], [x, y]]
        properties = {"ID_PATCH": key, "Fold": fold} | {f"dates-{s}": d for s, d in DATES.items()}
        shape = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "properties": properties, "geometry": shape})
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::2154"}}
    tree = {"type": "FeatureCollection", "crs": crs, "features": features}
    (root / "metadata.geojson").write_text(json.dumps(tree))
    return root
