"""The rows that are predicted: where they are read from, and which prediction is of which."""

from __future__ import annotations

import io
import os
import sys
from collections import deque
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ostinato.data import BadRows, Row, read_rows
from ostinato.data.lines import lines_of, open_lines
from ostinato.data.rows import format_of
from ostinato.data.tables import NOT_UTF8
from ostinato.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

STANDARD_INPUT = "standard input"
#: The column with the place of a row.
PLACE = "row"


class RecordedBadRows(BadRows):
    """Bad rows, with the places of those that were left out since the last look."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        self.places: set[str] = set()

    def reject(self, where: str, why: str, kind: str | None = None) -> None:
        """See the base class."""
        super().reject(where, why, kind)
        self.places.add(where)


class Origins:
    """Puts beside a prediction what its row has: columns to keep, and its place.

    Predictions come in the order of their rows; rows that were rejected have none.

    Args:
        keep: columns of the rows.
        bad: what rejects rows.
        with_place: whether the row's place, ``new.csv:17``, is put there too.
    """

    def __init__(self, keep: Sequence[str], bad: RecordedBadRows, *, with_place: bool) -> None:
        self._keep = keep
        self._bad = bad
        self._with_place = with_place
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()

    def noted(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows, on their way to the model.

        Raises:
            DataError: one lacks a column that is to be kept.
        """
        for row in rows:
            lacking = [name for name in self._keep if name not in row.values]
            if lacking:
                there = ", ".join(map(repr, row.values))
                raise DataError(
                    f"{row.where}: there is no column {lacking[0]!r} to keep; its columns: {there}"
                )
            self._waiting.append((row.where, {name: row.values[name] for name in self._keep}))
            yield row

    def beside(self, predictions: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The predictions, each with what belongs to it in front."""
        for prediction in predictions:
            where, kept = self._waiting.popleft()
            while where in self._bad.places:
                self._bad.places.remove(where)
                where, kept = self._waiting.popleft()
            place = {PLACE: where} if self._with_place else {}
            yield {**place, **kept, **prediction}


def rows_of(path: str, form: str | None, task: str, bad: BadRows) -> Iterable[Row]:
    """The rows of a file, or of standard input (``-``).

    A file whose name is no table's has, for a tagger, a token a line and empty lines between
    sentences; else each of its lines is a text.

    Raises:
        DataError: see :func:`ostinato.data.read_rows`.
    """
    if form is None and path != "-" and format_of(path) is None:
        form = "conll" if task == "tag" else "lines" if _is_text(path) else None
    if form == "lines":
        return line_rows(path, bad)
    if form == "conll":
        return sentence_rows(path, bad)
    return read_rows((path == "-" and _own_input()) or path, bad, format=form)


def line_rows(path: str, bad: BadRows) -> Iterator[Row]:
    """Each line that isn't empty as a row with one column, ``text``; ``-`` is standard input."""
    for where, text in _decoded(path, bad):
        if text.strip():
            yield Row({"text": text}, where)


def sentence_rows(path: str, bad: BadRows) -> Iterator[Row]:
    """Sentences of a CoNLL-style file as rows with one column, ``tokens``; ``-`` as above.

    The token is a line's first column, of ``.conllu`` its second; other columns don't matter.
    """
    universal = Path(path).name.lower().removesuffix(".gz").endswith(".conllu")
    tokens: list[str] = []
    first = ""
    for where, text in _decoded(path, bad):
        if not text.strip():
            if tokens:
                yield Row({"tokens": tokens}, first)
            tokens = []
            continue
        if text.startswith("-DOCSTART-") or (universal and text.startswith("#")):
            continue
        fields = [f.strip() for f in text.split("\t")] if "\t" in text else text.split()
        if universal and not (fields[0].isdigit() and len(fields) > 1):
            continue
        first = first if tokens else where
        tokens.append(fields[1] if universal else fields[0])
    if tokens:
        yield Row({"tokens": tokens}, first)


def _own_input() -> IO[bytes] | None:
    """Standard input with a buffer of its own, where it is a file or a pipe.

    A thread that waits for its next line holds the lock of Python's own buffer, which Python takes
    when the program ends.
    """
    try:
        number = os.dup(sys.stdin.fileno())
    except (OSError, io.UnsupportedOperation):
        return None
    return _Named(number)


class _Named(io.BufferedReader):
    """A file that messages call standard input."""

    def __init__(self, number: int) -> None:
        super().__init__(io.FileIO(number, "rb"))

    @property
    def name(self) -> str:
        return STANDARD_INPUT


def _decoded(path: str, bad: BadRows) -> Iterator[tuple[str, str]]:
    """The lines as text, with their places; those that aren't UTF-8 are rejected."""
    name = STANDARD_INPUT if path == "-" else path
    lines = lines_of(_own_input() or sys.stdin.buffer) if path == "-" else open_lines(Path(path))
    for number, raw in lines:
        try:
            yield f"{name}:{number}", raw.decode()
        except UnicodeDecodeError:
            bad.reject(f"{name}:{number}", NOT_UTF8)


def _is_text(path: str) -> bool:
    return path.lower().removesuffix(".gz").endswith((".txt", ".text"))
