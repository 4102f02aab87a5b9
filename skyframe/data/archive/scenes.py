"""Lists of COGs: a STAC ItemCollection, a static STAC catalogue, or a Parquet table of paths."""

from __future__ import annotations

import io
import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from skyframe.calendar import day_of
from skyframe.data.archive.geotiff import Frame
from skyframe.data.store import Store, open_store
from skyframe.spec import InputError

COLUMNS = ("path", "band", "datetime")


@dataclass(frozen=True)
class Asset:
    """A file of a scene: its key, and what the list says of its grid and of its scale and offset."""

    key: str
    frame: Frame | None = None
    scaling: tuple[float, float] | None = None


@dataclass(frozen=True)
class Scene:
    """One acquisition: its time, and its files by asset."""

    when: datetime
    name: str
    assets: dict[str, Asset]

    @property
    def day(self) -> int:
        """Days since 2000-01-01."""
        return day_of(self.when.date())


def read_scenes(place: str) -> tuple[Store, list[Scene]]:
    """The scenes of a list in order of time, and the store that holds their files.

    Args:
        place: path or address of a STAC JSON file or a Parquet table; files are named from where it lies.

    Raises:
        InputError: no such list, not one of these forms, files on several servers, or a band twice on one time.
    """
    folder, name = posixpath.split(place)
    store = open_store(folder or ".")
    try:
        content = store.read(name)
    except FileNotFoundError as error:
        raise InputError(f"{place}: no such file, expected a list of scenes (STAC JSON or Parquet)") from error
    if content[:4] == b"PAR1":
        scenes = list(_from_table(content, place))
    else:
        scenes = [_scene(item, base, place) for item, base in _items(store, name, content, place)]
    if not scenes:
        raise InputError(f"{place}: lists no scenes, expected one at least; check how it was made")
    scenes.sort(key=lambda scene: (scene.when, scene.name))
    return _one_store(store, scenes, place)


def _items(store: Store, key: str, content: bytes, place: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Items of a STAC file, and of those that it links to, each with the folder that its links start from."""
    try:
        tree = json.loads(content)
        kind = tree["type"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{place}: {key} is neither Parquet nor STAC JSON, expected an ItemCollection or a static catalogue"
        ) from error
    base = posixpath.dirname(key)
    if kind == "FeatureCollection":
        yield from ((item, base) for item in tree["features"])
    elif kind == "Feature":
        yield tree, base
    else:
        for link in tree.get("links", []):
            if link.get("rel") in ("item", "child", "items"):
                linked = _key(link["href"], base)
                try:
                    content = store.read(linked)
                except FileNotFoundError as error:
                    raise InputError(f"{place}: links to {linked}, which is not there; repair the catalogue") from error
                yield from _items(store, linked, content, place)


def _scene(item: Mapping[str, Any], base: str, place: str) -> Scene:
    properties = item.get("properties", {})
    stamp = properties.get("datetime") or properties.get("start_datetime")
    try:
        when = datetime.fromisoformat(str(stamp)).replace(tzinfo=None)
        assets = {
            name: Asset(_key(asset["href"], base), _frame(asset, properties), _scaling(asset))
            for name, asset in item["assets"].items()
        }
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{place}: item {item.get('id')!r} has datetime {stamp!r} and assets "
            f"{', '.join(item.get('assets', {}))}, expected an ISO datetime and assets with href; repair it"
        ) from error
    return Scene(when, str(item.get("id")), assets)


def _frame(asset: Mapping[str, Any], properties: Mapping[str, Any]) -> Frame | None:
    """The grid of an asset by the projection extension, None where it does not say all of it itself."""
    transform, shape = asset.get("proj:transform"), asset.get("proj:shape")
    code = next((tree[k] for tree in (asset, properties) for k in ("proj:code", "proj:epsg") if tree.get(k)), None)
    if not transform or not shape or code is None or transform[1] or transform[3]:
        return None
    crs = f"EPSG:{code}" if isinstance(code, int) else str(code)
    corner = float(transform[2]), float(transform[0]), float(transform[5]), float(transform[4])
    return Frame((int(shape[0]), int(shape[1])), corner, crs)


def _scaling(asset: Mapping[str, Any]) -> tuple[float, float] | None:
    """Scale and offset by the raster extension, None where it does not say."""
    tree: Mapping[str, Any] = next(iter(asset.get("raster:bands") or asset.get("bands") or []), {})
    scale, offset = (
        tree.get(key, tree.get(f"raster:{key}", asset.get(f"raster:{key}"))) for key in ("scale", "offset")
    )
    return None if scale is None and offset is None else (float(1 if scale is None else scale), float(offset or 0))


def _from_table(content: bytes, place: str) -> Iterator[Scene]:
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(content))
    lacking = [name for name in COLUMNS if name not in table.column_names]
    if lacking:
        raise InputError(
            f"{place}: has columns {', '.join(table.column_names)}, expected {', '.join(COLUMNS)}; add "
            f"{', '.join(lacking)}"
        )
    scenes: dict[datetime, dict[str, Asset]] = {}
    for path, band, stamp in zip(*(table.column(name).to_pylist() for name in COLUMNS), strict=True):
        try:
            when = stamp if isinstance(stamp, datetime) else datetime.fromisoformat(str(stamp))
        except ValueError as error:
            raise InputError(f"{place}: datetime {stamp!r} of {path}, expected an ISO datetime; correct it") from error
        assets = scenes.setdefault(when.replace(tzinfo=None), {})
        if band in assets:
            raise InputError(
                f"{place}: band {band} is listed twice at {when} ({assets[band].key}, {path}), expected one file; give "
                "tiles of other grids an archive of their own"
            )
        assets[str(band)] = Asset(_key(str(path), ""))
    for when, assets in scenes.items():
        yield Scene(when, str(when), assets)


def _key(href: str, base: str) -> str:
    """A link as a key from the list's folder; addresses and absolute paths stay as they are."""
    return href if "://" in href or href.startswith("/") else posixpath.normpath(posixpath.join(base, href))


def _one_store(store: Store, scenes: list[Scene], place: str) -> tuple[Store, list[Scene]]:
    """Files that are named by address come from the server in that address, which must be one for all."""
    keys = [asset.key for scene in scenes for asset in scene.assets.values()]
    roots = {"/".join(key.split("/", 3)[:3]) if "://" in key else "" for key in keys}
    if roots == {""}:
        return store, scenes
    if len(roots) > 1:
        raise InputError(
            f"{place}: names files on {', '.join(sorted(roots))}, expected one server for all; split the list"
        )
    root = roots.pop()
    shortened = [
        replace(s, assets={name: replace(asset, key=asset.key[len(root) + 1 :]) for name, asset in s.assets.items()})
        for s in scenes
    ]
    return open_store(root), shortened


def days_of(scenes: list[Scene]) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Days of scenes `[T]`."""
    return np.array([scene.day for scene in scenes], np.int32)
