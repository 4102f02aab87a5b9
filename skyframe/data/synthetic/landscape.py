"""The land of a frame: units of uniform use (field, wood, built-up plot, water), and what covers part of a pixel."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import fields as fields_of

import numpy as np
from numpy.typing import NDArray

from skyframe.data.synthetic.noise import Doubles, Floats, Hashes, fractal, fractal_at, hashed, uniform, value_noise
from skyframe.data.synthetic.objects import buildings
from skyframe.data.synthetic.parcels import Parcels, parcels
from skyframe.data.synthetic.settlement import road_distance, roads, street_distance, town_depth, towns
from skyframe.data.synthetic.terrain import Terrain, elevation_at, river_distance_at, terrain
from skyframe.data.synthetic.world import Frame, World

LAND_COVER = ("water", "forest_deciduous", "forest_conifer", "grassland", "cropland", "town", "bare")
WATER, DECIDUOUS, CONIFER, GRASS, CROP, TOWN, BARE = range(7)
_FIELD, _BUILT, _WET = range(3)
"""Layers of a unit: a parcel that reaches into a town or a lake is another unit there."""


@dataclass(frozen=True)
class Units:
    """One row per unit, the same numbers in every frame that shows it."""

    hashes: Hashes
    kind: NDArray[np.int64]  # index into LAND_COVER
    y_m: Doubles
    x_m: Doubles
    angle: Floats  # direction of rows, radians
    elevation_m: Floats
    dark_soil: Floats  # 0 = bright loess or sand, 1 = dark humus


@dataclass(frozen=True)
class Land:
    """The static land of a frame."""

    frame: Frame
    units: Units
    unit: NDArray[np.int32]  # [H, W] row of `units`
    terrain: Terrain
    edge_m: Floats  # [H, W] metres to the unit's field edge
    tract_edge_m: Floats  # [H, W] metres to the tract's edge
    street_m: Floats  # [H, W] metres to the street line, large outside towns
    road_m: Floats  # [H, W] metres to the edge of a road, negative on it
    hedge: NDArray[np.bool_]  # [H, W] the nearest tract edge carries a hedge, else a track

    @property
    def kind(self) -> NDArray[np.int64]:
        """Land cover `[H, W]`."""
        return self.units.kind[self.unit]


@dataclass(frozen=True)
class Cover:
    """Share of each pixel under static things, float32 `[H, W]`; the rest belongs to the unit's plants and soil."""

    asphalt: Floats
    roof: Floats
    gravel: Floats
    water: Floats
    tree: Floats  # hedges and garden trees: deciduous
    vigour: Floats  # growth relative to the unit's mean
    dark_soil: Floats  # departure from the unit's soil colour


def land(world: World, frame: Frame) -> Land:
    """Lay out a frame: the same place is the same in every frame and at every resolution."""
    fields, relief, places = parcels(world, frame), terrain(world, frame), towns(world, frame)
    depth, which = town_depth(world, frame, places)
    built = depth > 0
    wet = (relief.river_m < relief.river_half_m) | (relief.lake > 0)
    layer = np.where(wet, _WET, np.where(built, _BUILT, _FIELD))
    code = fields.code * 3 + layer
    present = np.zeros(3 * len(fields.hashes), bool)
    present[code] = True
    row = np.cumsum(present, dtype=np.int32) - 1
    used = np.flatnonzero(present)
    hedge_share = 0.40 if world.climate == "oceanic" else 0.15
    hedge = (uniform(fields.tract, "hedge") < hedge_share)[fields.code] & ~built
    return Land(
        frame=frame,
        units=_units(world, fields, used),
        unit=row[code].astype(np.int32),
        terrain=relief,
        edge_m=fields.edge_m,
        tract_edge_m=fields.tract_edge_m,
        street_m=street_distance(frame, places, which, depth),
        road_m=road_distance(frame, roads(world, frame)),
        hedge=hedge,
    )


def joined(parts: list[Land]) -> tuple[Units, list[NDArray[np.int32]]]:
    """One table of the units of several frames, and each frame's `unit` map in rows of that table."""
    columns = {f.name: np.concatenate([getattr(p.units, f.name) for p in parts]) for f in fields_of(Units)}
    _, first, row = np.unique(columns["hashes"], return_index=True, return_inverse=True)
    ends = np.cumsum([len(p.units.hashes) for p in parts])[:-1]
    maps = [r.astype(np.int32)[p.unit] for p, r in zip(parts, np.split(row.ravel(), ends), strict=True)]
    return Units(**{name: column[first] for name, column in columns.items()}), maps


def _units(world: World, fields: Parcels, used: NDArray[np.int64]) -> Units:
    parcel, layer = used // 3, used % 3
    y, x = fields.y_m[parcel], fields.x_m[parcel]
    hashes = hashed(fields.hashes[parcel], layer)
    kind = np.where(layer == _WET, WATER, np.where(layer == _BUILT, TOWN, _land_use(world, fields)[parcel]))
    soil = 0.45 + 0.22 * fractal_at(world.key("soil"), y, x, 3000.0, 3) + 0.10 * (uniform(hashes, "soil") - 0.5)
    return Units(
        hashes=hashes,
        kind=kind,
        y_m=y,
        x_m=x,
        angle=fields.angle[parcel],
        elevation_m=elevation_at(world, y, x),
        dark_soil=np.clip(soil, 0.0, 1.0).astype(np.float32),
    )


def _land_use(world: World, fields: Parcels) -> NDArray[np.int64]:
    """Use of each field, decided at its centre: woods on high ground, grass in valleys, else crops."""
    y, x = fields.y_m, fields.x_m
    river = river_distance_at(world, y, x)
    relief = (elevation_at(world, y, x) - 160.0) / np.float32(60.0)
    chance, other = uniform(fields.hashes, "use"), uniform(fields.hashes, "other")
    wood = fractal_at(world.key("wood"), y, x, 2600.0, 3, 0.6) + np.float32(0.35) * relief + (chance - 0.5) * 0.5
    species = fractal_at(world.key("species"), y, x, 1900.0, 2) + (other - 0.5) * 0.9
    conifer = species > (0.25 if world.climate == "oceanic" else 0.05)
    wet_meadow = np.exp(-river / np.float32(260.0)) * 0.9
    grass = chance < 0.10 + wet_meadow + np.clip(relief - 0.9, 0.0, 0.5)
    bare = (other < 0.012) | ((river < 700.0) & (other < 0.05))
    use = np.where(grass, GRASS, CROP)
    use = np.where(bare, BARE, use)
    return np.where(wood > 1.05, np.where(conifer, CONIFER, DECIDUOUS), use).astype(np.int64)


def cover(world: World, ground: Land) -> Cover:
    """Shares of the pixels of a frame of 10 m under roads, roofs, tracks, water and trees, and growth within units."""
    frame, gsd = ground.frame, np.float32(ground.frame.gsd_m)
    kind = ground.kind
    town, water, wood = kind == TOWN, kind == WATER, (kind == DECIDUOUS) | (kind == CONIFER)
    roof = np.where(water, 0.0, _roofs(world, frame)).astype(np.float32)
    street = np.where(town, _share(np.float32(3.5) - ground.street_m, gsd, 7.0), 0.0)
    paved = np.where(town, 0.10 + 0.12 * value_noise(world.key("paved"), frame.ys, frame.xs, 90.0), 0.0)
    asphalt = np.maximum(np.clip(street + np.maximum(paved, 0.0), 0.0, 1.0), _share(-ground.road_m, gsd, 9.0))
    asphalt = np.minimum(asphalt, 1.0 - roof)
    margin = ~(town | water | wood)
    hedge = np.where(margin & ground.hedge, _share(np.float32(3.5) - ground.tract_edge_m, gsd, 7.0), 0.0)
    track = np.where(margin & ~ground.hedge, _share(np.float32(1.6) - ground.tract_edge_m, gsd, 3.2), 0.0)
    garden = np.where(town, 0.28 + 0.15 * value_noise(world.key("garden"), frame.ys, frame.xs, 45.0), 0.0)
    rest = 1.0 - asphalt - roof
    growth = 0.75 * fractal(world.key("vigour"), frame.ys, frame.xs, 140.0, 3, 0.7)
    tone = fractal(world.key("tone"), frame.ys, frame.xs, 320.0, 4, 0.7)
    return Cover(
        asphalt=asphalt.astype(np.float32),
        roof=roof,
        gravel=(rest * track).astype(np.float32),
        water=np.where(water, rest, 0.0).astype(np.float32),
        tree=(rest * np.clip(hedge + garden, 0.0, 0.9)).astype(np.float32),
        vigour=np.exp(np.float32(0.24) * growth),
        dark_soil=(np.float32(0.10) * tone).astype(np.float32),
    )


def _share(inside_m: Floats, gsd_m: np.float32, width_m: float) -> Floats:
    """Share of a pixel under a line `width_m` wide whose edge lies `inside_m` beyond the pixel's centre."""
    return np.clip((inside_m + gsd_m / 2) / gsd_m, 0.0, min(1.0, width_m / float(gsd_m))).astype(np.float32)


def _roofs(world: World, frame: Frame, samples: int = 5) -> Floats:
    """Share of each pixel under roofs: each building is splatted as 5 x 5 points that carry its area.

    Areas are summed as whole square centimetres, so the sum does not depend on the order of the buildings.
    """
    houses = buildings(world, frame)
    at = (np.arange(samples) + 0.5) / samples - 0.5
    along, across = (
        at[None, :, None] * houses.length_m[:, None, None],
        at[None, None, :] * houses.width_m[:, None, None],
    )
    cos, sin = np.cos(houses.angle)[:, None, None], np.sin(houses.angle)[:, None, None]
    y = houses.y_m[:, None, None] + along * sin + across * cos
    x = houses.x_m[:, None, None] + along * cos - across * sin
    row = np.floor(y / frame.gsd_m).astype(np.int64) - frame.y_px
    column = np.floor(x / frame.gsd_m).astype(np.int64) - frame.x_px
    area = np.round(houses.length_m * houses.width_m * 1e4 / samples**2)[:, None, None] + 0 * y
    keep = (row >= 0) & (row < frame.height) & (column >= 0) & (column < frame.width)
    flat = np.bincount((row * frame.width + column)[keep], area[keep], frame.height * frame.width)
    share = flat.reshape(frame.height, frame.width) / (1e4 * frame.gsd_m**2)
    return np.minimum(share, 0.95).astype(np.float32)
