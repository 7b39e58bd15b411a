"""The native engine seen from PyTorch: plans found or made, memory handed over, gradients back.

The engine itself (``native/``) knows neither cells nor PyTorch. Here a traced cell's plan is
lowered once for each set of wanted gradients; a call then hands over pointers and strides.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ostinato import _native
from ostinato.compiler.plan import Needs, Plan, StepPlan, make_plan
from ostinato.engine.interpreted import run_interpreted
from ostinato.engine.lowering import Lowered, lower
from ostinato.engine.ragged import check_lengths, packed_layout
from ostinato.errors import InputError
from ostinato.strictness import strict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ostinato.compiler.ir import Program
    from ostinato.engine.step import State

#: What the engine computes in.
DTYPES = frozenset({torch.float32, torch.float64})

#: Set by tests: scratch memory and outputs start out as NaN, so that a read of what was never
#: written shows.
poison = False

#: Set by tests: threads divide columns however small the work.
columns = False

_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of a plan, ready to run."""

    plan: StepPlan
    lowered: Lowered
    native: Any  # _native.Plan


@dataclass(frozen=True, slots=True)
class Compiled:
    """A plan and its code; ``kept`` names each kept stream with its first column and width."""

    plan: Plan
    forward: Direction
    backward: Direction | None
    kept: dict[str, tuple[int, int]]
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
    backward = _direction(plan.backward) if plan.backward is not None else None
    return Compiled(plan, _direction(plan.forward), backward, kept, width)


def _direction(plan: StepPlan) -> Direction:
    lowered = lower(plan)
    return Direction(plan, lowered, _native.Plan(lowered.code, lowered.consts))


@dataclass(slots=True)
class Job:
    """One call: what runs over which steps of which rows. Rows are in the engine's order.

    ``active``: rows running at each step, ``(T,)``; ``length``: by row; ``order``: the caller's
    row behind each of the engine's, ``back`` its inverse. ``None``: all rows have all T steps, or
    the orders are the same.
    """

    program: Program
    steps: int
    rows: int
    total: int  # rows of all steps
    packed: bool
    reverse: bool
    bptt: int
    reset: Tensor | None
    lengths: Tensor | None  # as the caller gave them
    batch_sizes: Tensor | None
    batch_first: bool  # how results lie in memory
    active: Tensor | None = None
    length: Tensor | None = None
    order: Tensor | None = None
    back: Tensor | None = None

    def header(self, gradient: bool) -> list[int]:
        """The first values of a call, see ``native/bindings_loop.cpp``."""
        reset = self.reset
        time_stride, row_stride = (0, 0) if reset is None else reset.stride()
        return [
            self.steps,
            self.rows,
            torch.get_num_threads(),
            int(self.reverse),
            int(self.packed),
            self.bptt if gradient else 0,
            int(poison) + 2 * int(columns),
            _pointer(reset),
            time_stride,
            row_stride,
            _pointer(self.active),
            _pointer(self.length),
            _pointer(self.order),
        ]


def make_job(
    program: Program,
    x: Tensor,
    rows: int,
    *,
    lengths: Tensor | None,
    reset: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
    bptt: int | None,
    batch_first: bool | None = None,
) -> Job:
    """Work out the geometry of one call; arguments as in ``ostinato.engine.recurrence``.

    ``batch_first``: how results lie in memory; ``None``: as ``x`` does.
    """
    packed = batch_sizes is not None
    steps = len(batch_sizes) if batch_sizes is not None else x.shape[0]
    job = Job(
        program, steps, rows, len(x) if packed else steps * rows, packed, reverse, bptt or 0,
        reset, lengths, batch_sizes,
        not packed and x.stride(0) < x.stride(1) if batch_first is None else batch_first,
    )  # fmt: skip
    if batch_sizes is not None:
        job.active = batch_sizes.contiguous()
        job.length = (job.active.unsqueeze(1) > torch.arange(rows)).sum(0)
    elif lengths is not None:
        check_lengths(lengths, steps)
        layout = packed_layout(lengths, steps)
        job.active = torch.tensor(layout.batch_sizes, dtype=torch.int64)
        job.length = lengths
        job.total = len(layout.positions)
        if layout.order is not None:
            job.order = layout.order.contiguous()
            job.length = lengths[job.order]
            job.back = job.order.argsort()
    return job


def run_native(
    job: Job, statics: Sequence[Tensor], x: Tensor, state: State
) -> tuple[Tensor, State]:
    """Run a job; differentiable with respect to ``x``, ``state`` and ``statics``.

    Raises:
        InputError: a static has another shape or dtype than when the cell was traced.
    """
    check_statics(job.program, statics, x.dtype)
    wants = torch.is_grad_enabled() and (
        x.requires_grad
        or any(s.requires_grad for s in state)
        or any(s.requires_grad for s in statics)
    )
    if not wants:
        y, final, _ = forward(compiled(job.program, None), job, x, state, statics)
        return y, final
    needs = Needs(x.requires_grad, frozenset(i for i, s in enumerate(statics) if s.requires_grad))
    y, *rest = _Recurrence.apply(job, needs, x, *state, *statics)  # type: ignore[no-untyped-call]
    return y, tuple(rest)


class _Recurrence(torch.autograd.Function):
    """Forward and backward through time on the native engine.

    A second derivative is taken through the interpreted step (a differentiable loop in PyTorch).
    """

    @staticmethod
    def forward(ctx: Any, job: Job, needs: Needs, x: Tensor, *tensors: Tensor) -> Any:
        count = len(job.program.state_sizes)
        state, statics = tensors[:count], tensors[count:]
        ctx.job, ctx.code = job, compiled(job.program, needs)
        y, final, kept = forward(ctx.code, job, x, state, statics)
        ctx.save_for_backward(x, y, kept, *tensors)
        return (y, *final)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *dfinal: Tensor) -> Any:
        x, y, kept, *tensors = ctx.saved_tensors
        job: Job = ctx.job
        count = len(job.program.state_sizes)
        state, statics = tuple(tensors[:count]), tensors[count:]
        if torch.is_grad_enabled():
            grads = _differentiable_backward(ctx, x, state, statics, dy, dfinal)
        else:
            grads = backward(ctx.code, job, x, y, kept, state, statics, dy, dfinal)
        return (None, None, *grads)


def _differentiable_backward(
    ctx: Any, x: Tensor, state: State, statics: Sequence[Tensor], dy: Tensor, dfinal: State
) -> list[Tensor | None]:
    strict.check("a second derivative is taken through the interpreted step, a loop in Python")
    job: Job = ctx.job
    y, final = run_interpreted(
        job.program, statics, x, state, lengths=job.lengths, reset=job.reset,
        batch_sizes=job.batch_sizes, reverse=job.reverse, bptt=job.bptt or None,
    )  # fmt: skip
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
    job: Job,
    x: Tensor,
    state: State,
    statics: Sequence[Tensor],
    capacity: int | None = None,
) -> tuple[Tensor, State, Tensor]:
    """Run forward, outside of autograd.

    Args:
        code: what runs.
        job: over what.
        x: the input.
        state: the initial state.
        statics: as the program orders them.
        capacity: rows to keep values of; more than the job has leaves the rest unwritten.

    Returns:
        The output, the final state and what is kept for :func:`backward`; none is an argument's
        memory.
    """
    x = _rows_adjacent(x)
    y = _like_input(x, job, job.program.output_size)
    kept = x.new_empty((job.total if capacity is None else capacity) * code.kept_width)
    if poison:
        kept.fill_(float("nan"))
    initial = _ordered(state, job.order)
    final = [torch.empty_like(s) for s in initial]
    values = job.header(gradient=False)
    for stream in code.forward.plan.streams:
        if stream.kept:
            values += _kept_stream(kept, code, job, stream.name)
        else:
            values += _stream(x if stream.name == "x" else y, job)
    for before, after in zip(initial, final, strict=True):
        values += (before.data_ptr(), after.data_ptr())
    alive = _statics(values, code.forward.lowered, statics)
    code.forward.native.run(x.dtype is torch.float64, values)
    del alive
    return y, _ordered(final, job.back), kept


def backward(
    code: Compiled,
    job: Job,
    x: Tensor,
    y: Tensor,
    kept: Tensor,
    state: State,
    statics: Sequence[Tensor],
    dy: Tensor,
    dfinal: Sequence[Tensor],
) -> list[Tensor | None]:
    """The gradients of ``x``, each state and each static, ``None`` for what ``code`` leaves out."""
    direction = code.backward
    assert direction is not None
    x = _rows_adjacent(x)
    lowered, plan = direction.lowered, direction.plan
    initial = _ordered(state, job.order)
    entering = _ordered(dfinal, job.order)
    leaving = [torch.empty_like(s) for s in initial]
    named = {"x": x, "y": y, "dy": _rows_adjacent(dy)}
    if any(s.name == "dx" for s in plan.streams):
        named["dx"] = _like_input(x, job, job.program.input_size)
    values = job.header(gradient=True)
    for stream in plan.streams:
        if stream.kept:
            values += _kept_stream(kept, code, job, stream.name)
        elif stream.source is not None:
            values += (0, 0, 0, initial[int(stream.name.removeprefix("prev"))].data_ptr())
        else:
            values += _stream(named[stream.name], job)
    for before, after in zip(entering, leaving, strict=True):
        values += (before.data_ptr(), after.data_ptr())
    alive = _statics(values, lowered, statics)
    nodes = plan.schedule.graph.nodes
    gradients = {n: x.new_empty(nodes[n].shape) for n in (*lowered.sums, *lowered.outers)}
    values += [gradients[n].data_ptr() for n in lowered.sums]
    for n in lowered.outers:
        values += _matrix(gradients[n], nodes[n].attrs["transposed"])
    direction.native.run(x.dtype is torch.float64, values)
    del alive
    dstatics: list[Tensor | None] = [None] * len(statics)
    handed_out: set[int] = set()
    for index, numbers in plan.dstatics.items():
        total = gradients[numbers[0]]
        if len(numbers) > 1:
            total = torch.stack([gradients[n] for n in numbers]).sum(0)
        elif numbers[0] in handed_out:
            total = total.clone()  # autograd may add to what it is given, so none is given twice
        handed_out.add(numbers[0])
        dstatics[index] = total.reshape(statics[index].shape)
    return [named.get("dx"), *_ordered(leaving, job.back), *dstatics]


def check_statics(program: Program, statics: Sequence[Tensor], dtype: torch.dtype) -> None:
    """The engine reads memory by the shapes of the trace: a tensor changed since must not pass."""
    for spec, tensor in zip(program.statics, statics, strict=True):
        if tensor.shape != spec.shape or tensor.dtype is not dtype:
            raise InputError(
                f"{spec.name} must be {spec.shape} of {dtype}, as when the cell was traced, got "
                f"{tuple(tensor.shape)} of {tensor.dtype}; make a new layer for other sizes"
            )


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _rows_adjacent(tensor: Tensor) -> Tensor:
    """The engine wants the features of a row side by side."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _like_input(x: Tensor, job: Job, width: int) -> Tensor:
    """Memory for one row a step, laid out as the job says (time first or batch first).

    Past a row's length it is zero.
    """
    if job.packed:
        out = x.new_empty(len(x), width)
    elif job.batch_first:
        out = x.new_empty(x.shape[1], x.shape[0], width).transpose(0, 1)
    else:
        out = x.new_empty(*x.shape[:2], width)
    if poison:
        out.fill_(float("nan"))
    if job.lengths is not None and job.total < job.steps * job.rows:
        out.zero_()
    return out


def _ordered(state: Sequence[Tensor], order: Tensor | None) -> State:
    if order is None:
        return tuple(s.contiguous() for s in state)
    return tuple(s.index_select(0, order) for s in state)


def _stream(tensor: Tensor, job: Job) -> tuple[int, int, int, int]:
    if job.packed:
        return tensor.data_ptr(), 0, tensor.stride(0), 0
    return tensor.data_ptr(), tensor.stride(0), tensor.stride(1), 0


def _kept_stream(kept: Tensor, code: Compiled, job: Job, name: str) -> tuple[int, int, int, int]:
    first, width = code.kept[name]
    return kept.data_ptr() + first * job.total * kept.element_size(), 0, width, 0


def _matrix(tensor: Tensor, transposed: bool) -> tuple[int, int, int, int]:
    """Pointer and strides: group, feature in, feature out."""
    group = tensor.stride(0) if tensor.dim() == 3 else 0
    k, n = (-1, -2) if transposed else (-2, -1)
    return tensor.data_ptr(), group, tensor.stride(k), tensor.stride(n)


def _statics(values: list[int], lowered: Lowered, statics: Sequence[Tensor]) -> list[Tensor]:
    """Append the statics; the tensors that come back must live until the engine returns."""
    alive = []
    for index in lowered.vectors:
        vector = statics[index].contiguous()
        alive.append(vector)
        values.append(vector.data_ptr())
    for spec in lowered.maps:
        values += _matrix(statics[spec.static], spec.transposed)
    return alive
