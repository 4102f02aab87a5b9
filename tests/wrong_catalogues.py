"""Wrong input around catalogues, for the table of `test_cli.py`: name, words from a `Place`, part of the sentence."""

from collections.abc import Callable
from typing import Any

from skyframe.data.listing import list_cubes


def catalogue(place: Any, *more: str, damage: bool = False) -> list[str]:
    """Words that would train on the rows of a catalogue of both cubes, or of the first half of its file."""
    path = place.here / "c.parquet"
    list_cubes(path, [f"{place.earth}/a", f"{place.earth}/b"])
    if damage:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return place.pretrain("data.cubes=[]", "data.catalogue=c.parquet", *more)


WRONG_CATALOGUES: list[tuple[str, Callable[[Any], list[str]], str]] = [
    ("unknown column", lambda p: catalogue(p, "data.where=clouds < 0.3"), "did you mean 'cloud'?"),
    ("unknown modality in a condition", lambda p: catalogue(p, "data.where=has('s9')"), "no modality 's9'"),
    ("condition that is none", lambda p: catalogue(p, "data.where=cloud +"), "is no condition, expected one such as"),
    ("condition without a catalogue", lambda p: p.pretrain("data.where=cloud < 1"), "but data.catalogue is empty"),
    ("empty selection", lambda p: catalogue(p, "data.where=year == 1999"), "none is left for training"),
    ("unknown source", lambda p: catalogue(p, "data.sources={simulated_eart: 2}"), "did you mean 'simulated_earth'?"),
    ("every source left out", lambda p: catalogue(p, "data.sources={simulated_earth: 0}"), "has weight 0"),
    ("negative weight", lambda p: catalogue(p, "data.sources.simulated_earth=-1"), "is -1.0, expected 0 or more"),
    ("truncated catalogue", lambda p: catalogue(p, damage=True), "is no Parquet file, or a truncated one"),
    ("no such catalogue", lambda p: catalogue(p, "data.catalogue=d.parquet"), "no such catalogue, expected a Parquet"),
    ("cubes and catalogue", lambda p: p.pretrain("data.catalogue=c.parquet"), "are both given, expected one of them"),
    ("plan of an empty selection", lambda p: ["plan", *catalogue(p, "data.where=cloud > 2")[1:]], "none is left"),
    ("catalogue that is not there", lambda p: ["inspect", "nowhere.parquet"], "nowhere.parquet: no such catalogue"),
    ("catalogue of nothing", lambda p: ["catalogue", "c.parquet", "nowhere/*"], "nothing at 'nowhere/*'"),
    ("catalogue of no cube", lambda p: ["catalogue", "c.parquet", str(p.run)], "no manifest.json inside"),
    ("shares that do not add up", lambda p: ["catalogue", "c.parquet", "a", "--split", "train=0.5"], "whose sum is 1"),
]
