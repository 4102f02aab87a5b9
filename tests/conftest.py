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


@pytest.fixture(scope="session")
def earth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small simulated cubes of different climates: `a` and `b`, 640 m each, half with imagery."""
    from skyframe.data.synthetic.simulate import simulate

    root = tmp_path_factory.mktemp("earth")
    for name, climate, east in (("a", "oceanic", 0.0), ("b", "continental", 64000.0)):
        simulate(root / name, width_m=1280, height_m=640, seed=3, climate=climate, origin_m=(0.0, east), year=2021, hr_share=0.5)
    return root
