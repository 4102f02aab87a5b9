import shutil
from datetime import date

import numpy as np
import pytest

from skyframe.calendar import date_of
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.spec import InputError
from tests.evaluate.layouts.damage import remove, scribble

NAME = "eopatch-land-cover"


def test_windows_of_dated_scenes_and_flagged_ndvi(shared_dir):
    folder = shared_dir / "data/eo-learn"
    dataset = open_dataset(NAME, folder)
    assert dataset.problems == ()
    assert [len(dataset.part(p)) for p in ("train", "val", "test")] == [15, 5, 5]
    assert dataset.classes[:3] == ("cultivated", "forest", "grassland")
    item = next(i for i in dataset.items if i.key == "21_42")
    sample = dataset.read(item)
    s2, ndvi = sample.series["s2"], sample.series["ndvi"]
    assert (s2.values.shape, ndvi.values.shape) == ((5, 13, 16, 16), (68, 1, 16, 16))
    scenes = np.load(folder / "REFERENCE_SCENES.npy")[:, 21:37, 42:58, 3]
    away = np.abs(s2.values[:, None, 3] * 1e-4 - scenes).max((2, 3))  # the file's scenes are in no order of time
    assert sorted(np.argwhere(away < 6e-5)[:, 1].tolist()) == [0, 1, 2, 3, 4]
    assert (np.diff(s2.day) > 0).all()
    assert date_of(ndvi.day[0]) == date(2015, 7, 11)
    clouds = np.load(folder / "TestEOPatch/mask/CLM.npy")[:, 21:37, 42:58, 0]
    assert not ndvi.valid[clouds == 1].any()
    cover = np.load(folder / "TestEOPatch/mask_timeless/LULC.npy")[21:37, 42:58, 0].astype(int)
    assert np.array_equal(sample.targets["mask"], cover - 1)
    assert sample.place == pytest.approx([45.87, 14.55], abs=0.02)


@pytest.mark.parametrize(
    ("harm", "file", "sentence"),
    [
        (remove, "TestEOPatch/mask_timeless/LULC.npy", "LULC.npy: no such file"),
        (scribble, "TestEOPatch/data/NDVI.npy", "NDVI.npy: begins with"),
        (remove, "REFERENCE_SCENES.npy", "REFERENCE_SCENES.npy: no such file"),
        (lambda p: np.save(p, np.load(p)[:, :99]), "REFERENCE_SCENES.npy", "has shape (5, 99, 100, 13)"),
        (lambda p: p.write_text("[]"), "TestEOPatch/timestamps.json", "timestamps.json has no dates"),
    ],
)
def test_damage_is_told(shared_dir, tmp_path, harm, file, sentence):
    wanted = ("data/NDVI.npy", "mask/CLM.npy", "mask/IS_VALID.npy", "mask_timeless/LULC.npy")
    for name in (*wanted, "timestamps.json", "bbox.geojson"):
        (tmp_path / "TestEOPatch" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shared_dir / "data/eo-learn/TestEOPatch" / name, tmp_path / "TestEOPatch" / name)
    shutil.copy(shared_dir / "data/eo-learn/REFERENCE_SCENES.npy", tmp_path)
    harm(tmp_path / file)
    dataset = open_dataset(NAME, tmp_path)
    assert dataset.items == ()
    assert sentence in dataset.problems[0]


def test_another_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="no TestEOPatch in"):
        open_dataset(NAME, tmp_path)
