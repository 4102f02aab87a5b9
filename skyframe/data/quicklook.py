"""A cube at a glance: a table of what it holds, and a picture with a time strip per modality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from skyframe.calendar import DAY_UNKNOWN, date_of
from skyframe.data.cube import CLEAR, CLOUD, SHADOW, Cube, known_days
from skyframe.data.quicklook_points import draw_points
from skyframe.data.read import read_flags, read_label, read_series
from skyframe.spec import Modality, Window

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

COLUMNS = 6
VIEW_PX = 640
"""Side of the pictures: whole small cubes, and the middle of larger ones."""

TRUE_COLOUR = (("red", "green", "blue"), ("B04", "B03", "B02"))
TINTS = {CLOUD: (1.0, 0.55, 0.0), SHADOW: (0.1, 0.3, 1.0)}
EMPTY_GREY = 0.85


def describe(cube: Cube) -> Table:
    """One row per modality: bands, GSD, size, dates, units, clear share (of sampled chunks), coverage, size on disk."""
    caption = f"labels: {', '.join(cube.labels) or 'none'}; tables: {', '.join(cube.tables) or 'none'}"
    extent = f"{cube.grid.width_m / 1000:g} km x {cube.grid.height_m / 1000:g} km, {cube.grid.crs}"
    if cube.grid.places:
        extent = f"{len(cube.grid.places)} sites of one pixel"
    table = Table(title=f"{cube.name}: {extent}", caption=caption)
    for heading in ("modality", "bands", "GSD", "size px", "dates", "units", "clear", "covered", "disk"):
        table.add_column(
            heading, justify="right" if heading in ("GSD", "size px", "clear", "covered", "disk") else "left"
        )
    for name, modality in cube.spec.modalities.items():
        height, width = cube.manifest.arrays[f"{name}/valid"].layout.shape[-2:]
        covered = cube.manifest.arrays[f"{name}/valid"].coverage.mean()
        table.add_row(
            f"{name} ({modality.kind})",
            " ".join(modality.band_names),
            f"{modality.gsd_m:g} m",
            f"{width} x {height}",
            _dates(cube.days(name)),
            modality.units,
            f"{clear_share(cube, name):.0%}" if covered else "-",
            f"{covered:.0%}",
            "in place" if cube.in_place else f"{_bytes_on_disk(cube.path / name) / 1e6:.1f} MB",
        )
    return table


def clear_share(cube: Cube, name: str, max_chunks: int = 16) -> float:
    """Share of clear pixels in up to `max_chunks` chunks of flags, evenly chosen among the shards that were written."""
    record = cube.manifest.arrays[f"{name}/valid"]
    places = np.argwhere(record.coverage)
    chosen = places[np.unique(np.linspace(0, len(places) - 1, min(len(places), max_chunks)).astype(int))]
    clear = total = 0
    for row, column in chosen * record.layout.shard[-2:]:
        rows, columns = record.layout.chunk[-2:]
        height, width = record.layout.shape[-2:]
        flags = read_flags(
            cube, name, (int(row), min(int(row) + rows, height), int(column), min(int(column) + columns, width))
        )
        clear, total = clear + int((flags == CLEAR).sum()), total + flags.size
    return clear / total if total else 0.0


def draw(cube: Cube, png_path: str | Path) -> Path:
    """Picture of a cube: per modality some of its dates with captions, and the clear share of every date.

    True colour where red, green and blue are there, else the first band in grey. Clouds are tinted orange, shadows
    blue, pixels without data grey. Weather is drawn as curves at the cube's centre; images of one date and truth
    layers stand side by side below. Points get a picture of their own.

    Returns:
        The path written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if cube.grid.places:
        return draw_points(cube, png_path)
    names = [name for name in cube.spec.modalities if cube.manifest.arrays[f"{name}/valid"].coverage.any()]
    weather = [name for name in names if cube.spec.modalities[name].kind == "weather"]
    imagery = [name for name in names if name not in weather and _view(cube, name).size_m > 0]
    strips = [name for name in imagery if len(cube.days(name)) > 1]
    stills = [_still(cube, name) for name in imagery if name not in strips]
    stills += [_truth(cube, name) for name in cube.labels]
    heights = [2.6] * len(strips) + [1.6] * len(weather) + [2.2] * -(-len(stills) // COLUMNS)
    figure = Figure(figsize=(12.0, sum(heights) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{cube.name}   (orange: cloud, blue: shadow, grey: no data)", fontsize=11)
    rows = iter(figure.add_gridspec(len(heights), 1, height_ratios=heights))
    for name in strips:
        _draw_strip(figure, next(rows), cube, name)
    for name in weather:
        _draw_weather(figure, next(rows), cube, name)
    for start in range(0, len(stills), COLUMNS):
        _draw_stills(figure, next(rows), stills[start : start + COLUMNS])
    figure.savefig(png_path, dpi=110)
    return Path(png_path)


def _dates(days: NDArray[np.int32]) -> str:
    known = known_days(days)
    if not len(known):
        return "no date"
    return f"{date_of(int(known[0]))} .. {date_of(int(known[-1]))} ({len(days)})"


def _bytes_on_disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _view(cube: Cube, name: str) -> Window:
    """A square of at most VIEW_PX around the written shard that is nearest to the cube's middle."""
    record, gsd_m = cube.manifest.arrays[f"{name}/valid"], cube.spec.modalities[name].gsd_m
    height, width = (int(extent / gsd_m + 1e-6) for extent in (cube.grid.height_m, cube.grid.width_m))
    side = min(VIEW_PX, height, width)
    middle = np.array([height, width]) / 2
    if not record.coverage.all():
        shard = np.array(record.layout.shard[-2:])
        centres = np.argwhere(record.coverage) * shard + shard / 2
        middle = centres[np.argmin(((centres - middle) ** 2).sum(1))]
    top, left = (int(max(0, min(m - side / 2, n - side))) for m, n in zip(middle, (height, width), strict=True))
    return Window(cube.name, top * gsd_m, left * gsd_m, side * gsd_m)


def _draw_strip(figure: Figure, place: SubplotSpec, cube: Cube, name: str) -> None:
    window, days = _view(cube, name), cube.days(name)
    clear = (read_flags(cube, name, cube.pixel_box(name, window)) == CLEAR).mean(axis=(1, 2))
    groups = np.array_split(np.arange(len(days)), min(COLUMNS, len(days)))
    shown = np.array([group[np.argmax(clear[group])] for group in groups])
    inner = place.subgridspec(2, COLUMNS, height_ratios=(4, 1))
    for column, (at, picture) in enumerate(zip(shown, _pictures(cube, name, window, shown), strict=True)):
        axes = figure.add_subplot(inner[0, column])
        axes.imshow(picture, interpolation="antialiased")
        _bare(axes, "no date" if days[at] == DAY_UNKNOWN else f"{date_of(int(days[at]))}")
        if column == 0:
            axes.set_ylabel(f"{name}\n{window.size_m / 1000:g} km", fontsize=9)
    _draw_timeline(figure.add_subplot(inner[1, :]), days, clear, shown)


def _draw_timeline(axes: Axes, days: NDArray[np.int32], clear: NDArray[np.float64], shown: NDArray[np.intp]) -> None:
    """Clear share of every date that is known; the dates that are shown above in black."""
    known = np.flatnonzero(days != DAY_UNKNOWN)
    for chosen, colour, width in ((known, "0.6", 1.5), (np.intersect1d(known, shown), "black", 2.5)):
        if len(chosen):
            axes.vlines(_when(days[chosen]), 0, clear[chosen], colors=colour, linewidth=width)
    axes.set_ylim(0, 1.05)
    if not len(known):
        axes.set_xticks([])
    axes.set_yticks([0, 1], ["0", "100 %"], fontsize=7)
    axes.set_ylabel("clear", fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_weather(figure: Figure, place: SubplotSpec, cube: Cube, name: str) -> None:
    modality, side_m = cube.spec.modalities[name], min(cube.grid.height_m, cube.grid.width_m)
    middle = Window(cube.name, (cube.grid.height_m - side_m) / 2, (cube.grid.width_m - side_m) / 2, side_m)
    series = read_series(cube, middle, names=[name])[name]
    known = series.day != DAY_UNKNOWN
    when = _when(series.day[known])
    inner = place.subgridspec(1, len(modality.bands))
    for number, band in enumerate(modality.band_names):
        axes = figure.add_subplot(inner[0, number])
        stored: NDArray[np.float64] = series.values[known, number, 0, 0].astype(np.float64)
        values = np.where(series.valid[known, 0, 0], stored * modality.scale + modality.offset, np.nan)
        if "precipitation" in band:
            axes.vlines(when, 0, values, colors="tab:blue", linewidth=1)
        else:
            axes.plot(when, values, color="tab:red" if "temperature" in band else "tab:orange", linewidth=1)
        axes.set_title(f"{name}: {band}", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.tick_params(axis="x", labelrotation=20)
        axes.spines[["top", "right"]].set_visible(False)


def _when(days: NDArray[np.int32]) -> NDArray[np.datetime64]:
    """Calendar dates of known days, as matplotlib takes them."""
    return np.array([date_of(int(day)) for day in days], "datetime64[D]")


@dataclass(frozen=True)
class _Picture:
    title: str
    values: NDArray[np.generic]  # [H, W] or [H, W, 3]
    colours: str | None = None


def _still(cube: Cube, name: str) -> _Picture:
    """The only date of a modality."""
    window, day = _view(cube, name), int(cube.days(name)[0])
    when = "" if day == DAY_UNKNOWN else f", {date_of(day)}"
    return _Picture(f"{name}, {window.size_m / 1000:g} km{when}", _pictures(cube, name, window, np.array([0]))[0])


def _truth(cube: Cube, name: str) -> _Picture:
    """The middle of a truth layer."""
    label = cube.spec.labels[name]
    sides = [int(extent / label.gsd_m + 1e-6) for extent in (cube.grid.height_m, cube.grid.width_m)]
    side = min(VIEW_PX, *sides)
    top, left = ((n - side) // 2 * label.gsd_m for n in sides)
    values = read_label(cube, name, Window(cube.name, top, left, side * label.gsd_m))
    shown = np.ma.masked_equal(values, label.nodata) if label.nodata is not None else values
    title = f"truth: {name}" + (f" ({label.units})" if label.units else "")
    return _Picture(title, shown, "tab20" if label.classes else "viridis")


def _draw_stills(figure: Figure, place: SubplotSpec, pictures: Sequence[_Picture]) -> None:
    inner = place.subgridspec(1, COLUMNS)
    for column, picture in enumerate(pictures):
        axes = figure.add_subplot(inner[0, column])
        axes.imshow(picture.values, cmap=picture.colours, interpolation="nearest" if picture.colours else "antialiased")
        _bare(axes, picture.title)


def _bare(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])


def _pictures(cube: Cube, name: str, window: Window, dates: NDArray[np.intp]) -> NDArray[np.float32]:
    """RGB `[T, H, W, 3]` in 0..1 of some dates, tinted by their flags."""
    flags = read_flags(cube, name, cube.pixel_box(name, window))[dates]
    series = read_series(cube, window, names=[name], dates={name: dates})[name]
    return _tint(_colour(cube.spec.modalities[name], series.values, series.valid), flags)


def _colour(modality: Modality, values: NDArray[np.generic], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """RGB `[T, H, W, 3]` in 0..1, one stretch for all dates (2 to 98 % of the clear pixels, or of all)."""
    names = list(modality.band_names)
    triple = next((t for t in TRUE_COLOUR if set(t) <= set(names)), names[:1])
    chosen = values[:, [names.index(band) for band in triple]].astype(np.float32)
    pixels = np.moveaxis(chosen, 1, -1)
    sample = pixels[valid] if valid.any() else pixels
    low, high = np.percentile(sample, (2, 98))
    low = 0.0 if len(triple) == 3 else low
    scaled = np.clip((pixels - low) / max(high - low, 1e-6), 0, 1)
    return np.broadcast_to(scaled ** (1 / 1.4) if len(triple) == 3 else scaled, (*pixels.shape[:-1], 3)).copy()


def _tint(pictures: NDArray[np.float32], flags: NDArray[np.uint8]) -> NDArray[np.float32]:
    for flag, colour in TINTS.items():
        there = flags == flag
        pictures[there] = 0.65 * pictures[there] + 0.35 * np.array(colour, np.float32)
    pictures[~np.isin(flags, (CLEAR, CLOUD, SHADOW))] = EMPTY_GREY
    return pictures
