"""Finding STAC items: a search of an API page by page, a walk through a static catalogue, or a kept list."""

from __future__ import annotations

import json
import os
import uuid
import warnings
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyframe.data.ingest.query import LayerQuery, Query, period
from skyframe.data.ingest.scenes import Bounds, touches
from skyframe.spec import InputError, did_you_mean

if TYPE_CHECKING:
    from pystac import Item

TIMEOUT_S = 60.0
RETRIES = 4
"""Tries of one request after the first, with growing waits."""

PAGE = 200

Items = dict[str, list[dict[str, Any]]]
"""Items by layer, as plain JSON in the order of time and id."""


def find_items(query: Query, path: Path, degrees: Bounds) -> Items:
    """The items of every layer, by search or from the file that keeps them.

    Args:
        query: the YAML.
        path: its place: relative addresses start there.
        degrees: west, south, east, north of the area.

    Raises:
        InputError: no server, no collection, nothing found, or a kept list that lacks a layer.
    """
    kept = path.parent / query.items if query.items else None
    asked = {
        "area": [round(v, 6) for v in degrees],
        "datetime": query.datetime,
        "layers": {n: [q.url or query.url, q.collection, q.max_cloud, q.filter] for n, q in query.layers.items()},
    }
    if kept is not None and kept.is_file():
        return _kept(kept, asked, path)
    found = {name: _search(query, layer, path, degrees, name) for name, layer in query.layers.items()}
    if kept is not None:
        temporary = kept.with_name(f"{kept.name}.{uuid.uuid4().hex}.tmp")
        temporary.write_text(json.dumps({"search": asked, "items": found}), encoding="utf-8")
        os.replace(temporary, kept)
    return found


def _kept(kept: Path, asked: dict[str, Any], path: Path) -> Items:
    try:
        tree = json.loads(kept.read_text(encoding="utf-8"))
        different = [key for key, value in asked.items() if tree["search"][key] != value]
        found: Items = tree["items"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path.name}: items {kept} is no list that a search wrote, expected one; delete it to search again"
        ) from error
    if different:
        raise InputError(
            f"{path.name}: items {kept} was searched with another {' and '.join(different)}, expected the query's own; "
            "name another file or delete it to search again"
        )
    return found


def _search(query: Query, layer: LayerQuery, path: Path, degrees: Bounds, name: str) -> list[dict[str, Any]]:
    from pystac.errors import STACError
    from pystac_client.exceptions import APIError
    from requests.exceptions import RequestException

    url = layer.url or query.url
    if not url or not layer.collection:
        raise InputError(
            f"{path.name}: layers.{name} has url {url!r} and collection {layer.collection!r}, expected both; name the "
            "STAC server and its collection"
        )
    address = url if "://" in url else str(path.parent / url)
    first, last = period(query.datetime, path.name)
    try:
        items = _items(address, layer.collection, degrees, first, last, path.name)
        found = [item for item in items if fits(item, layer, degrees, first, last)]
    except (APIError, RequestException, STACError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        said = " ".join(str(error).split())[:300]
        raise InputError(
            f"{path.name}: {url} does not answer as a STAC catalogue ({said}), expected an API or a static catalogue; "
            "check url and network, then start again"
        ) from error
    if not found:
        raise InputError(
            f"{path.name}: layers.{name} finds no item of {layer.collection} at {url} between {first:%Y-%m-%d} and "
            f"{last:%Y-%m-%d} in {', '.join(f'{v:.4f}' for v in degrees)} (west, south, east, north) with its filters, "
            "expected at least one; widen area, datetime, max_cloud or filter"
        )
    by_id = {str(item["id"]): item for item in found}
    return [by_id[i] for i in sorted(by_id, key=lambda i: (when_of(by_id[i]), i))]


def _items(
    address: str, collection: str, degrees: Bounds, first: datetime, last: datetime, where: str
) -> list[dict[str, Any]]:
    from pystac_client import Client, ConformanceClasses
    from pystac_client.stac_api_io import StacApiIO
    from pystac_client.warnings import PystacClientWarning
    from urllib3.util import Retry

    retry = Retry(
        RETRIES, connect=2, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PystacClientWarning)  # a static catalogue says nothing of conformance
        client = Client.open(address, stac_io=StacApiIO(max_retries=retry, timeout=TIMEOUT_S))
        if client.conforms_to(ConformanceClasses.ITEM_SEARCH):
            _check_collection(collection, [c.id for c in client.get_collections()], address, where)
            search = client.search(collections=[collection], bbox=degrees, datetime=(first, last), limit=PAGE)
            return list(search.items_as_dicts())
        children = {child.id: child for child in client.get_children()}
        _check_collection(collection, list(children), address, where)
        return list(_plain(children[collection].get_items(recursive=True)))


def _check_collection(collection: str, known: list[str], address: str, where: str) -> None:
    if collection not in known:
        raise InputError(
            f"{where}: {address} has no collection {collection!r}, only {', '.join(sorted(known)[:20]) or 'none'}"
            f"{did_you_mean(collection, known) or '; correct it'}"
        )


def _plain(items: Iterable[Item]) -> Iterator[dict[str, Any]]:
    """Items with absolute addresses: a static catalogue's are relative to the item."""
    for item in items:
        item.make_asset_hrefs_absolute()
        yield item.to_dict(include_self_link=False, transform_hrefs=False)


def fits(item: dict[str, Any], layer: LayerQuery, degrees: Bounds, first: datetime, last: datetime) -> bool:
    """Filters that not every server knows are applied here, so that all of them give the same items."""
    properties = item["properties"]
    box = item["bbox"]
    west, south, east, north = (*box[:2], *box[3:5]) if len(box) == 6 else box
    if west > east:  # across the antimeridian
        west, east = -180.0, 180.0
    if not touches((west, south, east, north), degrees) or not first <= when_of(item) < last:
        return False
    if layer.max_cloud is not None:
        if "eo:cloud_cover" not in properties:
            raise InputError(
                f"{item['id']}: has no eo:cloud_cover, expected one as {layer.collection} is filtered by max_cloud; "
                "take max_cloud out"
            )
        if properties["eo:cloud_cover"] > layer.max_cloud:
            return False
    return all(properties.get(key) == value for key, value in layer.filter.items())


def when_of(item: dict[str, Any]) -> datetime:
    """Sensing time of an item, UTC; its start where it spans a time."""
    properties = item["properties"]
    text = properties.get("datetime") or properties["start_datetime"]
    when = datetime.fromisoformat(text)
    return when if when.tzinfo else when.replace(tzinfo=UTC)
