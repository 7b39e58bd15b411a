"""The formats of tables: from numbered lines, or a Parquet file, to numbered rows."""

from __future__ import annotations

import csv
import json
from collections import Counter, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ostinato.errors import DataError, InputError

if TYPE_CHECKING:
    from pathlib import Path

    from ostinato.data.bad_rows import Once
    from ostinato.data.lines import Line

#: Characters in a field of CSV at most. A quote that nobody closes reads this far.
LONGEST_FIELD = 16 << 20
#: Rows of Parquet in memory at a time.
PARQUET_ROWS = 1024

NumberedRows = Iterator[tuple[int, dict[str, Any]]]
NOT_UTF8 = "the line isn't UTF-8"


class _Feed:
    """Lines for the csv reader, which can be taken back when they turn out to be no row.

    Attributes:
        start: the number of the first line of the record that is being read.
        taken: the record's lines so far.
        broken: the numbers of those that aren't UTF-8.
    """

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._returned: deque[Line] = deque()
        self.start = 0
        self.taken: list[Line] = []
        self.broken: list[int] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, raw = self._returned.popleft() if self._returned else next(self._lines)
        if not self.taken:
            self.start = number
        self.taken.append((number, raw))
        try:
            return raw.decode() + "\n"
        except UnicodeDecodeError:
            self.broken.append(number)
            return raw.decode("utf-8", "replace") + "\n"

    def next_record(self) -> None:
        """What is read now belongs to another record."""
        self.taken.clear()
        self.broken.clear()

    def again_from_second_line(self) -> None:
        """What was read wasn't one record: only its first line is given up."""
        self._returned.extendleft(reversed(self.taken[1:]))


def delimited_rows(
    lines: Iterator[Line], name: str, once: Once, *, separator: str, quotes: bool
) -> tuple[tuple[str, ...], NumberedRows]:
    """The header and the rows of CSV or TSV.

    Raises:
        DataError: the header is missing, broken, or has a column twice.
    """
    # The limit is the process's; it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
    feed = _Feed(lines)
    reader = csv.reader(
        feed,
        delimiter=separator,
        strict=True,
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
    )
    header: list[str] = []
    try:
        while not header:
            feed.next_record()
            header = next(reader)
    except StopIteration:
        raise DataError(f"{name}: it is empty; expected a line of columns' names") from None
    except csv.Error as error:
        raise DataError(f"{name}:{feed.start}: the columns' names: {_broken(error)}") from None
    if feed.broken:
        raise DataError(f"{name}:{feed.broken[0]}: the line of columns' names isn't UTF-8")
    columns = tuple(column.strip() for column in header)
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if twice:
        raise DataError(f"{name}:{feed.start}: the column {twice[0]!r} is there twice")
    return columns, _records(feed, reader, columns, name, once)


def _records(
    feed: _Feed, reader: Iterator[list[str]], columns: tuple[str, ...], name: str, once: Once
) -> NumberedRows:
    width = len(columns)
    while True:
        feed.next_record()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            why = _broken(error)
            if len(feed.taken) > 1:
                why += f" (noticed in line {feed.taken[-1][0]})"
            once.reject(feed.start, f"{name}:{feed.start}", why, _broken(error))
            feed.again_from_second_line()
            continue
        if feed.broken:
            once.reject(feed.start, f"{name}:{feed.broken[0]}", NOT_UTF8)
        elif not fields:
            continue
        elif len(fields) != width:
            why = f"expected {width} columns as in the header, got {len(fields)}"
            once.reject(feed.start, f"{name}:{feed.start}", why, "wrong number of columns")
        else:
            yield feed.start, dict(zip(columns, fields, strict=True))


def _broken(error: csv.Error) -> str:
    """What the csv reader found, in our words."""
    text = str(error)
    if "new-line" in text:
        return "a carriage return inside a row; lines end in \\n or \\r\\n"
    if "end of data" in text or "field limit" in text:
        return "a quote is opened and never closed"
    return 'text after a closing quote; a quote inside a field is written ""'


def json_rows(lines: Iterator[Line], name: str, once: Once) -> NumberedRows:
    """The rows of JSON lines."""
    for number, raw in lines:
        if not raw or raw.isspace():
            continue
        where = f"{name}:{number}"
        try:
            value = json.loads(raw.decode())
            if rb"\u" in raw:  # half of a surrogate pair is no character, and can't be written
                json.dumps(value, ensure_ascii=False).encode()
        except UnicodeError:
            once.reject(number, where, NOT_UTF8)
            continue
        except (ValueError, RecursionError) as error:
            once.reject(number, where, f"broken JSON: {error}", "broken JSON")
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            why = f"expected a JSON object, got {type(value).__name__}"
            once.reject(number, where, why, "not a JSON object")


def _parquet(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f"{path}: Parquet needs pyarrow; pip install 'ostinato[parquet]'"
        ) from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: it can't be read as Parquet ({error})") from None


def parquet_columns(path: Path) -> tuple[str, ...]:
    """The columns' names.

    Raises:
        DataError: it isn't a whole Parquet file.
        InputError: pyarrow isn't installed.
    """
    with _parquet(path) as file:
        return tuple(file.schema_arrow.names)


def parquet_rows(path: Path, once: Once) -> NumberedRows:
    """The rows of a Parquet file, some at a time."""
    import pyarrow

    with _parquet(path) as file:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                try:
                    some = batch.to_pylist()
                except UnicodeDecodeError:
                    some = [_parquet_row(batch, i) for i in range(batch.num_rows)]
                for values in some:
                    number += 1
                    if values is None:
                        once.reject(number, f"{path}:row {number}", "the row isn't UTF-8")
                    else:
                        yield number, values
        except pyarrow.ArrowException as error:
            raise DataError(f"{path}: damaged after row {number} ({error})") from None


def _parquet_row(batch: Any, index: int) -> dict[str, Any] | None:
    try:
        values: dict[str, Any] = batch.slice(index, 1).to_pylist()[0]
        return values
    except UnicodeDecodeError:
        return None
