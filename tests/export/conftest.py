"""A nano run and its export, made once for the tests of this folder."""

from pathlib import Path

import pytest

from skyframe.export import export_run
from skyframe.train.checkpoint import read_checkpoint
from skyframe.train.run import load_run, pretrain
from tests.system.batches import nano_recipe


@pytest.fixture(scope="session")
def nano_run(earth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps on both cubes of the simulated Earth, all three modalities."""
    where = [f"data.cubes=[{earth}/a,{earth}/b]", f"train.run_dir={tmp_path_factory.mktemp('runs')}", "name=nano"]
    return pretrain(nano_recipe(*where, "train.max_steps=2", "loss.ema_start=0.5"), show=False)


@pytest.fixture(scope="session")
def exported(nano_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its modules, one folder each; tests that alter one work on a copy."""
    recipe, checkpoint = load_run(nano_run)
    out = tmp_path_factory.mktemp("export") / "nano"
    export_run(read_checkpoint(checkpoint), recipe, out)
    return out
