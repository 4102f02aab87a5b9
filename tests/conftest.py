"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real samples: SKYFRAME_SHARED or ../shared beside the project."""
    root = Path(os.environ.get("SKYFRAME_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (root / "data").is_dir():
        pytest.skip(f"real samples wanted under {root}/data are absent; set SKYFRAME_SHARED to the folder that holds them")
    return root
