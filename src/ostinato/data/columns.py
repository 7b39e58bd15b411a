"""Which columns are meant where nobody said it: by their names, then by what is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ostinato.data.bad_rows import BadValue
from ostinato.data.rows import Row, Rows, require_columns
from ostinato.data.values import number
from ostinato.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ostinato.data.bad_rows import BadRows

TEXT_NAMES = ("text", "review", "sentence", "document", "content", "comment", "message", "body")
LABEL_NAMES = ("label", "class", "target", "y", "category", "sentiment", "tag")
TIME_NAMES = ("time", "date", "datetime", "timestamp", "ds", "year")
#: Characters that the values of a column of texts have on average, at least.
LONG = 20


def named_column(rows: Rows, names: Sequence[str]) -> str | None:
    """The column with the first of these names that is there, in capitals or not."""
    lower = {column.lower(): column for column in reversed(rows.columns)}
    return next((lower[name] for name in names if name in lower), None)


def guess_columns(rows: Rows, text: str | None, label: str | None) -> tuple[str, str]:
    """The columns of texts and of labels.

    A column that is given must be there. Else it is found by its name: ``text``, ``review``,
    ``sentence``, ``document``, ``content``, ``comment``, ``message``, ``body``; ``label``,
    ``class``, ``target``, ``y``, ``category``, ``sentiment``, ``tag``. Else the text is the only
    column whose first 100 values are strings of 20 characters or more on average, and the label
    the other one of two columns.

    Returns:
        (text column, label column)

    Raises:
        DataError: a column isn't there or can't be told; lists the columns.
    """
    return guess_text(rows, text, taken=label), guess_label(rows, label, taken=text)


def guess_text(rows: Rows, text: str | None, taken: str | None = None) -> str:
    """The column of texts, as :func:`guess_columns` says; ``taken`` is another one's.

    Raises:
        DataError: it isn't there or can't be told; lists the columns.
    """
    if text is not None:
        require_columns(rows, [text])
        return text
    found = named_column(rows, TEXT_NAMES)
    if found is not None and found != taken:
        return found
    head = rows.head()
    long = [c for c in rows.columns if c != taken and _is_long(head, c)]
    if len(long) == 1:
        return long[0]
    raise _unknown(rows, "text")


def guess_label(rows: Rows, label: str | None, taken: str | None = None) -> str:
    """The column of labels, as :func:`guess_columns` says; ``taken`` is another one's.

    Raises:
        DataError: it isn't there or can't be told; lists the columns.
    """
    if label is not None:
        require_columns(rows, [label])
        return label
    found = named_column(rows, LABEL_NAMES)
    if found is not None and found != taken:
        return found
    if len(rows.columns) == 2:
        other = guess_text(rows, taken)
        return next(c for c in rows.columns if c != other)
    raise _unknown(rows, "label")


def value_columns(
    rows: Rows, value: Sequence[str] | None, others: Sequence[str | None]
) -> tuple[str, ...]:
    """The columns of numbers: those given, else all but ``others`` whose head has a number.

    A column without a name, as some programs number their rows in, isn't one of them.

    Raises:
        DataError: one isn't there, or there is none.
    """
    if value:
        require_columns(rows, value)
        return tuple(value)
    head = rows.head()
    found = tuple(c for c in rows.columns if c and c not in others and _has_number(head, c))
    if not found:
        raise _unknown(rows, "value")
    return found


def time_column(rows: Rows, time: str | None) -> str | None:
    """The column of times: the one given, else one named time, date, datetime, timestamp, ds, year.

    Raises:
        DataError: the one given isn't there.
    """
    if time is not None:
        require_columns(rows, [time])
        return time
    return named_column(rows, TIME_NAMES)


def no_rows(paths: Sequence[Path], what: str, bad: BadRows) -> DataError:
    """The error where nothing is left of the files."""
    names = ", ".join(map(str, paths))
    return DataError(f"{names}: there is no {what} in it that can be used; {bad.summary()}")


def _is_long(head: Sequence[Row], column: str) -> bool:
    values = [row.values.get(column) for row in head]
    if not values or not all(isinstance(value, str | None) for value in values):
        return False
    return sum(len(value or "") for value in values) >= LONG * len(values)


def _has_number(head: Sequence[Row], column: str) -> bool:
    return any(_is_number(row.values.get(column), column) for row in head)


def _is_number(value: Any, column: str) -> bool:
    try:
        found = number(value, column)
    except BadValue:
        return False
    return found == found


def _unknown(rows: Rows, option: str) -> DataError:
    there = ", ".join(map(repr, rows.columns)) or "none"
    return DataError(
        f"{rows.name}: which column is the {option}? Name it with --{option}; its columns: {there}"
    )
