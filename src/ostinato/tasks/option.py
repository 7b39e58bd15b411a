"""A field of a configuration: its default, what the command line shows of it, its check."""

from __future__ import annotations

import math
import types
import typing
from dataclasses import field
from typing import TYPE_CHECKING, Any

from ostinato.errors import InputError

if TYPE_CHECKING:
    import dataclasses
    from collections.abc import Callable

TASK_NAMES = ("classify", "tag", "lm", "forecast")


def option(
    help: str,
    *,
    group: str,
    default: Any = None,
    tasks: tuple[str, ...] = TASK_NAMES,
    choices: tuple[str, ...] | None = None,
    check: Callable[[Any], str | None] | None = None,
    settled: bool = False,
    metavar: str | None = None,
) -> Any:
    """A dataclass field with what the command line shows of it, in ``field.metadata``.

    ``help`` one line; ``group`` the heading it stands under; ``tasks`` that know it; ``choices``;
    ``metavar`` what stands for a value in a usage line.
    ``settled``: ``None`` means the task's default, which :meth:`TrainConfig.settle` fills in.
    ``check`` says what is expected where a value is wrong, else ``None``.
    """
    metadata = {
        "help": help,
        "group": group,
        "choices": choices,
        "tasks": tasks,
        "check": check,
        "settled": settled,
        "metavar": metavar,
    }
    return field(default=default, metadata=metadata)


def at_least(low: int) -> Callable[[Any], str | None]:
    """A check for whole numbers from ``low`` on."""
    return lambda value: None if value >= low else f"{low} or more"


def positive(value: float) -> str | None:
    """A check for finite numbers above 0."""
    return None if value > 0 and math.isfinite(value) else "a number above 0"


def not_negative(value: float) -> str | None:
    """A check for finite numbers from 0 on."""
    return None if value >= 0 and math.isfinite(value) else "a number of 0 or more"


def part(value: float) -> str | None:
    """A check for shares from 0 to below 1."""
    return None if 0 <= value < 1 else "a number from 0 to below 1"


def bare(kind: Any) -> Any:
    """A field's type without ``None``."""
    if not isinstance(kind, types.UnionType):
        return kind
    return next(m for m in typing.get_args(kind) if m is not types.NoneType)


def check_value(f: dataclasses.Field[Any], kind: Any, value: Any) -> None:
    """Raise :class:`InputError` unless ``value`` has the field's type, is a choice, in range."""
    if value is None and (f.metadata["settled"] or bare(kind) is not kind):
        return
    base = bare(kind)
    if typing.get_origin(base) is tuple:
        fits = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
        wanted = "a list of names"
    else:
        fits = type(value) is base or (base is float and type(value) is int)
        wanted = base.__name__
    if not fits:
        raise InputError(f"{f.name}: expected {wanted}, got {value!r}")
    choices = f.metadata["choices"]
    if choices is not None and value not in choices:
        raise InputError(f"{f.name}: expected one of {', '.join(choices)}, got {value!r}")
    check = f.metadata["check"]
    better = check(value) if check is not None else None
    if better is not None:
        raise InputError(f"{f.name}: expected {better}, got {value!r}")
