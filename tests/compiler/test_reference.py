"""The oracle itself: the meaning of operations, and time, against plain PyTorch loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ostinato.compiler import reference
from ostinato.compiler.semantics import FUNCTIONS
from ostinato.compiler.trace import trace
from tracing import close

T, B, N_IN, N = 7, 4, 3, 5
LENGTHS = torch.tensor([7, 0, 4, 1])


def test_meaning_of_moves_and_reductions():
    a = torch.tensor([[1.0, 2, 3, 4, 5, 6]])
    f = FUNCTIONS
    assert f["sum"](a, groups=2).tolist() == [[6.0, 15.0]]
    assert f["amax"](a, groups=3).tolist() == [[2.0, 4.0, 6.0]]
    assert f["cumsum"](a, groups=2, reverse=False).tolist() == [[1, 3, 6, 4, 9, 15]]
    assert f["cumsum"](a, groups=2, reverse=True).tolist() == [[6, 5, 3, 15, 11, 6]]
    moments = f["moments"](a, groups=2, eps=0.0)
    deviation = (2 / 3) ** 0.5
    assert moments.tolist() == [[2, 5, pytest.approx(1 / deviation), pytest.approx(1 / deviation)]]
    normal = f["normalise"](a, moments)
    assert normal[0, 3:].tolist() == pytest.approx([-1 / deviation, 0, 1 / deviation])
    grad = f["normalise_grad"](torch.tensor([[1.0, 0, 0, 0, 0, 0]]), normal, moments)
    want = [v / deviation for v in (1 / 6, -1 / 3, 1 / 6, 0, 0, 0)]
    assert grad[0].tolist() == pytest.approx(want)
    assert f["take"](a, index=(5, 0, 0)).tolist() == [[6, 1, 1]]
    assert f["put"](a, index=(0, 0, 2, 2, 2, 1), width=4).tolist() == [[3, 6, 12, 0]]
    assert f["expand"](a[:, :2], width=6).tolist() == [[1, 1, 1, 2, 2, 2]]
    assert f["slice"](a, start=1, stop=3).tolist() == [[2, 3]]
    assert f["cat"](a[:, :1], a[:, 4:]).tolist() == [[1, 5, 6]]


def test_meaning_of_products():
    a, w = torch.randn(3, 6), torch.randn(2, 3, 4)
    blocks = torch.block_diag(*w)
    torch.testing.assert_close(FUNCTIONS["linear"](a, w, transposed=False, groups=2), a @ blocks)
    torch.testing.assert_close(FUNCTIONS["linear"](a, w.mT, transposed=True, groups=2), a @ blocks)
    dz = torch.randn(3, 8)
    want = torch.stack([a[:, :3].T @ dz[:, :4], a[:, 3:].T @ dz[:, 4:]])
    torch.testing.assert_close(FUNCTIONS["outer_rows"](a, dz, transposed=False, groups=2), want)
    torch.testing.assert_close(FUNCTIONS["outer_rows"](a, dz, transposed=True, groups=2), want.mT)
    torch.testing.assert_close(FUNCTIONS["outer_rows"](a, dz, transposed=True, groups=1), dz.T @ a)


def test_meaning_of_special_values():
    values = torch.tensor([0.0, float("nan"), float("inf"), -3.0])
    assert FUNCTIONS["sign"](values)[[0, 2, 3]].tolist() == [0.0, 1.0, -1.0]
    assert FUNCTIONS["sign"](values).isnan().tolist() == [False, True, False, False]
    assert FUNCTIONS["relu"](values).isnan().tolist() == [False, True, False, False]
    assert FUNCTIONS["max"](values, torch.zeros(4)).isnan().tolist() == [False, True, False, False]
    assert FUNCTIONS["lt"](values, torch.ones(4)).tolist() == [1.0, 0.0, 0.0, 1.0]


class Cell(nn.Module):
    """Two states, an output that is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Linear(N_IN, 2 * N)
        self.R = nn.Linear(N, 2 * N, bias=False)
        self.out = nn.Linear(N, 2)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]):
        h, c = state
        f, g = (self.W(x) + self.R(h)).chunk(2, -1)
        c = torch.sigmoid(f) * c + torch.tanh(g)
        h = torch.sin(c) + 0.5 * h
        return self.out(h), (h, c)


def plain(cell, x, state, lengths, reset, reverse, bptt):
    """The same by indexing rows, with zeros and detach where the contract says."""
    outputs = [[torch.zeros(1, 2, dtype=x.dtype)] * B for _ in range(T)]
    finals = []
    for b in range(B):
        now = tuple(s[b : b + 1] for s in state)
        length = T if lengths is None else int(lengths[b])
        for u in range(length):
            t = length - 1 - u if reverse else u
            if bptt is not None and u > 0 and (length - u) % bptt == 0:
                now = tuple(s.detach() for s in now)
            if reset is not None and reset[t, b]:
                now = tuple(torch.zeros_like(s) for s in now)
            outputs[t][b], now = cell(x[t, b : b + 1], now)
        finals.append(now)
    output = torch.stack([torch.cat(row) for row in outputs])
    return output, tuple(torch.cat([f[k] for f in finals]) for k in range(2))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("bptt", [None, 1, 3])
def test_time(reverse, ragged, restarts, bptt):
    torch.manual_seed(1)
    cell = Cell().double()
    traced = trace(cell, N_IN, (N, N), torch.float64)
    x = torch.randn(T, B, N_IN, dtype=torch.float64, requires_grad=True)
    state = tuple(torch.randn(B, N, dtype=torch.float64, requires_grad=True) for _ in range(2))
    lengths = LENGTHS if ragged else None
    reset = torch.rand(T, B) < 0.3 if restarts else None
    output, final = plain(cell, x, state, lengths, reset, reverse, bptt)
    dy, dfinal = torch.randn_like(output), [torch.randn_like(s) for s in final]
    total = (output * dy).sum() + sum((s * d).sum() for s, d in zip(final, dfinal, strict=True))
    parameters = dict(cell.named_parameters())
    wanted = [x, *state, *parameters.values()]
    want = torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)

    leaves = [parameters[n] for n in traced.preparation.leaves]
    statics = traced.preparation.run(leaves)
    run = reference.run(
        traced.program,
        [s.detach() for s in statics],
        x.detach(),
        [s.detach() for s in state],
        lengths,
        reset,
        reverse,
        bptt,
        dy,
        dfinal,
    )
    close(run.output, output, "output")
    for got, s in zip(run.state, final, strict=True):
        close(got, s, "final state")
    assert run.dx is not None
    got = torch.autograd.grad(statics, list(parameters.values()), run.dstatics)
    names = ["x", "h", "c", *parameters]
    for name, a, b in zip(names, [run.dx, *run.dstate, *got], want, strict=True):
        close(a, b, name)


def test_no_steps():
    cell = Cell().double()
    traced = trace(cell, N_IN, (N, N), torch.float64)
    parameters = dict(cell.named_parameters())
    statics = [
        s.detach()
        for s in traced.preparation.run([parameters[n] for n in traced.preparation.leaves])
    ]
    state = [torch.randn(B, N, dtype=torch.float64) for _ in range(2)]
    x = torch.zeros(0, B, N_IN, dtype=torch.float64)
    run = reference.run(traced.program, statics, x, state, dstate=state)
    assert run.output.shape == (0, B, 2)
    for initial, final, gradient in zip(state, run.state, run.dstate, strict=True):
        assert torch.equal(initial, final)
        assert torch.equal(initial, gradient)


def test_gradients_only_if_asked():
    cell = Cell().double()
    traced = trace(cell, N_IN, (N, N), torch.float64)
    parameters = dict(cell.named_parameters())
    statics = [
        s.detach()
        for s in traced.preparation.run([parameters[n] for n in traced.preparation.leaves])
    ]
    state = [torch.randn(B, N, dtype=torch.float64) for _ in range(2)]
    run = reference.run(
        traced.program, statics, torch.randn(2, B, N_IN, dtype=torch.float64), state
    )
    assert run.dx is None
    assert run.dstate == ()
