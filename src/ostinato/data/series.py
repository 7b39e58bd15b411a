"""Reads numeric series: labelled ones, long or wide, and tables of values over time."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from ostinato.data.bad_rows import BadValue
from ostinato.data.columns import guess_label, no_rows, time_column, value_columns
from ostinato.data.examples import SeriesExamples, SeriesTable
from ostinato.data.reading import Paths, paths_of
from ostinato.data.rows import Row, Rows, read_rows, require_columns
from ostinato.data.runs import Clock, Run
from ostinato.data.values import label_of, number, present_number
from ostinato.errors import DataError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from ostinato.data.bad_rows import BadRows


def read_series_examples(
    paths: Paths,
    label: str | None,
    bad: BadRows,
    *,
    group: str | None = None,
    time: str | None = None,
    value: Sequence[str] | None = None,
    format: str | None = None,
) -> SeriesExamples:
    """Labelled numeric series.

    - Long, with ``group``: a row is one step of the series that its group names, sorted by time;
      without a column of times (named, or called time, date, ...) in the file's order. Each value
      column is a channel. A row that is left out is a step left out.
    - Wide, without ``group``: a row is one series with one channel, its value columns the steps
      in order. Empty cells at the end make a shorter series.
    - Lists (JSON lines, Parquet), without ``group``: ``value`` is one column whose values are
      lists: of T numbers, or of T lists of C numbers.

    Args:
        paths: one or several files, as of :func:`~ostinato.data.read_rows`.
        label: the column of labels; None: :func:`~ostinato.data.guess_columns` tells.
        bad: takes rows with a number that is missing or none, a missing label or group, a label
            that differs within a group, a time that can't be read or is there twice.
        group: the column that names a row's series.
        time: the column of times, numbers or ISO 8601 dates.
        value: the columns of values; None: every other one with numbers in its first 100 rows.
        format: of all the files, where their names don't say it.

    Raises:
        DataError: a file or a column isn't there, files don't have the same channels, or no
            series can be used.
        InputError: ``time`` without ``group``.
    """
    if time is not None and group is None:
        raise InputError("a column of times needs the column that groups rows into series: group")
    series: list[NDArray[np.float32]] = []
    labels: list[str] = []
    where: list[str] = []
    channels: tuple[str, ...] | None = None
    for path in paths_of(paths):
        rows = read_rows(path, bad, format=format)
        label_column = guess_label(rows, label)
        if group is not None:
            found = _long(rows, label_column, group, time, value, bad)
        else:
            found = _one_a_row(rows, label_column, value, bad)
        if not found.series:
            continue
        if channels is not None and channels != found.channels:
            raise DataError(f"{path}: expected the channels {channels}, got {found.channels}")
        channels = found.channels
        series += found.series
        labels += found.labels
        where += found.where
    if channels is None:
        raise no_rows(paths_of(paths), "series", bad)
    return SeriesExamples(series, labels, channels, where)


def steps_of(
    rows: Sequence[Row], time: str | None, names: Sequence[str], bad: BadRows
) -> NDArray[np.float32]:
    """The series ``(T, C)`` whose steps are the rows of one group, sorted by time.

    Args:
        rows: one or more.
        time: as of :func:`read_series_examples`.
        names: the C channels' columns.
        bad: takes rows with a number or a time that is missing or can't be read.
    """
    clock, run = Clock(time_column(_columns_of(rows[0]), time)), Run()
    for row in rows:
        try:
            run.read(row, clock, names)
        except BadValue as error:
            bad.reject(row.where, error.why, error.kind)
    return run.series(bad)


def _long(
    rows: Rows,
    label: str,
    group: str,
    time: str | None,
    value: Sequence[str] | None,
    bad: BadRows,
) -> SeriesExamples:
    require_columns(rows, [group])
    time = time_column(rows, time)
    names = value_columns(rows, value, (label, group, time))
    clock, runs = Clock(time), dict[str, Run]()
    for row in rows:
        try:
            name, found = label_of(row, group), label_of(row, label)
            run = runs.get(name) or Run(found)
            if run.label != found:
                kind = f"{label!r} differs within a {group!r}"
                raise BadValue(f"{kind}: {found!r}, but {run.label!r} in {run.places[0]}", kind)
            run.read(row, clock, names)
        except BadValue as error:
            bad.reject(row.where, error.why, error.kind)
            continue
        runs[name] = run
    series = [run.series(bad) for run in runs.values()]
    labels = [run.label for run in runs.values()]
    return SeriesExamples(series, labels, names, [run.places[0] for run in runs.values()])


def columns_left_out(rows: Rows, label: str) -> tuple[str, ...]:
    """Of series in wide form, the columns that are no steps; none where a column has lists.

    Raises:
        DataError: there is no column of numbers.
    """
    if _list_column(rows, None) is not None:
        return ()
    steps = value_columns(rows, None, (label,))
    return tuple(column for column in rows.columns if column not in steps)


def _one_a_row(rows: Rows, label: str, value: Sequence[str] | None, bad: BadRows) -> SeriesExamples:
    lists = _list_column(rows, value)
    read: Callable[[Row], NDArray[np.float32]]
    if lists is None:
        names = value_columns(rows, value, (label,))
        read = lambda row: wide_series(row, names)  # noqa: E731
    else:
        read = lambda row: listed_series(row, lists)  # noqa: E731
    series: list[NDArray[np.float32]] = []
    labels: list[str] = []
    where: list[str] = []
    for row in rows:
        try:
            found, one = label_of(row, label), read(row)
            if series and one.shape[1] != series[0].shape[1]:
                kind = "the number of channels differs"
                raise BadValue(f"{kind}: {one.shape[1]}, before {series[0].shape[1]}", kind)
        except BadValue as error:
            bad.reject(row.where, error.why, error.kind)
            continue
        labels.append(found)
        series.append(one)
        where.append(row.where)
    count = series[0].shape[1] if series else 1
    name = lists or "value"
    channels = (name,) if count == 1 else tuple(f"{name}_{c}" for c in range(count))
    return SeriesExamples(series, labels, channels, where)


def _list_column(rows: Rows, value: Sequence[str] | None) -> str | None:
    """The column whose values are lists, if the file has its series so."""
    if value:
        require_columns(rows, value)
    candidates = list(value or rows.columns)
    found = {
        column
        for row in rows.head()
        for column in candidates
        if isinstance(row.values.get(column), list)
    }
    if len(found) > 1:
        shown = ", ".join(map(repr, sorted(found)))
        raise DataError(f"{rows.name}: several columns have lists: {shown}; name one with --value")
    return found.pop() if found else None


def wide_series(row: Row, names: Sequence[str]) -> NDArray[np.float32]:
    """The series ``(T, 1)`` whose steps are the columns ``names`` of a row.

    Raises:
        BadValue: a number is missing within it, none, or infinite; or there is none at all.
    """
    values = [number(row.values.get(column), column) for column in names]
    while values and np.isnan(values[-1]):
        values.pop()
    if not values:
        raise BadValue("the series is empty")
    gap = next((c for c, v in zip(names, values, strict=False) if np.isnan(v)), None)
    if gap is not None:
        kind = "a number is missing within the series"
        raise BadValue(f"{kind}: {gap!r}", kind)
    return np.array(values, dtype=np.float32)[:, None]


def listed_series(row: Row, column: str) -> NDArray[np.float32]:
    """The series ``(T, C)`` that is a list in ``column``: of T numbers, or T lists of C numbers.

    Raises:
        BadValue: it is no such list, or a number is missing, none, or infinite.
    """
    value = row.values.get(column)
    if not isinstance(value, list) or not value:
        raise BadValue(f"{column!r} isn't a list of one or more steps")
    steps = [step if isinstance(step, list) else [step] for step in value]
    if len({len(step) for step in steps}) > 1 or not steps[0]:
        raise BadValue(f"{column!r} has steps with different numbers of channels")
    numbers = [[present_number(v, column) for v in step] for step in steps]
    return np.array(numbers, dtype=np.float32)


def read_series_table(
    paths: Paths,
    time: str | None,
    value: Sequence[str] | None,
    bad: BadRows,
    *,
    group: str | None = None,
    format: str | None = None,
) -> SeriesTable:
    """Series over time, to forecast: a row is one time, a value column one series.

    Without ``group`` that is one run of time (wide). With it, the rows of each group are a run of
    time of their own (long). Runs are sorted by time. A value that is missing (empty, NA, NaN,
    null) is NaN; so is one that is no number, after ``bad`` has taken it, so that no time drops
    out of the run. Several files are read as one table.

    Args:
        paths: one or several files, as of :func:`~ostinato.data.read_rows`.
        time: the column of times, numbers or ISO 8601 dates; None: one called time, date,
            datetime, timestamp, ds or year; else the rows' order.
        value: the columns of values; None: every other one with numbers in its first 100 rows.
        bad: takes values that are no number; rows whose time is missing, can't be read or is
            there twice, or whose group is missing.
        group: the column that names the run.
        format: of all the files, where their names don't say it.

    Raises:
        DataError: a file or a column isn't there, or no row can be used.
    """
    runs: dict[str, Run] = {}
    names: tuple[str, ...] | None = None
    clock: Clock | None = None
    for path in paths_of(paths):
        rows = read_rows(path, bad, format=format)
        if group is not None:
            require_columns(rows, [group])
        time = time_column(rows, time)
        found = value_columns(rows, value, (time, group))
        names, clock = names or found, clock or Clock(time)
        if found != names:
            raise DataError(f"{path}: expected the value columns {names}, got {found}")
        for row in rows:
            _add(row, clock, runs, names, group, bad)
    if not runs or names is None:
        raise no_rows(paths_of(paths), "row", bad)
    return _table(names, runs, bad)


def series_table_of(
    rows: Iterable[Row],
    time: str | None,
    names: Sequence[str],
    bad: BadRows,
    *,
    group: str | None = None,
) -> SeriesTable:
    """As :func:`read_series_table`, from rows that are at hand: of several files, of a stream.

    Args:
        rows: all of one kind; the first one's columns are looked at.
        time: as of :func:`read_series_table`.
        names: the columns of values.
        bad: as of :func:`read_series_table`.
        group: as of :func:`read_series_table`.

    Raises:
        DataError: a column isn't there, or no row can be used.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        raise DataError("there is no row")
    head = _columns_of(first)
    require_columns(head, [*names, *([group] if group is not None else [])])
    clock, runs = Clock(time_column(head, time)), dict[str, Run]()
    for row in chain([first], rows):
        _add(row, clock, runs, names, group, bad)
    if not runs:
        raise DataError(f"{first.where}: no row can be used; {bad.summary()}")
    return _table(tuple(names), runs, bad)


def _columns_of(row: Row) -> Rows:
    """A table of the row's columns, without rows."""
    return Rows(row.where, tuple(row.values), lambda: iter(()))


def _add(
    row: Row,
    clock: Clock,
    runs: dict[str, Run],
    names: Sequence[str],
    group: str | None,
    bad: BadRows,
) -> None:
    try:
        name = "" if group is None else label_of(row, group)
        run = runs.get(name) or Run()
        key, written = clock.read(row, len(run.keys))
    except BadValue as error:
        bad.reject(row.where, error.why, error.kind)
        return
    values = []
    for column in names:
        try:
            values.append(number(row.values.get(column), column))
        except BadValue as error:
            bad.reject(row.where, error.why, error.kind)
            values.append(np.nan)
    runs[name] = run
    run.add(key, written, values, row.where)


def _table(names: tuple[str, ...], runs: dict[str, Run], bad: BadRows) -> SeriesTable:
    times: list[str] = []
    where: list[str] = []
    values: list[NDArray[np.float64]] = []
    groups: dict[str, slice] = {}
    for name, run in runs.items():
        order = run.order(bad)
        groups[name] = slice(len(times), len(times) + len(order))
        times += [run.times[i] for i in order]
        where += [run.places[i] for i in order]
        values.append(np.array(run.values, dtype=np.float64)[order])
    return SeriesTable(names, times, np.concatenate(values), groups, where)
