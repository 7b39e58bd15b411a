"""LSTM whose output is projected to fewer features."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from ostinato.cells.base import Cell, Made, check_size
from ostinato.cells.registry import register


@register(
    "lstm_projected",
    paper="Sak, Senior and Beaufays (2014), Long short-term memory recurrent neural network "
    "architectures for large scale acoustic modeling",
    aliases=("projected_lstm", "lstmp"),
)
class ProjectedLSTM(Cell):
    r"""LSTM with a recurrent projection layer (LSTMP).

    .. math::
        i, f, g, o &= W_{ih} x + b_{ih} + W_{hh} r + b_{hh} \\
        c' &= \sigma(f) \odot c + \sigma(i) \odot \tanh(g) \\
        r' &= W_{hr} (\sigma(o) \odot \tanh(c'))

    The same as one layer of ``torch.nn.LSTM(..., proj_size=P)``, whose parameters it can load.

    Args:
        input_size: I.
        hidden_size: H, features of the cell state.
        bias: whether there are ``bias_ih`` and ``bias_hh``.
        proj_size: P, features of the output; ``None``: half of H, rounded up.
        made: ``device`` and ``dtype`` of the parameters.

    Parameters: ``weight_ih`` (4H, I), ``weight_hh`` (4H, P), ``bias_ih`` and ``bias_hh`` (4H,),
    ``weight_hr`` (P, H).

    Call: ``x`` (B, I), ``(r, c)`` of (B, P) and (B, H) -> ``(r', c')``.

    Raises:
        InputError: a size below 1.

    Source: H. Sak, A. Senior and F. Beaufays (2014), Long short-term memory recurrent neural
    network architectures for large scale acoustic modeling, Interspeech, section 2.2.

    Differences: the paper has peepholes and, optionally, a second projection that isn't fed back.

    Example:
        >>> cell = ProjectedLSTM(3, 5, proj_size=2)
        >>> r, c = cell(torch.zeros(4, 3), (torch.zeros(4, 2), torch.zeros(4, 5)))
        >>> tuple(r.shape), tuple(c.shape)
        ((4, 2), (4, 5))
    """

    GATES = ("i", "f", "g", "o")

    weight_hr: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        proj_size: int | None = None,
        **made: Unpack[Made],
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        P = (hidden_size + 1) // 2 if proj_size is None else proj_size
        self.proj_size = check_size("proj_size", P)
        self.state_size = (P, hidden_size)
        H = hidden_size
        self._make(
            {
                "weight_ih": (4 * H, input_size),
                "weight_hh": (4 * H, P),
                "bias_ih": (4 * H,),
                "bias_hh": (4 * H,),
                "weight_hr": (P, H),
            },
            **made,
        )

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """One step, see the class."""
        r, c = state
        z = F.linear(x, self.weight_ih, self.bias_ih) + F.linear(r, self.weight_hh, self.bias_hh)
        i, f, g, o = z.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        r = F.linear(torch.sigmoid(o) * torch.tanh(c), self.weight_hr)
        return r, c

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{super().extra_repr()}, proj_size={self.proj_size}"
