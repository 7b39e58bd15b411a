"""Engines run a cell's step through time: native (C++, CPU), eager (PyTorch, anything), cuDNN.

:func:`recurrence` is the one entry that all layers call; :func:`explain` says what it would do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ostinato.engine.choose import ENGINES, Choice, check_engine, choose
from ostinato.engine.cudnn import run_cudnn
from ostinato.engine.eager import run_eager
from ostinato.engine.explain import Report, explain
from ostinato.engine.native import make_job, run_native
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
        state: the initial state, a tuple of ``(B, n_k)``; for packed data in the packed order.
        lengths: ``(B,)`` int64 on the CPU, each in 0..T; ``None``: all T.
        reset: ``(T, B)`` bool: the row's state is zero before that step is processed.
        batch_sizes: ``(T,)`` int64 on the CPU, never increasing, as in a ``PackedSequence``.
        reverse: process each row from its last valid step to its first.
        bptt: cut the gradient every so many steps, counted back from each row's last.
        engine: ``"auto"``, ``"native"`` or ``"eager"``.

    Returns:
        The output ``(T, B, O)``, zero past a row's length, or packed ``(N, O)``; and the state
        after each row's own last step.

    Raises:
        InputError: the engine asked for can't run this.
        TraceError: ``engine="native"`` and the cell can't be traced.
        SlowPathError: in strict mode, and the engine that would be taken is a slow one.
    """
    if isinstance(step, Recorded):
        from ostinato.engine.record import record  # at the first compilation, not before

        return record(
            step, x, state, lengths=lengths, reset=reset, batch_sizes=batch_sizes,
            reverse=reverse, bptt=bptt,
        )  # fmt: skip
    plain = reset is None and bptt is None
    choice = choose(step, x.shape[-1], x.dtype, x.device, engine, plain=plain)
    if choice.slow:
        strict.check(choice.reason)
    if choice.engine == "cudnn":
        return run_cudnn(step, x, state, lengths=lengths, batch_sizes=batch_sizes, reverse=reverse)
    if choice.trace is None:
        return run_eager(
            step, x, state, lengths=lengths, reset=reset, batch_sizes=batch_sizes,
            reverse=reverse, bptt=bptt,
        )  # fmt: skip
    trace = choice.trace
    statics = step.statics(trace)
    rows = state[0].shape[0] if state else x.shape[1]
    job = make_job(
        trace.program, x, rows, lengths=lengths, reset=reset, batch_sizes=batch_sizes,
        reverse=reverse, bptt=bptt,
    )  # fmt: skip
    return run_native(job, statics, x, state)


# After a graph break Dynamo tries to compile each function that is called outside of the graph. It
# is told to leave this one alone, and all that it calls. (The public torch.compiler.disable would
# import Dynamo here and cost its wrapper at each call.)
_frames: Any = torch._C._dynamo.eval_frame
_SKIP = _frames._FrameAction.SKIP
_frames.set_code_exec_strategy(recurrence.__code__, _frames._FrameExecStrategy(_SKIP, _SKIP))
