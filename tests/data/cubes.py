"""Tiny deterministic cubes for tests: every pixel follows from its coordinates, so that a test can say what it expects."""

import numpy as np

from skyframe.calendar import DAY_UNKNOWN
from skyframe.data.cube import open_cube
from skyframe.data.write import CubeWriter
from skyframe.spec import CubeSpec, Grid
