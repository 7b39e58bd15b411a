"""Finds the season of series, in steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ostinato.tasks.rolling import Run

    Floats = NDArray[np.float64]

#: A season must explain this much of the series' variation to be found.
SEASONAL = 0.3
#: How far the autocorrelation goes down before a season's peak, at least.
DIP = 0.2
#: A multiple of the season may have a peak that is this much higher, by chance.
NEAR = 0.8
#: Rows of a training part that are too few for one.
SHORT = 12


def find_season(runs: Sequence[Run]) -> int:
    """The season of the training parts, in steps; 1 where there is none.

    It is the smallest lag at which the autocorrelation, after a parabola is taken off, has a peak
    above 0.3, which is 0.2 above some earlier lag's and at least 0.8 of the highest such peak. The
    autocorrelation is the mean over the series that have such
    a peak, in the runs at least half as long as the longest one; lags up to a third of the shortest
    of these are looked at.
    """
    parts = [part for run in runs if (part := run.training()) is not None and len(part) > SHORT]
    longest = max(map(len, parts), default=0)
    parts = [part for part in parts if 2 * len(part) >= longest]
    lags = min(map(len, parts), default=0) // 3
    found = []
    for part in parts:
        steps = np.linspace(-1, 1, len(part))
        for column in part.T:
            rest = column - np.polyval(np.polyfit(steps, column, 2), steps)
            if rest.std() > 1e-9 * abs(column).max():
                one = _autocorrelation(rest)[:lags]
                # A series of noise would only blur what the others say.
                if len(_peaks(one)):
                    found.append(one)
    mean = np.mean(found, axis=0) if found else np.zeros(lags)
    peaks = _peaks(mean)
    if not len(peaks):
        return 1
    return int(peaks[mean[peaks] >= NEAR * mean[peaks].max()][0])


def _peaks(values: Floats) -> NDArray[np.int64]:
    """Lags from 2 on."""
    inner = values[1:-1]
    found = 1 + np.flatnonzero((inner >= values[:-2]) & (inner > values[2:]) & (inner > SEASONAL))
    # In between a season goes down; ripples of what only moves slowly don't.
    lowest = np.minimum.accumulate(values)
    return found[(found > 1) & (values[found] > lowest[found] + DIP)]


def _autocorrelation(rest: Floats) -> Floats:
    """Of each lag the mean product, without the bias of fewer pairs at longer lags."""
    count = len(rest)
    power = np.abs(np.fft.rfft(rest - rest.mean(), 2 * count)) ** 2
    found: Floats = np.fft.irfft(power)[:count] / np.arange(count, 0, -1) / rest.var()
    return found
