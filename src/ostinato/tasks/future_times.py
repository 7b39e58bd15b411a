"""The times that follow a series of times, where their rhythm can be told."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Times whose rhythm is looked at.
LAST = 25
#: Years in which eight digits are a date and no number.
CENTURIES = range(1800, 2200)


def future_times(times: Sequence[str], count: int) -> list[str | None]:
    """``count`` times after the last one, written like it.

    Whole numbers and ISO 8601 dates that keep one distance, and dates on the same day of months
    that do, go on so. Where the last 25 times have no such rhythm, None stands for each.

    >>> future_times(["1999", "2000"], 2)
    ['2001', '2002']
    >>> future_times(["2000-11-30", "2000-12-31"], 1)
    ['2001-01-31']
    >>> future_times(["2000-11-30", "2000-12-02", "2000-12-03"], 1)
    [None]
    """
    last = times[-LAST:]
    dates = _read(last)
    if dates is None:
        try:
            return _numbers([int(time) for time in last], count)
        except ValueError:
            return [None] * count
    write = _writer(last[-1], dates[-1])
    return [None if date is None else write(date) for date in _dates(dates, count)]


def _read(times: Sequence[str]) -> list[datetime] | None:
    """The times as dates, if all are; eight digits are one if the year is of these centuries."""
    try:
        dates = [datetime.fromisoformat(time) for time in times]
    except ValueError:
        return None
    # Some with a zone and some without can't be compared.
    if not dates or len({date.tzinfo is None for date in dates}) > 1:
        return None
    digits = all(time.isdecimal() for time in times)
    return None if digits and not all(date.year in CENTURIES for date in dates) else dates


def _writer(written: str, date: datetime) -> Callable[[datetime], str]:
    """How ``date`` was written."""
    kinds: list[Callable[[datetime], str]] = [
        lambda d: d.date().isoformat(),
        lambda d: d.strftime("%Y%m%d"),
        *(
            lambda d, sep=separator, spec=spec, zone=zone: d.isoformat(sep, spec).replace(*zone)
            for separator in "T "
            for spec in ("minutes", "seconds", "milliseconds", "microseconds")
            for zone in (("", ""), ("+00:00", "Z"))
        ),
    ]
    return next((kind for kind in kinds if kind(date) == written), datetime.isoformat)


def _numbers(values: list[int], count: int) -> list[str | None]:
    steps = {b - a for a, b in pairwise(values)}
    if len(steps) != 1:
        return [None] * count
    step = steps.pop()
    return [str(values[-1] + step * (k + 1)) for k in range(count)]


def _dates(dates: list[datetime], count: int) -> list[datetime | None]:
    pairs = list(pairwise(dates))
    if len({b - a for a, b in pairs}) == 1:
        apart = pairs[0][1] - pairs[0][0]
        return [dates[-1] + apart * (k + 1) for k in range(count)]
    months = {(b.year - a.year) * 12 + b.month - a.month for a, b in pairs}
    # Month ends are on different days: the 31st, or the last one there is.
    day = max((date.day for date in dates), default=0)
    if len(months) != 1 or 0 in months or any(_on(date, 0, day) != date for date in dates):
        return [None] * count
    step = months.pop()
    return [_on(dates[-1], step * (k + 1), day) for k in range(count)]


def _on(date: datetime, months: int, day: int) -> datetime:
    """``months`` later, on ``day`` or the month's last one."""
    year, month = divmod(date.year * 12 + date.month - 1 + months, 12)
    after = datetime(year + (month == 11), (month + 1) % 12 + 1, 1)
    last = (after - timedelta(days=1)).day
    return date.replace(year=year, month=month + 1, day=min(day, last))
