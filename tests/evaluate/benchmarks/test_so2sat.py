"""So2Sat's rows."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from skyframe.evaluate.benchmarks import open_dataset
from tests.evaluate.layouts.damage import Damage, assert_told, cut, empty, remove, scribble
from tests.evaluate.layouts.scenes import WRITERS


def test_intensities_are_taken_with_vv_first(tmp_path: Path) -> None:
    WRITERS["so2sat"](tmp_path)
    dataset = open_dataset("so2sat", tmp_path)
    assert dataset.problems == ()
    assert [dataset.class_counts(p) for p in ("train", "val", "test")] == [{0: 1, 1: 1, 2: 1}] * 3
    sample = dataset.read(dataset.part("test")[2])
    s1, s2 = sample.series["s1"].values, sample.series["s2"].values
    assert (s1.shape, s2.shape) == ((1, 2, 32, 32), (1, 10, 32, 32))
    assert s1[0, :, 9, 9].tolist() == pytest.approx([2.06, 2.05])  # channels 6 and 5 of row 2
    assert s2[0, [0, 9], 9, 9].tolist() == pytest.approx([0.201, 0.21])
    assert (dataset.modalities["s1"].units, dataset.modalities["s2"].scale) == ("linear power", 1.0)
    assert int(sample.targets["class"]) == 2


def _with(name: str, values: np.ndarray) -> Damage:
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[name]
            file[name] = values

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove, "validation.h5 is missing, expected the part val"),
        (empty, "validation.h5: 0 bytes"),
        (cut, "validation.h5: not a readable HDF5 file"),
        (scribble, "validation.h5: not a readable HDF5 file"),
        (_with("sen1", np.zeros((3, 32, 32, 2))), "sen1 has shape (3, 32, 32, 2), expected (3, 32, 32, 8)"),
        (_with("sen2", np.zeros((2, 32, 32, 10))), "sen2 has shape (2, 32, 32, 10), expected (3, 32, 32, 10)"),
        (_with("label", np.zeros(3)), "label has shape (3,), expected (3, 17)"),
        (
            _with("label", np.eye(3, 17) + np.eye(3, 17, 1)[[0, 0, 0]] * [[0], [1], [0]]),
            "1 rows have no class or several",
        ),
        (_with("label", np.zeros((3, 17))), "3 rows have no class or several, such as row 0"),
    ],
)
def test_a_damaged_file_is_told_and_the_others_stand(damage: Damage, words: str, tmp_path: Path) -> None:
    WRITERS["so2sat"](tmp_path)
    damage(tmp_path / "validation.h5")
    assert_told("so2sat", tmp_path, words)
    assert len(open_dataset("so2sat", tmp_path).part("train")) == 3


def test_another_folder_is_refused(tmp_path: Path) -> None:
    assert_told("so2sat", tmp_path, "no training.h5 in")
