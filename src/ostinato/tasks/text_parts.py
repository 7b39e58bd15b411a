"""Held-out parts of a text: whole documents where there are many, else the end of each."""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING

from ostinato.data import Document, TextStream, split
from ostinato.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: From so many documents on, whole ones are held out.
WHOLE_DOCUMENTS = 10
#: Share of the text that becomes a part for which there is no text of its own.
_HELD_OUT = 0.1


def split_text(
    stream: TextStream, held_out: Sequence[str] = ("validation", "test")
) -> dict[str, TextStream]:
    """``train`` and, with 10 % of the text each, ``held_out``; the same at each call.

    Ten documents or more are shared out whole, by a hash of their characters, so that documents
    that are alike but for spaces and case fall on one side. Of fewer, each is cut in three, in the
    order of the text. Reads the text once, a block at a time.

    Raises:
        DataError: a part would be empty.
    """
    shares = {"train": 1 - _HELD_OUT * len(held_out), **dict.fromkeys(held_out, _HELD_OUT)}
    if len(stream) >= WHOLE_DOCUMENTS:
        sides = split([_digest(document) for document in stream.documents], shares)
        parts = {name: stream.subset(rows) for name, rows in sides.items()}
    else:
        sizes = [sum(map(len, document.open())) for document in stream.documents]
        edges = [0.0, *itertools.accumulate(shares.values())]
        parts = {
            name: _cut(stream, sizes, low, high)
            for name, low, high in zip(shares, edges[:-1], edges[1:], strict=True)
        }
    empty = [name for name, part in parts.items() if not len(part)]
    if empty:
        names = ", ".join(document.name for document in stream.documents[:3]) or "no documents"
        raise DataError(
            f"{names}: too little text to hold some of it out: nothing is left for "
            f"{', '.join(empty)}"
        )
    return parts


def _cut(stream: TextStream, sizes: list[int], low: float, high: float) -> TextStream:
    """Of each document what lies between two shares of its characters."""
    parts = []
    for document, size in zip(stream.documents, sizes, strict=True):
        start, stop = round(low * size), round(high * size)
        if start < stop:
            parts.append(excerpt(document, start, stop))
    return TextStream(parts)


def excerpt(document: Document, start: int, stop: int) -> Document:
    """The characters ``start`` to ``stop`` of a document, read when they are needed.

    >>> list(excerpt(Document.from_text("a", "abcdef"), 2, 5).open())
    ['cde']
    """

    def blocks() -> Iterator[str]:
        begin = 0
        for block in document.open():
            if begin >= stop:
                return
            part = block[max(start - begin, 0) : stop - begin]
            begin += len(block)
            if part:
                yield part

    mark = document.fingerprint and f"{document.fingerprint} {start} {stop}"
    return Document(document.name, blocks, mark)


def _digest(document: Document) -> str:
    """Of the characters without spaces and case: what blocks the text comes in doesn't matter."""
    found = hashlib.blake2b(digest_size=16)
    for block in document.open():
        found.update("".join(block.casefold().split()).encode("utf-8", "surrogatepass"))
    return found.hexdigest()
