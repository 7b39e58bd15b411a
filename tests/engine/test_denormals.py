"""Values that vanish become zero in the loop, not denormal numbers, which are slow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ostinato import Recurrent, cells


def _denormal(values: Tensor) -> int:
    return int(((values != 0) & (values.abs() < torch.finfo(values.dtype).tiny)).sum())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("engine", ["native", "eager"])
def test_a_vanishing_gradient(engine: str, threads: int) -> None:
    """The eager engine has denormal numbers here, or the case would show nothing."""
    torch.manual_seed(0)
    layer = Recurrent(cells.Elman(3, 32), engine=engine)
    with torch.no_grad():
        layer.cell.weight_hh.mul_(0.1)
    x = torch.randn(100, 64, 3, requires_grad=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y, _ = layer(x)
        (dx,) = torch.autograd.grad(y[-1].sum(), x)
    finally:
        torch.set_num_threads(before)
    assert dx[-1].abs().max() > 1e-3
    assert (dx[0] == 0).all()
    assert (_denormal(dx) == 0) == (engine == "native")


def test_a_denormal_operand_keeps_its_value() -> None:
    class Log(torch.nn.Module):
        state_size = 1

        def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            y = torch.log(x)
            return y, h

    x = torch.full((2, 3, 1), 1e-40)
    y, _ = Recurrent(Log(), engine="native", state_size=1)(x)
    torch.testing.assert_close(y, torch.log(x))


def test_the_callers_arithmetic_stays_as_it_is() -> None:
    small = torch.tensor([1e-20])
    assert _denormal(small * small) == 1
    Recurrent(cells.Elman(3, 4), engine="native")(torch.randn(5, 2, 3))
    assert _denormal(small * small) == 1
