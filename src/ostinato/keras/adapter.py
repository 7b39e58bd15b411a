"""Any Keras cell as a step: Keras's own ``cell(inputs, states)``, called on the engine's rows.

The Keras cell stands behind a plain PyTorch module whose parameters are the cell's variables; for
the time of a call the variables have the module's tensors as their values, through Keras's own
``StatelessScope``. So whatever a cell does with Keras operations is traced as any other cell is.
"""

from __future__ import annotations

import os
import types
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import keras
from torch import Tensor, nn

from ostinato.compiler.location import add_library
from ostinato.engine.structure import not_looked_into
from ostinato.errors import TraceError

# A refusal names the line in the user's cell, not the one in Keras.
add_library(os.path.dirname(keras.__file__))

_SETTINGS = (int, float, str, bool, type(None), Tensor)


@dataclass(frozen=True, slots=True)
class MaskSlot:
    """A dropout mask that a Keras cell holds during a call of its layer.

    ``attribute`` of ``cell`` is one tensor ``(B, n)``, or a list of ``count`` such tensors.
    """

    cell: Any
    attribute: str
    count: int | None

    def get(self) -> list[Tensor]:
        """The masks as they are now."""
        held = getattr(self.cell, self.attribute)
        return [held] if self.count is None else list(held)

    def set(self, masks: list[Tensor]) -> None:
        """Put masks in their place."""
        setattr(self.cell, self.attribute, masks[0] if self.count is None else masks)


def mask_slots(cell: Any) -> list[MaskSlot]:
    """The dropout masks that Keras draws for ``cell`` before the loop, in a fixed order."""
    if isinstance(cell, keras.layers.StackedRNNCells):
        return [slot for part in cell.cells for slot in mask_slots(part)]
    if not hasattr(cell, "get_recurrent_dropout_mask"):
        return []
    count = getattr(cell, "dropout_mask_count", None)
    return [
        MaskSlot(cell, f"_{rate}_mask", count)
        for rate in ("dropout", "recurrent_dropout")
        if getattr(cell, rate) > 0
    ]


def parts_of(cell: Any) -> list[Any]:
    """``cell`` and all layers in it."""
    return list(cell._flatten_layers()) if isinstance(cell, keras.layers.Layer) else [cell]


def settings(cell: Any) -> tuple[Any, ...]:
    """The plain public attributes of a cell, which a trace depends on besides tensors."""
    return tuple(
        (id(part), name, None if isinstance(value, Tensor) else value)
        for part in parts_of(cell)
        for name, value in vars(part).items()
        if name[0] != "_"
        and name != "built"
        and (isinstance(value, _SETTINGS) or (callable(value) and isinstance(value, Hashable)))
    )


@not_looked_into
class _Hidden:
    """Keeps what it holds out of the sight of ``torch.nn.Module`` and of the structure of a cell.

    A Keras layer is a module too, with attributes that change from call to call.

    ``variables`` are Keras's; ``tensors`` are attributes of the cell and its layers that are plain
    tensors, as (owner, name).
    """

    __slots__ = ("__weakref__", "cell", "slots", "structure", "tensors", "variables")

    def __init__(self, cell: Any) -> None:
        self.cell = cell
        self.slots = mask_slots(cell)
        self.structure = cell.state_size
        self.variables = list(getattr(cell, "variables", ()))
        self.tensors = [
            (part, name)
            for part in parts_of(cell)
            for name, value in vars(part).items()
            if isinstance(value, Tensor) and name[0] != "_"
        ]


class KerasCell(nn.Module):
    """A step that calls a Keras cell.

    Args:
        cell: the Keras cell, built.
        feature_shape: shape of one row of its input.
        training: what the cell is told, if it takes ``training``.
        masks: the dropout masks of this call, by slot; each becomes a further state, which passes
            through unchanged. In inference there are none.
    """

    def __init__(
        self,
        cell: Any,
        feature_shape: tuple[int, ...],
        *,
        training: bool,
        masks: list[list[Tensor]],
    ) -> None:
        super().__init__()
        self._hidden = hidden = _Hidden(cell)
        self._name = type(cell).__name__
        self.feature_shape = feature_shape
        self.state_size = tuple(int(n) for n in keras.tree.flatten(cell.state_size))
        self.own_states = len(self.state_size)
        self.state_size += tuple(m.shape[-1] for slot in masks for m in slot)
        self.mask_counts = tuple(len(slot) for slot in masks)
        self.train(training)
        # What the user's functions have captured is part of the structure: they are held in sight.
        values = (value for part in parts_of(cell) for value in vars(part).values())
        functions = (value for value in values if isinstance(value, types.FunctionType))
        self.functions = tuple(f for f in functions if not f.__module__.startswith("keras."))
        self.names: tuple[str, ...] = ()
        for label, tensor in (
            *((variable.name, variable.value) for variable in hidden.variables),
            *((name, getattr(part, name)) for part, name in hidden.tensors),
        ):
            name = label.replace(".", "_")
            name = f"{name}_{len(self.names)}" if hasattr(self, name) else name
            self.names += (name,)
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)

    def tensors(self) -> dict[str, Tensor]:
        """The cell's tensors as they are now, in this scope of Keras's."""
        hidden = self._hidden
        values = [variable.value for variable in hidden.variables]
        values += [getattr(part, name) for part, name in hidden.tensors]
        return dict(zip(self.names, values, strict=True))

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step: ``x`` ``(B, I)``, flat states to flat states."""
        hidden, own = self._hidden, self.own_states
        cell, masks = hidden.cell, state[own:]
        inputs = x.reshape(len(x), *self.feature_shape)
        nested: Any = keras.tree.pack_sequence_as(hidden.structure, list(state[:own]))
        states = list(nested) if isinstance(nested, (list, tuple)) else [nested]
        values = [
            (variable, getattr(self, name))
            for name, variable in zip(self.names, hidden.variables, strict=False)
        ]
        keywords = {"training": self.training} if _takes_training(cell) else {}
        before = [getattr(slot.cell, slot.attribute, None) for slot in hidden.slots]
        scope = keras.StatelessScope(state_mapping=values)
        given = dict(scope.state_mapping)
        # Keras would wrap a refusal once for each layer that it passes through.
        filtering = keras.config.is_traceback_filtering_enabled()
        keras.config.disable_traceback_filtering()
        try:
            self._lend(x, masks)
            with scope:
                output, new = cell(inputs, states, **keywords)
        finally:
            if filtering:
                keras.config.enable_traceback_filtering()
            for slot, mask in zip(hidden.slots, before, strict=True):
                setattr(slot.cell, slot.attribute, mask)
        if any(given.get(key) is not value for key, value in scope.state_mapping.items()):
            raise TraceError(
                f"{self._name} changes one of its variables in a step, as batch normalisation "
                "does, which a traced step can't; use keras.layers.RNN for this cell"
            )
        return output, (*keras.tree.flatten(new), *masks)

    def _lend(self, x: Tensor, masks: tuple[Tensor, ...]) -> None:
        """Give the cells their dropout masks: this call's, else some that are not looked at."""
        if not masks:
            for slot in self._hidden.slots:
                slot.set([x.new_ones(1, 1)] * (slot.count or 1))
            return
        rest = [mask.detach() for mask in masks]
        for slot, count in zip(self._hidden.slots, self.mask_counts, strict=True):
            slot.set(rest[:count])
            del rest[:count]


def _takes_training(cell: Any) -> bool:
    return isinstance(cell, keras.layers.Layer) and cell._call_has_training_arg


def check_cell(cell: Any) -> None:
    """Refuse what a traced step would silently leave out.

    Raises:
        TraceError: a part of the cell has an ``activity_regularizer``.
    """
    for part in parts_of(cell):
        if getattr(part, "activity_regularizer", None) is not None:
            raise TraceError(
                f"{type(cell).__name__}: {type(part).__name__} {part.name!r} has an "
                "activity_regularizer, which adds a loss in each step; a traced step has no "
                "losses. Put it on the layer, or use keras.layers.RNN for this cell"
            )
