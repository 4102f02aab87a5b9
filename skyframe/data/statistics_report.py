"""Measured statistics to look at: a table beside what the spec declares, and histograms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from skyframe.data.cube import Cube
from skyframe.data.statistics import BandStatistics, ModalityStatistics
from skyframe.spec import CubeSpec, InputError, Modality

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 120


def statistics_table(spec: CubeSpec, found: dict[str, ModalityStatistics]) -> Table:
    """One row per band: clear share, measured and declared mean and std, quantiles, extremes."""
    caption = "mean and std after clipping to the 1st and 99th percentile; in brackets what the spec declares"
    table = Table(title=f"{spec.name}: statistics over clear pixels", caption=caption)
    for heading in ("modality", "band", "clear", "mean", "std", "1 %", "median", "99 %", "min", "max"):
        table.add_column(heading, justify="left" if heading in ("modality", "band") else "right", overflow="fold")
    for name, measured in found.items():
        modality = spec.modalities[name]
        for number, band in enumerate(measured.bands):
            first = number == 0
            declared = _declared(modality, band)
            table.add_row(
                f"{name} ({measured.units})" if first else "",
                band.name,
                f"{measured.clear:.0%}" if first else "",
                f"{band.mean:.4g}" + (f" ({declared[0]:g})" if declared else ""),
                f"{band.std:.4g}" + (f" ({declared[1]:g})" if declared else ""),
                *(f"{band.quantiles[i]:.4g}" for i in (0, 3, 6)),
                f"{band.low:.4g}",
                f"{band.high:.4g}",
                end_section=number == len(measured.bands) - 1,
            )
    return table


def picture_path(cube: Cube, given: Path | None) -> Path:
    """Where the histograms go: beside a cube unless a path is given; checked before anything is measured."""
    target = given or cube.path.with_name(cube.path.name + ".stats.png")
    if not target.parent.is_dir():
        raise InputError(
            f"{target}: no folder {target.parent}, expected one for the picture; make it or give --picture"
        )
    return target


def draw_statistics(spec: CubeSpec, found: dict[str, ModalityStatistics], png_path: Path) -> Path:
    """Histograms, one panel per modality (per band where the units differ); bars below are declared mean +- std.

    Returns:
        The path written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups: list[tuple[str, tuple[BandStatistics, ...]]] = []
    for name, measured in found.items():
        units = spec.modalities[name].units.split(",")
        if len(units) > 1:
            groups += [(name, (band,)) for band in measured.bands]
        else:
            groups.append((name, measured.bands))
    rows = -(-len(groups) // 2)
    figure = Figure(figsize=(12.0, 2.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (name, bands) in enumerate(groups):
        axes = figure.add_subplot(rows, 2, number + 1)
        _draw(axes, spec.modalities[name], bands)
        axes.set_title(f"{name}{f': {bands[0].name}' if len(bands) == 1 else ''}", fontsize=9)
    figure.savefig(png_path, dpi=110)
    return png_path


def _declared(modality: Modality, band: BandStatistics) -> tuple[float, float] | None:
    if not (modality.mean and modality.std):
        return None
    at = modality.band_names.index(band.name)
    return modality.mean[at], modality.std[at]


def _draw(axes: Axes, modality: Modality, bands: tuple[BandStatistics, ...]) -> None:
    from matplotlib import colormaps

    low, high = min(b.quantiles[0] for b in bands), max(b.quantiles[-1] for b in bands)
    margin = 0.15 * (high - low) or 1.0
    edges = np.linspace(low - margin, high + margin, BINS + 1)
    colours = [colormaps["turbo"](0.05 + 0.9 * i / max(1, len(bands) - 1)) for i in range(len(bands))]
    shares = [np.histogram(b.values, edges)[0] / len(b.values) for b in bands]
    top = max(float(s.max()) for s in shares)
    for number, (band, share, colour) in enumerate(zip(bands, shares, colours, strict=True)):
        axes.stairs(share, edges, color=colour, linewidth=1, label=band.name)
        declared = _declared(modality, band)
        if declared:
            y = -top * 0.06 * (number + 1)
            axes.errorbar([declared[0]], [y], xerr=[declared[1]], fmt="|", color=colour, linewidth=1.5, capsize=2)
    axes.axhline(0, color="0.7", linewidth=0.5)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel(bands[0].name if "," in modality.units else modality.units, fontsize=7)
    axes.set_yticks([])
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(fontsize=6, ncols=2, frameon=False)
