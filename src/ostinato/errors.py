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
