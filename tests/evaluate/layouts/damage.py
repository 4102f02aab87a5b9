"""Ways in which a copy of a data set goes wrong, and what a reader tells of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from skyframe.evaluate.benchmarks import open_dataset
from skyframe.spec import InputError

Damage = Callable[[Path], None]


def empty(path: Path) -> None:
    """0 bytes, as a download that broke off leaves it."""
    path.write_bytes(b"")


def cut(path: Path) -> None:
    """The first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path: Path) -> None:
    """A file or a folder that is not there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def scribble(path: Path) -> None:
    """A page of a server that had nothing else to give."""
    path.write_text("<html>404 Not Found</html>")


def replaced(text: bytes, by: bytes) -> Damage:
    """Other words in a file."""

    def damage(path: Path) -> None:
        before = path.read_bytes()
        assert text in before
        path.write_bytes(before.replace(text, by))

    return damage


def told(name: str, root: Path) -> list[str]:
    """Everything that a reader says of a copy: where it refuses it, its problems, and items that cannot be read."""
    try:
        dataset = open_dataset(name, root)
    except InputError as error:
        return [str(error)]
    sentences = list(dataset.problems)
    for item in dataset.items:
        try:
            dataset.read(item)
        except InputError as error:
            sentences.append(str(error))
    return sentences


def assert_told(name: str, root: Path, words: str) -> None:
    """Some sentence holds `words`, and all of them are one line."""
    sentences = told(name, root)
    assert any(words in s for s in sentences), sentences
    assert not [s for s in sentences if "\n" in s or len(s) > 600]
