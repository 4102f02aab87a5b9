"""What a recipe's batches look like: its modalities, and dates, bands and pixels of each; imports no Lightning."""

from __future__ import annotations

from collections.abc import Mapping

from skyframe.config.recipe import DataConfig
from skyframe.data.selection import BASE_GSD_M
from skyframe.sample import Layout
from skyframe.spec import CubeSpec, InputError, Modality, did_you_mean


def select_modalities(data: DataConfig) -> dict[str, Modality]:
    """The canonical modalities that a recipe names, in its order; unknown names are an error."""
    spec = CubeSpec.load(data.spec)
    for name in data.modalities:
        if name not in spec.modalities:
            raise InputError(
                f"data.modalities: {name!r} is not in spec {spec.name} "
                f"({', '.join(spec.modalities)}){did_you_mean(name, spec.modalities)}"
            )
    return {name: spec.modalities[name] for name in data.modalities}


def side_px(modality: Modality, size_px: int) -> int:
    """Pixels of a modality along `size_px` pixels of the 10 m grid (weather is one cell)."""
    return 1 if modality.kind == "weather" else modality.pixels(size_px * BASE_GSD_M)


def layouts_for(modalities: Mapping[str, Modality], frames: Mapping[str, int], size_px: int) -> dict[str, Layout]:
    """Batch layout of each modality for a crop of `size_px` pixels on the 10 m grid."""
    made = {}
    for name, m in modalities.items():
        if m.kind in ("series", "weather") and name not in frames:
            raise InputError(
                f"data.frames: {name} is a {m.kind} modality without a number of dates; add data.frames.{name}"
            )
        num_dates = frames[name] if m.kind in ("series", "weather") else 1
        made[name] = Layout(num_dates, len(m.bands), side_px(m, size_px), m.dtype)
    return made
