"""Sentinel-1 backscatter: the water-cloud model over moist soil, man-made targets, terrain, speckle."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from skyframe.data.synthetic.crops import CROPS
from skyframe.data.synthetic.landscape import CONIFER, CROP, DECIDUOUS, TOWN, Cover, Land
from skyframe.data.synthetic.noise import Floats, hashed, normal, uniform, white
from skyframe.data.synthetic.phenology import Growth
from skyframe.data.synthetic.world import World

LOOKS = 4.9
"""Equivalent number of looks of Sentinel-1 IW GRD at 10 m (ESA product specification: 4.4 to 4.9)."""
_FLOOR = 10 ** (-28 / 10)
"""Residual thermal noise, linear."""
_MOISTURE_DB = 27.0
"""dB per unit of volumetric soil moisture at C band (0.2 to 0.3 dB per percent, Ulaby et al. 1986)."""
_OTHER_CANOPY = {DECIDUOUS: (0.135, 0.040, 0.30), CONIFER: (0.120, 0.036, 0.34)}
_GRASS_CANOPY = (0.085, 0.016, 0.18)
_TREE, _ASPHALT, _GRAVEL = (0.130, 0.038), (0.014, 0.0016), (0.040, 0.006)
_BOUNCE = (2.6, 0.34)
"""Double reflection between walls and ground per unit of roof share, VV and VH, linear."""


class Echo:
    """Everything about a block that radar dates share."""

    def __init__(self, world: World, ground: Land, shares: Cover, state: Growth) -> None:
        self.world, self.ground, self.state = world, ground, state
        self.shape = ground.unit.shape
        self.unit = ground.unit.ravel()
        self.canopy = _canopy_constants(ground, state)
        tree, asphalt, roof, gravel, water = (
            v.ravel() for v in (shares.tree, shares.asphalt, shares.roof, shares.gravel, shares.water)
        )
        wall = 0.5 + uniform(ground.units.hashes, "walls")[self.unit]
        self.water = water
        self.rest = np.clip(1.0 - tree - asphalt - roof - gravel - water, 0.0, 1.0) * shares.vigour.ravel() ** 0.4
        self.static = np.stack([
            tree * _TREE[p] + asphalt * _ASPHALT[p] + gravel * _GRAVEL[p] + roof * wall * _BOUNCE[p] for p in (0, 1)
        ]).astype(np.float32)  # fmt: skip

    def observe(self, t: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """One acquisition on day row `t`: int16 `[2, H, W]` in 0.01 dB (VV, VH) and flags uint8 `[H, W]`, all clear."""
        day = int(self.state.day[t])
        frame = self.ground.frame
        h = hashed(self.world.key("s1"), np.array([day]))
        ascending = bool(uniform(h, "pass")[0] < 0.5)
        incidence = math.radians(36.0 if ascending else 41.0)
        fields = self.backscatter(t, incidence)
        wind_db = float(np.clip(2.5 * normal(h, "wind")[0], -4.0, 6.0))
        tilt = np.float32(1.6 if ascending else -1.6) * self.ground.terrain.rising_east.ravel()
        keys = hashed(self.world.key("speckle", day), np.arange(2))
        speckle = white(keys, frame.y_px, frame.x_px, frame.height, frame.width, LOOKS).reshape(2, -1)
        out = np.empty((2, len(self.unit)), np.int16)
        for p, calm_db in enumerate((-20.5, -28.0)):
            linear = self.rest * fields[p][self.unit]
            linear += self.static[p]
            linear *= np.clip(1.0 + tilt, 0.4, 2.0)
            linear += self.water * np.float32(10 ** ((calm_db + wind_db) / 10)) + np.float32(_FLOOR)
            linear *= speckle[p]
            out[p] = np.clip(np.log10(linear) * np.float32(1000.0), -6000, 3000)
        return out.reshape(2, *self.shape), np.ones(self.shape, np.uint8)

    def backscatter(self, t: int, incidence: float) -> Floats:
        """Backscatter of the units' plants and soil on day row `t`, linear, float32 `[2, U]`.

        Water-cloud model (Attema & Ulaby 1978): a canopy of leaf area L scatters A cos(i) (1 - T) and lets the soil
        through with T = exp(-2 B L / cos(i)). Soil backscatter in dB is linear in moisture, rises after ploughing, and
        falls where the ground is frozen or under wet snow.
        """
        state = self.state
        scatter_vv, scatter_vh, attenuation = self.canopy
        through = np.exp(-2 * attenuation * (state.green[t] + 0.4 * state.brown[t]) / math.cos(incidence))
        soil_db = -18.5 + _MOISTURE_DB * state.moisture[t] + state.habits.rough_db + 2.2 * state.tilled[t]
        soil_db = soil_db - 3.5 * state.frozen[t] - 2.0 * state.snow[t]
        wet = 0.85 + 0.15 * state.supply[t]  # leaves short of water scatter less
        planes = []
        for scatter, below_db in ((scatter_vv, 0.0), (scatter_vh, 9.0)):
            leaves = scatter * wet * math.cos(incidence) * (1 - through)
            planes.append(leaves + through * 10 ** ((soil_db - below_db) / 10))
        return np.stack(planes).astype(np.float32)


def _canopy_constants(ground: Land, state: Growth) -> tuple[Floats, Floats, Floats]:
    """Scattering in VV and VH and attenuation per leaf area of every unit, float32 `[U]` each."""
    kind = ground.units.kind
    table = np.array([(c.water_vv, c.water_vh, c.attenuation) for c in CROPS], np.float32)
    out = np.tile(np.array(_GRASS_CANOPY, np.float32), (len(kind), 1))
    out[kind == CROP] = table[state.crop[kind == CROP]]
    for wood, constants in _OTHER_CANOPY.items():
        out[kind == wood] = constants
    out[kind == TOWN, :2] *= 0.8
    jitter = np.exp(0.12 * np.clip(normal(ground.units.hashes, "scatter"), -2.0, 2.0))
    return (out[:, 0] * jitter).astype(np.float32), (out[:, 1] * jitter).astype(np.float32), out[:, 2]
