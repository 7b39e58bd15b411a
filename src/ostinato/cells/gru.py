"""The gated recurrent unit that resets after its product with the state."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from ostinato.cells.base import Cell, Made
from ostinato.cells.registry import register


@register(
    "gru",
    paper="Cho et al. (2014), Learning phrase representations using RNN encoder-decoder for "
    "statistical machine translation (arXiv v1; cuDNN's form)",
    aliases=("gru_reset_after",),
)
class GRU(Cell):
    r"""Gated recurrent unit, reset after the product with the state: cuDNN's and torch's.

    .. math::
        r &= \sigma(W_{ir} x + b_{ir} + W_{hr} h + b_{hr}) \\
        z &= \sigma(W_{iz} x + b_{iz} + W_{hz} h + b_{hz}) \\
        n &= \tanh(W_{in} x + b_{in} + r \odot (W_{hn} h + b_{hn})) \\
        h' &= (1 - z) \odot n + z \odot h

    The same as ``torch.nn.GRUCell``, whose parameters it can load. Not to be confused with
    :class:`ResetBeforeGRU`, the published form, whose results differ with the same parameters.

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are ``bias_ih`` and ``bias_hh``.
        made: ``device`` and ``dtype`` of the parameters.

    Parameters: ``weight_ih`` (3H, I), ``weight_hh`` (3H, H), ``bias_ih`` and ``bias_hh`` (3H,).

    Call: ``x`` (B, I), ``h`` (B, H) -> ``h'`` (B, H).

    Raises:
        InputError: a size below 1.

    Source: K. Cho, B. van Merriënboer, C. Gulcehre, D. Bahdanau, F. Bougares, H. Schwenk and Y.
    Bengio (2014), Learning phrase representations using RNN encoder-decoder for statistical machine
    translation, EMNLP; the place of the reset is that of arXiv:1406.1078v1 and of cuDNN.

    Differences: two biases are torch's; the one inside the reset is needed for this form.

    Example:
        >>> cell = GRU(3, 5)
        >>> tuple(cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape)
        (2, 5)
    """

    GATES = ("r", "z", "n")

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, **made: Unpack[Made]
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
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

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """One step, see the class."""
        xr, xz, xn = F.linear(x, self.weight_ih, self.bias_ih).chunk(3, -1)
        hr, hz, hn = F.linear(h, self.weight_hh, self.bias_hh).chunk(3, -1)
        r = torch.sigmoid(xr + hr)
        z = torch.sigmoid(xz + hz)
        n = torch.tanh(xn + r * hn)
        return (1 - z) * n + z * h
