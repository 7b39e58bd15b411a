"""Names the user's own line of code."""

from __future__ import annotations

import functools
import os
import sys

import torch

from ostinato.errors import TraceError

_TORCH = os.path.dirname(torch.__file__) + os.sep
_OSTINATO = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
#: Parts of this package whose files count as a user's: they hold cells.
_CELLS = os.path.join(_OSTINATO, "cells") + os.sep
_TRACER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "trace.py")
_DISPATCH = os.path.join(_TORCH, "nn", "modules", "module.py")
#: Folders of libraries that cells are written with; see :func:`add_library`.
_libraries = [_TORCH]


def add_library(folder: str) -> None:
    """From now on, frames in ``folder`` are a library's, not the user's."""
    _libraries.append(os.path.abspath(folder) + os.sep)
    _is_foreign.cache_clear()


@functools.lru_cache(maxsize=1024)
def _is_foreign(filename: str) -> bool:
    if filename.startswith("<"):
        return True
    path = os.path.abspath(filename)
    return path.startswith(tuple(_libraries)) or (
        path.startswith(_OSTINATO) and not path.startswith(_CELLS)
    )


def _find() -> tuple[str, int] | None:
    frame = sys._getframe(1)
    inside_torch = None
    while frame is not None:
        filename = frame.f_code.co_filename
        if filename == _TRACER:
            break  # what lies further out called us, and is no part of the cell
        if not _is_foreign(filename):
            return filename, frame.f_lineno
        inside = "nn" + os.sep + "modules" in filename and filename != _DISPATCH
        if inside_torch is None and inside:
            inside_torch = filename, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return inside_torch


def user_location() -> str:
    """``file.py:line`` of the innermost frame outside torch and ostinato, or ``""``.

    For a cell of ``torch.nn`` itself, its line in torch.
    """
    found = _find()
    return f"{os.path.basename(found[0])}:{found[1]}" if found else ""


def refusal(op: str, why: str, instead: str) -> TraceError:
    """The error for a cell that can't be traced."""
    found = _find()
    where = f"{found[0]}:{found[1]}: " if found else ""
    return TraceError(f'{where}{op} {why}; {instead}, or ask for engine="eager"')
