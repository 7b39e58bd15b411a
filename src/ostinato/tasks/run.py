"""Training from a configuration, and evaluating and predicting from a model directory."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ostinato.data.bad_rows import BadRows
from ostinato.errors import InputError, ModelError
from ostinato.tasks import model_directory
from ostinato.tasks.config import TrainConfig, read_config_file
from ostinato.tasks.registry import TASKS
from ostinato.train import Processes, fit, write_atomically
from ostinato.train.directory import make_directory, remove_atomically
from ostinato.train.randomness import seed_everything

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import nn

    from ostinato.data.rows import Row
    from ostinato.tasks.task import Evaluation, Prepared
    from ostinato.train import Callback, History

#: The configuration of a run, there from its start to its end, for ``resume`` to compare.
SETTINGS = "training.json"
#: Options that may differ where a run goes on.
_FREE = ("threads", "out", "log")


@dataclass
class TrainResult:
    """What training gave.

    Attributes:
        history: the epochs, and how it ended.
        evaluation: on the held-out part of the data; ``None`` where training was interrupted, and
            on other processes than the main one.
        directory: of the model. Where training was interrupted it has checkpoints, and, of an
            epoch that was validated, a model too.
        notes: what a reader of the run should know, a sentence each.
    """

    history: History
    evaluation: Evaluation | None
    directory: Path
    notes: list[str] = field(default_factory=list)


def train(
    config: TrainConfig,
    *,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
    overwrite: bool = False,
    processes: Processes | None = None,
    tell: Callable[[str], None] | None = None,
) -> TrainResult:
    """Read the data, train, save the model, evaluate it on the held-out part.

    The same configuration gives the same weights, bit for bit, on the same machine with as many
    threads and processes.

    Args:
        config: all choices; ``config.out`` is the directory, by default named after the task and
            the data.
        callbacks: see :class:`ostinato.train.Callback`.
        resume: go on from the last checkpoint in the directory, or from the start where there is
            none.
        overwrite: replace a model that is in the directory. It stays until the new one is saved.
        processes: where several train one model.
        tell: is called with each of the notes before the first step, on the main process.

    Raises:
        InputError: data or options that can't be used; safetensors or scikit-learn isn't installed;
            the directory has a model and neither ``resume`` nor ``overwrite`` is given, or has
            checkpoints of another configuration.
        DivergedError: loss or gradient became NaN or infinite.
        ModelError: the directory can't be written.
    """
    processes = processes or Processes()
    _check_packages()
    directory = Path(config.out) if config.out is not None else default_directory(config)
    # All processes look before the main one writes.
    _check_directory(directory, resume, overwrite)
    processes.barrier()
    if config.threads:
        torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    bad = BadRows("skip" if config.bad_rows == "skip" else "fail")
    task = TASKS[config.task](config)
    task.read(bad)
    if resume:
        _check_settings(directory, task.config)
    if processes.is_main:
        make_directory(directory)
        if not resume:
            remove_atomically(directory / "checkpoints")
        write_atomically(directory / SETTINGS, task.config.to_json().encode())
    processes.barrier()
    model = task.build().to(processes.device)
    prepared = task.prepare(model, processes)
    notes = [*prepared.notes, *([bad.summary()] if bad.count else [])]
    if tell is not None and processes.is_main:
        for note in notes:
            tell(note)
    history = fit_prepared(
        model,
        prepared,
        task.config,
        callbacks=callbacks,
        directory=directory,
        resume=resume,
        processes=processes,
    )
    evaluation = None
    if processes.is_main:
        # Of an interrupted run, the best weights so far, if any were measured.
        if history.stopped != "interrupted" or history.best_epoch is not None:
            model_directory.save(directory, task, model, history)
        if history.stopped != "interrupted":
            evaluation = task.evaluate(model, None, BadRows("skip"))
            # From here on the run counts as finished, and what is needed to go on is of no use.
            (directory / SETTINGS).unlink(missing_ok=True)
            remove_atomically(directory / "checkpoints")
    processes.barrier()
    return TrainResult(history, evaluation, directory, notes)


def fit_prepared(model: nn.Module, prepared: Prepared, config: TrainConfig, **run: Any) -> History:
    """:func:`ostinato.train.fit` as a task and its settled configuration say.

    Args:
        model: of the task.
        prepared: its batches, objective and validation.
        config: all choices, each with a value.
        run: what belongs to this run alone, arguments of ``fit``.
    """
    return fit(
        model,
        prepared.batches,
        prepared.objective,
        epochs=config.epochs,
        optimizer=config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        schedule=config.schedule,
        warmup=config.warmup,
        clip_norm=config.clip_norm or None,
        validate=prepared.validate,
        monitor=prepared.monitor,
        mode=prepared.mode,
        patience=config.patience or None,
        seed=config.seed,
        **run,
    )


def evaluate(
    directory: Path, data: list[Path] | None = None, bad: BadRows | None = None
) -> Evaluation:
    """Metrics of a saved model on files, or on the held-out part of its own data.

    Raises:
        ModelError: there is no model, or it is damaged or newer.
        InputError: data that is missing or can't be used.
    """
    task, model, _ = model_directory.load(directory)
    return task.evaluate(model, data, bad or BadRows())


def predict(
    directory: Path, rows: Iterable[Row], bad: BadRows | None = None
) -> Iterator[dict[str, Any]]:
    """Predictions of a saved model for rows (of :func:`ostinato.data.read_rows`), while reading.

    Raises:
        ModelError: there is no model, or it is damaged or newer.
        InputError: data that can't be used.
    """
    task, model, _ = model_directory.load(directory)
    return task.predict(model, rows, bad or BadRows())


def default_directory(config: TrainConfig) -> Path:
    """Where a model goes that isn't told where: ``classify-imdb``, ``tag-news``."""
    if config.data:
        name = Path(config.data[0]).name.split(".")[0] or "data"
    else:
        from ostinato.data import named

        name = config.dataset or named.default(config.task)
    return Path(f"{config.task}-{name}")


def _check_packages() -> None:
    """Refuse at once what would be missed only when the training is done."""
    for module, package in (("safetensors", "safetensors"), ("sklearn", "scikit-learn")):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(
                f"training needs {package}, which isn't installed: pip install 'ostinato[train]'"
            ) from error


def _check_directory(directory: Path, resume: bool, overwrite: bool) -> None:
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory}: is a file; give another place with --out")
    has_model, started = model_directory.exists(directory), (directory / SETTINGS).exists()
    if resume and has_model and not started:
        raise InputError(f"{directory}: the training of this model has finished; nothing to resume")
    if resume or overwrite:
        return
    checkpoints = directory / "checkpoints"
    if checkpoints.is_dir() and any(checkpoints.iterdir()) and (started or not has_model):
        raise InputError(
            f"{directory}: has the checkpoints of a training that hasn't finished; go on with "
            "--resume, start anew with --overwrite, or give another place with --out"
        )
    if has_model:
        raise InputError(
            f"{directory}: has a model already; replace it with --overwrite, or give another place "
            "with --out"
        )


def _check_settings(directory: Path, config: TrainConfig) -> None:
    path = directory / SETTINGS
    if not path.exists():
        return
    try:
        before = read_config_file(path)
    except InputError as error:
        raise ModelError(f"{path}: is damaged: {error}") from error
    now = config.to_dict()
    different = [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in sorted({*before, *now} - set(_FREE))
        if _plain(before.get(name)) != _plain(now.get(name))
    ]
    if different:
        raise InputError(
            f"{directory}: the training there has other options: {'; '.join(different)}. Resume "
            "with the same ones, start anew with --overwrite, or give another place with --out"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
