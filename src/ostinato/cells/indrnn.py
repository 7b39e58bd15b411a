"""The independently recurrent network: each unit sees its own past alone."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.cells.base import Cell, Made
from ostinato.cells.registry import register


@register(
    "indrnn",
    paper="Li, Li, Cook, Zhu and Gao (2018), Independently recurrent neural network (IndRNN): "
    "building a longer and deeper RNN",
)
class IndRNN(Cell):
    r"""Independently recurrent network: the recurrence is elementwise.

    .. math:: h' = \mathrm{relu}(W_{ih} x + u \odot h + b)

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there is ``bias_ih``.
        made: ``device`` and ``dtype`` of the parameters.

    Parameters: ``weight_ih`` (H, I), ``weight_hh`` (H,), which is ``u``, ``bias_ih`` (H,).
    ``weight_ih`` and ``bias_ih`` are drawn as torch's, ``u`` uniform between 0 and 1.

    Call: ``x`` (B, I), ``h`` (B, H) -> ``h'`` (B, H).

    Raises:
        InputError: a size below 1.

    Source: S. Li, W. Li, C. Cook, C. Zhu and Y. Gao (2018), Independently recurrent neural network
    (IndRNN): building a longer and deeper RNN, CVPR, equation (2).

    Differences: the paper keeps ``|u|`` below ``2 ** (1 / T)`` while training on T steps; a cell
    doesn't know T, so clip ``weight_hh`` after the optimiser's step if you want the bound. For the
    same reason ``u`` starts below 1, inside the bound for every T.

    Example:
        >>> cell = IndRNN(3, 5)
        >>> tuple(cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape)
        (2, 5)
    """

    GATES = ("h",)

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, **made: Unpack[Made]
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        H = hidden_size
        self._make(
            {
                "weight_ih": (H, input_size),
                "weight_hh": (H,),
                "bias_ih": (H,),
            },
            **made,
        )

    def reset_parameters(self) -> None:
        """Draw all parameters anew, see the class."""
        super().reset_parameters()
        nn.init.uniform_(self.weight_hh, 0.0, 1.0)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """One step, see the class."""
        return torch.relu(F.linear(x, self.weight_ih, self.bias_ih) + self.weight_hh * h)
