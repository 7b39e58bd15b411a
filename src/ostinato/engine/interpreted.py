"""A traced step run by PyTorch: differentiable any number of times in ``x``, state and statics.

The native engine goes through it for second derivatives, where autograd must see every operation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ostinato.compiler.reference import evaluate
from ostinato.engine.eager import run_function

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ostinato.compiler.ir import Program
    from ostinato.engine.step import State


def run_interpreted(
    program: Program,
    statics: Sequence[Tensor],
    x: Tensor,
    state: State,
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
    bptt: int | None = None,
) -> tuple[Tensor, State]:
    """Run ``program`` through time; arguments as in ``ostinato.engine.recurrence``."""

    def step(x: Tensor, state: State) -> tuple[Tensor, State]:
        env: dict[tuple[object, ...], Tensor] = {("x",): x}
        env |= {("state", k): s for k, s in enumerate(state)}
        env |= {("static", i): s for i, s in enumerate(statics)}
        values = evaluate(program.nodes, env, x)
        return values[program.output], tuple(values[n] for n in program.new_state)

    return run_function(
        step, lambda: "the traced step", x, state, lengths=lengths, reset=reset,
        batch_sizes=batch_sizes, reverse=reverse, bptt=bptt,
    )  # fmt: skip
