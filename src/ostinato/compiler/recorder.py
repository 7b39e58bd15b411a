"""Watches the tensor operations of one step of a real cell and writes them down.

The cell runs on small real tensors while :class:`Recorder`, below autograd, sees every ATen call.
A value is *static* if it depends on parameters, buffers and constants alone: its calls go into the
preparation as they are. A value is a *row* if it depends on x or the state: its calls become IR.

Rows are tracked by storage: a storage is one IR row, and any tensor that shares it is read through
its own offset, sizes and strides (:mod:`ostinato.compiler.layout`). So views need no rules, and an
in-place operation changes the storage's row, which all its aliases see.

Gradients are tracked by what autograd says: a tensor that doesn't require a gradient, though its
row depends on x, the state or a parameter differentiably, was detached, and is read through
``stop``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ostinato.compiler.builder import Builder, Value
from ostinato.compiler.layout import (
    Axis,
    Geometry,
    IntArray,
    RowLayout,
    batch_dims,
    feature_shape,
)
from ostinato.compiler.location import refusal, user_location
from ostinato.compiler.lower_integers import fits
from ostinato.compiler.preparation import function_name, tensors_in
from ostinato.compiler.statics import Statics
from ostinato.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

#: Why an operation can't be followed, and what to write instead.
_HINTS = {
    "nonzero": ("has a result whose size depends on the data", "use torch.where or a mask"),
    "masked_select": ("has a result whose size depends on the data", "use torch.where or a mask"),
    "equal": ("asks for the values of the data", "use torch.where instead of a Python branch"),
    "sort": ("orders data", "there is no row operation for it"),
    "topk": ("orders data", "there is no row operation for it"),
    "argmax": ("picks by the data's values", "use a softmax, or amax and a comparison"),
    "argmin": ("picks by the data's values", "use a softmax, or amin and a comparison"),
    "convolution": ("is a convolution", "write it as a linear map"),
}
#: What takes values out of a tensor without an operation that the recorder would see.
_TAKES_VALUES = frozenset({Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__})
_MIXING = "mixes the rows of the batch"
_NO_VALUE = (
    "makes a Python value of what depends on the data, as a branch does",
    "use torch.where, or arithmetic with a mask",
)
_EACH_ROW = "let each row depend on its own input and state alone"


@dataclass
class RowStorage:
    """A storage that holds rows: ``value`` is its present content, in order of ``layout``."""

    value: Value
    layout: RowLayout
    dtype: torch.dtype
    fresh: bool  # made inside the cell: may be written in place
    keep: torch.UntypedStorage


@dataclass
class Unavailable:
    """A storage whose content the tracer can't express; combining it with rows is refused.

    ``refusal`` names the line that made it.
    """

    refusal: TraceError
    keep: torch.UntypedStorage


@dataclass(frozen=True)
class Rows:
    """A tensor that holds rows: features ``index`` (in feature shape) of ``value``."""

    value: Value
    index: IntArray
    axis: Axis
    shape: tuple[int, ...]

    def gather(self, index: IntArray | None = None, broadcast: bool = False) -> Value:
        """The features as a flat row, all or those of ``index``."""
        chosen = self.index if index is None else index
        return self.value.builder.gather(self.value, chosen.reshape(-1), broadcast)


@dataclass(frozen=True)
class Lowered:
    """A result: a flat row in the order of the result's feature shape, and where its batch is."""

    value: Value
    axis: Axis


#: A result; or why it can't be had; or ``None``: it is a constant.
Result = Lowered | TraceError | None


class Call:
    """One ATen call with a row among its arguments, as lowering rules see it."""

    def __init__(
        self,
        recorder: Recorder,
        function: torch._ops.OpOverload,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        result: Any,
    ) -> None:
        self.recorder = recorder
        self.function = function
        self.result = result
        self.raw_args = args
        self.raw_kwargs = kwargs
        self.args: dict[str, Any] = {}
        for i, argument in enumerate(function._schema.arguments):
            if i < len(args):
                self.args[argument.name] = args[i]
            elif argument.name in kwargs:
                self.args[argument.name] = kwargs[argument.name]
            else:
                self.args[argument.name] = argument.default_value

    @property
    def name(self) -> str:
        """The operation's name, as users know it."""
        name = function_name(self.function)
        return "item()" if name == "_local_scalar_dense" else name

    @property
    def builder(self) -> Builder:
        """Where to write IR."""
        return self.recorder.builder

    @property
    def out(self) -> Tensor:
        """The first result."""
        return tensors_in(self.result)[0]

    @property
    def batch(self) -> int:
        """The batch size of this trace."""
        return self.recorder.batch

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    def is_rows(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on x or the state."""
        return self.recorder.is_rows(tensor)

    def rows(self, tensor: Tensor) -> Rows:
        """A tensor that depends on x or the state."""
        return self.recorder.read(tensor)

    def error(self, why: str, instead: str) -> TraceError:
        """The refusal of a result, to be raised when it is used."""
        return refusal(self.name, why, instead)

    def refuse(self, why: str, instead: str) -> NoReturn:
        """Refuse the cell because of this call."""
        raise refusal(self.name, why, instead)

    def refuse_mixing(self) -> NoReturn:
        """Refuse the cell because rows depend on one another."""
        self.refuse(_MIXING, _EACH_ROW)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records one step of a cell, see the module.

    Args:
        batch: number of rows; no size of a feature dimension may be a multiple of it.
        dtype: of x, the state and the output.
        leaves: parameters, buffers and other tensors of the cell by name.
        lower: gives the results of a call in IR, or ``None`` if it has no rule.
    """

    def __init__(
        self,
        batch: int,
        dtype: torch.dtype,
        leaves: Mapping[str, Tensor],
        lower: Callable[[str, Call], Sequence[Result] | None],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rule = lower
        self.batch = batch
        self.dtype = dtype
        self.statics = Statics(self, leaves)
        self.builder = Builder(user_location, self.statics.pointwise)
        self.storages: dict[int, RowStorage | Unavailable] = {}
        self.error: TraceError | None = None
        self._needs_grad: list[bool] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # skipping it would mean to import it: 1.5 s

    def call(self, function: Callable[[], Any]) -> Any:
        """What ``function`` returns, recorded."""
        with self, _Values(self):
            result = function()
        if self.error is not None:
            raise self.error
        return result

    def close(self) -> None:
        """Let go of what was recorded.

        It is in cycles of references, which the garbage collector would find some time later, when
        a first call has taken its own memory beside it.
        """
        self.storages.clear()
        del self.statics, self.builder

    # ---- what tensors are

    def is_rows(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on x or the state."""
        return tensor.untyped_storage()._cdata in self.storages

    def add_input(self, tensor: Tensor, op: str, **attrs: Any) -> None:
        """Declare ``tensor``, ``(B, n)``, as x or a state."""
        value = self.builder.leaf(op, width=tensor.shape[1], **attrs)
        self._new_storage(tensor, Lowered(value, Axis(0)), fresh=False)

    def read(self, tensor: Tensor) -> Rows:
        """The rows that ``tensor`` holds now."""
        storage = self.storages[tensor.untyped_storage()._cdata]
        if isinstance(storage, Unavailable):
            raise storage.refusal
        if tensor.dtype != storage.dtype:
            raise refusal("view", "changes the dtype of rows in place", "keep the cell's dtype")
        found = storage.layout.find(Geometry.of(tensor), self.batch)
        if found is None:
            raise refusal(
                "a selection",
                f"of shape {tuple(tensor.shape)} takes some rows of the batch out, or {_MIXING}",
                _EACH_ROW,
            )
        axis, index = found
        value = storage.value
        if not tensor.requires_grad and self.needs_grad(value):
            value = self.builder.op("stop", value)
        return Rows(value, index, axis, tuple(tensor.shape))

    def needs_grad(self, value: Value) -> bool:
        """Whether gradients would flow through ``value``."""
        known, nodes = self._needs_grad, self.builder.graph.nodes
        for node in nodes[len(known) :]:
            if node.op in ("x", "state"):
                known.append(True)
            elif node.op == "static":
                known.append(self.statics.exported[node.attrs["index"]].requires_grad)
            elif node.op in ("stop", "lt", "le", "gt", "ge", "eq", "ne"):
                known.append(False)
            else:
                known.append(any(known[a] for a in node.args))
        return known[value.number]

    # ---- calls

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        try:
            return self._call(func, args, kwargs or {})
        except TraceError as error:
            # A cell may catch what it doesn't know: the refusal counts all the same.
            self.error = self.error or error
            raise

    def _call(
        self, function: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        name = function_name(function)
        tensors = tensors_in((args, kwargs))
        for tensor in tensors:
            self.check(tensor, name)
        if torch.Tag.nondeterministic_seeded in function.tags and name != "rrelu_with_noise":
            raise refusal(
                name,
                "is random, and a trace would freeze one draw",
                "draw outside the cell, or put dropout between layers (cell.eval() turns it off)",
            )
        written = self._written(function, args, kwargs)
        for tensor in written:
            self._check_write(tensor, name)
        if not any(map(self.is_rows, tensors)):
            return self.statics.call(function, args, kwargs, written)
        for tensor in written:
            if not self.is_rows(tensor):
                self._make_rows(tensor, name)
        result = function(*args, **kwargs)
        self._lower(Call(self, function, args, kwargs, result), written)
        return result

    def check_value(self, tensor: Tensor, name: str) -> None:
        """Refuse that Python gets the values of ``tensor``."""
        try:
            if self.is_rows(tensor):
                raise refusal(name, *_NO_VALUE)
            self.statics.check_value(tensor, name)
        except TraceError as error:
            self.error = self.error or error
            raise

    def check(self, tensor: Tensor, name: str) -> None:
        """Refuse a tensor whose gradient is not what its operations say."""
        origin: Any = tensor.grad_fn
        if isinstance(origin, torch.autograd.function.BackwardCFunction):
            custom = type(origin).__name__.removesuffix("Backward")
            raise refusal(
                name,
                f"uses a result of {custom}, a torch.autograd.Function with a gradient of its own",
                "write it with torch operations",
            )
        if tensor.is_complex() or tensor.is_sparse or tensor.is_quantized:
            raise refusal(name, f"has a {tensor.dtype} {tensor.layout} tensor", "use real rows")

    def _written(
        self, function: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> list[Tensor]:
        written = []
        if function._schema.is_mutable:
            for i, argument in enumerate(function._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    value = args[i] if i < len(args) else kwargs.get(argument.name)
                    written += tensors_in(value)
        return written

    def _check_write(self, tensor: Tensor, name: str) -> None:
        storage = self.storages.get(tensor.untyped_storage()._cdata)
        if isinstance(storage, RowStorage):
            if not storage.fresh:
                what = "the cell's input or the incoming state"
                raise refusal(name, f"writes into {what}", f"write {name.rstrip('_')} without _")
        else:
            self.statics.check_write(tensor, name)
        if tensor.requires_grad and not torch.is_grad_enabled():
            raise refusal(
                name,
                "changes a value in place where autograd doesn't see it (no_grad)",
                "leave out torch.no_grad() or make a new tensor",
            )

    def _make_rows(self, tensor: Tensor, name: str) -> None:
        """Rows are about to be written into constants such as ``torch.zeros(B, n)``."""
        static = self.statics.storage(tensor)
        dims = batch_dims(static.base.shape, self.batch)
        if len(dims) != 1:
            raise refusal(
                name, f"writes rows into a tensor without a batch: it {_MIXING}", _EACH_ROW
            )
        axis = Axis(dims[0], static.base.shape[dims[0]] // self.batch)
        if axis.inner > 1:
            axis = Axis(dims[0])
            if static.constant is None:
                raise refusal(name, "writes rows into a merged view", "write before merging dims")
        value = self.statics.as_row(static)
        layout = RowLayout.of(static.base, axis, self.batch)
        self.statics.forget(tensor)
        self.storages[tensor.untyped_storage()._cdata] = RowStorage(
            value, layout, tensor.dtype, True, tensor.untyped_storage()
        )

    def _lower(self, call: Call, written: list[Tensor]) -> None:
        results = tensors_in(call.result)
        name = call.name.removesuffix("_") if written else call.name
        if not results:
            call.refuse(*_NO_VALUE)
        lost = self._unavailable(call)
        if lost is not None and not written:
            # What only passes on what can't be had is not refused yet: it may end in a branch,
            # and the branch is what the user should hear of.
            for tensor in results:
                self._set_unavailable(tensor, lost)
            return
        if name == "detach" or (not written and all(map(self.is_rows, results))):
            return  # an alias: it is read through its own strides
        lowered = self._rule(name, call)
        if lowered is None:
            why, instead = _HINTS.get(name, ("has no rule", "rewrite it with other operations"))
            call.refuse(why, instead)
        for tensor, value in zip(results, lowered, strict=True):
            if isinstance(value, TraceError):
                self._set_unavailable(tensor, value)
            elif value is None:
                continue
            elif any(tensor is w for w in written):
                self._write(tensor, value, call)
            else:
                self._check_dtype(tensor, value, call)
                self._new_storage(tensor, value, fresh=True)

    def _set_unavailable(self, tensor: Tensor, why: TraceError) -> None:
        storage = tensor.untyped_storage()
        self.storages[storage._cdata] = Unavailable(why, storage)

    def _unavailable(self, call: Call) -> TraceError | None:
        """Why no row among the arguments can be had; ``None`` if one can."""
        found = None
        for tensor in tensors_in((call.raw_args, call.raw_kwargs)):
            storage = self.storages.get(tensor.untyped_storage()._cdata)
            if isinstance(storage, RowStorage):
                return None
            if storage is not None:
                found = storage.refusal
        return found

    def _check_dtype(self, tensor: Tensor, result: Lowered, call: Call) -> None:
        if tensor.dtype in (self.dtype, torch.bool):
            return
        sources = [t for t in tensors_in((call.raw_args, call.raw_kwargs)) if self.is_rows(t)]
        if any(t.dtype == self.dtype for t in sources):
            call.refuse(
                f"turns rows of {self.dtype} into {tensor.dtype}",
                f"keep {self.dtype} throughout the cell",
            )
        # What is made of masks (``(x > 0).float()``, a count) may be small whole numbers, the same
        # in both dtypes.
        if not fits(result.value, tensor.dtype, self.dtype):
            call.refuse(
                f"makes numbers of {tensor.dtype} that {self.dtype} may round or wrap otherwise",
                f"keep {self.dtype} throughout the cell",
            )

    def _new_storage(self, tensor: Tensor, lowered: Lowered, fresh: bool) -> None:
        geometry = Geometry.of(tensor)
        features = feature_shape(geometry.shape, lowered.axis, self.batch)
        width = int(np.prod(features, dtype=np.int64))
        layout = RowLayout.of(geometry, lowered.axis, self.batch)
        self.storages[tensor.untyped_storage()._cdata] = RowStorage(
            self.builder.row_of(lowered.value, width),
            layout,
            tensor.dtype,
            fresh,
            tensor.untyped_storage(),
        )

    def _write(self, tensor: Tensor, new: Lowered, call: Call) -> None:
        storage = self.storages[tensor.untyped_storage()._cdata]
        assert isinstance(storage, RowStorage)
        self._check_dtype(tensor, new, call)
        found = storage.layout.find(Geometry.of(tensor), self.batch)
        if found is None or found[0] != new.axis:
            call.refuse_mixing()
        index = found[1].reshape(-1)
        if len(set(index.tolist())) < len(index):
            call.refuse("writes one feature several times", "write into a clone")
        old, width = storage.value, storage.value.width
        value = self.builder.row_of(new.value, len(index))
        if len(index) == width:
            storage.value = self.builder.gather(value, np.argsort(index))
            return
        if not tensor.requires_grad and self.needs_grad(old):
            old = self.builder.op("stop", old)
        chosen = np.arange(width, dtype=np.int64)
        chosen[index] = width + np.arange(len(index))
        storage.value = self.builder.gather(self.builder.cat([old, value]), chosen)

    # ---- results of the step

    def row_of(self, tensor: Tensor) -> Value:
        """A result of the step, ``(B, n)``, as a row."""
        if self.is_rows(tensor):
            rows = self.read(tensor)
            if rows.axis != Axis(0):
                raise refusal("a result", _MIXING, _EACH_ROW)
            return self.builder.row_of(rows.gather())
        width = tensor.shape[1]
        return self.builder.row_of(self.statics.operand(tensor, (1, width), "a result"), width)


class _Values(TorchFunctionMode):
    """Sees what takes values out of tensors past the dispatcher."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _TAKES_VALUES:
            self._recorder.check_value(args[0], f"{func.__name__}()")
        return func(*args, **(kwargs or {}))


def common_axis(rows: Iterable[Rows], ndim: int, call: Call) -> Axis:
    """Where the batch is in a result of ``ndim`` dimensions to which ``rows`` are broadcast."""
    axes = {Axis(r.axis.dim + ndim - len(r.shape), r.axis.inner) for r in rows}
    if len(axes) != 1:
        call.refuse_mixing()
    return axes.pop()
