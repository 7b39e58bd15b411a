"""Checkpoints: directories of safetensors files with a manifest of checksums, no pickles.

::

    DIRECTORY/checkpoints/000017/
      manifest.json            format, step, the settings of the run, SHA-256 of each file
      state.safetensors        weights, best weights, optimiser, place in the data, history
      process-0.safetensors    random state and carried state of each process

A checkpoint is written under another name and renamed, and the ones before it are deleted after
that: at every moment at least one is whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ostinato.errors import ModelError
from ostinato.train.directory import (
    make_directory,
    remove_unfinished,
    write_directory_atomically,
)
from ostinato.train.packing import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """What was read.

    Attributes:
        path: its directory.
        settings: of the run that wrote it.
        files: contents by name.
    """

    path: Path
    settings: dict[str, Any]
    files: dict[str, bytes]

    def state(self) -> Any:
        """What all processes share."""
        return unpack(self.files["state.safetensors"])

    def process(self, rank: int) -> Any:
        """What was one process's own."""
        return unpack(self.files[f"process-{rank}.safetensors"])


class Checkpoints:
    """The checkpoints in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory) / "checkpoints"

    def write(
        self, step: int, settings: Mapping[str, Any], state: Any, processes: list[bytes]
    ) -> Path:
        """Write one and delete those before it.

        Raises:
            ModelError: the disk is full, or the like; the newest one before it is whole.
        """
        make_directory(self.directory)
        remove_unfinished(self.directory)
        files = {"state.safetensors": pack(state)}
        files |= {f"process-{rank}.safetensors": data for rank, data in enumerate(processes)}
        manifest = {
            "format": FORMAT,
            "step": step,
            "torch": torch.__version__,
            "settings": dict(settings),
            "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
        files[_MANIFEST] = json.dumps(manifest, indent=1).encode()
        before = self._paths()
        path = self.directory / f"{int(before[-1].name) + 1 if before else 1:06d}"
        try:
            write_directory_atomically(path, files)
        except ModelError as error:
            kept = f"The checkpoint before it, {before[-1]}," if before else "No checkpoint"
            whole = "is whole: fit(..., resume=True) goes on from there" if before else "is there"
            raise ModelError(
                f"the checkpoint of step {step} isn't written: {error}. {kept} {whole}"
            ) from error
        for old in before:
            shutil.rmtree(old, ignore_errors=True)
        return path

    def newest(self) -> Checkpoint | None:
        """The newest one that is whole; ``None`` where there has never been one.

        Raises:
            ModelError: there are some and none is whole, or the newest was written by a newer
                version.
        """
        reasons = []
        for path in reversed(self._paths()):
            try:
                return _read(path)
            except _NewerError:
                raise
            except ModelError as error:
                reasons.append(str(error))
        if reasons:
            raise ModelError("no checkpoint is whole; start the run anew: " + "; ".join(reasons))
        return None

    def _paths(self) -> list[Path]:
        """The checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(
            (p for p in self.directory.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name)
        )


class _NewerError(ModelError):
    """A checkpoint of a newer version: an older one beside it is no way out."""


def _read(path: Path) -> Checkpoint:
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
        version, checksums = manifest["format"], manifest["sha256"]
        if version > FORMAT:
            raise _NewerError(
                f"{path}: format {version} is newer than this version of ostinato reads, {FORMAT}; "
                "update ostinato"
            )
        files = {name: (path / name).read_bytes() for name in checksums}
        settings = manifest["settings"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is damaged: {error!r}") from error
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != checksums[name]:
            raise ModelError(
                f"{path} is damaged: {name} has another SHA-256 than its manifest says"
            )
    return Checkpoint(path, settings, files)
