"""HDF5 files that strangers made: arrays by name or one row of each, refused in one sentence where damaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from skyframe.evaluate.datasets.files import MAX_PIXELS, need_file
from skyframe.spec import InputError


def read_h5(path: Path, names: Sequence[str], row: int | None = None) -> dict[str, NDArray[Any]]:
    """Arrays at the top of an HDF5 file.

    Args:
        path: the file.
        names: of the arrays wanted.
        row: one row of each, `[...]` instead of `[N, ...]`; all of them by default.

    Raises:
        InputError: missing, empty, damaged, without one of the arrays, or more than `MAX_PIXELS` values at once.
    """
    found: dict[str, NDArray[Any]] = {}
    with _opened(path) as arrays:
        for name in names:
            if name not in arrays:
                raise InputError(f"{path}: no array {name}, got {', '.join(arrays) or 'none'}; fetch the file again")
            array = arrays[name]
            size = array.size if row is None else array.size // max(1, len(array))
            if size > MAX_PIXELS:
                raise InputError(
                    f"{path}: {name} claims {size:,} values, expected at most {MAX_PIXELS:,} at once; it is not the "
                    "file that its name says"
                )
            found[name] = array[()] if row is None else array[row]
    return found


def h5_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every array at the top of an HDF5 file, without reading one."""
    with _opened(path) as arrays:
        return {name: array.shape for name, array in arrays.items()}


@contextmanager
def _opened(path: Path) -> Iterator[dict[str, Any]]:
    """Arrays that lie in the file itself: links, which may lead into another file, are not followed."""
    import h5py

    need_file(path)
    try:
        with h5py.File(path, "r") as file:
            own = [n for n in file if isinstance(file.get(n, getlink=True), h5py.HardLink)]
            yield {n: file[n] for n in own if isinstance(file[n], h5py.Dataset)}
    except InputError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: not a readable HDF5 file ({' '.join(str(error).split())[:160]}); fetch the file again"
        ) from error
