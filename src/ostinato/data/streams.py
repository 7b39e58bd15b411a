"""Streams of tokens on disk, and batches of windows that follow one another in them."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np
import torch

from ostinato.data.batches import Batch, check_share
from ostinato.data.words import characters
from ostinato.errors import DataError, InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ostinato.data.examples import Document, TextStream
    from ostinato.data.vocabulary import Vocabulary

_FORMAT = 1
_DTYPES = ("uint8", "uint16", "uint32")
#: Characters without a space after which a text is cut all the same.
LONGEST_WORD = 1 << 16
#: Different tokens that are counted at a time, some 200 bytes each.
MOST_COUNTED = 1 << 21
#: Windows after which the pages of a mapped file are given back.
_RELEASED = 256
Tokenize = Callable[[str], list[str]]


def _whole_words(document: Document) -> Iterator[str]:
    """The document's text, cut only where a space or a line end is."""
    rest = ""
    for block in document.open():
        text = rest + block
        cut = max(text.rfind(" "), text.rfind("\n"))
        if cut < 0 and len(text) > LONGEST_WORD:
            cut = len(text)  # a text without spaces isn't kept whole
        text, rest = text[: max(cut, 0)], text[max(cut, 0) :]
        if text:
            yield text
    if rest:
        yield rest


def count_tokens(stream: TextStream, tokenize: Tokenize = characters) -> Counter[str]:
    """How often each token comes, in one pass and bounded memory.

    Of more than two million different tokens the rarest are dropped each time that there are so
    many, and those that come again later are counted from 1: figures are exact but for tokens
    that are rare in a text of billions.

    Example:
        >>> from ostinato.data import Document, TextStream
        >>> count_tokens(TextStream([Document.from_text("a", "abba")]))
        Counter({'a': 2, 'b': 2})
    """
    if tokenize is not characters:
        counts, rare = Counter[str](), 0
        for document in stream.documents:
            for text in _whole_words(document):
                counts.update(tokenize(text))
                while len(counts) > MOST_COUNTED:
                    rare += 1
                    counts = Counter({t: count for t, count in counts.items() if count > rare})
        return counts
    points = np.zeros(0x110000, dtype=np.int64)
    for block in stream.blocks():
        found = np.bincount(_code_points(block))
        points[: len(found)] += found
    return Counter({chr(i): int(points[i]) for i in np.flatnonzero(points)})


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


@dataclass(frozen=True)
class _Header:
    """What stands beside a file of tokens, as JSON."""

    format: int
    dtype: str
    tokens: int
    unknown: int
    characters: int
    vocabulary: int
    fingerprint: str
    starts: dict[str, int]


class TokenFile:
    """Numbers of tokens in a file that is mapped into memory, so that it may be of any size.

    Attributes:
        path: the file: numbers of 1, 2 or 4 bytes, as few as the vocabulary needs. Beside it is
            ``path + ".json"``, which describes it and is written last.
        tokens: ``(N,)``, mapped, read-only.
        unknown: how many of them are ``<unk>``.
        characters: characters of the text.
        starts: document -> the number of its first token.
    """

    def __init__(self, path: Path, header: _Header) -> None:
        self.path = path
        self._header = header
        self.unknown = header.unknown
        self.characters = header.characters
        self.starts = header.starts
        dtype = np.dtype(header.dtype)
        self.tokens: NDArray[Any] = (
            np.memmap(path, dtype=dtype, mode="r") if header.tokens else np.zeros(0, dtype)
        )

    def __len__(self) -> int:
        return self._header.tokens

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The file that :meth:`encode` wrote.

        Raises:
            DataError: it isn't there, or not whole.
        """
        path = Path(path)
        try:
            data = json.loads(_side(path).read_text())
            header = _Header(**data)
            size = path.stat().st_size
            whole = size == header.tokens * np.dtype(header.dtype).itemsize
        except FileNotFoundError:
            raise DataError(f"{path}: there is no encoded text, or it wasn't finished") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"{_side(path)}: damaged ({error}); remove it and encode anew"
            ) from None
        if header.format != _FORMAT or header.dtype not in _DTYPES or not whole:
            raise DataError(f"{path}: it isn't what {_side(path).name} says; encode anew")
        return cls(path, header)

    @classmethod
    def encode(
        cls,
        stream: TextStream,
        vocabulary: Vocabulary,
        path: str | Path,
        tokenize: Tokenize = characters,
    ) -> Self:
        """Write a text's tokens to ``path``, in bounded memory.

        A crash leaves nothing that looks finished. If the file is there already, of the same
        documents (as :attr:`Document.fingerprint` tells) and the same vocabulary, it is taken as
        it is. Of several processes one writes, the others :meth:`open` the file afterwards.

        Args:
            stream: the text.
            vocabulary: with ``<unk>``, or one that has every token of the text.
            path: the file to write; its folder is there.
            tokenize: :func:`~ostinato.data.characters` or :func:`~ostinato.data.pieces`.

        Raises:
            InputError: a token isn't in the vocabulary, which has no ``<unk>``.
            DataError: the file can't be written: the disk is full, say.
        """
        path = Path(path)
        fingerprint = _fingerprint(stream, vocabulary, tokenize)
        if fingerprint:
            try:
                there = cls.open(path)
            except DataError:
                pass
            else:
                if there._header.fingerprint == fingerprint:
                    return there
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                header = _write(file, stream, vocabulary, tokenize, fingerprint)
                file.flush()
                os.fsync(file.fileno())
            # Never a description beside numbers that it doesn't describe.
            _side(path).unlink(missing_ok=True)
            temporary.replace(path)
            with temporary.open("w") as side:
                json.dump(asdict(header), side, indent=1)
                side.flush()
                os.fsync(side.fileno())
            temporary.replace(_side(path))
        except OSError as error:
            raise DataError(f"{path}: the encoded text can't be written ({error})") from None
        finally:
            temporary.unlink(missing_ok=True)
        return cls(path, header)


def _side(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _fingerprint(stream: TextStream, vocabulary: Vocabulary, tokenize: Tokenize) -> str:
    """Of what is encoded; ``""`` where a document can't tell whether it has changed."""
    documents = [document.fingerprint for document in stream.documents]
    if not all(documents):
        return ""
    whole = json.dumps([_FORMAT, tokenize.__qualname__, documents, vocabulary.to_json()])
    return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()


def _write(
    file: IO[bytes],
    stream: TextStream,
    vocabulary: Vocabulary,
    tokenize: Tokenize,
    fingerprint: str,
) -> _Header:
    size = len(vocabulary)
    dtype = next(d for d in map(np.dtype, _DTYPES) if size <= np.iinfo(d).max + 1)
    count = unknown = length = 0
    starts: dict[str, int] = {}
    for document in stream.documents:
        starts[document.name] = count
        for numbers, read in _numbers(document, vocabulary, tokenize):
            count += len(numbers)
            length += read
            if vocabulary.unknown_index is not None:
                unknown += int((numbers == vocabulary.unknown_index).sum())
            file.write(numbers.astype(dtype).tobytes())
    return _Header(_FORMAT, dtype.name, count, unknown, length, size, fingerprint, starts)


def _numbers(
    document: Document, vocabulary: Vocabulary, tokenize: Tokenize
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Numbers of tokens, some at a time, and of how many characters."""
    if tokenize is not characters:
        for text in _whole_words(document):
            yield vocabulary.encode(tokenize(text)), len(text)
        return
    table = _table(vocabulary)
    for block in document.open():
        numbers: NDArray[np.int64] = table[_code_points(block)]
        if vocabulary.unknown_index is None and (numbers < 0).any():
            vocabulary.encode([block[int(numbers.argmin())]])  # raises, naming the character
        yield numbers, len(block)


def _table(vocabulary: Vocabulary) -> NDArray[np.int64]:
    """Code point -> number; -1 or that of ``<unk>`` for the others."""
    other = -1 if vocabulary.unknown_index is None else vocabulary.unknown_index
    table = np.full(0x110000, other, dtype=np.int64)
    for number, token in enumerate(vocabulary.tokens):
        if len(token) == 1:
            table[ord(token)] = number
    return table


def release(tokens: NDArray[Any]) -> None:
    """Give back the memory of what was read of mapped ``tokens``; the next reading maps it anew.

    The system would take those pages only when it is short of others; until then a text of any
    size would seem to lie in memory, and to count against a limit that was set for the process.
    """
    base: Any = tokens
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


class StreamBatches:
    """Windows of a long stream of tokens, for truncated BPTT with carried state.

    The N tokens are cut into B streams of n = (N − 1) // B, stream b at ``tokens[b * n:]``; a
    batch is the next ``bptt`` steps of all streams (the last one of an epoch what is left), and
    the target of a step is the token after it. Every token but the first and at most B − 1 at the
    end is a target once an epoch. Epochs are alike. A global batch's streams are dealt to the
    processes in turn, ``streams[rank::world]``.

    Args:
        tokens: ``(N,)`` integers, mapped or not.
        batch_size: B, streams of the global batch.
        bptt: steps of a window.
        rank, world: this process's number and how many there are.

    Raises:
        InputError: fewer than B + 1 tokens, or fewer streams than processes.

    Example:
        >>> for batch in StreamBatches(np.arange(11), 2, 3).epoch(0):
        ...     print(batch.x.T.tolist(), batch.target.T.tolist(), batch.fresh)
        [[0, 1, 2], [5, 6, 7]] [[1, 2, 3], [6, 7, 8]] True
        [[3, 4], [8, 9]] [[4, 5], [9, 10]] False
    """

    def __init__(
        self,
        tokens: NDArray[Any] | Sequence[int],
        batch_size: int,
        bptt: int,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < 1 or bptt < 1:
            raise InputError(f"expected batch_size and bptt of 1 or more, got {batch_size}, {bptt}")
        check_share(rank, world, batch_size)
        self._tokens = np.asarray(tokens)  # a plain view: a memmap is slower to slice
        self._each = (len(self._tokens) - 1) // batch_size
        if self._each < 1:
            raise InputError(
                f"{batch_size} streams need {batch_size + 1} tokens or more, got "
                f"{len(self._tokens)}; take a longer text or a smaller batch size"
            )
        self._all_rows, self._bptt = batch_size, bptt
        self._rows = np.arange(rank, batch_size, world)

    def __len__(self) -> int:
        return -(-self._each // self._bptt)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The windows in order, from window ``start`` on; the first of an epoch is ``fresh``.

        Args:
            number: 0 or more; epochs are alike.
            start: how many windows to leave out; the state that enters the next is the caller's.
        """
        for window in range(start, len(self)):
            yield self._batch(window)
            if window % _RELEASED == _RELEASED - 1:
                release(self._tokens)

    def _batch(self, window: int) -> Batch:
        first = window * self._bptt
        steps = min(self._bptt, self._each - first)
        begins = self._rows * self._each + first
        both = np.stack([self._tokens[b : b + steps + 1] for b in begins]).astype(np.int64)
        time_major = torch.from_numpy(np.ascontiguousarray(both.T))
        rows = torch.from_numpy(self._rows)
        terms = steps * len(self._rows)
        return Batch(
            x=time_major[:-1],
            lengths=torch.full((len(self._rows),), steps),
            target=time_major[1:],
            rows=rows,
            batch_rows=self._all_rows,
            share=rows,
            terms=terms,
            all_terms=steps * self._all_rows,
            steps=terms,
            fresh=window == 0,
        )
