"""Long short-term memory with a forget gate."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from ostinato.cells.base import Cell, Made
from ostinato.cells.registry import register


@register(
    "lstm",
    paper="Gers, Schmidhuber and Cummins (2000), Learning to forget",
    aliases=("vanilla_lstm",),
)
class LSTM(Cell):
    r"""Long short-term memory with a forget gate.

    .. math::
        i, f, g, o &= W_{ih} x + b_{ih} + W_{hh} h + b_{hh} \\
        c' &= \sigma(f) \odot c + \sigma(i) \odot \tanh(g) \\
        h' &= \sigma(o) \odot \tanh(c')

    The same as ``torch.nn.LSTMCell``, whose parameters it can load.

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are ``bias_ih`` and ``bias_hh``.
        made: ``device`` and ``dtype`` of the parameters.

    Parameters: ``weight_ih`` (4H, I), ``weight_hh`` (4H, H), ``bias_ih`` and ``bias_hh`` (4H,).

    Call: ``x`` (B, I), ``(h, c)`` each (B, H) -> ``(h', c')``.

    Raises:
        InputError: a size below 1.

    Source: F. A. Gers, J. Schmidhuber and F. Cummins (2000), Learning to forget: continual
    prediction with LSTM, Neural Computation 12(10); the cell itself S. Hochreiter and J.
    Schmidhuber (1997), Long short-term memory, Neural Computation 9(8).

    Differences: the squashing functions g and h of the paper are scaled logistic functions, here
    tanh; one cell per memory block; the gradient isn't truncated; two biases are torch's. The
    forget gate's bias starts like all others, not at 1.

    Example:
        >>> cell = LSTM(3, 5)
        >>> h, c = cell(torch.zeros(2, 3), (torch.zeros(2, 5), torch.zeros(2, 5)))
        >>> tuple(h.shape), tuple(c.shape)
        ((2, 5), (2, 5))
    """

    GATES = ("i", "f", "g", "o")

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, **made: Unpack[Made]
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        self.state_size = (hidden_size, hidden_size)
        H = hidden_size
        self._make(
            {
                "weight_ih": (4 * H, input_size),
                "weight_hh": (4 * H, H),
                "bias_ih": (4 * H,),
                "bias_hh": (4 * H,),
            },
            **made,
        )

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """One step, see the class."""
        h, c = state
        z = F.linear(x, self.weight_ih, self.bias_ih) + F.linear(h, self.weight_hh, self.bias_hh)
        i, f, g, o = z.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, c
