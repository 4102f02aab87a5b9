"""A contact sheet of a data set: what an item looks like with its labels, so that a person sees what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skyframe.calendar import DAY_UNKNOWN
from skyframe.evaluate.datasets.check import spread
from skyframe.evaluate.datasets.colours import Rgb, class_colours, mask_colours, stretch
from skyframe.evaluate.datasets.dataset import Dataset, Item
from skyframe.evaluate.datasets.imagery import DISPLAY
from skyframe.sample import Sample, Series
from skyframe.spec import Modality

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ITEMS = 8
DATES = 4
"""Of a series that are drawn."""
SIDE_PX = 1024
"""Of a picture; what is larger is thinned."""
SHOWN_CLASSES = 24
"""In the legend of masks and boxes."""


def draw_samples(dataset: Dataset, items: Sequence[Item], path: Path) -> Path:
    """Draw some items with their labels, one row each: modalities, then the mask; boxes on the first picture.

    Args:
        dataset: whose `read` opens them.
        items: those whose files decode; at most `ITEMS` of them at even distances are drawn.
        path: PNG to write.

    Raises:
        InputError: an item cannot be read.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    samples = [(item, dataset.read(item)) for item in spread(items, ITEMS)]
    rows = [_panels(dataset, sample) for _, sample in samples]
    across = max(len(row) for row in rows)
    folded = 4 if across == 1 else max(1, 8 // across)  # items side by side
    down = -(-len(rows) // folded)
    figure = Figure(figsize=(2.1 * across * folded + 0.4, 2.45 * down + 0.9), layout="constrained")
    grid = figure.subplots(down, across * folded, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    used: set[int] = set()
    for number, ((item, sample), row) in enumerate(zip(samples, rows, strict=True)):
        y, x = divmod(number, folded)
        for axes, panel in zip(grid[y, x * across :], row, strict=False):
            used |= _draw(axes, dataset, sample, panel)
        title = f"{item.part}: {_label(dataset, sample) or item.key}"
        grid[y, x * across].set_title(_short(title), fontsize=8, loc="left")
    colours = class_colours(_names(dataset)) / 255
    legend = [Patch(color=colours[i], label=_names(dataset)[i]) for i in sorted(used)[:SHOWN_CLASSES]]
    figure.suptitle(f"{dataset.name}: {len(samples)} of {len(dataset.items)} items", fontsize=10)
    if legend:
        figure.legend(handles=legend, loc="outside lower center", ncols=min(len(legend), 6), fontsize=7, frameon=False)
    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, format="png")
    return path


def _panels(dataset: Dataset, sample: Sample) -> list[tuple[str, int]]:
    """What is drawn of a sample: modality and date, or a mask (or one of several) by its number."""
    found: list[tuple[str, int]] = []
    for name in (n for n in dataset.modalities if n in sample.series):
        series = sample.series[name]
        if series.values.shape[-2:] == (1, 1):
            found.append((name, -1))
        else:
            clear = [i for i, valid in enumerate(series.valid) if valid.any()] or [0]
            found += [(name, clear[i]) for i in np.unique(np.linspace(0, len(clear) - 1, DATES).astype(int))]
    if "mask" in sample.targets:
        found.append(("mask", 0))
    if "masks" in sample.targets:
        found += [("masks", i) for i in {0, len(sample.targets["masks"]) - 1}]
    return found


def _draw(axes: Axes, dataset: Dataset, sample: Sample, panel: tuple[str, int]) -> set[int]:
    """One panel; which classes it shows."""
    name, number = panel
    if name in ("mask", "masks"):
        mask = np.asarray(sample.targets[name] if name == "mask" else sample.targets[name][number], np.int64)
        axes.imshow(_thin(mask_colours(mask, _names(dataset))), interpolation="nearest")
        return set(np.unique(mask[mask >= 0]).tolist())
    series, modality = sample.series[name], dataset.modalities[name]
    if number < 0:
        _draw_lines(axes, series, modality)
        return set()
    image = look_of(series, modality, number)
    axes.imshow(_thin(image), interpolation="nearest", extent=(0, image.shape[1], image.shape[0], 0))
    day = int(series.day[number])
    date = "" if day == DAY_UNKNOWN else f" {np.datetime64('2000-01-01') + np.timedelta64(day, 'D')}"
    axes.text(
        0.02, 0.02, name + date, transform=axes.transAxes, fontsize=6, color="w", bbox={"color": "#0008", "pad": 1}
    )
    is_first = name == next(n for n in dataset.modalities if n in sample.series)
    return _draw_objects(axes, dataset, sample) if is_first else set()


def look_of(series: Series, modality: Modality, number: int) -> Rgb:
    """One date as a picture: true colour; VV, VH and their ratio of a radar; otherwise the first band in grey."""
    names, values = modality.band_names, series.values[number]
    known = np.where(series.valid[number], values.astype(np.float32), np.nan)
    for colours in (("red", "green", "blue"), ("B04", "B03", "B02")):
        if set(colours) <= set(names):
            chosen = [names.index(c) for c in colours]
            if modality.units == DISPLAY and values.dtype == np.uint8:
                return np.moveaxis(values[chosen], 0, -1).astype(np.uint8)
            return stretch(np.moveaxis(known[chosen], 0, -1))
    if {"VV", "VH"} <= set(names):
        vv, vh = known[names.index("VV")], known[names.index("VH")]
        if modality.units != "dB":
            vv, vh = (10 * np.log10(np.where(v > 0, v, np.nan)) for v in (vv, vh))
        return stretch(np.stack([vv, vh, vv - vh], -1))
    return stretch(known[0][..., None])


def _draw_objects(axes: Axes, dataset: Dataset, sample: Sample) -> set[int]:
    from matplotlib.patches import Polygon

    colours, used = class_colours(_names(dataset)) / 255, set()
    if "corners" in sample.targets:
        outlines = sample.targets["corners"]
    elif "boxes" in sample.targets:
        outlines = sample.targets["boxes"][:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    else:
        return set()
    difficult = sample.targets.get("difficult", np.zeros(len(outlines), bool))
    for outline, number, hard in zip(outlines, sample.targets["box_class"].tolist(), difficult.tolist(), strict=True):
        style = ":" if hard else "-"
        axes.add_patch(
            Polygon(
                outline,
                closed=True,
                fill=False,
                edgecolor=colours[number] if number >= 0 else "0.6",
                linewidth=1,
                linestyle=style,
            )
        )
        used |= {number} - {-1}
    return used


def _draw_lines(axes: Axes, series: Series, modality: Modality) -> None:
    """A series of one pixel: each band from its least to its greatest value, over its dates."""
    axes.axis("on")
    known = (series.day != DAY_UNKNOWN).all()
    days = series.day if known else np.arange(len(series.day))
    order = np.argsort(days, kind="stable")
    values = np.where(series.valid[:, 0, 0, None], series.values[:, :, 0, 0].astype(float), np.nan)[order]
    for band in range(len(modality.bands)):
        line = values[:, band]
        if np.isfinite(line).any():
            least, most = float(np.nanmin(line)), float(np.nanmax(line))
            axes.plot(days[order], (line - least) / max(most - least, 1e-9), linewidth=0.8, marker=".", markersize=2)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"{modality.name}, {len(days)} {'dates' if known else 'steps'}", fontsize=6)


def _names(dataset: Dataset) -> tuple[str, ...]:
    return ("unchanged", "changed") if dataset.kind == "change" else dataset.classes


def _label(dataset: Dataset, sample: Sample) -> str:
    if dataset.kind == "scene":
        return dataset.classes[int(sample.targets["class"])]
    if dataset.kind == "multilabel":
        return ", ".join(dataset.classes[i] for i in np.flatnonzero(sample.targets["classes"])) or "no class"
    if dataset.kind == "regression":
        return ", ".join(f"{v:.3g}" for v in np.ravel(sample.targets["value"]).tolist())
    if dataset.kind in ("boxes", "oriented"):
        return f"{len(sample.targets['box_class'])} objects"
    return ""


def _thin(rgb: Rgb) -> Rgb:
    """Every k-th pixel of what is larger than a panel can show."""
    step = max(1, max(rgb.shape[:2]) // SIDE_PX)
    return rgb[::step, ::step]


def _short(text: str, most: int = 44) -> str:
    plain = "".join(c if c.isprintable() else " " for c in text).replace("$", r"\$")
    return plain if len(plain) <= most else plain[: most - 1] + "…"
