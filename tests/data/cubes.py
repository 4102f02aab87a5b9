"""Tiny deterministic cubes for tests: 640 m x 700 m, four modalities on their own dates, a label and a table."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skyframe.data.cube import Cube, open_cube, tile_px
from skyframe.data.write import CubeWriter
from skyframe.randomness import generator
from skyframe.spec import Band, CubeSpec, Grid, Label, Modality, side_pixels

S2_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
DAYS = {
    "s2": np.array([8000, 8005, 8005, 8020, 8033, 8100], np.int32),  # two acquisitions on one day
    "s1": np.array([8002, 8014, 8026, 8090], np.int32),
    "hr": np.array([8040], np.int32),
    "weather": np.arange(7990, 8110, dtype=np.int32),
}
EXTENT_M = (640.0, 700.0)  # height, width: 70 px of 10 m is no multiple of the 64 px chunk


def tiny_spec() -> CubeSpec:
    """The canonical sensors on a small scale: `hr` has 1.25 m, so that 8 of its pixels lie along one of `s2`."""
    modalities = {
        "s2": Modality("s2", "series", tuple(map(Band, S2_BANDS)), 10.0, "reflectance", "uint16", scale=1e-4),
        "s1": Modality("s1", "series", (Band("VV"), Band("VH")), 10.0, "dB", "int16", scale=0.01),
        "hr": Modality(
            "hr", "image", (Band("red"), Band("green"), Band("blue")), 1.25, "reflectance", "uint8", scale=1 / 255
        ),
        "weather": Modality(
            "weather", "weather", (Band("temperature_c"), Band("precipitation_mm")), 350.0, "mixed", "float32"
        ),
    }
    labels = {"landcover": Label("landcover", 10.0, "uint8", classes=("water", "crop", "forest"))}
    return CubeSpec("tiny", "tiny cube for tests", modalities, labels)


def tiny_grid(extent_m: tuple[float, float] = EXTENT_M) -> Grid:
    """UTM zone 31 N, near 50.6 N 5.3 E."""
    return Grid("EPSG:32631", 660000.0, 5610000.0, extent_m[1], extent_m[0])


def tiny_values(
    name: str, seed: int = 0, extent_m: tuple[float, float] = EXTENT_M
) -> tuple[NDArray[np.generic], NDArray[np.uint8]]:
    """What the tiny cube holds: values `[T, C, H, W]` in the stored dtype and flags `[T, H, W]`."""
    modality = tiny_spec().modality(name)
    height, width = (side_pixels(extent, modality.gsd_m) for extent in extent_m)
    draw = generator(seed, "tiny", name)
    shape = len(DAYS[name]), len(modality.bands), height, width
    if name == "weather":
        values = draw.normal(10.0, 5.0, shape)
        return values.astype(np.float32), np.ones((shape[0], *shape[2:]), np.uint8)
    low, high = {"s2": (200, 6000), "s1": (-2500, 0), "hr": (0, 256)}[name]
    flags = draw.choice(np.array([1, 1, 1, 2, 3], np.uint8), (shape[0], *shape[2:]))
    if name == "s2":
        flags[3, :, : width // 2] = 0  # half a swath
    return draw.integers(low, high, shape).astype(modality.dtype), flags


def tiny_label(seed: int = 0, extent_m: tuple[float, float] = EXTENT_M) -> NDArray[np.uint8]:
    """Land cover `[H, W]` with classes 0, 1, 2."""
    height, width = (side_pixels(extent, 10.0) for extent in extent_m)
    return generator(seed, "tiny", "label").integers(0, 3, (height, width)).astype(np.uint8)


def write_modality(
    writer: CubeWriter, name: str, days: NDArray[np.int32], values: NDArray[np.generic], flags: NDArray[np.uint8]
) -> None:
    """Create a modality and write all of it, shard by shard."""
    writer.create(name, days)
    side = tile_px(writer.spec.modality(name).gsd_m)[1]
    for y in range(0, values.shape[2], side):
        for x in range(0, values.shape[3], side):
            block = (..., slice(y, y + side), slice(x, x + side))
            writer.write(name, y, x, values[block], flags[block])


def tiny_cube(
    path: Path,
    seed: int = 0,
    names: tuple[str, ...] = ("s2", "s1", "hr", "weather"),
    extent_m: tuple[float, float] = EXTENT_M,
) -> Cube:
    """Write and open the tiny cube; `names` leaves modalities out, `seed` changes every pixel, `extent_m` the size."""
    writer = CubeWriter(path, tiny_spec(), tiny_grid(extent_m), {"kind": "test", "seed": seed})
    for name in names:
        write_modality(writer, name, DAYS[name], *tiny_values(name, seed, extent_m))
    writer.write_label("landcover", tiny_label(seed, extent_m))
    writer.write_table("vehicles", {"x_m": np.array([10.0, 20.5]), "class": np.array([1, 2], np.int32)})
    return open_cube(writer.finish())
