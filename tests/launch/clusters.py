"""Cluster files for tests: the small private SLURM, and this machine."""

from pathlib import Path

MINI = """
time_limit: "00:10:00"
cpus_per_task: 2
interface: lo
env: {OMP_NUM_THREADS: "1"}
"""
LOCAL = """
executor: local
env: {OMP_NUM_THREADS: "1"}
"""


def cluster_file(folder: Path, text: str = MINI, name: str = "mini.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)
