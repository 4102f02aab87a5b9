"""Every data set as a case: its layout written under a folder, how it is scored there, and what is then broken.

One tiny encoder of pictures, Sentinel-2, Sentinel-1 and grey radar, never trained, serves them all.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from skyframe.config.contract import CONTRACT_FORMAT, Contract
from skyframe.config.detection import DetectionConfig
from skyframe.config.evaluate import LinearConfig, Suite, TaskConfig
from skyframe.config.heads import HeadSpec, HeadTraining
from skyframe.evaluate.benchmarks import geobench1, geobench2, open_dataset
from skyframe.evaluate.datasets.imagery import DISPLAY, bands
from skyframe.evaluate.protocol import ResultRow, Subject
from skyframe.evaluate.suite import evaluate
from skyframe.export.folder import Exported
from skyframe.geography import place_of
from skyframe.model.factorised import FactorisedEncoder
from skyframe.spec import Modality
from tests.evaluate.layouts import pangaea, scenes
from tests.evaluate.layouts.damage import Damage, cut, remove, replaced
from tests.evaluate.layouts.detection import WRITERS as DETECTION
from tests.evaluate.layouts.dynamicearthnet import write_dynamicearthnet
from tests.evaluate.layouts.geobench1 import write_geobench1
from tests.evaluate.layouts.geobench2 import write_geobench2
from tests.evaluate.layouts.isaid import write_isaid
from tests.evaluate.layouts.levir import write_levir
from tests.evaluate.layouts.mmflood import write_mmflood
from tests.evaluate.layouts.oscd import write_oscd
from tests.evaluate.layouts.pastis import write_pastis
from tests.evaluate.layouts.potsdam import write_potsdam
from tests.evaluate.layouts.sen1floods11 import write_sen1floods11
from tests.evaluate.worlds import labelled_cube
from tests.system.batches import REGIONS, nano_recipe

HEAD, FIXTURE = "token_linear", "; torchgeo's fixture is read in its tests"
REAL, OWN = "; the real one is read in its tests", "a cube, a table and a YAML made for it"

PROTOCOLS = {
    "scene": "linear", "multilabel": "linear", "regression": "ridge", "boxes": "detector", "oriented": "detector",
    "pixel": "token_linear", "change": "token_linear", "semantic_change": "token_linear",
}  # fmt: skip
"""Cheapest protocol of each kind that trains what answers."""


@dataclass(frozen=True)
class Case:
    """One data set."""

    write: Callable[[Path], object]  # its layout below a folder
    num_test: int  # images, scored pixels or objects of the test part, by hand
    role: str = ""  # of the first training item's file that is broken; empty = its first
    file: str = ""  # what is broken where items name no files
    harm: Damage = remove
    protocol: str = ""  # where another than that of the kind is wanted: a head needs but one training image
    part: bool = False  # a copy as tiny as this is told to be a part of what was published
    positions: int = 0  # side that large images are resampled to
    limit: dict[str, int] | None = None
    layout: str = "written from the published description"
    also: str = ""  # what else of this layout is read elsewhere


def encoder() -> Exported:
    """A model of two layers and 4 x 4 or 1 x 1 pixels a token, its weights drawn."""
    modalities = {
        "hr": Modality("hr", "image", bands(("red", "green", "blue", "nir")), 2.5, DISPLAY, "uint8", scale=1 / 255,
                       mean=(0.4,) * 4, std=(0.2,) * 4),
        "s2": Modality("s2", "series", bands(("B02", "B03", "B04", "B08", "B11", "B12")), 10.0, "reflectance", "uint16",
                       scale=1e-4, mean=(0.2,) * 6, std=(0.1,) * 6),
        "s1": Modality("s1", "series", bands(("VV", "VH")), 10.0, "dB", "float32", mean=(-12.0, -18.0), std=(4.0, 4.0)),
        "sar": Modality("sar", "image", bands(("gray",)), 10.0, DISPLAY, "uint8", scale=1 / 255,
                        mean=(0.4,), std=(0.2,)),
    }  # fmt: skip
    config = nano_recipe().model
    small = dataclasses.replace(config.encoders["s2"], patch_px=1, train_px=4)
    encoders = dict.fromkeys(modalities, small) | {"hr": dataclasses.replace(small, patch_px=4, train_px=16)}
    config = dataclasses.replace(config, encoders=encoders)
    module = FactorisedEncoder(modalities, config, REGIONS.num_regions, 0).eval()
    contract = Contract(
        CONTRACT_FORMAT, "skysense", "model", modalities, {"s2": 2, "s1": 2}, 12, 4, module.num_features,
        regions=REGIONS.to_dict(),
    )  # fmt: skip
    return Exported(module, contract)


def benchmark_of(name: str, root: Path) -> str:
    """What a suite calls it."""
    return str(root / "mine.yaml") if name == "mine" else name


def score(name: str, case: Case, root: Path, out: Path, model: Exported) -> ResultRow:
    """One row of the default metric of an untrained encoder on a data set below `root`, through the whole engine."""
    benchmark = benchmark_of(name, root)
    kind = open_dataset(benchmark, root).kind
    task = TaskConfig(
        benchmark,
        protocols=(case.protocol or PROTOCOLS[kind],),
        root=str(root),
        tiles=1,
        positions=case.positions,
        limit=case.limit or {},
        incomplete=case.part,
    )
    suite = Suite(
        name="every",
        tasks={name: task},
        linear=LinearConfig(lrs=(1e-2,), epochs=2),
        heads={"token_linear": HeadTraining(HeadSpec("token_linear"), epochs=1, batch=2, overlap=0.0)},
        detectors={
            "detector": DetectionConfig(8, 1, (4, 8), epochs=1, batch=2, tile_px=48, overlap_px=0, candidates=40)
        },
        bootstrap=20,
    )
    rows = evaluate(suite, [Subject("tiny", model)], out, show_progress=False).rows
    (row,) = (r for r in rows if r.encoder == "tiny")
    return row


def break_one(name: str, case: Case, root: Path) -> Path:
    """Break a file of the first training item; which one."""
    path = root / case.file
    if not case.file:
        files = open_dataset(name, root).part("train")[0].files
        path = files[case.role] if case.role else next(iter(files.values()))
    case.harm(path)
    return path


def write_clouds(root: Path) -> None:
    """One scene of 512 x 512 pixels for either sensor."""
    mask = np.resize(np.array((0, 1, 3, 4), np.uint8), (512, 512, 1))
    image = np.random.default_rng(0).random((512, 512, 6), np.float32)
    for name in ("sentinel2.npz", "landsat5.npz"):
        np.savez(root / name, img=image, msk=mask)


def write_own(root: Path) -> None:
    """A cube of 640 m, sixteen labelled places in it, four of them of test, and the YAML that ties them."""
    cube = labelled_cube(root / "cube.zarr", 1, 640.0)
    lines = ["lat,lon,date,label,part"]
    for k in range(16):
        lat, lon = place_of(cube.grid, 80 + 160.0 * (k // 4), 80 + 160.0 * (k % 4))
        part = ("train", "train", "val", "test")[k // 4]
        lines.append(f"{lat},{lon},2022-06-{2 if k == 0 else 1:02d},{('wheat', 'maize')[k % 2]},{part}")
    (root / "rows.csv").write_text("\n".join(lines))
    tree = {
        "name": "mine", "task": "scene", "table": "rows.csv", "cubes": ["cube.zarr"], "modalities": ["s2"],
        "columns": {"lat": "lat", "lon": "lon", "date": "date", "split": "part"}, "split": {"by": "column"},
        "window_px": 4, "dates": {"days_before": 400, "days_after": 400},
    }  # fmt: skip
    (root / "mine.yaml").write_text(yaml.safe_dump(tree))


def copy_eopatch(real: Path, root: Path) -> None:
    """The patch and its scenes."""
    for name in ("data/NDVI", "mask/CLM", "mask/IS_VALID", "mask_timeless/LULC"):
        (root / "TestEOPatch" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(real / "TestEOPatch" / f"{name}.npy", root / "TestEOPatch" / f"{name}.npy")
    for name in ("timestamps.json", "bbox.geojson"):
        shutil.copy(real / "TestEOPatch" / name, root / "TestEOPatch")
    shutil.copy(real / "REFERENCE_SCENES.npy", root)


def _geobench1(name: str) -> Callable[[Path], object]:
    return lambda root: write_geobench1(root, name)


def _geobench2(name: str) -> Callable[[Path], object]:
    return lambda root: write_geobench2(root / f"geobench_{name}.tortilla", name)


def _units(name: str) -> int:
    """Two test images, whose first pixel is hidden where the set hides any."""
    about = geobench2.ABOUT[name]
    return 2 if about.kind == "multilabel" else 2 * (64 - any(h > 0 for h in about.hidden))


def _scene(name: str, num_test: int, **more: Any) -> Case:
    return Case(scenes.WRITERS[name], num_test, **more)


FLOODS = json.dumps({
    code: {"subset": part, "lat": 45.8, "lon": 14.5}
    for code, part in (("EMSR1", "train"), ("EMSR3", "train"), ("EMSR2", "test"))
})  # fmt: skip
OSCD_CITIES = {"Train": ("abudhabi", "beirut"), "Test": ("rio",)}
CLOUDS = {"train": 2, "val": 1, "test": 1}
FEW = {"train": 4, "val": 1}

CASES = {
    # images; of sets without lists, by hash of the names
    "aid": _scene("aid", 4, harm=cut),
    "aid-20": _scene("aid-20", 12, harm=cut),  # four of five in three classes
    "aid-50": _scene("aid-50", 9, harm=cut),
    "resisc45": _scene("resisc45", 3),
    "resisc45-10": _scene("resisc45-10", 12, harm=cut),
    "resisc45-20": _scene("resisc45-20", 12, harm=cut),
    "eurosat-rgb": _scene("eurosat-rgb", 2),
    "eurosat-ms": _scene("eurosat-ms", 2, also=FIXTURE),
    "bigearthnet-v1": _scene("bigearthnet-v1", 1, protocol=HEAD, positions=12),
    "bigearthnet-v1-43": _scene("bigearthnet-v1-43", 1, protocol=HEAD, positions=12),
    "bigearthnet-v2": _scene("bigearthnet-v2", 1, protocol=HEAD, positions=12, also=FIXTURE),
    "fmow-sentinel": _scene("fmow-sentinel", 1, protocol=HEAD),
    "so2sat": _scene("so2sat", 3, harm=cut),
    "treesatai": _scene("treesatai", 1, protocol=HEAD, also=FIXTURE),
    "treesatai-ts": _scene("treesatai-ts", 1, role="rgb", protocol=HEAD),
    # numbers
    "presto-algae": _scene("presto-algae", 1, harm=cut, protocol=HEAD, also=REAL),
    "biomassters": Case(pangaea.write_biomassters, 2, role="biomass"),
    # pixels
    "cloud-masks-l5": Case(write_clouds, 64, harm=cut, protocol="linear", limit=CLOUDS, also=REAL),  # points of a block
    "cloud-masks-s2": Case(write_clouds, 64, harm=cut, protocol="linear", limit=CLOUDS, also=REAL),
    "dynamicearthnet": Case(write_dynamicearthnet, 3 * 6 * 8),  # three months; the last two rows are not scored
    "hls-burn-scars": Case(pangaea.write_burn_scars, 2 * 63, limit=FEW),
    "isaid": Case(write_isaid, 2 * 64),
    "mados": Case(pangaea.write_mados, 11 * 12, role="mask"),  # the first row is not labelled
    "mmflood": Case(lambda root: write_mmflood(root, FLOODS), 39, also=FIXTURE),  # 48 less a row, and one without radar
    "pastis-r": Case(write_pastis, 7 * 8, also=FIXTURE),
    "pastis-hd": Case(lambda root: write_pastis(root, True), 7 * 8),
    "potsdam": Case(write_potsdam, 24 * 20, part=True, also=FIXTURE),
    "sen1floods11": Case(write_sen1floods11, 7 * 8),
    "spacenet7": Case(pangaea.write_spacenet7, 4 * 63),
    "xview2": Case(pangaea.write_xview2, 2 * 64),
    # changes
    "dynamicearthnet-change": Case(write_dynamicearthnet, 2 * 64),
    "levir-cd": Case(write_levir, 2 * 64, part=True, also=FIXTURE),
    "levir-cd-plus": Case(write_levir, 2 * 64, part=True, also=FIXTURE),
    "oscd": Case(lambda root: write_oscd(root, by_part=OSCD_CITIES), 12 * 18, part=True),
    # objects that are not difficult
    "dior": Case(DETECTION["dior"], 1, also=FIXTURE),
    "dior-r": Case(DETECTION["dior-r"], 1),
    "fair1m": Case(DETECTION["fair1m"], 4),
    "hit-uav": Case(DETECTION["hit-uav"], 5, also="; the real one is read in benchmarks.detection"),
    "neon-trees": Case(DETECTION["neon-trees"], 4, harm=cut, also="; real plots are read in benchmarks.detection"),
    # GEO-Bench
    **{n: Case(_geobench1(n), 2 * 64 if a.kind == "pixel" else 2) for n, a in geobench1.ABOUT.items()},
    **{f"gb2-{n.replace('_', '-')}": Case(_geobench2(n), _units(n), harm=cut) for n in geobench2.ABOUT},
    "mine": Case(write_own, 4, file="rows.csv", harm=replaced(b"2022-06-02", b"yesterday"), layout=OWN),
}  # fmt: skip
"""By name; `mine` is one's own YAML, and `eopatch-land-cover` stands in `real_cases`, as its files are real ones."""


def real_cases(shared: Path) -> dict[str, Case]:
    """Data sets whose layout is known from real files alone."""
    write = lambda root: copy_eopatch(shared / "data/eo-learn", root)  # noqa: E731
    return {"eopatch-land-cover": Case(write, 256, role="scenes", harm=cut, layout="real sample", limit=CLOUDS)}
