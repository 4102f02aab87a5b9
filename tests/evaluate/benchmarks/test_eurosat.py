import dataclasses

import numpy as np
import pytest
from PIL import Image

from skyframe.calendar import DAY_UNKNOWN
from skyframe.config.evaluate import EuroSatData
from skyframe.evaluate.benchmarks.eurosat import _tiles, list_chips, load_eurosat
from skyframe.evaluate.features import TEST, TRAIN, VAL
from skyframe.spec import CubeSpec, InputError
from tests.evaluate.worlds import contract


@pytest.fixture(scope="module")
def chips(tmp_path_factory):
    root = tmp_path_factory.mktemp("eurosat") / "EuroSAT_RGB"
    rng = np.random.default_rng(0)
    for number, name in enumerate(("Forest", "River")):
        (root / name).mkdir(parents=True)
        for i in range(30):
            pixels = rng.integers(40 + 90 * number, 120 + 90 * number, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}_{i}.jpg")
    return root


def test_split_is_stable_stratified_by_chance_and_capped_per_class(chips):
    files, parts = list_chips(chips, 20)
    assert len(files) == 40
    again = dict(zip(*list_chips(chips.parent, 30), strict=True))  # the folder above holds only this one
    assert len(again) == 60
    assert all(again[f] == p for f, p in zip(files, parts, strict=True))  # a chip's part does not depend on the others
    shares = np.bincount(list(again.values()), minlength=3) / 60
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.15)


def test_chips_become_three_bands_of_sentinel_2_on_the_contracts_scale(chips):
    given = contract()
    inputs = load_eurosat(EuroSatData(str(chips), 30), given, False)
    assert inputs.normaliser == "dataset"
    assert inputs.source.startswith("eurosat s2:B04+B03+B02 of 8-bit RGB, 4 tile(s) of 8 positions")
    assert (len(inputs.samples), len(inputs.part), inputs.side_px) == (240, 60, 8)
    series = inputs.samples[0].series["s2"]
    assert series.bands.tolist() == [True, True, True, False]  # B02, B03, B04 and not B08
    assert series.day.tolist() == [DAY_UNKNOWN]
    train = [s for s, r in zip(inputs.samples, inputs.row, strict=True) if inputs.part[r] == TRAIN]
    values = np.stack([s.series["s2"].values[0, :3] for s in train]) * 1e-4
    mean, std = values.mean((0, 2, 3)), values.std((0, 2, 3))
    assert mean == pytest.approx([0.05, 0.08, 0.07], abs=0.004)
    assert std == pytest.approx([0.03, 0.04, 0.05], rel=0.06)


def test_labels_parts_and_layouts(chips):
    inputs = load_eurosat(EuroSatData(str(chips), 30, tile_px=16, tiles_per_image=1), contract(), False)
    assert inputs.classes[""] == ("Forest", "River")
    assert np.bincount(inputs.truth[""][:, 0]).tolist() == [30, 30]
    assert set(inputs.part) == {TRAIN, VAL, TEST}
    assert {n: (lay.num_dates, lay.side_px) for n, lay in inputs.layouts.items()} == {"s2": (1, 16), "s1": (1, 16)}
    assert all(list(s.series) == ["s2"] and s.region == -1 for s in inputs.samples)


def test_without_sentinel_2_the_chip_is_the_enlarged_high_resolution_image(chips):
    stored = CubeSpec.load("simulated_earth").modalities["hr"]  # what an exported high-resolution encoder expects
    hr = dataclasses.replace(stored, gsd_m=0.625)
    inputs = load_eurosat(EuroSatData(str(chips), 10), contract(modalities={"hr": hr}, ratio=16), False)
    assert inputs.samples[0].series["hr"].values.shape == (1, 3, 128, 128)
    assert inputs.source.startswith("eurosat hr:red+green+blue of 8-bit RGB, 1 tile(s)")


def test_tiles_nearest_the_centre_come_first():
    rows, columns = np.mgrid[:64, :64]
    chip = np.stack([rows, columns, rows], -1).astype(np.uint8)
    corners = sorted(tuple(t[0, 0, :2].tolist()) for t in _tiles(chip, 16, 4))
    assert corners == [(16, 16), (16, 32), (32, 16), (32, 32)]
    assert _tiles(chip, 48, 9)[0][0, 0].tolist() == [8, 8, 8]
    assert len(_tiles(chip, 48, 9)) == 1


def test_wrong_folders_files_and_encoders_are_named(chips, tmp_path):
    with pytest.raises(InputError, match=r"data.eurosat.root: no folder '.*none', expected one holding"):
        load_eurosat(EuroSatData(str(tmp_path / "none")), contract(), False)
    (tmp_path / "Forest").mkdir()
    (tmp_path / "River").mkdir()
    with pytest.raises(InputError, match=r"no .jpg in '.*Forest', expected one folder of chips per class"):
        load_eurosat(EuroSatData(str(tmp_path)), contract(), False)
    for name in ("Forest", "River"):
        (tmp_path / name / "a.jpg").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"a.jpg: not a readable JPEG"):
        load_eurosat(EuroSatData(str(tmp_path)), contract(), False)
    Image.new("RGB", (32, 64)).save(tmp_path / "Forest" / "a.jpg")
    with pytest.raises(InputError, match=r"a.jpg: 64 x 32 pixels, expected 64 x 64"):
        load_eurosat(EuroSatData(str(tmp_path)), contract(), False)
    with pytest.raises(InputError, match=r"eurosat: the encoder takes s1, expected s2 or hr"):
        load_eurosat(EuroSatData(str(chips)), contract(modalities={"s1": contract().modalities["s1"]}), False)
    with pytest.raises(InputError, match=r"data.eurosat.tile_px: 4, expected 6 .the encoder's smallest side. to 64"):
        load_eurosat(EuroSatData(str(chips), tile_px=4), dataclasses.replace(contract(), min_side_px=6), False)


def test_real_chips(shared_dir):
    files, parts = list_chips(shared_dir / "data" / "EuroSAT", 400)
    assert len(files) == 4000
    assert np.bincount(parts) / 4000 == pytest.approx([0.6, 0.2, 0.2], abs=0.02)
    inputs = load_eurosat(EuroSatData(str(shared_dir / "data" / "EuroSAT"), 2), contract(), False)
    assert len(inputs.classes[""]) == 10
