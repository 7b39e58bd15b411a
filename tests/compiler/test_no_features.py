"""Tensors without features, as slices of narrow rows are: ``h[:, 1:]`` of one feature.

Pointwise operations on them are in ``test_special_values.py``.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import assert_same_run, random_input, randomise, run_and_differentiate
from ostinato import Recurrent, TraceError
from tracing import FunctionCell, compare

if TYPE_CHECKING:
    from collections.abc import Callable

#: What gives ``(B, n)`` of ``(B, 0)``.
OF_NOTHING: dict[str, Callable[[Tensor, FunctionCell], Tensor]] = {
    "sum": lambda a, c: a.sum(1, keepdim=True),
    "sum-heads": lambda a, c: a.reshape(len(a), 2, 0).sum(2),
    "sum-over": lambda a, c: a.reshape(len(a), 0, 2).sum(2),
    "mean": lambda a, c: a.mean(1, keepdim=True).isnan().to(a.dtype),
    "var": lambda a, c: a.var(1, keepdim=True).isnan().to(a.dtype),
    "std": lambda a, c: a.std(1, keepdim=True).isnan().to(a.dtype),
    "any": lambda a, c: a.any(1, keepdim=True).to(a.dtype),
    "all": lambda a, c: a.all(1, keepdim=True).to(a.dtype),
    "prod": lambda a, c: a.prod(1, keepdim=True),
    "norm": lambda a, c: a.norm(dim=1, keepdim=True),
    "norm-3": lambda a, c: a.norm(p=3, dim=1, keepdim=True),
    "logsumexp": lambda a, c: torch.exp(a.logsumexp(1, keepdim=True)),
    "amax-heads": lambda a, c: a.reshape(len(a), 0, 2).amax(2),
    "max-heads": lambda a, c: a.reshape(len(a), 0, 2).max(2).values,
    "cumsum": lambda a, c: a.cumsum(1),
    "softmax": lambda a, c: a.softmax(1),
    "log_softmax": lambda a, c: a.log_softmax(1),
    "layer_norm": lambda a, c: F.layer_norm(a, (0,)),
    "glu": lambda a, c: F.glu(a, 1),
    "linear": lambda a, c: F.linear(a, c.W[:, :0], c.v),
    "linear-to": lambda a, c: F.linear(a.sum(1, True), c.W[:0, :1]),
    "linear-both": lambda a, c: a @ c.W[:0, :0],
    "products": lambda a, c: (a.reshape(len(a), 2, 0) @ a.reshape(len(a), 0, 2)).flatten(1),
    "outer": lambda a, c: (a[:, :, None] * a[:, None]).flatten(1),
    "bmm": lambda a, c: torch.einsum("bhi,hij->bhj", a.reshape(len(a), 2, 0), c.blocks[:, :0]).sum(
        2
    ),
    "with-one": lambda a, c: a * a.sum(1, keepdim=True),
    "with-static": lambda a, c: a * c.v[:0] + c.s,
    "diff": lambda a, c: torch.diff(a, dim=1),
    "pad": lambda a, c: F.pad(a, (1, 1), value=2.0),
    "flip": lambda a, c: a.flip(1),
    "index": lambda a, c: a[:, []],
    "repeat": lambda a, c: a.repeat(1, 3),
    "zeros": lambda a, c: torch.zeros_like(a) + torch.full_like(a, 2.0),
    "written": lambda a, c: torch.zeros_like(a).copy_(a),
}


#: In three dimensions it can't be told where the batch is: these are refused.
REFUSED = {"sum-heads", "sum-over", "amax-heads", "max-heads", "products", "bmm"}


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("name", OF_NOTHING)
def test_operation_on_no_features(name: str) -> None:
    function = OF_NOTHING[name]
    cell = FunctionCell(lambda c, x, h: torch.cat([function(h[:, 3:3], c), c.v * h, x], 1))
    with pytest.raises(TraceError) if name in REFUSED else contextlib.nullcontext():
        compare(cell, 6, 6, steps=2)


class Halves(nn.Module):
    """Even features as they are, the odd ones through a function: of one feature there are none."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.state_size = hidden_size
        self.map = nn.Linear(input_size + hidden_size, hidden_size)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        rough = torch.diff(h, dim=1).square().sum(1, keepdim=True) + x[:, 1:].sum(1, keepdim=True)
        h = torch.tanh(self.map(torch.cat([x, h], 1)) - rough)
        result = torch.zeros_like(h)
        result[:, ::2] = h[:, ::2]
        result[:, 1::2] += torch.sin(h[:, 1::2])
        return result, result


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("sizes", [(3, 1), (1, 1), (1, 2), (0, 1), (3, 0)], ids=str)
def test_narrow_cells_on_the_native_engine(sizes: tuple[int, int]) -> None:
    cell = randomise(Halves(*sizes).double())
    x, state = random_input(5, 3, sizes[0]), random_input(1, 3, sizes[1], seed=4)[0]
    native, eager = (
        run_and_differentiate(
            Recurrent(cell, engine=engine), x, state, dict(cell.named_parameters())
        )
        for engine in ("native", "eager")
    )
    assert_same_run(native, eager, times=10)  # libm and ours differ by some ULP a step
