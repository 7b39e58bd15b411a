"""Rows of a table in a file, one at a time: CSV, TSV, JSON lines, Parquet."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ostinato.data.bad_rows import Once
from ostinato.data.lines import Line, lines_of, open_lines
from ostinato.data.tables import delimited_rows, json_rows, parquet_columns, parquet_rows
from ostinato.errors import DataError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ostinato.data.bad_rows import BadRows

#: Format -> the suffixes that name it. ``tsv-raw`` knows no quotes.
SUFFIXES = {
    "csv": (".csv",),
    "tsv": (".tsv", ".tab"),
    "tsv-raw": (),
    "jsonl": (".jsonl", ".ndjson"),
    "parquet": (".parquet", ".pq"),
}
#: Rows of JSON lines whose keys together are the columns, and that a guess looks at.
HEAD = 100


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        values: column -> value. CSV's and TSV's are strings; None is a missing value.
        where: ``reviews.csv:17``, the line of the file that the row begins in, from 1; of Parquet
            ``reviews.parquet:row 17``.
    """

    values: dict[str, Any]
    where: str


class Rows:
    """Rows of a file, read anew in each iteration, with no more than a few in memory.

    Attributes:
        name: the file's name in messages.
        columns: the columns' names. JSON lines: the keys of the first 100 rows (of the first one
            from standard input).
    """

    def __init__(
        self,
        name: str,
        columns: tuple[str, ...],
        make: Callable[[], Iterator[tuple[int, dict[str, Any]]]],
        *,
        once: bool = False,
        unit: str = "",
    ) -> None:
        self.name = name
        self.columns = columns
        self._make = make
        self._once = once
        self._taken = False
        self._unit = unit

    def __iter__(self) -> Iterator[Row]:
        if self._once and self._taken:
            raise InputError(f"{self.name} can be read only once; write it into a file first")
        self._taken = True
        for position, values in self._make():
            yield Row(values, f"{self.name}:{self._unit}{position}")

    def head(self) -> list[Row]:
        """The first 100 rows; none of what can be read only once."""
        return [] if self._once else list(islice(self, HEAD))


def format_of(path: str | Path) -> str | None:
    """The format that a file's name says, None for another name."""
    name = Path(path).name.lower().removesuffix(".gz")
    for form, suffixes in SUFFIXES.items():
        if name.endswith(suffixes):
            return form
    return None


def read_rows(path: str | Path | IO[Any], bad: BadRows, *, format: str | None = None) -> Rows:
    r"""The rows of a table.

    Text is UTF-8, with or without a byte order mark. CSV and TSV begin with a line of columns'
    names; fields that have the separator, a quote or a line end in them stand in double quotes,
    with quotes doubled. JSON lines are one object a line. Empty lines don't count as rows.

    Args:
        path: a file that ends in .csv, .tsv, .jsonl, .ndjson (each also .gz) or .parquet; or
            ``"-"`` for standard input or an open file: CSV with a header, or JSON lines if its
            first character is ``{``.
        bad: takes rows with another number of columns than the header, lines that aren't UTF-8,
            and broken JSON.
        format: ``csv``, ``tsv``, ``tsv-raw`` (quotes are ordinary characters), ``jsonl`` or
            ``parquet``, where the name doesn't say it.

    Raises:
        DataError: there is no such file, it is empty or damaged, its header has a column twice,
            or a row is bad and the policy is ``"fail"``.
        InputError: the format is unknown; pyarrow is missing for Parquet.

    Example:
        >>> import io
        >>> from ostinato.data import BadRows
        >>> rows = read_rows(io.BytesIO(b"text,label\ngood film,1\n"), BadRows())
        >>> rows.columns, [row.values for row in rows]
        (('text', 'label'), [{'text': 'good film', 'label': '1'}])
    """
    if format is not None and format not in SUFFIXES:
        raise InputError(f"format: expected one of {', '.join(SUFFIXES)}, got {format!r}")
    if isinstance(path, str | Path) and str(path) != "-":
        return _file_rows(Path(path), bad, format)
    if isinstance(path, str | Path):
        return _stream_rows(sys.stdin.buffer, "standard input", bad, format)
    return _stream_rows(path, str(getattr(path, "name", "the open file")), bad, format)


def _file_rows(path: Path, bad: BadRows, form: str | None) -> Rows:
    form = form or format_of(path)
    if form is None:
        known = ", ".join(s for suffixes in SUFFIXES.values() for s in suffixes)
        raise DataError(
            f"{path}: the name doesn't say the format; expected one that ends in {known} "
            f"(text formats also .gz), or --format {'|'.join(SUFFIXES)}"
        )
    name, once = str(path), Once(bad)
    if form == "parquet":
        columns = parquet_columns(path)
        return Rows(name, columns, lambda: parquet_rows(path, once), unit="row ")

    def make() -> Iterator[tuple[int, dict[str, Any]]]:
        return _text_rows(open_lines(path), name, form, once)[1]

    with closing(open_lines(path)) as lines:
        columns, first = _text_rows(lines, name, form, once)
        if form == "jsonl":
            columns = _keys(islice(first, HEAD))
    if not columns:
        raise DataError(f"{name}: there is no row in it that can be read; {bad.summary()}")
    return Rows(name, columns, make)


def _stream_rows(file: IO[Any], name: str, bad: BadRows, form: str | None) -> Rows:
    if form == "parquet":
        raise InputError("Parquet can't be read from standard input; give the file's name")
    lines = lines_of(file)
    head: list[Line] = []
    for line in lines:
        head.append(line)
        if line[1].strip():
            break
    if form is None:
        form = (
            "jsonl" if head and head[-1][1].lstrip(b"\xef\xbb\xbf \t").startswith(b"{") else "csv"
        )
    columns, rows = _text_rows(chain(head, lines), name, form, Once(bad))
    if form == "jsonl":
        taken = list(islice(rows, 1))
        columns, rows = _keys(iter(taken)), chain(taken, rows)
    return Rows(name, columns, lambda: rows, once=True)


def _text_rows(
    lines: Iterator[Line], name: str, form: str, once: Once
) -> tuple[tuple[str, ...], Iterator[tuple[int, dict[str, Any]]]]:
    if form == "jsonl":
        return (), json_rows(lines, name, once)
    separator = "," if form == "csv" else "\t"
    return delimited_rows(lines, name, once, separator=separator, quotes=form != "tsv-raw")


def _keys(rows: Iterator[tuple[int, dict[str, Any]]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for _, values in rows for key in values))


def require_columns(rows: Rows, names: Sequence[str]) -> None:
    """Refuse a table that lacks one of these columns.

    Raises:
        DataError: lists the columns that there are.
    """
    lacking = [name for name in names if name not in rows.columns]
    if not lacking:
        return
    there = ", ".join(map(repr, rows.columns)) or "none"
    hint = ""
    if len(rows.columns) == 1 and any(mark in rows.columns[0] for mark in ";\t|"):
        hint = "; it seems to be separated by something else than its format says"
    raise DataError(
        f"{rows.name}: there is no column {', '.join(map(repr, lacking))}; its columns: {there}"
        f"{hint}"
    )
