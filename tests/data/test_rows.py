"""Rows: formats, columns, standard input, what is refused, and no more in memory than needed."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ostinato.data import BadRows, guess_columns, read_rows, require_columns
from ostinato.errors import DataError, InputError

if TYPE_CHECKING:
    from pathlib import Path

CSV = 'text,label\n"a, ""b""",1\nc,2\n'
SAME = [{"text": 'a, "b"', "label": "1"}, {"text": "c", "label": "2"}]


def values(rows: Any) -> list[dict[str, Any]]:
    return [row.values for row in rows]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV),
        ("A.CSV", "\ufeff" + CSV.replace("\n", "\r\n")),
        ("a.tsv", 'text\tlabel\n"a, ""b"""\t1\nc\t2\n'),
        ("a.tab", 'text\tlabel\na, "b"\t1\nc\t2\n'),
        ("a.jsonl", '{"text": "a, \\"b\\"", "label": "1"}\n\n{"text": "c", "label": "2"}'),
        ("a.ndjson", '{"text": "a, \\"b\\"", "label": "1"}\r\n{"text": "c", "label": "2"}\r\n'),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_formats_by_name(name: str, content: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / (name + ".gz" * packed)
    raw = content.encode()
    path.write_bytes(gzip.compress(raw) if packed else raw)
    rows = read_rows(path, BadRows())
    assert rows.columns == ("text", "label")
    assert values(rows) == values(rows) == SAME


def test_what_the_csv_module_writes_comes_back(tmp_path: Path) -> None:
    fields = ['"', '""', "a\nb", ",", "'", " x ", "é\u2028 漢", "\t", "", '"quoted" start']
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["n", "field"])
        writer.writerows(enumerate(fields))
    rows = read_rows(path, BadRows())
    assert [row.values["field"] for row in rows] == fields
    lines = [int(row.where.rsplit(":", 1)[1]) for row in rows]
    assert lines == [2, 3, 4, 6, 7, 8, 9, 10, 11, 12]


def test_a_given_format_goes_before_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.data"
    path.write_text('text\tlabel\n"unpaired\t1\n')
    assert values(read_rows(path, BadRows(), format="tsv-raw")) == [
        {"text": '"unpaired', "label": "1"}
    ]
    with pytest.raises(DataError, match=r"a.data: the name doesn't say the format; .*\.parquet"):
        read_rows(path, BadRows())
    with pytest.raises(InputError, match=r"expected one of csv, .* got 'excel'"):
        read_rows(path, BadRows(), format="excel")


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    path = tmp_path / "a.parquet"
    count = 2500
    data = {"n": list(range(count)), "v": [[i, i + 0.5] for i in range(count)]}
    parquet.write_table(pyarrow.table(data), path, row_group_size=700)
    rows = read_rows(path, BadRows())
    assert rows.columns == ("n", "v")
    assert values(rows) == [{"n": i, "v": [i, i + 0.5]} for i in range(count)]
    assert [row.where for row in itertools.islice(rows, 2)] == [f"{path}:row 1", f"{path}:row 2"]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"a.parquet: it can't be read as Parquet"):
        read_rows(path, BadRows())


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'ostinato\[parquet\]'"):
        read_rows(path, BadRows())


# ---- standard input


class Pipe(io.RawIOBase):
    """Gives a line only when it is asked for."""

    def __init__(self, lines: list[bytes]) -> None:
        self.lines, self.read_lines = lines, 0

    def __iter__(self) -> Pipe:
        return self

    def __next__(self) -> bytes:
        if self.read_lines == len(self.lines):
            raise StopIteration
        self.read_lines += 1
        return self.lines[self.read_lines - 1]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"text,label\na,1\n", [{"text": "a", "label": "1"}]),
        (
            b'\n{"text": "a"}\n{"text": "b", "label": 2}\n',
            [{"text": "a"}, {"text": "b", "label": 2}],
        ),
        (b'\xef\xbb\xbf{"text": "a"}', [{"text": "a"}]),
    ],
    ids=["csv", "jsonl", "mark"],
)
def test_standard_input_tells_its_format(
    content: bytes, wanted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stdin:
        buffer = io.BytesIO(content)

    monkeypatch.setattr(sys, "stdin", Stdin)
    rows = read_rows("-", BadRows())
    assert values(rows) == wanted
    with pytest.raises(InputError, match="standard input can be read only once"):
        list(rows)


def test_an_open_file_of_text() -> None:
    assert values(read_rows(io.StringIO(CSV), BadRows())) == SAME


def test_rows_come_as_soon_as_their_line_does() -> None:
    for lines, head in (
        ([b"text\n", b"a\n", b"b\n"], 1),
        ([b'{"text": "a"}\n', b'{"text": "b"}\n', b'{"text": "c"}\n'], 1),
    ):
        pipe = Pipe(lines)
        rows = iter(read_rows(pipe, BadRows()))  # type: ignore[arg-type]
        assert pipe.read_lines == head
        next(rows)
        next(rows)
        assert pipe.read_lines == head + (2 if head and b"{" not in lines[0] else 1)


def test_empty_standard_input() -> None:
    with pytest.raises(DataError, match="it is empty; expected a line of columns' names"):
        read_rows(io.BytesIO(b""), BadRows())


# ---- refusals


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.csv: there is no such file"):
        read_rows(tmp_path / "no.csv", BadRows())
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    with pytest.raises(DataError, match="expected a file, got a directory"):
        read_rows(folder, BadRows())
    with pytest.raises(DataError, match=r"no\.parquet: there is no such file"):
        read_rows(tmp_path / "no.parquet", BadRows())
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(b"text,label\n" + os.urandom(5000).hex().encode())[:-40])
    with pytest.raises(DataError, match=r"cut\.csv\.gz:2: the gzipped file is damaged or cut off"):
        list(read_rows(cut, BadRows("skip")))
    cut.write_bytes(b"text,label\n")
    with pytest.raises(DataError, match=r"cut\.csv\.gz:1: the gzipped file is damaged"):
        read_rows(cut, BadRows("skip"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.csv: it is empty"),
        (b"\n\na,b,a\n", r"a\.csv:3: the column 'a' is there twice"),
        (b"a,\xff\n", r"a\.csv:1: the line of columns' names isn't UTF-8"),
        (b'"a"b,c\n', r"a\.csv:1: the columns' names: text after a closing quote"),
        (b"a,b\r1,2\r", r"a\.csv:1: the columns' names: a carriage return inside a row"),
    ],
)
def test_headers_that_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(path, BadRows("skip"))


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a;b;label\n1;2;3\n")
    rows = read_rows(path, BadRows())
    require_columns(rows, ["a;b;label"])
    message = r"there is no column 'label'; its columns: 'a;b;label'; it seems to be separated by"
    with pytest.raises(DataError, match=message):
        require_columns(rows, ["label"])


# ---- guesses


@pytest.mark.parametrize(
    ("content", "named", "found"),
    [
        ("label,text\n1,a\n", (None, None), ("text", "label")),
        ("Class,Review\n1,a\n", (None, None), ("Review", "Class")),
        ("y,text,sentiment\n1,a,2\n", (None, None), ("text", "y")),
        ("y,text,sentiment\n1,a,2\n", (None, "sentiment"), ("text", "sentiment")),
        ("stars,said\n1,it was as good as it gets\n", (None, None), ("said", "stars")),
        ("label,a,b\n1,it was as good as it gets,ok\n", (None, None), ("a", "label")),
        ("text,kind\nok,1\n", (None, None), ("text", "kind")),
        ("a,b\nok,1\n", ("a", None), ("a", "b")),
    ],
)
def test_guessed_columns(
    content: str, named: tuple[str | None, str | None], found: tuple[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    assert guess_columns(read_rows(path, BadRows()), *named) == found


@pytest.mark.parametrize(
    ("content", "named", "message"),
    [
        ("a,b\nok,fine\n", (None, None), r"which column is the text\? .* --text; .* 'a', 'b'"),
        ("a,b,text\nok,fine,x\n", (None, None), r"which column is the label\? .* --label"),
        ("a,b\nok,fine\n", ("c", None), "there is no column 'c'"),
        ("text,b\nok,fine\n", (None, "c"), "there is no column 'c'"),
    ],
)
def test_guesses_that_are_refused(
    content: str, named: tuple[str | None, str | None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        guess_columns(read_rows(path, BadRows()), *named)


# ---- size


def test_long_fields_and_many_rows(tmp_path: Path) -> None:
    """The csv module's own limit of a field is 131,072 characters."""
    path = tmp_path / "a.csv"
    long = "word " * 100_000
    path.write_text(f"text,label\n{long},1\n" + "short,0\n" * 10)
    rows = values(read_rows(path, BadRows()))
    assert rows[0]["text"] == long
    assert len(rows) == 11
