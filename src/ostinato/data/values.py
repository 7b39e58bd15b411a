"""A row's values as texts, labels, numbers and times; what can't be one is a bad value."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ostinato.data.bad_rows import BadValue

if TYPE_CHECKING:
    from ostinato.data.rows import Row

#: How a missing number is written in text formats, in lower case.
MISSING_NUMBERS = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-"})

#: The largest float32.
LARGEST = (2 - 2.0**-23) * 2.0**127


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def missing(column: str) -> BadValue:
    """That ``column`` has no value in this row."""
    return BadValue(f"{column!r} is missing")


def text_of(row: Row, column: str) -> str:
    """The row's text.

    Raises:
        BadValue: it is missing, empty, or no string.
    """
    value = row.values.get(column)
    if value is None:
        raise missing(column)
    if not isinstance(value, str):
        kind = f"{column!r} isn't a text"
        raise BadValue(f"{kind} but {_shown(value)}", kind)
    if not value.strip():
        raise BadValue(f"{column!r} is empty")
    return value


def label_of(row: Row, column: str) -> str:
    """The row's label as a string: 1, 1.0 and ``"1"`` are one label.

    Raises:
        BadValue: it is missing, or a list or an object.
    """
    value = row.values.get(column)
    if isinstance(value, str):
        value = value.strip()
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        raise missing(column)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float):
        return str(value)
    kind = f"{column!r} isn't a label"
    raise BadValue(f"{kind} but {_shown(value)}", kind)


def number(value: Any, column: str) -> float:
    """A finite number; NaN where it is missing.

    Raises:
        BadValue: it is something else.
    """
    if value is None:
        return math.nan
    try:
        # float() would read "1_000" as 1000, and True as 1.
        odd = isinstance(value, bool) or (isinstance(value, str) and "_" in value)
        found = math.inf if odd or not isinstance(value, str | int | float) else float(value)
    except (ValueError, OverflowError):
        if isinstance(value, str) and value.strip().lower() in MISSING_NUMBERS:
            return math.nan
        found = math.inf
    if math.isinf(found):
        kind = f"{column!r} isn't a finite number"
        raise BadValue(f"{kind} but {_shown(value)}", kind)
    return found


def present_number(value: Any, column: str) -> float:
    """A number that float32 can hold.

    Raises:
        BadValue: it is missing, too large, or something else.
    """
    found = number(value, column)
    if math.isnan(found):
        raise missing(column)
    if abs(found) > LARGEST:
        kind = f"{column!r} is too large for float32"
        raise BadValue(f"{kind}: {found}", kind)
    return found


def time_key(value: Any, column: str) -> tuple[str, float]:
    """``(kind, place)`` of a time: a number, or an ISO 8601 date; without a zone it is UTC.

    Raises:
        BadValue: it is missing or neither.
    """
    if value is None or value == "":
        raise missing(column)
    if isinstance(value, datetime):
        return "date", _seconds(value)
    text = value.isoformat() if hasattr(value, "isoformat") else str(value).strip()
    try:
        found = float(text)
        if math.isfinite(found) and "_" not in text:
            return "number", found
    except ValueError:
        try:
            return "date", _seconds(datetime.fromisoformat(text))
        except ValueError:
            pass
    kind = f"{column!r} is neither a number nor an ISO 8601 date (2026-01-31)"
    raise BadValue(f"{kind} but {_shown(value)}", kind)


def _seconds(moment: datetime) -> float:
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (zoned - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
