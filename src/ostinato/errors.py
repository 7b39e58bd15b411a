"""The library's own errors. Each says what was expected, what came, where, and the way out."""

from __future__ import annotations


class OstinatoError(Exception):
    """Base of every error that ostinato raises of its own."""


class InputError(OstinatoError, ValueError):
    """An argument has the wrong shape, dtype, device, value or structure."""


class TraceError(OstinatoError, RuntimeError):
    """A cell does something that one row-wise step can't express; names the user's own line."""


class SlowPathError(OstinatoError, RuntimeError):
    """Under :func:`ostinato.strict`, a call would have taken a slow path."""


class DataError(InputError):
    """A row or a file of data can't be used; begins with the file and the line."""


class ModelError(OstinatoError, RuntimeError):
    """A model directory or a checkpoint is missing, damaged, or from a newer version."""


class DivergedError(OstinatoError, RuntimeError):
    """Training came to a loss or a gradient that is NaN or infinite."""
