"""LSTM that forgets exactly as much as it takes in."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from ostinato.cells.base import Cell, Made
from ostinato.cells.registry import register


@register(
    "lstm_coupled",
    paper="Greff et al. (2017), LSTM: a search space odyssey",
    aliases=("coupled_lstm", "cifg"),
)
class CoupledLSTM(Cell):
    r"""LSTM with coupled input and forget gate (CIFG): what comes in replaces what goes.

    .. math::
        i, g, o &= W_{ih} x + b_{ih} + W_{hh} h + b_{hh} \\
        c' &= (1 - \sigma(i)) \odot c + \sigma(i) \odot \tanh(g) \\
        h' &= \sigma(o) \odot \tanh(c')

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are ``bias_ih`` and ``bias_hh``.
        made: ``device`` and ``dtype`` of the parameters.

    Parameters: ``weight_ih`` (3H, I), ``weight_hh`` (3H, H), ``bias_ih`` and ``bias_hh`` (3H,).

    Call: ``x`` (B, I), ``(h, c)`` each (B, H) -> ``(h', c')``.

    Raises:
        InputError: a size below 1.

    Source: K. Greff, R. K. Srivastava, J. Koutník, B. R. Steunebrink and J. Schmidhuber (2017),
    LSTM: a search space odyssey, IEEE TNNLS 28(10), variant CIFG (``f = 1 - i``).

    Differences: the paper's variant keeps the peepholes of its vanilla LSTM; here are none.

    Example:
        >>> cell = CoupledLSTM(3, 5)
        >>> tuple(cell.weight_ih.shape)
        (15, 3)
    """

    GATES = ("i", "g", "o")

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, **made: Unpack[Made]
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        self.state_size = (hidden_size, hidden_size)
        H = hidden_size
        self._make(
            {
                "weight_ih": (3 * H, input_size),
                "weight_hh": (3 * H, H),
                "bias_ih": (3 * H,),
                "bias_hh": (3 * H,),
            },
            **made,
        )

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """One step, see the class."""
        h, c = state
        z = F.linear(x, self.weight_ih, self.bias_ih) + F.linear(h, self.weight_hh, self.bias_hh)
        i, g, o = z.chunk(3, -1)
        i = torch.sigmoid(i)
        c = (1 - i) * c + i * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, c
