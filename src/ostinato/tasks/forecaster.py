"""The model of forecasting: a recurrent network beside a linear autoregression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ostinato.tasks.baselines import ridge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ostinato.tasks.encoder import Encoder

#: Added to a window's standard deviation, in units of the training part's, so that a window in
#: which nothing happens isn't blown up.
FLOOR = 0.2
#: Ridge penalty that the linear part begins with, in units of a window's variance.
PENALTY = 10.0


class Forecaster(nn.Module):
    r"""The past window, standardised by itself, to all steps of the horizon at once.

    .. math::
        x &= (past - \mu) / s, \quad s = \sigma + 0.2 \\
        future &= \mu + s \, (W_o\, h_T(x) + A x + a)

    with the window's own mean :math:`\mu` and standard deviation :math:`\sigma`, for each series;
    :math:`h_T` the recurrent layers' last output (reading backwards: that of the first step);
    :math:`A` a linear autoregression of each series on its own past, with other weights for each
    series and step ahead.

    Args:
        encoder: sequences to sequences of vectors, of ``channels`` numbers a step.
        channels: C series.
        window: T steps of the past.
        horizon: H steps ahead.
        linear: whether there is the linear part; without it A and a are zero.

    Call: ``model(past, *, batch_rows=None, share=None)``, ``past`` ``(T, B, C)`` in units of the
    training part (its mean 0, its standard deviation 1); gives ``(B, H, C)`` in the same units.

    Source: the linear part beside the recurrent one: G. Lai et al. (2018), Modeling long- and
    short-term temporal patterns with deep neural networks, SIGIR (LSTNet). The window's own
    standardisation: T. Kim et al. (2022), Reversible instance normalization, ICLR.

    Differences: LSTNet has convolutions and one step ahead; its linear part is shared by the
    series. Reversible instance normalisation has a learnt scale and shift, and no floor.
    """

    def __init__(
        self, encoder: Encoder, channels: int, window: int, horizon: int, *, linear: bool
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.horizon = horizon
        self.head = nn.Linear(encoder.width, horizon * channels)
        self.weight = nn.Parameter(torch.zeros(channels, window, horizon)) if linear else None
        self.bias = nn.Parameter(torch.zeros(channels, horizon)) if linear else None

    def forward(
        self, past: Tensor, *, batch_rows: int | None = None, share: Tensor | None = None
    ) -> Tensor:
        """See the class."""
        mean, deviation = window_scale(past)
        x = (past - mean) / deviation
        y, _ = self.encoder(x, batch_rows=batch_rows, share=share)
        last: Tensor = y[-1]
        if self.encoder.bidirectional:
            half = y.shape[-1] // 2
            last = torch.cat([last[:, :half], y[0, :, half:]], -1)
        ahead: Tensor = self.head(last).view(len(last), self.horizon, -1)
        if self.weight is not None and self.bias is not None:
            ahead = ahead + torch.einsum("tbc,cth->bhc", x, self.weight) + self.bias.T
        return mean[0, :, None] + deviation[0, :, None] * ahead


def window_scale(past: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and standard deviation plus a floor, of each window ``(T, B, C)``: ``(1, B, C)``."""
    return past.mean(0, keepdim=True), past.std(0, keepdim=True, correction=0) + FLOOR


def linear_part(
    inputs: Sequence[NDArray[np.float32]], targets: NDArray[np.float32]
) -> tuple[Tensor, Tensor]:
    """What the linear part begins with: ridge regressions of the targets on their windows.

    Args:
        inputs: M pasts ``(window, C)``.
        targets: ``(M, horizon, C)``; NaN where one is missing.

    Returns:
        A ``(C, window, horizon)`` and a ``(C, horizon)``, float64.
    """
    past = torch.from_numpy(np.stack(inputs, axis=1))
    mean, deviation = window_scale(past)
    x = ((past - mean) / deviation).double().numpy()
    y = ((torch.from_numpy(targets) - mean[0, :, None]) / deviation[0, :, None]).double().numpy()
    fitted = [ridge(x[..., c].T, y[..., c], PENALTY) for c in range(x.shape[2])]
    weights, biases = zip(*fitted, strict=True)
    return torch.from_numpy(np.stack(weights)), torch.from_numpy(np.stack(biases))
