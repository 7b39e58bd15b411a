"""Bad rows: the policy, the counts, and the line that each kind of bad row is reported with."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from ostinato.data import (
    BadRows,
    count_tokens,
    read_rows,
    read_series_examples,
    read_series_table,
    read_tagged,
    read_text_examples,
    read_text_stream,
)
from ostinato.data.bad_rows import Once, Policy
from ostinato.errors import DataError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Recorder(BadRows):
    """Keeps every rejection, not five."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.all: list[str] = []

    def reject(self, where: str, why: str, kind: str | None = None) -> None:
        super().reject(where, why, kind)
        self.all.append(f"{where}: {why}")


def texts(path: Path, bad: BadRows) -> list[str]:
    return read_text_examples(path, None, None, bad).texts


def groups(path: Path, bad: BadRows) -> list[list[float]]:
    data = read_series_examples(path, None, bad, group="id", time="time", value=["v"])
    return [one[:, 0].tolist() for one in data.series]


def wide(path: Path, bad: BadRows) -> list[list[float]]:
    return [one[:, 0].tolist() for one in read_series_examples(path, "label", bad).series]


def listed(path: Path, bad: BadRows) -> list[list[list[float]]]:
    return [one.tolist() for one in read_series_examples(path, None, bad, value=["v"]).series]


def table(path: Path, bad: BadRows) -> list[list[float | None]]:
    values = read_series_table(path, None, None, bad).values
    return [[None if v != v else v for v in row] for row in values.tolist()]


def tagged(path: Path, bad: BadRows) -> list[list[str]]:
    return read_tagged(path, bad).tokens


def stream(path: Path, bad: BadRows) -> str:
    return "".join(read_text_stream(path, bad).blocks())


#: name of the file, reader, content, [(line, reason)], what is left.
CASES: dict[str, tuple[str, Callable[..., Any], bytes, list[tuple[str, str]], Any]] = {
    "csv: missing label": (
        "a.csv",
        texts,
        b"text,label\ngood film,1\nbad film,\nwell,0\n",
        [(":3", "'label' is missing")],
        ["good film", "well"],
    ),
    "csv: missing text": (
        "a.csv",
        texts,
        b"text,label\ngood,1\n  ,0\n",
        [(":3", "'text' is empty")],
        ["good"],
    ),
    "csv: too few and too many columns": (
        "a.csv",
        texts,
        b"text,label\ngood\nfine,1\na,b,c\n",
        [
            (":2", "expected 2 columns as in the header, got 1"),
            (":4", "expected 2 columns as in the header, got 3"),
        ],
        ["fine"],
    ),
    "csv: the line where a long row begins": (
        "a.csv",
        texts,
        b'text,label\n"two\nlines",1\n\n"three\n\nlines"\nfine,1\n',
        [(":5", "expected 2 columns as in the header, got 1")],
        ["two\nlines", "fine"],
    ),
    "csv: the line that isn't UTF-8, within a row": (
        "a.csv",
        texts,
        b'text,label\ngood,1\n"one\ntwo \xff\nthree",0\nfine,1\n',
        [(":4", "the line isn't UTF-8")],
        ["good", "fine"],
    ),
    "csv: a quote that nobody closes costs one row": (
        "a.csv",
        texts,
        b'text,label\ngood,1\n"open,0\nfine,1\n"quoted, too",1\nlast,0\n',
        [(":3", "text after a closing quote")],
        ["good", "fine", "quoted, too", "last"],
    ),
    "csv: a quote open to the end costs one row": (
        "a.csv",
        texts,
        b'text,label\ngood,1\n"open,0\nfine,1\nlast,0\n',
        [(":3", "a quote is opened and never closed (noticed in line 5)")],
        ["good", "fine", "last"],
    ),
    "csv: a carriage return within a row": (
        "a.csv",
        texts,
        b"text,label\r\ngood,1\r\nba\rd,0\r\nfine,1\r\n",
        [(":3", "a carriage return inside a row")],
        ["good", "fine"],
    ),
    "tsv": (
        "a.tsv",
        texts,
        b"text\tlabel\ngood, bad\t1\nbad\n",
        [(":3", "expected 2 columns as in the header, got 1")],
        ["good, bad"],
    ),
    "jsonl": (
        "a.jsonl",
        texts,
        b'\xef\xbb\xbf{"text": "good", "label": 1}\n\n{"text": "x"\n[1]\n{"text": "\xe9"}\n'
        b'{"text": "x"}\n{"text": 5, "label": 1}\n{"text": "x", "label": [1]}\n'
        b'{"text": "x", "label": NaN}\n{"text": null, "label": 1}\n',
        [
            (":3", "broken JSON"),
            (":4", "expected a JSON object, got list"),
            (":5", "the line isn't UTF-8"),
            (":6", "'label' is missing"),
            (":7", "'text' isn't a text but 5"),
            (":8", "'label' isn't a label but [1]"),
            (":9", "'label' is missing"),
            (":10", "'text' is missing"),
        ],
        ["good"],
    ),
    "long series": (
        "a.csv",
        groups,
        b"id,time,v,label\n"
        b"a,1,2.5,x\n"
        b"a,2,,x\n"
        b"a,3,one,x\n"
        b"a,soon,1,x\n"
        b"a,5,1,y\n"
        b"a,2026-01-01,1,x\n"
        b",7,1,x\n"
        b"a,0,0.5,x\n"
        b"b,1,inf,x\n"
        b"b,1,1e39,x\n"
        b"b,1,7,x\n"
        b"a,0,9,x\n",
        [
            (":3", "'v' is missing"),
            (":4", "'v' isn't a finite number but 'one'"),
            (":5", "'time' is neither a number nor an ISO 8601 date (2026-01-31) but 'soon'"),
            (":6", "'label' differs within a 'id': 'y', but 'x' in "),
            (":7", "'time' is a date, but was a number before: '2026-01-01'"),
            (":8", "'id' is missing"),
            (":10", "'v' isn't a finite number but 'inf'"),
            (":11", "'v' is too large for float32: 1e+39"),
            (":13", "the same time twice: 0 is in "),
        ],
        [[0.5, 2.5], [7.0]],
    ),
    "wide series": (
        "a.csv",
        wide,
        b"label,t0,t1,t2\nx,1,2,3\nx,1,,3\nx,1,2,\nx,,,\nx,1,b,3\n",
        [
            (":3", "a number is missing within the series: 't1'"),
            (":5", "the series is empty"),
            (":6", "'t1' isn't a finite number but 'b'"),
        ],
        [[1.0, 2.0, 3.0], [1.0, 2.0]],
    ),
    "series as lists": (
        "a.jsonl",
        listed,
        b'{"v": [[1, 2], [3, 4]], "label": 0}\n{"v": [], "label": 0}\n'
        b'{"v": [[1, 2], [3]], "label": 0}\n{"v": [1, 2], "label": 0}\n'
        b'{"v": [[1, null]], "label": 0}\n{"v": [[5, 6]], "label": 0}\n',
        [
            (":2", "'v' isn't a list of one or more steps"),
            (":3", "'v' has steps with different numbers of channels"),
            (":4", "the number of channels differs: 1, before 2"),
            (":5", "'v' is missing"),
        ],
        [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]],
    ),
    "a table of series: what is no number is missing": (
        "a.csv",
        table,
        b"date,a,b\n2026-01-02,2,x\n2026-01-01,1,NA\n,3,3\n2026-01-03,3,1_0\n2026-01-02,4,4\n",
        [
            (":2", "'b' isn't a finite number but 'x'"),
            (":4", "'date' is missing"),
            (":5", "'b' isn't a finite number but '1_0'"),
            (":6", "the same time twice: 2026-01-02 is in "),
        ],
        [[1.0, None], [2.0, None], [3.0, None]],
    ),
    "conll: the sentence is left out": (
        "a.conll",
        tagged,
        b"-DOCSTART- X\n\nwe O\nrun V\n\nbad\nthing N\n\nnot \xff\nutf N\n\nlast A",
        [
            (":6", "a token without its tag: expected 2 columns or more, none empty, got 'bad'"),
            (":9", "the line isn't UTF-8; its sentence is left out"),
        ],
        [["we", "run"], ["last"]],
    ),
    "lists of tokens and tags": (
        "a.jsonl",
        tagged,
        b'{"tokens": ["a", "b"], "tags": ["X", "Y"]}\n{"tokens": ["a"], "tags": ["X", "Y"]}\n'
        b'{"tokens": [], "tags": []}\n{"tokens": ["a"]}\n',
        [
            (":2", "as many tags as tokens are expected, got 1 tokens, 2 tags"),
            (":3", "'tokens' isn't a list of one or more strings but '[]'"),
            (":4", "'tags' is missing"),
        ],
        [["a", "b"]],
    ),
    "plain text": (
        "a.txt",
        stream,
        b"\xef\xbb\xbfone\r\ntwo \xff\nthree\n\xc3\nfour",
        [(":2", "the line isn't UTF-8"), (":4", "the line isn't UTF-8")],
        "one\nthree\nfour",
    ),
    "a column of texts as one text": (
        "a.csv",
        stream,
        b"text,n\none,1\n,2\nthree\nfour,4\n",
        [(":3", "'text' is empty"), (":4", "expected 2 columns as in the header, got 1")],
        "one\nfour\n",
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_line_and_reason_of_every_bad_row(case: str, packed: bool, tmp_path: Path) -> None:
    name, read, content, wanted, left = CASES[case]
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(content) if packed else content)
    bad = Recorder("skip")
    assert read(path, bad) == left
    assert bad.count == len(wanted) == sum(bad.reasons.values())
    shown = sorted(bad.all, key=lambda s: int(s.removeprefix(f"{path}:").split(":")[0]))
    for one, (line, why) in zip(shown, wanted, strict=True):
        assert one.startswith(f"{path}{line}: {why}"), one
    # The first that is found ends the work under the other policy.
    with pytest.raises(DataError) as caught:
        read(path, BadRows("fail"))
    way_out = " (--bad-rows skip leaves bad rows out and counts them)"
    assert str(caught.value) == bad.all[0] + way_out


def test_parquet_reports_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    raw = pyarrow.array([b"good", b"\xff", b"fine", None], pyarrow.binary())
    strings = pyarrow.StringArray.from_buffers(
        4, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0]
    )
    path = tmp_path / "a.parquet"
    parquet.write_table(
        pyarrow.table({"text": strings, "label": pyarrow.array([1, 0, None, 1])}), path
    )
    bad = BadRows("skip")
    data = read_text_examples(path, None, None, bad)
    assert (data.texts, data.labels, data.where) == (["good"], ["1"], [f"{path}:row 1"])
    assert bad.examples == [
        f"{path}:row 2: the row isn't UTF-8",
        f"{path}:row 3: 'label' is missing",
        f"{path}:row 4: 'text' is missing",
    ]


def test_rows_are_reported_once_though_they_are_read_often(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\nshort\ngood,1\nlong,er,still\n")
    bad = BadRows("skip")
    rows = read_rows(path, bad)
    assert bad.count == 0
    assert [row.where for row in rows] == [row.where for row in rows] == [f"{path}:3"]
    assert bad.count == 2
    text = tmp_path / "a.txt"
    text.write_bytes(b"a\n\xff\nb\n")
    documents = read_text_stream([path, text], bad, text="text")
    assert count_tokens(documents) == count_tokens(documents) == Counter("good\na\nb\n")
    assert bad.count == 5


def test_once_takes_what_lies_further_on() -> None:
    bad = BadRows("skip")
    once = Once(bad)
    for position in (1, 5, 1, 5, 6):
        once.reject(position, f"a:{position}", "no good")
    assert bad.examples == ["a:1: no good", "a:5: no good", "a:6: no good"]


def test_counts_by_kind_and_five_examples() -> None:
    bad = BadRows("skip")
    assert bad.summary() == "no bad rows"
    for line in range(2, 9):
        bad.reject(f"a.csv:{line}", f"{line} columns", "wrong number of columns")
    bad.reject("b.csv:1", "empty")
    assert bad.count == 8
    assert bad.reasons == Counter({"wrong number of columns": 7, "empty": 1})
    assert bad.examples == [f"a.csv:{line}: {line} columns" for line in range(2, 7)]
    assert bad.summary() == (
        "8 bad rows left out: 7 times wrong number of columns (a.csv:2, …); empty (b.csv:1)"
    )


def test_policies_are_two() -> None:
    with pytest.raises(InputError, match="expected 'fail' or 'skip', got 'ignore'"):
        BadRows("ignore")  # type: ignore[arg-type]


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,\nb,\n")
    with pytest.raises(DataError, match=r"there is no row in it that can be used; 2 bad rows"):
        read_text_examples(path, None, None, BadRows("skip"))
    path.write_text("label,a\nx,\n")
    with pytest.raises(DataError, match="no series in it"):
        read_series_examples(path, "label", BadRows("skip"), value=["a"])
    empty = tmp_path / "a.conll"
    empty.write_text("\n\n")
    with pytest.raises(DataError, match="no sentence in it"):
        read_tagged(empty, BadRows())
    lines = tmp_path / "a.jsonl"
    lines.write_text(json.dumps([1]))
    with pytest.raises(DataError, match="no row in it that can be read; 1 bad row left out"):
        read_rows(lines, BadRows("skip"))


def test_half_a_surrogate_pair_in_json_is_no_text() -> None:
    """It can't be written into a vocabulary afterwards."""
    text = b'{"text": "a \\ud83d b"}\n{"text": "\\ud83d\\ude00"}\n'
    bad = BadRows("skip")
    rows = list(read_rows(io.BytesIO(text), bad))
    assert [row.values["text"] for row in rows] == ["\U0001f600"]
    assert bad.examples == ["the open file:1: the line isn't UTF-8"]
