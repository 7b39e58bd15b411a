"""Rows are passed on as they come."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from ostinato.cli.prediction_rows import line_rows
from ostinato.cli.streaming import pieces
from ostinato.data import BadRows, Row
from ostinato.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def row(number: int) -> Row:
    return Row({"text": str(number)}, f"input:{number}")


def test_a_row_isnt_kept_until_the_next_comes() -> None:
    seen = threading.Event()

    def rows() -> Iterator[Row]:
        yield row(1)
        assert seen.wait(30)
        yield row(2)

    found = pieces(rows())
    assert next(found) == [row(1)]
    seen.set()
    assert next(found) == [row(2)]
    assert list(found) == []


def test_many_rows_are_passed_on_together_and_in_order() -> None:
    rows = [row(number) for number in range(3000)]
    found = list(pieces(iter(rows)))
    assert [one for piece in found for one in piece] == rows
    assert max(map(len, found)) <= 512


def test_an_error_comes_after_the_rows_before_it() -> None:
    def rows() -> Iterator[Row]:
        yield row(1)
        raise DataError("input:2: bad")

    found = pieces(rows())
    assert next(found) == [row(1)]
    with pytest.raises(DataError, match="input:2"):
        next(found)


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(b'one, two\n\n\xff\xfe\n"three"\r\n')
    bad = BadRows("skip")
    found = list(line_rows(str(path), bad))
    assert [(r.values["text"], r.where) for r in found] == [
        ("one, two", f"{path}:1"),
        ('"three"', f"{path}:4"),
    ]
    assert bad.count == 1
