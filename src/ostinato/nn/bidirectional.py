"""A layer and its mirror image, side by side."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ostinato.errors import InputError
from ostinato.nn.packed import with_data
from ostinato.nn.recurrent import Recurrent

if TYPE_CHECKING:
    from collections.abc import Callable

    from ostinato.nn.drop_in import Lengths

_MERGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "concat": lambda a, b: torch.cat((a, b), -1),
    "sum": torch.add,
    "mul": torch.mul,
    "mean": lambda a, b: (a + b) / 2,
}


class Bidirectional(nn.Module):
    r"""Run one layer from left to right and its twin from right to left, and merge the outputs.

    .. math::
        \text{output}_t = \text{merge}(\overrightarrow{y}_t, \overleftarrow{y}_t)

    Args:
        layer: a :class:`~ostinato.nn.recurrent.Recurrent` with ``reverse=False``. It becomes
            ``forward_layer``, the very same object.
        merge: ``"concat"`` (along features), ``"sum"``, ``"mul"``, ``"mean"``, or ``None`` for the
            pair of outputs.
        backward: the layer for the other direction, with ``reverse=True``. By default a deep copy
            of ``layer`` with parameters of its own: drawn anew by the cell's ``reset_parameters``
            if it has one, else by those of its submodules that have one. A parameter that no
            ``reset_parameters`` sets starts as a copy of the forward layer's.

    Call: ``layer(x, state=None, *, lengths=None, reset=None) -> (output, state)``, arguments as for
    ``Recurrent``; ``state`` is a pair (forward's, backward's), either may be ``None``. ``reset``
    marks where a new sequence starts: nothing passes that border in either direction, so the
    backward layer restarts *before* it processes the step ahead of the mark.

    Raises:
        InputError: ``layer`` is something else, directions or layouts don't fit, ``merge`` is
            unknown, ``state`` is not a pair, or what ``Recurrent`` refuses.

    >>> from ostinato import Recurrent, cells
    >>> layer = Bidirectional(Recurrent(cells.GRU(3, 5)), merge="sum")
    >>> y, (h_forward, h_backward) = layer(torch.zeros(7, 2, 3))
    >>> tuple(y.shape), tuple(h_backward.shape)
    ((7, 2, 5), (2, 5))
    """

    def __init__(
        self, layer: Recurrent, merge: str | None = "concat", *, backward: Recurrent | None = None
    ) -> None:
        super().__init__()
        if merge is not None and merge not in _MERGES:
            raise InputError(f"merge must be None or one of {tuple(_MERGES)}, got {merge!r}")
        _check_direction(layer, "layer", reverse=False)
        if backward is None:
            backward = _twin(layer)
        _check_direction(backward, "backward", reverse=True)
        if backward.batch_first != layer.batch_first:
            raise InputError(
                f"layer has batch_first={layer.batch_first} and backward has "
                f"batch_first={backward.batch_first}: they must agree"
            )
        self.forward_layer = layer
        self.backward_layer = backward
        self.merge = merge

    @property
    def batch_first(self) -> bool:
        """The layers' own."""
        return self.forward_layer.batch_first

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: tuple[Any, Any] | None = None,
        *,
        lengths: Lengths = None,
        reset: Tensor | None = None,
    ) -> tuple[Any, tuple[Any, Any]]:
        """See the class."""
        if state is None:
            state = (None, None)
        elif not isinstance(state, (tuple, list)) or len(state) != 2:
            raise InputError(
                "Bidirectional: state must be a pair (forward layer's, backward layer's), "
                f"got {_structure(state)}"
            )
        there, final_there = self.forward_layer(x, state[0], lengths=lengths, reset=reset)
        if reset is not None:
            reset = _mirrored(reset, _lengths_of(x, lengths), self.batch_first)
        back, final_back = self.backward_layer(x, state[1], lengths=lengths, reset=reset)
        return self._merged(there, back), (final_there, final_back)

    def _merged(self, there: Any, back: Any) -> Any:
        if self.merge is None:
            return there, back
        merge = _MERGES[self.merge]
        if isinstance(there, PackedSequence):
            return with_data(there, merge(there.data, back.data))
        return merge(there, back)

    def extra_repr(self) -> str:
        """How outputs are merged."""
        return f"merge={self.merge!r}"


def _check_direction(layer: object, name: str, *, reverse: bool) -> None:
    if not isinstance(layer, Recurrent):
        raise InputError(
            f"Bidirectional: {name} must be an ostinato.Recurrent, got {type(layer).__name__}; "
            "nn.RNN, nn.LSTM and nn.GRU have bidirectional=True of their own"
        )
    if layer.reverse is not reverse:
        raise InputError(
            f"Bidirectional: {name} must have reverse={reverse}, got reverse={layer.reverse}"
        )


def _twin(layer: Recurrent) -> Recurrent:
    twin = copy.deepcopy(layer)
    twin.reverse = True
    reset_parameters = getattr(twin.cell, "reset_parameters", None)
    if callable(reset_parameters):
        reset_parameters()
    else:
        for module in twin.cell.modules():
            reset_parameters = getattr(module, "reset_parameters", None)
            if callable(reset_parameters):
                reset_parameters()
    return twin


def _mirrored(reset: Tensor, lengths: Lengths, batch_first: bool) -> Tensor:
    """Restarts as the backward layer meets them.

    A border lies before step ``t``; coming from the right, the first step beyond it is ``t - 1``. A
    row's last step is the first that is processed and has no border ahead of it.
    """
    starts = reset.t() if batch_first else reset
    mirrored = torch.zeros_like(starts)
    mirrored[:-1] = starts[1:]
    if lengths is not None:
        time = torch.arange(len(starts), device=reset.device)[:, None]
        mirrored &= time + 1 < torch.as_tensor(lengths, device=reset.device)
    return mirrored.t() if batch_first else mirrored


def _lengths_of(x: Tensor | PackedSequence, lengths: Lengths) -> Lengths:
    if not isinstance(x, PackedSequence):
        return lengths
    rows = torch.arange(int(x.batch_sizes[0]))
    packed = (x.batch_sizes[:, None] > rows).sum(0)
    return packed if x.unsorted_indices is None else packed[x.unsorted_indices.cpu()]


def _structure(state: object) -> str:
    if isinstance(state, (tuple, list)):
        return f"{type(state).__name__} of {len(state)}"
    return type(state).__name__
