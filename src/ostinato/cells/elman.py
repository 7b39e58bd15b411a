"""The simple recurrent network of Elman."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from ostinato.cells.base import Cell, Made
from ostinato.cells.registry import register
from ostinato.errors import InputError

_NONLINEARITIES = {"tanh": torch.tanh, "relu": torch.relu}


@register(
    "elman",
    paper="Elman (1990), Finding structure in time",
    aliases=("rnn", "simple_rnn", "srn"),
    variants=({"nonlinearity": "tanh"}, {"nonlinearity": "relu"}),
)
class Elman(Cell):
    r"""Elman's simple recurrent network.

    .. math:: h' = \phi(W_{ih} x + b_{ih} + W_{hh} h + b_{hh})

    with :math:`\phi` ``tanh`` or ``relu``. The same as ``torch.nn.RNNCell``, whose parameters it
    can load.

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are ``bias_ih`` and ``bias_hh``.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        made: ``device`` and ``dtype`` of the parameters.

    Parameters: ``weight_ih`` (H, I), ``weight_hh`` (H, H), ``bias_ih`` and ``bias_hh`` (H,).

    Call: ``x`` (B, I), ``h`` (B, H) -> ``h'`` (B, H).

    Raises:
        InputError: a size below 1 or another nonlinearity.

    Source: J. L. Elman (1990), Finding structure in time, Cognitive Science 14(2).

    Differences: the paper's units are logistic; tanh and two biases are torch's.

    Example:
        >>> cell = Elman(3, 5)
        >>> tuple(cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape)
        (2, 5)
    """

    GATES = ("h",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        nonlinearity: str = "tanh",
        **made: Unpack[Made],
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        if nonlinearity not in _NONLINEARITIES:
            raise InputError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        H = hidden_size
        self._make(
            {
                "weight_ih": (H, input_size),
                "weight_hh": (H, H),
                "bias_ih": (H,),
                "bias_hh": (H,),
            },
            **made,
        )

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """One step, see the class."""
        phi = _NONLINEARITIES[self.nonlinearity]
        return phi(
            F.linear(x, self.weight_ih, self.bias_ih) + F.linear(h, self.weight_hh, self.bias_hh)
        )

    def extra_repr(self) -> str:
        """Sizes and nonlinearity."""
        return f"{super().extra_repr()}, nonlinearity={self.nonlinearity!r}"
