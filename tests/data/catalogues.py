"""Small catalogues for tests: real cubes, and cubes whose manifest is all there is."""

from pathlib import Path

import numpy as np

from skyframe.data.cube import Cube, open_cube, tile_px
from skyframe.data.write import CubeWriter
from skyframe.spec import Grid
from tests.data.cubes import DAYS, tiny_spec, tiny_values, write_modality


def tiny_at(
    path: Path, east_m: float = 0.0, names: tuple[str, ...] = ("s2",), days: dict | None = None, crs: str = "EPSG:32631"
) -> Cube:
    """A cube of 640 m x 700 m whose corner lies `east_m` east of the tiny one's, on dates of its own."""
    writer = CubeWriter(path, tiny_spec(), Grid(crs, 500000.0 + east_m, 5610000.0, 700.0, 640.0), {"kind": "test"})
    for name in names:
        values, flags = tiny_values(name)
        when = np.asarray((days or {}).get(name, DAYS[name]), np.int32)
        write_modality(writer, name, when, values[: len(when)], flags[: len(when)])
    assert tile_px(10.0) == (64, 256)
    return open_cube(writer.finish())
