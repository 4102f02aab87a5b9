"""What a user writes to turn scenes into cubes: area, time, and per modality where its bands come from."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal

from skyframe.data.ingest.mask import Mask
from skyframe.data.ingest.scenes import Bounds, Sampling, bounds_of
from skyframe.data.ingest.source import short_crs
from skyframe.data.ingest.warp import RESAMPLING
from skyframe.spec import CubeSpec, Grid, InputError, build, did_you_mean, load_yaml

TILE_M = 109_800.0
"""Side of a Sentinel-2 tile: an MGRS square of 100 km and its margin."""

SQUARE_M = 100_000.0


@dataclass(frozen=True)
class Area:
    """What ground: exactly one of `bbox` (west, south, east, north in degrees), `bbox_m` (left, bottom, right, top in
    the CRS), `geometry` (a GeoJSON file in degrees) and `tiles` (Sentinel-2 tiles of one UTM zone).

    `crs` is the target's, in metres. `cube_km` cuts the area into square cubes of that side.
    """

    crs: str
    bbox: tuple[float, ...] = ()
    bbox_m: tuple[float, ...] = ()
    geometry: str = ""
    tiles: tuple[str, ...] = ()
    cube_km: float = 0.0


@dataclass(frozen=True)
class LayerQuery:
    """Where one modality comes from.

    `collection`, `url`, `max_cloud` (percent) and `filter` (property: value) choose STAC items. `assets`: band of the
    spec -> asset key (STAC) or the pattern's `{band}`, or the number of a band within a file. `scale` and `offset`:
    physical value = stored * scale + offset, where the archive does not say so itself. `nodata`: of the source.
    `boa_offset`: Sentinel-2's offset in stored units, where the archive says it wrongly. `sign`: by whose
    tokens addresses are signed. `power`: backscatter is linear in the files.
    """

    collection: str = ""
    url: str = ""
    assets: dict[str, str] = field(default_factory=dict)
    mask: Mask | None = None
    resampling: str = "auto"
    band_resampling: dict[str, str] = field(default_factory=dict)
    max_cloud: float | None = None
    filter: dict[str, Any] = field(default_factory=dict)
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None
    boa_offset: float | None = None
    sign: Literal["", "planetary_computer"] = ""
    power: bool = True

    def __post_init__(self) -> None:
        for name in (self.resampling, *self.band_resampling.values()):
            if name not in RESAMPLING:
                raise InputError(
                    f"resampling: {name!r} is not known, expected one of {', '.join(RESAMPLING)}"
                    f"{did_you_mean(name, RESAMPLING)}"
                )

    def sampling(self, mask: Mask | None) -> Sampling:
        """How the scenes are resampled; `mask` stands in where the query names none."""
        return Sampling(self.resampling, self.band_resampling, self.power, self.mask or mask)


@dataclass(frozen=True)
class Query:
    """A YAML of `skyframe ingest stac` or `geotiff`.

    `url`: of a STAC API or a static catalogue, or a path beside the YAML; `items`: a file that keeps the search result,
    written at the first start and read from then on. `folder`, `pattern`: of GeoTIFF scenes. `datetime`: `first/last`
    days. `memory_mb` and `threads`: see `scenes.scene_layer`.
    """

    area: Area
    layers: dict[str, LayerQuery]
    url: str = ""
    items: str = ""
    folder: str = ""
    pattern: str = ""
    datetime: str = ""
    memory_mb: float = 1000.0
    threads: int = 4

    def __post_init__(self) -> None:
        if self.threads < 1 or not self.memory_mb > 0:
            raise InputError(
                f"query: threads {self.threads} and memory_mb {self.memory_mb:g}, expected at least one thread and "
                "some memory; raise them"
            )


def load_query(path: Path, spec: CubeSpec) -> Query:
    """Read a YAML and check it against the spec.

    Raises:
        InputError: no such file, an unknown key, a layer that the spec lacks or a modality without a layer, a band that
            its modality lacks.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the YAML that says which scenes; check the path")
    tree = load_yaml(path)
    query: Query = build(Query, tree, path.name)
    for name, layer in query.layers.items():
        bands = spec.modality(name).band_names
        for band in (*layer.assets, *layer.band_resampling):
            if band not in bands:
                raise InputError(
                    f"{path.name}: layers.{name} names band {band}, spec {spec.name} has only {', '.join(bands)}"
                    f"{did_you_mean(band, bands) or '; correct it'}"
                )
    lacking = [name for name in spec.modalities if name not in query.layers]
    if lacking:
        raise InputError(
            f"{path.name}: layers has no {', '.join(lacking)}, which spec {spec.name} lists; describe it under layers "
            "or give a spec without it"
        )
    return query


def period(text: str, where: str) -> tuple[datetime, datetime]:
    """First moment and past-the-last moment (UTC) of `first/last` days; without text all time.

    Raises:
        InputError: not two days in order.
    """
    if not text:
        return datetime(1950, 1, 1, tzinfo=UTC), datetime(2150, 1, 1, tzinfo=UTC)
    try:
        first, last = (datetime.fromisoformat(part).date() for part in text.split("/"))
        if last < first:
            raise ValueError
    except ValueError:
        raise InputError(
            f"{where}: datetime is {text!r}, expected first and last day in order such as 2021-03-01/2021-10-31"
        ) from None
    return datetime.combine(first, time(), UTC), datetime.combine(last + timedelta(days=1), time(), UTC)


def grids_of(area: Area, spec: CubeSpec, path: Path) -> dict[str, Grid]:
    """The grids of a query by cube name; one grid called "" where the area is not cut.

    Corners lie on whole multiples of the coarsest pixel, so that cubes of one archive share one lattice.

    Args:
        area: as the YAML says it.
        spec: whose pixels count.
        path: of the YAML, beside which a geometry lies.

    Raises:
        InputError: a CRS in degrees, no or two areas, corners out of order, a tile of another zone.
    """
    crs = short_crs(area.crs, f"{path.name}: area.crs")
    step = max(m.gsd_m for m in spec.modalities.values())
    shape = _geometry(area, path)
    left, bottom, right, top = _bounds(area, crs, shape, path.name)
    if not area.cube_km:
        return {"": _snapped(crs, (left, bottom, right, top), step)}
    side = area.cube_km * 1000.0
    if not side > 0 or abs(side / step - round(side / step)) > 1e-6:
        raise InputError(
            f"{path.name}: area.cube_km {area.cube_km:g} is not a whole number of {step:g} m pixels, expected a "
            "multiple of them; change it"
        )
    grids = {}
    for row in range(math.floor(bottom / side), math.ceil(top / side)):
        for column in range(math.floor(left / side), math.ceil(right / side)):
            grid = Grid(crs, column * side, (row + 1) * side, side, side)
            if shape is None or _meets(shape, grid):
                grids[f"n{row * side / 1000:g}_e{column * side / 1000:g}"] = grid
    if not grids:
        raise InputError(
            f"{path.name}: area.geometry touches no cube of {area.cube_km:g} km, expected polygons; check it"
        )
    return grids


def cover(grids: Mapping[str, Grid]) -> Grid:
    """The smallest grid that holds all of these, which share a CRS."""
    boxes = [bounds_of(grid) for grid in grids.values()]
    left, bottom, right, top = *(min(b[i] for b in boxes) for i in (0, 1)), *(max(b[i] for b in boxes) for i in (2, 3))
    return Grid(next(iter(grids.values())).crs, left, top, right - left, top - bottom)


def degrees_of(grid: Grid) -> Bounds:
    """West, south, east, north of a grid."""
    from rasterio.warp import transform_bounds

    left, top = grid.x0_m, grid.y0_m
    west, south, east, north = transform_bounds(
        grid.crs, "EPSG:4326", left, top - grid.height_m, left + grid.width_m, top
    )
    return float(west), float(south), float(east), float(north)


def _snapped(crs: str, bounds: Bounds, step: float) -> Grid:
    left, bottom = (math.floor(value / step + 1e-6) * step for value in bounds[:2])
    right, top = (math.ceil(value / step - 1e-6) * step for value in bounds[2:])
    return Grid(crs, left, top, right - left, top - bottom)


def _bounds(area: Area, crs: str, shape: Mapping[str, Any] | None, where: str) -> Bounds:
    from rasterio.features import bounds as bounds_of_shape
    from rasterio.warp import transform_bounds

    given = [key for key in ("bbox", "bbox_m", "geometry", "tiles") if getattr(area, key)]
    if len(given) != 1:
        raise InputError(
            f"{where}: area has {' and '.join(given) or 'none'} of bbox, bbox_m, geometry and tiles, expected exactly "
            "one; give one"
        )
    if area.tiles:
        corners = [_tile_corner(tile, crs, where) for tile in area.tiles]
        return (
            min(x for x, _ in corners),
            min(y for _, y in corners) - TILE_M,
            max(x for x, _ in corners) + TILE_M,
            max(y for _, y in corners),
        )
    box = area.bbox_m or area.bbox or bounds_of_shape(shape)
    if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
        raise InputError(
            f"{where}: area.{given[0]} is {list(box)}, expected four numbers: left, bottom, right, top in rising order"
        )
    left, bottom, right, top = box if area.bbox_m else transform_bounds("EPSG:4326", crs, *box)
    if not all(math.isfinite(value) for value in (left, bottom, right, top)):
        raise InputError(
            f"{where}: area.{given[0]} {list(box)} does not lie in {crs}, expected degrees within its reach"
        )
    return left, bottom, right, top


def _geometry(area: Area, path: Path) -> Mapping[str, Any] | None:
    if not area.geometry:
        return None
    file = path.parent / area.geometry
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        shapes = [f["geometry"] for f in tree["features"]] if "features" in tree else [tree.get("geometry", tree)]
        shapes = [{"type": shape["type"], "coordinates": shape["coordinates"]} for shape in shapes]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path.name}: area.geometry {file} cannot be read as GeoJSON ({type(error).__name__}), expected polygons "
            "in degrees; check the file"
        ) from error
    return {"type": "GeometryCollection", "geometries": shapes}


def _meets(shape: Mapping[str, Any], grid: Grid) -> bool:
    from rasterio.features import geometry_mask
    from rasterio.transform import from_origin
    from rasterio.warp import transform_geom

    cells = 64
    transform = from_origin(grid.x0_m, grid.y0_m, grid.width_m / cells, grid.height_m / cells)
    shapes = [transform_geom("EPSG:4326", grid.crs, part) for part in shape["geometries"]]
    return bool(geometry_mask(shapes, (cells, cells), transform, all_touched=True, invert=True).any())


def _tile_corner(tile: str, crs: str, where: str) -> tuple[float, float]:
    """Upper-left corner in metres of a Sentinel-2 tile, from its MGRS letters."""
    from pyproj import Transformer

    found = re.fullmatch(r"(\d{1,2})([C-HJ-NP-X])([A-HJ-NP-Z])([A-HJ-NP-V])", tile.removeprefix("T"))
    if not found or not 1 <= int(found[1]) <= 60:
        raise InputError(f"{where}: area.tiles has {tile!r}, expected Sentinel-2 tiles such as 31UFS; correct it")
    zone, south = int(found[1]), found[2] < "N"
    if crs != f"EPSG:{32700 + zone if south else 32600 + zone}":
        raise InputError(
            f"{where}: tile {tile} lies in EPSG:{32700 + zone if south else 32600 + zone}, area.crs is {crs}; name the "
            "tile's CRS, or give a bbox"
        )
    columns = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")[(zone - 1) % 3]
    rows = "ABCDEFGHJKLMNPQRSTUV" if zone % 2 else "FGHJKLMNPQRSTUVABCDE"
    if found[3] not in columns:
        raise InputError(
            f"{where}: zone {zone} has no column {found[3]}, expected one of {columns}; correct tile {tile}"
        )
    lowest_deg = -80 + 8 * "CDEFGHJKLMNPQRSTUVWX".index(found[2])
    _, lowest_m = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(zone * 6 - 183, lowest_deg)
    bottom = rows.index(found[4]) * SQUARE_M
    while bottom + SQUARE_M <= lowest_m:
        bottom += 20 * SQUARE_M
    left, top = (columns.index(found[3]) + 1) * SQUARE_M, bottom + SQUARE_M
    return left // 60 * 60, -(-top // 60) * 60  # pixels of 60 m, the coarsest band's, begin there
