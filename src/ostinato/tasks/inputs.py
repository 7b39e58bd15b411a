"""What goes into a model: texts as numbers of words or characters, or series of numbers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ostinato.data.bad_rows import BadValue
from ostinato.data.columns import TEXT_NAMES
from ostinato.data.series import listed_series, wide_series
from ostinato.data.values import text_of
from ostinato.data.vocabulary import Vocabulary
from ostinato.data.words import characters, words
from ostinato.errors import InputError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

    from numpy.typing import NDArray

    from ostinato.data.rows import Row
    from ostinato.tasks.config import TrainConfig

_TOKENS = {"word": words, "char": characters}


class _Numbers(dict[str, int]):
    """Tokens numbered in the order of their first appearance."""

    def __missing__(self, token: str) -> int:
        self[token] = len(self)
        return len(self) - 1


class TextInput:
    """Texts as numbers of their words or characters.

    Args:
        vocabulary: with an entry for unknown ones.
        level: ``"word"`` or ``"char"``.
        max_length: steps that are kept; of a longer text its beginning and its end, half of each.
            0: all.
    """

    kind = "text"
    channels = 0

    def __init__(self, vocabulary: Vocabulary, level: str, max_length: int) -> None:
        self.vocabulary = vocabulary
        self.level = level
        self.max_length = max_length

    @property
    def symbols(self) -> int:
        """How many numbers there are."""
        return len(self.vocabulary)

    @classmethod
    def learn(
        cls, texts: Sequence[str], config: TrainConfig
    ) -> tuple[TextInput, list[NDArray[np.int64]]]:
        """The vocabulary of the training texts, and those texts encoded.

        One pass over the tokens does both: they get provisional numbers, and those are renumbered
        when their frequencies are known.
        """
        tokens_of, numbers = _TOKENS[config.level], _Numbers()
        number_of = numbers.__getitem__
        raw = [
            np.fromiter(map(number_of, _cut(tokens_of(text), config.max_length)), np.int64)
            for text in texts
        ]
        frequency = np.bincount(np.concatenate(raw), minlength=len(numbers)).tolist()
        vocabulary = Vocabulary.build(
            Counter(dict(zip(numbers, frequency, strict=True))), config.vocabulary or None
        )
        renumber = vocabulary.encode(list(numbers))
        return cls(vocabulary, config.level, config.max_length), [renumber[one] for one in raw]

    def encode(self, text: str) -> NDArray[np.int64]:
        """The numbers of a text's tokens, ``(T,)``."""
        return self.vocabulary.encode(_cut(_TOKENS[self.level](text), self.max_length))

    def unknown(self, encoded: NDArray[np.int64]) -> int:
        """How many of the numbers stand for an unknown token."""
        return int((encoded == self.vocabulary.unknown_index).sum())

    def row(self, row: Row, config: TrainConfig) -> NDArray[np.int64]:
        """The text of a row.

        Raises:
            BadValue: it is missing or no text.
        """
        return self.encode(text_of(row, text_column(row.values, config.text)))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "kind": self.kind,
            "level": self.level,
            "max_length": self.max_length,
            "vocabulary": self.vocabulary.to_json(),
        }


class SeriesInput:
    """Series of numbers, each channel shifted and scaled as the training data asks for.

    Args:
        channels: the channels' names.
        mean, scale: of each channel over all steps of the training series, ``(C,)``.
        left_out: of wide files, the columns that were no steps of the training series.
    """

    kind = "series"
    symbols = 0

    def __init__(
        self,
        names: Sequence[str],
        mean: NDArray[np.float64],
        scale: NDArray[np.float64],
        left_out: Sequence[str] = (),
    ) -> None:
        self.names = tuple(names)
        self.left_out = frozenset(left_out)
        self.mean = mean
        self.scale = scale

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return len(self.names)

    @classmethod
    def learn(
        cls,
        series: Sequence[NDArray[np.float32]],
        names: Sequence[str],
        left_out: Sequence[str] = (),
    ) -> Self:
        """From the training series ``(T, C)``."""
        steps = np.concatenate(series).astype(np.float64)
        scale = steps.std(axis=0)
        return cls(names, steps.mean(axis=0), np.where(scale > 0, scale, 1.0), left_out)

    def encode(self, series: NDArray[np.float32]) -> NDArray[np.float32]:
        """One series ``(T, C)``, shifted and scaled.

        Raises:
            InputError: it has another number of channels.
        """
        if series.ndim != 2 or series.shape[1] != self.channels:
            raise InputError(
                f"the model reads series of {self.channels} channels ({', '.join(self.names)}), "
                f"got an array of shape {series.shape}"
            )
        return ((series - self.mean) / self.scale).astype(np.float32)

    def row(self, row: Row, config: TrainConfig) -> NDArray[np.float32]:
        """The series in one row: a list, or one channel's steps in the columns.

        Raises:
            BadValue: a number is missing, none, or infinite; there is none; or there are other
                channels.
        """
        columns = config.value or [
            c for c in row.values if c and c != config.label and c not in self.left_out
        ]
        lists = [c for c in columns if isinstance(row.values.get(c), list)]
        series = listed_series(row, lists[0]) if len(lists) == 1 else wide_series(row, columns)
        if series.shape[1] != self.channels:
            kind = f"the series has another number of channels than {self.channels}"
            raise BadValue(f"{kind}: {series.shape[1]}", kind)
        return self.encode(series)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "kind": self.kind,
            "channels": list(self.names),
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "left_out": sorted(self.left_out),
        }


def input_from_json(data: Any) -> TextInput | SeriesInput:
    """What ``to_json`` of either wrote.

    Raises:
        ModelError: it isn't that.
    """
    try:
        if data["kind"] == TextInput.kind:
            vocabulary = Vocabulary.from_json(data["vocabulary"])
            return TextInput(vocabulary, str(data["level"]), int(data["max_length"]))
        names, mean, scale = data["channels"], np.array(data["mean"]), np.array(data["scale"])
        if not mean.shape == scale.shape == (len(names),):
            raise ModelError("the channels, their means and scales don't fit together")
        mean, scale = mean.astype(np.float64), scale.astype(np.float64)
        return SeriesInput(names, mean, scale, data["left_out"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the description of the model's input is damaged: {error!r}") from error


def text_column(columns: Iterable[str], wanted: str | None) -> str:
    """The column of a row that has its text: the one that training read, else one named so.

    Raises:
        InputError: it can't be told.
    """
    there = list(columns)
    if wanted in there:
        return wanted
    for name in TEXT_NAMES:
        if name in there:
            return name
    if len(there) == 1:
        return there[0]
    raise InputError(
        f"expected a column {wanted or 'text'!r} with the text, got the columns "
        f"{', '.join(map(repr, there)) or 'none'}"
    )


def _cut(tokens: list[str], length: int) -> list[str]:
    if not length or len(tokens) <= length:
        return tokens
    tail = length // 2
    return tokens[: length - tail] + tokens[len(tokens) - tail :]
