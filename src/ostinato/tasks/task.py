"""What every task is: it reads data, builds a model, says how to train it, evaluates, predicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import Self

    from torch import nn

    from ostinato.data.bad_rows import BadRows
    from ostinato.data.rows import Row
    from ostinato.tasks.config import TrainConfig
    from ostinato.train import Batches, Objective, Processes


@dataclass
class Prepared:
    """What :func:`ostinato.train.fit` needs beside the model.

    Attributes:
        batches: the training batches.
        objective: model, batch and carried state to a loss.
        validate: the metrics of a model on the validation part, by name.
        monitor: the metric that decides which weights are best.
        mode: ``"min"`` or ``"max"``: how ``monitor`` is better.
        notes: what a reader of the run should know, a sentence each.
    """

    batches: Batches
    objective: Objective
    validate: Callable[[nn.Module], dict[str, float]]
    monitor: str = "val_loss"
    mode: str = "min"
    notes: list[str] = field(default_factory=list)


@dataclass
class Table:
    """A table to print: ``rows`` of texts under ``columns``."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass
class Evaluation:
    """The figures of a model on data that it wasn't trained on.

    Attributes:
        metrics: numbers by name (``"accuracy"`` as a share from 0 to 1).
        tables: confusion, error by horizon...
        notes: what a reader should know: which data, unknown words, rows skipped.
    """

    metrics: dict[str, float]
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Task(ABC):
    """One kind of thing that a recurrent network learns.

    A task is made from a configuration and then either :meth:`read` (to train) or, from a model
    directory's description, :meth:`restore` (to evaluate and predict). After either, ``config`` is
    settled: it names every choice.

    Args:
        config: choices; those that are ``None`` are the task's to make.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    #: The values of the options that weren't given.
    defaults: ClassVar[dict[str, Any]]

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    @abstractmethod
    def read(self, bad: BadRows) -> None:
        """Load and split the data that the configuration names, and settle the configuration.

        Vocabularies and normalisation are learnt from the training part alone.

        Raises:
            InputError: data that is missing or that the task can't use.
        """

    @abstractmethod
    def meta(self) -> dict[str, Any]:
        """As JSON values, what :meth:`restore` needs: vocabularies, labels, normalisation."""

    @classmethod
    @abstractmethod
    def restore(cls, config: TrainConfig, meta: dict[str, Any]) -> Self:
        """The task of a saved model, ready to :meth:`build`, :meth:`evaluate`, :meth:`predict`.

        Raises:
            ModelError: ``meta`` isn't what :meth:`meta` writes.
        """

    @abstractmethod
    def build(self) -> nn.Module:
        """The model, initialised from PyTorch's random state."""

    @abstractmethod
    def prepare(self, model: nn.Module, processes: Processes | None) -> Prepared:
        """Batches, loss and validation. ``model`` is what :meth:`build` gave."""

    @abstractmethod
    def evaluate(self, model: nn.Module, data: list[Path] | None, bad: BadRows) -> Evaluation:
        """Metrics on files, or on the held-out part of the data that the configuration names.

        Raises:
            InputError: data that is missing or that the task can't use.
        """

    @abstractmethod
    def predict(
        self, model: nn.Module, rows: Iterable[Row], bad: BadRows
    ) -> Iterator[dict[str, Any]]:
        """A prediction for every row, in order, while reading: of each only a batch is held."""
