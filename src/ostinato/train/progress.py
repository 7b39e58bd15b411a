"""Where a run stands, apart from weights and data: all that its history is made of."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch

from ostinato.train.history import EpochRecord, History


@dataclass
class Progress:
    """Counts of the run and sums of the current epoch.

    Attributes:
        step: steps done.
        epoch: epochs done.
        batch: steps done in the current epoch.
        waited: epochs since the best one.
        ended: why the run is over; ``""`` while it isn't.
        loss_sum, terms, steps, clipped: over the steps of the current epoch.
        norms: of its gradients, 8 bytes a step: an epoch may have millions of steps.
        seconds: of training in the current epoch, and with its validation.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    waited: int = 0
    ended: str = ""
    loss_sum: float = 0.0
    terms: int = 0
    steps: int = 0
    norms: array[float] = field(default_factory=lambda: array("d"))
    clipped: int = 0
    seconds: float = 0.0

    def add(self, loss: float, terms: int, steps: int, norm: float, clipped: bool) -> None:
        """Count one step."""
        self.step += 1
        self.batch += 1
        self.loss_sum += loss * terms
        self.terms += terms
        self.steps += steps
        self.norms.append(norm)
        self.clipped += clipped

    def close_epoch(
        self, metrics: dict[str, float], lr: float, training: float, validating: float
    ) -> EpochRecord:
        """The current epoch's record; begins the next.

        Args:
            metrics: of the validation.
            lr: of the last step.
            training: seconds of the epoch's training in this process's life.
            validating: seconds.
        """
        training += self.seconds
        self.epoch += 1
        record = EpochRecord(
            epoch=self.epoch,
            loss=self.loss_sum / max(self.terms, 1),
            metrics=metrics,
            lr=lr,
            grad_norm=float(np.median(self.norms)),
            clipped_share=self.clipped / len(self.norms),
            steps_per_second=self.steps / training if training > 0 else 0.0,
            seconds=training + validating,
        )
        self.batch = self.terms = self.steps = self.clipped = 0
        self.loss_sum = self.seconds = 0.0
        self.norms = array("d")
        return record

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "norms": torch.tensor(self.norms, dtype=torch.float64)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Progress:
        """From a checkpoint."""
        return cls(**{**state, "norms": array("d", state["norms"].tolist())})


def history_from(state: dict[str, Any]) -> History:
    """A history out of a checkpoint."""
    epochs = [EpochRecord(**record) for record in state["epochs"]]
    return History(**{**state, "epochs": epochs})
