"""One picture of a simulated cube: seasons in true colour, clouds, radar, truth, growth curves, imagery with boxes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skyframe.calendar import date_of, day_of
from skyframe.data.cube import CLOUD, Cube
from skyframe.data.read import read_flags, read_label, read_series, read_table
from skyframe.data.synthetic.objects import BUILDING
from skyframe.data.synthetic.world import HR_TILE_M
from skyframe.sample import Series
from skyframe.spec import InputError, Window

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VIEW_M = 2560.0
"""Side of the square of land that is shown, at most."""
_ZOOM_M = 160.0
"""Side of the cut of imagery with boxes."""
_SEASONS = ((1, 20), (4, 20), (7, 1), (9, 20))
"""Month and day for which the nearest clear dates are shown."""
_COVER_COLOURS = ("#2b6cb0", "#3f8f3f", "#1f4d2b", "#a6d96a", "#e8d7a0", "#c0392b", "#9e9e9e")
_CROP_COLOURS = ("#e8c547", "#b5892b", "#f7f052", "#e0662f", "#6d3b1f", "#c2185b", "#7b52ab", "#7fc97f")
Picture = NDArray[np.float32]


def draw_overview(cube: Cube, png: str | Path) -> Path:
    """Draw what a cube of the simulated Earth holds.

    Args:
        cube: written by `simulate`, with some high-resolution imagery.
        png: where the picture shall stand.

    Returns:
        The path written.

    Raises:
        InputError: the cube has no `hr`, or lacks the truth of the simulated Earth.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    missing = [name for name in ("hr", "s2", "s1") if not cube.has(name)]
    missing += [name for name in ("land_cover", "crop_type") if name not in cube.labels]
    if missing:
        raise InputError(
            f"{cube.path}: lacks {', '.join(missing)}, expected a cube of `skyframe simulate` with imagery"
        )
    side = min(VIEW_M, cube.grid.height_m, cube.grid.width_m)
    window = Window(cube.name, 0.0, 0.0, side)
    series = read_series(cube, window, names=["s2", "s1"])
    figure = Figure(figsize=(12.0, 9.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 4)
    _draw_seasons([*axes[0], axes[1, 0]], cube, window, series["s2"])
    _draw_radar(axes[1, 1], series["s1"])
    _draw_truth(axes[1, 2], cube, window, "land_cover", _COVER_COLOURS)
    _draw_truth(axes[1, 3], cube, window, "crop_type", _CROP_COLOURS)
    _draw_imagery(axes[2, 0], axes[2, 1], cube)
    for spare in axes[2, 2:]:
        spare.remove()
    _draw_growth(figure, axes[2, 2].get_gridspec()[2, 2:], cube, window, series["s2"])
    _save(figure, Path(png))
    return Path(png)


def _save(figure: Figure, png: Path) -> None:
    """In 32 steps per colour, half the bytes: the sensors' noise hides them."""
    buffer = BytesIO()
    figure.savefig(buffer, dpi=92)
    steps = np.round(np.asarray(Image.open(buffer).convert("RGB")) * np.float32(31 / 255))
    Image.fromarray((steps * np.float32(255 / 31)).astype(np.uint8)).save(png, optimize=True)


def true_colour(values: NDArray[np.generic], bands: Sequence[int] = (2, 1, 0)) -> Picture:
    """Display colours `[H, W, 3]` of stored Sentinel-2 reflectance `[10, H, W]`, stretched as usual: 2 to 24 %."""
    reflectance = values[list(bands)].astype(np.float32).transpose(1, 2, 0) * np.float32(1e-4)
    return np.clip((reflectance - 0.02) / 0.22, 0.0, 1.0) ** np.float32(1 / 1.4)


def _draw_seasons(axes: Sequence[Axes], cube: Cube, window: Window, s2: Series) -> None:
    """Four clear dates of the first year, and the date whose half lies under cloud."""
    clear: NDArray[np.float64] = s2.valid.mean(axis=(1, 2))
    blue = s2.values[:, 0].astype(np.float32) * np.float32(1e-4)
    murky = 400.0 * (1.0 - clear) + 2000.0 * np.median(blue, axis=(1, 2))
    year = date_of(int(s2.day[0])).year
    picked = [int(np.argmin(np.abs(s2.day - day_of(date(year, *wanted))) + murky)) for wanted in _SEASONS]
    flags = read_flags(cube, "s2", cube.pixel_box("s2", window))
    cloudy = int(np.argmin(np.abs(((flags == CLOUD) & (blue > 0.4)).mean(axis=(1, 2)) - 0.3)))
    for place, row in zip(axes, [*picked, cloudy], strict=True):
        place.imshow(true_colour(s2.values[row]), interpolation="antialiased")
        note = "Sentinel-2" if row != cloudy else "Sentinel-2, clouds and shadows"
        _bare(place, f"{note}, {date_of(int(s2.day[row]))}")


def _draw_radar(axes: Axes, s1: Series) -> None:
    """Mean of six dates around June: red VV, green VH, blue their ratio, the usual composite."""
    year = date_of(int(s1.day[0])).year
    june = np.argsort(np.abs(s1.day - day_of(date(year, 6, 15))))[:3]
    vv, vh = (s1.values[june].astype(np.float32) * np.float32(0.01)).mean(axis=0)
    picture = np.stack([(vv + 18) / 14, (vh + 25) / 14, (vv - vh - 2) / 12], axis=-1)
    axes.imshow(np.clip(picture, 0.0, 1.0), interpolation="antialiased")
    _bare(axes, "Sentinel-1, about June: VV, VH, VV/VH")


def _draw_truth(axes: Axes, cube: Cube, window: Window, name: str, colours: Sequence[str]) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    label = read_label(cube, name, window).astype(int)
    table = np.full((256, 3), 0.93)
    table[: len(colours)] = [to_rgb(colour) for colour in colours]
    axes.imshow(table[label], interpolation="nearest")
    _bare(axes, f"truth: {name}")
    keys = [
        Patch(color=colour, label=text.replace("_", " "))
        for number, (colour, text) in enumerate(zip(colours, cube.spec.labels[name].classes, strict=True))
        if (label == number).any()
    ]
    axes.legend(handles=keys, fontsize=6, loc="lower left", framealpha=0.85, handlelength=1.0, borderpad=0.3)


def _draw_imagery(whole: Axes, zoom: Axes, cube: Cube) -> None:
    """A tile half built up, so that town and fields show, and the busiest cut of it with its boxes."""
    boxes = read_table(cube, "boxes")
    y, x = (
        boxes[corner].astype(np.float64) + boxes[size].astype(np.float64) / 2
        for corner, size in (("y_m", "height_m"), ("x_m", "width_m"))
    )
    tiles = np.argwhere(cube.manifest.arrays["hr/valid"].coverage) * HR_TILE_M
    count = [int(((y // HR_TILE_M == r // HR_TILE_M) & (x // HR_TILE_M == c // HR_TILE_M)).sum()) for r, c in tiles]
    top, left = tiles[int(np.argmin(np.abs(np.array(count) - max(count) / 2)))]
    when = date_of(int(cube.days("hr")[0]))
    picture = read_series(cube, Window(cube.name, top, left, HR_TILE_M), names=["hr"])["hr"].values[0]
    shrunk = picture.reshape(3, 1024, 2, 1024, 2).mean(axis=(2, 4)).astype(np.uint8)
    whole.imshow(shrunk.transpose(1, 2, 0), interpolation="antialiased")
    _bare(whole, f"imagery of 0.31 m, {HR_TILE_M:g} m, {when}")
    steps = np.arange(0.0, HR_TILE_M - _ZOOM_M + 1.0, _ZOOM_M / 2)
    corners = [(top + a, left + b) for a in steps for b in steps]
    busy = [int(_inside(y, x, corner).sum()) for corner in corners]
    corner = corners[int(np.argmax(busy))]
    cut = read_series(cube, Window(cube.name, *corner, _ZOOM_M), names=["hr"])["hr"].values[0]
    zoom.imshow(cut.transpose(1, 2, 0), extent=(0.0, _ZOOM_M, _ZOOM_M, 0.0), interpolation="antialiased")
    _draw_boxes(zoom, boxes, np.flatnonzero(_inside(y, x, corner)), corner)
    _bare(zoom, f"{_ZOOM_M:g} m of it, boxes: buildings, vehicles")


def _inside(y: NDArray[np.float64], x: NDArray[np.float64], corner: tuple[float, float]) -> NDArray[np.bool_]:
    return (y >= corner[0]) & (y < corner[0] + _ZOOM_M) & (x >= corner[1]) & (x < corner[1] + _ZOOM_M)


def _draw_boxes(
    axes: Axes, boxes: dict[str, NDArray[np.generic]], rows: NDArray[np.intp], corner: tuple[float, float]
) -> None:
    from matplotlib.patches import Rectangle

    for row in rows:
        top, left, height, width = (float(boxes[k][row]) for k in ("y_m", "x_m", "height_m", "width_m"))
        colour = "#ffd400" if boxes["class"][row] == BUILDING else "#00e5ff"
        place = (left - corner[1], top - corner[0])
        axes.add_patch(Rectangle(place, width, height, fill=False, edgecolor=colour, linewidth=0.8))


def _draw_growth(figure: Figure, place: object, cube: Cube, window: Window, s2: Series) -> None:
    """Median NDVI of clear pixels through the year, one curve per crop."""
    axes = figure.add_subplot(place)  # type: ignore[call-overload]
    label = read_label(cube, "crop_type", window)
    red, infrared = (s2.values[:, band].astype(np.float32) for band in (2, 6))
    ndvi = np.where(s2.valid, (infrared - red) / (infrared + red), np.nan)
    when = np.array([np.datetime64(date_of(int(day))) for day in s2.day])
    for number, name in enumerate(cube.spec.labels["crop_type"].classes):
        chosen = ndvi[:, label == number]
        seen = np.isfinite(chosen).mean(axis=1) > 0.7 if chosen.size else np.zeros(len(when), bool)
        if seen.any():
            curve = np.nanmedian(chosen[seen], axis=1)
            axes.plot(when[seen], curve, color=_CROP_COLOURS[number], linewidth=1.4, label=name.replace("_", " "))
    axes.set_title("NDVI by crop, median of clear pixels", fontsize=8)
    axes.set_ylim(0.0, 1.0)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=6, ncols=2, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)


def _bare(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
