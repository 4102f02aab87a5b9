"""A suite on the cubes `a` and `b` of the fixture `earth`, small enough to be scored within tests of training."""

from pathlib import Path

TASKS = """
  cover: {benchmark: simulated, label: land_cover, level: scene}
  cover_pixel: {benchmark: simulated, label: land_cover, level: pixel}
"""


def small_suite(earth: Path, folder: Path, tasks: str = TASKS) -> Path:
    """Write the suite; two tasks, nearest neighbours and a short linear probe."""
    path = folder / "small.yaml"
    data = (
        f"train: [{earth}/a], test: [{earth}/b], train_windows: 24, val_windows: 8, test_windows: 24, window_px: 4, "
        "block_px: 16, positions: 4, frames: {s2: 3, s1: 2}"
    )
    path.write_text(
        f"name: small\ndata: {{simulated: {{{data}}}}}\ntasks:{tasks}knn: {{k: 3, also: [5]}}\n"
        "linear: {epochs: 1, lrs: [0.01]}\nbootstrap: 20\n"
    )
    return path
