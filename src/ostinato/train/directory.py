"""Files and directories that are there whole or not at all.

Everything is written under another name beside its place, flushed to the disk, and renamed; a
crash or a full disk at any moment leaves what was there before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ostinato.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: What is being written has a name that begins so; it can be deleted when nobody is writing.
UNFINISHED = ".unfinished-"


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, so that it has its old contents or the new ones, never a part.

    Raises:
        ModelError: the disk is full or the file can't be written; what was there is as it was.
    """
    path = Path(path)
    unfinished = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
    with _explained(path, size=len(data)):
        try:
            _write(unfinished, data)
            os.replace(unfinished, path)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        _flush_directory(path.parent)


def write_directory_atomically(path: Path, files: Mapping[str, bytes]) -> None:
    """Make the directory ``path``, which must not exist, with these files in it, or nothing.

    Raises:
        ModelError: the disk is full or the directory can't be written.
    """
    path = Path(path)
    unfinished = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
    with _explained(path, size=sum(map(len, files.values()))):
        try:
            os.mkdir(unfinished)
            for name, data in files.items():
                _write(unfinished / name, data)
            _flush_directory(unfinished)
            os.rename(unfinished, path)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        _flush_directory(path.parent)


def make_directory(path: Path) -> None:
    """Make ``path`` and its parents, where they aren't there.

    Raises:
        ModelError: it can't be made.
    """
    with _explained(path):
        os.makedirs(path, exist_ok=True)


def remove_atomically(path: Path) -> None:
    """Delete the directory ``path``, if there is one: it is there whole or not at all.

    Raises:
        ModelError: it can't be deleted.
    """
    path = Path(path)
    doomed = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
    with _explained(path, "deleted"):
        if path.exists():
            os.rename(path, doomed)
            shutil.rmtree(doomed)


def remove_unfinished(path: Path) -> None:
    """Delete what a writer that was killed left in ``path``."""
    for entry in path.glob(f"{UNFINISHED}*"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(number, rest) :]
        os.fsync(number)
    finally:
        os.close(number)


def _flush_directory(path: Path) -> None:
    """Flush a directory's entries; a system that can't open directories has no need of it."""
    if os.name == "nt":
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextlib.contextmanager
def _explained(path: Path, done: str = "written", size: int = 0) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(
                f"{path}: the disk is full, {size} bytes could not be written; what was there "
                "before is whole. Make room and try again"
            ) from error
        raise ModelError(f"{path}: can't be {done}: {error.strerror or error}") from error
