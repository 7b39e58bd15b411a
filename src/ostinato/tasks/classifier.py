"""The model of classification: encoder, pooling over time, one linear map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ostinato.train import RowDropout

if TYPE_CHECKING:
    from ostinato.tasks.encoder import Encoder


class Classifier(nn.Module):
    """Encoder, pooling over time, one linear map to the labels.

    Args:
        encoder: sequences to sequences of vectors.
        labels: how many.
        pool: ``"last"`` takes the output of the row's last step (reading backwards: its first),
            ``"mean"`` and ``"max"`` take it over the row's valid steps, ``"mean+max"`` takes both.
        dropout: share of the pooled features that are dropped in training.

    Call: ``model(x, lengths, *, batch_rows=None, share=None) -> (B, labels)``, arguments as for
    :class:`~ostinato.tasks.encoder.Encoder`; every row has a step.
    """

    def __init__(self, encoder: Encoder, labels: int, pool: str, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.pool = pool
        self.dropout = RowDropout(dropout)
        self.head = nn.Linear(encoder.width * len(pool.split("+")), labels)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor,
        *,
        batch_rows: int | None = None,
        share: Tensor | None = None,
    ) -> Tensor:
        """See the class."""
        y, _ = self.encoder(x, lengths, batch_rows=batch_rows, share=share)
        pooled = torch.cat([self._pooled(y, lengths, how) for how in self.pool.split("+")], -1)
        logits: Tensor = self.head(self.dropout(pooled[None], batch_rows, share)[0])
        return logits

    def _pooled(self, y: Tensor, lengths: Tensor, how: str) -> Tensor:
        if how == "mean":
            return y.sum(0) / lengths[:, None]  # y is zero past a row's length
        if how == "max":
            past = torch.arange(len(y), device=y.device)[:, None] >= lengths
            return y.masked_fill(past[..., None], -torch.inf).max(0).values
        last = y[lengths - 1, torch.arange(len(lengths), device=y.device)]
        if not self.encoder.bidirectional:
            return last
        half = y.shape[-1] // 2
        return torch.cat([last[:, :half], y[0, :, half:]], -1)
