"""What the tasks' models share: a sequence of symbols or numbers to a sequence of vectors."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ostinato.cells import registry
from ostinato.errors import InputError
from ostinato.nn import Bidirectional, Recurrent
from ostinato.train.dropout import RowDropout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class Encoder(nn.Module):
    """Embedding, then recurrent layers, with dropout of whole features in between.

    Args:
        symbols: how many different symbols there are; the steps of ``x`` are then their numbers,
            and each has a vector. 0: the steps of ``x`` are vectors of ``channels`` numbers, and a
            linear map takes them to ``embedding``.
        channels: width of a step of numbers.
        embedding: width of what enters the first recurrent layer. 0: steps of numbers enter as they
            are.
        cell: a registered cell's name, or ``module:Class``.
        hidden: units of a recurrent layer (and direction).
        layers: recurrent layers.
        bidirectional: each layer reads in both directions; its output is twice as wide.
        dropout: share of features that :class:`~ostinato.train.dropout.RowDropout` drops before
            each recurrent layer. What comes out of the last one is left to the model's head.

    Call: ``encoder(x, lengths=None, state=None, *, batch_rows=None, share=None)``: ``x`` is ``(T,
    B)`` int64 or ``(T, B, channels)`` float32, ``lengths`` ``(B,)``; gives ``(y, states)``, ``y``
    ``(T, B, encoder.width)`` and zero past a row's length, ``states`` one entry per layer.
    ``batch_rows`` and ``share`` go to the dropout.

    Raises:
        InputError: no such cell, or it can't be made from an input and a hidden size.
    """

    def __init__(
        self,
        *,
        symbols: int = 0,
        channels: int = 0,
        embedding: int,
        cell: str,
        hidden: int,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed: nn.Module
        if symbols:
            self.embed = nn.Embedding(symbols, embedding)
        elif embedding:
            self.embed = nn.Linear(channels, embedding)
        else:
            self.embed = nn.Identity()
        self.dropout = RowDropout(dropout)
        self.bidirectional = bidirectional
        self.layers = nn.ModuleList()
        make = cell_maker(cell)
        width = embedding or channels
        for _ in range(layers):
            layer = Recurrent(make(width, hidden))
            # One step shows how wide the output is; a cell needn't say.
            with torch.no_grad():
                width = layer(torch.zeros(1, 1, width))[0].shape[-1]
            self.layers.append(Bidirectional(layer) if bidirectional else layer)
            width *= 2 if bidirectional else 1
        self.width: int = width

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        state: Sequence[Any] | None = None,
        *,
        batch_rows: int | None = None,
        share: Tensor | None = None,
    ) -> tuple[Tensor, list[Any]]:
        """See the class."""
        y = self.embed(x)
        states = []
        for k, layer in enumerate(self.layers):
            y = self.dropout(y, batch_rows, share)
            y, final = layer(y, None if state is None else state[k], lengths=lengths)
            states.append(final)
        return y, states


def cell_maker(name: str) -> Callable[[int, int], nn.Module]:
    """What makes a cell from its input and hidden size.

    Args:
        name: a registered cell's name, or ``module:Class`` for a class of your own that is called
            with the two sizes; the module may lie in the current folder.

    Raises:
        InputError: no such cell, module or class; or, when called, what it makes is no module.
    """
    if ":" not in name:
        return registry.get(name)
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name:
        raise InputError(f"cell {name!r}: expected a registered cell's name or module:Class")
    try:
        with _current_folder_importable():
            module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            f"cell {name!r}: the module {module_name!r} can't be imported: {error}; it must be "
            "installed, or lie in the current folder"
        ) from error
    made = getattr(module, class_name, None)
    if not callable(made):
        raise InputError(f"cell {name!r}: {module.__file__} has no class {class_name!r}")

    def make(input_size: int, hidden_size: int) -> nn.Module:
        try:
            cell = made(input_size, hidden_size)
        except TypeError as error:
            raise InputError(
                f"cell {name!r}: {class_name}({input_size}, {hidden_size}) failed: {error}; it is "
                "called with the input size and the hidden size"
            ) from error
        if not isinstance(cell, nn.Module):
            raise InputError(f"cell {name!r}: expected a torch.nn.Module, got {type(cell)}")
        return cell

    return make


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    folder = os.getcwd()
    if folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
