"""LSTM with layer normalisation."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.cells.base import Cell, Made
from ostinato.cells.registry import register


@register(
    "lstm_layer_norm",
    paper="Ba, Kiros and Hinton (2016), Layer normalization",
    aliases=("layer_norm_lstm",),
)
class LayerNormLSTM(Cell):
    r"""LSTM with layer normalisation of its summed inputs and of its cell state.

    .. math::
        i, f, g, o &= \mathrm{LN}(W_{ih} x; \gamma_{ih}, b_{ih})
                    + \mathrm{LN}(W_{hh} h; \gamma_{hh}, b_{hh}) \\
        c' &= \sigma(f) \odot c + \sigma(i) \odot \tanh(g) \\
        h' &= \sigma(o) \odot \tanh(\mathrm{LN}(c'; \gamma_c, b_c))

    with :math:`\mathrm{LN}(z; \gamma, b) = \gamma \odot (z - \mu) / \sqrt{s + \epsilon} + b`,
    :math:`\mu` and :math:`s` the mean and (biased) variance of the features of ``z``: for the two
    linear maps over all 4H of them at once. The cell state that is carried on is not normalised.

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are ``bias_ih``, ``bias_hh`` and ``bias_c``.
        eps: :math:`\epsilon`.
        made: ``device`` and ``dtype`` of the parameters.

    Parameters: ``weight_ih`` (4H, I), ``weight_hh`` (4H, H), ``gain_ih``, ``gain_hh``,
    ``bias_ih``, ``bias_hh`` (4H,), ``gain_c``, ``bias_c`` (H,). Gains start at 1, biases at 0.

    Call: ``x`` (B, I), ``(h, c)`` each (B, H) -> ``(h', c')``.

    Raises:
        InputError: a size below 1.

    Source: J. L. Ba, J. R. Kiros and G. E. Hinton (2016), Layer normalization, arXiv:1607.06450,
    equations (20)-(22) in the supplement.

    Differences: the gate order is torch's (the paper's is f, i, o, g); the paper's third bias
    next to the two of the normalisations adds nothing and is left out.

    Example:
        >>> cell = LayerNormLSTM(3, 5)
        >>> h, c = cell(torch.zeros(2, 3), (torch.zeros(2, 5), torch.zeros(2, 5)))
        >>> tuple(h.shape)
        (2, 5)
    """

    GATES = ("i", "f", "g", "o")

    gain_ih: Tensor
    gain_hh: Tensor
    gain_c: Tensor
    bias_c: Tensor | None

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
        self.state_size = (hidden_size, hidden_size)
        H = hidden_size
        self._make(
            {
                "weight_ih": (4 * H, input_size),
                "weight_hh": (4 * H, H),
                "bias_ih": (4 * H,),
                "bias_hh": (4 * H,),
                "gain_ih": (4 * H,),
                "gain_hh": (4 * H,),
                "gain_c": (H,),
                "bias_c": (H,),
            },
            **made,
        )

    def reset_parameters(self) -> None:
        """Draw the weights anew as torch does; gains become 1, biases 0."""
        super().reset_parameters()
        for name, parameter in self.named_parameters():
            if name.startswith(("gain", "bias")):
                nn.init.constant_(parameter, float(name.startswith("gain")))

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """One step, see the class."""
        h, c = state
        z = self._norm(F.linear(x, self.weight_ih), self.gain_ih, self.bias_ih) + self._norm(
            F.linear(h, self.weight_hh), self.gain_hh, self.bias_hh
        )
        i, f, g, o = z.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(self._norm(c, self.gain_c, self.bias_c))
        return h, c

    def _norm(self, z: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
        return F.layer_norm(z, z.shape[-1:], gain, bias, self.eps)
