"""The native engine seen from PyTorch: plans found or made, memory handed over, gradients back.

The engine itself (``native/``) knows neither cells nor PyTorch. Here a traced cell's plan is
lowered once for each set of wanted gradients; a call then hands over pointers and strides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ostinato import _native
from ostinato.compiler.cuts import cut_out
from ostinato.compiler.plan import Needs
from ostinato.engine.code import Compiled, compiled
from ostinato.engine.interpreted import run_interpreted
from ostinato.engine.ragged import check_lengths
from ostinato.errors import InputError
from ostinato.strictness import strict

if TYPE_CHECKING:
    from ostinato.compiler.ir import Program

#: What the engine computes in.
DTYPES = frozenset({torch.float32, torch.float64})


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


#: A row from its first step to its last, and the other way.
ONWARDS, BACKWARDS = Course(), Course(reverse=True)


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
        return BACKWARDS if reverse else ONWARDS
    if batch_sizes is None and lengths is not None:
        check_lengths(lengths, len(x))
    return Course(_copy(lengths), _copy(reset), _copy(batch_sizes), reverse, bptt or 0, batch_first)


def _copy(given: Tensor | None) -> Tensor | None:
    """Backward reads it again, whatever the caller has written into his by then."""
    return None if given is None else given.clone()


def ragged_course(
    course: Course, lengths: Tensor | None, reset: Tensor | None, batch_first: bool
) -> Course:
    """``course``, of neither, with copies of both; ``reset`` is ``(B, T)`` if ``batch_first``."""
    if batch_first and reset is not None:
        reset = reset.t()
    return Course(_copy(lengths), _copy(reset), None, course.reverse, course.bptt)


def code_for(program: Program, wanted: tuple[bool, ...] | None) -> Compiled:
    """The code for gradients of ``(x, *sources)``, kept by the flags themselves; ``None``: of none.

    The engine looks there first, and asks here for what it doesn't find.
    """
    needs = None
    if wanted is not None:
        x, *sources = wanted
        needs = Needs(x, program.asked(sources))
    found = program.made[wanted] = compiled(program, needs)
    return found


class _Recurrence(torch.autograd.Function):
    """Forward and backward through time on the native engine.

    A second derivative is taken through the interpreted step (a differentiable loop in PyTorch).
    """

    forward = staticmethod(_native.forward_of_function)
    backward = staticmethod(_native.backward_of_function)


# What autograd calls of a node; its own finds backward() in two functions of Python's.
_node: Any = _Recurrence._backward_cls
_node.apply = _native.apply_of_node


def _second_derivative(
    ctx: Any,
    code: Compiled,
    course: Course,
    saved: tuple[Tensor, ...],
    dy: Tensor | None,
    dfinal: tuple[Tensor | None, ...],
) -> list[Tensor | None]:
    """The first derivative as a graph; ``saved`` is what forward has saved."""
    strict.check("a second derivative is taken through the interpreted step, a loop in Python")
    # Views of what came in: a state or a source may have been computed from another one, and each
    # gradient is that of the place where it came in alone.
    x, _, _, *tensors = [t if t is None else t.view_as(t) for t in saved]
    count = len(code.plan.program.state_sizes)
    state, sources = tensors[:count], tensors[count:]
    rows = tuple([s.flatten(0, -2) for s in state])
    program = code.plan.program
    y, final = run_interpreted(
        program, cut_out(program, sources), x, rows, lengths=course.lengths, reset=course.reset,
        batch_sizes=course.batch_sizes, reverse=course.reverse, bptt=course.bptt or None,
    )  # fmt: skip
    final = tuple([f.view_as(s) for f, s in zip(final, state, strict=True)])
    inputs = [x, *state, *sources]
    wanted = [t for t, need in zip(inputs, ctx.needs_input_grad[2:], strict=True) if need]
    given = zip((y, *final), (dy, *dfinal), strict=True)
    # With zeros, not left out: what only they depend on has a gradient too.
    pairs = [(o, torch.zeros_like(o) if g is None else g) for o, g in given if o.requires_grad]
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


_functions: Any = torch._C._functorch

_native.use_tensor_table(Tensor.__dlpack_c_exchange_api__)
_native.use(
    {
        "tensor": Tensor,
        "parameter": torch.nn.Parameter,
        "is_grad_enabled": torch.is_grad_enabled,
        "get_num_threads": torch.get_num_threads,
        "is_any_autocast_enabled": torch._C._is_any_autocast_enabled,
        "get_tracing_state": torch._C._get_tracing_state,
        "are_transforms_active": torch._C._are_functorch_transforms_active,
        "is_dead_wrapper": _functions.is_dead_tensor_wrapper,
        "forward_ad": torch.autograd.forward_ad,
        "input_error": InputError,
        "code_for": code_for,
        "ragged_course": ragged_course,
        "apply": super(torch.autograd.Function, _Recurrence).apply,
        "apply_in_transforms": _Recurrence.apply,
        "second_derivative": _second_derivative,
    }
)
