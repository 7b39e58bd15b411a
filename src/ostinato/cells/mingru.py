"""The minimal GRU: gates that don't see the state."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from ostinato.cells.base import Cell, Made
from ostinato.cells.registry import register


@register(
    "mingru",
    paper="Feng, Tung, Ahmed, Bengio and Hajimirsadeghi (2024), Were RNNs all we needed?",
    aliases=("min_gru",),
)
class MinGRU(Cell):
    r"""Minimal GRU: the gate and the candidate depend on the input alone.

    .. math::
        z, n &= W_{ih} x + b_{ih} \\
        h' &= (1 - \sigma(z)) \odot h + \sigma(z) \odot n

    The new state is affine in the old one, elementwise, so that time could be scanned in parallel.
    As in the paper, ``z`` near 1 takes the new value (torch's GRU keeps the old one). Not to be
    confused with :class:`MGU`.

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there is ``bias_ih``.
        made: ``device`` and ``dtype`` of the parameters.

    Parameters: ``weight_ih`` (2H, I), ``bias_ih`` (2H,).

    Call: ``x`` (B, I), ``h`` (B, H) -> ``h'`` (B, H).

    Raises:
        InputError: a size below 1.

    Source: L. Feng, F. Tung, M. O. Ahmed, Y. Bengio and H. Hajimirsadeghi (2024), Were RNNs all we
    needed?, arXiv:2410.01201, section 3.1.

    Differences: this is the paper's plain form; its form in log space, which keeps the candidate
    positive, is another function.

    Example:
        >>> cell = MinGRU(3, 5)
        >>> tuple(cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape)
        (2, 5)
    """

    GATES = ("z", "n")

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, **made: Unpack[Made]
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        H = hidden_size
        self._make(
            {
                "weight_ih": (2 * H, input_size),
                "bias_ih": (2 * H,),
            },
            **made,
        )

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """One step, see the class."""
        z, n = F.linear(x, self.weight_ih, self.bias_ih).chunk(2, -1)
        z = torch.sigmoid(z)
        return (1 - z) * h + z * n
