"""Every data set that suites know: what is read, which head and metric ran on it, and what a damaged copy is told.

    python -m benchmarks.datasets_table SHARED

SHARED is the folder with real samples, of which one data set needs the files themselves. Every layout is written anew,
scored through the whole engine by a tiny encoder that was never trained (so the scores say that the path works, and
nothing else), and scored again with a file of its first training item removed or cut to half. Writes
benchmarks/results/<date>_datasets.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import platform
import re
import tempfile
from pathlib import Path

import torch

import skyframe
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.datasets.dataset import Dataset
from skyframe.export.folder import Exported
from skyframe.spec import InputError
from tests.evaluate.every_dataset import CASES, Case, benchmark_of, break_one, encoder, real_cases, score

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
COLUMNS = (
    *("data set", "predicts", "classes", "modalities (bands)", "layouts accepted", "source of the layout read here"),
    *("protocol", "metric", "test units", "damaged copy: the sentence", "scored as an incomplete one"),
)


def line(name: str, case: Case, root: Path, model: Exported) -> list[str]:
    """One data set, whole and damaged."""
    data = root / "data"
    data.mkdir()
    case.write(data)
    given = open_dataset(benchmark_of(name, data), data)
    row = score(name, case, data, root / "whole", model)
    broken = break_one(name, case, data)
    refused = incomplete = "no"
    try:
        score(name, dataclasses.replace(case, part=False), data, root / "damaged", model)
    except InputError as error:
        refused = shown(str(error), data)
    try:
        less = score(name, dataclasses.replace(case, part=True), data, root / "less", model)
        incomplete = "yes, another split" if less.split_sha256 != row.split_sha256 else "yes, same split"
    except InputError as error:
        incomplete = shown(str(error), data)
    how = "removed" if not broken.exists() else "changed"
    return [
        *("mine.yaml" if name == "mine" else name, given.kind, str(len(given.classes) or "-"), bands(given)),
        *(layouts()[name], f"{case.layout}{case.also}", row.protocol),
        *(f"{row.metric} {row.value:.3f}", f"{row.num_test:,}", f"({broken.name} {how}) {refused}", incomplete),
    ]


def layouts() -> dict[str, str]:
    """By name, as the documentation has them."""
    rows = [r.split(" | ") for r in PAGE.read_text(encoding="utf-8").splitlines() if r.startswith("| ")]
    found = {name: row[2] for row in rows if len(row) == 4 for name in re.findall("`([^`]+)`", row[0])}
    return found | {"mine": found["mine.yaml"]}


def bands(given: Dataset) -> str:
    """Modalities and how many bands each has."""
    return ", ".join(f"{n} ({len(m.bands)})" for n, m in given.modalities.items())


def shown(sentence: str, data: Path) -> str:
    """Without the folder of the day and what stands in all of them, and fit for a cell."""
    told = re.sub(r"^suite every: tasks\.[a-z0-9-]+: |; run `skyframe data-check .*", "", sentence)
    return told.replace(str(data), "ROOT").replace("|", "\\|")


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    shared = parser.parse_args().shared
    torch.set_num_threads(1)  # the network is so small that threads wait for each other
    model, rows = encoder(), []
    cases = {**CASES, **real_cases(shared)}
    for name in sorted(cases):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(line(name, cases[name], Path(folder), model))
        print(" | ".join(rows[-1][i] for i in (0, 1, 6, 7, 8)), flush=True)
    today = datetime.date.today()
    text = [
        "# Every data set: whole and damaged",
        "",
        f"{today}, `python -m benchmarks.datasets_table SHARED`; skyframe-eo {skyframe.__version__}, torch "
        f"{torch.__version__}, Python {platform.python_version()}. {len(rows)} data sets. Sentences end in how to look "
        "further (`skyframe data-check`), which is left out.",
        "",
        (__doc__ or "").split("\n\n")[-1].split(" Writes")[0].replace("\n", " "),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    (RESULTS / f"{today}_datasets.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
