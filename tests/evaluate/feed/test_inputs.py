"""Truth that stands in the files alone, and where a task's data set is looked for."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from skyframe.config.evaluate import TaskConfig
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.feed.fit import fit, training_statistics
from skyframe.evaluate.feed.inputs import dataset_inputs, dataset_root
from skyframe.spec import InputError
from tests.evaluate.layouts.damage import cut
from tests.evaluate.layouts.geobench1 import write_geobench1
from tests.evaluate.toy import blocks, contract, dataset


def truth_of(given):
    return dataset_inputs(fit(given, contract()), TaskConfig("toy"), 0, False).truth[""]


def own_bands(given):
    """A contract of the data set's own bands."""
    s2 = given.modalities["s2"]
    num = len(s2.bands)
    return contract(modalities={"s2": dataclasses.replace(s2, mean=(0.1,) * num, std=(0.1,) * num)})


def test_numbers_that_only_the_files_hold_are_read():
    given = dataset("regression", num=4)
    assert {i.label for i in given.items} == {None}
    expected = [[100 + 50 * blocks(f"{i.key}0", 12).mean()] for i in given.items]
    np.testing.assert_allclose(truth_of(given), np.float32(expected))


def test_several_labels_that_only_the_files_hold_are_those_of_the_list(tmp_path):
    write_geobench1(tmp_path, "m-bigearthnet")
    given = open_dataset("m-bigearthnet", tmp_path)
    assert {i.label for i in given.items} == {None}
    found = dataset_inputs(fit(given, own_bands(given)), TaskConfig("m-bigearthnet"), 0, False).truth[""]
    assert found.dtype == bool and np.argwhere(found).tolist() == [[n, n] for n in range(6)]


def test_maps_of_numbers_are_no_truth_of_whole_images():
    with pytest.raises(InputError, match="toy: numbers are maps, which a probe of whole images does not predict"):
        truth_of(dataset("map", num=4))


def test_a_damaged_item_is_named_where_statistics_are_measured(tmp_path):
    folder = write_geobench1(tmp_path, "m-brick-kiln")
    cut(folder / "train_1.hdf5")
    with pytest.raises(InputError, match=r"^m-brick-kiln: train item train_1: .*train_1.hdf5"):
        training_statistics(open_dataset("m-brick-kiln", tmp_path), ["s2"])


@pytest.mark.parametrize(
    ("benchmark", "root", "data", "found"),
    [
        ("aid", "", "d", "d/aid"),
        ("aid", "AID", "d", "d/AID"),
        ("aid", "/x/AID", None, "/x/AID"),
        ("sets/mine.yaml", "", "d", "d"),
        ("sets/mine.yaml", "", None, "sets"),
        ("sets/mine.yml", "farms", None, "sets/farms"),
    ],
)
def test_where_a_data_set_lies(benchmark, root, data, found):
    task = TaskConfig(benchmark, root=root)
    assert dataset_root(task, Path(data) if data else None, "t") == Path(found)


def test_without_data_a_name_is_not_found():
    with pytest.raises(InputError, match="t: aid lies below a folder of data sets, and none was given; add --data"):
        dataset_root(TaskConfig("aid"), None, "t")
