"""Rows of different lengths: checks of what the user passes, and the order that engines work in.

An engine wants packed data: rows sorted by decreasing length, step after step only the rows that
are still running, as in :class:`torch.nn.utils.rnn.PackedSequence`. So each row costs its own
length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ostinato.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTEGERS = frozenset(
    {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
    | {torch.uint16, torch.uint32, torch.uint64}
)


def lengths_tensor(lengths: Tensor | Sequence[int], steps: int, batch: int) -> Tensor:
    """``lengths`` as a contiguous int64 tensor ``(B,)`` on the CPU, checked.

    Args:
        lengths: ``(B,)``, any integer dtype, on any device, or a sequence of ints; each in 0..T.
        steps: T.
        batch: B.

    Raises:
        InputError: wrong type, dtype or shape, or a value outside 0..T (names the first such row).
    """
    if not isinstance(lengths, Tensor):
        if isinstance(lengths, (str, bytes)) or not hasattr(lengths, "__len__"):
            raise InputError(
                f"lengths must be an integer tensor or a sequence of ints of shape ({batch},), "
                f"got {type(lengths).__name__}"
            )
        try:
            lengths = torch.as_tensor(lengths) if len(lengths) else torch.zeros(0, dtype=torch.long)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"lengths must be integers, one a row ({batch}), got {lengths!r}: {error}"
            ) from None
    if lengths.dtype not in _INTEGERS:
        raise InputError(
            f"lengths must have an integer dtype, got {lengths.dtype}; for a mask of valid steps "
            "pass lengths=mask.sum(0)"
        )
    if lengths.shape != (batch,):
        raise InputError(
            f"lengths must have one entry a row, shape ({batch},), got {tuple(lengths.shape)}"
        )
    result = lengths.detach().to("cpu", torch.int64).contiguous()
    # The values can't be looked at while torch.compile builds a graph; the engine looks again.
    if not torch.compiler.is_compiling():
        check_lengths(result, steps)
    return result


def check_lengths(lengths: Tensor, steps: int) -> None:
    """Refuse lengths outside 0..T.

    Raises:
        InputError: names the first such row and its value.
    """
    least, most = (int(n) for n in lengths.aminmax()) if len(lengths) else (0, 0)
    if least < 0 or most > steps:
        bad = ((lengths < 0) | (lengths > steps)).nonzero()
        row = int(bad[0, 0])
        raise InputError(
            f"lengths must be between 0 and T = {steps}, got lengths[{row}] = {int(lengths[row])}"
            + (f" (and {len(bad) - 1} more such rows)" if len(bad) > 1 else "")
        )


def reset_mask(reset: Tensor, steps: int, batch: int, *, batch_first: bool = False) -> Tensor:
    """``reset`` as a bool tensor ``(T, B)``, checked.

    Args:
        reset: bool, ``(T, B)``, or ``(B, T)`` if ``batch_first``.
        steps: T.
        batch: B.
        batch_first: how ``reset`` is laid out.

    Raises:
        InputError: wrong type, dtype or shape.
    """
    layout, shape = ("(B, T)", (batch, steps)) if batch_first else ("(T, B)", (steps, batch))
    if not isinstance(reset, Tensor) or reset.dtype is not torch.bool:
        got = reset.dtype if isinstance(reset, Tensor) else type(reset).__name__
        raise InputError(f"reset must be a bool tensor {layout}, got {got}")
    if reset.shape != shape:
        raise InputError(f"reset must be {layout} = {shape}, got {tuple(reset.shape)}")
    return reset.t() if batch_first else reset


def check_bptt(bptt: int | None) -> None:
    """Refuse what is not a number of steps.

    Raises:
        InputError: not ``None`` and not an int of at least 1.
    """
    if bptt is not None and (isinstance(bptt, bool) or not isinstance(bptt, int) or bptt < 1):
        raise InputError(
            f"bptt must be None (gradients flow through all steps) or a number of steps >= 1, "
            f"got {bptt!r}"
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the valid steps of a padded batch are.

    ``order``: rows by decreasing length, ``(B,)`` int64, or ``None`` if they are so already.
    ``batch_sizes``: rows still running at each step, a list of T ints.
    ``positions``: for each packed row its place in the flattened ``(T * B)`` padded data.
    """

    order: Tensor | None
    batch_sizes: list[int]
    positions: Tensor


def packed_layout(lengths: Tensor, steps: int) -> Layout:
    """The layout of a padded batch with ``lengths`` ``(B,)`` int64 on the CPU, over T steps."""
    batch = len(lengths)
    descending, order = torch.sort(lengths, descending=True, stable=True)
    running = descending.unsqueeze(0) > torch.arange(steps).unsqueeze(1)  # (T, B)
    positions = (torch.arange(steps).unsqueeze(1) * batch + order).masked_select(running)
    is_sorted = batch < 2 or bool((order == torch.arange(batch)).all())
    return Layout(None if is_sorted else order, running.sum(1).tolist(), positions)


def cut_mask(lengths: Tensor, steps: int, bptt: int, reverse: bool) -> Tensor:
    """Where truncated BPTT detaches the state that enters a step: ``(T, B)`` bool, on the CPU.

    With ``u`` a step's number in its row's processing order, 0 for the first: where ``u > 0`` and
    ``(length - u) % bptt == 0``, so that the last ``bptt`` steps of each row are whole.
    """
    time = torch.arange(steps).unsqueeze(1)
    number = lengths - 1 - time if reverse else time.expand(steps, len(lengths))
    return (number > 0) & (number < lengths) & ((lengths - number) % bptt == 0)
