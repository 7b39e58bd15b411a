"""The state of a cell: how many tensors of which width, and what the cell hands back.

Cells come in two conventions. torch's (``cell(x, h) -> h``, ``cell(x, (h, c)) -> (h, c)``): the
output is the first state tensor. Ours (``cell(x, state) -> (output, state)``). The structure that
comes back tells which.
"""

from __future__ import annotations

import inspect
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from ostinato.compiler.convention import match, structure_text
from ostinato.errors import InputError

#: An int: one bare tensor of that width. A tuple: a tuple of tensors of these widths.
StateSize = int | tuple[int, ...]

_probed: weakref.WeakKeyDictionary[nn.Module, StateSize] = weakref.WeakKeyDictionary()


def widths(state_size: StateSize) -> tuple[int, ...]:
    """The widths of the state tensors."""
    return (state_size,) if isinstance(state_size, int) else state_size


def find_state_size(
    cell: nn.Module,
    given: StateSize | None = None,
    *,
    x: Tensor | None = None,
) -> StateSize:
    """What the state of ``cell`` is, as its ``state_size`` or ``hidden_size`` or the caller says.

    A cell with ``hidden_size`` alone may take one bare tensor (like ``torch.nn.GRUCell``) or a pair
    (like ``torch.nn.LSTMCell``). ``given`` settles it; else the cell is called once on one row of
    zeros, with a bare tensor, and with a pair if that raises or gives back no such state.

    Args:
        cell: the cell.
        given: the caller's ``state_size``. It must agree with ``cell.state_size`` if there is one.
        x: a tensor of ``(..., I)`` that shows input size, dtype and device to a trial call;
            ``None``: they are taken from ``cell.input_size`` and the cell's parameters.

    Raises:
        InputError: the cell doesn't say, ``given`` contradicts it, or no trial call succeeds.
    """
    said = getattr(cell, "state_size", None)
    if said is None and isinstance(cell, nn.RNNCellBase):
        size = cell.hidden_size
        said = (size, size) if isinstance(cell, nn.LSTMCell) else size
    if type(said) is int and said >= 0 and given is None:
        return said
    if said is not None:
        declared = _checked(said, f"{type(cell).__name__}.state_size")
        if given is not None and _checked(given, "state_size") != declared:
            raise InputError(
                f"state_size={given} contradicts {type(cell).__name__}, whose state_size is "
                f"{declared}; leave the argument out"
            )
        return declared
    if given is not None:
        return _checked(given, "state_size")
    hidden = getattr(cell, "hidden_size", None)
    if hidden is None:
        raise InputError(
            f"{describe(cell)} doesn't say what its state is: expected an attribute state_size "
            "(an int for one tensor, a tuple of ints for a tuple of tensors) or hidden_size, found "
            "neither; set one, or pass state_size=... to the layer"
        )
    width = _checked(hidden, f"{type(cell).__name__}.hidden_size")
    if not isinstance(width, int):
        raise InputError(
            f"{type(cell).__name__}.hidden_size must be an int, got {hidden!r}; for several state "
            "tensors set state_size instead"
        )
    found = _probed.get(cell)
    if found is None or widths(found)[0] != width:
        found = _probed[cell] = _probe(cell, width, x)
    return found


def _checked(size: Any, name: str) -> StateSize:
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    if isinstance(size, (tuple, list)) and size:
        parts = tuple(size)
        if all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in parts):
            return parts
    raise InputError(
        f"{name} must be an int (one state tensor) or a non-empty tuple of ints (a tuple of state "
        f"tensors), got {size!r}"
    )


def _probe(cell: nn.Module, hidden: int, x: Tensor | None) -> StateSize:
    like = x if x is not None else next(cell.parameters(), torch.empty(0))
    width = x.shape[-1] if x is not None else getattr(cell, "input_size", None)
    if width is None:
        raise InputError(
            f"{describe(cell)} has hidden_size but neither state_size nor input_size, so that it "
            f"can't be seen whether its state is one tensor or a pair; set state_size = {hidden} "
            f"or state_size = ({hidden}, {hidden}) in the cell"
        )
    failures = []
    # One row: a cell that unpacks or indexes its state as a pair can't take a row for a state.
    row, h = like.new_zeros(1, width), like.new_zeros(1, hidden)
    for size, state in ((hidden, h), ((hidden, hidden), (h, torch.zeros_like(h)))):
        bare = isinstance(size, int)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                _, back = split_result(cell(row, state), 1 if bare else 2, bare, cell)
        except Exception as error:  # the cell's own code: anything can happen in a trial
            failures.append(f"with {'one tensor' if bare else 'a pair'}: {_first_line(error)}")
            continue
        if all(s.shape == (1, hidden) for s in back):
            return size
        failures.append(f"with {'one tensor' if bare else 'a pair'}: it gave {_shapes(back)}")
    raise InputError(
        f"{describe(cell)} has hidden_size={hidden} but no state_size, and a call on x of "
        f"{tuple(row.shape)} and a state of {tuple(h.shape)} failed ({'; '.join(failures)}); set "
        f"state_size = {hidden} (one tensor) or ({hidden}, {hidden}) (a pair) in the cell"
    )


def split_result(
    result: Any, count: int, bare: bool, cell: nn.Module
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Output and state tuple from what a cell returned, in either convention.

    Args:
        result: what the cell returned.
        count: number of state tensors.
        bare: whether the cell takes one bare tensor as its state.
        cell: for the error.

    Raises:
        InputError: the structure fits neither convention.
    """
    found, state, _ = match(result, count, bare)
    if found is not None:
        return found, state
    state_text = "state" if bare else f"({', '.join(f's{k}' for k in range(count))})"
    raise InputError(
        f"{describe(cell)} must return (output, {state_text}) or {state_text} alone, "
        f"got {structure_text(result)}"
    )


def describe(cell: nn.Module) -> str:
    """The cell's class and where its step is written: ``MyCell (cells.py:12)``."""
    name = type(cell).__name__
    try:
        source = inspect.getsourcefile(type(cell).forward)
        line = inspect.getsourcelines(type(cell).forward)[1]
    except (OSError, TypeError):
        return name
    return f"{name} ({source}:{line})"


def _shapes(state: tuple[Tensor, ...]) -> str:
    return ", ".join(str(tuple(s.shape)) for s in state)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
