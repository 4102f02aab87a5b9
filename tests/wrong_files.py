"""Wrong files and wrong statistics: what is given on the command line, and the words of the refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tests.data.cubes import tiny_cube
from tests.data.ingest.arrays import CF_SPEC, minicube, write_cf, write_eopatch, write_minicube, write_points

if TYPE_CHECKING:
    from tests.test_cli import Place

ONE_LINE = """
name: mine
description: one line a modality
modalities:
  s1: {kind: series, bands: [{name: VV}, {name: VH}], gsd_m: 10, units: dB, dtype: int16, scale: 0.01}
"""

OTHER_NAMES = CF_SPEC.replace("{name: chl}", "{name: conc_chl}")


def pointer_in_a_patch(place: Place) -> list[str]:
    write_eopatch(place.here / "patch", data__BANDS=np.zeros((3, 5, 4, 13), np.float32))
    (place.here / "patch/data_timeless/DEM.npy").write_text("version https://git-lfs.github.com/spec/v1\n")
    return ["ingest", "eolearn", "patch", "out"]


def specs(place: Place, text: str) -> str:
    (place.here / "mine.yaml").write_text(text)
    return "mine.yaml"


WRONG_FILES: list[tuple[str, Callable[[Place], list[str]], str]] = [
    ("pointer in a patch", pointer_in_a_patch, "DEM.npy: is a git-lfs or git-annex pointer file"),
    (
        "cube in CF form without a spec",
        lambda p: ["ingest", "cf", str(write_cf(p.here / "a.nc")), "out"],
        "give --spec",
    ),
    (
        "cube in CF form of other variables",
        lambda p: ["ingest", "cf", str(write_cf(p.here / "s.zarr")), "out", "--spec", specs(p, OTHER_NAMES)],
        "no variable conc_chl",
    ),
    ("mini-cube of the older release", lambda p: ["ingest", "earthnet", "a.npz", "out"], "have no coordinates"),
    (
        "mini-cube in another layout",
        lambda p: ["ingest", "earthnet", str(write_cf(p.here / "a.nc")), "out"],
        "no s2_SCL, expected an EarthNet mini-cube",
    ),
    (
        "points without places",
        lambda p: ["ingest", "presto", str(write_points(p.here / "npy", latlon=None)), "out"],
        "latlon.npy: no such file",
    ),
    (
        "land cover of no legend",
        lambda p: [
            "ingest",
            "earthnet",
            str(write_minicube(p.here / "a.nc", minicube(esawc_lc=(("lat", "lon"), np.full((6, 6), 7.0))))),
            "out",
        ],
        "esawc_lc holds 7",
    ),
    # statistics
    ("statistics of nothing", lambda p: ["stats", "nowhere/*"], "stats: nothing at 'nowhere/*'"),
    ("statistics of no samples", lambda p: ["stats", f"{p.earth}/a", "--samples", "0"], "--samples 0"),
    ("statistics into no spec", lambda p: ["stats", f"{p.earth}/a", "--write", "no.yaml"], "no.yaml: no such file"),
    (
        "statistics under another spec",
        lambda p: ["stats", str(tiny_cube(p.here / "tiny.zarr").path), "--spec", "simulated_earth"],
        "the spec expects",
    ),
    (
        "statistics of a lost shard",
        lambda p: ["stats", p.damaged("s2/values", None), "--samples", "9999"],
        "s2/values",
    ),
    (
        "statistics into a spec in one line",
        lambda p: ["stats", f"{p.earth}/a", "--picture", "p.png", "--write", specs(p, ONE_LINE)],
        "s1 is not a block of its own",
    ),
]
