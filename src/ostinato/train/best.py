"""The best weights so far, and the patience that waits for better ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ostinato.errors import InputError
from ostinato.train.packing import cloned

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ostinato.train.history import History


@dataclass
class Best:
    """Keeps a copy of the weights with the best monitored value.

    Attributes:
        monitor: name of the metric.
        mode: ``"min"`` or ``"max"``.
        weights: the model's ``state_dict``, on the CPU; ``None`` until there is a value.
    """

    monitor: str
    mode: str
    weights: dict[str, Tensor] | None = None

    def offer(
        self, model: nn.Module, metrics: dict[str, float], history: History, step: int
    ) -> bool:
        """Keep the weights if they are better than all before; NaN and infinity never are.

        Raises:
            InputError: the metric isn't among those of the validation.
        """
        if self.monitor not in metrics:
            raise InputError(
                f"monitor {self.monitor!r} is not among what validate gave: "
                f"{', '.join(sorted(metrics)) or 'nothing'}"
            )
        value, before = metrics[self.monitor], history.best_value
        if not math.isfinite(value):
            return False
        if before is not None and (value >= before if self.mode == "min" else value <= before):
            return False
        self.weights = cloned(model.state_dict())
        history.best_value, history.best_step = value, step
        history.best_epoch = len(history.epochs)
        return True

    def put_into(self, model: nn.Module) -> bool:
        """Give the model the best weights, if there are any."""
        if self.weights is None:
            return False
        model.load_state_dict(self.weights)
        return True
