"""A run of time: the rows of one group, with when each was."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ostinato.data.bad_rows import BadValue
from ostinato.data.values import present_number, time_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ostinato.data.bad_rows import BadRows
    from ostinato.data.rows import Row


@dataclass
class Run:
    """The rows of one group, in the file's order."""

    label: str = ""
    keys: list[float] = field(default_factory=list)
    times: list[str] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    def add(self, key: float, time: str, values: list[float], where: str) -> None:
        """Add a row: where it stands in time, its time as written, its values, its place."""
        self.keys.append(key)
        self.times.append(time)
        self.values.append(values)
        self.places.append(where)

    def read(self, row: Row, clock: Clock, names: Sequence[str]) -> None:
        """Add a row as a step that has a number for each channel, or raise BadValue."""
        values = [present_number(row.values.get(column), column) for column in names]
        key, written = clock.read(row, len(self.keys))
        self.add(key, written, values, row.where)

    def series(self, bad: BadRows) -> NDArray[np.float32]:
        """``(T, C)``, sorted by time."""
        return np.array(self.values, dtype=np.float32)[self.order(bad)]

    def order(self, bad: BadRows) -> list[int]:
        """The rows sorted by time; of two at the same time the second is bad."""
        order: list[int] = []
        for i in sorted(range(len(self.keys)), key=self.keys.__getitem__):
            if order and self.keys[order[-1]] == self.keys[i]:
                kind = "the same time twice"
                why = f"{kind}: {self.times[i]} is in {self.places[order[-1]]} too"
                bad.reject(self.places[i], why, kind)
            else:
                order.append(i)
        return order


class Clock:
    """The times of rows: all numbers, or all dates, or, without a column, the rows' order."""

    def __init__(self, column: str | None) -> None:
        self._column = column
        self._kind: str | None = None

    def read(self, row: Row, count: int) -> tuple[float, str]:
        """Where the row stands in time, and its time as it is written.

        Args:
            row: the row.
            count: rows of its group before it.

        Raises:
            BadValue: it isn't a time, or not one like those before.
        """
        if self._column is None:
            return float(count), str(count + 1)
        value = row.values.get(self._column)
        kind, key = time_key(value, self._column)
        if kind != (self._kind or kind):
            why = f"{self._column!r} is a {kind}, but was a {self._kind} before"
            raise BadValue(f"{why}: {value!r}", why)
        self._kind = kind
        return key, _written(value)


def _written(value: Any) -> str:
    return value.strip() if isinstance(value, str) else str(value)
