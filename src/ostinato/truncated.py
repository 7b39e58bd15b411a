"""Truncated BPTT over a long stream: windows of time with carried, detached state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from ostinato.engine.ragged import lengths_tensor
from ostinato.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def detach_state(state: Any) -> Any:
    """``state`` cut off from the graph that made it: a tensor, ``None``, or nested tuples of them.

    Example:
        >>> import torch
        >>> h = torch.ones(1, 2, requires_grad=True) * 2
        >>> detach_state((h, None))[0].requires_grad
        False
    """
    if state is None:
        return None
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, (tuple, list)):
        return tuple(detach_state(part) for part in state)
    raise InputError(f"a state is a tensor, a tuple of states or None, got {type(state).__name__}")


class Carry:
    """What goes from one window to the next.

    Attributes:
        start, stop: the window's steps in the stream, ``start <= t < stop``.
        lengths: ``(B,)`` int64, how many valid steps each row has in this window, or ``None``.
    """

    __slots__ = ("_state", "lengths", "start", "stop")

    def __init__(self, state: Any) -> None:
        self.start = self.stop = 0
        self.lengths: Tensor | None = None
        self.state = state

    @property
    def state(self) -> Any:
        """The state that enters the window; what is assigned is detached."""
        return self._state

    @state.setter
    def state(self, state: Any) -> None:
        self._state = detach_state(state)


@overload
def windows(
    stream: Tensor,
    size: int,
    *,
    state: Any = None,
    lengths: Tensor | Sequence[int] | None = None,
    batch_first: bool = False,
) -> Iterator[tuple[Tensor, Carry]]: ...


@overload
def windows(
    stream: Sequence[Tensor],
    size: int,
    *,
    state: Any = None,
    lengths: Tensor | Sequence[int] | None = None,
    batch_first: bool = False,
) -> Iterator[tuple[tuple[Tensor, ...], Carry]]: ...


def windows(
    stream: Tensor | Sequence[Tensor],
    size: int,
    *,
    state: Any = None,
    lengths: Tensor | Sequence[int] | None = None,
    batch_first: bool = False,
) -> Iterator[tuple[Tensor, Carry]] | Iterator[tuple[tuple[Tensor, ...], Carry]]:
    """Cut a long stream into windows of ``size`` steps, for truncated BPTT.

    The state goes on from window to window, the gradient doesn't::

        for (x, target), carry in ostinato.windows((inputs, targets), 64):
            y, carry.state = layer(x, carry.state)
            ...  # loss, backward, optimiser step

    Over all windows the outputs are those of one call on the whole stream (as long as the
    parameters stay the same); a gradient reaches back to the start of its window and no further.
    To cut inside one call instead, counted back from each row's end, see ``bptt`` of
    :class:`ostinato.Recurrent`.

    Args:
        stream: ``(T, B, ...)``, or a sequence of tensors that are cut alike (inputs, targets, a
            reset mask). ``(B, T, ...)`` if ``batch_first``.
        size: steps per window, at least 1; the last window may be shorter.
        state: the state that enters the first window; ``None``: the layer's zeros.
        lengths: ``(B,)`` valid steps of each row of the stream; each window's share is then in
            ``carry.lengths``, for the layer's argument. A row that has ended keeps its state.
        batch_first: the second axis is time.

    Yields:
        The window (a tensor, or a tuple for a sequence) and the :class:`Carry`, the same object
        each time.

    Raises:
        InputError: ``size`` is no positive int, the tensors' T or B differ, or bad ``lengths``.

    Example:
        >>> import torch
        >>> cell = torch.nn.GRUCell(3, 2)
        >>> for x, carry in windows(torch.zeros(5, 1, 3), 2, state=torch.zeros(1, 2)):
        ...     for row in x:
        ...         carry.state = cell(row, carry.state)
        ...     print(carry.start, carry.stop, carry.state.requires_grad)
        0 2 False
        2 4 False
        4 5 False
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"size must be a number of steps >= 1, got {size!r}")
    parts = (stream,) if isinstance(stream, Tensor) else tuple(stream)
    if not parts or any(not isinstance(p, Tensor) or p.dim() < 2 for p in parts):
        raise InputError("stream must be a tensor (T, B, ...) or a non-empty sequence of such")
    if len({tuple(p.shape[:2]) for p in parts}) > 1:
        raise InputError(
            f"all tensors of a stream need the same first two axes, got "
            f"{', '.join(str(tuple(p.shape)) for p in parts)}"
        )
    axis = 1 if batch_first else 0
    steps, batch = parts[0].shape[axis], parts[0].shape[1 - axis]
    valid = None if lengths is None else lengths_tensor(lengths, steps, batch)
    return _cut(parts, isinstance(stream, Tensor), size, steps, axis, valid, Carry(state))


def _cut(
    parts: tuple[Tensor, ...],
    single: bool,
    size: int,
    steps: int,
    axis: int,
    lengths: Tensor | None,
    carry: Carry,
) -> Iterator[Any]:
    for start in range(0, steps, size):
        stop = min(start + size, steps)
        carry.start, carry.stop = start, stop
        if lengths is not None:
            carry.lengths = torch.clamp(lengths - start, 0, stop - start)
        window = tuple(p.narrow(axis, start, stop - start) for p in parts)
        yield (window[0] if single else window), carry
