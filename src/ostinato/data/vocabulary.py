"""The vocabulary: which token has which number."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ostinato.errors import InputError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

PADDING = "<pad>"
UNKNOWN = "<unk>"


class Vocabulary:
    """Tokens with their numbers, 0 to ``len - 1``.

    Args:
        tokens: the tokens in order, without ``<pad>`` and ``<unk>``.
        padding: whether number 0 is ``<pad>``, which stands for no token.
        unknown: whether there is a number for ``<unk>``, which stands for every other token; it
            comes first, or next after ``<pad>``.

    Attributes:
        tokens: all of them, in the numbers' order.
        padding: ``<pad>``'s number, or None.
        unknown_index: ``<unk>``'s number, or None.

    Raises:
        InputError: a token comes twice.

    Example:
        >>> vocabulary = Vocabulary.build([["a", "b"], ["b"]], padding=True)
        >>> vocabulary.tokens
        ('<pad>', '<unk>', 'b', 'a')
        >>> vocabulary.encode(["a", "z"])
        array([3, 1])
        >>> vocabulary.decode([2, 1])
        ['b', '<unk>']
    """

    def __init__(
        self, tokens: Iterable[str], *, padding: bool = False, unknown: bool = True
    ) -> None:
        ordinary = list(tokens)
        special = [PADDING] * padding + [UNKNOWN] * unknown
        self.tokens = (*special, *ordinary)
        self.padding = 0 if padding else None
        self.unknown_index = len(special) - 1 if unknown else None
        # A text that has "<pad>" in it has an unknown token there.
        self._index = {token: i for i, token in enumerate(ordinary, len(special))}
        if len(self._index) < len(ordinary) or not self._index.keys().isdisjoint(special):
            token, _ = Counter(self.tokens).most_common(1)[0]
            raise InputError(f"a vocabulary has each token once, but {token!r} is there twice")

    @classmethod
    def build(
        cls,
        tokens: Iterable[Sequence[str]] | Counter[str],
        size: int | None = None,
        min_count: int = 1,
        *,
        padding: bool = False,
        unknown: bool = True,
    ) -> Self:
        """The most frequent tokens; equally frequent ones in the order of their code points.

        Args:
            tokens: lists of tokens, or how often each comes.
            size: numbers at most, those of ``<pad>`` and ``<unk>`` included; None: no limit.
            min_count: tokens that come more seldom are left out.
            padding: as of the class.
            unknown: as of the class.

        Raises:
            InputError: ``size`` leaves no room for a token, or there is none.
        """
        if isinstance(tokens, Counter):
            counts = tokens
        else:
            counts = Counter()
            for some in tokens:
                counts.update(some)
        ranked = sorted(
            (item for item in counts.items() if item[1] >= min_count),
            key=lambda item: (-item[1], item[0]),
        )
        ordinary = [token for token, _ in ranked if token not in (PADDING, UNKNOWN)]
        if size is not None:
            if size <= padding + unknown:
                raise InputError(f"a vocabulary of {size} has no room for a token")
            ordinary = ordinary[: size - padding - unknown]
        if not ordinary:
            raise InputError(f"there is no token that comes {min_count} times or more")
        return cls(ordinary, padding=padding, unknown=unknown)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._index

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.tokens)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} tokens)"

    def encode(self, tokens: Sequence[str]) -> NDArray[np.int64]:
        """The tokens' numbers, ``(T,)`` int64.

        Raises:
            InputError: a token isn't in the vocabulary, which has no ``<unk>``.
        """
        index, unknown = self._index, self.unknown_index
        if unknown is not None:
            return np.array([index.get(token, unknown) for token in tokens], dtype=np.int64)
        try:
            return np.array([index[token] for token in tokens], dtype=np.int64)
        except KeyError as error:
            raise InputError(
                f"{error.args[0]!r} isn't one of the {len(self)} tokens that are known"
            ) from None

    def unknown(self, tokens: Iterable[str]) -> Counter[str]:
        """The tokens that the vocabulary doesn't have, and how often each comes."""
        return Counter(token for token in tokens if token not in self._index)

    def decode(self, numbers: Iterable[int] | NDArray[np.integer]) -> list[str]:
        """The tokens of these numbers.

        Raises:
            InputError: a number that no token has.
        """
        tokens = []
        for number in numbers:
            if not 0 <= number < len(self.tokens):
                raise InputError(f"expected numbers from 0 to {len(self) - 1}, got {number}")
            tokens.append(self.tokens[number])
        return tokens

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` takes, of lists, strings and booleans."""
        padding, unknown = self.padding is not None, self.unknown_index is not None
        ordinary = self.tokens[padding + unknown :]
        return {"padding": padding, "unknown": unknown, "tokens": list(ordinary)}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The vocabulary that :meth:`to_json` wrote.

        Raises:
            ModelError: it isn't one.
        """
        if not isinstance(data, dict) or data.keys() != {"padding", "unknown", "tokens"}:
            raise ModelError("a vocabulary has padding, unknown and tokens; this one is damaged")
        tokens = data["tokens"]
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise ModelError("a vocabulary's tokens are strings; this one is damaged")
        padding, unknown = data["padding"], data["unknown"]
        if not isinstance(padding, bool) or not isinstance(unknown, bool):
            raise ModelError("a vocabulary's padding and unknown are booleans; this is damaged")
        try:
            return cls(tokens, padding=padding, unknown=unknown)
        except InputError as error:
            raise ModelError(f"the vocabulary is damaged: {error}") from None
