"""Compares a traced step with the cell itself, gradients included, on random input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ostinato.compiler import reference
from ostinato.compiler.convention import call_cell, random_inputs, split_result
from ostinato.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ostinato.compiler.ir import Program
    from ostinato.compiler.preparation import Preparation

#: The bounds are wide: a wrong program is wrong by far more than any rounding.
_TOLERANCE = {torch.float64: 1e-7, torch.float32: 2e-3}
_LOOSE = 0.1


def prove(
    cell: nn.Module,
    program: Program,
    preparation: Preparation,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    batch: int,
    *,
    bare: bool,
) -> None:
    """Run one step of the cell and of its program, forward and backward, and compare.

    Args:
        cell: the cell.
        program: its traced step.
        preparation: gives the program's statics.
        tensors: the cell's tensors by name.
        dtype: of x and the state.
        batch: how many rows to try.
        bare: the cell takes one tensor as its state.

    Raises:
        TraceError: they differ.
    """
    x, state = random_inputs(program.input_size, program.state_sizes, dtype, batch)
    output, new_state, _ = split_result(cell, call_cell(cell, x, state, bare=bare), state, x, bare)
    results = [output, *new_state]
    generator = torch.Generator().manual_seed(0)
    cotangents = [
        torch.randn(r.shape, generator=generator, dtype=torch.float64).to(dtype) for r in results
    ]
    leaves = {n: t for n, t in tensors.items() if t.requires_grad and t.dtype == dtype}
    wanted = [x, *state, *leaves.values()]
    gradients = _gradients(results, wanted, cotangents)

    inputs = [tensors[name] for name in preparation.leaves]
    statics = preparation.run(inputs)
    found = reference.run(
        program,
        [s.detach() for s in statics],
        x.detach()[None],
        [s.detach() for s in state],
        dy=cotangents[0][None],
        dstate=cotangents[1:],
    )
    assert found.dx is not None
    through = [(s, d) for s, d in zip(statics, found.dstatics, strict=True) if s.requires_grad]
    dleaves = _gradients([s for s, _ in through], list(leaves.values()), [d for _, d in through])

    names = ["the output", *(f"new state {k}" for k in range(len(state)))]
    names += [f"the gradient of {n}" for n in ("x", *(f"state {k}" for k in range(len(state))))]
    names += [f"the gradient of {n}" for n in leaves]
    ours = [found.output[0], *found.state, found.dx[0], *found.dstate, *dleaves]
    theirs = [r.detach() for r in results] + gradients
    tolerance = _TOLERANCE.get(dtype, _LOOSE)
    for name, a, b in zip(names, ours, theirs, strict=True):
        if not _close(a, b, tolerance):
            raise TraceError(
                f"{type(cell).__name__}: {name} of the traced step is not the cell's own "
                f"(differs by {_difference(a, b):.3g}); a hook, a hidden gradient or state kept "
                "in Python is at work. Write the step with torch operations on x, the state and "
                'parameters alone, or ask for engine="eager"'
            )


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


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    scale = 1.0 + float(b.detach().abs().nan_to_num(0.0, 0.0, 0.0).max()) if b.numel() else 1.0
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())
