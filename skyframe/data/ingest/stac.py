"""Items of a STAC API or of a static catalogue as scenes: Sentinel-2 L2A, Sentinel-1 RTC and others alike."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skyframe.data.ingest.catalogue import find_items, when_of
from skyframe.data.ingest.mask import SCENE_CLASSES, Mask
from skyframe.data.ingest.placed import Collected, place
from skyframe.data.ingest.query import LayerQuery, cover, degrees_of, grids_of, load_query
from skyframe.data.ingest.reflectance import baseline_of, scale_and_offset
from skyframe.data.ingest.scenes import MASK, Asset, Bounds, Scene
from skyframe.data.ingest.source import Source
from skyframe.spec import CubeSpec, InputError, Modality, did_you_mean


@dataclass(frozen=True)
class Product:
    """What is known of a collection: asset keys of each band (the first that an item has), mask, nodata."""

    assets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mask: Mask | None = None
    nodata: float | None = None
    optical: tuple[str, ...] = ()


COLOURS = {
    "B01": "coastal",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge1",
    "B06": "rededge2",
    "B07": "rededge3",
    "B08": "nir",
    "B8A": "nir08",
    "B09": "nir09",
    "B11": "swir16",
    "B12": "swir22",
}
SIDES_M = {"B02": 10, "B03": 10, "B04": 10, "B08": 10, "B01": 60, "B09": 60}

SENTINEL_2 = Product(
    {
        **{band: (band, colour, f"{band}_{SIDES_M.get(band, 20)}m") for band, colour in COLOURS.items()},
        "SCL": ("SCL", "scl", "SCL_20m"),
    },
    SCENE_CLASSES,
    0.0,
    tuple(COLOURS),
)
"""Asset keys of Planetary Computer, Earth Search and the Copernicus Data Space, in this order."""

SENTINEL_1 = Product({band: (band.lower(), band) for band in ("VV", "VH", "HH", "HV")})

PRODUCTS = {
    "sentinel-2-l2a": SENTINEL_2,
    "sentinel-2-c1-l2a": SENTINEL_2,
    "sentinel-1-rtc": SENTINEL_1,
}
"""Collections whose assets need not be described."""


def open_source(paths: Sequence[Path], spec: CubeSpec, files: ExitStack) -> Source | dict[str, Source]:
    """Search once and place what is found.

    Args:
        paths: exactly one YAML (see `query.Query`).
        spec: modalities, one layer of the YAML each.
        files: not used: scenes are opened block by block.

    Returns:
        One source, or one by cube name where the area is cut into cubes (those without a scene are left out).

    Raises:
        InputError: a wrong YAML, no server, no item, an item that lacks an asset.
    """
    if importlib.util.find_spec("pystac_client") is None:
        raise InputError(
            "stac: pystac-client is not installed, expected for searching; pip install 'skyframe-eo[ingest]'"
        )
    if len(paths) != 1:
        raise InputError(f"stac: got {len(paths)} sources, expected one YAML that says what to search; name one")
    path = paths[0]
    query = load_query(path, spec)
    grids = grids_of(query.area, spec, path)
    whole = cover(grids)
    items = find_items(query, path, degrees_of(whole))
    collections = []
    for name, layer in query.layers.items():
        product, modality = PRODUCTS.get(layer.collection, Product()), spec.modality(name)
        sampling = layer.sampling(product.mask if modality.units == "reflectance" else None)
        scenes = [_scene(item, modality, layer, product, sampling.mask, whole.crs) for item in items[name]]
        collections.append(Collected(modality, sampling, scenes))
    return place("stac", query, grids, collections)


def _scene(
    item: dict[str, Any], modality: Modality, layer: LayerQuery, product: Product, mask: Mask | None, crs: str
) -> Scene:
    properties = item["properties"]
    names = {band: band for band in modality.band_names} | ({MASK: mask.band} if mask else {})
    assets = {}
    for name, band in names.items():
        asset = _asset(item, band, layer, product, modality.name)
        declared = (asset.get("raster:bands") or asset.get("bands") or [{}])[0] | {
            key: asset[f"raster:{key}"] for key in ("scale", "offset") if f"raster:{key}" in asset
        }
        declared = {key.removeprefix("raster:"): value for key, value in declared.items()}
        scale, offset = 1.0, 0.0
        if name != MASK and modality.units != "class":
            scale, offset = scale_and_offset(item["id"], properties, declared, layer, band in product.optical)
        nodata = asset.get("nodata", declared.get("nodata", product.nodata))
        nodata = layer.nodata if layer.nodata is not None and name != MASK else nodata
        sign = layer.collection if layer.sign else ""
        assets[name] = Asset(asset["href"], 1, scale, offset, None if nodata is None else float(nodata), sign)
    track = (str(properties.get(k, "")) for k in ("platform", "sat:orbit_state", "sat:relative_orbit"))
    bounds, own_crs = _place(item, assets, crs)
    return Scene(item["id"], when_of(item), assets, bounds, own_crs, " ".join(track).strip(), baseline_of(properties))


def _asset(item: dict[str, Any], band: str, layer: LayerQuery, product: Product, where: str) -> dict[str, Any]:
    given: dict[str, dict[str, Any]] = item["assets"]
    keys = (layer.assets[band],) if band in layer.assets else product.assets.get(band, (band,))
    for key in keys:
        if key in given:
            return given[key]
    raise InputError(
        f"{item['id']}: {where} wants band {band} from asset {' or '.join(keys)}, the item has only "
        f"{', '.join(given)}{did_you_mean(keys[0], given) or '; name its asset'} under layers.{where}.assets"
    )


def _place(item: dict[str, Any], assets: Mapping[str, Asset], crs: str) -> tuple[Bounds, str]:
    """The item's rectangle in the target CRS, from its projected one where it tells that, and its own CRS."""
    from rasterio.warp import transform_bounds

    hrefs = {asset.href for asset in assets.values()}
    places = [item["properties"], *(a for a in item["assets"].values() if a["href"] in hrefs)]
    code = next(
        (p.get("proj:code") or p.get("proj:epsg") for p in places if p.get("proj:code") or p.get("proj:epsg")), ""
    )
    own = f"EPSG:{code}" if isinstance(code, int) else str(code)
    for said in places if own else ():
        if "proj:bbox" in said:
            return _bounds(transform_bounds(own, crs, *said["proj:bbox"])), own
        if "proj:transform" in said and "proj:shape" in said:
            a, _, left, _, e, top = said["proj:transform"][:6]
            rows, columns = said["proj:shape"]
            return _bounds(transform_bounds(own, crs, left, top + e * rows, left + a * columns, top)), own
    box = item["bbox"]
    west, south, east, north = (*box[:2], *box[3:5]) if len(box) == 6 else box
    return _bounds(transform_bounds("EPSG:4326", crs, west, south, east, north)), own


def _bounds(values: tuple[float, ...]) -> Bounds:
    left, bottom, right, top = (float(v) for v in values)
    return left, bottom, right, top
