"""HDF5 files that strangers made."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from skyframe.evaluate.datasets.hdf5 import h5_shapes, read_h5
from skyframe.spec import InputError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "a.h5"
    with h5py.File(made, "w") as file:
        file["values"] = np.arange(6).reshape(3, 2)
        file["names"] = ["one", "two"]
        file.create_dataset("huge", (10**6, 10**6), np.float64, chunks=(1000, 1000))
        file["elsewhere"] = h5py.ExternalLink("b.h5", "secret")
        file.create_group("inner")["values"] = 1
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["secret"] = [42]
    return made


def test_whole_arrays_and_single_rows(path: Path) -> None:
    found = read_h5(path, ["values", "names"])
    assert found["values"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert found["names"].tolist() == [b"one", b"two"]
    assert read_h5(path, ["values"], row=2)["values"].tolist() == [4, 5]


def test_shapes_are_of_arrays_in_the_file_itself(path: Path) -> None:
    assert h5_shapes(path) == {"huge": (10**6, 10**6), "names": (2,), "values": (3, 2)}


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("lost", None, "no array lost, got huge, names, values"),
        ("elsewhere", None, "no array elsewhere"),  # a link into another file is not followed
        ("inner", None, "no array inner"),
        ("huge", None, "huge claims 1,000,000,000,000 values"),
        ("values", 3, "not a readable HDF5 file"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(name: str, row: int | None, words: str, path: Path) -> None:
    with pytest.raises(InputError, match=words) as error:
        read_h5(path, [name], row)
    assert str(path) in str(error.value)


def test_a_file_that_is_cut_off_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a readable HDF5 file"):
        h5_shapes(path)
