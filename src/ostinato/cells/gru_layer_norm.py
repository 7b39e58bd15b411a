"""Gated recurrent unit with layer normalisation."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.cells.base import Cell, Made
from ostinato.cells.registry import register


@register(
    "gru_layer_norm",
    paper="Ba, Kiros and Hinton (2016), Layer normalization",
    aliases=("layer_norm_gru",),
)
class LayerNormGRU(Cell):
    r"""Gated recurrent unit with layer normalisation of its summed inputs.

    .. math::
        r, z &= \sigma(\mathrm{LN}(W_{i,rz} x; \gamma_{i,rz}, b_{i,rz})
                     + \mathrm{LN}(W_{h,rz} h; \gamma_{h,rz}, b_{h,rz})) \\
        n &= \tanh(\mathrm{LN}(W_{in} x; \gamma_{in}, b_{in})
                 + r \odot \mathrm{LN}(W_{hn} h; \gamma_{hn}, b_{hn})) \\
        h' &= (1 - z) \odot n + z \odot h

    with :math:`\mathrm{LN}(a; \gamma, b) = \gamma \odot (a - \mu) / \sqrt{s + \epsilon} + b`,
    :math:`\mu` and :math:`s` the mean and (biased) variance of the features of ``a``: 2H for r and
    z together, H for n.

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are ``bias_ih`` and ``bias_hh``.
        eps: :math:`\epsilon`.
        made: ``device`` and ``dtype`` of the parameters.

    Parameters: ``weight_ih`` (3H, I), ``weight_hh`` (3H, H), ``gain_ih``, ``gain_hh``,
    ``bias_ih``, ``bias_hh`` (3H,). Gains start at 1, biases at 0.

    Call: ``x`` (B, I), ``h`` (B, H) -> ``h'`` (B, H).

    Raises:
        InputError: a size below 1.

    Source: J. L. Ba, J. R. Kiros and G. E. Hinton (2016), Layer normalization, arXiv:1607.06450,
    the GRU in the supplement.

    Differences: ``z`` keeps the old state as torch's does, in the paper it takes the new one; rows
    are in torch's order r, z, n.

    Example:
        >>> cell = LayerNormGRU(3, 5)
        >>> tuple(cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape)
        (2, 5)
    """

    GATES = ("r", "z", "n")

    gain_ih: Tensor
    gain_hh: Tensor

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
                "weight_ih": (3 * H, input_size),
                "weight_hh": (3 * H, H),
                "bias_ih": (3 * H,),
                "bias_hh": (3 * H,),
                "gain_ih": (3 * H,),
                "gain_hh": (3 * H,),
            },
            **made,
        )

    def reset_parameters(self) -> None:
        """Draw the weights anew as torch does; gains become 1, biases 0."""
        super().reset_parameters()
        for name, parameter in self.named_parameters():
            if name.startswith(("gain", "bias")):
                nn.init.constant_(parameter, float(name.startswith("gain")))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """One step, see the class."""
        x_rz, x_n = self._norms(F.linear(x, self.weight_ih), self.gain_ih, self.bias_ih)
        h_rz, h_n = self._norms(F.linear(h, self.weight_hh), self.gain_hh, self.bias_hh)
        r, z = torch.sigmoid(x_rz + h_rz).chunk(2, -1)
        n = torch.tanh(x_n + r * h_n)
        return (1 - z) * n + z * h

    def _norms(self, a: Tensor, gain: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """LN of the rows of r and z together, and of those of n."""
        sizes = [2 * self.hidden_size, self.hidden_size]
        biases = (None, None) if bias is None else torch.split(bias, sizes)
        parts = zip(torch.split(a, sizes, -1), torch.split(gain, sizes), biases, strict=True)
        rz, n = (F.layer_norm(part, part.shape[-1:], g, b, self.eps) for part, g, b in parts)
        return rz, n
