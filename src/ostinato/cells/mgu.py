"""The minimal gated unit: one gate."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from ostinato.cells.base import Cell, Made
from ostinato.cells.registry import register


@register(
    "mgu",
    paper="Zhou, Wu, Zhang and Zhou (2016), Minimal gated unit for recurrent neural networks",
    aliases=("minimal_gated_unit",),
)
class MGU(Cell):
    r"""Minimal gated unit: a GRU whose reset and update gate are the same.

    .. math::
        f &= \sigma(W_{if} x + b_{if} + W_{hf} h + b_{hf}) \\
        n &= \tanh(W_{in} x + b_{in} + W_{hn} (f \odot h) + b_{hn}) \\
        h' &= (1 - f) \odot h + f \odot n

    Not to be confused with :class:`MinGRU`. As in the paper, ``f`` near 1 takes the new value.

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are ``bias_ih`` and ``bias_hh``.
        made: ``device`` and ``dtype`` of the parameters.

    Parameters: ``weight_ih`` (2H, I), ``weight_hh`` (2H, H), ``bias_ih`` and ``bias_hh`` (2H,).

    Call: ``x`` (B, I), ``h`` (B, H) -> ``h'`` (B, H).

    Raises:
        InputError: a size below 1.

    Source: G.-B. Zhou, J. Wu, C.-L. Zhang and Z.-H. Zhou (2016), Minimal gated unit for recurrent
    neural networks, International Journal of Automation and Computing 13(3), the three equations
    that define MGU.

    Differences: two biases, of which the sum counts, as in torch's cells.

    Example:
        >>> cell = MGU(3, 5)
        >>> tuple(cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape)
        (2, 5)
    """

    GATES = ("f", "n")

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, **made: Unpack[Made]
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        H = hidden_size
        self._make(
            {
                "weight_ih": (2 * H, input_size),
                "weight_hh": (2 * H, H),
                "bias_ih": (2 * H,),
                "bias_hh": (2 * H,),
            },
            **made,
        )

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """One step, see the class."""
        W_f, W_n = self.weight_hh.chunk(2)
        b_f, b_n = (None, None) if self.bias_hh is None else self.bias_hh.chunk(2)
        x_f, x_n = F.linear(x, self.weight_ih, self.bias_ih).chunk(2, -1)
        f = torch.sigmoid(x_f + F.linear(h, W_f, b_f))
        n = torch.tanh(x_n + F.linear(f * h, W_n, b_n))
        return (1 - f) * h + f * n
