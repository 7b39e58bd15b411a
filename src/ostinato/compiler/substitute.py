"""A cell with other tensors in the places of its own."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


def substitute(cell: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A shallow copy of ``cell`` that uses ``tensors`` in place of its own; ``cell`` is untouched.

    Unlike ``torch.func.functional_call`` it doesn't write into the module for the duration of the
    call, so several threads can run the same cell, and a parametrised parameter can be replaced.

    Args:
        cell: the module.
        tensors: by dotted name; what isn't named is shared with ``cell``.

    Raises:
        KeyError: a name is not a parameter or buffer of the cell.
    """
    modules = dict(cell.named_modules())
    copies: dict[int, Any] = {}
    for module in modules.values():
        copies[id(module)] = module.__new__(_unparametrised(module))
    fresh: dict[int, dict[str, Tensor]] = {id(m): {} for m in modules.values()}
    for name, tensor in tensors.items():
        path, _, own = name.rpartition(".")
        module = modules[path]
        if own in module._parameters or own in module._buffers:
            old = getattr(module, own)
            if old is not None:
                copies[id(old)] = tensor  # wherever else the cell holds this very tensor
        elif own not in module._modules.get("parametrizations", ()):
            raise KeyError(name)
        fresh[id(module)][own] = tensor
    for module in modules.values():
        inside = {
            name: _replaced(value, copies) if value else value
            for name, value in module.__dict__.items()
            if name not in ("_parameters", "_buffers", "_modules")
        }
        for kind in ("_parameters", "_buffers", "_modules"):
            held = getattr(module, kind)
            inside[kind] = {name: copies.get(id(v), v) for name, v in held.items()}
        if type(copies[id(module)]) is not type(module):
            inside["_modules"].pop("parametrizations")
        for name, tensor in fresh[id(module)].items():
            group = "_buffers" if name in inside["_buffers"] else "_parameters"
            inside[group][name] = tensor
        copies[id(module)].__dict__.update(inside)
    replica: nn.Module = copies[id(cell)]
    return replica


def _unparametrised(module: nn.Module) -> type:
    cls = type(module)
    return cls.__mro__[1] if "parametrizations" in module._modules else cls


def _replaced(value: Any, copies: Mapping[int, Any]) -> Any:
    """``value`` with modules and tensors of the cell exchanged, in plain containers too."""
    if id(value) in copies:
        return copies[id(value)]
    if isinstance(value, types.MethodType) and id(value.__self__) in copies:
        return types.MethodType(value.__func__, copies[id(value.__self__)])
    if type(value) in (list, tuple):
        return type(value)(_replaced(item, copies) for item in value)
    if type(value) is dict:
        return {key: _replaced(item, copies) for key, item in value.items()}
    return value
