"""A program's code for the native engine, and what a call hands over to it, in which order.

All that doesn't depend on a call is worked out here, once for each set of wanted gradients, since
a call's overhead is mostly Python.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ostinato import _native
from ostinato.compiler.ir import Cut
from ostinato.compiler.plan import Needs, Plan, StepPlan, make_plan
from ostinato.engine.lowering import lower

if TYPE_CHECKING:
    from ostinato.compiler.ir import Program

_lock = threading.Lock()

#: The tensors that lie in memory step by step, in the order of ``native/bound.h``.
_STREAMED = ("x", "y", "dy", "dx")

#: What stands behind a stream (the same file), with two numbers: one of ``_STREAMED``; what forward
#: keeps, first column and width; another stream one step back, and before the first step which
#: initial state.
_TENSOR, _KEPT, _INITIAL = range(3)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A plan and its code.

    Attributes:
        plan: of which program, and what was made of it.
        forward: the engine's code, which knows where the tensors of a call belong.
        backward: likewise; ``None``: no gradients are wanted.
        kept_width: elements that are kept for each step of a row. (Where any are, one more says
            how the rows lie in memory.)
    """

    plan: Plan
    forward: _native.Plan
    backward: _native.Plan | None
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


def _direction(plan: StepPlan, kept: dict[str, tuple[int, int]], program: Program) -> _native.Plan:
    lowered = lower(plan)
    streams = []
    for stream in plan.streams:
        if stream.kept:
            streams.append((_KEPT, *kept[stream.name]))
        elif stream.source is not None:
            streams.append((_INITIAL, int(stream.name.removeprefix("prev")), 0))
        else:
            streams.append((_TENSOR, _STREAMED.index(stream.name), 0))
    position = {n: k for k, n in enumerate((*lowered.sums, *lowered.outers))}
    gradients: list[list[int]] = [[] for _ in program.statics]
    for static, numbers in plan.dstatics.items():
        gradients[static] = [position[n] for n in numbers]
    nodes = plan.schedule.graph.nodes
    cuts = program.cuts or [
        Cut(k, (0,) * len(spec.shape), tuple(range(len(spec.shape))))
        for k, spec in enumerate(program.statics)
    ]
    return _native.Plan(
        lowered.code,
        lowered.consts,
        streams,
        lowered.vectors,
        [(spec.static, spec.transposed) for spec in lowered.maps],
        [nodes[n].attrs["transposed"] for n in lowered.outers],
        [spec.shape for spec in program.statics],
        [(spec.name, spec.shape) for spec in program.sources or program.statics],
        [(cut.source, cut.starts, cut.dims) for cut in cuts],
        gradients,
    )
