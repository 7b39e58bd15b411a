"""From a cell to a step program: runs the real cell once and writes down what it did.

:func:`trace` runs the cell on small random tensors under a recorder
(:mod:`ostinato.compiler.recorder`), twice with different batch sizes; the two programs must be
equal. Then it proves the program on random input of a third batch size, against the cell itself
under autograd, gradients included (:mod:`ostinato.compiler.proof`): hooks, hidden state in Python
and gradients that operations don't show end here.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ostinato.compiler.convention import call_cell, random_inputs, split_result
from ostinato.compiler.cuts import find_cuts
from ostinato.compiler.ir import Program, StaticSpec
from ostinato.compiler.lower import lower
from ostinato.compiler.preparation import tensors_in
from ostinato.compiler.proof import prove
from ostinato.compiler.recorder import Recorder
from ostinato.compiler.simplify import simplify
from ostinato.compiler.substitute import substitute
from ostinato.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ostinato.compiler.preparation import Preparation

#: Batch sizes to trace with are primes, so that no feature size is likely to be a multiple of one.
_PRIMES = (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101)

_lock = threading.RLock()


@dataclass(frozen=True)
class Trace:
    """A traced cell.

    Attributes:
        program: the step.
        preparation: computes the program's statics from the cell's tensors.
        sources: computes what the statics are cut from (``program.sources``), from the same.
        returns_state_only: the cell follows torch's convention, ``cell(x, h) -> h``: its output is
            its (first) new state.
        baked: leaves whose values have gone into the program, as indices do, with these values.
    """

    program: Program
    preparation: Preparation
    sources: Preparation
    returns_state_only: bool
    baked: Mapping[str, Tensor] = field(default_factory=dict)

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether the trace holds for a cell with these tensors: whether ``baked`` are the same."""
        return all(
            name in tensors and torch.equal(value, tensors[name])
            for name, value in self.baked.items()
        )


def trace(
    cell: nn.Module,
    input_size: int,
    state_sizes: tuple[int, ...] | int,
    dtype: torch.dtype,
) -> Trace:
    """Trace one step of ``cell``.

    Args:
        cell: ``cell(x, state) -> (output, state)``, or ``cell(x, state) -> state``.
        input_size: features of x.
        state_sizes: an int for a cell that takes one bare tensor ``(B, n)`` as its state, a tuple
            for one that takes a tuple of tensors.
        dtype: of x, the state and the output.

    Returns:
        The trace. The cell, its gradients and the random number generator are as they were.

    Raises:
        TraceError: the cell does something that a row-wise step can't express. Errors of the
            cell's own pass through with a note on what it was called with.
    """
    _refuse_backward_hooks(cell)
    with (
        _lock,
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.random.fork_rng(devices=[]),
    ):
        cell = _prepared(cell)
        tensors = _tensors_of(cell)
        if any(t.is_inference() for t in tensors.values()):
            raise TraceError(
                f"{type(cell).__name__} has parameters or buffers made in inference mode, which "
                "have no gradients; make the cell outside torch.inference_mode(), or ask for "
                'engine="eager"'
            )
        sizes = _batch_sizes(tensors, input_size, state_sizes)
        before = _Members(cell)
        try:
            first, second = (
                _record(cell, tensors, input_size, state_sizes, dtype, b, before) for b in sizes
            )
            if _signature(first) != _signature(second):
                raise TraceError(
                    f"{type(cell).__name__} computes something else for a batch of {sizes[0]} rows "
                    f"than for {sizes[1]}: its program depends on the batch size or changes from "
                    "call to call; let each row depend on itself alone, or ask for "
                    'engine="eager"'
                )
            bare = isinstance(state_sizes, int)
            prove(cell, first.program, first.preparation, tensors, dtype, bare=bare)
        finally:
            before.restore()
        return first


def _record(
    cell: nn.Module,
    tensors: Mapping[str, Tensor],
    input_size: int,
    state_sizes: tuple[int, ...] | int,
    dtype: torch.dtype,
    batch: int,
    before: _Members,
) -> Trace:
    widths = (state_sizes,) if isinstance(state_sizes, int) else tuple(state_sizes)
    x, state = random_inputs(input_size, widths, dtype, batch)
    with contextlib.closing(Recorder(batch, dtype, tensors, lower)) as recorder:
        recorder.add_input(x, "x")
        for k, tensor in enumerate(state):
            recorder.add_input(tensor, "state", index=k)
        bare = isinstance(state_sizes, int)
        result = recorder.call(lambda: call_cell(cell, x, state, bare=bare))
        for name, value in before.assigned():
            _check_assigned(cell, name, value, recorder)
        output, new_state, only = split_result(cell, result, state, x, bare)
        for tensor in (output, *new_state):
            recorder.check(tensor, "the result")
        numbers = [recorder.row_of(t).number for t in (output, *new_state)]
        exported = recorder.statics.exported
        names = recorder.statics.recipe.names
        program = Program(
            tuple(recorder.builder.graph.nodes),
            tuple(StaticSpec(names[e.slot], e.kind, e.shape) for e in exported),
            input_size,
            widths,
            numbers[0],
            tuple(numbers[1:]),
        )
        program, slots = simplify(program, recorder.statics.recipe, [e.slot for e in exported])
        preparation = recorder.statics.recipe.finish(slots)
        leaves = [tensors[name] for name in preparation.leaves]
        program, sources = find_cuts(program, preparation, names, leaves)
        return Trace(program, preparation, sources, only, recorder.statics.baked)


def _prepared(cell: nn.Module) -> nn.Module:
    """The cell; or if need be one like it, so that nothing of the cell's own is changed meanwhile.

    There parametrised tensors are computed, once, and frozen parameters require gradients, so that
    a trace made while some are frozen holds after they are freed.
    """
    others: dict[str, Tensor] = {
        name: p.detach().requires_grad_()
        for name, p in cell.named_parameters()
        if not p.requires_grad and p.is_floating_point()
    }
    thawed = substitute(cell, others) if others else cell
    computed: dict[str, Tensor] = {}
    for prefix, module in thawed.named_modules():
        if parametrize.is_parametrized(module):
            path = f"{prefix}." if prefix else ""
            computed |= {path + name: getattr(module, name) for name in module.parametrizations}
    return substitute(thawed, computed) if computed else thawed


def _tensors_of(cell: nn.Module) -> dict[str, Tensor]:
    """The cell's tensors by dotted name: parameters, buffers, others."""
    tensors: dict[str, Tensor] = {}
    tensors.update(cell.named_parameters())
    tensors.update(cell.named_buffers())
    for prefix, module in cell.named_modules():
        path = f"{prefix}." if prefix else ""
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                tensors.setdefault(path + name, value)
    return tensors


def _batch_sizes(
    tensors: Mapping[str, Tensor], input_size: int, state_sizes: tuple[int, ...] | int
) -> tuple[int, int]:
    widths = (state_sizes,) if isinstance(state_sizes, int) else tuple(state_sizes)
    sizes = {input_size, *widths, input_size + sum(widths), *(input_size + n for n in widths)}
    for tensor in tensors.values():
        sizes.update(tensor.shape)
    free = [p for p in _PRIMES if all(n % p for n in sizes if n)]
    return free[0], free[1]


def _signature(trace: Trace) -> Any:
    """What must be equal for two batch sizes."""
    p, preparation = trace.program, trace.preparation
    constants = [t.tolist() for t in preparation.constants.values()]
    return (
        [(n.op, n.args, n.kind, n.shape, repr(n.attrs)) for n in p.nodes],
        (p.statics, p.output, p.new_state, trace.returns_state_only),
        preparation.describe(),
        repr(constants),
    )


def _refuse_backward_hooks(cell: nn.Module) -> None:
    for path, module in cell.named_modules():
        if module._backward_hooks or module._backward_pre_hooks:
            where = f"its {path}" if path else "it"
            raise TraceError(
                f"{type(cell).__name__} can't be traced, since {where} has a backward hook, which "
                "would be called at each step; put the hook on the layer or on a parameter, or ask "
                'for engine="eager"'
            )


def _check_assigned(cell: nn.Module, name: str, value: Any, recorder: Recorder) -> None:
    """Refuse what a step has put into the cell, but what it would put there again at each step.

    That is what depends on parameters alone: forward hooks of ``torch.nn.utils.prune`` do so.
    """
    tensors = tensors_in(value)
    if tensors and not any(map(recorder.is_rows, tensors)):
        return
    raise TraceError(
        f"{type(cell).__name__} sets its {name} in a step, which a trace would do once; return "
        "what changes as part of the state, set what doesn't before the first call, or ask for "
        'engine="eager"'
    )


class _Members:
    """What a cell's modules hold, as it was at first."""

    def __init__(self, cell: nn.Module) -> None:
        self._held: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        for path, module in cell.named_modules():
            inside = vars(module)
            for held in (inside, *(inside[k] for k in ("_parameters", "_buffers", "_modules"))):
                self._held.append((f"{path}." if path else "", held, dict(held)))

    def assigned(self) -> Iterator[tuple[str, Any]]:
        """Names and values of what has been set since to something else."""
        for path, held, was in self._held:
            for name, value in held.items():
                old = was.get(name)
                same_number = isinstance(value, (int, float, str)) and value == old
                if (name not in was or value is not old) and not same_number:
                    yield path + name, value

    def restore(self) -> None:
        """As it was."""
        for _, held, was in self._held:
            for name in [n for n in held if n not in was]:
                del held[name]
            for name, value in was.items():
                if name not in held or held[name] is not value:
                    held[name] = value
