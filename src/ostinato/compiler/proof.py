"""Compares a traced step with the cell itself, gradients included, on random input."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ostinato.compiler.convention import call_cell, random_inputs, split_result
from ostinato.compiler.grad import differentiate
from ostinato.compiler.reference import backward_environment, evaluate, forward_environment
from ostinato.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ostinato.compiler.ir import Program
    from ostinato.compiler.preparation import Preparation

#: The bounds are wide: a wrong program is wrong by far more than any rounding.
_TOLERANCE = {torch.float64: 1e-7, torch.float32: 2e-3}
_LOOSE = 0.1
#: Rows to try, and seeds of what they hold.
_BATCHES = (3, 2, 4)


def prove(
    cell: nn.Module,
    program: Program,
    preparation: Preparation,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    *,
    bare: bool,
) -> None:
    """Run one step of the cell and of its program, forward and backward, and compare.

    A rounding may land on the other side of a kink (relu at 0) and change a gradient much: only
    what differs for each of several inputs is refused.

    Args:
        cell: the cell.
        program: its traced step.
        preparation: gives the program's statics.
        tensors: the cell's tensors by name.
        dtype: of x and the state.
        bare: the cell takes one tensor as its state.

    Raises:
        TraceError: they differ.
    """
    for batch in _BATCHES:
        difference = _first_difference(cell, program, preparation, tensors, dtype, batch, bare)
        if difference is None:
            return
    raise TraceError(
        f"{type(cell).__name__}: {difference}; a hook, a hidden gradient or state kept in Python "
        "is at work. Write the step with torch operations on x, the state and parameters alone, "
        'or ask for engine="eager"'
    )


def _first_difference(
    cell: nn.Module,
    program: Program,
    preparation: Preparation,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    batch: int,
    bare: bool,
) -> str | None:
    """What differs between the cell and its traced step on ``batch`` random rows."""
    x, state = random_inputs(program.input_size, program.state_sizes, dtype, batch)
    output, new_state, _ = split_result(cell, call_cell(cell, x, state, bare=bare), state, x, bare)
    results = [output, *new_state]
    generator = torch.Generator().manual_seed(0)
    cotangents = [
        torch.randn(r.shape, generator=generator, dtype=torch.float64).to(dtype) for r in results
    ]
    leaves = {n: t for n, t in tensors.items() if t.requires_grad and t.dtype == dtype}
    wanted = [x, *state, *leaves.values()]
    try:
        gradients = _gradients(results, wanted, cotangents)
    except RuntimeError as error:
        raise TraceError(
            f"{type(cell).__name__} can't be differentiated by PyTorch ({error}), so its traced "
            'step can\'t be compared with it; change the step, or ask for engine="eager"'
        ) from error

    statics = preparation.run([tensors[name] for name in preparation.leaves])
    plain = [s.detach() for s in statics]
    row = x.detach()
    values = evaluate(
        program.nodes, forward_environment(row, [s.detach() for s in state], plain), row
    )
    backward = differentiate(program)
    env = backward_environment(plain, values, cotangents[0], cotangents[1:])
    found = evaluate(backward.nodes, env, row)
    dinputs = [
        torch.zeros_like(i) if n is None else found[n]
        for i, n in zip((x, *state), (backward.dx, *backward.dstate), strict=True)
    ]
    through = [
        (statics[i], _total([found[n].reshape(statics[i].shape) for n in numbers]))
        for i, numbers in backward.dstatics.items()
    ]
    dleaves = _leaf_gradients(through, list(leaves.values()))

    names = ["the output", *(f"new state {k}" for k in range(len(state)))]
    names += [f"the gradient of {n}" for n in ("x", *(f"state {k}" for k in range(len(state))))]
    names += [f"the gradient of {n}" for n in leaves]
    ours = [values[n] for n in (program.output, *program.new_state)] + dinputs + dleaves
    theirs = [r.detach() for r in results] + gradients
    tolerance = _TOLERANCE.get(dtype, _LOOSE)
    for name, a, b in zip(names, ours, theirs, strict=True):
        if not _close(a, b, tolerance):
            return (
                f"{name} of the traced step is not the cell's own (differs by "
                f"{_difference(a, b):.3g})"
            )
    return None


def _gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> list[Tensor]:
    pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
    if not pairs or not inputs:
        return [torch.zeros_like(i) for i in inputs]
    # One number to differentiate: with given cotangents PyTorch would import SymPy, half a second.
    total = sum((o * c).sum() for o, c in pairs)
    assert isinstance(total, Tensor)
    found = torch.autograd.grad(total, inputs, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(i) if g is None else g for g, i in zip(found, inputs, strict=True)]


def _total(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).sum(0)


def _leaf_gradients(
    through: Sequence[tuple[Tensor, Tensor]], leaves: Sequence[Tensor]
) -> list[Tensor]:
    """Gradients of ``leaves`` from those of the statics, many of which are leaves themselves.

    Those are taken as they are: copies would be most of the memory of a first call.
    """
    own = {id(leaf) for leaf in leaves if leaf.is_leaf}
    derived = [(s, d) for s, d in through if id(s) not in own]
    parts: dict[int, list[Tensor]] = {id(leaf): [] for leaf in leaves}
    for s, d in through:
        if id(s) in own:
            parts[id(s)].append(d)
    if any(s.requires_grad for s, _ in derived):
        more = _gradients([s for s, _ in derived], leaves, [d for _, d in derived])
        for leaf, d in zip(leaves, more, strict=True):
            parts[id(leaf)].append(d)
    return [_total(parts[id(t)]) if parts[id(t)] else torch.zeros_like(t) for t in leaves]


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if not b.numel():
        return True
    a, b = a.detach(), b.detach()
    scale = float(b.abs().max())
    if math.isfinite(scale):
        return float((a - b).abs().max()) <= tolerance * (1.0 + scale)
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())
