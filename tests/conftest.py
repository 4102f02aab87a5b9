"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch

from tests.minislurm import slurm  # noqa: F401  a fixture

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real samples: SKYFRAME_SHARED or ../shared beside the project."""
    root = Path(os.environ.get("SKYFRAME_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (root / "data").is_dir():
        pytest.skip(
            f"real samples wanted under {root}/data are absent; set SKYFRAME_SHARED to the folder that holds them"
        )
    return root


@pytest.fixture(scope="session")
def earth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two simulated cubes of different climates: `a` and `b`, 1280 m x 640 m each, half with imagery."""
    from skyframe.data.synthetic.simulate import simulate

    root = tmp_path_factory.mktemp("earth")
    for name, climate, east in (("a", "oceanic", 0.0), ("b", "continental", 64000.0)):
        simulate(
            root / name,
            width_m=1280,
            height_m=640,
            seed=3,
            climate=climate,
            origin_m=(0.0, east),
            year=2021,
            hr_share=0.5,
        )
    return root


@pytest.fixture(scope="session")
def optical_only(earth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cube `b` again under another name, with nothing but its Sentinel-2 series."""
    from benchmarks.strategies import optical_copy

    return optical_copy(earth / "b", tmp_path_factory.mktemp("optical") / "optical_only")


@pytest.fixture(scope="session")
def nano_run(earth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training steps on both cubes, all three modalities. Tests that alter it work on a copy."""
    from skyframe.train.run import pretrain
    from tests.system.batches import nano_recipe

    where = [f"data.cubes=[{earth}/a,{earth}/b]", f"train.run_dir={tmp_path_factory.mktemp('runs')}", "name=nano"]
    return pretrain(nano_recipe(*where, "train.max_steps=2", "loss.ema_start=0.5"), show=False)


@pytest.fixture(scope="session")
def exported(nano_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's modules, one folder each. Tests that alter one work on a copy."""
    from skyframe.export import export_run
    from skyframe.train.checkpoint import read_checkpoint
    from skyframe.train.run import load_run

    recipe, checkpoint = load_run(nano_run)
    out = tmp_path_factory.mktemp("export") / "nano"
    export_run(read_checkpoint(checkpoint), recipe, out)
    return out
