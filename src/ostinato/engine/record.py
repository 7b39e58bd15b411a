"""What a layer does while ``torch.compile`` builds a graph: it records one operation.

The code that calls this is followed by Dynamo, which can't follow locks, weak references or the
tracing of a cell. So all that has to be found out about a cell is found out in
:func:`describe` and :func:`sizes`, which Dynamo calls as they are and whose results it takes for
constants. Imported at the first compilation only: it needs ``torch._dynamo``.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
import torch._dynamo
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import _disable_current_modes

from ostinato.engine.choose import choose
from ostinato.engine.code import compiled
from ostinato.engine.opaque import cell_of, needs_of, prepare, register_template
from ostinato.engine.state import StateSize, find_state_size, widths
from ostinato.engine.step import Recorded, State, Step, TemplateStep
from ostinato.engine.template import template
from ostinato.errors import OstinatoError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ostinato.cells.base import Cell

_handles: dict[nn.Module, int] = {}


@contextlib.contextmanager
def _outside() -> Iterator[None]:
    """As if no graph were being built."""
    with unset_fake_temporarily(), _disable_current_modes():
        yield


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def describe(
    handle: int,
    state_size: StateSize | None,
    input_size: int,
    dtype: torch.dtype,
    device: torch.device,
    engine: str,
) -> tuple[StateSize, tuple[str, ...], str]:
    """A cell's state, the names of the tensors it needs, and why it can't be recorded, if so."""
    cell = cell_of(handle)
    with _outside():
        try:
            x = torch.empty(1, input_size, dtype=dtype, device=device)
            size = find_state_size(cell, state_size, x=x)
            step = (TemplateStep if cell in _handles else Step)(cell, None, size)
            choice = choose(step, input_size, dtype, device, engine)
        except OstinatoError as error:
            return 0, (), str(error)
    if choice.trace is None:
        return size, (), choice.reason
    return size, choice.trace.preparation.leaves, ""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def sizes(
    handle: int,
    state_size: StateSize,
    input_size: int,
    dtype: torch.dtype,
    names: tuple[str, ...],
    wanted: tuple[int, ...],
) -> tuple[int, int]:
    """Widths of the output and of what is kept when these gradients are wanted."""
    with _outside(), torch.inference_mode(False):
        step = Step(cell_of(handle), None, state_size)
        trace = step.trace(input_size, dtype)
        first = 1 + len(widths(state_size))
        flags = [first + k in wanted for k in range(len(names))]
        _, sources = prepare(trace, names, [step.tensor(name) for name in names], flags)
        return trace.program.output_size, compiled(
            trace.program, needs_of(trace.program, sources, wanted)
        ).kept_width


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def template_handle(
    cell_type: Callable[..., Cell], *sizes: int, dtype: torch.dtype, options: Mapping[str, Any]
) -> int:
    """The number of a :func:`~ostinato.engine.template.template`."""
    with _outside():
        cell = template(cell_type, *sizes, dtype=dtype, **options)
    handle = _handles.get(cell)
    if handle is None:
        handle = _handles[cell] = register_template(cell)
    return handle


def recorded(
    handle: int,
    state_size: StateSize | None,
    input_size: int,
    like: Tensor,
    engine: str,
    tensor: Callable[[str], Tensor],
) -> Recorded | str:
    """What stands for a cell's step; text where there can be none: the reason.

    Args:
        handle: the cell's number.
        state_size: what the caller says about its state.
        input_size: I.
        like: has the dtype and device.
        engine: what the caller asked for.
        tensor: gives a parameter or buffer of the cell by its name.
    """
    size, names, obstacle = describe(
        handle, state_size, input_size, like.dtype, like.device, engine
    )
    if obstacle:
        reason: str = obstacle
        return reason
    return Recorded(handle, size, names, [tensor(name) for name in names])


def outside(reason: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Break the graph, which is an error where the whole function must be one, and call."""
    torch._dynamo.graph_break(msg=f"ostinato runs this outside of the graph: {reason}")
    return _uncompiled(function, *args, **kwargs)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _uncompiled(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def record(
    step: Recorded,
    x: Tensor,
    state: State,
    *,
    lengths: Tensor | None,
    reset: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
    bptt: int | None,
) -> tuple[Tensor, State]:
    """One operation in the graph; arguments as in ``ostinato.engine.recurrence``."""
    inputs = (x, *state, *step.leaves)
    wanted: tuple[int, ...] = ()
    if torch.is_grad_enabled():
        wanted = tuple([k for k, t in enumerate(inputs) if t.requires_grad])
    output_size, kept_width = sizes(
        step.handle, step.state_size, x.shape[-1], x.dtype, step.names, wanted
    )
    batch_first = x.dim() == 3 and x.stride(0) < x.stride(1)
    y, final, _, _ = torch.ops.ostinato.recurrence(
        x, list(state), step.leaves, lengths, reset, batch_sizes, step.handle,
        ",".join(step.names), step.bare, reverse, bptt or 0, batch_first, wanted, output_size,
        kept_width,
    )  # fmt: skip
    return y, tuple(final)
