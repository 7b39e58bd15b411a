"""Every operation of the IR through time on the native engine, forward and backward.

A small cell is made around each operation, so that the state passes through it; the op must be in
the traced program, and its gradient rule's ops in the backward one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers import assert_same_run, random_input, randomise, run_and_differentiate
from ostinato import Recurrent, _native
from ostinato.compiler.grad import differentiate
from ostinato.compiler.ir import OPS, Group
from ostinato.engine import Step, lowering

if TYPE_CHECKING:
    from collections.abc import Callable

H = 24  # many runs: a shorter permutation would be taken apart into slices
MIXED = [(7 * i) % H for i in range(H)]


class Around(nn.Module):
    """``h' = tanh(f(W x + U h, h) + x V)``: the operation in the middle of a recurrence."""

    def __init__(self, f: Callable[[Tensor, Tensor, nn.Module], Tensor]) -> None:
        super().__init__()
        self.f = f
        self.state_size = H
        self.W, self.U = nn.Linear(4, H), nn.Linear(H, H, bias=False)
        self.v = nn.Parameter(torch.zeros(H))
        self.s = nn.Parameter(torch.zeros(()))
        self.blocks = nn.Parameter(torch.zeros(2, H // 2, H // 2))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.f(self.W(x) + self.U(h), h, self) + 0.5 * self.v * h)


#: op -> a function of (z, h, cell) that uses it
USES: dict[str, Callable[[Tensor, Tensor, nn.Module], Tensor]] = {
    "neg": lambda z, h, m: -z,
    "abs": lambda z, h, m: z.abs(),
    "sign": lambda z, h, m: torch.sign(z) * h,
    "floor": lambda z, h, m: torch.floor(3 * z) * h,
    "reciprocal": lambda z, h, m: (2 + h * h).reciprocal() * z,
    "sqrt": lambda z, h, m: torch.sqrt(1 + z * z),
    "rsqrt": lambda z, h, m: torch.rsqrt(1 + z * z) * h,
    "exp": lambda z, h, m: torch.exp(-z * z),
    "expm1": lambda z, h, m: torch.expm1(h) + z,
    "log": lambda z, h, m: torch.log(2 + h * h) + z,
    "log1p": lambda z, h, m: torch.log1p(h * h) + z,
    "sin": lambda z, h, m: torch.sin(2 * z),
    "cos": lambda z, h, m: torch.cos(2 * z),
    "tanh": lambda z, h, m: torch.tanh(z),
    "sigmoid": lambda z, h, m: torch.sigmoid(z) * h,
    "erf": lambda z, h, m: torch.erf(z),
    "relu": lambda z, h, m: torch.relu(z),
    "stop": lambda z, h, m: z * h.detach(),
    "add": lambda z, h, m: z + m.s,
    "sub": lambda z, h, m: z - h,
    "mul": lambda z, h, m: z * h * m.s,
    "div": lambda z, h, m: z / (1.5 + h),
    "max": lambda z, h, m: torch.maximum(z, h),
    "min": lambda z, h, m: torch.minimum(z, m.v),
    "pow": lambda z, h, m: (1 + h * h) ** (1 + 0.1 * z),
    "lt": lambda z, h, m: torch.where(z < h, z, h * m.v),
    "le": lambda z, h, m: torch.where(z <= 0.3, z, h),
    "gt": lambda z, h, m: torch.where(torch.gt(z, h), z, 2 * h),
    "ge": lambda z, h, m: (z >= h).float().to(z.dtype) * z,
    "eq": lambda z, h, m: torch.where(torch.sign(z) == torch.sign(h), z, -h),
    "ne": lambda z, h, m: torch.where(torch.sign(z) != torch.sign(h), z, -h),
    "where": lambda z, h, m: torch.where(h > 0, z, 0.5 * z),
    "sum": lambda z, h, m: z + h.sum(-1, keepdim=True),
    "amax": lambda z, h, m: z - torch.amax(h.view(-1, 2, H // 2), -1).repeat_interleave(H // 2, -1),
    "cumsum": lambda z, h, m: z + torch.cumsum(h, -1).flip(-1),
    "moments": lambda z, h, m: functional.layer_norm(z, (H,), m.v, None, 0.1) + h,
    "normalise": lambda z, h, m: functional.group_norm(z + h, 2, m.v, m.v, 0.2),
    # in the gradient; of a sum, which gives each feature the same gradient
    "normalise_grad": lambda z, h, m: (
        functional.layer_norm(z, (H,)).sum(-1, keepdim=True)
        + (functional.layer_norm(h * m.v, (H,)) * z.sum(-1, keepdim=True))
    ),
    "slice": lambda z, h, m: torch.cat([z[:, :2], h[:, 2:]], -1),
    "cat": lambda z, h, m: torch.cat([h[:, 3:], z[:, 1:4]], -1),
    "take": lambda z, h, m: z + h[:, MIXED],
    "put": lambda z, h, m: z * h[:, [MIXED[0], *MIXED[:-1]]],  # in the gradient
    "expand": lambda z, h, m: (
        z + h.view(-1, 2, H // 2).mean(-1, keepdim=True).expand(-1, 2, H // 2).reshape(-1, H)
    ),
    "linear": lambda z, h, m: torch.einsum("bhi,hij->bhj", z.view(-1, 2, H // 2), m.blocks).reshape(
        -1, H
    ),
    "sum_rows": lambda z, h, m: z * m.v,  # in the gradient
    "outer_rows": lambda z, h, m: z,  # in the gradient
    "fill": lambda z, h, m: torch.cat([z[:, :3], torch.ones_like(z[:, 3:])], -1),
}
#: Leaves that each cell has.
LEAVES = {"x", "state", "static", "const", "dy", "dstate", "saved"}


def test_every_operation_is_tried_and_has_native_code() -> None:
    assert set(USES) | LEAVES == set(OPS)
    grouped = {"linear", "outer_rows", "slice", "cat", "stop"}  # products, and what is no operation
    computed = {name for name, spec in OPS.items() if spec.group is not Group.LEAF}
    assert computed - grouped <= set(lowering._CODES)


def test_engine_and_kernels_number_operations_alike() -> None:
    names = [name for name, *_ in _native.op_table()]
    assert lowering._POINTWISE.split() == names


@pytest.mark.parametrize("isa", _native.available_isas())
@pytest.mark.parametrize("op", USES)
def test_operation_through_time(op: str, isa: str) -> None:
    _native.set_isa(isa)
    cell = randomise(Around(USES[op]).double(), scale=0.8)
    program = Step(cell).trace(4, torch.float64).program
    used = {n.op for n in program.nodes} | {n.op for n in differentiate(program).nodes}
    assert op in used
    x = random_input(5, 3, 4)
    state = 0.5 * random_input(1, 3, H, seed=4)[0]
    runs = [
        run_and_differentiate(
            Recurrent(cell, engine=engine), x, state, dict(cell.named_parameters())
        )
        for engine in ("native", "eager")
    ]
    assert_same_run(*runs, times=10)  # libm and ours differ by some ULP a step
