"""Learning rates as pure functions of the step: nothing to store, nothing to get out of step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ostinato.errors import InputError

if TYPE_CHECKING:
    import torch

#: ``schedule(step, steps)``: what the learning rate is multiplied by at ``step`` of ``steps``.
Schedule = Callable[[int, int], float]


def constant(step: int, steps: int) -> float:
    """1 throughout."""
    return 1.0


def linear(step: int, steps: int) -> float:
    """From 1 down to 0, which it would reach at the step after the last."""
    return 1.0 - step / steps


def cosine(step: int, steps: int) -> float:
    """From 1 down to 0 along half a cosine (Loshchilov and Hutter 2017, SGDR, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * step / steps))


def one_cycle(step: int, steps: int) -> float:
    """Up from 1/25 to 1 over the first 30 % of the steps, then down to 1e-4/25, along cosines.

    L. N. Smith and N. Topin (2019), Super-convergence: very fast training of neural networks using
    large learning rates; shape and numbers are those of ``torch.optim.lr_scheduler.OneCycleLR``,
    whose momentum is left as it is.
    """
    low, final, turn = 1 / 25, 1e-4 / 25, 0.3 * steps
    if step < turn:
        return low + (1.0 - low) * 0.5 * (1.0 - math.cos(math.pi * step / turn))
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * (step - turn) / (steps - turn)))


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "one-cycle": one_cycle,
}


@dataclass(frozen=True)
class Rates:
    """Sets an optimiser's learning rates; each of its groups keeps its own base rate.

    Attributes:
        schedule: after the warm-up, over the steps that remain.
        steps: in the whole run.
        warmup: steps over which the rate goes up from 0, linearly.
        base: the groups' rates.
    """

    schedule: Schedule
    steps: int
    warmup: int
    base: tuple[float, ...]

    def factor(self, step: int) -> float:
        """What the rates are multiplied by at ``step``, from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        return float(self.schedule(step - self.warmup, self.steps - self.warmup))

    def set(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Set the rates of ``step``; gives the first group's."""
        factor = self.factor(step)
        for group, base in zip(optimizer.param_groups, self.base, strict=True):
            group["lr"] = base * factor
        return self.base[0] * factor


def make_rates(
    choice: str | Schedule, warmup: float, steps: int, optimizer: torch.optim.Optimizer
) -> Rates:
    """The rates of a run of ``steps`` steps, the first ``warmup`` share of them warming up.

    Raises:
        InputError: an unknown name, or a share outside 0 to 1.
    """
    if not 0 <= warmup < 1:
        raise InputError(f"warmup is a share of the run, 0 <= warmup < 1, got {warmup!r}")
    if not callable(choice) and choice not in SCHEDULES:
        raise InputError(
            f"schedule must be one of {', '.join(SCHEDULES)}, or a callable of step and steps; "
            f"got {choice!r}"
        )
    schedule = choice if callable(choice) else SCHEDULES[choice]
    base = tuple(float(group["lr"]) for group in optimizer.param_groups)
    return Rates(schedule, steps, int(warmup * steps), base)
