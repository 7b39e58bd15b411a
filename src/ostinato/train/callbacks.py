"""Callbacks: what a progress bar, a log or an early end hangs on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

    from ostinato.train.distributed import Processes
    from ostinato.train.history import EpochRecord, History, StepInfo


@dataclass
class Run:
    """A run, as callbacks see it.

    Attributes:
        model: the model itself, also where several processes train it.
        optimizer: made by ``fit``.
        epochs: that were asked for.
        batches: steps in an epoch.
        step: steps done.
        history: so far.
        directory: where checkpoints go, or ``None``.
        resumed: the step at which a checkpoint was taken up; ``None``: the run started anew.
        monitor: name of the metric that decides.
        processes: which process of how many this is.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    epochs: int
    batches: int
    step: int
    history: History
    directory: Path | None
    resumed: int | None
    monitor: str
    processes: Processes
    stopping: bool = field(default=False, init=False)

    @property
    def steps(self) -> int:
        """Steps in the whole run."""
        return self.epochs * self.batches

    def stop(self) -> None:
        """Ask for an early end: after this step, or the next where several processes train."""
        self.stopping = True


class Callback:
    """Base of callbacks; each method does nothing until it is overridden.

    With several processes, callbacks are called on the main process alone; they may look at the
    model and change nothing.
    """

    def on_start(self, run: Run) -> None:
        """Before the first step."""

    def on_step(self, run: Run, info: StepInfo) -> None:
        """After each step of the optimiser."""

    def on_epoch(self, run: Run, record: EpochRecord) -> None:
        """After each epoch and its validation."""

    def on_end(self, run: Run, history: History) -> None:
        """At the end, the best weights in place; not after an error."""
