"""Readers of numeric series: long, wide, lists, tables over time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ostinato.data import (
    BadRows,
    SeriesExamples,
    SeriesTable,
    read_series_examples,
    read_series_table,
)
from ostinato.errors import DataError, InputError

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def shown(data: SeriesExamples) -> list[tuple[str, list[list[float]]]]:
    assert all(one.dtype == np.float32 for one in data.series)
    return [(label, one.tolist()) for label, one in zip(data.labels, data.series, strict=True)]


# ---- labelled series


def test_long(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        "id,time,x,note,y,label\n"
        "b,2,3,hm,30,up\n"
        "a,10,1,hm,10,down\n"
        "b,1,2,hm,20,up\n"
        "b,10,4,hm,40,up\n"
        "a,9,0,hm,0,down\n",
    )
    data = read_series_examples(path, None, BadRows(), group="id")
    assert data.channels == ("x", "y")
    assert shown(data) == [("up", [[2, 20], [3, 30], [4, 40]]), ("down", [[0, 0], [1, 10]])]
    assert data.where == [f"{path}:2", f"{path}:3"]
    only = read_series_examples(path, None, BadRows(), group="id", value=["y"], time="x")
    assert only.channels == ("y",)
    assert shown(only) == [("up", [[20], [30], [40]]), ("down", [[0], [10]])]


def test_long_without_times_is_in_the_files_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,v,label\n1,5,x\n2,6,y\n1,3,x\n")
    assert shown(read_series_examples(path, None, BadRows(), group="id")) == [
        ("x", [[5], [3]]),
        ("y", [[6]]),
    ]


def test_wide(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ",class,t1,t2,t3\n0,a,1,2.5,-3e2\n1,b,4,,\n")
    data = read_series_examples(path, None, BadRows())
    # The column without a name isn't a value: it numbers the rows.
    assert shown(data) == [("a", [[1], [2.5], [-300]]), ("b", [[4]])]
    assert data.channels == ("value",)
    assert data.where == [f"{path}:2", f"{path}:3"]
    some = read_series_examples(path, None, BadRows("skip"), value=["t3", "t1"])
    assert some.series[0].tolist() == [[-300], [1]]


def test_lists(tmp_path: Path) -> None:
    one = write(tmp_path / "a.jsonl", '{"s": [1, 2.5], "label": 1}\n{"label": 0, "s": [3]}\n')
    data = read_series_examples(one, None, BadRows())
    assert shown(data) == [("1", [[1], [2.5]]), ("0", [[3]])]
    assert data.channels == ("s",)
    two = write(tmp_path / "b.jsonl", '{"s": [[1, 2], [3, 4], [5, 6]], "label": 1, "o": [1]}\n')
    with pytest.raises(DataError, match="several columns have lists: 'o', 's'; name one"):
        read_series_examples(two, None, BadRows())
    data = read_series_examples(two, None, BadRows(), value=["s"])
    assert shown(data) == [("1", [[1, 2], [3, 4], [5, 6]])]
    assert data.channels == ("s_0", "s_1")


def test_lists_of_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"label": ["x", "y"], "v": [[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]]})
    parquet.write_table(table, path)
    data = read_series_examples(path, None, BadRows())
    assert shown(data) == [("x", [[1, 2]]), ("y", [[3, 4], [5, 6]])]
    assert data.where == [f"{path}:row 1", f"{path}:row 2"]


def test_several_files(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.csv", "id,v,label\n1,5,x\n"),
        write(tmp_path / "b.csv", "id,v,label\n1,6,y\n"),
    ]
    data = read_series_examples(paths, None, BadRows(), group="id")
    assert shown(data) == [("x", [[5]]), ("y", [[6]])]
    paths.append(write(tmp_path / "c.csv", "id,w,label\n1,6,y\n"))
    with pytest.raises(DataError, match=r"c\.csv: expected the channels \('v',\), got \('w',\)"):
        read_series_examples(paths, None, BadRows(), group="id")


def test_series_that_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "name,label\nx,1\n")
    with pytest.raises(DataError, match=r"which column is the value\? .*--value"):
        read_series_examples(path, None, BadRows())
    with pytest.raises(DataError, match="there is no column 'id'"):
        read_series_examples(path, None, BadRows(), group="id")
    with pytest.raises(InputError, match="a column of times needs the column that groups"):
        read_series_examples(path, None, BadRows(), time="name")
    with pytest.raises(InputError, match=r"a:1: a series is \(T, 2\), got \(3, 1\)"):
        SeriesExamples([np.zeros((3, 1), np.float32)], ["x"], ("a", "b"), ["a:1"])


def test_subset_and_keys() -> None:
    series = [np.full((2, 1), v, np.float32) for v in (1, 2, 1)]
    data = SeriesExamples(series, ["x", "y", "z"], ("v",), ["a:1", "a:2", "a:3"])
    keys = data.keys()
    assert keys[0] == keys[2] != keys[1]
    assert shown(data.subset([2])) == [("z", [[1], [1]])]
    assert len(data.subset([2, 0])) == 2


# ---- tables over time


def test_one_run_of_time(tmp_path: Path) -> None:
    path = write(
        tmp_path / "co2.csv",
        ",Date,co2,station,ch4\n0,1958-04-05,317.3,MLO,\n1,1958-03-29,316.1,MLO,NaN\n"
        "2,1958-04-12,,MLO,1.5\n",
    )
    table = read_series_table(path, None, None, BadRows())
    assert table.names == ("co2", "ch4")
    assert table.times == ["1958-03-29", "1958-04-05", "1958-04-12"]
    nan = float("nan")
    wanted = [[316.1, nan], [317.3, nan], [nan, 1.5]]
    np.testing.assert_array_equal(table.values, np.array(wanted))
    assert table.values.dtype == np.float64
    assert table.groups == {"": slice(0, 3)}
    assert table.where == [f"{path}:3", f"{path}:2", f"{path}:4"]
    assert read_series_table(path, "Date", ["ch4"], BadRows()).names == ("ch4",)


def test_runs_of_several_groups(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "shop,day,sold\nB,2,5\nA,1,1\nB,1,4\nA,3,3\nA,2,2\n")
    table = read_series_table(path, "day", None, BadRows(), group="shop")
    assert table.groups == {"B": slice(0, 2), "A": slice(2, 5)}
    assert table.values[:, 0].tolist() == [4, 5, 1, 2, 3]
    assert table.times == ["1", "2", "1", "2", "3"]
    some = table.subset([1, 3, 4])
    assert some.groups == {"B": slice(0, 1), "A": slice(1, 3)}
    assert some.values[:, 0].tolist() == [5, 2, 3]
    assert table.subset([2, 3]).groups == {"A": slice(0, 2)}
    assert table.subset([]).groups == {}
    with pytest.raises(InputError, match="ascending row numbers"):
        table.subset([1, 0])


@pytest.mark.parametrize(
    ("times", "order"),
    [
        (["10", "9", "9.5"], [1, 2, 0]),
        (["1e3", "-1", "0"], [1, 2, 0]),
        (["2026-01-02T00:00", "2026-01-01", "2026-01-01T12:00:00"], [1, 2, 0]),
        (["2026-01-01T12:00+02:00", "2026-01-01T11:00Z", "2026-01-01T10:30"], [0, 2, 1]),
    ],
)
def test_times_are_sorted_as_times(
    times: list[str], order: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A time without a zone isn't the machine's.
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    rows = "".join(f"{moment},{i}\n" for i, moment in enumerate(times))
    path = write(tmp_path / "a.csv", "when,v\n" + rows)
    table = read_series_table(path, "when", None, BadRows())
    assert table.values[:, 0].tolist() == order
    assert table.times == [times[i] for i in order]
    monkeypatch.undo()
    time.tzset()


def test_without_times_the_rows_are_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "v\n3\n1\n")
    table = read_series_table(path, None, None, BadRows())
    assert (table.times, table.values[:, 0].tolist()) == (["1", "2"], [3, 1])


def test_dates_of_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    import datetime

    days = [datetime.date(2026, 1, 2), datetime.date(2026, 1, 1)]
    for values in (days, [datetime.datetime(d.year, d.month, d.day, 5) for d in days]):
        path = tmp_path / "a.parquet"
        parquet.write_table(pyarrow.table({"date": values, "v": [2.0, None]}), path)
        table = read_series_table(path, None, ["v"], BadRows())
        np.testing.assert_array_equal(table.values[:, 0], [np.nan, 2])
        assert table.times[0].startswith("2026-01-01")


def test_a_table_of_several_files(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.csv", "year,v\n2001,2\n"),
        write(tmp_path / "b.csv", "year,v\n2000,1\n"),
    ]
    table = read_series_table(paths, None, None, BadRows())
    assert table.values[:, 0].tolist() == [1, 2]
    assert table.groups == {"": slice(0, 2)}
    paths.append(write(tmp_path / "c.csv", "year,w\n2000,1\n"))
    with pytest.raises(DataError, match=r"c\.csv: expected the value columns \('v',\), got"):
        read_series_table(paths, None, None, BadRows())


def test_a_table_fits_together() -> None:
    with pytest.raises(InputError, match="got 1 times, 2 values, 2 where"):
        SeriesTable(("a",), ["1"], np.zeros((2, 1)), {"": slice(0, 2)}, ["x", "y"])
    with pytest.raises(InputError, match=r"values are \(N, 2\), got \(1, 1\)"):
        SeriesTable(("a", "b"), ["1"], np.zeros((1, 1)), {"": slice(0, 1)}, ["x"])
