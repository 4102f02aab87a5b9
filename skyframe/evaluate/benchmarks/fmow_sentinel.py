"""fMoW-Sentinel: functional use of places in 62 classes, composites of Sentinel-2 Level-1C with all thirteen bands.

Layout: lists `train.csv`, `val.csv` and `test_gt.csv` (also `*_62classes.csv`, `test.csv`) with columns category,
location_id, image_id and timestamp; images
`fmow-sentinel/<part>/<category>/<category>_<location>/<category>_<location>_<image>.tif`, of any size, also without
the folders `fmow-sentinel` or `<part>`.

Source: Cong et al., SatMAE, NeurIPS 2022; the band order follows from its published means (B10 has the smallest).
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np

from skyframe.calendar import DAY_UNKNOWN, day_of
from skyframe.evaluate.datasets.dataset import Dataset, Item, missing_files, need_folder
from skyframe.evaluate.datasets.files import read_raster, read_table
from skyframe.evaluate.datasets.imagery import S2_BANDS, sentinel2, series_of
from skyframe.sample import Sample
from skyframe.spec import InputError

CLASSES = (
    "airport", "airport_hangar", "airport_terminal", "amusement_park", "aquaculture", "archaeological_site", "barn",
    "border_checkpoint", "burial_site", "car_dealership", "construction_site", "crop_field", "dam",
    "debris_or_rubble", "educational_institution", "electric_substation", "factory_or_powerplant", "fire_station",
    "flooded_road", "fountain", "gas_station", "golf_course", "ground_transportation_station", "helipad", "hospital",
    "impoverished_settlement", "interchange", "lake_or_pond", "lighthouse", "military_facility",
    "multi-unit_residential", "nuclear_powerplant", "office_building", "oil_or_gas_facility", "park",
    "parking_lot_or_garage", "place_of_worship", "police_station", "port", "prison", "race_track", "railway_bridge",
    "recreational_facility", "road_bridge", "runway", "shipyard", "shopping_mall", "single-unit_residential",
    "smokestack", "solar_farm", "space_facility", "stadium", "storage_tank", "surface_mine", "swimming_pool",
    "toll_booth", "tower", "tunnel_opening", "waste_disposal", "water_treatment_facility", "wind_farm", "zoo",
)  # fmt: skip
LISTS = {
    "train": ("train.csv", "train_62classes.csv"),
    "val": ("val.csv", "val_62classes.csv"),
    "test": ("test_gt.csv", "test_gt_62classes.csv", "test.csv"),
}
COLUMNS = ("category", "location_id", "image_id", "timestamp")


def open_dataset(name: str, root: Path) -> Dataset:
    """The images that the lists below `root` name."""
    lists = {p: root / n for p, names in LISTS.items() for n in reversed(names) if (root / n).is_file()}
    if not lists:
        raise InputError(f"{name}: no {LISTS['train'][0]} in {root}, expected the lists beside the images; fetch them")
    folder = next((f for f in (root / "fmow-sentinel", root) if f.is_dir()), None) or need_folder(name, root)
    problems = [f"{name}: {root} lacks {LISTS[p][0]}, expected one list for each part" for p in LISTS if p not in lists]
    items: list[Item] = []
    for part, path in lists.items():
        within = next((f for f in (folder / path.stem, folder / part) if f.is_dir()), folder)
        for row in read_table(path, COLUMNS):
            kind, place = row["category"], f"{row['category']}_{row['location_id']}"
            key = f"{place}_{row['image_id']}"
            if kind not in CLASSES:
                problems.append(f"{path}: category {kind!r} of {key} is none of the 62; fetch the list again")
                continue
            day = _day(row["timestamp"])
            if day == DAY_UNKNOWN:
                problems.append(f"{path}: timestamp {row['timestamp']!r} of {key} is no date, expected 2016-02-01T...")
            files = {"image": within / kind / place / f"{key}.tif"}
            about = {"day": day}
            items.append(Item(f"{part}/{key}", part, files, CLASSES.index(kind), f"{part}/{place}", about))
    return Dataset(
        name=name,
        kind="scene",
        classes=CLASSES,
        modalities={"s2": sentinel2(S2_BANDS, level="L1C")},
        items=tuple(items),
        read=_read,
        split=", ".join(p.name for p in lists.values()),
        source="Cong et al., SatMAE, NeurIPS 2022; its published scores, and those that follow it, are on val.csv; "
        "a date stands for a composite of about 90 days",
        problems=(*problems, *missing_files(name, items)),
    )


def _day(timestamp: str) -> int:
    try:
        return day_of(date.fromisoformat(timestamp[:10]))
    except ValueError:
        return DAY_UNKNOWN


def _read(item: Item) -> Sample:
    path = item.files["image"]
    pixels = read_raster(path)
    if len(pixels) != len(S2_BANDS):
        raise InputError(
            f"{path}: {len(pixels)} bands, expected {len(S2_BANDS)} ({', '.join(S2_BANDS)}); fetch it again"
        )
    seen = np.isfinite(pixels).all(0) & (pixels != 0).any(0)  # nothing measured where all bands are 0
    series = series_of(pixels, np.array([item.about["day"]], np.int32), seen[None])
    return Sample({"s2": series}, np.full(2, np.nan), -1, targets={"class": np.array(item.label, np.int64)})
