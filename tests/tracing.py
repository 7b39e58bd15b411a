"""Runs a traced cell through the reference interpreter, and the cell itself under autograd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ostinato.compiler import reference
from ostinato.compiler.trace import Trace, trace

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH = 6  # of x and the state in the tables of operations


class FunctionCell(nn.Module):
    """A cell around one function of x and the state, with some parameters and buffers."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(5)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64))

        self.function = function
        self.W = parameter(WIDTH, WIDTH)
        self.blocks = parameter(2, 3, 3)
        self.v = parameter(WIDTH)
        self.row = parameter(1, WIDTH)
        self.s = parameter()
        self.one = parameter(1)
        self.heads = parameter(2, 1)
        self.register_buffer("mask", torch.tensor([True, False, True, True, False, False]))
        self.register_buffer("order", torch.tensor([3, 1, 5, 0, 4, 2]))

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The output is the function's result, the new state a contraction of it."""
        out = self.function(self, x, h)
        new = torch.tanh(0.3 * h + 0.1 * out.sum(-1, keepdim=True))
        return out, new


def leaves_of(cell: nn.Module) -> dict[str, Tensor]:
    """The tensors of a cell that have gradients, by name."""
    found = {name: p for name, p in cell.named_parameters() if ".original" not in name}
    for prefix, module in cell.named_modules():
        if parametrize.is_parametrized(module):
            for name in module.parametrizations:
                found[f"{prefix}.{name}" if prefix else name] = getattr(module, name)
    return found


def resolve(cell: nn.Module, name: str) -> Tensor:
    value: Any = cell
    for part in name.split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value


def eager(
    cell: nn.Module, x: Tensor, state: tuple[Tensor, ...], bare: bool, only: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The cell's own loop."""
    outputs = []
    for row in x:
        result = cell(row, state[0] if bare else state)
        new = result if only else result[1]
        state = (new,) if bare else tuple(new)
        outputs.append(state[0] if only else result[0])
    return torch.stack(outputs), state


def close(got: Tensor, want: Tensor, what: str, tolerance: float = 1e-10) -> None:
    """Same shape, no NaN, small error relative to the largest element."""
    assert got.shape == want.shape, what
    assert not got.isnan().any(), f"{what}: NaN"
    scale = max(1.0, float(want.detach().abs().max())) if want.numel() else 1.0
    error = float((got - want).detach().abs().max()) / scale if want.numel() else 0.0
    assert error <= tolerance, f"{what}: error {error:.3g}"


def compare(
    cell: nn.Module,
    input_size: int,
    state_sizes: int | tuple[int, ...],
    *,
    steps: int = 3,
    rows: int = 2,
    tolerance: float = 1e-10,
) -> Trace:
    """Trace ``cell`` and compare output, state and all gradients with autograd over some steps."""
    cell = cell.double()
    traced = trace(cell, input_size, state_sizes, torch.float64)
    bare = isinstance(state_sizes, int)
    widths = (state_sizes,) if isinstance(state_sizes, int) else state_sizes
    draw = torch.Generator().manual_seed(11)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    x = random(steps, rows, input_size).requires_grad_()
    state = tuple(random(rows, n).requires_grad_() for n in widths)
    with parametrize.cached():
        leaves = leaves_of(cell)
        output, final = eager(cell, x, state, bare, traced.returns_state_only)
        dy, dfinal = random(*output.shape), [random(*s.shape) for s in final]
        wanted = [x, *state, *leaves.values()]
        total = (output * dy).sum() + sum((s * d).sum() for s, d in zip(final, dfinal, strict=True))
        expected = torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)
        statics = traced.preparation.run([resolve(cell, n) for n in traced.preparation.leaves])
        for spec, static in zip(traced.program.statics, statics, strict=True):
            assert tuple(static.shape) == spec.shape
            assert static.dtype == torch.float64
        run = reference.run(
            traced.program,
            [s.detach() for s in statics],
            x.detach(),
            [s.detach() for s in state],
            dy=dy,
            dstate=dfinal,
        )
        live = [i for i, s in enumerate(statics) if s.requires_grad]
        dleaves = (
            torch.autograd.grad(
                [statics[i] for i in live],
                list(leaves.values()),
                [run.dstatics[i] for i in live],
                allow_unused=True,
                materialize_grads=True,
            )
            if live
            else [torch.zeros_like(p) for p in leaves.values()]
        )
    close(run.output, output, "output", tolerance)
    for k, (got, want) in enumerate(zip(run.state, final, strict=True)):
        close(got, want, f"state {k}", tolerance)
    assert run.dx is not None
    names = ["x", *(f"state {k}" for k in range(len(state))), *leaves]
    for name, got, want in zip(names, [run.dx, *run.dstate, *dleaves], expected, strict=True):
        close(got, want, f"gradient of {name}", tolerance)
    return traced
