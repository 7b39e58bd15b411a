"""``fit``: puts a run together and lets it go."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import torch

from ostinato.errors import InputError, ModelError
from ostinato.train.best import Best
from ostinato.train.callbacks import Callback, Run
from ostinato.train.checkpoints import Checkpoints
from ostinato.train.distributed import Processes
from ostinato.train.history import History
from ostinato.train.loop import Loop
from ostinato.train.optimisers import make_optimiser
from ostinato.train.packing import pack, unpack
from ostinato.train.parts import Batches, Dealer, Objective, Part, parts_of
from ostinato.train.randomness import seed_everything
from ostinato.train.schedules import Schedule, make_rates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from torch import nn


def fit(
    model: nn.Module,
    data: Batches | Part | Mapping[str, Part],
    objective: Objective | None = None,
    *,
    epochs: int,
    optimizer: str | Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = "adam",
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    schedule: str | Schedule = "constant",
    warmup: float = 0.0,
    clip_norm: float | None = 1.0,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    monitor: str = "val_loss",
    mode: str = "min",
    patience: int | None = None,
    callbacks: Sequence[Callback] = (),
    directory: Path | None = None,
    checkpoint_every: float = 30.0,
    resume: bool = False,
    seed: int = 0,
    processes: Processes | None = None,
) -> History:
    """Train ``model``, in place; afterwards it holds the best weights, or the last ones.

    Args:
        model: any module; ``objective`` calls it.
        data: batches by epochs; or a :class:`Part`; or several by name, dealt round by weight.
        objective: ``objective(model, batch, carry) -> Outcome``, where ``data`` are batches.
        epochs: passes over the data; with several parts, rounds of all their batches together.
        optimizer: ``"adam"``, ``"adamw"``, ``"sgd"`` (momentum 0.9), ``"rmsprop"``, or a callable
            that makes one from the parameters.
        lr: learning rate; a callable optimizer brings its own.
        weight_decay: of parameters with two axes or more; a callable optimizer brings its own.
        schedule: ``"constant"``, ``"linear"``, ``"cosine"``, ``"one-cycle"``, or ``schedule(step,
            steps)``, what the learning rate is multiplied by.
        warmup: share of the run, 0 to 1, over which the rate goes up to its value, before the
            schedule.
        clip_norm: the gradient's 2-norm is scaled down to this where it is larger; ``None``: never.
        validate: called after each epoch, in evaluation mode and without gradients, on each
            process; gives metrics by name. Several processes take the main one's, so where each
            looks at a share, add up with :meth:`Processes.total`.
        monitor: the metric that says which weights are the best.
        mode: ``"min"`` or ``"max"``: whether less or more of it is better.
        patience: epochs without a better value that are borne; one more ends the run. ``None``:
            all.
        callbacks: see :class:`Callback`.
        directory: checkpoints go to ``directory/checkpoints``; ``None``: there are none.
        checkpoint_every: seconds between two checkpoints; there is one at the end in any case.
        resume: go on from the newest whole checkpoint of ``directory``, or from the start where
            there has never been one (``Run.resumed`` says which). The result has the same bits as
            that of a run that wasn't cut.
        seed: of PyTorch's, Python's and NumPy's random numbers, set at the start.
        processes: :meth:`Processes.from_environment` where several train one model.

    Returns:
        The history. ``stopped`` says ``"interrupted"`` after Ctrl-C or SIGTERM, which end the run
        after the step in progress and its checkpoint; a second one ends it at once.

    Raises:
        InputError: an argument doesn't fit.
        DivergedError: loss or gradient are NaN or infinite; the model has the best weights so far.
        ModelError: a checkpoint can't be written, or what is there can't be resumed.
    """
    parts = parts_of(data, objective)
    processes = _processes(processes)
    _check(epochs, clip_norm, mode, patience, validate, checkpoint_every, resume, directory)
    seed_everything(seed)
    dealer = Dealer(parts)
    made = make_optimiser(optimizer, model, lr, weight_decay)
    rates = make_rates(schedule, warmup, epochs * len(dealer), made)
    settings = {
        "epochs": epochs,
        "optimizer": type(made).__name__,
        "lr": list(rates.base),
        "weight_decay": weight_decay,
        "schedule": schedule if isinstance(schedule, str) else "a callable",
        "warmup": warmup,
        "clip_norm": clip_norm,
        "monitor": monitor,
        "mode": mode,
        "patience": patience,
        "seed": seed,
        "parts": {n: [len(p.batches), p.weight] for n, p in parts.items()},
        "parameters": {n: list(p.shape) for n, p in model.named_parameters()},
        "processes": processes.world,
        "threads": torch.get_num_threads(),
    }
    run = Run(model, made, epochs, len(dealer), 0, History(), directory, None, monitor, processes)
    loop = Loop(
        run,
        dealer,
        rates,
        Best(monitor, mode),
        clip_norm,
        validate,
        patience,
        tuple(callbacks),
        Checkpoints(directory) if directory is not None else None,
        checkpoint_every,
        settings,
    )
    if resume and directory is not None:
        _resume(loop, Checkpoints(directory), settings)
    modes = [(module, module.training) for module in model.modules()]
    try:
        return loop.go()
    finally:
        for module, was in modes:
            module.training = was


def _resume(loop: Loop, checkpoints: Checkpoints, settings: dict[str, Any]) -> None:
    """Load the newest checkpoint; the main process reads it for all."""
    processes = loop.run.processes
    found: dict[str, Any] | None = None
    refusal = ""
    if processes.is_main:
        try:
            checkpoint = checkpoints.newest()
            if checkpoint is not None:
                _compare(checkpoint.settings, settings, str(checkpoint.path))
                own = [checkpoint.process(rank) for rank in range(processes.world)]
                found = {"state": checkpoint.state(), "own": own}
        except ModelError as error:
            refusal = str(error)
    refusal = processes.text_from_main(refusal)
    if refusal:
        raise ModelError(refusal)
    if processes.world > 1:
        found = unpack(processes.from_main(pack(found)))
    if found is not None:
        loop.load(found["state"], found["own"][processes.rank])


def _compare(before: dict[str, Any], now: dict[str, Any], path: str) -> None:
    """Refuse to go on with other settings."""
    threads = before.get("threads"), now["threads"]
    different = [
        f"{name} was {before.get(name)!r} and is {now[name]!r}"
        for name in now
        if name != "threads" and before.get(name) != now[name]
    ]
    if different:
        raise ModelError(
            f"{path} is from a run with other settings: {'; '.join(different)}. Resume with the "
            "same ones, or start anew in another directory"
        )
    if threads[0] != threads[1]:
        warnings.warn(
            f"{path} was written with {threads[0]} threads and goes on with {threads[1]}: sums are "
            "taken in another order, so that the result is close to, not the same bits as, that of "
            "a run that wasn't cut",
            stacklevel=4,
        )


def _processes(given: Processes | None) -> Processes:
    if given is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "WORLD_SIZE says that several processes train; pass processes="
            "Processes.from_environment(), or each of them trains a model of its own"
        )
    return given or Processes()


def _check(
    epochs: int,
    clip_norm: float | None,
    mode: str,
    patience: int | None,
    validate: object,
    checkpoint_every: float,
    resume: bool,
    directory: Path | None,
) -> None:
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise InputError(f"epochs must be an int >= 1, got {epochs!r}")
    if clip_norm is not None and not clip_norm > 0:
        raise InputError(f"clip_norm must be above 0, or None for no clipping, got {clip_norm!r}")
    if mode not in ("min", "max"):
        raise InputError(f"mode must be 'min' or 'max', got {mode!r}")
    if patience is not None and (validate is None or patience < 0):
        raise InputError(
            f"patience is a number of epochs >= 0 and needs validate, got {patience!r}"
        )
    if not checkpoint_every >= 0:
        raise InputError(f"checkpoint_every is seconds >= 0, got {checkpoint_every!r}")
    if resume and directory is None:
        raise InputError("resume=True needs the directory whose checkpoints are to be taken up")
