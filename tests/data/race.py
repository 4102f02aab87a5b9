"""A writer for `test_write`: waits for a moment that it shares with others, then creates and writes its own blocks."""

import sys
import time

import numpy as np

from skyframe.data.write import CubeWriter
from skyframe.spec import Band, CubeSpec, Grid, Modality

DAYS = np.array([7300, 7310], np.int32)
SPEC = CubeSpec(
    "race",
    "several layers to create at once",
    {f"m{i}": Modality(f"m{i}", "series", (Band("a"),), 10.0, "dn", "uint16") for i in range(4)},
)
SIDE_PX = 512


def write_part(path, number, parts):
    """Create every modality and write each `parts`-th block, all of them the number of its modality + 1."""
    writer = CubeWriter(path, SPEC, Grid("EPSG:32631", 6e5, 5.6e6, SIDE_PX * 10, SIDE_PX * 10), {"from": "race"})
    for name in SPEC.modalities:
        writer.create(name, DAYS)
    blocks = [(name, y, x) for name in SPEC.modalities for y in (0, 256) for x in (0, 256)]
    for name, y, x in blocks[number::parts]:
        values = np.full((2, 1, 256, 256), int(name[1:]) + 1, np.uint16)
        writer.write(name, y, x, values, np.ones((2, 256, 256), np.uint8))
    return writer, blocks


if __name__ == "__main__":
    time.sleep(max(0.0, float(sys.argv[4]) - time.time()))
    write_part(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
