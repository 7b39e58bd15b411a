"""Take over the recurrent layers of a Keras model that is already built, and give them back.

Ours differ from Keras's in their class alone, so that the class of the very same object is changed:
weights, names, the graph of a functional model, the optimizer's state and what ``compile`` set up
stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import torch

from ostinato.acceleration import Entry, Report
from ostinato.engine.native import DTYPES
from ostinato.errors import InputError
from ostinato.keras.layers import GRU, LSTM, RNN, SimpleRNN
from ostinato.keras.loop import own_step

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Keras's class -> ours.
_OURS: dict[type, type] = {
    keras.layers.SimpleRNN: SimpleRNN,
    keras.layers.LSTM: LSTM,
    keras.layers.GRU: GRU,
    keras.layers.RNN: RNN,
}
_KERAS: dict[type, type] = {ours: its for its, ours in _OURS.items()}


def accelerate(model: Any) -> Report:
    """Make each ``SimpleRNN``, ``LSTM``, ``GRU`` and ``RNN`` of ``model`` ours, in place.

    Layers inside nested models, ``Bidirectional`` and other wrappers are found too, and the model
    may be such a layer itself. Only these exact classes are taken over: a subclass may compute
    something else. A compiled model stays compiled.

    Args:
        model: a Keras model or layer.

    Returns:
        What was replaced, what not, and why; ``print`` it to read it.

    Raises:
        InputError: ``model`` is not a Keras layer or model.
    """
    entries = []
    for path, layer in _recurrent_layers(model):
        kind = type(layer)
        reason = _why_not(layer)
        if reason is None:
            _change(layer, _OURS[kind])
        why = reason or "runs natively on the CPU"
        entries.append(Entry((path,), kind.__name__, reason is None, why))
    return Report(tuple(entries))


def restore(model: Any) -> Report:
    """Make all of our layers in ``model`` Keras's own again, in place.

    A model saved after this opens where ostinato isn't installed.

    Args:
        model: a Keras model or layer.

    Returns:
        What was replaced, what not, and why.

    Raises:
        InputError: ``model`` is not a Keras layer or model.
    """
    entries = []
    for path, layer in _recurrent_layers(model):
        kind = type(layer)
        ours = kind in _KERAS
        if ours:
            _change(layer, _KERAS[kind])
        reason = "Keras's again" if ours else "it is not ostinato's"
        entries.append(Entry((path,), kind.__name__, ours, reason))
    return Report(tuple(entries))


def _recurrent_layers(model: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(model, keras.layers.Layer):
        raise InputError(f"expected a Keras model or layer, got {type(model).__name__}")
    seen = set()
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.RNN) and id(layer) not in seen:
            seen.add(id(layer))
            yield layer.path or layer.name, layer


def _why_not(layer: Any) -> str | None:
    kind = type(layer)
    if kind in _KERAS:
        return "it is ostinato's already"
    if kind not in _OURS:
        return "it is a subclass and may compute something else"
    dtype = getattr(torch, layer.compute_dtype)
    if dtype not in DTYPES or (dtype is torch.float64 and own_step(layer.cell) is None):
        return f"its dtype policy {layer.dtype_policy.name!r} has no native engine"
    return None


def _change(layer: Any, new: type) -> None:
    # Not through Keras's __setattr__, which tracks what it sets.
    object.__setattr__(layer, "__class__", new)
