"""Views of one place: crops, flips and dates. Geometry is whole pixels and invertible, so pixel pairs match exactly.

Values stay in the stored dtype; photometric changes happen on the device (`photometric.py`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN
from skyframe.config.skysense import ViewsConfig
from skyframe.randomness import generator
from skyframe.sample import Sample, Series
from skyframe.spec import InputError

NUM_SYMMETRIES = 8
"""Elements of the square's symmetry group D4: four rotations, each with and without a transpose."""


def symmetry(array: NDArray[np.generic], element: int) -> NDArray[np.generic]:
    """Apply element 0..7 of D4 to the last two axes: a transpose (elements 4..7), then `element % 4` quarter turns."""
    turned = np.swapaxes(array, -1, -2) if element >= 4 else array
    return np.rot90(turned, element % 4, axes=(-2, -1))


def crop(sample: Sample, window_px: int, top: int, left: int, side: int, element: int = 0) -> Sample:
    """Cut the same square out of every modality and turn it; weather and other 1 x 1 series pass unchanged.

    Args:
        sample: a window of `window_px` pixels on the 10 m grid; other modalities by their pixel ratio to it.
        window_px: side of the whole window on the 10 m grid.
        top, left, side: the square in pixels of the 10 m grid.
        element: symmetry of the square, 0 = none.

    Returns:
        A Sample whose `pixel` holds, per position in row order, row * window_px + column in the uncut window.
    """
    series = {name: _crop_series(name, s, window_px, top, left, side, element) for name, s in sample.series.items()}
    rows, columns = np.mgrid[top : top + side, left : left + side]
    pixel = symmetry((rows * window_px + columns).astype(np.int64), element)
    return dataclasses.replace(sample, series=series, pixel=np.ascontiguousarray(pixel).reshape(-1))


def make_views(sample: Sample, views: ViewsConfig, window_px: int, seed: int) -> tuple[Sample, ...]:
    """The student's view, the teacher's view, then `local_crops` high-resolution crops for the student.

    Every draw is keyed by (seed, epoch, sample index, view), so the same sample gives the same views on any rank.
    """
    key = (seed, sample.epoch, sample.index)
    place = generator(*key, "place")
    span = window_px - views.crop_px + 1
    top, left = (int(v) for v in place.integers(0, span, 2))
    turn = int(place.integers(NUM_SYMMETRIES))
    made = []
    for number in range(2):
        rng = generator(*key, "view", number)
        element = {"none": 0, "shared": turn, "independent": int(rng.integers(NUM_SYMMETRIES))}[views.flips]
        y, x = top, left
        if views.geometry == "overlap" and number == 1:
            reach = views.crop_px // 2
            y, x = (int(np.clip(v + rng.integers(-reach, reach + 1), 0, span - 1)) for v in (top, left))
        view = crop(sample, window_px, y, x, views.crop_px, element)
        made.append(_disturb_dates(view, views, rng))
    for number in range(views.local_crops):
        made.append(_local(sample, views, window_px, top, left, generator(*key, "local", number)))
    return tuple(made)


def _crop_series(name: str, series: Series, window_px: int, top: int, left: int, side: int, element: int) -> Series:
    height, width = series.valid.shape[-2:]
    if (height, width) == (1, 1) and window_px > 1:
        return series
    if height != width or height % window_px:
        raise InputError(
            f"{name}: a window of {window_px} x {window_px} pixels of 10 m holds {height} x {width} pixels of it, "
            "expected a whole number per 10 m pixel; ingest the modality at a GSD that divides 10 m"
        )
    k = height // window_px
    rows, columns = slice(top * k, (top + side) * k), slice(left * k, (left + side) * k)
    return dataclasses.replace(
        series,
        values=symmetry(series.values[..., rows, columns], element),
        valid=symmetry(series.valid[..., rows, columns], element).astype(bool, copy=False),
    )


def _disturb_dates(view: Sample, views: ViewsConfig, rng: np.random.Generator) -> Sample:
    """Move each known date by up to `jitter_days` and hide frames, in modality order so that draws are stable."""
    series = {}
    for name in sorted(view.series):
        s = view.series[name]
        move = rng.integers(-views.jitter_days, views.jitter_days + 1, len(s.day))
        hidden = rng.random(len(s.day)) < views.drop_frames
        if len(s.day) == 1:  # an image is not one frame of many: hiding it would hide the modality
            hidden[:] = False
        day = np.where(s.day == DAY_UNKNOWN, s.day, s.day + move).astype(np.int32)
        series[name] = dataclasses.replace(s, day=day, valid=s.valid & ~hidden[:, None, None])
    return dataclasses.replace(view, series=series)


def _local(sample: Sample, views: ViewsConfig, window_px: int, top: int, left: int, rng: np.random.Generator) -> Sample:
    """A smaller high-resolution square inside the student's crop; other modalities are left out."""
    span = views.crop_px - views.local_px + 1
    y, x = (int(v) for v in rng.integers(0, span, 2))
    only_hr = dataclasses.replace(sample, series={k: s for k, s in sample.series.items() if k == "hr"})
    return crop(only_hr, window_px, top + y, left + x, views.local_px, int(rng.integers(NUM_SYMMETRIES)))
