"""The directory of a trained model: weights, configuration, vocabulary, history; no pickles.

::

    DIRECTORY/
      model.safetensors    weights
      config.json          format, versions, the run's configuration, SHA-256 of the files (of
                           itself: of all but these sums)
      vocabulary.json      what the task knows beside the weights: vocabulary, labels, scales
      history.json         the training
      checkpoints/         while training, see ostinato.train.checkpoints

A save is there whole or not at all, also over an older model: the new files are written aside, in
``incoming/``, which appears complete by one rename; then they are moved into their places. Where
that was cut off, ``incoming/`` still has the files that weren't moved, and they are the ones read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import ostinato
from ostinato.errors import InputError, ModelError
from ostinato.tasks.config import TrainConfig
from ostinato.tasks.registry import TASKS
from ostinato.train import History
from ostinato.train.directory import (
    make_directory,
    remove_unfinished,
    write_directory_atomically,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ostinato.tasks.task import Task

FORMAT = 1
_CONFIG, _WEIGHTS, _META, _HISTORY = (
    "config.json",
    "model.safetensors",
    "vocabulary.json",
    "history.json",
)
_OTHERS = (_WEIGHTS, _META, _HISTORY)
_INCOMING = "incoming"


def save(path: Path, task: Task, model: nn.Module, history: History) -> None:
    """Write a model directory; one that is there is replaced.

    Args:
        path: the directory; made if it isn't there.
        task: settled, with what it has learnt.
        model: the trained weights.
        history: of the training.

    Raises:
        ModelError: the disk is full or can't be written; what was there before is whole.
        InputError: safetensors isn't installed.
    """
    safetensors = _safetensors()
    # Copies: a cell of the user's own may tie weights, which the format has no way to say.
    weights = {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, t in model.state_dict().items()
    }
    files = {
        _WEIGHTS: safetensors.save(weights),
        _META: _json(task.meta()),
        _HISTORY: history.to_json().encode(),
    }
    about = {
        "format": FORMAT,
        "versions": {"ostinato": ostinato.__version__, "torch": torch.__version__},
        "parameters": sum(p.numel() for p in model.parameters()),
        "config": task.config.to_dict(),
    }
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    about["sha256"] = {**hashes, _CONFIG: hashlib.sha256(_json(about)).hexdigest()}
    make_directory(path)
    remove_unfinished(path)
    _move_in(path)
    write_directory_atomically(path / _INCOMING, {**files, _CONFIG: _json(about)})
    _move_in(path)


def load(path: Path) -> tuple[Task, nn.Module, History]:
    """Read a model directory.

    Returns:
        The task, restored; the model, in evaluation mode, on the CPU; the history.

    Raises:
        ModelError: there is no model, a file is missing or damaged, or a newer version of ostinato
            wrote it.
        InputError: a cell of the user's own can't be imported; safetensors isn't installed.
    """
    path = Path(path)
    about = _about(path)
    files = {name: _checked(path, name, about["sha256"][name]) for name in _OTHERS}
    try:
        config = TrainConfig.from_dict(about["config"], str(path / _CONFIG))
        meta = json.loads(files[_META])
        task = TASKS[config.task].restore(config, meta)
        history = History.from_json(files[_HISTORY].decode())
    except InputError as error:
        raise ModelError(f"{path}: the configuration isn't one: {error}") from error
    except (ModelError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: the model directory is damaged: {error}") from error
    # Building draws random weights that are overwritten at once: the caller's random numbers
    # shouldn't notice.
    with torch.random.fork_rng(devices=[]):
        model = task.build()
    _put_weights(model, files[_WEIGHTS], path)
    return task, model.eval(), history


def exists(path: Path) -> bool:
    """Whether there is a model in the directory, damaged or not."""
    return _place(path, _CONFIG).exists()


def _about(path: Path) -> dict[str, Any]:
    where = _place(path, _CONFIG)
    if not where.exists():
        if (path / "checkpoints").is_dir():
            raise ModelError(
                f"{path}: training hasn't finished: there are checkpoints, but no model yet; "
                "go on with --resume"
            )
        what = "is no model directory" if path.is_dir() else "there is no such directory"
        raise ModelError(f"{path}: {what}; it would have a {_CONFIG}")
    try:
        about = json.loads(_read(where))
        number, hashes = about["format"], about["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{where}: the file is damaged: {error!r}") from error
    if not isinstance(number, int) or number > FORMAT:
        versions = about.get("versions", {})
        raise ModelError(
            f"{path}: the model has format {number!r}, written by ostinato "
            f"{versions.get('ostinato', 'of an unknown version')}; this is ostinato "
            f"{ostinato.__version__}, which reads formats up to {FORMAT}: install a newer one"
        )
    needed = (*_OTHERS, _CONFIG)
    if not isinstance(hashes, dict) or hashes.keys() != set(needed):
        raise ModelError(f"{where}: the file is damaged: it doesn't list {', '.join(needed)}")
    rest = {name: value for name, value in about.items() if name != "sha256"}
    try:
        found = hashlib.sha256(_json(rest)).hexdigest()
    except ValueError:  # what no save writes: NaN, half a surrogate pair
        found = ""
    if found != hashes[_CONFIG]:
        raise ModelError(
            f"{where}: the file is damaged or was edited: its contents aren't those that it has "
            "the checksum of (to train with other options: ostinato train --config)"
        )
    return about  # type: ignore[no-any-return]


def _checked(path: Path, name: str, digest: str) -> bytes:
    where = _place(path, name)
    if not where.exists():
        raise ModelError(f"{path}: the model directory is damaged: {name} is missing")
    data = _read(where)
    if hashlib.sha256(data).hexdigest() != digest:
        raise ModelError(
            f"{where}: the file is damaged: its contents aren't those that {_CONFIG} has the "
            "checksum of"
        )
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {error.strerror or error}") from error


def _place(path: Path, name: str) -> Path:
    """Where a file is: a save that was cut off has left it in ``incoming``."""
    incoming = path / _INCOMING / name
    return incoming if incoming.exists() else path / name


def _move_in(path: Path) -> None:
    """Move what is in ``incoming`` into its place; it is complete, or what is left of a move."""
    incoming = path / _INCOMING
    if not incoming.is_dir():
        return
    try:
        for file in sorted(incoming.iterdir()):
            os.replace(file, path / file.name)
        shutil.rmtree(incoming)
    except OSError as error:
        raise ModelError(f"{path}: can't be written: {error.strerror or error}") from error


def _put_weights(model: nn.Module, data: bytes, path: Path) -> None:
    safetensors = _safetensors()
    weights: dict[str, Tensor] = safetensors.load(data)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"{path}: the weights don't fit the model that the configuration describes (has the "
            f"cell's code changed?): {error}"
        ) from error


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise InputError(
            "model directories need safetensors, which isn't installed: "
            "pip install 'ostinato[train]'"
        ) from error
    return safetensors.torch
