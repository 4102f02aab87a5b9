"""The systems: they join models and objectives, and nothing else does."""

from __future__ import annotations

from skyframe.system.skysense import SkySense

SYSTEMS: dict[str, type[SkySense]] = {"skysense": SkySense}
"""System name -> class; the same keys as `config.SCHEMAS`."""

__all__ = ["SYSTEMS", "SkySense"]
