"""Views of one place: crops, flips and dates. Geometry is whole pixels and invertible, so pixel pairs match exactly.

Windows are read, collated and moved once; their views are cut on the device, by draws that depend on the sample alone.
Cut in the loader, two views cost more copying than reading does. Values stay in stored units; photometric changes come
after (`photometric.py`).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from skyframe.calendar import DAY_UNKNOWN
from skyframe.config.skysense import ViewsConfig
from skyframe.randomness import Draw, hash64
from skyframe.sample import Batch, SeriesBatch, widened
from skyframe.spec import InputError

SYMMETRIES = ((0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 0, 0), (0, 1, 0), (1, 1, 1), (0, 0, 1))
"""The square's symmetry group D4, each element as (transpose, then flip rows, flip columns): a transpose for elements
4..7, then `element % 4` quarter turns."""


def crop(windows: Batch, window_px: int, corner: Tensor, side: int, element: Tensor | None = None) -> Batch:
    """Cut the same square out of every modality and turn it; weather and other 1 x 1 series pass unchanged.

    Args:
        windows: B windows of `window_px` pixels on the 10 m grid; other modalities by their pixel ratio to it.
        window_px: side of a whole window on the 10 m grid.
        corner: int64 `[B, 2]`, upper row and left column of each square in pixels of the 10 m grid.
        side: of the squares, in pixels of the 10 m grid.
        element: int64 `[B]`, the symmetry of each square (default: none).

    Returns:
        A Batch whose `pixel` holds, per position in row order, row * window_px + column in the uncut window.

    Raises:
        InputError: a modality has no whole number of pixels per 10 m pixel.
    """
    element = torch.zeros_like(windows.region) if element is None else element
    series = {name: _crop_series(name, s, window_px, corner, side, element) for name, s in windows.series.items()}
    return dataclasses.replace(windows, series=series, pixel=_index(corner, side, window_px, element, 1))


def make_views(windows: Batch, views: ViewsConfig, window_px: int, seed: int) -> tuple[Batch, ...]:
    """The student's view, the teacher's view, then `local_crops` high-resolution crops for the student.

    Every draw is keyed by (seed, epoch, sample index, view), so the same sample gives the same views in any batch, on
    any rank and device.
    """
    draw = Draw(hash64(seed, "views"), (windows.epoch << 40) + windows.index)
    span = window_px - views.crop_px + 1
    corner = _integers(draw.named("corner"), span, 2)
    turn = _integers(draw.named("turn"), len(SYMMETRIES))[:, 0]
    made = []
    for number in range(2):
        stream = draw.named("view", number)
        own = _integers(stream.named("turn"), len(SYMMETRIES))[:, 0]
        element = {"none": None, "shared": turn, "independent": own}[views.flips]
        at = corner
        if views.geometry == "overlap" and number == 1:
            reach = views.crop_px // 2
            at = (corner + _integers(stream.named("shift"), 2 * reach + 1, 2) - reach).clamp(0, span - 1)
        view = crop(windows, window_px, at, views.crop_px, element)
        made.append(_disturb_dates(view, views, stream))
    for number in range(views.local_crops):
        made.append(_local(windows, views, window_px, corner, draw.named("local", number)))
    return tuple(made)


def _integers(draw: Draw, stop: int, num: int = 1) -> Tensor:
    """int64 `[B, num]` in 0..stop-1."""
    return (draw.uniform(num) * stop).long().clamp_max(stop - 1)


def _index(corner: Tensor, side: int, window_px: int, element: Tensor, k: int) -> Tensor:
    """Where each pixel of a turned square lies in its window, int64 `[B, (side*k)^2]`; k x k pixels per position."""
    chosen = torch.tensor(SYMMETRIES, device=element.device)[element].bool()
    transpose, flip_rows, flip_columns = chosen[:, :, None, None].unbind(1)
    steps = torch.arange(side * k, device=element.device)
    i, j = (grid[None] for grid in torch.meshgrid(steps, steps, indexing="ij"))
    i, j = torch.where(flip_rows, side * k - 1 - i, i), torch.where(flip_columns, side * k - 1 - j, j)
    row, column = torch.where(transpose, j, i), torch.where(transpose, i, j)
    top, left = (corner * k).unbind(1)
    return ((top[:, None, None] + row) * (window_px * k) + left[:, None, None] + column).flatten(1)


def _crop_series(
    name: str, series: SeriesBatch, window_px: int, corner: Tensor, side: int, element: Tensor
) -> SeriesBatch:
    b, t, c, height, width = series.values.shape
    if (height, width) == (1, 1) and window_px > 1:
        return series
    if height != width or height % window_px:
        raise InputError(
            f"{name}: a window of {window_px} x {window_px} pixels of 10 m holds {height} x {width} pixels of it, "
            "expected a whole number per 10 m pixel; ingest the modality at a GSD that divides 10 m"
        )
    k = height // window_px
    index = _index(corner, side, window_px, element, k)
    values = widened(series.values).flatten(-2).gather(-1, index[:, None, None].expand(b, t, c, -1))
    valid = series.valid.flatten(-2).gather(-1, index[:, None].expand(b, t, -1))
    return dataclasses.replace(
        series, values=values.unflatten(-1, (side * k, side * k)), valid=valid.unflatten(-1, (side * k, side * k))
    )


def _disturb_dates(view: Batch, views: ViewsConfig, draw: Draw) -> Batch:
    """Move each known date by up to `jitter_days` and hide frames."""
    series = {}
    for name, s in view.series.items():
        stream, dates = draw.named("dates", name), s.day.shape[1]
        move = _integers(stream.named("move"), 2 * views.jitter_days + 1, dates) - views.jitter_days
        hidden = stream.named("hide").uniform(dates) < views.drop_frames
        # an image is not one frame of many: hiding it would hide the modality
        hidden = hidden & (s.valid.flatten(2).any(2).sum(1, keepdim=True) > 1)
        day = torch.where(s.day == DAY_UNKNOWN, s.day, s.day + move.to(s.day.dtype))
        series[name] = dataclasses.replace(s, day=day, valid=s.valid & ~hidden[:, :, None, None])
    return dataclasses.replace(view, series=series)


def _local(windows: Batch, views: ViewsConfig, window_px: int, corner: Tensor, draw: Draw) -> Batch:
    """A smaller high-resolution square inside the student's crop; other modalities are left out."""
    inside = _integers(draw.named("corner"), views.crop_px - views.local_px + 1, 2)
    element = _integers(draw.named("turn"), len(SYMMETRIES))[:, 0]
    only_hr = dataclasses.replace(windows, series={k: s for k, s in windows.series.items() if k == "hr"})
    return crop(only_hr, window_px, corner + inside, views.local_px, element)
