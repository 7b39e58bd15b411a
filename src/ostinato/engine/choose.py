"""Which engine runs a call, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.autograd import forward_ad

from ostinato.engine import cudnn
from ostinato.engine.native import DTYPES
from ostinato.errors import InputError, TraceError

if TYPE_CHECKING:
    from ostinato.compiler.trace import Trace
    from ostinato.engine.step import Step

ENGINES = ("auto", "native", "eager")


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs a call.

    ``engine`` is ``"native"``, ``"cudnn"`` or ``"eager"``; ``slow`` says that it isn't the fastest
    for the device, and ``reason`` why it was taken.
    """

    engine: str
    reason: str
    slow: bool = False
    trace: Trace | None = None


def check_engine(engine: str) -> None:
    """Refuse what is not the name of an engine.

    Raises:
        InputError: not one of ``ENGINES``.
    """
    if engine not in ENGINES:
        raise InputError(f"engine must be one of {', '.join(map(repr, ENGINES))}, got {engine!r}")


def other_derivatives() -> str | None:
    """What may want more than a backward pass here."""
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation"
    if torch._C._are_functorch_transforms_active():
        return "a transform of torch.func"
    return None


def choose(
    step: Step,
    input_size: int,
    dtype: torch.dtype,
    device: torch.device,
    engine: str,
    *,
    plain: bool = True,
) -> Choice:
    """Choose for one call.

    Args:
        step: the cell.
        input_size: I.
        dtype: of x, state and parameters.
        device: where they are.
        engine: what the caller asked for.
        plain: no resets and no truncated BPTT, which cuDNN hasn't.

    Raises:
        InputError: ``engine="native"`` on a device or dtype that it doesn't have, or within
            forward-mode differentiation or a transform of torch.func, or while there are hooks that
            each module calls.
        TraceError: ``engine="native"`` for a cell that can't be traced.
    """
    if engine == "eager":
        return Choice("eager", 'engine="eager" was asked for', slow=True)
    obstacle = None
    if device.type != "cpu":
        obstacle = f"the native engine runs on the CPU, the input is on {device}"
    elif dtype not in DTYPES:
        obstacle = f"the native engine computes in float32 and float64, the input is {dtype}"
    elif (other := other_derivatives()) is not None:
        obstacle = f"the native engine has a backward pass alone, and this is in {other}"
    elif step.calls_global_hooks:
        obstacle = (
            "a hook that each module calls (torch.nn.modules.module.register_module_forward_hook "
            "and its kind) would be called at each step"
        )
    if obstacle is None:
        try:
            trace = step.trace(input_size, dtype)
        except TraceError as error:
            if engine == "native":
                raise
            return Choice("eager", f"the cell can't be traced: {error}", slow=True)
        found: Choice | None = trace.program.made.get("choice")
        if found is None:
            found = Choice("native", "the cell is traced, on the CPU", trace=trace)
            trace.program.made["choice"] = found
        return found
    if engine == "native":
        raise InputError(f'engine="native": {obstacle}; use engine="auto" or "eager"')
    can_cudnn = device.type == "cuda" and plain and other_derivatives() is None
    if can_cudnn and cudnn.mode_of(step.cell) is not None:
        return Choice("cudnn", f"{obstacle}; cuDNN has this cell")
    return Choice("eager", obstacle, slow=True)
