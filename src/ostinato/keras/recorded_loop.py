"""The loop over time as one operation, while a training step is recorded.

Nothing dispatches these operations but a recording, which asks for the sizes of their results. What
is played calls the loops themselves, see :func:`bind`.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ostinato import _native
from ostinato.compiler.plan import Needs
from ostinato.engine.code import compiled
from ostinato.engine.native import Course

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch.fx import GraphModule

    from ostinato.engine.code import Compiled
    from ostinato.engine.step import State, Step


class Loop:
    """One pass over time of fixed sizes, forward and backward.

    Args:
        code: what runs.
        course: how.
        wanted: of which inputs, ``(x, *state, *sources)``, there shall be gradients.
    """

    def __init__(self, code: Compiled, course: Course, wanted: tuple[bool, ...]) -> None:
        self.code = code
        self.course = course
        self.wanted = wanted
        self.states = len(code.plan.program.state_sizes)
        self.given: tuple[bool, ...] = ()
        self.absent: list[Tensor] = []

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """``(x, *state, *sources)`` to ``(y, *final)``, and what is kept if anything is."""
        first = 1 + self.states
        y, kept, *final = _native.forward(
            self.code, self.course, inputs[0], tuple(inputs[1:first]), inputs[first:]
        )
        return [y, *final] if kept is None else [y, *final, kept]

    def backward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The gradients that are wanted, in the order of forward's inputs.

        Args:
            inputs: forward's, its output, what it kept if anything, and those gradients of output
                and final state that there are.
        """
        count = len(self.wanted)
        x, *rest = inputs[:count]
        state, sources = tuple(rest[: self.states]), rest[self.states :]
        y, *more = inputs[count:]
        kept = more.pop(0) if self.code.kept_width else None
        there, absent = iter(more), iter(self.absent)
        dy, *dfinal = [next(there if given else absent) for given in self.given]
        grads = _native.backward(self.code, self.course, x, y, kept, state, sources, dy, dfinal)
        return [
            grad for grad, want in zip(grads, self.wanted, strict=True) if want and grad is not None
        ]


class _Recording(threading.local):
    """The loops of the step that is being recorded in this thread; ``None``: there is none."""

    loops: list[Loop] | None = None


_now = _Recording()


def is_recording() -> bool:
    """Whether a training step is being recorded."""
    return _now.loops is not None


@contextlib.contextmanager
def recording() -> Iterator[list[Loop]]:
    """Loops become operations; gives the list of them."""
    loops: list[Loop] = []
    before, _now.loops = _now.loops, loops
    try:
        yield loops
    finally:
        _now.loops = before


def recurrence(step: Step, x: Tensor, state: State, *, reverse: bool) -> tuple[Tensor, State]:
    """As ``ostinato.engine.recurrence`` on the native engine, recorded."""
    loops = _now.loops
    assert loops is not None
    trace = step.trace(x.shape[-1], x.dtype)
    sources = step.sources(trace)
    course = Course(reverse=reverse)
    inputs = (x, *state, *sources)
    wanted = tuple(t.requires_grad for t in inputs)
    first = 1 + len(state)
    needs = Needs(wanted[0], trace.program.asked(wanted[first:])) if any(wanted) else None
    loop = Loop(compiled(trace.program, needs), course, wanted)
    loops.append(loop)
    results = _Differentiable.apply(loop, len(loops) - 1, *inputs)  # type: ignore[no-untyped-call]
    y, *final = results[:first]
    return y, tuple(final)


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loop: Loop, number: int, *inputs: Tensor) -> Any:
        results = torch.ops.ostinato.keras_loop(inputs, number)
        ctx.loop, ctx.number = loop, number
        ctx.set_materialize_grads(False)
        y, kept = results[0], results[1 + loop.states :]
        ctx.mark_non_differentiable(*kept)
        ctx.save_for_backward(*inputs, y, *kept)
        ctx.shapes = [r.shape for r in results[: 1 + loop.states]]
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        loop: Loop = ctx.loop
        saved = ctx.saved_tensors
        grads = grads[: 1 + loop.states]
        loop.given = tuple(g is not None for g in grads)
        with _disable_current_modes():
            # A gradient that there isn't is zero. These zeros are no part of what is recorded.
            loop.absent = [
                torch.zeros(shape, dtype=saved[0].dtype)
                for shape, given in zip(ctx.shapes, loop.given, strict=True)
                if not given
            ]
        there = [g for g in grads if g is not None]
        found = iter(torch.ops.ostinato.keras_loop_backward([*saved, *there], ctx.number))
        return None, None, *[next(found) if want else None for want in loop.wanted]


def _forward_sizes(inputs: Sequence[Tensor], number: int) -> list[Tensor]:
    return _sizes(_loop(number).forward, inputs)


def _backward_sizes(inputs: Sequence[Tensor], number: int) -> list[Tensor]:
    return _sizes(_loop(number).backward, inputs)


def _loop(number: int) -> Loop:
    assert _now.loops is not None
    return _now.loops[number]


def _sizes(
    run: Callable[[Sequence[Tensor]], list[Tensor]], inputs: Sequence[Tensor]
) -> list[Tensor]:
    """Run on zeros: what comes lies in memory as it will in every play."""
    with _disable_current_modes():
        zeros = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype).zero_() for t in inputs]
        found = run(zeros)
    return [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype) for t in found]


for _name, _fake in (("keras_loop", _forward_sizes), ("keras_loop_backward", _backward_sizes)):
    torch.library.define(f"ostinato::{_name}", "(Tensor[] inputs, int number) -> Tensor[]")
    torch.library.register_fake(f"ostinato::{_name}", _fake)

_METHODS = {
    torch.ops.ostinato.keras_loop.default: "forward",
    torch.ops.ostinato.keras_loop_backward.default: "backward",
}


def bind(graph: GraphModule, loops: Sequence[Loop]) -> None:
    """Call the loops' own functions in the place of the recorded operations."""
    for node in graph.graph.nodes:
        method = _METHODS.get(node.target)
        if method is not None:
            inputs, number = node.args
            node.target, node.args = getattr(loops[number], method), (inputs,)
