"""Runs of time, their parts, and the origins that forecasts are made from.

An *origin* is the row that the first forecast value belongs to: what lies before it is the past,
``horizon`` rows from it on are the targets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ostinato.data.examples import SeriesTable

    Floats = NDArray[np.float64]
    Rows = NDArray[np.int64]

#: Shares of a run's rows, in order of time: what is learnt from, what choices are made on.
TRAIN, VALIDATION = 0.65, 0.15


@dataclass(frozen=True)
class Run:
    """One run of time of C series.

    Attributes:
        name: its group.
        times: N times as written.
        values: ``(N, C)``; NaN is missing.
        filled: the same without gaps: a straight line between the neighbours in time, and at the
            ends the nearest value.
    """

    name: str
    times: list[str]
    values: Floats
    filled: Floats = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "filled", fill(self.values))

    def __len__(self) -> int:
        return len(self.values)

    def cuts(self) -> tuple[int, int]:
        """The rows that the validation and the test part begin with."""
        return int(len(self) * TRAIN), int(len(self) * (TRAIN + VALIDATION))

    def training(self) -> Floats | None:
        """The training part, its gaps filled from itself; None if a series has no value there."""
        part = self.values[: self.cuts()[0]]
        return fill(part) if (~np.isnan(part)).any(0).all() else None

    def origins(self, window: int, horizon: int, start: int, stop: int) -> Rows:
        """The origins with ``window`` rows before them whose targets are in ``start`` to ``stop``.

        The past may lie before ``start``. Its last row has no missing value, so that each gap in
        it lies between values of the past, and filling it looks at nothing later; and there is a
        target that isn't missing.
        """
        found = np.arange(max(start, window), stop - horizon + 1)
        if not len(found):
            return found
        known: NDArray[np.bool_] = ~np.isnan(self.values)
        whole, some = np.asarray(known.all(1)), np.asarray(known.any(1))
        ahead = np.lib.stride_tricks.sliding_window_view(some, horizon).any(1)
        chosen: Rows = found[whole[found - 1] & np.asarray(ahead)[found]]
        return chosen

    def targets(self, origins: Rows, horizon: int) -> Floats:
        """``(M, horizon, C)``; NaN where a value is missing."""
        return self.values[origins[:, None] + np.arange(horizon)]


def runs_of(table: SeriesTable) -> list[Run]:
    """The table's runs that have a value in each series."""
    return [
        Run(name, table.times[rows], table.values[rows])
        for name, rows in table.groups.items()
        if (~np.isnan(table.values[rows])).any(0).all()
    ]


def fill(values: Floats) -> Floats:
    """``(N, C)`` with a straight line over each gap; needs one value in each column.

    >>> fill(np.array([[1.0], [np.nan], [2.0], [np.nan]]))[:, 0].tolist()
    [1.0, 1.5, 2.0, 2.0]
    """
    steps = np.arange(len(values))
    columns = []
    for column in values.T:
        known = ~np.isnan(column)
        columns.append(np.interp(steps, steps[known], column[known]))
    return np.stack(columns, axis=1)
