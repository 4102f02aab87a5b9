import pickle

import numpy as np
import pytest

from skyframe.data.store import LocalFile, LocalStore, filesystem_of


@pytest.fixture
def store(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(range(200)))
    return LocalStore(tmp_path)


@pytest.mark.parametrize("mapped", [True, False])
def test_spans_of_a_file(store, mapped):
    file = LocalFile(store.path / "a/b", mapped)
    assert file.size == 200 and (file.address is not None) == mapped
    got = file.fetch([(3, 2), (0, 1), (198, 5)])
    assert [bytes(part) for part in got] == [bytes([3, 4]), bytes([0]), bytes([198, 199])]  # the end comes short
    file.close()


def test_file_that_shrinks_comes_short_instead_of_ending_the_process(store):
    file = LocalFile(store.path / "a/b", mapped=True)
    (store.path / "a/b").write_bytes(bytes(50))  # truncated in place, as a failing copy does
    assert [len(part) for part in file.fetch([(40, 20), (100, 20)])] == [10, 0]
    assert file.address is None


def test_empty_file(store):
    (store.path / "empty").write_bytes(b"")
    file = store.open("empty")
    assert file.size == 0 and [bytes(part) for part in file.fetch([(0, 4)])] == [b""]


def test_store_reads_whole_objects_and_travels(store):
    again = pickle.loads(pickle.dumps(store))
    assert again.read("a/b") == store.read("a/b") and again.url == str(store.path)
    with pytest.raises(FileNotFoundError):
        store.open("a/c")


def test_network_file_systems_are_not_mapped(store, monkeypatch):
    assert filesystem_of(store.path)
    monkeypatch.setattr("skyframe.data.store.filesystem_of", lambda path: "nfs4")
    file = store.open("a/b")
    assert file.address is None and np.array_equal(np.frombuffer(file.fetch([(0, 3)])[0], "u1"), [0, 1, 2])
