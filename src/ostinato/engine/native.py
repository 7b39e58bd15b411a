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
from ostinato.compiler.plan import Needs
from ostinato.engine.code import Compiled, Direction, compiled
from ostinato.engine.frames import outside_of_graphs
from ostinato.engine.interpreted import run_interpreted
from ostinato.engine.memory import empty
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


@dataclass(slots=True)
class Job:
    """One call: what runs over which steps of which rows."""

    program: Program
    steps: int
    rows: int
    total: int  # rows of all steps
    packed: bool
    reverse: bool
    bptt: int
    reset: Tensor | None
    lengths: Tensor | None
    batch_sizes: Tensor | None
    batch_first: bool  # how results lie in memory
    is_double: bool

    def run(
        self,
        direction: Direction,
        *,
        bptt: int,
        tensors: Sequence[Tensor | None],
        kept: Tensor | None,
        initial: State,
        entering: Sequence[Tensor],
        leaving: Sequence[Tensor],
        statics: Sequence[Tensor],
        sums: Sequence[Tensor] = (),
        outers: Sequence[Tensor] = (),
    ) -> None:
        """Run one direction: results are written into ``tensors``, ``leaving``, sums and outers."""
        header = (
            self.steps, self.rows, torch.get_num_threads(), self.reverse, self.packed, bptt,
            poison + 2 * columns,
        )  # fmt: skip
        direction.native.run(
            self.is_double, header, self.reset, self.batch_sizes, self.lengths,
            tensors, kept, initial, entering, leaving, statics, sums, outers,
        )  # fmt: skip


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
        x.dtype is torch.float64,
    )  # fmt: skip
    # Copies: backward reads them again, whatever the caller has written into his by then.
    if batch_sizes is not None:
        job.batch_sizes = batch_sizes.clone()
    elif lengths is not None:
        check_lengths(lengths, steps)
        job.lengths = lengths.clone()
        job.total = int(lengths.sum())
    return job


def run_native(
    job: Job, statics: Sequence[Tensor], x: Tensor, state: State
) -> tuple[Tensor, State]:
    """Run a job; differentiable with respect to ``x``, ``state`` and ``statics``.

    Raises:
        InputError: a static has another shape or dtype than when the cell was traced.
    """
    check_statics(job.program, statics, x.dtype)
    if torch.is_grad_enabled():
        wanted = (x.requires_grad, *[s.requires_grad for s in statics])
        if True in wanted or True in [s.requires_grad for s in state]:
            code = _code_for(job.program, wanted)
            y, *rest = _Recurrence.apply(job, code, x, *state, *statics)  # type: ignore[no-untyped-call]
            return y, tuple(rest)
    y, final, _ = forward(compiled(job.program, None), job, x, state, statics)
    return y, final


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
    def forward(ctx: Any, job: Job, code: Compiled, x: Tensor, *tensors: Tensor) -> Any:
        count = len(job.program.state_sizes)
        ctx.job, ctx.code = job, code
        y, final, kept = forward(code, job, x, tensors[:count], tensors[count:])
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


outside_of_graphs(_Recurrence.backward)


def _differentiable_backward(
    ctx: Any, x: Tensor, state: State, statics: Sequence[Tensor], dy: Tensor, dfinal: State
) -> list[Tensor | None]:
    strict.check("a second derivative is taken through the interpreted step, a loop in Python")
    job: Job = ctx.job
    rows = tuple([s.flatten(0, -2) for s in state])
    y, final = run_interpreted(
        job.program, statics, x, rows, lengths=job.lengths, reset=job.reset,
        batch_sizes=job.batch_sizes, reverse=job.reverse, bptt=job.bptt or None,
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
    job: Job,
    x: Tensor,
    state: State,
    statics: Sequence[Tensor],
    capacity: int | None = None,
) -> tuple[Tensor, State, Tensor | None]:
    """Run forward, outside of autograd.

    Args:
        code: what runs.
        job: over what.
        x: the input.
        state: the initial state.
        statics: as the program orders them.
        capacity: rows to keep values of; more than the job has leaves the rest unwritten.

    Returns:
        The output, the final state and what is kept for :func:`backward`, if anything; none is an
        argument's memory.
    """
    x = _rows_adjacent(x)
    y = _result(x, job, job.program.output_size)
    kept = None
    if code.kept_width:
        size = (job.total if capacity is None else capacity) * code.kept_width
        kept = empty(x, (size,), (1,), own=True)
        if poison:
            kept.fill_(float("nan"))
    initial = tuple([s.contiguous() for s in state])
    final = [torch.empty_like(s) for s in initial]
    job.run(
        code.forward, bptt=0, tensors=(x, y), kept=kept, initial=initial, entering=initial,
        leaving=final, statics=statics,
    )  # fmt: skip
    return y, tuple(final), kept


def backward(
    code: Compiled,
    job: Job,
    x: Tensor,
    y: Tensor,
    kept: Tensor | None,
    state: State,
    statics: Sequence[Tensor],
    dy: Tensor,
    dfinal: Sequence[Tensor],
) -> list[Tensor | None]:
    """The gradients of ``x``, each state and each static, ``None`` for what ``code`` leaves out."""
    direction = code.backward
    assert direction is not None
    x, dy = _rows_adjacent(x), _rows_adjacent(dy)
    dx = _result(x, job, job.program.input_size) if direction.wants_dx else None
    initial = tuple([s.contiguous() for s in state])
    entering = [d.contiguous() for d in dfinal]
    leaving = [torch.empty_like(s) for s in initial]
    sums = [x.new_empty(shape) for shape in direction.sums]
    outers = [x.new_empty(shape) for shape in direction.outers]
    job.run(
        direction, bptt=job.bptt, tensors=(x, y, dy, dx), kept=kept, initial=initial,
        entering=entering, leaving=leaving, statics=statics, sums=sums, outers=outers,
    )  # fmt: skip
    results = sums + outers
    dstatics: list[Tensor | None] = [None] * len(statics)
    for total in direction.totals:
        found = results[total.results[0]]
        if len(total.results) > 1:
            found = torch.stack([results[k] for k in total.results]).sum(0)
        elif total.again:
            found = found.clone()  # autograd may add to what it is given, so none is given twice
        dstatics[total.static] = found if total.shape is None else found.reshape(total.shape)
    return [dx, *leaving, *dstatics]


def check_statics(program: Program, statics: Sequence[Tensor], dtype: torch.dtype) -> None:
    """The engine reads memory by the shapes of the trace: a tensor changed since must not pass."""
    shapes = [s.shape for s in statics]
    if shapes == program.static_shapes and {s.dtype for s in statics} <= {dtype}:
        return
    for spec, tensor in zip(program.statics, statics, strict=True):
        if tensor.shape != spec.shape or tensor.dtype is not dtype:
            raise InputError(
                f"{spec.name} must be {spec.shape} of {dtype}, as when the cell was traced, got "
                f"{tuple(tensor.shape)} of {tensor.dtype}; make a new layer for other sizes"
            )


def _rows_adjacent(tensor: Tensor) -> Tensor:
    """The engine wants the features of a row side by side."""
    return tensor if tensor.stride()[-1] == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _result(x: Tensor, job: Job, width: int) -> Tensor:
    """Memory for one row a step, laid out as the job says (time first or batch first).

    Past a row's length the engine makes it zero.
    """
    steps, rows = job.steps, job.rows
    if job.packed:
        out = empty(x, (job.total, width), (width, 1), own=False)
    elif job.batch_first:
        out = empty(x, (steps, rows, width), (width, steps * width, 1), own=False)
    else:
        out = empty(x, (steps, rows, width), (rows * width, width, 1), own=False)
    if poison:
        out.fill_(float("nan"))
    return out
