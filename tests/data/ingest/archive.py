"""Scenes for `scene_server`: known values on both sides of a UTM seam, two processing baselines, a mask, radar."""

import json
import os
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds

from tests.data.ingest.scene_server import collection

TARGET = "EPSG:32631"
LEFT, TOP = 697_000.0, 5_600_000.0  # about 5.8 E, 50.5 N, near the seam of zones 31 and 32 at 6 E
PIXELS = 320


def write_tiff(path: Path, pixels, left=LEFT, top=TOP, gsd_m=10.0, crs=TARGET, nodata=None) -> Path:
    """A tiled GeoTIFF of one band, or of several where `pixels` has three axes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = pixels if pixels.ndim == 3 else pixels[None]
    profile = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype.name}
    tiles = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate", "nodata": nodata}
    with rasterio.open(
        path, "w", driver="GTiff", crs=crs, transform=from_origin(left, top, gsd_m, gsd_m), **profile, **tiles
    ) as out:
        out.write(bands)
    return path


def item(name, when, collection, hrefs, crs=TARGET, box=(LEFT, TOP - 3200, LEFT + 3200, TOP), **properties):
    """A STAC item whose pixels fill `box` of `crs`; assets by key, each an address or a whole asset."""
    west, south, east, north = transform_bounds(crs, "EPSG:4326", *box)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": collection,
        "bbox": [west, south, east, north],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"datetime": when, "proj:epsg": int(crs.split(":")[1]), "proj:bbox": list(box)} | properties,
        "assets": {key: value if isinstance(value, dict) else {"href": value} for key, value in hrefs.items()},
        "links": [],
    }


def optical(folder: Path, host: str, name, when, values, scene_class=4, crs=TARGET, left=LEFT, rows=PIXELS, **more):
    """A Sentinel-2 item of B04 (10 m), B11 (20 m) and SCL (20 m), each one value or an array."""
    paths = {}
    for band, value, gsd_m in (("B04", values[0], 10.0), ("B11", values[1], 20.0), ("SCL", scene_class, 20.0)):
        side = round(rows * 10 / gsd_m)
        pixels = np.broadcast_to(np.asarray(value), (side, side)).astype(np.uint8 if band == "SCL" else np.uint16)
        write_tiff(folder / name / f"{band}.tif", pixels, left, TOP, gsd_m, crs, nodata=0)
        paths[band] = f"{host}/{name}/{band}.tif"
    properties = {"platform": "sentinel-2a", "sat:relative_orbit": 51, "eo:cloud_cover": 10.0} | more
    size = rows * 10
    return item(name, when, "sentinel-2-l2a", paths, crs, (left, TOP - size, left + size, TOP), **properties)


def radar(folder: Path, host: str, name, when, power, orbit="ascending"):
    """A Sentinel-1 RTC item of linear gamma0, VV and a tenth of it in VH."""
    paths = {}
    for band, value in (("vv", power), ("vh", np.asarray(power) / 10)):
        pixels = np.broadcast_to(np.asarray(value), (PIXELS, PIXELS)).astype(np.float32)
        write_tiff(folder / name / f"{band}.tif", pixels, nodata=-32768)
        paths[band] = f"{host}/{name}/{band}.tif"
    return item(name, when, "sentinel-1-rtc", paths, platform="SENTINEL-1A", **{"sat:orbit_state": orbit})


@contextmanager
def serve(folder: Path):
    """The address of a server process over a folder."""
    command = [sys.executable, "-m", "tests.data.ingest.scene_server", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def ask(address: str):
    """JSON from a server."""
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.load(answer)


def static_catalogue(folder: Path, items) -> Path:
    """A catalogue of plain files: catalog.json, a collection each, items beside them with relative addresses."""
    names = sorted({i["collection"] for i in items})
    for name in names:
        own = [i for i in items if i["collection"] == name]
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in own:
            assets = {k: a | {"href": f"../{a['href'].split('/', 3)[3]}"} for k, a in i["assets"].items()}
            (folder / name / f"{i['id']}.json").write_text(json.dumps(i | {"assets": assets}))
        links = [{"rel": "item", "href": f"./{i['id']}.json"} for i in own]
        (folder / name / "collection.json").write_text(json.dumps(collection(name, ".") | {"links": links}))
    links = [{"rel": "child", "href": f"./{name}/collection.json"} for name in names]
    root = {"type": "Catalog", "id": "files", "stac_version": "1.0.0", "description": "files", "links": links}
    (folder / "catalog.json").write_text(json.dumps(root))
    return folder / "catalog.json"


def search_words(place, url="archive/catalog.json", layer="", area="bbox: [5.7, 50.4, 5.9, 50.6]", crs=TARGET):
    """Words that ingest one item of a static catalogue of files, some words of whose query are changed."""
    found = item("scene", "2021-06-01T10:40:00Z", "sentinel-2-l2a", {"red": "http://nowhere/red.tif"})
    (place.here / "archive").mkdir()
    static_catalogue(place.here / "archive", [found])
    text = f"url: {url}\narea: {{crs: '{crs}', {area}}}\ndatetime: 2021-01-01/2021-12-31\n"
    (place.here / "q.yaml").write_text(text + f"layers: {{s2: {{collection: sentinel-2-l2a, {layer}}}}}\n")
    spec = {"kind": "series", "gsd_m": 10, "units": "reflectance", "dtype": "uint16", "bands": [{"name": "B02"}]}
    (place.here / "spec.yaml").write_text(json.dumps({"name": "a", "description": "a", "modalities": {"s2": spec}}))
    return ["ingest", "stac", "q.yaml", "out.zarr", "--spec", "spec.yaml"]


WRONG_SEARCHES = [
    (
        "typo in a search",
        lambda p: search_words(p, layer="max_clouds: 9"),
        "unknown key 'max_clouds'; did you mean 'max_",
    ),
    ("search that finds nothing", lambda p: search_words(p, area="bbox: [1, 1, 2, 2]"), "finds no item of sentinel-2"),
    (
        "item without an asset",
        lambda p: search_words(p),
        "band B02 from asset B02 or blue or B02_10m, the item has only red",
    ),
    ("search in degrees", lambda p: search_words(p, crs="EPSG:4326"), "'EPSG:4326' is not projected"),
    (
        "server that is not there",
        lambda p: search_words(p, "http://127.0.0.1:9/v1"),
        "does not answer as a STAC catalogue",
    ),
    ("search that is not there", lambda p: ["ingest", "stac", "q.yaml", "out.zarr"], "q.yaml: no such file"),
    ("part that is none", lambda p: [*search_words(p), "--part", "3/2"], "--part: got '3/2', expected K/N"),
]
"""Rows of the table of wrong inputs to the command line: name, words, what the one sentence says."""
