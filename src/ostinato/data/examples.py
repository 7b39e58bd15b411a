"""Examples in memory: texts, numeric series and tagged sentences with labels; tables of series."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ostinato.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence, Sized
    from typing import Self

    from numpy.typing import NDArray

#: Characters in a block of streamed text, about.
BLOCK = 1 << 20


def _same_length(owner: str, **columns: Sized) -> None:
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{size} {name}" for name, size in sizes.items())
        raise InputError(f"{owner}: one of each an example is expected, got {shown}")


@dataclass(frozen=True)
class TextExamples:
    """Texts with one label each.

    Attributes:
        texts: N texts.
        labels: N labels.
        where: N places, ``reviews.csv:17``.

    Raises:
        InputError: their numbers differ.

    Example:
        >>> data = TextExamples(["good", "bad"], ["1", "0"], ["a.csv:2", "a.csv:3"])
        >>> data.subset([1]).texts
        ['bad']
    """

    texts: list[str]
    labels: list[str]
    where: list[str]

    def __post_init__(self) -> None:
        _same_length("TextExamples", texts=self.texts, labels=self.labels, where=self.where)

    def __len__(self) -> int:
        return len(self.texts)

    def keys(self) -> list[str]:
        """What :func:`~ostinato.data.split` tells examples apart by: the texts."""
        return self.texts

    def subset(self, indices: Sequence[int] | NDArray[np.integer]) -> Self:
        """The examples at ``indices``, in that order."""
        return replace(
            self,
            texts=[self.texts[i] for i in indices],
            labels=[self.labels[i] for i in indices],
            where=[self.where[i] for i in indices],
        )


@dataclass(frozen=True)
class SeriesExamples:
    """Numeric series of any lengths with one label each.

    Attributes:
        series: N arrays ``(T, C)`` float32; T may differ, C doesn't.
        labels: N labels.
        channels: the C channels' names.
        where: N places, that of each series' first row.

    Raises:
        InputError: their numbers differ, or a series isn't ``(T, C)``.
    """

    series: list[NDArray[np.float32]]
    labels: list[str]
    channels: tuple[str, ...]
    where: list[str]

    def __post_init__(self) -> None:
        _same_length("SeriesExamples", series=self.series, labels=self.labels, where=self.where)
        for one, place in zip(self.series, self.where, strict=True):
            if one.ndim != 2 or one.shape[1] != len(self.channels):
                wanted = f"(T, {len(self.channels)})"
                raise InputError(f"{place}: a series is {wanted}, got {tuple(one.shape)}")

    def __len__(self) -> int:
        return len(self.series)

    def keys(self) -> list[str]:
        """What :func:`~ostinato.data.split` tells examples apart by: the numbers' hashes."""
        return [hashlib.blake2b(one.tobytes(), digest_size=16).hexdigest() for one in self.series]

    def subset(self, indices: Sequence[int] | NDArray[np.integer]) -> Self:
        """The examples at ``indices``, in that order."""
        return replace(
            self,
            series=[self.series[i] for i in indices],
            labels=[self.labels[i] for i in indices],
            where=[self.where[i] for i in indices],
        )


@dataclass(frozen=True)
class TaggedExamples:
    """Sentences with a tag for each token.

    Attributes:
        tokens: N lists of tokens.
        tags: N lists of tags, as long as those of tokens.
        where: N places, that of each sentence's first line.

    Raises:
        InputError: their numbers differ.
    """

    tokens: list[list[str]]
    tags: list[list[str]]
    where: list[str]

    def __post_init__(self) -> None:
        _same_length("TaggedExamples", tokens=self.tokens, tags=self.tags, where=self.where)
        for tokens, tags, place in zip(self.tokens, self.tags, self.where, strict=True):
            if len(tokens) != len(tags):
                raise InputError(f"{place}: {len(tokens)} tokens, but {len(tags)} tags")

    def __len__(self) -> int:
        return len(self.tokens)

    def keys(self) -> list[str]:
        """What :func:`~ostinato.data.split` tells examples apart by: the tokens."""
        return [" ".join(tokens) for tokens in self.tokens]

    def subset(self, indices: Sequence[int] | NDArray[np.integer]) -> Self:
        """The examples at ``indices``, in that order."""
        return replace(
            self,
            tokens=[self.tokens[i] for i in indices],
            tags=[self.tags[i] for i in indices],
            where=[self.where[i] for i in indices],
        )


@dataclass(frozen=True)
class SeriesTable:
    """One or several series over time, as a table with a row for each time.

    Attributes:
        names: the C series' names.
        times: N times as they were written, ascending within a group.
        values: ``(N, C)`` float64; NaN is a missing value.
        groups: the separate runs of time: name -> that group's rows. A table without groups has
            one, named ``""``.
        where: N places, ``co2.csv:17``.

    Raises:
        InputError: their numbers differ.
    """

    names: tuple[str, ...]
    times: list[str]
    values: NDArray[np.float64]
    groups: dict[str, slice]
    where: list[str]

    def __post_init__(self) -> None:
        _same_length("SeriesTable", times=self.times, values=self.values, where=self.where)
        if self.values.ndim != 2 or self.values.shape[1] != len(self.names):
            wanted = f"(N, {len(self.names)})"
            raise InputError(f"SeriesTable: values are {wanted}, got {self.values.shape}")

    def __len__(self) -> int:
        return len(self.times)

    def subset(self, indices: Sequence[int] | NDArray[np.integer]) -> Self:
        """The rows at ``indices``, ascending: what is left of a group stays one run of time.

        Raises:
            InputError: the indices don't ascend.
        """
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(rows) > 1 and not (np.diff(rows) > 0).all():
            raise InputError("a subset of a table takes ascending row numbers")
        groups = {}
        for name, group in self.groups.items():
            start, stop = np.searchsorted(rows, [group.start, group.stop]).tolist()
            if stop > start:
                groups[name] = slice(start, stop)
        return replace(
            self,
            times=[self.times[i] for i in rows],
            values=self.values[rows],
            groups=groups,
            where=[self.where[i] for i in rows],
        )


@dataclass(frozen=True)
class Document:
    """One text that is read in blocks, as often as it is asked for.

    Attributes:
        name: what it is called in messages.
        open: begins anew and yields the text in blocks of bounded size, none of them empty.
        fingerprint: changes when the text does; ``""`` where that isn't known.
    """

    name: str
    open: Callable[[], Iterator[str]]
    fingerprint: str = ""

    @classmethod
    def from_text(cls, name: str, text: str) -> Self:
        """A text in memory.

        Example:
            >>> "".join(Document.from_text("haiku", "An old silent pond").open())
            'An old silent pond'
        """

        def blocks() -> Iterator[str]:
            for start in range(0, len(text), BLOCK):
                yield text[start : start + BLOCK]

        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return cls(name, blocks, digest)


@dataclass(frozen=True)
class TextStream:
    """Documents, read one after another; no more than a block of them is in memory at a time.

    Attributes:
        documents: the documents in order.
    """

    documents: Sequence[Document]

    def __len__(self) -> int:
        return len(self.documents)

    def subset(self, indices: Sequence[int] | NDArray[np.integer]) -> Self:
        """The documents at ``indices``, in that order."""
        return replace(self, documents=[self.documents[i] for i in indices])

    def blocks(self) -> Iterator[str]:
        """All the text, in blocks."""
        for document in self.documents:
            yield from document.open()
