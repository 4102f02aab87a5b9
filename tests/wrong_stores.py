"""Wrong addresses and wrong archives: what is given on the command line, and the words of the refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.data.archive.archives import spec as archive_spec
from tests.data.archive.archives import two_grids, undated

if TYPE_CHECKING:
    from tests.test_cli import Place

MONTHS = ("2021-01-01", "2021-02-01", "2021-03-01")

WRONG_STORES: list[tuple[str, Callable[[Place], list[str]], str]] = [
    (
        "host that does not answer",
        lambda p: ["inspect", "http://127.0.0.1:9/a.zarr"],
        "could not be read in 5 attempts",
    ),
    ("address of another kind", lambda p: ["verify", "ftp://host/a.zarr"], "not an address that skyframe reads"),
    ("glob in an address", lambda p: p.pretrain(cubes="https://host/*.zarr"), "is an address with *"),
    ("typo in on_damage", lambda p: p.pretrain("data.on_damage=skp"), "data.on_damage"),
    ("cache of no size", lambda p: p.pretrain("data.cache={path: c, max_gb: 0}"), "expected at least 0.1"),
    # archives in place
    (
        "archive without that array",
        lambda p: ["inspect", str(undated(p.here, array="{band}_10m"))],
        "no array 'B02_10m' in",
    ),
    ("archive of unknown axes", lambda p: ["inspect", str(undated(p.here, array="odd"))], "such as dims: [time, y, x]"),
    ("archive without units of time", lambda p: ["inspect", str(undated(p.here))], "list the dates under dates:"),
    (
        "archive of another scale",
        lambda p: ["inspect", str(undated(p.here, archive_spec(scale=1e-3)))],
        "spec's s2 has scale 0.001",
    ),
    ("scenes on two grids", lambda p: ["inspect", str(two_grids(p.here))], "expected the grid of the other scenes"),
    ("verify of an archive", lambda p: ["verify", str(undated(p.here, dates=MONTHS * 3))], "rechunk it into one"),
    ("rechunk onto a cube", lambda p: ["rechunk", f"{p.earth}/a", str(p.cube())], "already exists"),
]
