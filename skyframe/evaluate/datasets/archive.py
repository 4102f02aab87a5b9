"""Zip archives that strangers made, unpacked beside themselves: nothing lands elsewhere, nothing grows without end."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from skyframe.evaluate.datasets.files import need_file, short
from skyframe.spec import InputError

MAX_UNPACKED = 200
"""An archive may grow by this factor at most; real ones of images hardly grow at all, text by ten."""


def unpack_all(root: Path) -> list[Path]:
    """Unpack every zip archive directly in `root` beside itself; which ones."""
    archives = sorted(root.glob("*.zip"))
    for archive in archives:
        unpack(archive, root)
    return archives


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Unpack a zip archive, each file whole or not at all; started again, it goes on where it broke off.

    Raises:
        InputError: before anything is written: a member that would land outside `folder` or is a link, an archive that
            would grow by more than `MAX_UNPACKED` or beyond the free space. While writing: one that is damaged.
    """
    need_file(archive)
    try:
        with zipfile.ZipFile(archive) as file:
            members = [m for m in file.infolist() if not m.is_dir()]
            for member in members:
                _check_member(archive, member)
            _check_growth(archive, sum(m.file_size for m in members), folder)
            made = [folder / member.filename for member in members]
            for member, path in zip(members, made, strict=True):
                if not (path.is_file() and path.stat().st_size == member.file_size):
                    _extract(file, member, path)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{archive}: not a readable zip archive ({short(error)}); fetch the file again") from error
    return made


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    try:
        with archive.open(member) as source, aside.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _check_growth(archive: Path, grown: int, folder: Path) -> None:
    size = archive.stat().st_size
    if grown > MAX_UNPACKED * size:
        raise InputError(
            f"{archive}: would grow from {size:,} to {grown:,} bytes, expected at most {MAX_UNPACKED} times; it is not "
            "an archive of data"
        )
    free = shutil.disk_usage(folder).free
    if grown > free:
        raise InputError(f"{archive}: would take {grown:,} bytes, {free:,} are free in {folder}; make room first")


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
    if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or is_link:
        raise InputError(
            f"{archive}: member {member.filename!r} {'is a link' if is_link else 'leads out of its folder'}, "
            "expected plain files below it; do not trust this archive"
        )
