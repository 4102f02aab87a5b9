"""Where the long proofs keep what they make, and the command line as they call it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

from skyframe.config import dump_recipe, load_recipe
from skyframe.config.evaluate import load_suite
from skyframe.spec import load_yaml

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".prove"
STEPS = 230
"""Of pretraining, for one encoder."""


def settings() -> str:
    """Eight hex digits of what every cell rests on; comments do not count."""
    names = ("skysense_s2s1", "skysense_mixed")
    recipes = [dump_recipe(load_recipe(name, [f"train.max_steps={STEPS}"])) for name in names]
    suites = [repr(load_suite(name)) for name in ("prove", "mechanisms", "regions", "eurosat")]
    spec = repr(load_yaml(ROOT / "data_specs" / "simulated_earth.yaml"))
    return hashlib.sha256("\n".join((*recipes, *suites, spec)).encode()).hexdigest()[:8]


CELLS_OF = WORK / settings()
"""Runs and answers lie apart by their settings: with changed ones the proof starts anew."""


def skyframe(*words: str) -> None:
    """Run the command line with one thread, so that two cells share two cores fairly."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    log = CELLS_OF / "logs"
    log.mkdir(parents=True, exist_ok=True)
    with (log / f"{time.time_ns()}.txt").open("w") as file:
        file.write(" ".join(words) + "\n")
        file.flush()
        done = subprocess.run(
            [sys.executable, "-m", "skyframe", *words],
            cwd=ROOT,
            env=env,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"skyframe {' '.join(words[:3])} ended with {done.returncode}; see {file.name}")


def commit() -> str:
    """The short hash of the checked-out commit."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
