"""A suite on the cube `a` of the fixture `earth`, small enough to be scored within tests of training."""

from pathlib import Path

TASKS = """
  crops: {benchmark: simulated, label: crop_type, level: scene}
  crops_pixel: {benchmark: simulated, label: crop_type, level: pixel}
"""


def small_suite(earth: Path, folder: Path, tasks: str = TASKS) -> Path:
    """Write the suite: two tasks, nearest neighbours and a short linear probe, learnt and tested on windows of one cube
    under two names, as the other one has no fields."""
    path, again = folder / "small.yaml", folder / "again"
    again.symlink_to(earth / "a")
    data = (
        f"train: [{earth}/a], test: [{again}], train_windows: 32, val_windows: 12, test_windows: 32, window_px: 4, "
        "block_px: 16, positions: 4, frames: {s2: 3, s1: 2}"
    )
    path.write_text(
        f"name: small\ndata: {{simulated: {{{data}}}}}\ntasks:{tasks}knn: {{k: 3, also: [5]}}\n"
        "linear: {epochs: 5, lrs: [0.01]}\nbootstrap: 20\n"
    )
    return path
