"""Scenes of every modality placed on one grid, or on each of several: what `ingest` writes cubes from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyframe.data.cube import partial_path
from skyframe.data.ingest.query import Query
from skyframe.data.ingest.scenes import Sampling, Scene, bounds_of, passes, scene_layer, touches
from skyframe.data.ingest.source import Layer, Source
from skyframe.data.write import DESCRIPTION
from skyframe.spec import Grid, InputError, Modality


@dataclass(frozen=True)
class Collected:
    """All scenes found for one modality and how they become its pixels."""

    modality: Modality
    sampling: Sampling
    scenes: Sequence[Scene]


def place(
    kind: str, query: Query, grids: Mapping[str, Grid], collections: Sequence[Collected]
) -> Source | dict[str, Source]:
    """The source of the one grid called "", or sources by cube name.

    Several cubes leave out modalities, and cubes, that no scene touches; the one cube must have all it was asked for.

    Raises:
        InputError: no scene of a modality touches the one grid, or none any of several.
    """
    found = {}
    for cube, grid in grids.items():
        box = bounds_of(grid)
        near = [dataclasses.replace(c, scenes=[s for s in c.scenes if touches(s.bounds_m, box)]) for c in collections]
        for part in near if not cube else ():
            if not part.scenes:
                raise InputError(
                    f"{part.modality.name}: no scene touches the area, left {box[0]:.0f}, bottom {box[1]:.0f}, right "
                    f"{box[2]:.0f}, top {box[3]:.0f} in {grid.crs}, expected at least one; check area and crs"
                )
        if any(part.scenes for part in near):
            found[cube] = _source(kind, query, grid, [part for part in near if part.scenes])
    if not found:
        raise InputError(
            f"{kind}: no scene touches any of {len(grids)} cubes, expected at least one; check area and crs"
        )
    return found.get("", found)


def _source(kind: str, query: Query, grid: Grid, near: Sequence[Collected]) -> Source:
    layers: list[Layer] = []
    dates: dict[str, Any] = {}
    for part in near:
        groups = passes(part.scenes, grid.crs)
        layers.append(scene_layer(part.modality, grid, groups, part.sampling, query.memory_mb, query.threads))
        dates[part.modality.name] = [{"track": g[0].track, "scenes": [s.id for s in g]} for g in groups]
    about = {
        "kind": kind,
        "scenes_sha256": scenes_digest([scene for part in near for scene in part.scenes]),
        "sampling": {part.modality.name: dataclasses.asdict(part.sampling) for part in near},
        "dates": dates,
    }
    return Source(grid, tuple(layers), about)


def scenes_digest(scenes: Sequence[Scene]) -> str:
    """SHA-256 of what decides on scenes' pixels: ids, times, addresses without signatures, scales and offsets."""
    plain = [
        [s.id, s.when.isoformat(), s.baseline]
        + [[name, a.href.split("?")[0], a.band, a.scale, a.offset, a.nodata] for name, a in s.assets.items()]
        for s in scenes
    ]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def check_restart(cube: Path, about: Mapping[str, Any]) -> None:
    """Refuse to continue an unfinished cube on other scenes than it was begun with, naming what came and went.

    Raises:
        InputError: the list of scenes, or anything that decides on their pixels, is another one.
    """
    file = partial_path(cube) / DESCRIPTION
    if "scenes_sha256" not in about or not file.is_file():
        return
    before = json.loads(file.read_text(encoding="utf-8"))["source"]
    if before.get("scenes_sha256") == about["scenes_sha256"]:
        return
    then, now = ({s for m in a.get("dates", {}).values() for g in m for s in g["scenes"]} for a in (before, about))
    changes = [
        f"{len(ids)} {word} ({', '.join(sorted(ids)[:3])}{', ...' if len(ids) > 3 else ''})"
        for word, ids in (("new", now - then), ("gone", then - now))
        if ids
    ]
    raise InputError(
        f"{partial_path(cube)}: was begun with {len(then)} scenes, now there are {len(now)}: "
        f"{', '.join(changes) or 'the same ids at other addresses or with other offsets'}; delete that folder to start "
        "again, and keep the list by `items: FILE` in the query so that it does not change under way"
    )
