"""Strict mode: a slow path is an error.

``with ostinato.strict():`` makes every slow path in the block raise; ``ostinato.strict(True)``
does it for the whole process until ``ostinato.strict(False)``.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING

from ostinato.errors import SlowPathError

if TYPE_CHECKING:
    from types import TracebackType

_scoped: ContextVar[bool | None] = ContextVar("ostinato_strict", default=None)


class _Scope:
    """What :func:`strict` gives back: sets the mode for a ``with`` block."""

    def __init__(self, on: bool, restore: bool | None) -> None:
        self._on = on
        self._restore = restore  # the process's mode before the call that made this scope
        self._tokens: list[Token[bool | None]] = []

    def __enter__(self) -> None:
        if self._restore is not None:
            strict._everywhere = self._restore
            self._restore = None
        self._tokens.append(_scoped.set(self._on))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _scoped.reset(self._tokens.pop())


class _Strict:
    """The mode itself; ``ostinato.strict`` is its only instance."""

    _everywhere = False

    def __call__(self, on: bool | None = None) -> _Scope:
        """Turn every slow path into a :class:`~ostinato.errors.SlowPathError`.

        A slow path is whatever runs a cell otherwise than on the fastest engine for its device:
        the eager loop for a cell that couldn't be traced, for a dtype without native kernels, for
        a second derivative. ``layer.explain()`` says which path a layer takes, and why.

        Args:
            on: ``None``: nothing happens until the result is used in ``with``. ``True`` or
                ``False``: the mode of the whole process from now on; if the result is used in
                ``with``, the mode of that block alone.

        Returns:
            A context manager. The mode it sets holds for the running thread or asyncio task, which
            it shadows the process's mode in; threads that the block starts have the process's.

        Example:
            >>> from ostinato.strictness import strict
            >>> with strict():
            ...     strict.check("a cell that can't be traced")
            Traceback (most recent call last):
            ...
            ostinato.errors.SlowPathError: strict mode is on and this call would have taken a slow \
path: a cell that can't be traced; leave strict mode to run it anyway
            >>> strict.check("a cell that can't be traced")
        """
        if on is None:
            return _Scope(True, None)
        before = self._everywhere
        self._everywhere = bool(on)
        return _Scope(bool(on), before)

    @property
    def enabled(self) -> bool:
        """Whether strict mode is on here."""
        scoped = _scoped.get()
        return self._everywhere if scoped is None else scoped

    def check(self, reason: str) -> None:
        """Called by every slow path, before it does anything.

        Raises:
            SlowPathError: strict mode is on; says ``reason``.
        """
        if self.enabled:
            raise SlowPathError(
                f"strict mode is on and this call would have taken a slow path: {reason}; leave "
                "strict mode to run it anyway"
            )


strict = _Strict()
