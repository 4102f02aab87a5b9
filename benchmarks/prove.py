"""The long proofs: learning against baselines, ablations and mechanisms. Resumable cell by cell, dated tables.

    make prove                                   everything that is not done yet
    python -m benchmarks.prove learning/full     only cells whose name contains the word

Every cell runs the public command line, keeps its answer under .prove/ and is skipped when it is there.
The tables under benchmarks/results/ hold command, versions, hardware and seeds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import batches, learning, strategies, survival
from benchmarks.learning import SEEDS, VARIANTS
from benchmarks.workplace import CELLS_OF, ROOT, commit, skyframe


@dataclass(frozen=True)
class Cell:
    """One unit of proof: `run` returns plain values for JSON."""

    name: str
    run: Callable[[], dict[str, Any]]


CELLS = [
    *(Cell(f"learning/{v}/seed{s}", partial(learning.learning, v, s)) for v in VARIANTS for s in SEEDS),
    *(Cell(f"mechanisms/seed{s}", partial(learning.mechanisms, s)) for s in SEEDS),
    Cell("real/mixed", learning.mixed),
    *(Cell(f"real/eurosat/seed{s}", partial(learning.eurosat, s)) for s in SEEDS),
    *(
        Cell(f"strategies/{w}/{p}x{m}", partial(strategies.equality, CELLS_OF / "strategies", skyframe, w, p, m))
        for w in strategies.WAYS for p in ((1,) if w == "alone" else (1, 2)) for m in strategies.MICRO
    ),
    *(Cell(f"batch/{b}/seed{s}", partial(batches.batch, b, s)) for s in SEEDS for b in batches.BATCHES),
    Cell("elastic/chain", partial(strategies.elastic, CELLS_OF / "elastic")),
    *(Cell(f"kills/{w}", partial(strategies.killed, CELLS_OF / "kills", w, 0)) for w in strategies.KILLED),
    Cell("survival/equal", partial(survival.equal, CELLS_OF / "survival")),
    *(Cell(f"survival/{t}", partial(survival.survive, CELLS_OF / "survival", t)) for t in survival.TROUBLES),
    Cell("survival/torchrun", partial(survival.torchrun, CELLS_OF / "survival")),
]  # fmt: skip


def stored(cell: Cell) -> dict[str, Any] | None:
    """A cell's answer of an earlier call."""
    path = _answer_path(cell)
    return dict(json.loads(path.read_text())) if path.is_file() else None


def answer(cell: Cell) -> dict[str, Any] | None:
    """Run a cell, or read its answer; None where it failed (the reason is printed)."""
    if (known := stored(cell)) is not None:
        return known
    begun, made_at = time.perf_counter(), commit()
    try:
        result = cell.run() | {"commit": made_at}
    except (RuntimeError, OSError) as error:
        print(f"{cell.name}: failed: {error}", flush=True)
        return None
    path = _answer_path(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(result))
    aside.replace(path)
    print(f"{cell.name}: done in {time.perf_counter() - begun:.0f} s", flush=True)
    return result


def _answer_path(cell: Cell) -> Path:
    return CELLS_OF / "cells" / f"{cell.name.replace('/', '_')}.json"


TABLES = {
    "learning": learning.learning_table,
    "mechanisms": learning.mechanisms_table,
    "real": learning.real_table,
    "batch": batches.batch_table,
    "strategies": strategies.equality_table,
    "elastic": strategies.elastic_table,
    "kills": strategies.killed_table,
    "survival": survival.survival_table,
}


def main() -> None:
    """Run what is missing, two cells at a time and family by family, then write the tables of all that is there."""
    words = sys.argv[1:]
    failed = False
    for family, write in TABLES.items():
        cells = [c for c in CELLS if c.name.startswith(f"{family}/")]
        chosen = [c for c in cells if not words or any(w in c.name for w in words)]
        if chosen:
            strategies.earth(CELLS_OF / family / "earth") if family in (
                "strategies",
                "elastic",
                "kills",
                "survival",
            ) else learning.cubes()
        with ThreadPoolExecutor(2) as pool:
            failed |= None in list(pool.map(answer, chosen))
        done = [a for a in map(stored, cells) if a is not None]
        if done:
            target = ROOT / "benchmarks" / "results" / f"{date.today()}_{family}.md"
            target.write_text(write(done))
            print(f"wrote {target.relative_to(ROOT)}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
