"""Layers one on top of another, of whatever kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from ostinato.errors import InputError
from ostinato.nn.bidirectional import Bidirectional
from ostinato.nn.drop_in import DropIn, Lengths
from ostinato.nn.packed import with_data
from ostinato.nn.recurrent import Recurrent
from ostinato.nn.time_distributed import TimeDistributed, distribute

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Stacked(nn.Module):
    """Feed each layer's output to the next one.

    A layer is a :class:`~ostinato.nn.recurrent.Recurrent`, a
    :class:`~ostinato.nn.bidirectional.Bidirectional` that merges, one of the drop-ins
    (``ostinato.nn.LSTM``...), another ``Stacked``, or a module without state, which is applied to
    every step as by :class:`~ostinato.nn.time_distributed.TimeDistributed` (``nn.Linear``,
    ``nn.LayerNorm``, ``nn.ReLU``...).

    Args:
        layers: one or more, all with the same ``batch_first``.
        residual: add a layer's input to its output, in each layer whose input and output have the
            same shape. (Where the width changes there is nothing to add to.)
        dropout: probability of zeroing an element of the output of every layer but the last, in
            training; before the next layer and its residual.

    Call: ``layer(x, state=None, *, lengths=None, reset=None) -> (output, states)``. ``x`` is
    ``(T, B, I)``, ``(B, T, I)`` with ``batch_first``, ``(T, I)`` without a batch, or packed.
    ``states`` is a list with one entry per layer, ``None`` for a layer without state; the ``state``
    that enters is such a list too, or ``None``. ``lengths`` and ``reset`` go to each layer that
    knows time; a drop-in takes no ``reset``.

    Raises:
        InputError: no layers, mixed ``batch_first``, ``dropout`` outside 0..1, a ``state`` of
            another length, ``reset`` with a drop-in.

    >>> from ostinato import Recurrent, cells
    >>> layer = Stacked([nn.Linear(3, 4), Recurrent(cells.GRU(4, 4))], residual=True)
    >>> import torch
    >>> y, (nothing, h) = layer(torch.zeros(7, 2, 3))
    >>> tuple(y.shape), nothing, tuple(h.shape)
    ((7, 2, 4), None, (2, 4))
    """

    def __init__(
        self, layers: Iterable[nn.Module], *, residual: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.residual = residual
        self.dropout = dropout
        if not len(self.layers):
            raise InputError("Stacked: expected one layer or more, got none")
        if not 0.0 <= dropout <= 1.0:
            raise InputError(f"Stacked: dropout must be a probability from 0 to 1, got {dropout}")
        for k, layer in enumerate(self.layers):
            _check_kind(k, layer)
        layouts = {k: bool(m.batch_first) for k, m in enumerate(self.layers) if _knows_time(m)}
        if len(set(layouts.values())) > 1:
            raise InputError(f"Stacked: layers must agree in batch_first, got {layouts}")
        self.batch_first: bool = next(iter(layouts.values()), False)

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: Sequence[Any] | None = None,
        *,
        lengths: Lengths = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, list[Any]]:
        """See the class."""
        if state is None:
            state = [None] * len(self.layers)
        elif not isinstance(state, (list, tuple)) or len(state) != len(self.layers):
            got = len(state) if isinstance(state, (list, tuple)) else type(state).__name__
            raise InputError(
                f"Stacked: state must be a list with one entry for each of the {len(self.layers)} "
                f"layers (None for one without state), got {got}"
            )
        finals = []
        for k, (layer, entering) in enumerate(zip(self.layers, state, strict=True)):
            if k > 0 and self.training and self.dropout > 0.0:
                x = _map(x, lambda data: F.dropout(data, self.dropout, True))
            y, final = self._apply_layer(k, layer, x, entering, lengths, reset)
            if self.residual and _data(y).shape == _data(x).shape:
                y = _map(y, _data(x).__add__)
            finals.append(final)
            x = y
        return x, finals

    def _apply_layer(
        self,
        k: int,
        layer: nn.Module,
        x: Tensor | PackedSequence,
        state: Any,
        lengths: Lengths,
        reset: Tensor | None,
    ) -> tuple[Tensor | PackedSequence, Any]:
        if isinstance(layer, DropIn):
            if reset is not None:
                raise InputError(
                    f"Stacked: layer {k} is a drop-in for torch.nn.{type(layer).__name__} and "
                    "takes no reset; use ostinato.Recurrent with a cell instead"
                )
            return layer(x, state, lengths=lengths)  # type: ignore[no-any-return]
        if isinstance(layer, (Recurrent, Bidirectional, Stacked)):
            return layer(x, state, lengths=lengths, reset=reset)  # type: ignore[no-any-return]
        if state is not None:
            raise InputError(
                f"Stacked: layer {k} ({type(layer).__name__}) has no state, its entry must be None"
            )
        if isinstance(layer, TimeDistributed):
            return layer(x, lengths=lengths), None
        if isinstance(x, Tensor) and x.dim() == 2 and lengths is None:
            return layer(x), None  # one row without a batch axis: its steps are the rows
        return distribute(layer, x, lengths, self.batch_first), None

    def extra_repr(self) -> str:
        """What is between the layers."""
        return f"residual={self.residual}, dropout={self.dropout}"


def _check_kind(k: int, layer: nn.Module) -> None:
    if isinstance(layer, nn.RNNBase) and not isinstance(layer, DropIn):
        name = type(layer).__name__
        raise InputError(
            f"Stacked: layer {k} is a torch.nn.{name}; use ostinato.nn.{name}, or "
            "ostinato.accelerate(layer) first"
        )
    if isinstance(layer, Bidirectional) and layer.merge is None:
        raise InputError(
            f"Stacked: layer {k} is a Bidirectional with merge=None, whose two outputs no layer "
            "takes; choose a merge"
        )


def _knows_time(layer: nn.Module) -> bool:
    return isinstance(layer, (Recurrent, Bidirectional, Stacked, DropIn, TimeDistributed))


def _data(x: Tensor | PackedSequence) -> Tensor:
    return x.data if isinstance(x, PackedSequence) else x


def _map(x: Any, function: Any) -> Any:
    """``function`` of a tensor, or of the data of a packed sequence."""
    if isinstance(x, PackedSequence):
        return with_data(x, function(x.data))
    return function(x)
