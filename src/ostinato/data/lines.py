"""Lines of a file as bytes, numbered, from plain or gzipped files and from open ones."""

from __future__ import annotations

import gzip
import zlib
from typing import IO, TYPE_CHECKING, Any, cast

from ostinato.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

#: A line's number, from 1, and its bytes without the line end.
Line = tuple[int, bytes]

_MARK = b"\xef\xbb\xbf"


def open_binary(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked where its name ends in .gz.

    Raises:
        DataError: there is no such file, or it can't be opened.
    """
    try:
        if path.name.lower().endswith(".gz"):
            return cast("IO[bytes]", gzip.open(path, "rb"))
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: expected a file, got a directory") from None
    except OSError as error:
        raise DataError(f"{path}: can't be opened ({error.strerror})") from None


def open_lines(path: Path) -> Generator[Line]:
    """The file's lines; the file is open from the first to the last.

    Raises:
        DataError: it can't be opened; what is gzipped is damaged.
    """
    with open_binary(path) as file:
        number = 0
        try:
            for number, line in lines_of(file):
                yield number, line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(
                f"{path}:{number + 1}: the gzipped file is damaged or cut off here ({error})"
            ) from None


def lines_of(file: IO[Any]) -> Iterator[Line]:
    """The lines of an open file, of bytes or of text."""
    for number, line in enumerate(file, 1):
        raw = line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line
        if number == 1:
            raw = raw.removeprefix(_MARK)
        yield number, raw.removesuffix(b"\n").removesuffix(b"\r")
