"""The light gated recurrent unit, for speech."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.cells.base import Cell, Made
from ostinato.cells.registry import register


@register(
    "ligru",
    paper="Ravanelli, Brakel, Omologo and Bengio (2018), Light gated recurrent units for speech "
    "recognition",
    aliases=("light_gru",),
)
class LiGRU(Cell):
    r"""Light gated recurrent unit: no reset gate, ReLU, normalised input.

    .. math::
        z, n &= \mathrm{LN}(W_{ih} x; \gamma, b) + W_{hh} h \\
        h' &= \sigma(z) \odot h + (1 - \sigma(z)) \odot \mathrm{relu}(n)

    with :math:`\mathrm{LN}(a; \gamma, b) = \gamma \odot (a - \mu) / \sqrt{s + \epsilon} + b`,
    :math:`\mu` and :math:`s` the mean and (biased) variance of the 2H features of ``a``.

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there is ``bias_ih``, the normalisation's shift.
        eps: :math:`\epsilon`.
        made: ``device`` and ``dtype`` of the parameters.

    Parameters: ``weight_ih`` (2H, I), ``weight_hh`` (2H, H), ``gain_ih`` and ``bias_ih`` (2H,).
    As in the paper ``weight_ih`` is drawn as Glorot's and each gate's ``weight_hh`` orthogonal;
    the gain starts at 1, the shift at 0.

    Call: ``x`` (B, I), ``h`` (B, H) -> ``h'`` (B, H).

    Raises:
        InputError: a size below 1.

    Source: M. Ravanelli, P. Brakel, M. Omologo and Y. Bengio (2018), Light gated recurrent units
    for speech recognition, IEEE Transactions on Emerging Topics in Computational Intelligence 2(2).

    Differences: the paper normalises each feature over the batch and the steps (batch
    normalisation, with running averages at test time). That mixes the rows of a batch, so it is no
    row-wise step: a row's result would depend on the others', on padding, and on training or not.
    Here the features of one row at one step are normalised (layer normalisation): the same in
    training and test, but with other statistics, so that weights trained with the paper's form
    can't be carried over.

    Example:
        >>> cell = LiGRU(3, 5)
        >>> tuple(cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape)
        (2, 5)
    """

    GATES = ("z", "n")

    gain_ih: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        eps: float = 1e-5,
        **made: Unpack[Made],
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        self.eps = eps
        H = hidden_size
        self._make(
            {
                "weight_ih": (2 * H, input_size),
                "weight_hh": (2 * H, H),
                "bias_ih": (2 * H,),
                "gain_ih": (2 * H,),
            },
            **made,
        )

    def reset_parameters(self) -> None:
        """Draw the weights anew: Glorot uniform and, gate by gate, orthogonal."""
        nn.init.ones_(self.gain_ih)
        if self.bias_ih is not None:
            nn.init.zeros_(self.bias_ih)
        with torch.no_grad():
            for W, U in zip(self.weight_ih.chunk(2), self.weight_hh.chunk(2), strict=True):
                nn.init.xavier_uniform_(W)
                nn.init.orthogonal_(U)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """One step, see the class."""
        a = F.linear(x, self.weight_ih)
        a = F.layer_norm(a, a.shape[-1:], self.gain_ih, self.bias_ih, self.eps)
        z, n = (a + F.linear(h, self.weight_hh)).chunk(2, -1)
        z = torch.sigmoid(z)
        return z * h + (1 - z) * torch.relu(n)
