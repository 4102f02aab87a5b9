"""MADOS, HLS Burn Scars and xView2 read from tiny copies of their layouts, whole and damaged."""

from datetime import date
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import train_test_split

from skyframe.calendar import day_of
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.datasets.check import check_dataset
from skyframe.spec import InputError
from tests.evaluate.layouts.pangaea import NM, tif, write_burn_scars, write_mados, write_xview2


def test_mados_puts_eleven_bands_on_ten_metres(tmp_path: Path) -> None:
    write_mados(tmp_path)
    dataset = open_dataset("mados", tmp_path)
    assert check_dataset(dataset).problems == ()
    assert [(i.key, i.part, i.cluster) for i in dataset.items] == [
        ("Scene_0_7", "train", "Scene_0"), ("Scene_1_7", "val", "Scene_1"), ("Scene_2_7", "test", "Scene_2"),
    ]  # fmt: skip
    sample = dataset.read(dataset.items[0])
    s2 = sample.series["s2"]
    assert s2.values.shape == (1, 11, 12, 12) and s2.values[0, :, 5, 5].tolist() == [float(k) for k in range(11)]
    assert not s2.valid[0, 0, 0] and int(s2.valid.sum()) == 143
    assert sample.targets["mask"][:, 3].tolist() == [-1, *range(11)] and len(dataset.classes) == 15


def test_burn_scars_split_and_mask_as_published(tmp_path: Path) -> None:
    write_burn_scars(tmp_path)
    dataset = open_dataset("hls-burn-scars", tmp_path)
    assert check_dataset(dataset).problems == ()
    _, tenth = train_test_split(np.arange(20), test_size=0.1, random_state=23)
    assert [k for k, i in enumerate(dataset.items) if i.part == "val"] == sorted(tenth.tolist())
    assert [len(dataset.part(p)) for p in ("train", "val", "test")] == [18, 2, 2]
    sample = dataset.read(dataset.items[0])
    s2 = sample.series["s2"]
    assert s2.day.tolist() == [day_of(date(2020, 9, 4))]  # day 248 of a leap year
    assert s2.values[0, :, 1, 1].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0] and not s2.valid[0, 0, 0]
    mask = np.asarray(sample.targets["mask"])
    assert np.bincount((mask + 1).ravel()).tolist() == [1, 31, 32]


def test_xview2_has_two_dates_and_a_tenth_of_every_disaster(tmp_path: Path) -> None:
    write_xview2(tmp_path)
    dataset = open_dataset("xview2", tmp_path)
    assert check_dataset(dataset).problems == ()
    assert [len(dataset.part(p)) for p in ("train", "val", "test")] == [18, 2, 2]
    assert sorted(i.cluster for i in dataset.part("val")) == ["fire", "flood"]
    sample = dataset.read(dataset.items[3])
    assert sample.series["rgb"].values[:, 0, 0, 0].tolist() == [7, 107]  # fire_00000007
    assert np.asarray(sample.targets["mask"])[0].tolist() == [0, 1, 2, 3, 4, 0, 0, 0]


def test_damaged_copies_tell_each_fault(tmp_path: Path) -> None:
    mados = write_mados(tmp_path)
    (mados / "Scene_0/10/Scene_0_L2R_rhorc_665_7.tif").unlink()
    coarse = mados / f"Scene_1/60/Scene_1_L2R_rhorc_{NM[0]}_7.tif"
    tif(coarse, np.zeros((1, 5, 5), np.float32))
    tif(mados / "Scene_2/10/Scene_2_L2R_cl_7.tif", np.full((1, 12, 12), 16, np.uint8))
    (mados / "splits/val_X.txt").write_text("Scene_1_7\nScene_9_7\n")
    told = "\n".join(check_dataset(open_dataset("mados", tmp_path)).problems)
    assert "train item Scene_0_7 has 10 bands" in told and "val item Scene_9_7 has 0 bands" in told
    assert "(30, 30) pixels of 10 m, expected the mask's (12, 12)" in told
    assert "classes 15 to 15, expected -1 to 14" in told
    scars = write_burn_scars(tmp_path)
    first = sorted((scars / "training").glob("*_merged.tif"))
    first[0].write_bytes(first[0].read_bytes()[:300])
    first[1].with_name(first[1].name.replace("_merged", ".mask")).unlink()
    told = "\n".join(check_dataset(open_dataset("hls-burn-scars", tmp_path)).problems)
    assert "not a readable raster" in told and "mask.tif is missing" in told
    view = write_xview2(tmp_path)
    for path in (view / "tier3/masks").iterdir():
        path.unlink()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(view / "test/masks/flood_00000000_post_disaster.png")
    told = "\n".join(check_dataset(open_dataset("xview2", tmp_path)).problems)
    assert "drawn from labels/*.json by PANGAEA's xView2_create_masks.py" in told
    assert "(4, 4) pixels, expected those of both images" in told


def test_other_folders_are_refused(tmp_path: Path) -> None:
    for name, folder in (("mados", "splits"), ("hls-burn-scars", "training"), ("xview2", "test")):
        with pytest.raises(InputError, match=rf"{name}: no folder .*{folder}"):
            open_dataset(name, tmp_path)
    view = write_xview2(tmp_path)
    odd = view / "train/images/storm_00000000_pre_disaster.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(odd)
    with pytest.raises(InputError, match="21 images in train and tier3 do not split by disaster"):
        open_dataset("xview2", tmp_path)
