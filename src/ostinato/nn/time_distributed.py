"""Apply a module that knows nothing of time to every step of a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ostinato.engine.ragged import lengths_tensor
from ostinato.errors import InputError
from ostinato.nn.packed import with_data

if TYPE_CHECKING:
    from ostinato.nn.drop_in import Lengths


class TimeDistributed(nn.Module):
    """``output[t, b] = module(x[t, b])``, for a module that maps ``(N, *)`` to ``(N, *)``.

    All steps of all rows form one batch, so the module is called once, on valid data only: a
    ``PackedSequence`` is not unpacked, and with ``lengths`` the padding is neither shown to the
    module (think of batch norm's statistics) nor written: the output past a row's length is zero.

    Args:
        module: any module whose first dimension is a batch of independent rows.
        batch_first: ``x`` is ``(B, T, *)``; it matters together with ``lengths`` only.

    Call: ``layer(x, *, lengths=None)`` with ``x`` of ``(T, B, *)`` or packed, ``lengths`` of
    ``(B,)`` int64 on the CPU; gives ``(T, B, *)`` or packed.

    Raises:
        InputError: ``x`` has fewer than two dimensions, ``lengths`` doesn't fit, or the module
            doesn't give one row per row.

    >>> layer = TimeDistributed(nn.Linear(3, 2))
    >>> y = layer(torch.ones(4, 2, 3), lengths=torch.tensor([4, 1]))
    >>> tuple(y.shape), y[1:, 1].abs().sum().item()
    ((4, 2, 2), 0.0)
    """

    def __init__(self, module: nn.Module, *, batch_first: bool = False) -> None:
        super().__init__()
        self.module = module
        self.batch_first = batch_first

    def forward(
        self, x: Tensor | PackedSequence, *, lengths: Lengths = None
    ) -> Tensor | PackedSequence:
        """See the class."""
        return distribute(self.module, x, lengths, self.batch_first)

    def extra_repr(self) -> str:
        """The layout, where it isn't the default."""
        return "batch_first=True" if self.batch_first else ""


def distribute(
    module: nn.Module,
    x: Tensor | PackedSequence,
    lengths: Lengths = None,
    batch_first: bool = False,
) -> Tensor | PackedSequence:
    """:class:`TimeDistributed` as a function."""
    if isinstance(x, PackedSequence):
        if lengths is not None:
            raise InputError("lengths came with a PackedSequence, which has its own: pass one")
        return with_data(x, _rows(module, x.data))
    if x.dim() < 2:
        raise InputError(
            f"TimeDistributed: expected x of (T, B, *), two or more dimensions, "
            f"got {tuple(x.shape)}"
        )
    steps, batch = x.shape[:2] if not batch_first else (x.shape[1], x.shape[0])
    rows = x.flatten(0, 1)
    if lengths is None:
        y = _rows(module, rows)
        return y.reshape(*x.shape[:2], *y.shape[1:])
    lengths = lengths_tensor(lengths, steps, batch).to(x.device)
    time = torch.arange(steps, device=x.device)
    valid = time < lengths[:, None] if batch_first else time[:, None] < lengths
    index = valid.flatten().nonzero().squeeze(1)
    y = _rows(module, rows.index_select(0, index))
    whole = y.new_zeros(rows.shape[0], *y.shape[1:])
    return whole.index_copy(0, index, y).view(*x.shape[:2], *y.shape[1:])


def _rows(module: nn.Module, rows: Tensor) -> Tensor:
    y = module(rows)
    if not isinstance(y, Tensor) or y.dim() == 0 or y.shape[0] != rows.shape[0]:
        got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise InputError(
            f"TimeDistributed: {type(module).__name__} was given {tuple(rows.shape)}, one row per "
            f"step of each sequence, and must give one row for each; got {got}. A module that "
            "looks at several steps together goes outside of TimeDistributed."
        )
    return y
