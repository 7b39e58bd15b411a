"""The native engine seen from PyTorch: plans found or made, memory handed over, gradients back.

The engine itself (``native/``) knows neither cells nor PyTorch. Here a traced cell's plan is
lowered once for each set of wanted gradients; a call then hands over pointers and strides.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ostinato import _native
from ostinato.compiler.plan import Needs
from ostinato.engine.code import Compiled, compiled
from ostinato.engine.frames import outside_of_graphs
from ostinato.engine.interpreted import run_interpreted
from ostinato.engine.ragged import check_lengths
from ostinato.errors import InputError
from ostinato.strictness import strict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ostinato.compiler.ir import Program
    from ostinato.engine.step import State

#: What the engine computes in.
DTYPES = frozenset({torch.float32, torch.float64})

_native.use_tensor_table(Tensor.__dlpack_c_exchange_api__)

#: Set by tests: scratch memory and outputs start out as NaN, so that a read of what was never
#: written shows.
poison = False

#: Set by tests: threads divide columns however small the work.
columns = False


@dataclass(frozen=True, slots=True)
class Course:
    """How a call goes through time; the attributes are :func:`ostinato.engine.recurrence`'s.

    ``bptt`` is 0 for none. ``batch_first`` is how results lie in memory; ``None``: as ``x`` does.
    """

    lengths: Tensor | None = None
    reset: Tensor | None = None
    batch_sizes: Tensor | None = None
    reverse: bool = False
    bptt: int = 0
    batch_first: bool | None = None


_requires_grad = attrgetter("requires_grad")

_ONWARDS, _BACKWARDS = Course(), Course(reverse=True)


def make_course(
    x: Tensor,
    *,
    lengths: Tensor | None,
    reset: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
    bptt: int | None,
    batch_first: bool | None = None,
) -> Course:
    """The course of a call on ``x``; arguments as for :class:`Course`.

    Raises:
        InputError: lengths outside 0..T.
    """
    ordinary = bptt is None and batch_first is None
    if ordinary and lengths is None and batch_sizes is None and reset is None:
        return _BACKWARDS if reverse else _ONWARDS
    # Copies: backward reads them again, whatever the caller has written into his by then.
    if batch_sizes is not None:
        batch_sizes = batch_sizes.clone()
    elif lengths is not None:
        check_lengths(lengths, len(x))
        lengths = lengths.clone()
    return Course(lengths, reset, batch_sizes, reverse, bptt or 0, batch_first)


def run_native(
    program: Program, course: Course, statics: Sequence[Tensor], x: Tensor, state: State
) -> tuple[Tensor, State]:
    """Run a program; differentiable with respect to ``x``, ``state`` and ``statics``.

    Raises:
        InputError: a static has another shape or dtype than when the cell was traced.
    """
    if torch.is_grad_enabled():
        wanted = (x.requires_grad, *map(_requires_grad, statics))
        if True in wanted or True in map(_requires_grad, state):
            code = _code_for(program, wanted)
            y, *final = _apply(code, course, x, *state, *statics)
            return y, tuple(final)
    y, _, *final = forward(compiled(program, None), course, x, state, statics)
    return y, tuple(final)


def _code_for(program: Program, wanted: tuple[bool, ...]) -> Compiled:
    """The code for gradients of ``(x, *statics)``, found again by the flags themselves."""
    found: Compiled | None = program.made.get(wanted)
    if found is None:
        x, *statics = wanted
        needs = Needs(x, frozenset(i for i, wants in enumerate(statics) if wants))
        found = program.made[wanted] = compiled(program, needs)
    return found


class _Recurrence(torch.autograd.Function):
    """Forward and backward through time on the native engine.

    A second derivative is taken through the interpreted step (a differentiable loop in PyTorch).
    """

    @staticmethod
    def forward(ctx: Any, code: Compiled, course: Course, x: Tensor, *tensors: Tensor) -> Any:
        count = len(code.plan.program.state_sizes)
        ctx.code, ctx.course = code, course
        y, kept, *final = forward(code, course, x, tensors[:count], tensors[count:])
        ctx.save_for_backward(x, y, kept, *tensors)
        return (y, *final)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *dfinal: Tensor) -> Any:
        x, y, kept, *tensors = ctx.saved_tensors
        code: Compiled = ctx.code
        count = len(code.plan.program.state_sizes)
        state, statics = tuple(tensors[:count]), tensors[count:]
        if torch.is_grad_enabled():
            return None, None, *_differentiable_backward(ctx, x, state, statics, dy, dfinal)
        grads = backward(code, ctx.course, x, y, kept, state, statics, dy, dfinal)
        return None, None, *grads


outside_of_graphs(_Recurrence.backward)


_apply_directly: Any = super(torch.autograd.Function, _Recurrence).apply


def _apply(code: Compiled, course: Course, *tensors: Tensor) -> tuple[Tensor, ...]:
    """``_Recurrence.apply``; what it does for ``torch.func`` takes 3 us, so only where it is used.

    That is, inside a transform or with a tensor that has got out of one.
    """
    func: Any = torch._C._functorch
    special = torch._C._are_functorch_transforms_active() or True in map(
        func.is_dead_tensor_wrapper, tensors
    )
    apply = _Recurrence.apply if special else _apply_directly
    results: tuple[Tensor, ...] = apply(code, course, *tensors)
    return results


def _differentiable_backward(
    ctx: Any, x: Tensor, state: State, statics: Sequence[Tensor], dy: Tensor, dfinal: State
) -> list[Tensor | None]:
    strict.check("a second derivative is taken through the interpreted step, a loop in Python")
    course: Course = ctx.course
    rows = tuple([s.flatten(0, -2) for s in state])
    y, final = run_interpreted(
        ctx.code.plan.program, statics, x, rows, lengths=course.lengths, reset=course.reset,
        batch_sizes=course.batch_sizes, reverse=course.reverse, bptt=course.bptt or None,
    )  # fmt: skip
    final = tuple([f.view_as(s) for f, s in zip(final, state, strict=True)])
    inputs = [x, *state, *statics]
    wanted = [t for t, need in zip(inputs, ctx.needs_input_grad[2:], strict=True) if need]
    pairs = [(o, g) for o, g in zip((y, *final), (dy, *dfinal), strict=True) if o.requires_grad]
    found = iter(
        torch.autograd.grad(
            [o for o, _ in pairs],
            wanted,
            [g for _, g in pairs],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [next(found) if need else None for need in ctx.needs_input_grad[2:]]


def forward(
    code: Compiled,
    course: Course,
    x: Tensor,
    state: State,
    statics: Sequence[Tensor],
    room: int = -1,
) -> tuple[Any, ...]:
    """Run forward, outside of autograd.

    Args:
        code: what runs.
        course: how.
        x: the input.
        state: the initial state.
        statics: as the program orders them.
        room: rows to keep values of, the rest of which is left unwritten; -1: as many as there are.

    Returns:
        The output; what is kept for :func:`backward`, or ``None``; then the final state. None of
        them is an argument's memory.

    Raises:
        InputError: a static has another shape or dtype than when the cell was traced.
        MemoryError: there is none for the results.
    """
    try:
        results: tuple[Any, ...] = code.forward.forward(
            x, state, statics, course.reset, course.lengths, course.batch_sizes, course.reverse,
            course.batch_first, torch.get_num_threads(), poison + 2 * columns, room,
        )  # fmt: skip
    except ValueError:
        _check_statics(code.plan.program, statics, x.dtype)
        raise
    return results


def backward(
    code: Compiled,
    course: Course,
    x: Tensor,
    y: Tensor,
    kept: Tensor | None,
    state: State,
    statics: Sequence[Tensor],
    dy: Tensor,
    dfinal: Sequence[Tensor],
) -> tuple[Tensor | None, ...]:
    """The gradients of ``x``, each state and each static, ``None`` for what ``code`` leaves out.

    Raises:
        MemoryError: there is none for the results.
    """
    assert code.backward is not None
    return code.backward.backward(
        x, y, kept, state, statics, dy, dfinal, course.reset, course.lengths, course.batch_sizes,
        course.reverse, course.bptt, course.batch_first, torch.get_num_threads(),
        poison + 2 * columns,
    )  # fmt: skip


def _check_statics(program: Program, statics: Sequence[Tensor], dtype: torch.dtype) -> None:
    """Say which static it is whose shape or dtype has changed since the trace, if one has."""
    for spec, tensor in zip(program.statics, statics, strict=True):
        if tensor.shape != spec.shape or tensor.dtype is not dtype:
            raise InputError(
                f"{spec.name} must be {spec.shape} of {dtype}, as when the cell was traced, got "
                f"{tuple(tensor.shape)} of {tensor.dtype}; make a new layer for other sizes"
            ) from None
