"""The model of tagging: words and their spelling, encoder, one linear map at each step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ostinato.tasks.encoder import Encoder
from ostinato.train import RowDropout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ostinato.data.vocabulary import Vocabulary

#: Characters of a word that the model sees: its first two and its last three.
SPELT = 5


class Tagger(nn.Module):
    """What a word is and how it is spelt, encoded in both directions, to a tag a step.

    A word that wasn't seen in training, or once only, still has its spelling: its first two and its
    last three characters, each with a vector for its place.

    Args:
        words: numbers of words.
        characters: numbers of characters, 0 for none.
        embedding: width of a word's vector; that of a character is a quarter of it.
        tags: how many.
        cell, hidden, layers, bidirectional, dropout: see :class:`~ostinato.tasks.encoder.Encoder`.

    Call: ``model(x, spelling, lengths, *, batch_rows=None, share=None) -> (T, B, tags)``: ``x``
    ``(T, B)`` and ``spelling`` ``(T, B, 5)``, int64.
    """

    places: Tensor

    def __init__(
        self,
        *,
        words: int,
        characters: int,
        embedding: int,
        tags: int,
        cell: str,
        hidden: int,
        layers: int,
        bidirectional: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        part = max(embedding // 4, 1)
        self.words = nn.Embedding(words, embedding)
        self.characters = nn.Embedding(characters * SPELT, part)
        self.encoder = Encoder(
            channels=embedding + SPELT * part,
            embedding=0,
            cell=cell,
            hidden=hidden,
            layers=layers,
            bidirectional=bidirectional,
            dropout=dropout,
        )
        self.dropout = RowDropout(dropout)
        self.head = nn.Linear(self.encoder.width, tags)
        self.register_buffer(
            "places", torch.arange(SPELT) * characters, persistent=False
        )  # the same character has another vector at another place

    def forward(
        self,
        x: Tensor,
        spelling: Tensor,
        lengths: Tensor,
        *,
        batch_rows: int | None = None,
        share: Tensor | None = None,
    ) -> Tensor:
        """See the class."""
        spelt = self.characters(spelling + self.places).flatten(-2)
        steps = torch.cat([self.words(x), spelt], -1)
        y, _ = self.encoder(steps, lengths, batch_rows=batch_rows, share=share)
        logits: Tensor = self.head(self.dropout(y, batch_rows, share))
        return logits


class Spelling:
    """The spelling of all words of some sentences, to be looked up by batch.

    Args:
        sentences: N lists of words.
        characters: numbers of characters; 0 is none.
    """

    def __init__(self, sentences: Sequence[Sequence[str]], characters: Vocabulary) -> None:
        known: dict[str, NDArray[np.int64]] = {}
        for sentence in sentences:
            for word in sentence:
                if word not in known:
                    known[word] = spelt(word, characters)
        steps = [known[word] for sentence in sentences for word in sentence]
        self._steps = torch.from_numpy(np.stack(steps))
        ends = np.cumsum([len(sentence) for sentence in sentences])
        self._starts = torch.from_numpy(np.concatenate([[0], ends[:-1]]).astype(np.int64))

    def of(self, rows: Tensor, steps: int) -> Tensor:
        """The spelling of the sentences ``rows``, ``(steps, B, 5)``.

        What stands past a sentence's end is another sentence's and isn't to be looked at.
        """
        places = self._starts[rows] + torch.arange(steps)[:, None]
        return self._steps[places.clamp(max=len(self._steps) - 1)]


def spelt(word: str, characters: Vocabulary) -> NDArray[np.int64]:
    """The numbers of a word's first two and last three characters, 0 where it has none."""
    numbers = characters.encode(list(word))
    found = np.zeros(SPELT, dtype=np.int64)
    head, tail = numbers[:2], numbers[-3:]
    found[: len(head)] = head
    found[SPELT - len(tail) :] = tail
    return found
