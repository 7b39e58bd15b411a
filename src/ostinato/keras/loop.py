"""The loop over time that takes the place of Keras's, and what it runs a layer's cell as."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import keras
import torch
from torch import Tensor, nn

from ostinato.engine import Report, explain, recurrence
from ostinato.engine.native import DTYPES
from ostinato.engine.step import Step
from ostinato.errors import InputError, TraceError
from ostinato.keras import recorded_loop
from ostinato.keras.adapter import (
    KerasCell,
    check_cell,
    mask_slots,
    settings,
)
from ostinato.keras.masks import valid_steps
from ostinato.keras.steps import GRUStep, KerasStep, LSTMStep, ResetBeforeGRUStep, SimpleRNNStep
from ostinato.strictness import strict

if TYPE_CHECKING:
    from ostinato.compiler.trace import Trace


class _BoundStep(Step):
    """Traces a step of ours on weights made for that: the layer's may hold anything, NaN say.

    So the trace serves all layers of the same structure.
    """

    __slots__ = ()

    def _make(self, request: Any) -> Any:
        if isinstance(self.cell, KerasStep):
            return Step(self.cell, self.cell.examples(), self.state_size)._make(request)
        return super()._make(request)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """One call: the step with its tensors, what goes into it, and the states beside the cell's."""

    step: Step
    sequences: Tensor
    masks: tuple[Tensor, ...]


#: Modules made for a layer, by how it was called: training or not, which masks, which dtype.
_made: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()

#: More ways than one layer is ever called in at a time; changed settings leave stale ones behind.
_MOST_WAYS = 16

_Module = TypeVar("_Module", KerasStep, KerasCell)


def _made_for(layer: Any, key: tuple[Any, ...], make: Callable[[], _Module]) -> _Module:
    ways = _made.setdefault(layer, {})
    found: _Module | None = ways.get(key)
    if found is None:
        if len(ways) >= _MOST_WAYS:
            ways.clear()
        found = ways[key] = make()
    return found


def own_step(cell: Any) -> type[KerasStep] | None:
    """The step with the equations of this Keras cell, if it is one of Keras's three."""
    kind = type(cell)
    functions = (getattr(cell, "activation", None), getattr(cell, "recurrent_activation", None))
    if any(isinstance(f, nn.Module) or not isinstance(f, Hashable) for f in functions):
        return None  # a layer as an activation may have weights: the adapter knows them
    if kind is keras.layers.GRUCell:
        return GRUStep if cell.reset_after else ResetBeforeGRUStep
    return {keras.layers.SimpleRNNCell: SimpleRNNStep, keras.layers.LSTMCell: LSTMStep}.get(kind)


def _prepare(layer: Any, sequences: Tensor, dtype: torch.dtype, training: bool) -> _Prepared:
    """Bind the layer's cell to its tensors for one call.

    Args:
        layer: the Keras layer.
        sequences: ``(B, T, ...)``.
        dtype: to compute in.
        training: whether dropout is on.
    """
    cell = layer.cell
    own = own_step(cell) if sequences.dim() == 3 else None
    if own is None:
        return _prepare_any(layer, sequences, dtype, training)
    dropped, kept = _dropout_masks(cell) if training else ([], [])
    copies = len(dropped) > 1
    if dropped:
        sequences = torch.cat([sequences * mask.unsqueeze(1) for mask in dropped], -1)
    size = sequences.shape[-1] // (own.GATES if copies else 1)
    recurrent = getattr(cell, "recurrent_activation", None)
    options = (cell.use_bias, cell.activation, recurrent, copies, bool(kept), dtype)

    def make() -> KerasStep:
        return own(
            size,
            cell.units,
            use_bias=cell.use_bias,
            activation=cell.activation,
            recurrent_activation=recurrent,
            copies=copies,
            dropped=bool(kept),
            dtype=dtype,
        )

    module = _made_for(layer, (own, size, cell.units, *options), make)
    tensors = {"kernel": cell.kernel.value, "recurrent_kernel": cell.recurrent_kernel.value}
    if cell.bias is not None:
        tensors["bias"] = cell.bias.value
    masks = (torch.cat(kept, -1),) if kept else ()
    return _Prepared(_BoundStep(module, tensors, module.state_size), sequences, masks)


def _dropout_masks(cell: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The call's masks on the input and on the state, one or one a gate; none where rate is 0.

    Keras's gated cells leave out a rate of 1 on the state; on the input, all is dropped.
    """
    by_name = {slot.attribute: slot.get() for slot in mask_slots(cell)}
    kept = by_name.get("_recurrent_dropout_mask", [])
    if cell.recurrent_dropout == 1.0 and not isinstance(cell, keras.layers.SimpleRNNCell):
        kept = []
    return by_name.get("_dropout_mask", []), kept


def _prepare_any(layer: Any, sequences: Tensor, dtype: torch.dtype, training: bool) -> _Prepared:
    cell = layer.cell
    check_cell(cell)
    if dtype is not torch.float32:
        raise InputError(
            f"{_named(layer)} has the dtype policy {layer.dtype_policy.name!r}: Keras's operations "
            "compute in float32 on the torch backend, whatever the policy, so cells other than "
            "SimpleRNNCell, LSTMCell and GRUCell run in float32 only. Pass dtype='float32' to the "
            f"layer and its cell, or use keras.layers.{_keras_class(layer).__name__}"
        )
    shape = tuple(sequences.shape[2:])
    masks = [slot.get() for slot in mask_slots(cell)] if training else []
    flat = tuple(mask for slot in masks for mask in slot)
    widths = tuple(mask.shape[-1] for mask in flat)

    def make() -> KerasCell:
        return KerasCell(cell, shape, training=training, masks=masks)

    module = _made_for(layer, (settings(cell), shape, training, widths, dtype), make)
    step = Step(module, module.tensors(), module.state_size)
    return _Prepared(step, sequences.flatten(2), flat)


class TimeLoop:
    """Puts the engine's loop in the place of a Keras recurrent layer's; a mix-in, without state.

    On the CPU the layer's cell is traced and runs natively in float32 and float64. On another
    device, and where a graph is being exported, the layer keeps Keras's own loop.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer as Keras does; see the class.

        Raises:
            InputError: the input has no axis of steps, as after a recurrent layer that gives its
                last output alone.
        """
        shape = getattr(args[0] if args else kwargs.get("sequences"), "shape", None)
        if shape is not None and len(shape) == 2:
            raise InputError(
                f"{_named(self)} takes sequences (B, T, I), got {tuple(shape)} (ndim=2). If that "
                "comes from another recurrent layer, it gives its last output alone: pass "
                "return_sequences=True to that layer"
            )
        layer: Any = super()
        return layer.__call__(*args, **kwargs)

    def inner_loop(
        self, sequences: Any, initial_state: Any, mask: Any, training: bool = False
    ) -> tuple[Any, Any, Any]:
        """Keras's hook for the loop over time.

        Args:
            sequences: ``(B, T, I)``.
            initial_state: a list of ``(B, n)``, nested as the cell's ``state_size`` is.
            mask: ``(B, T)``, true where a step counts; or a list that starts with it; or ``None``.
            training: whether dropout is on.

        Returns:
            The last output ``(B, O)``, the outputs ``(B, T, O)`` in the order of processing, and
            the last states as a list.

        Raises:
            TraceError: the cell, or an activation (named), can't be traced.
            InputError: the dtype policy isn't supported, or a shape is wrong.
            SlowPathError: in strict mode, the layer would take Keras's own loop.
        """
        layer: Any = self
        if isinstance(mask, (list, tuple)):
            mask = keras.tree.flatten(mask)[0]
        if sequences.is_meta:
            return _shapes_only(layer, sequences, initial_state)
        if torch._C._get_tracing_state() is not None or torch.compiler.is_exporting():
            return _keras_loop(self, sequences, initial_state, mask, training)
        if sequences.device.type != "cpu":
            fused = isinstance(layer, (keras.layers.LSTM, keras.layers.GRU))
            if not fused or mask is not None or layer.recurrent_dropout:
                strict.check(f"{_named(layer)} on {sequences.device} keeps Keras's own loop")
            return _keras_loop(self, sequences, initial_state, mask, training)
        result: tuple[Any, Any, Any] = _opaque_loop(
            layer, sequences, initial_state, mask, bool(training)
        )
        return result

    def explain(self) -> Report:
        """How the built layer runs in inference: what is hoisted, which engine, and why.

        Returns:
            A report; ``print`` it to read it.

        Raises:
            InputError: the layer isn't built yet, has no native dtype, or is not on the CPU.
            TraceError: the cell, or an activation (named), can't be traced.
        """
        layer: Any = self
        shape = (layer._build_shapes_dict or {}).get("sequences_shape") if layer.built else None
        if shape is None:
            raise InputError(f"{_named(layer)} isn't built yet; call it, or the model, first")
        dtype = getattr(torch, layer.cell.compute_dtype)
        _check_dtype(layer, dtype)
        devices = {variable.value.device.type for variable in layer.variables}
        if devices - {"cpu"}:
            raise InputError(f"{_named(layer)} is not on the CPU, so it keeps Keras's own loop")
        example = torch.zeros(1, 1, *shape[2:], dtype=dtype)
        step = _prepare(layer, example, dtype, False).step
        width = example[0, 0].numel()
        _trace(layer, step, width, dtype)
        report = explain(step, width, dtype=dtype, reverse=layer.go_backwards)
        return replace(report, cell=type(layer.cell).__name__)


def _keras_loop(layer: TimeLoop, *arguments: Any) -> tuple[Any, Any, Any]:
    sequences, initial_state, mask, training = arguments
    loop: Any = super(TimeLoop, layer)
    result: tuple[Any, Any, Any] = loop.inner_loop(
        sequences, initial_state, mask=mask, training=training
    )
    return result


def _shapes_only(layer: Any, sequences: Tensor, initial_state: Any) -> tuple[Any, Any, Any]:
    """A symbolic call: tensors without data, of the shapes that a call gives."""
    shape = layer.compute_output_shape(tuple(sequences.shape))
    output = shape[0] if layer.return_state else shape
    states = list(keras.tree.flatten(initial_state))
    like = states[0] if states else sequences
    last = like.new_empty((output[0], output[-1]))
    outputs = like.new_empty(tuple(output)) if layer.return_sequences else last
    return last, outputs, list(initial_state)


def _native_loop(
    layer: Any, sequences: Tensor, initial_state: Any, mask: Any, training: bool
) -> tuple[Tensor, Tensor, Any]:
    states = [s.clone() if layer.stateful else s for s in keras.tree.flatten(initial_state)]
    dtype = states[0].dtype
    _check_dtype(layer, dtype)
    recording = recorded_loop.is_recording()
    if recording and mask is not None:
        raise InputError(f"{_named(layer)} has a mask, which is looked at in every step")
    batch, steps = sequences.shape[:2]
    sizes = keras.tree.flatten(layer.cell.state_size)
    for state, size in zip(states, sizes, strict=True):
        if state.shape != (batch, size):
            raise InputError(
                f"{_named(layer)}: an initial state must be (B, n) = ({batch}, {size}), got "
                f"{tuple(state.shape)}"
            )
    backwards, zero = layer.go_backwards, layer.zero_output_for_mask
    valid = valid_steps(mask, batch, steps)
    prepared = _prepare(layer, sequences.to(dtype), dtype, training)
    x, step = prepared.sequences, prepared.step
    trace = _trace(layer, step, x.shape[-1], dtype)
    if valid is not None:
        x = valid.together(x)
    rows, entering = x.transpose(0, 1), (*states, *prepared.masks)
    if recording:
        y, final = recorded_loop.recurrence(step, rows, entering, reverse=backwards)
    else:
        y, final = recurrence(
            step,
            rows,
            entering,
            lengths=None if valid is None else valid.lengths,
            reverse=backwards,
            engine="native",
        )
    y = y.transpose(0, 1)
    new_states = keras.tree.pack_sequence_as(initial_state, list(final[: len(states)]))
    if layer.return_sequences:
        if valid is not None:
            y = valid.spread(y, backwards, zero)
        if backwards:
            y = y.flip(1)
        return y[:, -1], y, new_states
    program = trace.program
    if program.output in program.new_state:
        # Where the output is a state, the gradient of the last output needs no (B, T, O) zeros.
        last = final[program.new_state.index(program.output)]
    elif valid is not None:
        last = valid.last(y, backwards)
    else:
        last = y[:, 0 if backwards else -1]
    if valid is not None:
        last = valid.at_end(last, backwards, zero)
    return last, last, new_states


#: ``jit_compile=True`` compiles what is around the loop; the loop is a call that it leaves alone.
_disable: Any = torch.compiler.disable
_opaque_loop = _disable(_native_loop)


def _trace(layer: Any, step: Step, width: int, dtype: torch.dtype) -> Trace:
    """The step's trace; what can't be traced is refused by name."""
    try:
        return step.trace(width, dtype)
    except TraceError as error:
        refused = _refused_activations(layer.cell, dtype)
        what = f"{' and '.join(refused)} can't be traced" if refused else "the cell can't be traced"
        why = str(error).replace(', or ask for engine="eager"', "")
        raise TraceError(
            f"{_named(layer)}: {what}: {why}. Or use keras.layers.{_keras_class(layer).__name__} "
            "for this layer"
        ) from error


class _Alone(nn.Module):
    """An activation by itself, as a step."""

    state_size = (4,)

    def __init__(self, activation: Any) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        y = self.activation(x)
        return y, (y + state[0],)


def _refused_activations(cell: Any, dtype: torch.dtype) -> list[str]:
    """Those activations of a cell that can't be traced, as ``activation=name``."""
    refused = []
    for role in ("activation", "recurrent_activation"):
        function = getattr(cell, role, None)
        if function is None:
            continue
        try:
            Step(_Alone(function)).trace(4, dtype)
        except TraceError:
            name = getattr(function, "__name__", None) or getattr(function, "name", None)
            refused.append(f"{role}={name or type(function).__name__}")
    return refused


def _check_dtype(layer: Any, dtype: torch.dtype) -> None:
    if dtype not in DTYPES:
        raise InputError(
            f"{_named(layer)} has the dtype policy {layer.dtype_policy.name!r}: the native engine "
            "computes in float32 and float64. Pass dtype='float32' to this layer, or use "
            f"keras.layers.{_keras_class(layer).__name__} for it"
        )


def _named(layer: Any) -> str:
    return f"{type(layer).__name__} {layer.name!r}"


def _keras_class(layer: Any) -> type:
    """The class of Keras's that a layer of ours stands for."""
    return next(c for c in type(layer).__mro__ if c.__module__.startswith("keras."))
