"""Dropout with one mask for all steps of a row."""

from __future__ import annotations

from torch import Tensor, nn

from ostinato.errors import InputError


class RowDropout(nn.Module):
    r"""Variational dropout: a row of the batch loses the same features at every step.

    .. math:: y_t = x_t \odot m / (1 - p), \qquad m \sim \mathrm{Bernoulli}(1 - p)

    with one :math:`m` per row and feature, and none of it in evaluation. The masks are drawn for
    the whole global batch from PyTorch's random numbers, and this process takes those of its own
    rows: processes that start from the same seed train as one process does, however many there are.

    Args:
        p: the probability that a feature is dropped, ``0 <= p < 1``.

    Call: ``x`` (T, B, n); ``batch_rows``, rows of the global batch, and ``share``, ``(B,)`` int64,
    which of them these are; without the two, ``x`` is the whole batch. Gives (T, B, n).

    Raises:
        InputError: ``p`` outside its range, ``x`` of another rank, ``batch_rows`` or ``share``
            that don't fit.

    Source: Y. Gal and Z. Ghahramani (2016), A theoretically grounded application of dropout in
    recurrent neural networks, NIPS, section 4.

    Differences: the paper has a mask on the recurrent connection as well, inside the cell; this is
    the one between layers.

    Example:
        >>> import torch
        >>> dropout = RowDropout(0.5)
        >>> y = dropout(torch.ones(7, 2, 4))
        >>> bool((y == y[0]).all())
        True
        >>> torch.equal(dropout.eval()(torch.ones(7, 2, 4)), torch.ones(7, 2, 4))
        True
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p < 1:
            raise InputError(f"p must be a probability, 0 <= p < 1, got {p!r}")
        self.p = float(p)

    def forward(
        self, x: Tensor, batch_rows: int | None = None, share: Tensor | None = None
    ) -> Tensor:
        """See the class."""
        if x.dim() != 3:
            raise InputError(f"x must be (T, B, n), got {tuple(x.shape)}")
        rows = x.shape[1]
        if share is None and batch_rows is not None and batch_rows != rows:
            raise InputError(
                f"batch_rows = {batch_rows} but x has {rows} rows: pass share=..., which of the "
                "global batch's rows these are"
            )
        if share is not None and (share.shape != (rows,) or batch_rows is None):
            raise InputError(
                f"share must be (B,) = ({rows},) and come with batch_rows, the rows of the global "
                f"batch; got share {tuple(share.shape)}, batch_rows {batch_rows}"
            )
        if not self.training or self.p == 0.0:
            return x
        count = rows if batch_rows is None else batch_rows
        mask = x.new_empty((count, x.shape[2])).bernoulli_(1.0 - self.p).div_(1.0 - self.p)
        if share is not None:
            mask = mask.index_select(0, share.to(mask.device))
        return x * mask

    def extra_repr(self) -> str:
        """The probability."""
        return f"p={self.p:g}"
