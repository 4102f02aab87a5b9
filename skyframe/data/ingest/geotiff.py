"""Folders of dated GeoTIFF scenes, one file per band or one per scene, whose names follow a pattern."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from skyframe.data.ingest.placed import Collected, place
from skyframe.data.ingest.query import LayerQuery, Query, cover, grids_of, load_query, period
from skyframe.data.ingest.scenes import MASK, Asset, Bounds, Scene
from skyframe.data.ingest.source import Source, check_file
from skyframe.spec import CubeSpec, InputError, Modality, did_you_mean

MAGICS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
"""TIFF and BigTIFF, either byte order."""

FIELDS = {"date": r"\d{4}-?\d{2}-?\d{2}(?:T\d{6})?", "band": "[^/]+?", "track": "[^/]+?"}
"""What a pattern may name. `{date}` is YYYYMMDD or YYYY-MM-DD, with a time THHMMSS (UTC) where there is one; files of
one date and one `{track}` are one date of the cube. `*` stands for anything within a name, `?` for one character."""


def open_source(paths: Sequence[Path], spec: CubeSpec, files: ExitStack) -> Source | dict[str, Source]:
    """Look at the folder and place its scenes.

    Args:
        paths: exactly one YAML (see `query.Query`) with `folder` and `pattern`.
        spec: modalities, one layer of the YAML each.
        files: not used: scenes are opened block by block.

    Raises:
        InputError: a wrong YAML or pattern, no file, a scene without one of its bands, a file that is no GeoTIFF.
    """
    if len(paths) != 1:
        raise InputError(f"geotiff: got {len(paths)} sources, expected one YAML that describes the folder; name one")
    path = paths[0]
    query = load_query(path, spec)
    grids = grids_of(query.area, spec, path)
    crs = cover(grids).crs
    found = list_files(query, path)
    places = {scene: _place(next(iter(bands.values())), crs) for scene, bands in found.items()}
    collections = []
    for layer_name, layer in query.layers.items():
        modality, sampling = spec.modality(layer_name), layer.sampling(None)
        wanted = {band: layer.assets.get(band, band) for band in modality.band_names}
        wanted |= {MASK: sampling.mask.band} if sampling.mask else {}
        scenes = [
            Scene(name, when, _assets(bands, wanted, layer, modality, name), *places[track, when, name], track)
            for (track, when, name), bands in found.items()
        ]
        collections.append(Collected(modality, sampling, scenes))
    return place("geotiff", query, grids, collections)


Key = tuple[str, datetime, str]
"""Track, time, and the file name without its band: what makes files one scene."""


def list_files(query: Query, path: Path) -> dict[Key, dict[str, Path]]:
    """Files by scene and band, in the order of their names; the one file of a scene has the band "".

    Raises:
        InputError: no folder, a pattern without a date or with an unknown field, nothing that follows it in the time.
    """
    folder = path.parent / query.folder
    if not query.folder or not folder.is_dir():
        raise InputError(f"{path.name}: folder {query.folder!r} is not there, expected the scenes' folder; correct it")
    expression = pattern_of(query.pattern, path.name)
    first, last = period(query.datetime, path.name)
    found: dict[Key, dict[str, Path]] = {}
    for file in sorted(folder.glob(re.sub(r"\{\w+\}", "*", query.pattern))):
        name = file.relative_to(folder).as_posix()
        match = expression.fullmatch(name)
        if match is None:
            continue
        parts = match.groupdict()
        when = datetime.fromisoformat(parts["date"]).replace(tzinfo=UTC)
        if first <= when < last:
            rest = name if "band" not in parts else name[: match.start("band")] + name[match.end("band") :]
            found.setdefault((parts.get("track", ""), when, rest), {})[parts.get("band", "")] = file
    if not found:
        raise InputError(
            f"{path.name}: no file under {folder} follows {query.pattern!r} between {first:%Y-%m-%d} and "
            f"{last:%Y-%m-%d}, expected dated scenes; correct pattern or datetime"
        )
    return found


def pattern_of(pattern: str, where: str) -> re.Pattern[str]:
    """A pattern as a regular expression over paths relative to the folder.

    Raises:
        InputError: no `{date}`, or a field that is not known.
    """
    parts = re.split(r"(\{\w*\}|\*|\?)", pattern)
    unknown = [part for part in parts if part.startswith("{") and part.strip("{}") not in FIELDS]
    if unknown or "{date}" not in parts:
        raise InputError(
            f"{where}: pattern {pattern!r} {f'names {unknown[0]}' if unknown else 'has no {date}'}, expected {{date}} "
            f"and, where there are any, {{band}} and {{track}}{did_you_mean(unknown[0], FIELDS) if unknown else ''}; "
            "correct it"
        )
    text = ""
    for part in parts:
        name = part.strip("{}")
        if part.startswith("{"):
            text += f"(?P={name})" if f"(?P<{name}>" in text else f"(?P<{name}>{FIELDS[name]})"
        else:
            text += {"*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
    return re.compile(text)


def _assets(
    bands: Mapping[str, Path], wanted: Mapping[str, str], layer: LayerQuery, modality: Modality, where: str
) -> dict[str, Asset]:
    assets = {}
    for name, key in wanted.items():
        nodata = None if name == MASK else layer.nodata
        scaled = (1.0, 0.0)
        if name != MASK:
            scaled = (1.0 if layer.scale is None else layer.scale, layer.offset or 0.0)
        if "" in bands:
            if not key.isdigit():
                raise InputError(
                    f"{where}: {modality.name} takes {key!r} from a file of many bands, expected the number of a band "
                    f"from 1; give it under layers.{modality.name}.assets"
                )
            assets[name] = Asset(str(bands[""]), int(key), *scaled, nodata)
            continue
        if key not in bands:
            raise InputError(
                f"{where}: {modality.name} wants band {key}, the scene has only {', '.join(bands)}"
                f"{did_you_mean(key, bands) or f'; fetch it, or name another under layers.{modality.name}.assets'}"
            )
        assets[name] = Asset(str(bands[key]), 1, *scaled, nodata)
    return assets


def _place(file: Path, crs: str) -> tuple[Bounds, str]:
    """A file's rectangle in the target CRS, and its own CRS."""
    import rasterio
    from rasterio.errors import RasterioError
    from rasterio.warp import transform_bounds

    check_file(file, MAGICS, "GeoTIFF")
    try:
        with rasterio.open(file) as opened:
            own, bounds = opened.crs, opened.bounds
    except RasterioError as error:
        said = " ".join(str(error).split())
        raise InputError(f"{file.name}: cannot be read as GeoTIFF ({said}); fetch it again") from error
    if own is None:
        raise InputError(f"{file.name}: has no CRS, so the place is unknown; add it with gdal_edit -a_srs")
    left, bottom, right, top = (float(v) for v in transform_bounds(own, crs, *bounds))
    code = own.to_epsg()
    return (left, bottom, right, top), f"EPSG:{code}" if code else ""
