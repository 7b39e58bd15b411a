"""The registry of cells: tests, docs, benchmarks and the command line find them here by name.

A new cell is one file and one line: the file has the class under :func:`register`, the line imports
it in ``ostinato/cells/__init__.py`` (or, for a cell of your own, wherever you like).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from ostinato.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

C = TypeVar("C", bound=type[nn.Module])


@dataclass(frozen=True, slots=True)
class CellEntry:
    """One registered cell.

    Attributes:
        name: what :func:`get` knows it by.
        cls: the class; ``cls(input_size, hidden_size, bias=True)`` makes one.
        paper: author, year, title.
        aliases: other names.
        variants: keyword arguments of constructors that differ in their equations; tests and
            benchmarks go through all of them. At least one, ``{}`` for the default.
    """

    name: str
    cls: type[nn.Module]
    paper: str
    aliases: tuple[str, ...] = ()
    variants: tuple[Mapping[str, Any], ...] = ({},)


#: All registered cells by name.
CELLS: dict[str, CellEntry] = {}

_names: dict[str, str] = {}  # names and aliases -> name


def register(
    name: str,
    *,
    paper: str,
    aliases: tuple[str, ...] = (),
    variants: tuple[Mapping[str, Any], ...] = ({},),
) -> Callable[[C], C]:
    """Class decorator that enters a cell into the registry.

    Args:
        name: lower case, words joined by ``_``.
        paper: author, year, title.
        aliases: other names.
        variants: see :class:`CellEntry`.

    Raises:
        InputError: a name or alias is taken by another class, or is not spelt as above.

    Example:
        >>> from ostinato.cells import registry
        >>> registry.get("lstm_peephole").__name__
        'PeepholeLSTM'
    """

    def enter(cls: C) -> C:
        for label in (name, *aliases):
            if label != _normal(label) or not label.isidentifier():
                raise InputError(f"a cell's name is lower case, words joined by _, got {label!r}")
            taken = _names.get(label)
            if taken is not None and not _same_class(CELLS[taken].cls, cls):
                raise InputError(f"cell name {label!r} is taken by {CELLS[taken].cls.__qualname__}")
        CELLS[name] = CellEntry(name, cls, paper, aliases, variants)
        _names.update(dict.fromkeys((name, *aliases), name))
        return cls

    return enter


def entry(name: str) -> CellEntry:
    """The entry of a cell by its name or an alias; case and ``-`` for ``_`` don't matter.

    Raises:
        InputError: no such cell; lists names that look like it.
    """
    found = _names.get(_normal(name))
    if found is None:
        near = difflib.get_close_matches(_normal(name), _names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "there are:"
        listing = "" if near else f" {', '.join(names())}"
        raise InputError(f"no cell is called {name!r}; {hint}{listing}")
    return CELLS[found]


def get(name: str) -> type[nn.Module]:
    """The class of a cell by its name or an alias.

    Raises:
        InputError: no such cell; lists names that look like it.
    """
    return entry(name).cls


def names() -> tuple[str, ...]:
    """The names of all registered cells, sorted."""
    return tuple(sorted(CELLS))


def _normal(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def _same_class(old: type, new: type) -> bool:
    # A reloaded module defines its class again.
    return (old.__module__, old.__qualname__) == (new.__module__, new.__qualname__)
