"""Which simulated Earth (`World`), and a rectangle of it on a regular grid (`Frame`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from skyframe.data.synthetic.noise import Doubles
from skyframe.randomness import hash64

ClimateName = Literal["oceanic", "continental"]
CLIMATES: tuple[ClimateName, ...] = ("oceanic", "continental")

BLOCK_PX = 256
"""Side of the block that is generated at once: one shard of the cube's 10 m arrays."""
PIXEL_M = 10.0
"""Ground sampling distance of the Sentinel grid, of terrain and of labels."""
HR_PIXEL_M = 0.3125
"""Ground sampling distance of the high-resolution image: 32 pixels to a Sentinel pixel."""
HR_TILE_M = 640.0
"""Side of a high-resolution tile: 2048 pixels, one shard."""
WEATHER_CELL_M = 5000.0
"""Side of a weather cell."""


@dataclass(frozen=True)
class World:
    """An infinite landscape with its weather: everything in it is a function of these two and of the place and day."""

    seed: int
    climate: ClimateName

    def key(self, *purpose: int | str) -> int:
        """The key of one field or draw, with room to add small numbers (octaves) below 2**64."""
        return hash64("simulated_earth", self.seed, self.climate, *purpose) >> 2


@dataclass(frozen=True)
class Frame:
    """A rectangle of the landscape: absolute metres of its upper-left corner, grid step, and size in pixels."""

    y_m: float
    x_m: float
    gsd_m: float
    height: int
    width: int

    @property
    def ys(self) -> Doubles:
        """float64 `[H]` absolute metres of pixel centres, southwards."""
        return np.asarray((self.y_px + np.arange(self.height) + 0.5) * self.gsd_m, np.float64)

    @property
    def xs(self) -> Doubles:
        """float64 `[W]` absolute metres of pixel centres, eastwards."""
        return np.asarray((self.x_px + np.arange(self.width) + 0.5) * self.gsd_m, np.float64)

    @property
    def y_px(self) -> int:
        """Absolute row of the first pixel."""
        return round(self.y_m / self.gsd_m)

    @property
    def x_px(self) -> int:
        """Absolute column of the first pixel."""
        return round(self.x_m / self.gsd_m)

    def grown(self, pixels: int) -> Frame:
        """The same frame with a margin of `pixels` on each side, for fields that need neighbours."""
        margin = pixels * self.gsd_m
        return Frame(
            self.y_m - margin, self.x_m - margin, self.gsd_m, self.height + 2 * pixels, self.width + 2 * pixels
        )
