"""SkyFrame: pretraining of Earth-observation foundation models on multi-modal time series.

Public names load lazily, so that `import skyframe` and the command line's help never import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "CubeSpec": "skyframe.spec",
    "InputError": "skyframe.spec",
    "Window": "skyframe.spec",
    "load_module": "skyframe.export",
    "load_recipe": "skyframe.config",
    "open_cube": "skyframe.data.cube",
    "read_series": "skyframe.data.read",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'skyframe' has no attribute {name!r}; public names: {', '.join(sorted(_LAZY))}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
