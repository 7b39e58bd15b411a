"""LSTM whose gates look at the cell state."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from ostinato.cells.base import Cell, Made
from ostinato.cells.registry import register


@register(
    "lstm_peephole",
    paper="Gers and Schmidhuber (2000), Recurrent nets that time and count",
    aliases=("peephole_lstm", "peephole"),
)
class PeepholeLSTM(Cell):
    r"""LSTM with peephole connections from the cell state to the gates.

    .. math::
        i, f, g, o &= W_{ih} x + b_{ih} + W_{hh} h + b_{hh} \\
        c' &= \sigma(f + p_f \odot c) \odot c + \sigma(i + p_i \odot c) \odot \tanh(g) \\
        h' &= \sigma(o + p_o \odot c') \odot \tanh(c')

    Not to be confused with cuDNN's and torch's LSTM, which has no peepholes. Input and forget gate
    see the old cell state, the output gate the new one.

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are ``bias_ih`` and ``bias_hh``.
        made: ``device`` and ``dtype`` of the parameters.

    Parameters: ``weight_ih`` (4H, I), ``weight_hh`` (4H, H), ``bias_ih`` and ``bias_hh`` (4H,);
    the peepholes ``peep_i``, ``peep_f``, ``peep_o`` (H,).

    Call: ``x`` (B, I), ``(h, c)`` each (B, H) -> ``(h', c')``.

    Raises:
        InputError: a size below 1.

    Source: F. A. Gers and J. Schmidhuber (2000), Recurrent nets that time and count, IJCNN; F. A.
    Gers, N. N. Schraudolph and J. Schmidhuber (2002), Learning precise timing with LSTM recurrent
    networks, JMLR 3, section 3.

    Differences: peepholes are diagonal, one cell per memory block; tanh for the paper's scaled
    logistic functions (JMLR drops the output squashing altogether); the gradient isn't truncated.

    Example:
        >>> cell = PeepholeLSTM(3, 5)
        >>> h, c = cell(torch.zeros(2, 3), (torch.zeros(2, 5), torch.zeros(2, 5)))
        >>> tuple(h.shape)
        (2, 5)
    """

    GATES = ("i", "f", "g", "o")

    peep_i: Tensor
    peep_f: Tensor
    peep_o: Tensor

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
                "peep_i": (H,),
                "peep_f": (H,),
                "peep_o": (H,),
            },
            **made,
        )

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """One step, see the class."""
        h, c = state
        z = F.linear(x, self.weight_ih, self.bias_ih) + F.linear(h, self.weight_hh, self.bias_hh)
        i, f, g, o = z.chunk(4, -1)
        i = torch.sigmoid(i + self.peep_i * c)
        f = torch.sigmoid(f + self.peep_f * c)
        c = f * c + i * torch.tanh(g)
        o = torch.sigmoid(o + self.peep_o * c)
        return o * torch.tanh(c), c
