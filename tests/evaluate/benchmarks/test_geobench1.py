"""GEO-Bench v1 read from tiny copies of its layout, whole and damaged."""

import json
import os
import pickle
from datetime import date
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from skyframe.calendar import DAY_UNKNOWN, day_of
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.benchmarks.geobench1 import ABOUT
from skyframe.evaluate.datasets.check import check_dataset
from skyframe.spec import InputError
from tests.evaluate.layouts.geobench1 import SIDE_PX, write_geobench1


@pytest.mark.parametrize("name", sorted(ABOUT))
def test_every_data_set_of_the_suite_is_read_from_its_layout(tmp_path: Path, name: str) -> None:
    write_geobench1(tmp_path, name)
    dataset = open_dataset(name, tmp_path)
    report = check_dataset(dataset)
    assert report.problems == ()
    assert [len(dataset.part(p)) for p in ("train", "val", "test")] == [2, 2, 2]
    assert len(dataset.classes) == ABOUT[name].num_classes and dataset.classes[1] == "kind 1"
    assert dataset.kind == ABOUT[name].kind and dataset.split == "default_partition.json"
    unit = SIDE_PX**2 if dataset.kind == "pixel" else 1
    assert report.units["test"] == {4 % len(dataset.classes): unit, 5 % len(dataset.classes): unit}


def test_bands_units_and_labels_of_a_sentinel_2_set(tmp_path: Path) -> None:
    write_geobench1(tmp_path, "m-eurosat")
    dataset = open_dataset("m-eurosat", tmp_path / "classification_v1.0")
    s2 = dataset.modalities["s2"]
    assert (s2.band_names[0], s2.band_names[8], s2.band_names[-1], s2.scale) == ("B01", "B8A", "B12", 1e-4)
    item = dataset.part("val")[1]
    sample = dataset.read(item)
    assert (item.key, item.label, sample.targets["class"]) == ("val_1", 3, 3)
    assert sample.series["s2"].values[0, :, 0, 0].tolist() == [30.0 + k for k in range(13)]
    assert sample.series["s2"].day.tolist() == [DAY_UNKNOWN]


def test_two_sensors_keep_to_their_bands(tmp_path: Path) -> None:
    write_geobench1(tmp_path, "m-so2sat")
    dataset = open_dataset("m-so2sat", tmp_path)
    sample = dataset.read(dataset.items[1])
    assert dataset.modalities["s1"].band_names == ("VV", "VH") and dataset.modalities["s1"].units == "linear power"
    assert sample.series["s1"].values[0, :, 0, 0].tolist() == [23.0, 24.0]
    assert sample.series["s2"].values.shape == (1, 13, SIDE_PX, SIDE_PX)


def test_arrays_that_carry_a_date_in_their_name(tmp_path: Path) -> None:
    write_geobench1(tmp_path, "m-forestnet", day=date(2014, 7, 1))
    dataset = open_dataset("m-forestnet", tmp_path)
    series = dataset.read(dataset.items[0]).series["l8"]
    assert series.day.tolist() == [day_of(date(2014, 7, 1))] and series.values.shape == (1, 6, SIDE_PX, SIDE_PX)


def test_the_attribute_as_bytes_and_as_an_opaque_value(tmp_path: Path) -> None:
    folder = write_geobench1(tmp_path, "m-brick-kiln")
    with h5py.File(folder / "train_0.hdf5", "r+") as file:
        packed = eval(file.attrs["pickle"])
        file.attrs["pickle"] = np.void(packed)
    with h5py.File(folder / "train_1.hdf5", "r+") as file:
        file.attrs["pickle"] = np.bytes_(file.attrs["pickle"].encode())
    dataset = open_dataset("m-brick-kiln", tmp_path)
    assert [int(dataset.read(i).targets["class"]) for i in dataset.part("train")] == [0, 1]


def test_a_hostile_sample_and_a_hostile_task_do_not_run(tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path}/trap",)

    folder = write_geobench1(tmp_path, "m-pv4ger")
    with h5py.File(folder / "train_0.hdf5", "r+") as file:
        file.attrs["pickle"] = str(pickle.dumps({"label": Call()}))
    with h5py.File(folder / "train_1.hdf5", "r+") as file:
        file.attrs["pickle"] = f"__import__('os').system('touch {tmp_path}/trap')"
    dataset = open_dataset("m-pv4ger", tmp_path)
    with pytest.raises(InputError, match=r"train_0\.hdf5: its pickle holds the name posix\.system"):
        dataset.read(dataset.items[0])
    with pytest.raises(InputError, match=r"train_1\.hdf5: its attribute `pickle` is no bytes literal"):
        dataset.read(dataset.items[1])
    (folder / "task_specs.pkl").write_bytes(pickle.dumps(Call()))
    with pytest.raises(InputError, match=r"task_specs\.pkl: its pickle holds the name posix\.system"):
        open_dataset("m-pv4ger", tmp_path)
    assert not (tmp_path / "trap").exists()


def test_a_damaged_copy_tells_each_fault(tmp_path: Path) -> None:
    folder = write_geobench1(tmp_path, "m-cashew-plant", per_part=3)
    (folder / "train_0.hdf5").unlink()
    (folder / "val_0.hdf5").write_bytes((folder / "val_0.hdf5").read_bytes()[:2000])
    (folder / "val_1.hdf5").write_bytes(b"")
    with h5py.File(folder / "test_0.hdf5", "r+") as file:
        del file["04 - Red"]
    with h5py.File(folder / "test_1.hdf5", "r+") as file:
        file["label"][0, 0] = 9
    with h5py.File(folder / "test_2.hdf5", "r+") as file:
        del file["label"]
        file["label"] = np.zeros((4, 4), np.uint8)
    told = "\n".join(check_dataset(open_dataset("m-cashew-plant", tmp_path)).problems)
    assert "train_0.hdf5 is missing, expected by train item train_0" in told
    assert "val_0.hdf5: not a readable GEO-Bench sample" in told and "val_1.hdf5 has 0 bytes" in told
    assert "test_0.hdf5: no band '04 - Red'" in told
    assert "test_1.hdf5: label 0 to 9, expected 0 to 6" in told
    assert "label maps of [[4, 4]] pixels, expected one of [8, 8]" in told


def test_lists_that_contradict_are_told(tmp_path: Path) -> None:
    folder = write_geobench1(tmp_path, "m-eurosat")
    tree = json.loads((folder / "default_partition.json").read_text())
    tree["test"].append("train_0")
    (folder / "0.50x_train_partition.json").write_text(json.dumps(tree))
    (folder / "default_partition.json").unlink()
    (folder / "label_map.json").write_text(json.dumps({"7": ["train_1"]}))
    dataset = open_dataset("m-eurosat", tmp_path)
    told = "\n".join(dataset.problems)
    assert "lacks default_partition.json, read 0.50x_train_partition.json" in told
    assert "train_0 stands in parts train and test" in told
    with pytest.raises(InputError, match=r"label 1, but label_map\.json says 7"):
        dataset.read(next(i for i in dataset.items if i.key == "train_1"))


def test_another_folder_is_refused(tmp_path: Path) -> None:
    folder = write_geobench1(tmp_path / "a", "m-pv4ger")
    with pytest.raises(InputError, match=r"m-so2sat: no folder .*classification_v1.0/m-so2sat"):
        open_dataset("m-so2sat", tmp_path / "a")
    with pytest.raises(InputError, match=r"lists bands Red, Green, Blue.*it is another data set"):
        open_dataset("m-so2sat", folder)
    (folder / "default_partition.json").write_text("[]")
    with pytest.raises(InputError, match="has no list train, expected train, valid and test"):
        open_dataset("m-pv4ger", folder)
