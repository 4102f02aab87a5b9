"""Picture of a cube of points: where the sites lie, and per modality its sites downwards and its dates across."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN, date_of
from skyframe.data.cube import CLEAR, Cube
from skyframe.data.read import SeriesRead, read_box, read_flags, read_label
from skyframe.spec import Window

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_SITES = 2048
"""Sites in the picture, evenly chosen where there are more."""


def draw_points(cube: Cube, png_path: str | Path) -> Path:
    """Draw a map of the sites, coloured by the first truth layer, and the first band of every modality.

    Returns:
        The path written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(cube.spec.modalities)
    figure = Figure(figsize=(12.0, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{cube.name}: {len(cube.grid.places)} sites (grey: no data)", fontsize=11)
    rows = figure.add_gridspec(2, 1, height_ratios=(2, 3))
    _draw_map(figure.add_subplot(rows[0]), cube)
    inner = rows[1].subgridspec(1, len(names))
    for column, name in enumerate(names):
        _draw_series(figure.add_subplot(inner[0, column]), cube, name)
    figure.savefig(png_path, dpi=110)
    return Path(png_path)


def _draw_map(axes: Axes, cube: Cube) -> None:
    latitude, longitude = np.array(cube.grid.places).T
    shown = next(iter(cube.labels), None)
    colours: NDArray[np.generic] | str = "tab:blue"
    if shown is not None:
        side = cube.grid.width_m
        windows = (Window(cube.name, row * side, 0.0, side) for row in range(len(latitude)))
        colours = np.array([read_label(cube, shown, window)[0, 0] for window in windows])
    drawn = axes.scatter(longitude, latitude, c=colours, s=8, cmap="viridis")
    if shown is not None and axes.figure is not None:
        axes.figure.colorbar(drawn, ax=axes, label=shown)
    axes.set_aspect(1 / max(0.1, float(np.cos(np.radians(latitude.mean())))))
    axes.set_xlabel("longitude", fontsize=8)
    axes.set_ylabel("latitude", fontsize=8)


def _draw_series(axes: Axes, cube: Cube, name: str) -> None:
    modality, days = cube.spec.modalities[name], cube.days(name)
    height = cube.manifest.arrays[f"{name}/valid"].layout.shape[-2]
    box = (0, height, 0, 1)
    values = read_box(cube, SeriesRead(name, box, None, np.arange(len(days)))).values[:, 0, :, 0]
    clear = read_flags(cube, name, box)[:, :, 0] == CLEAR
    physical = np.where(clear, values.astype(np.float64) * modality.scale + modality.offset, np.nan)
    rows = np.unique(np.linspace(0, height - 1, min(height, SHOWN_SITES)).astype(int))
    shown = physical[:, rows].T
    low, high = np.nanpercentile(shown, (2, 98)) if clear.any() else (0.0, 1.0)
    drawn = axes.imshow(shown, aspect="auto", interpolation="nearest", vmin=low, vmax=high, cmap="viridis")
    axes.set_facecolor("0.85")
    if axes.figure is not None:
        axes.figure.colorbar(drawn, ax=axes, orientation="horizontal").ax.tick_params(labelsize=6)
    axes.set_title(f"{name}\n{modality.band_names[0]}", fontsize=8)
    ticks = np.unique(np.linspace(0, len(days) - 1, min(4, len(days))).astype(int))
    dates = ["no date" if days[t] == DAY_UNKNOWN else f"{date_of(int(days[t])):%Y-%m}" for t in ticks]
    axes.set_xticks(ticks, dates, fontsize=6)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_ylabel("site", fontsize=7)
