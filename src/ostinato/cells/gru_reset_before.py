"""The gated recurrent unit as published: it resets the state before the product."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from ostinato.cells.base import Cell, Made
from ostinato.cells.registry import register


@register(
    "gru_reset_before",
    paper="Cho et al. (2014), Learning phrase representations using RNN encoder-decoder for "
    "statistical machine translation",
    aliases=("reset_before_gru", "gru_cho"),
)
class ResetBeforeGRU(Cell):
    r"""Gated recurrent unit, the state reset before its product.

    .. math::
        r &= \sigma(W_{ir} x + b_{ir} + W_{hr} h + b_{hr}) \\
        z &= \sigma(W_{iz} x + b_{iz} + W_{hz} h + b_{hz}) \\
        n &= \tanh(W_{in} x + b_{in} + W_{hn} (r \odot h) + b_{hn}) \\
        h' &= (1 - z) \odot n + z \odot h

    Two products with the state in sequence in one step. Not to be confused with :class:`GRU`
    (torch's, cuDNN's, Keras's ``reset_after=True``); parameters have the same names and shapes.

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
    translation, EMNLP, equations (5)-(8).

    Differences: the paper leaves the biases out; here are torch's two, whose sum counts.

    Example:
        >>> cell = ResetBeforeGRU(3, 5)
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
        sizes = [2 * self.hidden_size, self.hidden_size]
        W_rz, W_n = torch.split(self.weight_hh, sizes)
        b_rz, b_n = (None, None) if self.bias_hh is None else torch.split(self.bias_hh, sizes)
        x_rz, x_n = torch.split(F.linear(x, self.weight_ih, self.bias_ih), sizes, -1)
        r, z = torch.sigmoid(x_rz + F.linear(h, W_rz, b_rz)).chunk(2, -1)
        n = torch.tanh(x_n + F.linear(r * h, W_n, b_n))
        return (1 - z) * n + z * h
