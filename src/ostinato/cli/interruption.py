"""Ctrl-C before and after training: an end at once, with one line and no half-made things."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

#: What a shell says of a program that Ctrl-C ended.
INTERRUPTED = 130
MESSAGE = "\nostinato: interrupted\n"
#: Shows the cursor, which a live bar has hidden.
_SHOW_CURSOR = "\x1b[?25h"


@contextmanager
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, but ends the program while a module is imported.

    There, PyTorch takes any exception for a module that is missing, and would go on with half of
    it.
    """
    there = threading.current_thread() is threading.main_thread()
    if not there or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _importing(frame):
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), _SHOW_CURSOR.encode())
        os.write(sys.stderr.fileno(), MESSAGE.encode())
        os._exit(INTERRUPTED)
    signal.default_int_handler(number, frame)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
