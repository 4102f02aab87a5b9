"""Encoders leave a run as folders: `model.safetensors` + `contract.json` + canary + card; loading is strict."""

from __future__ import annotations

from skyframe.export.folder import Exported, load_module, random_copy
from skyframe.export.run import export_run

__all__ = ["Exported", "export_run", "load_module", "random_copy"]
