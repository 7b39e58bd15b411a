"""What a cell's structure is made from, object by object, so that C++ can see whether it changed.

:func:`~ostinato.engine.structure.structure_of` walks through a cell at each call and compares
values. Where all that it finds are objects that can't change in themselves, it is enough that they
are the same objects: a comparison of pointers (`unchanged` in ``native/bindings_shortcut.cpp``).
"""

from __future__ import annotations

import enum
import inspect
from types import FunctionType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ostinato.engine.structure import (
    ATOMS,
    HOOKS,
    MODULE_INTERNALS,
    data_of_class,
    data_of_function,
    has_hooks,
    is_global_function,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: ``(dict, items)``: it has just these items, key, value, key, value, in this order.
#: ``(mapping, key, value)``: that is its value. ``(module, class, dict, items)``: it is of this
#: class, its ``__dict__`` is this one and has these items.
Part = tuple[Any, ...]

_KINDS = (*ATOMS, float, complex)
_TENSORS = (Tensor, nn.Parameter)
_WATCHED = ("_parameters", "_buffers", "_modules", *HOOKS)
#: What says how a cell is called; computed by a property it may change with anything.
_SIZES = ("state_size", "hidden_size", "input_size")


def lasting_parts(cell: nn.Module) -> tuple[list[Part], list[Tensor]] | None:
    """The parts of a cell, and its parameters and buffers; ``None``: parts don't tell all.

    They don't where the cell holds what can change in itself (a list, a tensor that is neither
    parameter nor buffer), has hooks or a parametrisation, or computes one of its sizes.
    """
    if any(hasattr(inspect.getattr_static(cell, name, None), "__get__") for name in _SIZES):
        return None
    found = _Collector()
    return (found.parts, found.tensors) if found.add_module(cell) else None


def _items(held: Mapping[Any, Any]) -> tuple[Any, ...]:
    """Key, value, key, value."""
    return tuple([x for pair in held.items() for x in pair])


class _Collector:
    """Collects parts; what adds some says whether they tell all."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.tensors: list[Tensor] = []
        self._seen: set[int] = set()

    def _is_new(self, value: Any) -> bool:
        is_new = id(value) not in self._seen
        self._seen.add(id(value))
        return is_new

    def add_module(self, module: nn.Module) -> bool:
        if not self._is_new(module):
            return True
        inside = module.__dict__
        cls: Any = type(module)
        children = inside["_modules"]
        if "parametrizations" in children or has_hooks(inside):
            return False
        own = [value for name, value in inside.items() if name not in MODULE_INTERNALS]
        if not (all(map(self.add, own)) and self.add_data(data_of_class(cls))):
            return False
        self.parts.append((module, cls, inside, _items(inside)))
        self.parts.extend([(inside[name], _items(inside[name])) for name in _WATCHED])
        for held in (inside["_parameters"], inside["_buffers"]):
            tensors = [tensor for tensor in held.values() if tensor is not None]
            if not all(type(tensor) in _TENSORS for tensor in tensors):
                return False
            self.tensors.extend(tensors)
        return all(child is None or self.add_module(child) for child in children.values())

    def add_data(self, places: Iterable[tuple[Mapping[str, Any], str]]) -> bool:
        for held, name in places:
            value = held.get(name)
            if not self.add(value):
                return False
            self.parts.append((held, name, value))
        return True

    def add(self, value: Any) -> bool:
        """A value of which the same object is to be the same value, with the parts added here."""
        kind = type(value)
        if kind is tuple:
            return all(map(self.add, value))
        if kind is dict:
            if self._is_new(value):
                self.parts.append((value, _items(value)))
                return all(map(self.add, _items(value)))
            return True
        if isinstance(value, nn.Module):
            return self.add_module(value)
        if kind is FunctionType and is_global_function(value):
            return self.add_data(data_of_function(value)) if self._is_new(value) else True
        return kind in _KINDS or isinstance(value, enum.Enum) or is_global_function(value)
