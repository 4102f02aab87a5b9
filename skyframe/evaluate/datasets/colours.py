"""Colours of classes, stretched pictures, and pictures inside a page."""

from __future__ import annotations

import base64
import colorsys
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Rgb = NDArray[np.uint8]  # [H, W, 3]

CLASS_COLOURS = {
    "water": (66, 135, 205),
    "river": (66, 135, 205),
    "lake": (66, 135, 205),
    "forest": (34, 102, 58),
    "tree": (34, 102, 58),
    "grass": (142, 190, 104),
    "meadow": (142, 190, 104),
    "crop": (232, 200, 96),
    "cereal": (232, 200, 96),
    "wheat": (232, 200, 96),
    "maize": (214, 148, 58),
    "built": (196, 86, 78),
    "town": (196, 86, 78),
    "urban": (196, 86, 78),
    "road": (120, 120, 124),
    "bare": (178, 150, 120),
    "shrub": (128, 140, 74),
    "wet": (110, 170, 175),
}
"""Colours by a word in the class name; other classes take the next colour of a wheel."""
APART = 60
"""Distance in RGB that colours of the wheel keep from those by word."""


def stretch(values: NDArray[np.floating[Any]]) -> Rgb:
    """Each channel of `[H, W, 3]` from its 2nd to its 98th percentile onto 0..255; what is not known becomes grey."""
    known = np.isfinite(values).all(-1)
    if not known.any():
        return np.full((*values.shape[:2], 3), 128, np.uint8)
    lo, hi = np.percentile(values[known], [2, 98], axis=0)
    scaled = np.clip((np.where(known[..., None], values, lo) - lo) / np.maximum(hi - lo, 1e-9), 0, 1)
    made: Rgb = np.where(known[..., None], scaled * 255, 128).astype(np.uint8)
    return made if made.shape[-1] == 3 else np.repeat(made[..., :1], 3, axis=-1)


def mask_colours(mask: NDArray[np.int64], names: Sequence[str]) -> Rgb:
    """A mask `[H, W]` in the colours of its classes; what is not scored is light grey."""
    known = (mask >= 0) & (mask < len(names))
    rgb: Rgb = np.where(known[..., None], class_colours(names)[np.where(known, mask, 0)], 215).astype(np.uint8)
    return rgb


def class_colours(names: Sequence[str]) -> Rgb:
    """One colour per class `[C, 3]`: by a word in its name, otherwise from a wheel, away from those by word."""
    chosen = [next((c for word, c in CLASS_COLOURS.items() if word in n.lower()), None) for n in names]
    by_word = [c for c in chosen if c is not None]
    apart = [c for c in map(wheel, range(3 * len(names) + 12)) if all(math.dist(c, other) > APART for other in by_word)]
    fresh = iter(apart if len(apart) >= len(names) else [wheel(i) for i in range(len(names))])
    taken: set[tuple[int, int, int]] = set()
    made = []
    for colour in chosen:
        unique = colour if colour is not None and colour not in taken else next(fresh)
        taken.add(unique)
        made.append(unique)
    return np.array(made, np.uint8).reshape(-1, 3)


def wheel(number: int) -> tuple[int, int, int]:
    """Well-separated hues by the golden ratio, two brightness levels."""
    red, green, blue = colorsys.hsv_to_rgb(
        (number * 0.61803398875) % 1.0, 0.55 if number % 2 else 0.7, 0.9 if number % 3 else 0.7
    )
    return int(red * 255), int(green * 255), int(blue * 255)


def data_uri(rgb: Rgb, scale: int = 1) -> str:
    """A PNG inside a `data:` address, each pixel enlarged `scale` times."""
    image = Image.fromarray(np.repeat(np.repeat(rgb, scale, 0), scale, 1))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
