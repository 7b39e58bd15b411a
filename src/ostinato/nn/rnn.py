"""Drop-ins for ``torch.nn.RNN``, ``torch.nn.LSTM`` and ``torch.nn.GRU``.

Same constructor, attributes, parameters, ``state_dict``, initialisation, checks and results; the
time loop is ostinato's. See :mod:`ostinato.nn.drop_in` for how, and
:func:`ostinato.accelerate` to put them into a model that is already built.

Common to the three, ``D`` being 2 if ``bidirectional`` else 1, ``L`` ``num_layers``:

``layer(input, hx=None, *, lengths=None) -> (output, hx)``

=============  ====================================================================================
``input``      ``(T, B, I)``; ``(B, T, I)`` with ``batch_first``; ``(T, I)`` without a batch; or a
               ``PackedSequence``
``hx``         ``(L * D, B, H)``, without a batch ``(L * D, H)``; an LSTM's is a pair; zeros if None
``lengths``    ``(B,)`` int64 on the CPU: how many steps each row of a batch has. Beyond torch: a
               ragged batch without sorting or packing. A row costs its own length; the output past
               it is zero; the final state is that of the row's own last step
``output``     ``(T, B, D * H)``, laid out as the input is
=============  ====================================================================================

``engine``, a keyword of the constructor, is ``"auto"``, ``"native"`` or ``"eager"``. With
``"auto"``, float32 and float64 on the CPU take ostinato's engine; other devices and dtypes keep
torch's kernels (cuDNN on CUDA), and :meth:`~ostinato.nn.drop_in.DropIn.explain` says so. Torch's
kernels know no ``lengths``: with them, these devices and dtypes take cuDNN layer by layer or the
eager engine.

Differences from torch: under ``torch.autocast`` the recurrence keeps to the parameters' dtype and
its output has that dtype (torch gives bfloat16 for RNN and LSTM, the parameters' dtype for GRU); a
parametrised weight is computed once a call (torch: up to three times, which a spectral norm in
training notices); ``torch.jit.script`` is refused. They are ``torch.nn.RNNBase``, as torch's are,
but not ``torch.nn.LSTM`` and so on: at an instance of those ``torch.compile`` breaks the graph, at
ours it doesn't.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ostinato import cells
from ostinato.nn.drop_in import DropIn

if TYPE_CHECKING:
    from collections.abc import Callable

    from ostinato.cells.base import Cell


class RNN(DropIn):
    r"""Elman network: ``torch.nn.RNN`` on ostinato's engine.

    .. math:: h_t = \tanh(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh})

    or :math:`\mathrm{relu}` with ``nonlinearity="relu"``. Arguments are torch's: ``input_size,
    hidden_size, num_layers=1, nonlinearity="tanh", bias=True, batch_first=False, dropout=0.0,
    bidirectional=False, device=None, dtype=None``, and ``engine="auto"``. The module has the call.

    >>> import torch
    >>> layer = RNN(3, 5, bidirectional=True)
    >>> output, h = layer(torch.zeros(7, 2, 3))
    >>> tuple(output.shape), tuple(h.shape)
    ((7, 2, 10), (2, 2, 5))
    """

    _torch = nn.RNN

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if len(args) > 3:
            nonlinearity, args = args[3], args[:3] + args[4:]
        else:
            nonlinearity = kwargs.pop("nonlinearity", "tanh")
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        super().__init__(f"RNN_{nonlinearity.upper()}", *args, **kwargs)
        self.nonlinearity = nonlinearity

    def _equations(self) -> tuple[Callable[..., Cell], dict[str, Any]]:
        return cells.Elman, {"bias": self.bias, "nonlinearity": self.nonlinearity}


class LSTM(DropIn):
    r"""Long short-term memory: ``torch.nn.LSTM`` on ostinato's engine.

    .. math::
        i, f, g, o &= W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh} \\
        c_t &= \sigma(f) \, c_{t-1} + \sigma(i) \tanh(g) \\
        h_t &= \sigma(o) \tanh(c_t)

    and with ``proj_size=P`` :math:`h_t = W_{hr}\, \sigma(o) \tanh(c_t)`, of width ``P``. Arguments
    are torch's: ``input_size, hidden_size, num_layers=1, bias=True, batch_first=False,
    dropout=0.0, bidirectional=False, proj_size=0, device=None, dtype=None``, and
    ``engine="auto"``. ``hx`` is a pair ``(h, c)``; the module has the call.

    >>> import torch
    >>> layer = LSTM(3, 5, batch_first=True)
    >>> output, (h, c) = layer(torch.zeros(2, 7, 3), lengths=torch.tensor([7, 4]))
    >>> tuple(output.shape), tuple(c.shape)
    ((2, 7, 5), (1, 2, 5))
    """

    _torch = nn.LSTM
    check_forward_args = nn.LSTM.check_forward_args  # type: ignore[assignment]
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    permute_hidden = nn.LSTM.permute_hidden  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)

    def _state_widths(self) -> tuple[int, ...]:
        return (self.proj_size or self.hidden_size, self.hidden_size)

    def _equations(self) -> tuple[Callable[..., Cell], dict[str, Any]]:
        if self.proj_size:
            return cells.ProjectedLSTM, {"bias": self.bias, "proj_size": self.proj_size}
        return cells.LSTM, {"bias": self.bias}


class GRU(DropIn):
    r"""Gated recurrent unit, reset after the product: ``torch.nn.GRU`` on ostinato's engine.

    .. math::
        r, z &= \sigma(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}) \\
        n &= \tanh(W_{in} x_t + b_{in} + r \, (W_{hn} h_{t-1} + b_{hn})) \\
        h_t &= (1 - z) \, n + z \, h_{t-1}

    Arguments are torch's: ``input_size, hidden_size, num_layers=1, bias=True, batch_first=False,
    dropout=0.0, bidirectional=False, device=None, dtype=None``, and ``engine="auto"``. The module
    has the call.

    >>> import torch
    >>> layer = GRU(3, 5, num_layers=2)
    >>> output, h = layer(torch.zeros(7, 3))
    >>> tuple(output.shape), tuple(h.shape)
    ((7, 5), (2, 5))
    """

    _torch = nn.GRU

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("GRU", *args, **kwargs)

    def _equations(self) -> tuple[Callable[..., Cell], dict[str, Any]]:
        return cells.GRU, {"bias": self.bias}
