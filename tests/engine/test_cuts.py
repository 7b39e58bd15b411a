"""Statics that are parts of a parameter: read in place, their gradients put together in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from helpers import (
    assert_close,
    assert_same_run,
    plain_loop,
    random_input,
    random_state,
    randomise,
    run_and_differentiate,
)
from ostinato import Recurrent, _native
from ostinato.compiler.cuts import cut_out
from ostinato.engine.native import ONWARDS
from ostinato.engine.step import Step
from ostinato.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

I, H, T, B = 3, 5, 7, 3  # noqa: E741


class _Cell(nn.Module):
    """A cell whose one weight is ``W``."""

    shape: tuple[int, ...] = (2 * H, I + H)

    def __init__(self) -> None:
        super().__init__()
        self.state_size = H
        self.W = nn.Parameter(torch.empty(self.shape))
        self.b = nn.Parameter(torch.empty(2 * H))

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.step(x, h))


class Cat(_Cell):
    """Columns for x and for h; the bias whole."""

    def step(self, x, h):
        a, b = (torch.cat([x, h], -1) @ self.W.t() + self.b).chunk(2, -1)
        return a * torch.sigmoid(b)


class Rows(_Cell):
    """Rows for each gate, and parts of the bias."""

    def step(self, x, h):
        U, V = self.W.chunk(2)
        b, c = self.b.split(H)
        both = torch.cat([x, h], -1)
        return (both @ U.t() + b) * torch.sigmoid(both @ V.t() + c)


class Stacked(_Cell):
    """Matrices one behind the other, and vectors that lie across one."""

    shape = (3, H, H)

    def step(self, x, h):
        inner = h @ self.W[0] + h.roll(1, -1) @ self.W[1].t()
        return inner * self.W[2, :, 1] + self.W[2][3] + self.b[H:] * x.sum(-1, keepdim=True)


class Gaps(_Cell):
    """A part of the weight and of the bias that nothing looks at."""

    def step(self, x, h):
        return x @ self.W[1 : H + 1, :I].t() + h @ self.W[:H, I:] + self.b[H - 1 : -1]


class Overlaps(_Cell):
    """Parts that have elements in common, and a part that is used twice."""

    def step(self, x, h):
        a = h @ self.W[:H, :H] + h @ self.W[2 : H + 2, 1 : H + 1] + self.b[:H]
        return a + (x @ self.W[:I, :H]) * torch.sigmoid(x @ self.W[:I, :H] + self.b[2 : H + 2])


class Computed(_Cell):
    """Parts of what has been computed."""

    def step(self, x, h):
        W = torch.tanh(self.W)
        return x @ W[:H, :I].t() + h @ W[:H, I:].t() + torch.exp(self.b[:H]) + self.b[H:]


class Held(_Cell):
    """A part that gets no gradient."""

    def step(self, x, h):
        return x @ self.W[:H, :I].t() + h @ self.W[:H, I:].detach().t() + self.b[:H]


class Elsewhere(_Cell):
    """A weight that lies in memory column by column."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(I + H, 2 * H).t())

    def step(self, x, h):
        return x @ self.W[:H, :I].t() + h @ self.W[H:, I:] + self.b[::1][:H]


class Strewn(_Cell):
    """Every other row, and a diagonal, which are no boxes, beside columns, which are."""

    def step(self, x, h):
        return (
            x @ self.W[::2, :I].t()
            + h @ self.W[:H, I:].t()
            + self.W[:H, :H].diagonal()
            + self.b[H:]
        )


#: Cells, and how many calls of PyTorch's are left for each pass over time.
CELLS: dict[Callable[[], _Cell], int] = {
    Cat: 0, Rows: 0, Stacked: 0, Gaps: 0, Overlaps: 0, Computed: 3, Held: 3, Elsewhere: 0,
    Strewn: 5,
}  # fmt: skip


def _made(kind: Callable[[], _Cell]) -> _Cell:
    cell: _Cell = randomise(kind().double())
    return cell


@pytest.mark.parametrize("kind", CELLS)
def test_all_gradients(kind: Callable[[], _Cell]) -> None:
    cell = _made(kind)
    x, state = random_input(T, B, I), random_state(cell, B, dtype=torch.float64)
    own = dict(cell.named_parameters())
    want = run_and_differentiate(lambda x, s: plain_loop(cell, x, s), x, state, own)
    layer = Recurrent(cell, engine="native")
    for _ in range(2):  # the second time by the shortcut
        assert_same_run(run_and_differentiate(layer, x, state, own), want)
    assert layer._shortcut is not None


@pytest.mark.parametrize("kind", CELLS)
def test_what_is_left_to_pytorch(kind: Callable[[], _Cell]) -> None:
    cell = _made(kind)
    step = Step(cell)
    trace = step.trace(I, torch.float64)
    assert len(trace.sources.instructions) == CELLS[kind]
    assert trace.preparation.leaves == trace.sources.leaves
    leaves = step.leaf_tensors(trace)
    parts = cut_out(trace.program, trace.sources.run(leaves))
    for part, static in zip(parts, trace.preparation.run(leaves), strict=True):
        assert torch.equal(part, static)


@pytest.mark.parametrize("kind", CELLS)
def test_some_are_frozen(kind: Callable[[], _Cell]) -> None:
    for name in ("W", "b"):
        cell = _made(kind)
        getattr(cell, name).requires_grad_(False)
        other = {n: p for n, p in cell.named_parameters() if n != name}
        x, state = random_input(T, B, I), random_state(cell, B, dtype=torch.float64)
        want = run_and_differentiate(lambda x, s, c=cell: plain_loop(c, x, s), x, state, other)
        layer = Recurrent(cell, engine="native")
        assert_same_run(run_and_differentiate(layer, x, state, other), want)


@pytest.mark.parametrize("kind", CELLS)
def test_a_second_derivative(kind: Callable[[], _Cell]) -> None:
    cell = _made(kind)
    x = random_input(3, B, I)
    own = list(cell.parameters())
    found = []
    for run in (lambda x: plain_loop(cell, x, torch.zeros(B, H).double())[0],
                lambda x: Recurrent(cell)(x)[0]):  # fmt: skip
        given = x.clone().requires_grad_()
        wanted = [given, *own]
        slopes = torch.autograd.grad(run(given).square().sum(), wanted, create_graph=True)
        total = sum((s.square() * 0.1).sum() for s in slopes)
        found.append(torch.autograd.grad(total, wanted))
    assert_close(found[1], found[0], kind="gradient", times=100)  # of gradients of gradients


class Unfed(Cat):
    """All columns are for h."""

    shape = (2 * H, H)


def test_an_input_without_features() -> None:
    cell = _made(Unfed)
    x, state = random_input(T, B, 0), random_state(cell, B, dtype=torch.float64)
    own = dict(cell.named_parameters())
    want = run_and_differentiate(lambda x, s: plain_loop(cell, x, s), x, state, own)
    got = run_and_differentiate(Recurrent(cell, engine="native"), x, state, own)
    assert got.dx.shape == x.shape
    assert_same_run(got, want)


def test_another_shape_is_told_of_the_parameter() -> None:
    cell = _made(Cat).float()
    trace = Step(cell).trace(I, torch.float32)
    wider = {"W": torch.zeros(2 * H, I + H + 1), "b": cell.b}
    sources = [wider[source.name] for source in trace.program.sources]
    x = random_input(T, B, I).float()
    with pytest.raises(InputError, match=r"W must be \(10, 8\) of torch.float32"):
        _native.run(trace.program, ONWARDS, sources, x, (torch.zeros(B, H),))
