"""What a cell's structure is made from, object by object, so that C++ can see whether it changed.

:func:`~ostinato.engine.structure.structure_of` walks through a cell at each call and compares
values. Where all that it finds are objects that can't change in themselves, it is enough that they
are the same objects: a comparison of pointers (`unchanged` in ``native/bindings_shortcut.cpp``).
"""

from __future__ import annotations

import enum
import inspect
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ostinato.engine.structure import (
    ATOMS,
    MODULE_INTERNALS,
    class_attributes,
    is_global_function,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

#: ``(dict, items)``: it has just these items, key, value, key, value, in this order.
#: ``(mapping, key, value)``: that is its value. ``(module, class, dict, items)``: it is of this
#: class, its ``__dict__`` is this one and has these items.
Part = tuple[Any, ...]

_KINDS = (*ATOMS, float, complex)
_TENSORS = (Tensor, nn.Parameter)
_WATCHED = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
#: What says how a cell is called; computed by a property it may change with anything.
_SIZES = ("state_size", "hidden_size", "input_size")


def lasting_parts(cell: nn.Module) -> tuple[list[Part], list[Tensor]] | None:
    """The parts of a cell, and its parameters and buffers; ``None``: parts don't tell all.

    They don't where the cell holds what can change in itself (a list, a tensor that is neither
    parameter nor buffer), has hooks or a parametrisation, or computes one of its sizes.
    """
    if any(hasattr(inspect.getattr_static(cell, name, None), "__get__") for name in _SIZES):
        return None
    parts: list[Part] = []
    tensors: list[Tensor] = []
    seen: set[int] = set()
    return (parts, tensors) if _add(cell, parts, tensors, seen) else None


def _items(held: Mapping[Any, Any]) -> tuple[Any, ...]:
    """Key, value, key, value."""
    return tuple([x for pair in held.items() for x in pair])


def _add(module: nn.Module, parts: list[Part], tensors: list[Tensor], seen: set[int]) -> bool:
    """Add the parts of ``module``; whether they tell all."""
    if id(module) in seen:
        return True
    seen.add(id(module))
    inside = module.__dict__
    cls: Any = type(module)
    children = inside["_modules"]
    if "parametrizations" in children or inside["_forward_hooks"] or inside["_forward_pre_hooks"]:
        return False
    if not all(_lasts(value) for name, value in inside.items() if name not in MODULE_INTERNALS):
        return False
    parts.append((module, cls, inside, _items(inside)))
    parts.extend([(inside[name], _items(inside[name])) for name in _WATCHED])
    for owner, name in class_attributes(cls):
        value = owner.__dict__.get(name)
        if not _lasts(value):
            return False
        parts.append((owner.__dict__, name, value))
    for held in (inside["_parameters"], inside["_buffers"]):
        own = [tensor for tensor in held.values() if tensor is not None]
        if not all(type(tensor) in _TENSORS for tensor in own):
            return False
        tensors.extend(own)
    return all(child is None or _add(child, parts, tensors, seen) for child in children.values())


def _lasts(value: Any) -> bool:
    """Whether the same object is always the same value."""
    kind = type(value)
    if kind is tuple:
        return all(map(_lasts, value))
    return kind in _KINDS or isinstance(value, enum.Enum) or is_global_function(value)
