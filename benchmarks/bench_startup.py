"""Start-up: wall time of `skyframe --help` beside bare Python and `import torch`, interleaved, median of the rounds."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

FORMS = {
    "python": ["-c", "pass"],
    "skyframe --help": ["-m", "skyframe", "--help"],
    "import torch": ["-c", "import torch"],
}
ROUNDS = 5


def measure() -> dict[str, float]:
    """Median wall seconds of each form in a fresh process."""
    times: dict[str, list[float]] = {name: [] for name in FORMS}
    for turn in range(ROUNDS + 1):  # the first turn warms the file cache
        for name, arguments in FORMS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            if turn:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print a table of seconds and ratios."""
    seconds = measure()
    print(f"{'form':<18}{'s':>8}{'of bare Python':>16}")
    for name, value in seconds.items():
        print(f"{name:<18}{value:>8.3f}{value / seconds['python']:>15.1f}x")


if __name__ == "__main__":
    main()
