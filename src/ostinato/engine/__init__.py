"""Engines run a cell's step through time: native (C++, CPU), eager (PyTorch, anything), cuDNN.

:func:`recurrence` is the one entry that all layers call; :func:`explain` says what it would do.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ostinato import _native
from ostinato.engine.choose import ENGINES, Choice, check_engine, choose
from ostinato.engine.cudnn import run_cudnn
from ostinato.engine.eager import run_eager
from ostinato.engine.explain import Report, explain
from ostinato.engine.frames import outside_of_graphs
from ostinato.engine.native import make_course
from ostinato.engine.opaque import register
from ostinato.engine.step import Recorded, Step
from ostinato.strictness import strict

if TYPE_CHECKING:
    from torch import Tensor

    from ostinato.engine.step import State

__all__ = [
    "ENGINES",
    "Choice",
    "Report",
    "Step",
    "check_engine",
    "choose",
    "explain",
    "recurrence",
    "register",
]


def recurrence(
    step: Step | Recorded,
    x: Tensor,
    state: State,
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
    bptt: int | None = None,
    engine: str = "auto",
) -> tuple[Tensor, State]:
    """Run a step through time on the engine that fits, or that is asked for.

    Args:
        step: the cell and its tensors; while ``torch.compile`` builds a graph, what stands for it
            there.
        x: ``(T, B, I)`` of any strides, or packed ``(N, I)`` with ``batch_sizes``.
        state: the initial state, a tuple of ``(B, n_k)``, or of ``(1, B, n_k)`` as torch's layers
            have it; for packed data in the packed order.
        lengths: ``(B,)`` int64 on the CPU, each in 0..T; ``None``: all T.
        reset: ``(T, B)`` bool: the row's state is zero before that step is processed.
        batch_sizes: ``(T,)`` int64 on the CPU, never increasing, as in a ``PackedSequence``.
        reverse: process each row from its last valid step to its first.
        bptt: cut the gradient every so many steps, counted back from each row's last.
        engine: ``"auto"``, ``"native"`` or ``"eager"``.

    Returns:
        The output ``(T, B, O)``, zero past a row's length, or packed ``(N, O)``; and the state
        after each row's own last step, in the shapes of the initial one.

    Raises:
        InputError: the engine asked for can't run this.
        TraceError: ``engine="native"`` and the cell can't be traced.
        SlowPathError: in strict mode, and the engine that would be taken is a slow one.
    """
    if isinstance(step, Recorded):
        from ostinato.engine.record import record  # at the first compilation, not before

        run: Any = partial(record, step, reset=reset, bptt=bptt)
    else:
        plain = reset is None and bptt is None
        choice = choose(step, x.shape[-1], x.dtype, x.device, engine, plain=plain)
        if choice.slow:
            strict.check(choice.reason)
        if choice.engine != "cudnn" and choice.trace is not None:
            course = make_course(
                x, lengths=lengths, reset=reset, batch_sizes=batch_sizes, reverse=reverse, bptt=bptt
            )
            sources = step.sources(choice.trace)
            return _native.run(choice.trace.program, course, sources, x, state)
        if choice.engine == "cudnn":
            run = partial(run_cudnn, step)
        else:
            run = partial(run_eager, step, reset=reset, bptt=bptt)
    leading = [s.dim() == 3 for s in state]
    matrices = tuple(
        [s.squeeze(0) if extra else s for s, extra in zip(state, leading, strict=True)]
    )
    output, final = run(x, matrices, lengths=lengths, batch_sizes=batch_sizes, reverse=reverse)
    pairs = zip(final, leading, strict=True)
    return output, tuple([s.unsqueeze(0) if extra else s for s, extra in pairs])


outside_of_graphs(recurrence)
