"""From a recipe to the cubes it trains on, by path or by a catalogue's rows, and to the plan of their windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from skyframe.config.recipe import DataConfig, Recipe
from skyframe.data.cache import BlockCache
from skyframe.data.catalogue import Catalogue
from skyframe.data.cube import Cube, find_cubes
from skyframe.data.plan import WindowPlan
from skyframe.data.split import PARTS
from skyframe.data.store import is_address
from skyframe.data.table import CubeSet, CubeTable, table_of
from skyframe.data.transport import Client
from skyframe.data.where import read_where
from skyframe.spec import CubeSpec, InputError, Split, did_you_mean

BASE_GSD_M = 10.0
"""The common position grid: Sentinel pixels."""


@dataclass(frozen=True)
class Selection:
    """What a run trains on: rows, their cubes by name, and how many rows were left out for what reason."""

    table: CubeTable
    cubes: Mapping[str, Cube]
    left_out: dict[str, int]
    is_remote: bool  # some cube lies at an address


def select_cubes(recipe: Recipe) -> Selection:
    """The cubes that `data.cubes` or `data.catalogue` and `data.where` name, with the weights of `data.sources`.

    Of a catalogue nothing but some columns is read; its cubes are opened where a window of them is.

    Raises:
        InputError: no such cube or catalogue, a held-out cube, a condition or source that does not fit, or no row left.
    """
    data, train = recipe.data, recipe.train
    client = make_client(data)
    spec = CubeSpec.load(data.spec)
    if data.catalogue:
        table, left_out = _select_rows(data)
        per_rank = train.global_batch // (train.micro_steps * train.devices * train.num_nodes)
        cubes: Mapping[str, Cube] = CubeSet(table, max(64, 2 * per_rank), client)
    else:
        opened = find_cubes(data.cubes, client=client)
        table, left_out = table_of(opened), {}
        cubes = {cube.name: cube for cube in opened}
    _check_held_out(table, spec, "catalogue" if data.catalogue else "cubes")
    weighted = _weigh(table, data.sources)
    if len(weighted) < len(table):
        left_out["weight 0"] = len(table) - len(weighted)
    return Selection(weighted, cubes, left_out, any(map(is_address, weighted.paths)))


def make_client(data: DataConfig) -> Client:
    """What a run reads cubes at addresses with, and what keeps a copy of them."""
    if data.cache is None:
        return Client()
    return Client(cache=BlockCache(data.cache.folder, int(data.cache.max_gb * 1e9), data.cache.of == "all"))


def plan_windows(recipe: Recipe, table: CubeTable) -> WindowPlan:
    """The windows of a recipe in its global order."""
    data = recipe.data
    return WindowPlan(
        table,
        size_m=data.window_px * BASE_GSD_M,
        stride_m=data.stride_px * BASE_GSD_M,
        seed=recipe.seed,
        slots=recipe.train.global_batch,
        windows_per_shard=data.windows_per_shard,
        names=list(data.modalities),
    )


def _select_rows(data: DataConfig) -> tuple[CubeTable, dict[str, int]]:
    """Rows of split train for which the condition holds."""
    where = read_where(data.where) if data.where else None
    catalogue = Catalogue(data.catalogue)
    split = catalogue.column("split")
    keep = split == "train"
    left_out = {f"split {part}": int((split == part).sum()) for part in PARTS[1:] if (split == part).any()}
    if where is not None:
        holds = catalogue.rows(where)
        left_out["data.where"] = int((keep & ~holds).sum())
        keep = keep & holds
    if not keep.any():
        reasons = ", ".join(f"{reason} {count}" for reason, count in left_out.items())
        raise InputError(
            f"data.catalogue: {data.catalogue} has {len(catalogue)} rows and none is left for training (left out by "
            f"{reasons or 'nothing'}), expected at least one; loosen data.where, or list more cubes"
        )
    table = catalogue.table(data.modalities).keep(keep)
    catalogue.close()
    return table, left_out


def _check_held_out(table: CubeTable, spec: CubeSpec, key: str) -> None:
    held_out = spec.split.held_out_among(table.names) if spec.split != Split() else []
    if held_out:
        raise InputError(
            f"data.{key}: {', '.join(held_out[:8])} are held out by the split of spec {spec.name}, expected training "
            "cubes; leave them out, or change the split"
        )


def _weigh(table: CubeTable, sources: Mapping[str, float]) -> CubeTable:
    for name in sources:
        if name not in table.sources:
            raise InputError(
                f"data.sources: no source {name!r} among the cubes, they come from {', '.join(table.sources)}"
                f"{did_you_mean(name, table.sources) or '; correct the name'}"
            )
    own = [sources.get(name, np.nan) for name in table.sources]
    given = np.array(own)[table.source_of]
    weight = np.where(np.isnan(given), table.weight, given)
    if not weight.any():
        raise InputError("data.sources: every source has weight 0, expected one above it; leave data.sources out")
    return replace(table, weight=weight).keep(weight > 0)
