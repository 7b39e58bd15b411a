"""What a run leaves behind: a record an epoch, and how it ended."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ostinato.errors import ModelError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class StepInfo:
    """One step, as callbacks see it.

    Attributes:
        step: number of this step in the run, from 1.
        epoch: from 1.
        batch: number of this step in the epoch, from 1.
        batches: steps in an epoch.
        part: name of the part that the batch came from; ``""`` where there is only one.
        loss: mean over the terms of the global batch.
        grad_norm: 2-norm of the gradient of all parameters, before clipping.
        clipped: whether it was clipped.
        terms: loss terms in the global batch.
        steps: valid time steps in the global batch.
        lr: learning rate of this step.
        seconds: forward, backward and optimiser.
        elapsed: seconds since the run started, or was resumed.
    """

    step: int
    epoch: int
    batch: int
    batches: int
    part: str
    loss: float
    grad_norm: float
    clipped: bool
    terms: int
    steps: int
    lr: float
    seconds: float
    elapsed: float


@dataclass(slots=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: from 1.
        loss: mean over all terms of the epoch.
        metrics: what ``validate`` gave.
        lr: learning rate of the last step.
        grad_norm: median over the steps, before clipping.
        clipped_share: share of the steps whose gradient was clipped, 0 to 1.
        steps_per_second: valid time steps of training a second, validation left out.
        seconds: the epoch with its validation.
    """

    epoch: int
    loss: float
    metrics: dict[str, float]
    lr: float
    grad_norm: float
    clipped_share: float
    steps_per_second: float
    seconds: float


@dataclass(slots=True)
class History:
    """The epochs of a run and how it ended.

    Attributes:
        epochs: one record each.
        stopped: ``"finished"``, ``"early"`` (patience ran out, or a callback asked for it) or
            ``"interrupted"`` (Ctrl-C or SIGTERM; ``fit(..., resume=True)`` goes on).
        best_epoch, best_value, best_step: the epoch whose weights were the best by the monitored
            metric, that metric's value, and the step after which it was measured; ``None`` without
            validation.
    """

    epochs: list[EpochRecord] = field(default_factory=list)
    stopped: str = "finished"
    best_epoch: int | None = None
    best_value: float | None = None
    best_step: int | None = None

    def to_json(self) -> str:
        """As JSON text; a number that is NaN or infinite becomes ``null``."""
        return json.dumps(_finite({"format": FORMAT, **asdict(self)}), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> History:
        """What :meth:`to_json` wrote; ``null`` becomes NaN.

        Raises:
            ModelError: it isn't, or a newer version wrote it.
        """
        try:
            data = json.loads(text)
            if not isinstance(data, dict) or not isinstance(data.get("format"), int):
                raise ModelError("history: expected a JSON object with a number 'format'")
            if data["format"] > FORMAT:
                raise ModelError(
                    f"history: format {data['format']} is newer than this version of ostinato "
                    f"reads, {FORMAT}; update ostinato"
                )
            epochs = [_record(entry) for entry in data["epochs"]]
            best = (data["best_epoch"], data["best_value"], data["best_step"])
            return cls(epochs, str(data["stopped"]), *best)
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"history: not what History.to_json wrote: {error!r}") from error


def _record(entry: dict[str, Any]) -> EpochRecord:
    given: dict[str, Any] = {f.name: entry[f.name] for f in fields(EpochRecord)}
    given["metrics"] = {name: _number(value) for name, value in given["metrics"].items()}
    for name in given.keys() - {"epoch", "metrics"}:
        given[name] = _number(given[name])
    return EpochRecord(**given)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
