"""Reads text of any size in blocks: plain files, and the text columns of tables."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

from ostinato.data.bad_rows import BadValue, Once
from ostinato.data.columns import guess_text
from ostinato.data.examples import BLOCK, Document, TextStream
from ostinato.data.lines import open_binary
from ostinato.data.reading import Paths, paths_of
from ostinato.data.rows import Rows, format_of, read_rows
from ostinato.data.tables import NOT_UTF8
from ostinato.data.values import text_of
from ostinato.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ostinato.data.bad_rows import BadRows


def read_text_stream(
    paths: Paths, bad: BadRows, *, text: str | None = None, format: str | None = None
) -> TextStream:
    r"""Text to learn a language model from, a document a file.

    Plain text is UTF-8; ``\r\n`` is read as ``\n``, and a byte order mark is left out. Of a table
    the document is its texts, each ended by a line end.

    Args:
        paths: one or several files or folders (their .txt files, in the names' order); each file
            may be .gz.
        bad: takes lines that aren't UTF-8 (of a line longer than about a million bytes the part
            that isn't); of tables, rows whose text is missing, empty or no string.
        text: the column of tables; None: :func:`~ostinato.data.guess_columns` tells.
        format: ``text`` or a table's, where the name doesn't say it: a name that is no table's is
            plain text.

    Raises:
        DataError: a file isn't there, or a folder has no text.
    """
    documents = []
    for path in paths_of(paths):
        for file in _files(path):
            form = format or format_of(file) or "text"
            documents.append(_document(file, bad, form, text))
    return TextStream(documents)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"{path}: there is no such file")
        return [path]
    files = sorted(p for p in path.iterdir() if p.name.lower().endswith((".txt", ".txt.gz")))
    if not files:
        raise DataError(f"{path}: the folder has no .txt file")
    return files


def _document(path: Path, bad: BadRows, form: str, column: str | None) -> Document:
    status = path.stat()
    # Contents aren't read for it: that takes as long as the work which it could save.
    fingerprint = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {form} {column}"
    once = Once(bad)
    if form == "text":
        return Document(str(path), lambda: plain_text(path, once), fingerprint)
    rows = read_rows(path, bad, format=form)
    text = guess_text(rows, column)
    return Document(str(path), lambda: joined(_lines(rows, text, once)), fingerprint)


def _lines(rows: Rows, column: str, once: Once) -> Iterator[str]:
    for position, row in enumerate(rows):
        try:
            text = text_of(row, column)
        except BadValue as error:
            once.reject(position, row.where, error.why, error.kind)
            continue
        yield text + "\n"


def joined(texts: Iterator[str]) -> Iterator[str]:
    """Texts put together into blocks of about a million characters; a longer one is cut."""
    some: list[str] = []
    size = 0
    for text in texts:
        for start in range(0, len(text), BLOCK):
            some.append(text[start : start + BLOCK])
            size += len(some[-1])
            if size >= BLOCK:
                yield "".join(some)
                some, size = [], 0
    if some:
        yield "".join(some)


def plain_text(path: Path, once: Once) -> Iterator[str]:
    """A file's text in blocks of about a million bytes, most of which end in a line end.

    Raises:
        DataError: it can't be opened; what is gzipped is damaged; or a line is bad.
    """
    line = 1
    with open_binary(path) as file:
        rest = b""
        first = True
        while True:
            try:
                read = file.read(BLOCK)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise DataError(
                    f"{path}:{line}: the gzipped file is damaged or cut off after here ({error})"
                ) from None
            raw = rest + read
            if first:
                raw, first = raw.removeprefix(b"\xef\xbb\xbf"), False
            cut = _cut(raw) if read else len(raw)
            raw, rest = raw[:cut], raw[cut:]
            if raw:
                text = _decoded(raw, line, path, once)
                line += raw.count(b"\n")
                if text:
                    yield text
            if not read:
                return


def _cut(raw: bytes) -> int:
    """Where to cut: after the last line end, else before the last character."""
    cut = raw.rfind(b"\n") + 1
    if cut:
        return cut
    for back in range(1, min(4, len(raw)) + 1):
        # A character's first byte isn't 10xxxxxx; and \r might belong to a \n.
        if raw[-back] & 0xC0 != 0x80:
            return len(raw) - back
    return len(raw)


def _decoded(raw: bytes, line: int, path: Path, once: Once) -> str:
    if b"\r" in raw:
        raw = raw.replace(b"\r\n", b"\n")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        pass
    good = []
    for number, part in enumerate(raw.split(b"\n"), line):
        try:
            good.append(part.decode())
        except UnicodeDecodeError:
            once.reject(number, f"{path}:{number}", NOT_UTF8)
    return "\n".join(good)
