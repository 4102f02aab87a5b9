"""What latency costs the training loader: local against HTTP with 30 ms a request, with and without read-ahead.

    python -m benchmarks.http_loader

Server and client share the machine's cores, so that the server's processor time is told beside: on a machine of its
own it would cost the client nothing. Rates are of the loader alone, views and collation in it.
"""

from __future__ import annotations

import datetime
import os
import statistics
import tempfile
import time
from pathlib import Path

from skyframe.config import load_recipe
from skyframe.data.datamodule import CubeDataModule
from skyframe.data.synthetic.simulate import simulate
from tests.object_server import ServerProcess

RESULTS = Path(__file__).parent / "results"
LATENCY_S = 0.03
ROUNDS = 3
BATCH, STEPS, WARM_UP = 8, 80, 12


def rate(cubes: str, workers: int, ahead: bool) -> tuple[float, float]:
    """Samples a second, after the first batches, and milliseconds of this process's cores for each of them."""
    words = [
        f"data.cubes=[{cubes}]", f"data.workers={workers}", f"train.global_batch={BATCH}", f"train.max_steps={STEPS}"
    ]  # fmt: skip
    loader = CubeDataModule(load_recipe("skysense_demo", words)).train_dataloader()
    if not ahead:
        loader.dataset.ahead = None  # type: ignore[attr-defined]
    begun = cpu = 0.0
    for number, _ in enumerate(loader):
        if number == WARM_UP:
            begun, cpu = time.perf_counter(), time.process_time()
    count = (STEPS - WARM_UP - 1) * BATCH
    return count / (time.perf_counter() - begun), 1000 * (time.process_time() - cpu) / count


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        simulate(root / "a", width_m=5120, height_m=5120, seed=3, climate="oceanic", origin_m=(0.0, 0.0), hr_share=0.1)
        with ServerProcess(root, LATENCY_S) as server:
            for workers in (0, 1, 2):
                got: dict[str, list[float]] = {"local": [], "plain": [], "ahead": []}
                cpu_ms: dict[str, list[float]] = {"local": [], "ahead": []}
                share, requests = [], []
                for _ in range(ROUNDS):
                    for name, place in (("local", str(root)), ("plain", server.url)):
                        per_s, spent = rate(f"{place}/a", workers, ahead=name == "local")
                        got[name].append(per_s)
                        cpu_ms.setdefault(name, []).append(spent)
                    before, begun = server.stats(), time.perf_counter()
                    per_s, spent = rate(f"{server.url}/a", workers, ahead=True)
                    got["ahead"].append(per_s)
                    cpu_ms["ahead"].append(spent)
                    after = server.stats()
                    share.append((after["cpu_s"] - before["cpu_s"]) / (time.perf_counter() - begun))
                    requests.append((after["requests"] - before["requests"]) / (STEPS * BATCH))
                local, plain, ahead = (statistics.median(got[name]) for name in ("local", "plain", "ahead"))
                spent_local, spent_ahead = (statistics.median(cpu_ms[name]) for name in ("local", "ahead"))
                cpu = f"{spent_local:.2f} / {spent_ahead:.2f}" if not workers else "in the workers"
                rows.append(
                    f"| {workers} | {local:.1f} | {plain:.1f} | {ahead:.1f} | "
                    f"{100 * plain / local:.0f} % | {100 * ahead / local:.0f} % | "
                    f"{100 * statistics.median(share):.0f} % | {statistics.median(requests):.1f} | {cpu} |"
                )
                print(rows[-1], flush=True)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    lines = [
        f"# The loader over HTTP, {today}",
        "",
        f"`python -m benchmarks.http_loader` on {os.cpu_count()} shared cores: recipe skysense_demo, batches of",
        f"{BATCH}, {STEPS} steps of which {WARM_UP + 1} are not counted; medians of {ROUNDS} interleaved rounds,",
        f"samples a second, collation in it. The server waits {1000 * LATENCY_S:.0f} ms before each answer; it runs",
        f"on the same cores, and its share of one core is told. Load average at the end: {os.getloadavg()[0]:.1f}.",
        "",
        "| workers | local | HTTP, no read-ahead | HTTP, read-ahead | without / local | with / local "
        "| server's share of a core | requests a sample | client's CPU ms a sample, local / HTTP |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]
    path = RESULTS / f"{today}_http_loader.md"
    path.write_text("\n".join(lines) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
