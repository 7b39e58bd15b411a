"""A program's code for the native engine, and what a call hands over to it, in which order.

All that doesn't depend on a call is worked out here, once for each set of wanted gradients, since
a call's overhead is mostly Python.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ostinato import _native
from ostinato.compiler.plan import Needs, Plan, StepPlan, make_plan
from ostinato.engine.lowering import lower

if TYPE_CHECKING:
    from ostinato.compiler.ir import Program

_lock = threading.Lock()

#: The order in which a direction counts the tensors that lie in memory step by step.
STREAMED = ("x", "y", "dy", "dx")


#: What stands behind a stream (``native/bindings_loop.cpp``), with two numbers: one of
#: ``STREAMED``; what forward keeps, first column and width; another stream one step back, and
#: before the first step which initial state.
_TENSOR, _KEPT, _INITIAL = range(3)


@dataclass(frozen=True, slots=True)
class Total:
    """The gradient of a static: the sum of some of backward's results.

    ``shape``: the static's, if the results have another. ``again``: another static has been given
    the same result.
    """

    static: int
    results: tuple[int, ...]
    shape: tuple[int, ...] | None
    again: bool


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of a plan, ready to run.

    Attributes:
        native: the engine's code, which knows where the tensors of a call belong.
        sums: shapes of the results that are vectors.
        outers: shapes of the results that are matrices.
        totals: which results make up the gradients.
        wants_dx: whether the input's gradient is one of the streams.
    """

    native: Any  # _native.Plan
    sums: tuple[tuple[int, ...], ...] = ()
    outers: tuple[tuple[int, ...], ...] = ()
    totals: tuple[Total, ...] = ()
    wants_dx: bool = False


@dataclass(frozen=True, slots=True)
class Compiled:
    """A plan and its code; ``kept_width``: elements that are kept for each step of a row."""

    plan: Plan
    forward: Direction
    backward: Direction | None
    kept_width: int


def compiled(program: Program, needs: Needs | None) -> Compiled:
    """The code of ``program`` for the gradients in ``needs`` (``None``: inference)."""
    found = program.made.get(needs)
    if found is None:
        with _lock:
            found = program.made.get(needs)
            if found is None:
                found = program.made[needs] = _compile(program, needs)
    result: Compiled = found
    return result


def _compile(program: Program, needs: Needs | None) -> Compiled:
    plan = make_plan(program, needs)
    kept: dict[str, tuple[int, int]] = {}
    width = 0
    for stream in plan.kept:
        kept[stream.name] = (width, stream.width)
        width += stream.width
    backward = None if plan.backward is None else _direction(plan.backward, kept, program)
    return Compiled(plan, _direction(plan.forward, kept, program), backward, width)


def _direction(plan: StepPlan, kept: dict[str, tuple[int, int]], program: Program) -> Direction:
    lowered = lower(plan)
    streams = []
    for stream in plan.streams:
        if stream.kept:
            streams.append((_KEPT, *kept[stream.name]))
        elif stream.source is not None:
            streams.append((_INITIAL, int(stream.name.removeprefix("prev")), 0))
        else:
            streams.append((_TENSOR, STREAMED.index(stream.name), 0))
    nodes = plan.schedule.graph.nodes
    position = {n: k for k, n in enumerate((*lowered.sums, *lowered.outers))}
    totals = []
    given: set[int] = set()
    for static, numbers in plan.dstatics.items():
        shape = program.statics[static].shape
        same = len(numbers) == 1 and nodes[numbers[0]].shape == shape
        again = len(numbers) == 1 and numbers[0] in given
        given.add(numbers[0])
        results = tuple(position[n] for n in numbers)
        totals.append(Total(static, results, None if same else shape, again))
    return Direction(
        _native.Plan(
            lowered.code,
            lowered.consts,
            streams,
            lowered.vectors,
            [(spec.static, spec.transposed) for spec in lowered.maps],
            [nodes[n].attrs["transposed"] for n in lowered.outers],
        ),
        tuple(nodes[n].shape for n in lowered.sums),
        tuple(nodes[n].shape for n in lowered.outers),
        tuple(totals),
        any(s.name == "dx" for s in plan.streams),
    )
