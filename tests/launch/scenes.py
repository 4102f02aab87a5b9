"""Twenty small GeoTIFF scenes side by side, one to each block of a cube, and what ingests them."""

from pathlib import Path

import numpy as np
import yaml

from tests.data.ingest.archive import LEFT, TARGET, TOP, write_tiff

COLUMNS, ROWS, SIDE = 5, 4, 256
MODALITY = {"kind": "series", "gsd_m": 10, "units": "reflectance", "dtype": "uint16", "scale": 1e-4}
SPEC = {"name": "own", "description": "one band", "modalities": {"ms": MODALITY | {"bands": [{"name": "red"}]}}}


def write_scenes(here: Path) -> list[Path]:
    """Scene k fills block k of the cube; its pixels are noise, which no two blocks share."""
    rng = np.random.default_rng(7)
    for k in range(COLUMNS * ROWS):
        row, column = divmod(k, COLUMNS)
        pixels = rng.integers(1, 9000, (SIDE, SIDE)).astype(np.uint16)
        place = {"left": LEFT + column * SIDE * 10, "top": TOP - row * SIDE * 10}
        write_tiff(here / f"scenes/20210601_{k + 1:02d}.tif", pixels, **place)
    bounds = [LEFT, TOP - ROWS * SIDE * 10, LEFT + COLUMNS * SIDE * 10, TOP]
    layer = {"scale": 1e-4, "nodata": 0, "assets": {"red": "1"}}
    query = {"folder": "scenes", "pattern": "{date}_*.tif", "area": {"crs": TARGET, "bbox_m": bounds}}
    query |= {"layers": {"ms": layer}, "memory_mb": 5, "threads": 1}  # a block of one shard, no larger
    (here / "scenes.yaml").write_text(yaml.safe_dump(query, sort_keys=False))
    (here / "spec.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False))
    return sorted((here / "scenes").iterdir())


def damage(scene: Path) -> bytes:
    """Cut a scene's pixels off, whose header stays whole; what it was."""
    whole = scene.read_bytes()
    scene.write_bytes(whole[: len(whole) // 2])
    return whole
