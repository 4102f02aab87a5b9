"""From a scene's own mask (classes or bit fields, as its YAML describes them) to flags per pixel."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skyframe.data.cube import CLEAR, CLOUD, NODATA, SHADOW
from skyframe.data.ingest.gfmap import SCENE_CLASS_FLAGS
from skyframe.spec import InputError

FLAGS = {"clear": CLEAR, "shadow": SHADOW, "cloud": CLOUD, "nodata": NODATA}
"""Names in a YAML, later ones go before earlier ones where several are true of a pixel."""


@dataclass(frozen=True)
class Bits:
    """A bit field of a quality band: `width` bits from bit `first` (0 is the lowest), true from `at_least` on."""

    first: int
    width: int = 1
    at_least: int = 1

    def __post_init__(self) -> None:
        if not (self.first >= 0 and self.width >= 1 and self.first + self.width <= 24):
            raise InputError(
                f"mask: {self.width} bits from bit {self.first}, expected some of the bits 0 to 23; correct first and "
                "width"
            )


@dataclass(frozen=True)
class Mask:
    """The band that holds a mask, and what its values mean: flag name -> classes, or flag name -> bit fields.

    Where `classes` names `clear` ones, a class that is listed nowhere is an error; else it is clear.
    """

    band: str
    classes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    bits: dict[str, tuple[Bits, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (*self.classes, *self.bits):
            if name not in FLAGS:
                raise InputError(f"mask: no flag {name!r}, expected some of {', '.join(FLAGS)}; correct its name")
        if bool(self.classes) == bool(self.bits):
            raise InputError(
                f"mask: {self.band} needs either classes or bits, expected one of them; describe its values"
            )


SCENE_CLASSES = Mask(
    "SCL",
    {name: tuple(c for c, flag in SCENE_CLASS_FLAGS.items() if flag == value) for name, value in FLAGS.items()},
)
"""Sen2Cor's scene classification."""


def flags_by(mask: Mask, values: NDArray[np.float32], where: str) -> NDArray[np.uint8]:
    """Flags of a mask's values.

    Args:
        mask: what they mean.
        values: any shape, whole numbers, NaN where missing (nodata).
        where: scene and block, for the message.

    Returns:
        uint8 of the same shape.

    Raises:
        InputError: a class that is listed nowhere.
    """
    lost = np.isnan(values)
    codes = np.where(lost, 0, values).astype(np.int64)
    flags = np.full(values.shape, CLEAR, np.uint8)
    for name, flag in FLAGS.items():
        if name in mask.classes:
            flags[np.isin(codes, mask.classes[name])] = flag
        for bits in mask.bits.get(name, ()):
            flags[(codes >> bits.first) % 2**bits.width >= bits.at_least] = flag
    if "clear" in mask.classes:
        known = [value for values in mask.classes.values() for value in values]
        strange = np.unique(codes[~lost & ~np.isin(codes, known)])
        if strange.size:
            raise InputError(
                f"{where}: the mask {mask.band} holds {', '.join(map(str, strange[:5]))}, expected classes among "
                f"{', '.join(map(str, sorted(known)))}; list it under mask.classes or check which band this is"
            )
    flags[lost] = NODATA
    return flags
