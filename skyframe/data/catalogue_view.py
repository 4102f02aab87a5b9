"""A catalogue at a glance: tables of what it lists, and a map of its footprints by part."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from skyframe.calendar import date_of
from skyframe.data.catalogue import Catalogue
from skyframe.data.split import PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"train": "tab:blue", "val": "tab:orange", "test": "tab:red", "none": "0.6"}
WINDOW_M = 640.0
"""Side of the windows that are counted here, without overlap; a recipe's own are told by `skyframe plan`."""

BAR = 30
"""Longest bar of the histogram, in characters."""

LEAST_PX = 3.0
"""Footprints that would be smaller on the map are marked by a square of this size."""


def show_catalogue(path: Path, png_path: Path | None = None) -> Path:
    """Print a catalogue's tables and draw its map, by default beside it; returns the picture's path."""
    catalogue = Catalogue(path)
    for table in describe_catalogue(catalogue):
        Console().print(table)
    return draw_catalogue(catalogue, png_path or path.with_suffix(".png"))


def describe_catalogue(catalogue: Catalogue) -> list[Table]:
    """Totals; rows by source, split, year and modality; a histogram of cloud shares; duplicates where there are any."""
    columns = {name: catalogue.column(name) for name in ("cube", "source", "split", "year", "cloud", "clear", "weight")}
    area, windows = _sizes(catalogue)
    groups = [
        _by(catalogue, "source", columns["source"], columns, area, windows),
        _by(catalogue, "split", columns["split"], columns, area, windows),
        _by(
            catalogue,
            "year",
            np.array([f"{y:.0f}" if y else "-" for y in columns["year"]], object),
            columns,
            area,
            windows,
        ),
        _by_modality(catalogue),
        _clouds(columns["cloud"]),
    ]
    duplicates = catalogue.duplicates()
    if duplicates:
        table = Table("cubes", title=f"{len(duplicates)} listed twice")
        for group in duplicates[:10]:
            table.add_row(", ".join(group[:8]) + (f" and {len(group) - 8} more" if len(group) > 8 else ""))
        groups.append(table)
    return [_totals(catalogue, columns["cube"], area, windows), *groups]


def draw_catalogue(catalogue: Catalogue, png_path: str | Path) -> Path:
    """Map of the footprints over latitude and longitude, coloured by part, held-out parts on top.

    Returns:
        The path written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ground, split = catalogue.ground(), catalogue.column("split")
    figure = Figure(figsize=(10.0, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    first, _ = ground.distinct()
    west, east, south, north = (getattr(ground, side)[first] for side in ("west", "east", "south", "north"))
    pad = 0.02 * max(float(east.max() - west.min()), float(north.max() - south.min()), 0.01)
    axes.set_xlim(float(west.min()) - pad, float(east.max()) + pad)
    axes.set_ylim(float(south.min()) - pad, float(north.max()) + pad)
    middle = np.radians((south.min() + north.max()) / 2)
    axes.set_aspect(1 / max(float(np.cos(middle)), 0.1))
    for part in ("none", *PARTS[:3]):
        here = split[first] == part
        if here.any():
            _rectangles(axes, west[here], south[here], east[here], north[here], part)
    axes.set_xlabel("longitude, degrees")
    axes.set_ylabel("latitude, degrees")
    axes.set_title(f"{catalogue.path.name}: {len(first):,} footprints", fontsize=11)
    axes.legend(loc="upper right", fontsize=8)
    figure.savefig(png_path, dpi=110)
    return Path(png_path)


def _rectangles(
    axes: Axes, west: NDArray[Any], south: NDArray[Any], east: NDArray[Any], north: NDArray[Any], part: str
) -> None:
    from matplotlib.collections import PolyCollection

    corners = np.stack(
        [np.stack(corner, axis=1) for corner in ((west, south), (east, south), (east, north), (west, north))], axis=1
    )
    label = f"{part} ({len(west):,})"
    axes.add_collection(PolyCollection(list(corners), facecolors=COLOURS[part], alpha=0.6, linewidths=0, label=label))
    axes.plot((west + east) / 2, (south + north) / 2, "s", color=COLOURS[part], markersize=LEAST_PX * 0.7, alpha=0.6)


def _sizes(catalogue: Catalogue) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Square kilometres and windows of every row."""
    width, height = catalogue.column("width_m"), catalogue.column("height_m")
    fit = [np.floor(side / WINDOW_M + 1e-9).astype(np.int64) for side in (width, height)]
    return width * height / 1e6, fit[0] * fit[1]


def _totals(catalogue: Catalogue, cubes: NDArray[Any], area: NDArray[np.float64], windows: NDArray[np.int64]) -> Table:
    once = np.unique(cubes.astype(str), return_index=True)[1]
    first, last = catalogue.column("first_day"), catalogue.column("last_day")
    known = np.isfinite(first)
    dates = "none"
    if known.any():
        dates = f"{date_of(int(first[known].min()))} .. {date_of(int(last[known].max()))}"
    rule = catalogue.settings.split
    how = "by the specs of the cubes"
    if rule is not None:
        how = (
            f"cells of {rule.cell_km2:g} km2, train {rule.train:g}, val {rule.val:g}, test {rule.test:g}, seed "
            f"{rule.seed}, {rule.buffer_m:g} m apart"
        )
    table = Table("", "", title=str(catalogue.path), show_header=False)
    for name, value in (
        ("rows", f"{len(catalogue):,}, one per cube and {catalogue.settings.period}"),
        ("cubes", f"{len(once):,}"),
        ("area", f"{area[once].sum():,.1f} km2"),
        (f"windows of {WINDOW_M:g} m", f"{windows.sum():,}"),
        ("dates of imagery", dates),
        ("split", how),
    ):
        table.add_row(name, value)
    return table


def _by(
    catalogue: Catalogue,
    title: str,
    key: NDArray[Any],
    columns: dict[str, NDArray[Any]],
    area: NDArray[np.float64],
    windows: NDArray[np.int64],
) -> Table:
    table = Table(title=f"by {title}")
    headings = (title, "rows", "cubes", "km2", "windows", "cloud", "clear", "weight")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == title else "right")
    for value in sorted(set(key.tolist()), key=str):
        here = key == value
        cubes = len(set(columns["cube"][here].tolist()))
        shares = (_mean(columns[name][here]) for name in ("cloud", "clear"))
        weights = sorted(set(columns["weight"][here].tolist()))
        weight = f"{weights[0]:g}" if len(weights) == 1 else f"{weights[0]:g} .. {weights[-1]:g}"
        counts = f"{int(here.sum()):,}", f"{cubes:,}", f"{area[here].sum():,.1f}", f"{int(windows[here].sum()):,}"
        table.add_row(str(value), *counts, *shares, weight)
    return table


def _by_modality(catalogue: Catalogue) -> Table:
    table = Table(title="by modality")
    for heading in ("modality", "rows", "GSD", "dates per row", "cloud", "clear"):
        table.add_column(heading, justify="left" if heading == "modality" else "right")
    for name in catalogue.modalities:
        dates, gsd = catalogue.column(f"{name}.dates"), catalogue.column(f"{name}.gsd_m")
        there = dates > 0
        sizes = " or ".join(f"{g:g} m" for g in np.unique(gsd[there]))
        shares = (_mean(catalogue.column(f"{name}.{key}")[there]) for key in ("cloud", "clear"))
        table.add_row(name, f"{int(there.sum()):,}", sizes, f"{dates[there].mean():.1f}", *shares)
    return table


def _clouds(cloud: NDArray[np.float64]) -> Table:
    table = Table(title="cloud share of rows")
    for heading in ("cloud", "rows", ""):
        table.add_column(heading, justify="right" if heading == "rows" else "left")
    edges = np.linspace(0, 1, 11)
    counts = np.histogram(cloud[np.isfinite(cloud)], edges)[0]
    for low, high, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True):
        table.add_row(f"{low:.1f} to {high:.1f}", f"{count:,}", "#" * round(BAR * count / max(1, counts.max())))
    if (~np.isfinite(cloud)).any():
        table.add_row("not known", f"{int((~np.isfinite(cloud)).sum()):,}", "")
    return table


def _mean(values: Iterable[float]) -> str:
    known = [v for v in values if np.isfinite(v)]
    return f"{np.mean(known):.0%}" if known else "-"
