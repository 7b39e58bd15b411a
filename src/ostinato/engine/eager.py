"""The eager engine: the loop over time in Python, the step in PyTorch.

Any device, any dtype, any cell, differentiable any number of times. It is the oracle of the other
engines and their fallback. Rows are sorted by length and the batch shrinks (or, in reverse, grows)
with them, so each row costs its own length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ostinato.engine.ragged import cut_mask, packed_layout
from ostinato.engine.state import describe
from ostinato.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ostinato.engine.step import State, Step, StepFunction


def run_eager(
    step: Step,
    x: Tensor,
    state: State,
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
    bptt: int | None = None,
) -> tuple[Tensor, State]:
    """Run ``step`` through time.

    Autocast is off inside: the cell computes in the dtype of its arguments and parameters.

    Args:
        step: the cell.
        x: ``(T, B, I)``, or packed ``(N, I)`` with ``batch_sizes``.
        state: the initial state, a tuple of ``(B, n_k)``; for packed data in the packed order.
        lengths: ``(B,)`` int64 on the CPU: how many steps each row has; ``None``: all T.
        reset: ``(T, B)`` bool: the row's state is zero before that step is processed; for packed
            data its columns are in the packed order.
        batch_sizes: ``(T,)`` int64 on the CPU, never increasing.
        reverse: process each row from its last valid step to its first.
        bptt: cut the gradient every so many steps, see :func:`ostinato.engine.ragged.cut_mask`.

    Returns:
        The output ``(T, B, O)``, zero past a row's length, or packed ``(N, O)``; and the state
        after each row's own last step.

    Raises:
        InputError: the cell's state changes structure, shape, dtype or device in a step, or its
            output does from one step to the next.
    """
    with torch.autocast(x.device.type, enabled=False):
        function = step.bound()
    return run_function(
        function, lambda: describe(step.cell), x, state, lengths=lengths, reset=reset,
        batch_sizes=batch_sizes, reverse=reverse, bptt=bptt,
    )  # fmt: skip


def run_function(
    function: StepFunction,
    name: Callable[[], str],
    x: Tensor,
    state: State,
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
    bptt: int | None = None,
) -> tuple[Tensor, State]:
    """:func:`run_eager` for any step function; ``name`` stands for it in errors."""
    with torch.autocast(x.device.type, enabled=False):
        loop = _Loop(name, function, reverse, bptt)
        if batch_sizes is not None:
            return loop.run(x, state, batch_sizes.tolist(), reset)
        steps, batch = x.shape[:2]
        if lengths is None:
            output, state = loop.run(x.flatten(0, 1), state, [batch] * steps, reset)
            return output.view(steps, batch, output.shape[1]), state
        return _run_ragged(loop, x, state, lengths, reset)


def _run_ragged(
    loop: _Loop, x: Tensor, state: State, lengths: Tensor, reset: Tensor | None
) -> tuple[Tensor, State]:
    """Pack padded data, run, and pad the output."""
    steps, batch = x.shape[:2]
    layout = packed_layout(lengths, steps)
    positions = layout.positions.to(x.device)
    packed = x.flatten(0, 1).index_select(0, positions)
    if layout.order is None:
        output, state = loop.run(packed, state, layout.batch_sizes, reset)
    else:
        order = layout.order.to(x.device)
        if reset is not None:
            reset = reset.index_select(1, order.to(reset.device))
        state = tuple(s.index_select(0, order) for s in state)
        output, state = loop.run(packed, state, layout.batch_sizes, reset)
        back = order.argsort()
        state = tuple(s.index_select(0, back) for s in state)
    padded = output.new_zeros(steps * batch, output.shape[1]).index_copy(0, positions, output)
    return padded.view(steps, batch, output.shape[1]), state


@dataclass(frozen=True, slots=True)
class _Mask:
    """A ``(T, B)`` mask, and per step whether any, and whether all running rows are in it."""

    rows: Tensor
    any: list[bool]
    all: list[bool]

    def choose(self, t: int, state: State, replacement: State) -> State:
        """``replacement`` where the mask of step ``t`` says so."""
        if self.all[t]:
            return replacement
        size = len(state[0])
        rows = self.rows[t, :size].unsqueeze(1)
        return tuple(torch.where(rows, r, s) for r, s in zip(replacement, state, strict=True))


@dataclass(frozen=True, slots=True)
class _Loop:
    """The loop over packed data, rows sorted by decreasing length."""

    name: Callable[[], str]
    function: StepFunction
    reverse: bool
    bptt: int | None

    def run(
        self, x: Tensor, initial: State, sizes: list[int], reset: Tensor | None
    ) -> tuple[Tensor, State]:
        """The output ``(N, O)`` and the final state of all rows.

        ``sizes[t]`` rows run at time ``t``.
        """
        batch = len(initial[0])
        resets = None if reset is None else _mask(reset, sizes, x.device)
        cuts = None
        if self.bptt is not None:
            mask = cut_mask(_row_lengths(sizes, batch), len(sizes), self.bptt, self.reverse)
            cuts = _mask(mask, sizes, x.device)
        inputs = torch.split(x, sizes)
        outputs: list[Tensor] = []
        finished: list[State] = []  # final states, of the last rows first
        running = 0 if self.reverse else batch
        state = tuple(s[:running] for s in initial)
        for t in reversed(range(len(sizes))) if self.reverse else range(len(sizes)):
            size = sizes[t]
            if size < running:
                finished.append(tuple(s[size:] for s in state))
                state = tuple(s[:size] for s in state)
            elif size > running:
                pairs = zip(state, initial, strict=True)
                state = tuple(torch.cat((s, first[running:size])) for s, first in pairs)
            running = size
            if size == 0:
                continue
            if cuts is not None and cuts.any[t]:
                state = cuts.choose(t, state, tuple(s.detach() for s in state))
            if resets is not None and resets.any[t]:
                state = resets.choose(t, state, tuple(torch.zeros_like(s) for s in state))
            output, after = self.function(inputs[t], state)
            self._check(output, outputs[-1] if outputs else None, after, state)
            outputs.append(output)
            state = after
        if self.reverse:
            finished.append(tuple(s[running:] for s in initial))  # rows of length 0
            outputs.reverse()
        pieces = zip(state, *reversed(finished), strict=True)
        final = tuple(torch.cat(rows) if len(rows) > 1 else rows[0] for rows in pieces)
        return torch.cat(outputs) if outputs else self._nothing(x, initial), final

    def _nothing(self, x: Tensor, initial: State) -> Tensor:
        """The output of no steps at all, ``(0, O)``: O is known by the cell alone."""
        try:
            return self.function(x[:0], tuple(s[:0] for s in initial))[0]
        except RuntimeError:  # a cell that can't do with no rows, like x.view(len(x), -1)
            row = x.new_zeros(1, x.shape[1])
            return self.function(row, tuple(s.new_zeros(1, s.shape[1]) for s in initial))[0][:0]

    def _check(self, output: Tensor, previous: Tensor | None, after: State, before: State) -> None:
        for k, (new, old) in enumerate(zip(after, before, strict=True)):
            if new.shape != old.shape or new.dtype != old.dtype or new.device != old.device:
                raise InputError(
                    f"{self.name()}: the state must keep its shape, dtype and device "
                    f"from step to step; state {k} was {_meta(old)}, came out as {_meta(new)}"
                )
        rows = len(before[0])
        if output.dim() != 2 or len(output) != rows:
            raise InputError(
                f"{self.name()}: the output must be (B, O) with B = {rows}, got {_meta(output)}"
            )
        if previous is not None and (
            output.shape[1] != previous.shape[1] or output.dtype != previous.dtype
        ):
            raise InputError(
                f"{self.name()}: the output must keep its width and dtype from step "
                f"to step, got {_meta(previous)}, then {_meta(output)}"
            )


def _mask(mask: Tensor, sizes: list[int], device: torch.device) -> _Mask:
    on_cpu = mask.to("cpu")
    rows_running = [row[:size] for row, size in zip(on_cpu.unbind(0), sizes, strict=True)]
    return _Mask(
        mask.to(device),
        [bool(row.any()) for row in rows_running],
        [bool(row.all()) for row in rows_running],
    )


def _row_lengths(sizes: list[int], batch: int) -> Tensor:
    """Each row's length from the number of rows running at each step."""
    return (torch.tensor(sizes, dtype=torch.int64).unsqueeze(1) > torch.arange(batch)).sum(0)


def _meta(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
