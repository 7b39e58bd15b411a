"""From parameters and buffers to a program's statics.

Whatever a cell computes from its parameters alone (``U - U.T``, ``exp(log_decay)``, a softmax of a
parameter) is recorded while the cell is traced and replayed here, once a call, by PyTorch itself:
gradients come from autograd.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Slot:
    """Stands for a tensor in a recorded call."""

    number: int


@dataclass(frozen=True, slots=True)
class Instruction:
    """A recorded call. ``results`` are slots; ``grad`` is whether autograd was on.

    ``touches`` are the storages that arguments and results share, ``writes`` those that the call
    changes in place.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    reads: tuple[int, ...]
    results: tuple[int, ...]
    grad: bool
    touches: frozenset[int] = frozenset()
    writes: frozenset[int] = frozenset()

    def call(self, env: Mapping[int, Tensor]) -> Iterable[Tensor]:
        """The results, computed from the slots in ``env``."""
        args, kwargs = fill_in(self.args, env), fill_in(self.kwargs, env)
        with contextlib.nullcontext() if self.grad else torch.no_grad():
            out = self.function(*args, **kwargs)
        return (out,) if isinstance(out, Tensor) else tensors_in(out)


@dataclass(frozen=True)
class Preparation:
    """Computes a program's statics.

    Attributes:
        leaves: dotted names of the tensors that are needed, as in ``cell.get_parameter``: also
            ``"W.weight"`` for a parametrised parameter and a plain tensor attribute's path.
        statics: the slots that are the statics, in order.
    """

    leaves: tuple[str, ...]
    statics: tuple[int, ...]
    instructions: tuple[Instruction, ...]
    leaf_slots: tuple[int, ...]
    constants: Mapping[int, Tensor] = field(default_factory=dict)

    def run(self, leaf_tensors: Sequence[Tensor]) -> list[Tensor]:
        """The statics, differentiable with respect to ``leaf_tensors``.

        Args:
            leaf_tensors: one tensor for each name in ``leaves``, same shape and dtype as when the
                cell was traced.

        Returns:
            The statics in the program's order.
        """
        if not self.instructions and not self.constants:
            return [leaf_tensors[k] for k in self._positions]
        env = dict(self.constants)
        env.update(zip(self.leaf_slots, leaf_tensors, strict=True))
        for instruction in self.instructions:
            env.update(zip(instruction.results, instruction.call(env), strict=True))
        return [env[n] for n in self.statics]

    @cached_property
    def _positions(self) -> tuple[int, ...]:
        """Where nothing is computed: each static's place among the leaves."""
        return tuple(self.leaf_slots.index(n) for n in self.statics)

    def describe(self) -> str:
        """The recorded calls as text, one a line: ``$7 = exp($2)``."""
        lines = [f"${n} = {name}" for n, name in zip(self.leaf_slots, self.leaves, strict=True)]
        lines += [f"${n} = constant{tuple(t.shape)}" for n, t in self.constants.items()]
        for i in self.instructions:
            results = ", ".join(f"${n}" for n in i.results)
            arguments = [_text(a) for a in i.args]
            arguments += [f"{k}={_text(v)}" for k, v in i.kwargs.items()]
            lines.append(f"{results} = {function_name(i.function)}({', '.join(arguments)})")
        return "\n".join([*lines, "statics: " + ", ".join(f"${n}" for n in self.statics)])


@dataclass
class Recipe:
    """A preparation under construction."""

    instructions: list[Instruction] = field(default_factory=list)
    leaves: dict[int, str] = field(default_factory=dict)
    constants: dict[int, Tensor] = field(default_factory=dict)  # made by the cell: never change
    captured: dict[int, Tensor] = field(default_factory=dict)  # found by the cell: may change
    storages: list[int] = field(default_factory=list)  # slot -> storage
    names: list[str] = field(default_factory=list)  # slot -> what to call it in reports

    def new_slot(self, storage: int, name: str) -> int:
        """A slot for a tensor of ``storage``."""
        self.storages.append(storage)
        self.names.append(name)
        return len(self.storages) - 1

    def add(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        results: Sequence[int],
        writes: Iterable[int] = (),
        grad: bool = True,
    ) -> None:
        """Append a call; ``writes`` are the storages that it changes."""
        reads = tuple(slots_in((args, kwargs)))
        touched = frozenset(self.storages[n] for n in (*reads, *results))
        self.instructions.append(
            Instruction(
                function,
                args,
                kwargs,
                reads,
                tuple(results),
                grad,
                touched,
                frozenset(writes),
            )
        )

    def name_of_call(self, function: Callable[..., Any], args: Any) -> str:
        """A name for the result of a call: ``exp(log_decay)``, shortened where it gets long."""
        inner = ", ".join(self.names[n] for n in slots_in(args))
        return f"{function_name(function)}({inner if len(inner) <= 40 else '...'})"

    def finish(self, statics: Sequence[int]) -> Preparation:
        """What ``statics`` need; calls on constants alone are made now, once for all."""
        constants = dict(self.constants)
        changed = {s for i in self.instructions for s in i.writes}
        remaining = []
        for i in self.instructions:
            if all(n in constants for n in i.reads) and not i.touches & changed:
                constants.update(zip(i.results, i.call(constants), strict=True))
            else:
                remaining.append(i)
        live = set(statics)
        live_storages = {self.storages[n] for n in statics}
        kept = []
        for i in reversed(remaining):
            if live.intersection(i.results) or live_storages & i.writes:
                kept.append(i)
                live.update(i.reads)
                live_storages |= i.touches
        leaves = {n: name for n, name in self.leaves.items() if n in live}
        return Preparation(
            tuple(leaves.values()),
            tuple(statics),
            tuple(reversed(kept)),
            tuple(leaves),
            {n: t for n, t in (constants | self.captured).items() if n in live},
        )


def fill_in(template: Any, env: Mapping[int, Tensor]) -> Any:
    """``template`` with tensors in place of slots."""
    if isinstance(template, Slot):
        return env[template.number]
    if isinstance(template, (list, tuple)):
        return type(template)(fill_in(t, env) for t in template)
    if isinstance(template, Mapping):
        return {k: fill_in(v, env) for k, v in template.items()}
    return template


def slots_in(template: Any) -> list[int]:
    """The slots in a template, in order."""
    if isinstance(template, Slot):
        return [template.number]
    if isinstance(template, Mapping):
        template = tuple(template.values())
    if isinstance(template, (list, tuple)):
        return [n for t in template for n in slots_in(t)]
    return []


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in arguments or results, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in tensors_in(v)]
    return []


def function_name(function: Callable[..., Any]) -> str:
    """What a user would call it: ``addmm`` for ``aten.addmm.default``."""
    if isinstance(function, torch._ops.OpOverload):
        return function._schema.name.split("::")[-1]
    return str(getattr(function, "__name__", function))


def _text(value: Any) -> str:
    if isinstance(value, Slot):
        return f"${value.number}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_text, value)) + "]"
    return str(value)
