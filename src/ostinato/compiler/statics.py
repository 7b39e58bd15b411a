"""What the tracer knows about values that depend on parameters, buffers and constants alone.

Calls on them are recorded into a :class:`Recipe` with tensors replaced by slots. A tensor is found
again by its storage and geometry, and by whether it requires a gradient (``w.detach()`` lies where
``w`` does).

A static may have the batch in its shape (``h0.expand(B, n)``, ``torch.zeros(B, n)``). It is
*virtual* then: the recorded call has B replaced by 1 in its sizes, so the preparation's tensor has
one row, which broadcasts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ostinato.compiler.ir import Kind
from ostinato.compiler.layout import Geometry, batch_dims, numel, without_batch
from ostinato.compiler.location import refusal
from ostinato.compiler.preparation import (
    Recipe,
    Slot,
    fill_in,
    function_name,
    tensors_in,
)
from ostinato.compiler.semantics import FUNCTIONS

if TYPE_CHECKING:
    from ostinato.compiler.builder import Value
    from ostinato.compiler.recorder import Recorder

_SIZES = frozenset({"size", "shape", "repeats"})
_NO_VALUE = (
    "turns a parameter or buffer into a Python value, which would be frozen",
    "compute with tensors, or keep the number as a plain attribute of the cell",
)


@dataclass
class StaticStorage:
    """A storage of static tensors. ``constant``: the number that all its elements are."""

    number: int
    base: Geometry
    dtype: torch.dtype
    constant: float | None
    fresh: bool  # made inside the cell: may be written in place
    keep: torch.UntypedStorage
    frozen: bool = False  # part of the program: must not change any more


@dataclass(frozen=True)
class Exported:
    """A static of the program."""

    slot: int
    kind: Kind
    shape: tuple[int, ...]
    requires_grad: bool


@dataclass(frozen=True)
class _SlotInfo:
    shape: tuple[int, ...]  # without the batch, if virtual
    dtype: torch.dtype
    requires_grad: bool
    virtual: bool


class Statics:
    """Static tensors seen during one trace, see the module."""

    def __init__(self, recorder: Recorder, leaves: Mapping[str, Tensor]) -> None:
        self._recorder = recorder
        self._batch = recorder.batch
        self._leaves = leaves
        self.recipe = Recipe()
        self.exported: list[Exported] = []
        #: Leaves whose values have gone into the program (as indices), and these values.
        self.baked: dict[str, Tensor] = {}
        self._storages: dict[int, StaticStorage] = {}
        self._count = 0
        self._slots: dict[tuple[int, Geometry], list[int]] = {}
        self._info: list[_SlotInfo] = []
        self._values: dict[int, Tensor] = {}  # of virtual slots: with one row
        self._derived: dict[Any, int] = {}
        self._exports: dict[int, int] = {}
        for name, tensor in leaves.items():
            if not self._known(tensor):
                slot = self._register(tensor, name, tensor.requires_grad, fresh=False)
                self.recipe.leaves[slot] = name

    # ---- storages and slots

    def storage(self, tensor: Tensor) -> StaticStorage:
        """The storage of a static tensor."""
        return self._storages[tensor.untyped_storage()._cdata]

    def forget(self, tensor: Tensor) -> None:
        """From now on the storage of ``tensor`` holds rows."""
        del self._storages[tensor.untyped_storage()._cdata]

    def _known(self, tensor: Tensor) -> bool:
        storage = self._storages.get(tensor.untyped_storage()._cdata)
        return storage is not None and (storage.number, Geometry.of(tensor)) in self._slots

    def _register(
        self,
        tensor: Tensor,
        name: str,
        requires_grad: bool,
        *,
        fresh: bool = True,
        constant: float | None = None,
        virtual: bool = False,
    ) -> int:
        key = tensor.untyped_storage()._cdata
        storage = self._storages.get(key)
        geometry = Geometry.of(tensor)
        if storage is None:
            storage = self._storages[key] = StaticStorage(
                self._count, geometry, tensor.dtype, constant, fresh, tensor.untyped_storage()
            )
            self._count += 1
        shape = without_batch(geometry.shape, self._batch) if virtual else geometry.shape
        slot = self._new_slot(
            storage.number, name, _SlotInfo(shape, tensor.dtype, requires_grad, virtual)
        )
        self._slots.setdefault((storage.number, geometry), []).append(slot)
        return slot

    def _new_slot(self, storage: int, name: str, info: _SlotInfo) -> int:
        self._info.append(info)
        return self.recipe.new_slot(storage, name)

    def slot(self, tensor: Tensor, op: str) -> int:
        """The slot of a static tensor; a tensor never seen before is one that the cell captured."""
        if not self._known(tensor):
            if batch_dims(tensor.shape, self._batch):
                raise refusal(
                    op,
                    f"uses a tensor of shape {tuple(tensor.shape)} that depends on the batch size "
                    "and is made neither from x nor from the state by torch operations",
                    "make it from x (torch.zeros_like, x.new_zeros, expand)",
                )
            slot = self._register(tensor, "captured", tensor.requires_grad, fresh=False)
            self.recipe.captured[slot] = tensor
            return slot
        slots = self._slots[self.storage(tensor).number, Geometry.of(tensor)]
        wanted = tensor.requires_grad
        for slot in slots:
            if self._info[slot].requires_grad == wanted:
                return slot
        if wanted:
            return slots[-1]  # it became differentiable by a later write
        source = slots[-1]
        detached = self._derive(source, torch.detach, self._info[source].shape)
        if source in self._values:
            self._values[detached] = self._values[source]
        return detached

    def check_write(self, tensor: Tensor, op: str) -> None:
        """Refuse an in-place operation on a tensor that isn't the cell's own."""
        storage = self._storages.get(tensor.untyped_storage()._cdata)
        if storage is None or not storage.fresh:
            names = [
                name
                for slot, name in self.recipe.leaves.items()
                if storage is not None and self.recipe.storages[slot] == storage.number
            ]
            what = names[0] if names else "a tensor from outside the cell"
            if what.endswith("num_batches_tracked"):
                raise refusal(
                    "batch norm",
                    "in training mode mixes the rows of the batch",
                    "use layer norm, or call eval()",
                )
            raise refusal(
                op, f"writes into {what} in place", "return what changes as part of the state"
            )
        if storage.frozen:
            raise refusal(op, "changes weights that are already in use", "change a clone of them")

    def check_value(self, tensor: Tensor, op: str) -> None:
        """Refuse that Python gets the values of what may change from call to call."""
        if self._known(tensor) and self.storage(tensor).constant is None:
            raise refusal(op, *_NO_VALUE)

    # ---- recording

    def call(
        self,
        function: torch._ops.OpOverload,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        written: Sequence[Tensor],
    ) -> Any:
        """Run and record a call whose tensors are all static."""
        name = function_name(function)
        tensors = tensors_in((args, kwargs))
        if name == "lift_fresh" and not self._known(tensors[0]):
            result = function(*args, **kwargs)
            self.add_constant(result, "torch.tensor")
            return result
        slots = {id(t): self.slot(t, name) for t in tensors}
        constant = all(self.storage(t).constant is not None for t in tensors)
        wants_grad = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        result = function(*args, **kwargs)
        results = tensors_in(result)
        if not results:
            if not written and not constant:
                raise refusal(name.removeprefix("_local_"), *_NO_VALUE)
            return result
        arguments, keywords = _with_slots(args, slots), _with_slots(kwargs, slots)
        virtual = any(self._info[n].virtual for n in slots.values()) or any(
            batch_dims(t.shape, self._batch) for t in results
        )
        values: list[Tensor] = []
        if virtual:
            arguments, keywords = self._without_batch(function, arguments, keywords)
            values = self._one_row(function, arguments, keywords, tensors, slots, results)
        numbers = []
        for i, tensor in enumerate(results):
            number = self._register(
                tensor,
                self.recipe.name_of_call(function, (arguments, keywords)),
                wants_grad and tensor.dtype.is_floating_point and name != "detach",
                virtual=virtual,
            )
            if virtual:
                self._values[number] = values[i]
            numbers.append(number)
            storage = self.storage(tensor)
            if written or storage.base == Geometry.of(tensor):
                storage.constant = self._uniform(tensor, storage, name) if constant else None
        writes = {self.storage(t).number for t in written}
        self.recipe.add(function, arguments, keywords, numbers, writes, torch.is_grad_enabled())
        return result

    def add_constant(self, tensor: Tensor, op: str) -> None:
        """Register what the cell has just made of numbers alone."""
        if batch_dims(tensor.shape, self._batch):
            self.slot(tensor, op)  # refuses it
        source = self._new_slot(
            -1, "constant", _SlotInfo(tuple(tensor.shape), tensor.dtype, False, False)
        )
        self.recipe.constants[source] = tensor.detach().clone()
        # The cell may write into it: each call has its own.
        slot = self._register(tensor, "constant", False)
        self.recipe.add(torch.clone, (Slot(source),), {}, [slot])
        storage = self.storage(tensor)
        storage.constant = self._uniform(tensor, storage, "")

    def _uniform(self, tensor: Tensor, storage: StaticStorage, name: str) -> float | None:
        base = storage.base
        with torch.no_grad():
            whole = tensor.as_strided(base.shape, base.stride, base.offset)
            if name.startswith(("empty", "new_empty")):
                return 0.0  # anything will do: it is written before it is read
            if not whole.numel() or whole.is_complex():
                return None
            first = whole.reshape(-1)[0]
            return float(first) if bool((whole == first).all()) else None

    def _without_batch(
        self,
        function: torch._ops.OpOverload,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        names = [a.name for a in function._schema.arguments]

        def reduced(name: str, value: Any) -> Any:
            if name in _SIZES and isinstance(value, (list, tuple)):
                return list(without_batch(value, self._batch))
            return value

        positional = tuple(reduced(n, v) for n, v in zip(names, args, strict=False))
        return positional, {k: reduced(k, v) for k, v in kwargs.items()}

    def _one_row(
        self,
        function: torch._ops.OpOverload,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        tensors: Sequence[Tensor],
        slots: Mapping[int, int],
        results: Sequence[Tensor],
    ) -> list[Tensor]:
        """The results with one row, to prove that the recorded call can do without the batch."""
        env = {slots[id(t)]: self._values.get(slots[id(t)], t) for t in tensors}
        values: list[Tensor] = []
        try:
            with torch.no_grad():
                values = tensors_in(function(*fill_in(args, env), **fill_in(kwargs, env)))
        except (RuntimeError, IndexError):
            values = []
        expected = [without_batch(t.shape, self._batch) for t in results]
        if [tuple(v.shape) for v in values] != expected or any(
            self._info[slots[id(t)]].virtual and not batch_dims(r.shape, self._batch)
            for t in tensors
            for r in results
        ):
            raise refusal(
                function_name(function),
                "depends on the batch size",
                "make it from x (torch.zeros_like, x.new_zeros), the same for each row",
            )
        return values

    # ---- use in the program

    def _derive(
        self,
        source: int,
        function: Callable[..., Any],
        shape: tuple[int, ...],
        *arguments: Any,
        dtype: torch.dtype | None = None,
    ) -> int:
        """A slot for ``function(source, *arguments)``."""
        key = (source, function, arguments)
        if key not in self._derived:
            info, name = self._info[source], self.recipe.names[source]
            cut = function is torch.detach
            if cut or dtype:
                name = self.recipe.name_of_call(function, Slot(source))
            number = self._new_slot(
                self.recipe.storages[source],
                name,
                _SlotInfo(
                    shape,
                    dtype or info.dtype,
                    info.requires_grad and not cut,
                    info.virtual and cut,
                ),
            )
            self.recipe.add(function, (Slot(source), *arguments), {}, [number])
            self._derived[key] = number
        return self._derived[key]

    def export(self, slot: int, kind: Kind) -> Value:
        """The program's static for a slot."""
        info = self._info[slot]
        if info.dtype != self._recorder.dtype:
            slot = self._derive(
                slot, Tensor.to, info.shape, self._recorder.dtype, dtype=self._recorder.dtype
            )
            info = self._info[slot]
        if slot not in self._exports:
            self._exports[slot] = len(self.exported)
            self.exported.append(Exported(slot, kind, info.shape, info.requires_grad))
            for storage in self._storages.values():
                if storage.number == self.recipe.storages[slot]:
                    storage.frozen = True
        index = self._exports[slot]
        return self._recorder.builder.leaf("static", index=index, kind=kind, shape=info.shape)

    def operand(
        self,
        tensor: Tensor,
        features: tuple[int, ...],
        op: str,
        shape: tuple[int, ...] | None = None,
    ) -> Value:
        """A static tensor, broadcast to a feature shape: a constant, a SCALAR, or a VECTOR.

        It is seen as of ``shape`` first (its own, if ``None``).
        """
        slot = self.slot(tensor, op)
        constant = self.storage(tensor).constant
        if constant is not None:
            return self._recorder.builder.const(constant)
        own, n = self._info[slot].shape, numel(features)
        shape = own if shape is None else shape
        if numel(shape) == 1:
            if own:
                slot = self._derive(slot, torch.reshape, (), ())
            return self.export(slot, Kind.SCALAR)
        if not _fits(shape, features):
            raise refusal(op, "mixes the rows of the batch", "let each row depend on itself alone")
        if numel(shape) != n:
            if own != shape:
                slot = self._derive(slot, torch.reshape, shape, shape)
            slot = self._derive(slot, Tensor.expand, features, features)
            own = features
        if own != (n,):
            slot = self._derive(slot, torch.reshape, (n,), (n,))
        return self.export(slot, Kind.VECTOR)

    def as_row(self, storage: StaticStorage) -> Value:
        """The content of a whole fresh storage as a row, in order of its first geometry."""
        width = numel(without_batch(storage.base.shape, self._batch))
        builder = self._recorder.builder
        if storage.constant is not None:
            return builder.fill(storage.constant, width)
        slot = self._slots[storage.number, storage.base][-1]
        return builder.row_of(self.flat(slot))

    def flat(self, slot: int) -> Value:
        """A slot's elements in order as a VECTOR (a SCALAR, if it is one)."""
        n = numel(self._info[slot].shape)
        shape: tuple[int, ...] = () if n == 1 else (n,)
        if self._info[slot].shape != shape:
            slot = self._derive(slot, torch.reshape, shape, shape)
        return self.export(slot, Kind.VECTOR if shape else Kind.SCALAR)

    def shape(self, slot: int) -> tuple[int, ...]:
        """A slot's shape, with one row if it is virtual."""
        return self._info[slot].shape

    def maps(self, tensor: Tensor, copies: int, op: str) -> tuple[Value, bool]:
        """A static ``(g, k, n)`` as the map of ``linear`` with ``g * copies`` groups.

        Returns:
            The map, and whether it is to be transposed: a transposed view of a parameter is the
            parameter itself.
        """
        slot, transposed = self.slot(tensor, op), False
        if tensor.dim() > 1 and not self._info[slot].virtual:
            number, geometry = self.storage(tensor).number, Geometry.of(tensor).squeezed
            for turned, lies in ((False, geometry), (True, geometry.transposed)):
                for other in self._slots.get((number, lies), ()):
                    if other < slot and self._info[other].requires_grad == tensor.requires_grad:
                        slot, transposed = other, turned
        shape = self._info[slot].shape
        *lead, k, n = shape if len(shape) > 1 else (*shape, 1)
        g = numel(lead)
        if copies > 1:
            slot = self._derive(slot, torch.reshape, (g, 1, k, n), (g, 1, k, n))
            full = (g, copies, k, n)
            slot = self._derive(slot, Tensor.expand, full, full)
        final = (g * copies, k, n) if g * copies > 1 else (k, n)
        if self._info[slot].shape != final:
            slot = self._derive(slot, torch.reshape, final, final)
        return self.export(slot, Kind.MATRIX), transposed

    def pointwise(self, op: str, args: tuple[Value, ...]) -> Value:
        """A pointwise operation on statics that a lowering rule asks for."""
        templates: list[Any] = []
        shape: tuple[int, ...] = ()
        grad = False
        dtype = self._recorder.dtype
        for a in args:
            if a.constant is not None:
                number = self._new_slot(-1, str(a.constant), _SlotInfo((), dtype, False, False))
                self.recipe.constants[number] = torch.tensor(a.constant, dtype=dtype)
                templates.append(Slot(number))
                continue
            exported = self.exported[a.node.attrs["index"]]
            templates.append(Slot(exported.slot))
            shape = max(shape, exported.shape, key=len)
            grad = grad or exported.requires_grad
        number = self._new_slot(
            self._count,
            self.recipe.name_of_call(FUNCTIONS[op], templates),
            _SlotInfo(shape, dtype, grad, False),
        )
        self._count += 1
        self.recipe.add(FUNCTIONS[op], tuple(templates), {}, [number])
        return self.export(number, Kind.VECTOR if shape else Kind.SCALAR)

    def bake(self, tensor: Tensor, op: str) -> None:
        """The values of ``tensor`` go into the program: remember the leaves that they come from."""
        needed = {self.slot(tensor, op)}
        for i in reversed(self.recipe.instructions):
            if needed.intersection(i.results):
                needed.update(i.reads)
        for slot in needed & set(self.recipe.leaves):
            name = self.recipe.leaves[slot]
            self.baked[name] = self._leaves[name].detach().clone()


def _fits(shape: tuple[int, ...], features: tuple[int, ...]) -> bool:
    """Whether ``shape`` broadcasts to ``features``."""
    tail = features[len(features) - len(shape) :]
    return len(shape) <= len(features) and all(
        a in (1, b) for a, b in zip(shape, tail, strict=True)
    )


def _with_slots(template: Any, slots: Mapping[int, int]) -> Any:
    if isinstance(template, Tensor):
        return Slot(slots[id(template)])
    if isinstance(template, (list, tuple)):
        return type(template)(_with_slots(t, slots) for t in template)
    if isinstance(template, Mapping):
        return {k: _with_slots(v, slots) for k, v in template.items()}
    return template
