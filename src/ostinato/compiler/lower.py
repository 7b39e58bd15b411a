"""From ATen calls on rows to IR: finds the rule for a call and applies it.

Three families of rules share one shape: they get a :class:`~ostinato.compiler.recorder.Call` and
give, for each of its results, a flat row and where its batch is, or the reason why that result
can't be had (it is refused only when it is read).

- *pointwise*: a table of expressions (:mod:`ostinato.compiler.lower_pointwise`); operands are
  broadcast here.
- *moves*: a list of names; what an operation moves where is found out by running it on tags.
- *features*: reductions, normalisations and products (:mod:`ostinato.compiler.lower_features`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ostinato.compiler.builder import Value
from ostinato.compiler.layout import (
    Axis,
    IntArray,
    batch_dims,
    feature_shape,
    gathered,
    numel,
    spread,
)
from ostinato.compiler.lower_features import FEATURES
from ostinato.compiler.lower_integers import range_of
from ostinato.compiler.lower_pointwise import POINTWISE
from ostinato.compiler.preparation import tensors_in
from ostinato.compiler.recorder import Call, Lowered, Result, common_axis

#: Arguments that say where and how to store a result, not what it is.
_STORAGE_ARGUMENTS = frozenset(
    {"out", "generator", "non_blocking", "memory_format", "dtype", "layout", "device", "pin_memory"}
)

#: Operations that move features, copy them or put zeros beside them.
MOVES = frozenset(
    {
        "alias_copy",
        "block_diag",
        "cat",
        "channel_shuffle",
        "clone",
        "constant_pad_nd",
        "diag_embed",
        "diagonal_copy",
        "diagonal_scatter",
        "flip",
        "gather",
        "index",
        "index_copy",
        "index_put",
        "index_select",
        "pixel_shuffle",
        "pixel_unshuffle",
        "repeat",
        "roll",
        "rot90",
        "scatter",
        "select_scatter",
        "slice_scatter",
        "stack",
        "take_along_dim",
        "tril",
        "triu",
    }
)

#: Results that are made like a row but hold a constant.
_FILLS = {
    "zeros_like": 0.0,
    "ones_like": 1.0,
    "new_zeros": 0.0,
    "new_ones": 1.0,
    "empty_like": 0.0,
    "new_empty": 0.0,
    "new_empty_strided": 0.0,
}


def lower(name: str, call: Call) -> list[Result] | None:
    """The results of ``call`` in IR, or ``None`` if there is no rule for ``name``."""
    if name in _FILLS:
        return _fill(call, _FILLS[name])
    if name in ("full_like", "new_full"):
        return _fill(call, float(call["fill_value"]))
    if name in MOVES:
        return _move(call)
    if name in POINTWISE:
        return [_pointwise(name, call)]
    rule = FEATURES.get(name)
    return None if rule is None else rule(call)


def _pointwise(name: str, call: Call) -> Lowered:
    shape, dtype = tuple(call.out.shape), call.out.dtype
    if name.startswith("bitwise_") and dtype is not torch.bool:
        call.refuse("acts on the bits of whole numbers", "use masks, or remainders and sums")
    operands = [
        v for k, v in call.args.items() if isinstance(v, Tensor) and k not in _STORAGE_ARGUMENTS
    ]
    rows = {id(t): call.rows(t) for t in operands if call.is_rows(t)}
    axis = common_axis(rows.values(), len(shape), call)
    features = feature_shape(shape, axis, call.batch)
    arguments: list[Any] = []
    for key, value in call.args.items():
        if key in _STORAGE_ARGUMENTS:
            continue
        if not isinstance(value, Tensor):
            arguments.append(value)
        elif id(value) in rows:
            index = np.broadcast_to(rows[id(value)].index, features)
            arguments.append(rows[id(value)].gather(index, broadcast=True))
        else:
            arguments.append(call.recorder.statics.operand(value, features, call.name))
    if name == "nan_to_num" and dtype.is_floating_point:
        top = torch.finfo(dtype).max
        for i, end in ((2, top), (3, -top)):
            arguments[i] = end if arguments[i] is None else arguments[i]
    result = POINTWISE[name](*arguments)
    if not isinstance(result, Value):
        result = call.builder.const(result)
    if dtype is torch.bool:
        known = range_of(result)
        if known is None or not known.within(0.0, 1.0):
            result = result.ne(0.0)
    return Lowered(call.builder.row_of(result, numel(features)), axis)


def _fill(call: Call, value: float) -> list[Result]:
    """A constant with the shape of a row; the batch is where the row has it, or its size is."""
    source = call.rows(call["self"])
    shape = tuple(call.out.shape)
    if shape == source.shape:
        axis = source.axis
    else:
        dims = batch_dims(shape, call.batch)
        if not dims:
            call.recorder.statics.add_constant(call.out, call.name)
            return [None]
        if len(dims) != 1 or shape[dims[0]] != call.batch:
            call.refuse_mixing()
        axis = Axis(dims[0])
    width = numel(feature_shape(shape, axis, call.batch))
    value = float(value != 0.0) if call.out.dtype is torch.bool else value
    return [Lowered(call.builder.fill(value, width), axis)]


def _move(call: Call) -> list[Result]:
    """Run the operation on tags that name each element's source, row and feature."""
    statics, sources, start = call.recorder.statics, [], 1
    tags: dict[int, Tensor] = {}
    choices = {id(t) for t in tensors_in((call.args.get("index"), call.args.get("indices")))}
    for tensor in tensors_in((call.raw_args, call.raw_kwargs)):
        if id(tensor) in tags:
            continue
        if call.is_rows(tensor):
            rows = call.rows(tensor)
            if id(tensor) in choices:
                call.refuse("picks by the data's values", "use a fixed index or a mask")
            number: IntArray = np.arange(rows.index.size, dtype=np.int64)
            number = number.reshape(rows.index.shape) + start
            tag: IntArray = spread(number, rows.axis, call.batch)
            sources.append(rows.gather())
        elif tensor.dtype.is_floating_point:
            slot = statics.slot(tensor, call.name)
            shape, constant = statics.shape(slot), statics.storage(tensor).constant
            number = np.arange(numel(shape), dtype=np.int64).reshape(shape) + start
            tag = np.broadcast_to(number * (call.batch + 1), tensor.shape)
            if constant is not None:
                sources.append(call.builder.fill(constant, numel(shape)))
            else:
                sources.append(call.builder.row_of(statics.flat(slot)))
        else:
            statics.bake(tensor, call.name)
            continue
        start += sources[-1].width
        tags[id(tensor)] = torch.from_numpy(np.array(tag))
    arguments, keywords = _replaced(call.raw_args, tags), _replaced(call.raw_kwargs, tags)
    pad = 0.0
    if call.name == "constant_pad_nd":
        pad = float(call["value"])
        arguments, keywords = arguments[:2], {}
    with torch.no_grad():
        results = tensors_in(call.function(*arguments, **keywords))
    everything = call.builder.cat([call.builder.fill(pad, 1), *sources])
    lowered: list[Result] = []
    for result in results:
        found = gathered(result.numpy(), call.batch)
        if found is None:
            call.refuse_mixing()
        axis, index = found
        lowered.append(Lowered(call.builder.gather(everything, index.reshape(-1)), axis))
    return lowered


def _replaced(template: Any, tags: dict[int, Tensor]) -> Any:
    if isinstance(template, Tensor):
        return tags.get(id(template), template)
    if isinstance(template, (list, tuple)):
        return type(template)(_replaced(t, tags) for t in template)
    if isinstance(template, dict):
        return {k: _replaced(v, tags) for k, v in template.items()}
    return template
