"""Standard input as it comes: rows are passed on when there are enough, or no more for a while."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

from ostinato.data import Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Rows of a piece at most, and seconds that one waits for its next row.
_PIECE, _PAUSE = 512, 0.02
_END = object()


def pieces(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Lists of rows, each as soon as 512 are there or 20 ms have passed without another.

    A thread reads ahead, by 1,024 rows at most. An error of the reader comes after the rows before
    it.
    """
    found: queue.Queue[Any] = queue.Queue(maxsize=2 * _PIECE)

    def read() -> None:
        try:
            for row in rows:
                found.put(row)
        except Exception as error:  # raised again where the rows are taken
            found.put(error)
        else:
            found.put(_END)

    # A daemon: at Ctrl-C nobody waits for a line that may never come.
    threading.Thread(target=read, name="ostinato-read", daemon=True).start()
    item = found.get()
    while isinstance(item, Row):
        piece = [item]
        while len(piece) < _PIECE:
            try:
                item = found.get(timeout=_PAUSE)
            except queue.Empty:
                item = None
                break
            if not isinstance(item, Row):
                break
            piece.append(item)
        yield piece
        if item is None or isinstance(item, Row):
            item = found.get()
    if item is not _END:
        raise item
