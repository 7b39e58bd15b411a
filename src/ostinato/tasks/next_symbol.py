"""The model of the next character or word, its loss, and how well it foretells a text."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.data.streams import release
from ostinato.tasks.encoder import Encoder
from ostinato.train import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ostinato.data import Batch

#: A text is foretold in about so many stretches side by side, ...
STRETCHES = 64
#: ... none of them shorter than this (but for a document's end), ...
SHORTEST = 2_000
#: ... so many steps at a time.
_WINDOW = 256
#: Windows after which the memory of mapped tokens is given back.
_RELEASED = 64


class NextSymbol(nn.Module):
    """Symbols so far to the logits of the next: embedding, recurrent layers, head.

    Where ``embedding`` is as wide as the recurrent layers' output, the head is tied: its weights
    are the embedding's (O. Press and L. Wolf (2017), Using the output embedding to improve language
    models, EACL).

    Args:
        symbols: V, how many symbols there are.
        embedding, cell, hidden, layers, dropout: see :class:`~ostinato.tasks.encoder.Encoder`.

    Call: ``model(x, state=None, *, lengths=None, batch_rows=None, share=None)``: ``x`` ``(T, B)``
    int64; gives logits ``(T, B, V)`` and the state after the last step, which goes in again to go
    on: a tuple with one entry per layer.

    >>> model = NextSymbol(9, embedding=4, cell="gru", hidden=8)
    >>> logits, state = model(torch.zeros(5, 2, dtype=torch.int64))
    >>> tuple(logits.shape), len(state)
    ((5, 2, 9), 1)
    """

    def __init__(
        self,
        symbols: int,
        *,
        embedding: int,
        cell: str,
        hidden: int,
        layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(
            symbols=symbols,
            embedding=embedding,
            cell=cell,
            hidden=hidden,
            layers=layers,
            dropout=dropout,
        )
        self.tied = embedding == self.encoder.width
        self.head: nn.Linear | None = None
        if self.tied:
            self.bias = nn.Parameter(torch.zeros(symbols))
            # As a head's weights: with an embedding's own scale, the first logits would be huge.
            nn.init.normal_(self._table(), std=embedding**-0.5)
        else:
            self.head = nn.Linear(self.encoder.width, symbols)

    def _table(self) -> Tensor:
        weight = self.encoder.embed.weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(
        self,
        x: Tensor,
        state: Sequence[Any] | None = None,
        *,
        lengths: Tensor | None = None,
        batch_rows: int | None = None,
        share: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """See the class."""
        y, final = self.encoder(x, lengths, state, batch_rows=batch_rows, share=share)
        logits = F.linear(y, self._table(), self.bias) if self.head is None else self.head(y)
        return logits, tuple(final)

    def extra_repr(self) -> str:
        """Whether the head is tied."""
        return "tied=True" if self.tied else ""


def next_symbol_loss(model: nn.Module, batch: Batch, carry: Any) -> Outcome:
    """Cross entropy of a window's targets in nats; the state goes on to the next window."""
    batch = batch.to(next(model.parameters()).device)
    assert batch.target is not None
    state = None if batch.fresh else carry
    logits, final = model(batch.x, state, batch_rows=batch.batch_rows, share=batch.share)
    loss = F.cross_entropy(logits.flatten(0, 1), batch.target.flatten())
    return Outcome(loss, batch.terms, batch.all_terms, batch.steps, final)


@dataclass(frozen=True)
class Stretch:
    """Tokens ``start`` to ``stop`` to be foretold, each from those before it since ``begin``."""

    document: int
    begin: int
    start: int
    stop: int


def stretches(spans: Sequence[tuple[int, int]], parts: int = STRETCHES) -> list[Stretch]:
    """Cut documents, each ``(first, end)``, into about ``parts`` stretches, longest first.

    ``parts`` 0: each document is one.

    A document's first token is foretold from nothing that the model knows, so it isn't counted. A
    stretch in the middle begins with the token before it and no state: over thousands of tokens
    the few that are foretold from little weigh next to nothing, and not in the model's favour.
    """
    total = sum(max(end - first - 1, 0) for first, end in spans)
    size = max(-(-total // parts), SHORTEST) if parts else max(total, 1)
    found = []
    for number, (first, end) in enumerate(spans):
        count = -(-(end - first - 1) // size)
        edges = np.linspace(first + 1, end, max(count, 0) + 1).astype(np.int64).tolist()
        found += [Stretch(number, start - 1, start, stop) for start, stop in pairwise(edges)]
    return sorted(found, key=lambda s: s.start - s.stop)


def surprise(
    model: nn.Module,
    tokens: NDArray[Any],
    spans: Sequence[tuple[int, int]],
    *,
    whole: bool = False,
    rank: int = 0,
    world: int = 1,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """How surprised a model is by documents: their nats and their counted tokens, one of each.

    The state is carried along each stretch; memory doesn't grow with the text.

    Args:
        model: a :class:`NextSymbol`, put into evaluation mode by the caller.
        tokens: ``(N,)`` numbers of symbols, mapped or not.
        spans: each document's first token and end in them.
        whole: every document is one stretch.
        rank: of several processes this one takes its share of the stretches.
        world: how many there are.
    """
    nats = np.zeros(len(spans))
    counted = np.zeros(len(spans), dtype=np.int64)
    all_stretches = stretches(spans, 0 if whole else STRETCHES)[rank::world]
    device = next(model.parameters()).device
    for first in range(0, len(all_stretches), STRETCHES):
        rows = all_stretches[first : first + STRETCHES]
        lengths = torch.tensor([row.stop - row.start for row in rows])
        state: Any = None
        for start in range(0, int(lengths[0]), _WINDOW):
            left = (lengths - start).clamp(0, _WINDOW)
            block = np.zeros((len(rows), int(left[0]) + 1), dtype=np.int64)
            for row, line, count in zip(rows, block, left.tolist(), strict=True):
                if count:
                    line[: count + 1] = tokens[row.begin + start : row.begin + start + count + 1]
            both = torch.from_numpy(np.ascontiguousarray(block.T)).to(device)
            logits, state = model(both[:-1], state, lengths=left)
            each = F.cross_entropy(logits.flatten(0, 1), both[1:].flatten(), reduction="none")
            valid = torch.arange(int(left[0]))[:, None] < left
            sums = each.view_as(both[1:]).cpu().double().where(valid, 0.0).sum(0)
            for row, value in zip(rows, sums.tolist(), strict=True):
                nats[row.document] += value
            if start // _WINDOW % _RELEASED == _RELEASED - 1:
                release(tokens)
        for row in rows:
            counted[row.document] += row.stop - row.start
    return nats, counted
