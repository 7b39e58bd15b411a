"""Finds the data files of installed packages without importing the packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ostinato.errors import DataError, InputError


def folder_of(package: str, dataset: str, install: str) -> Path:
    """The folder of an installed top-level package, which isn't imported.

    Args:
        package: its import name.
        dataset: for the message: the data set that needs it.
        install: the command that installs it.

    Raises:
        InputError: it isn't installed; names the command.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise InputError(
            f"the data set {dataset!r} comes with the package {package!r}, which isn't installed: "
            f"{install}"
        )
    return Path(next(iter(found.submodule_search_locations)))


def file_of(folder: Path, path: str, dataset: str) -> Path:
    """A file in a package's folder.

    Raises:
        DataError: the package has no such file, as another version of it may not.
    """
    found = folder / path
    if not found.is_file():
        raise DataError(
            f"{found}: expected the data of {dataset!r} here; another version of the package "
            f"{folder.name!r} may keep it elsewhere"
        )
    return found
