"""A cell bound to tensors: what an engine runs through time.

:class:`Step` knows how to trace its cell (once per structure and dtype, see
:mod:`ostinato.engine.structure`), which tensors the trace needs, and how to call the cell eagerly.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ostinato.compiler.substitute import substitute
from ostinato.compiler.trace import Trace, trace
from ostinato.engine.state import StateSize, find_state_size, split_result, widths
from ostinato.engine.structure import Structure, structure_of
from ostinato.engine.surroundings import GLOBAL_HOOKS, by_itself
from ostinato.errors import TraceError

State = tuple[Tensor, ...]
StepFunction = Callable[[Tensor, State], tuple[Tensor, State]]

#: How many traces are kept for cells that are gone; the oldest goes first.
_SHARED_TRACES = 256


@dataclass(frozen=True, slots=True)
class _Failure:
    """A cell that can't be traced, so that the next call is told without trying again."""

    arguments: tuple[Any, ...]


@dataclass(slots=True)
class _Memo:
    """Traces of one living cell, good while its structure is the same."""

    cell: weakref.ref[nn.Module]
    structure: Structure
    traces: dict[Any, Trace | _Failure] = field(default_factory=dict)


_memos: dict[int, _Memo] = {}
_shared: OrderedDict[Any, Trace] = OrderedDict()
_lock = threading.RLock()


class Step:
    """One time step of ``cell``, bound to the tensors that it runs with.

    Args:
        cell: ``cell(x, state) -> (output, state)``, see the cell's contract.
        tensors: tensors to use in place of the cell's own parameters and buffers, by dotted name.
            A parametrised parameter counts under its plain name (``"W.weight"``). ``None``: the
            cell's own, a parametrised one computed once per pass over time.
        state_size: an int for a cell that takes one bare tensor as its state, a tuple for one
            that takes a tuple of tensors; ``None``: what the cell says.

    Raises:
        InputError: the cell doesn't say what its state is.
    """

    __slots__ = ("cell", "state_size", "state_sizes", "tensors")

    def __init__(
        self,
        cell: nn.Module,
        tensors: Mapping[str, Tensor] | None = None,
        state_size: StateSize | None = None,
    ) -> None:
        self.cell = cell
        self.tensors = tensors
        self.state_size: StateSize = find_state_size(cell) if state_size is None else state_size
        self.state_sizes: tuple[int, ...] = widths(self.state_size)

    @property
    def bare(self) -> bool:
        """Whether the cell takes its state as one tensor, not as a tuple of tensors."""
        return isinstance(self.state_size, int)

    def trace(self, input_size: int, dtype: torch.dtype) -> Trace:
        """The cell's trace, made at the first call for its structure, then found again.

        Raises:
            TraceError: the cell does something that a row-wise step can't express.
        """
        cell = self.cell
        try:
            structure = structure_of(cell)
        except RuntimeError:
            if not any(map(is_lazy, chain(cell.parameters(), cell.buffers()))):
                raise
            self._initialise(input_size, dtype)
            structure = structure_of(cell)
        memo = _memos.get(id(cell))
        if memo is None or memo.cell() is not cell or not _same(memo.structure, structure):
            memo = _remember(cell, structure)
        request = (input_size, dtype, self.state_size)
        found = memo.traces.get(request)
        if found is None or not self._fits(found):
            found = memo.traces[request] = self._find(structure, request)
        if isinstance(found, _Failure):
            raise TraceError(*found.arguments)
        return found

    @property
    def calls_global_hooks(self) -> bool:
        """Whether there are hooks that the cell and what is in it would call at each step."""
        return any(GLOBAL_HOOKS)

    def _initialise(self, input_size: int, dtype: torch.dtype) -> None:
        """Lazy modules learn their sizes from a call."""
        device = next(p.device for p in self.cell.parameters() if is_lazy(p))
        x, *state = (
            torch.zeros(1, n, dtype=dtype, device=device) for n in (input_size, *self.state_sizes)
        )
        with by_itself(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            self.cell(x, state[0] if self.bare else tuple(state))

    def _fits(self, found: Trace | _Failure) -> bool:
        """Whether values that went into the trace (an index, say) are still the same."""
        if isinstance(found, _Failure) or not found.baked:
            return True
        return found.fits({name: self.tensor(name) for name in found.baked})

    def _find(self, structure: Structure, request: Any) -> Trace | _Failure:
        if structure.private:
            return self._make(request)
        key = (structure.key, request)
        with _lock:
            found = _shared.get(key)
            if found is not None and self._fits(found):
                _shared.move_to_end(key)
                return found
            made = self._make(request)
            # Why one cell can't be traced need not be so of another one: its tensors may be odd.
            if not isinstance(made, _Failure):
                _shared[key] = made
                if len(_shared) > _SHARED_TRACES:
                    _shared.popitem(last=False)
            return made

    def _make(self, request: tuple[int, torch.dtype, StateSize]) -> Trace | _Failure:
        input_size, dtype, state_size = request
        with _lock, by_itself():
            # The cell may be a mould without memory of its own: trace it as it will run.
            cell = substitute(self.cell, self.tensors) if self.tensors else self.cell
            try:
                return trace(cell, input_size, state_size, dtype)
            except TraceError as error:
                # Without its traceback, which would keep the frames of the tracer alive.
                return _Failure(error.args)

    def leaf_tensors(self, trace: Trace) -> list[Tensor]:
        """The tensors that ``trace.preparation`` asks for, in its order.

        A parametrised parameter is computed here, once.
        """
        return [self.tensor(name) for name in trace.preparation.leaves]

    def sources(self, trace: Trace) -> list[Tensor]:
        """What the statics of ``trace`` are cut from, for one pass over time.

        In the trace's own dtype under autocast too.
        """
        if torch._C._is_any_autocast_enabled():
            with torch.autocast("cpu", enabled=False):
                return trace.sources.run(self.leaf_tensors(trace))
        return trace.sources.run(self.leaf_tensors(trace))

    def tensor(self, name: str) -> Tensor:
        """The tensor that stands for a parameter or buffer of the cell, by its dotted name."""
        own = self.tensors
        if own and name in own:
            return own[name]
        plain = self.cell._parameters.get(name)  # most often; and much faster than an attribute
        found: Tensor = attrgetter(name)(self.cell) if plain is None else plain
        return found

    def bound(self) -> StepFunction:
        """The eager step for one pass over time; parametrised weights are computed here, once.

        Returns:
            ``step(x, state) -> (output, state)`` with ``x`` of ``(B, I)``, ``state`` a tuple of
            ``(B, n_k)``, ``output`` of ``(B, O)``.
        """
        cell, bare, count = self.cell, self.bare, len(self.state_sizes)
        substitutes = dict(self.tensors or {})
        for name, module in cell.named_modules():
            if "parametrizations" in module._modules:
                prefix = f"{name}." if name else ""
                for own in module.parametrizations:
                    if prefix + own not in substitutes:
                        substitutes[prefix + own] = getattr(module, own)
        if substitutes:
            cell = substitute(cell, substitutes)

        def step(x: Tensor, state: State) -> tuple[Tensor, State]:
            return split_result(cell(x, state[0] if bare else state), count, bare, cell)

        return step

    def call(self, x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, State]:
        """One eager step, see :meth:`bound`."""
        return self.bound()(x, tuple(state))


class TemplateStep(Step):
    """A step of a :func:`~ostinato.engine.template.template`."""

    __slots__ = ()

    @property
    def calls_global_hooks(self) -> bool:
        """The layer alone calls them: torch's layers have no module inside."""
        return False


def traced_input_size(cell: nn.Module) -> int | None:
    """The input size that ``cell`` was last traced for; ``None``: it wasn't yet."""
    memo = _memos.get(id(cell))
    if memo is None or memo.cell() is not cell or not memo.traces:
        return None
    input_size: int = next(reversed(memo.traces))[0]
    return input_size


class Recorded:
    """Stands for a :class:`Step` while ``torch.compile`` builds a graph.

    Args:
        handle: the cell's number, see :mod:`ostinato.engine.opaque`.
        state_size: as for :class:`Step`.
        names: of the tensors that the cell's trace needs.
        leaves: these tensors.
    """

    def __init__(
        self, handle: int, state_size: StateSize, names: tuple[str, ...], leaves: list[Tensor]
    ) -> None:
        self.handle = handle
        self.state_size = state_size
        self.state_sizes = (state_size,) if isinstance(state_size, int) else state_size
        self.bare = isinstance(state_size, int)
        self.names = names
        self.leaves = leaves


def _same(kept: Structure, now: Structure) -> bool:
    return kept.key == now.key and (not kept.private or kept.alive())


def _remember(cell: nn.Module, structure: Structure) -> _Memo:
    number = id(cell)

    def forget(reference: weakref.ref[nn.Module]) -> None:
        memo = _memos.get(number)
        if memo is not None and memo.cell is reference:
            del _memos[number]

    memo = _memos[number] = _Memo(weakref.ref(cell, forget), structure)
    return memo
