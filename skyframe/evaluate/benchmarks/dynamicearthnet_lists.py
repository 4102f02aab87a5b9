"""What DynamicEarthNet's lists name: labelled months with their parts, areas, and composites by month."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from skyframe.evaluate.datasets.dataset import PARTS, hashed_part, leads_out, read_or_tell
from skyframe.evaluate.datasets.files import read_lines, read_table

LISTS = "dynnet_training_splits"
AREA = re.compile(r"\d{4}_\d{4}_\d{2}")
MONTH = re.compile(r"(20\d\d)[-_](0[1-9]|1[0-2])(?=\D|$)")
"""As file names hold it."""
YEAR_MONTH = re.compile(r"20\d\d-(0[1-9]|1[0-2])")
"""As lists hold it."""


@dataclass(frozen=True)
class Row:
    """One labelled month of one area."""

    part: str
    area: str
    month: str  # YYYY-MM
    label: Path
    composites: dict[str, Path]  # by `s2` and `s1`, where there is one


def labelled_months(name: str, root: Path) -> tuple[list[Row], str, list[str]]:
    """Labelled months, where their parts come from in words, and what is wrong with the lists, one sentence each.

    Args:
        name: of the data set, for the sentences.
        root: folder that holds lists, labels and composites.
    """
    table = next((p for p in (root / "split_info/splits.csv", root / "splits.csv") if p.is_file()), None)
    if table is not None:
        return _table_rows(name, root, table)
    problems: list[str] = []
    if any((root / LISTS / f"{part}.txt").is_file() for part in PARTS):
        labels, split = _listed_labels(name, root, problems), f"{LISTS}/{{train,val,test}}.txt"
    else:
        labels = _found_labels(name, root, problems)
        split = "by hash of the area, 60/20/20: the published lists are gone, and not here"
    composites = {"s2": _composites(root, "sentinel2"), "s1": _composites(root, "sentinel1")}
    rows = [
        Row(part, area, month, label, {r: c[area, month] for r, c in composites.items() if (area, month) in c})
        for part, area, month, label in labels
    ]
    return rows, split, problems


def _listed_labels(name: str, root: Path, problems: list[str]) -> list[tuple[str, str, str, Path]]:
    """Part, area, month and label of PANGAEA's lists."""
    labels = []
    for part in PARTS:
        path = root / LISTS / f"{part}.txt"
        no_lines: list[str] = []
        for line in read_or_tell(name, partial(read_lines, path), no_lines, problems):
            columns = line.split()
            area = AREA.search(columns[0])
            label = columns[1].lstrip("/") if len(columns) == 3 else ".."
            if area is None or leads_out(label) or not YEAR_MONTH.fullmatch(columns[2]):
                problems.append(f"{name}: {path} has a line {line[:60]!r}, expected image folder, label and month")
            else:
                labels.append((part, area[0], columns[2], root / label))
    return labels


def _found_labels(name: str, root: Path, problems: list[str]) -> list[tuple[str, str, str, Path]]:
    """Part by hash, area, month and label of every label that lies there."""
    labels = []
    for path in sorted((root / "labels").glob("*/Labels/Raster/*/*.tif")):
        area, month = AREA.search(path.relative_to(root).as_posix()), MONTH.search(path.stem)
        if area and month:
            labels.append((hashed_part(area[0], name="dynamicearthnet"), area[0], "-".join(month.groups()), path))
        else:
            problems.append(f"{name}: {path} tells no area and month, expected .../1311_3077_13_10N/...2018_01_01")
    if not labels:
        problems.append(f"{name}: no label in {root / 'labels'}, expected labels/<area>_<zone>/Labels/Raster")
    return labels


def _table_rows(name: str, root: Path, table: Path) -> tuple[list[Row], str, list[str]]:
    """Rows of GEO-Bench-2's list, which also says which composites were never made."""
    rows: list[Row] = []
    problems: list[str] = []
    columns = ("split", "planet_path", "label_path", "year_month")
    entries: list[dict[str, str]] = []
    for line, entry in enumerate(read_or_tell(name, lambda: read_table(table, columns), entries, problems), 2):
        part = {"validation": "val"}.get(entry["split"], entry["split"])
        area = AREA.search(entry["planet_path"])
        if part not in PARTS or area is None or not YEAR_MONTH.fullmatch(entry["year_month"]):
            problems.append(
                f"{name}: {table}, line {line}: no part, area and month, expected all; fetch the list again"
            )
            continue
        if entry.get("missing_label", "").lower() == "true":
            continue
        paths = {r: entry.get(r, "").lstrip("/") for r in ("label_path", "s2_path", "s1_path")}
        if any(map(leads_out, paths.values())):
            problems.append(f"{name}: {table}, line {line}: a path leads out of {root}, expected it below; fetch again")
            continue
        made = [r for r in ("s2", "s1") if paths[f"{r}_path"] and entry.get(f"missing_{r}", "").lower() != "true"]
        composites = {r: root / paths[f"{r}_path"] for r in made}
        rows.append(Row(part, area[0], entry["year_month"], root / paths["label_path"], composites))
    return rows, f"{table.relative_to(root)}", problems


def image_folders(folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Each area and the folder of its images; does not list the images."""
    for folder in folders:
        if AREA.fullmatch(folder.name):
            yield folder.name, folder / "PF-SR" if (folder / "PF-SR").is_dir() else folder
        else:
            yield from image_folders([p for p in folder.iterdir() if p.is_dir()])


def _composites(root: Path, folder: str) -> dict[tuple[str, str], Path]:
    """Monthly composites by area and month."""
    found = {}
    for path in sorted((root / folder).rglob("*.tif")):
        area = AREA.search(path.relative_to(root).as_posix())
        month = MONTH.search(AREA.sub("", path.stem))
        if area and month:
            found[area[0], "-".join(month.groups())] = path
    return found
