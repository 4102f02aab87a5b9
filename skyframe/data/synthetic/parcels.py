"""Fields: tracts (Voronoi cells) cut into strips and pieces: rotated rectangles of about 0.5 to 8 ha."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyframe.data.synthetic.noise import (
    Doubles,
    Floats,
    Hashes,
    Integers,
    hashed,
    uniform,
    value_noise,
    value_noise_at,
)
from skyframe.data.synthetic.world import Frame, World

TRACT_M = 620.0
"""Spacing of tract seeds: a tract is a handful of neighbouring fields of one orientation."""
_STRIPS = 64
"""Room for strips per tract: they are counted from -32."""
_PIECES = 16
"""Room for pieces per strip, counted from -8."""
_JITTER = 0.4
"""Share of a strip's width over which its edge may move."""


@dataclass(frozen=True)
class Parcels:
    """Fields of a frame: which one each pixel lies in, and a table with one row per field."""

    code: NDArray[np.int32]  # [H, W] row of the table
    edge_m: Floats  # [H, W] metres to the field's edge
    tract_edge_m: Floats  # [H, W] metres to the tract's edge
    hashes: Hashes  # [P] identity, the same in every frame
    tract: Hashes  # [P] identity of the tract
    y_m: Doubles  # [P] absolute centre
    x_m: Doubles  # [P]
    angle: Floats  # [P] direction of the rows, radians
    area_ha: Floats  # [P] before the tract's edge cuts it


@dataclass(frozen=True)
class _Tracts:
    """Tracts of a frame's neighbourhood, one row per lattice cell."""

    rows: Integers
    columns: Integers
    seed_y: Floats  # offset of the seed from its cell's corner, metres
    seed_x: Floats
    hashes: Hashes
    angle: Floats
    width: Floats
    length: Floats


def parcels(world: World, frame: Frame) -> Parcels:
    """Fields of a frame.

    A pixel belongs to the tract whose seed is nearest (Voronoi cells of a jittered lattice, the usual model of
    territorial tessellation, Okabe et al. 2000). In the tract's own axes it belongs to a strip, and in the strip to a
    piece, whose edges are jittered lattices.
    """
    tracts = _tracts(world, frame)
    which, ry, rx, border = _nearest(world, frame, tracts)
    cos, sin = np.cos(tracts.angle)[which], np.sin(tracts.angle)[which]
    p, q = rx * cos + ry * sin, ry * cos - rx * sin
    strip_edges = _edges(tracts.hashes, _STRIPS, "strip")
    width, length = tracts.width[which], tracts.length[which]
    strip, left, right = _slot(p / width, which, strip_edges, _STRIPS)
    lane = which * _STRIPS + strip
    lanes = hashed(tracts.hashes[:, None], np.arange(_STRIPS)[None]).ravel()
    piece_edges = _edges(lanes, _PIECES, "piece")
    piece, near, far = _slot(q / length, lane, piece_edges, _PIECES)
    edge = np.minimum(np.minimum(left, right) * width, np.minimum(near, far) * length)
    code = lane * _PIECES + piece
    present = np.zeros(len(lanes) * _PIECES, bool)
    present[code] = True
    row = np.cumsum(present, dtype=np.int32) - 1
    used = np.flatnonzero(present)
    table = _table(tracts, used, lanes, strip_edges, piece_edges)
    return Parcels(row[code].astype(np.int32), np.minimum(edge, border), border, *table)


def _tracts(world: World, frame: Frame) -> _Tracts:
    iy, ix = np.floor(frame.ys / TRACT_M).astype(np.int64), np.floor(frame.xs / TRACT_M).astype(np.int64)
    rows, columns = np.arange(iy[0] - 1, iy[-1] + 2), np.arange(ix[0] - 1, ix[-1] + 2)
    cells = hashed(world.key("tract"), rows[:, None], columns[None, :]).ravel()
    y, x = (g.ravel() * TRACT_M for g in np.meshgrid(rows, columns, indexing="ij"))
    trend = value_noise_at(world.key("grain"), y, x, 6000.0) * np.float32(1.2)
    stretch = 1.15 if world.climate == "continental" else 1.0
    return _Tracts(
        rows=rows,
        columns=columns,
        seed_y=(uniform(cells, "y") * np.float32(0.8) + np.float32(0.1)) * np.float32(TRACT_M),
        seed_x=(uniform(cells, "x") * np.float32(0.8) + np.float32(0.1)) * np.float32(TRACT_M),
        hashes=cells,
        angle=trend + (uniform(cells, "angle") - np.float32(0.5)) * np.float32(0.9),
        width=(55.0 + 95.0 * uniform(cells, "width") ** 1.3).astype(np.float32) * np.float32(stretch),
        length=(150.0 + 240.0 * uniform(cells, "length")).astype(np.float32) * np.float32(stretch),
    )


def _nearest(world: World, frame: Frame, tracts: _Tracts) -> tuple[Integers, Floats, Floats, Floats]:
    """Row of the nearest tract `[H, W]`, position relative to its seed (y, x), and metres to the tract's edge."""
    iy, ix = np.floor(frame.ys / TRACT_M).astype(np.int64), np.floor(frame.xs / TRACT_M).astype(np.int64)
    bend = np.float32(14.0) * value_noise(world.key("bend"), frame.ys, frame.xs, 190.0)
    fy = (frame.ys - iy * TRACT_M).astype(np.float32)[:, None] + bend
    fx = (frame.xs - ix * TRACT_M).astype(np.float32)[None, :] - bend
    count = len(tracts.columns)
    cell = ((iy - tracts.rows[0]) * count)[:, None] + (ix - tracts.columns[0])[None, :]
    first = [np.full(fy.shape, 1e9, np.float32), np.zeros_like(fy), np.zeros_like(fy)]  # squared distance, y, x
    second = [f.copy() for f in first]
    which = np.zeros(fy.shape, np.int64)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            here = cell + (dy * count + dx)
            y = fy - (tracts.seed_y[here] + np.float32(dy * TRACT_M))
            x = fx - (tracts.seed_x[here] + np.float32(dx * TRACT_M))
            d = y * y + x * x
            closer, runner = d < first[0], d < second[0]
            for new, a, b in zip((d, y, x), first, second, strict=True):
                b[...] = np.where(closer, a, np.where(runner, new, b))
                np.copyto(a, new, where=closer)
            np.copyto(which, here, where=closer)
    gap = np.hypot(first[1] - second[1], first[2] - second[2])
    return which, first[1], first[2], (second[0] - first[0]) / (2 * gap)


def _edges(owners: Hashes, room: int, purpose: str) -> Floats:
    """Lower edge of each slot, in slots, `[owners * (room + 1)]`: whole numbers, jittered."""
    slots = np.arange(room + 1) - room // 2
    shift = uniform(hashed(owners[:, None], slots[None]), purpose) - np.float32(0.5)
    return (slots[None] + np.float32(_JITTER) * shift).astype(np.float32).ravel()


def _slot(at: Floats, owner: Integers, edges: Floats, room: int) -> tuple[Integers, Floats, Floats]:
    """Slot number (from 0) of a position measured in slots, and the distances to its lower and upper edge, in slots."""
    slot = np.clip(np.floor(at).astype(np.int64) + room // 2, 1, room - 2)
    base = owner * (room + 1)
    slot -= at < edges[base + slot]
    slot += at >= edges[base + slot + 1]
    return slot, at - edges[base + slot], edges[base + slot + 1] - at


def _table(
    tracts: _Tracts, used: Integers, lanes: Hashes, strip_edges: Floats, piece_edges: Floats
) -> tuple[Hashes, Hashes, Doubles, Doubles, Floats, Floats]:
    """Identity, tract, centre, row direction and area of the fields in use."""
    lane, piece = used // _PIECES, used % _PIECES
    owner, strip = lane // _STRIPS, lane % _STRIPS
    a, b = (strip_edges[owner * (_STRIPS + 1) + strip + k] * tracts.width[owner] for k in (0, 1))
    c, d = (piece_edges[lane * (_PIECES + 1) + piece + k] * tracts.length[owner] for k in (0, 1))
    p, q = (a + b) / 2, (c + d) / 2
    cos, sin = np.cos(tracts.angle[owner]), np.sin(tracts.angle[owner])
    row, column = owner // len(tracts.columns), owner % len(tracts.columns)
    y = tracts.rows[row] * TRACT_M + tracts.seed_y[owner] + (p * sin + q * cos)
    x = tracts.columns[column] * TRACT_M + tracts.seed_x[owner] + (p * cos - q * sin)
    area = (b - a) * (d - c) * np.float32(1e-4)
    return hashed(lanes[lane], piece), tracts.hashes[owner], y, x, tracts.angle[owner], area
