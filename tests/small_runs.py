"""Small trainings for the tests of ``ostinato.train``: tens of steps of a few milliseconds."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

import ostinato
from ostinato.train import (
    Callback,
    History,
    Outcome,
    Part,
    Processes,
    RowDropout,
    Run,
    StepInfo,
    fit,
    initialise,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class Batch:
    """Time-major, this process's rows of a global batch."""

    x: Tensor
    lengths: Tensor
    target: Tensor
    batch_rows: int
    share: Tensor
    terms: int
    all_terms: int


class RaggedSums:
    """Sequences whose running sum is to be found; rows of lengths that differ much."""

    def __init__(self, batches: int = 6, rows: int = 5, rank: int = 0, world: int = 1) -> None:
        self.batches, self.rows, self.rank, self.world = batches, rows, rank, world

    def __len__(self) -> int:
        return self.batches

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        for k in range(start, self.batches):
            draw = torch.Generator().manual_seed(1000 * number + k)
            lengths = torch.randint(1, 10, (self.rows,), generator=draw)
            x = torch.randn(9, self.rows, 3, generator=draw)
            share = torch.arange(self.rank, self.rows, self.world)
            mine = lengths[share]
            yield Batch(
                x[:, share],
                mine,
                x.sum(-1).cumsum(0)[:, share] / 3,
                self.rows,
                share,
                int(mine.sum()),
                int(lengths.sum()),
            )


class StreamSums:
    """Rows of one long stream each, in windows: the state goes on from batch to batch."""

    def __init__(self, batches: int = 6, rows: int = 4, rank: int = 0, world: int = 1) -> None:
        draw = torch.Generator().manual_seed(7)
        self.x = torch.randn(5 * batches, rows, 3, generator=draw)
        self.target = torch.tanh(self.x.sum(-1).cumsum(0) / 3)
        self.batches, self.rows, self.rank, self.world = batches, rows, rank, world

    def __len__(self) -> int:
        return self.batches

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        share = torch.arange(self.rank, self.rows, self.world)
        for k in range(start, self.batches):
            window = slice(5 * k, 5 * k + 5)
            yield Batch(
                self.x[window, share],
                torch.full((len(share),), 5),
                self.target[window, share],
                self.rows,
                share,
                5 * len(share),
                5 * self.rows,
            )


class Net(nn.Module):
    """RowDropout, a recurrent layer, a head."""

    def __init__(self, cell: nn.Module, dropout: float = 0.3) -> None:
        super().__init__()
        self.dropout = RowDropout(dropout)
        self.layer = ostinato.Recurrent(cell)
        self.head = nn.Linear(8, 1)

    def forward(self, batch: Batch, state: Any = None) -> tuple[Tensor, Any]:
        x = self.dropout(batch.x, batch.batch_rows, batch.share)
        y, state = self.layer(x, state, lengths=batch.lengths)
        return self.head(y)[..., 0], state


def squared_error(model: nn.Module, batch: Batch, carry: Any, *, carried: bool = False) -> Outcome:
    y, state = model(batch, carry)
    valid = torch.arange(len(y)).unsqueeze(1) < batch.lengths
    loss = (y - batch.target)[valid].square().mean()
    return Outcome(loss, batch.terms, batch.all_terms, batch.terms, state if carried else None)


def noisy_error(model: nn.Module, batch: Batch, carry: Any) -> Outcome:
    """Draws from all three generators besides the dropout."""
    outcome = squared_error(model, batch, carry)
    return replace(outcome, loss=outcome.loss * (1 + random.random() + np.random.rand()))


def carried_error(model: nn.Module, batch: Batch, carry: Any) -> Outcome:
    return squared_error(model, batch, carry, carried=True)


def validation_of(data: Any) -> Any:
    """A validation of ``data``'s epoch 99, which also draws random numbers."""

    def validate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        outcomes = [squared_error(model, batch, None) for batch in data.epoch(99)]
        torch.rand(3)
        return {"val_loss": float(sum(o.loss for o in outcomes)) / len(outcomes)}

    return validate


def build(kind: str) -> nn.Module:
    torch.manual_seed(3)
    cells = ostinato.cells
    model = Net(cells.LSTM(3, 8), 0.0) if kind == "carry" else Net(cells.GRU(3, 8))
    initialise(model)
    return model


#: Name -> what ``fit`` is given besides the model; made anew for each run.
KINDS = ("dropout", "carry", "mixed")


def arguments(kind: str, rank: int = 0, world: int = 1) -> dict[str, Any]:
    share = {"rank": rank, "world": world}
    if kind == "dropout":
        return {
            "data": RaggedSums(**share),
            "objective": noisy_error,
            "optimizer": "adamw",
            "weight_decay": 0.1,
            "schedule": "one-cycle",
        }
    if kind == "carry":
        return {"data": StreamSums(**share), "objective": carried_error, "optimizer": "sgd"}
    parts = {
        "ragged": Part(RaggedSums(batches=4, **share), squared_error),
        "stream": Part(StreamSums(batches=3, **share), carried_error, weight=0.5),
    }
    return {"data": parts, "optimizer": "rmsprop", "warmup": 0.2, "schedule": "cosine"}


class Losses(Callback):
    """Every step's loss."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.resumed: int | None = None

    def on_start(self, run: Run) -> None:
        self.resumed = run.resumed

    def on_step(self, run: Run, info: StepInfo) -> None:
        self.losses.append(info.loss)


def train(
    kind: str, directory: Path | None = None, rank: int = 0, world: int = 1, **more: Any
) -> tuple[nn.Module, History]:
    """Three epochs of one of ``KINDS``."""
    model = build(kind)
    given = {"epochs": 3, "validate": validation_of(RaggedSums(batches=2)), "lr": 0.01}
    given |= arguments(kind, rank, world) | {"checkpoint_every": 0.0} | more
    if world > 1:
        given.setdefault("processes", Processes(rank, world))
    return model, fit(model, directory=directory, **given)


def digest(model: nn.Module, history: History) -> str:
    """Weights and history to the last bit, times aside."""
    code = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        code.update(name.encode() + tensor.numpy().tobytes())
    for record in history.epochs:
        code.update(repr(replace(record, seconds=0.0, steps_per_second=0.0)).encode())
    code.update(repr(replace(history, epochs=[])).encode())
    return code.hexdigest()
