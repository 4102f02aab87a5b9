"""Single files: GeoTIFF, PNG, list."""

import numpy as np
import rasterio
from PIL import Image
from rasterio.transform import from_origin


def write_tif(path, values):
    """`[C, H, W]` or `[H, W]` as a GeoTIFF at 10 m in UTM 33 N, near 45.15 N 15 E."""
    values = values if values.ndim == 3 else values[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    where = {"crs": "EPSG:32633", "transform": from_origin(500000, 5000000, 10, 10)}
    size = {"count": count, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", **size, **where) as file:
        file.write(values)


def write_png(path, pixels):
    """`[3, H, W]` or `[H, W]` uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)) if pixels.ndim == 3 else pixels).save(path)


def write_npy(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def write_text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def noise(*shape, high=255, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)
