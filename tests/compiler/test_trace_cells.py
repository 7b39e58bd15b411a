"""Cells as people write them: traced, and equal to autograd over several steps."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from ostinato.compiler.ir import Kind
from ostinato.compiler.preparation import Preparation
from ostinato.compiler.trace import trace
from tracing import compare

N_IN, N = 4, 6


class LstmByCat(nn.Module):
    """One linear map of x and h side by side."""

    def __init__(self):
        super().__init__()
        self.gates = nn.Linear(N_IN + N, 4 * N)

    def forward(self, x, state):
        h, c = state
        i, f, g, o = self.gates(torch.cat([x, h], dim=1)).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return h, (h, c)


class GruByDict(nn.Module):
    """Gates in dicts, sub-modules in a ModuleDict."""

    def __init__(self):
        super().__init__()
        self.inputs = nn.ModuleDict({k: nn.Linear(N_IN, N) for k in "rzn"})
        self.states = nn.ModuleDict({k: nn.Linear(N, N, bias=False) for k in "rzn"})

    def forward(self, x, h):
        gate = {k: torch.sigmoid(self.inputs[k](x) + self.states[k](h)) for k in "rz"}
        new = torch.tanh(self.inputs["n"](x) + self.states["n"](gate["r"] * h))
        return (1 - gate["z"]) * new + gate["z"] * h


class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.Wx = nn.Parameter(torch.randn(N_IN, N) * 0.5)
        self.Wh = nn.Parameter(torch.randn(2, 3, 3) * 0.5)
        self.b = nn.Parameter(torch.randn(1, N))

    def forward(self, x, h):
        recurrent = torch.einsum("bhd,hde->bhe", h.view(-1, 2, 3), self.Wh)
        return torch.tanh(torch.einsum("bi,ij->bj", x, self.Wx) + recurrent.flatten(1) + self.b)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(N, N_IN + N) * 0.3)
        self.bias = nn.Parameter(torch.randn(N))

    def forward(self, x, h):
        return F.relu(F.linear(torch.cat((x, h), -1), self.weight, self.bias))


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.W = nn.Linear(N_IN, 2 * N)
        self.R = nn.Linear(N, 2 * N)

    def forward(self, x, h):
        z = self.W(x)
        z.add_(self.R(h))
        gate, new = z.split(N, -1)
        out = torch.zeros(x.shape[0], N, dtype=x.dtype)
        out += torch.sigmoid(gate) * h
        out.add_(torch.tanh(new), alpha=0.5)
        return out


class Sequential(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(N_IN + N, 8), nn.GELU(), nn.Linear(8, N), nn.LayerNorm(N)
        )

    def forward(self, x, h):
        h = h + 0.1 * self.net(torch.cat([x, h], -1))
        return h, h


class Attentive(nn.Module):
    """Softmax over features, a scalar temperature, a state that is not the output."""

    def __init__(self):
        super().__init__()
        self.q = nn.Linear(N_IN, N)
        self.temperature = nn.Parameter(torch.tensor(0.7))
        self.out = nn.Linear(N, 3)

    def forward(self, x, h):
        weights = F.softmax(self.q(x) / self.temperature.exp(), dim=-1)
        h = h * (1 - weights) + weights * x.mean(-1, keepdim=True)
        return self.out(h), h


class Antisymmetric(nn.Module):
    """A weight made of a parameter, and a buffer."""

    def __init__(self):
        super().__init__()
        self.U = nn.Parameter(torch.randn(N, N))
        self.V = nn.Linear(N_IN, N)
        self.register_buffer("eye", torch.eye(N))
        self.eps = 0.1

    def forward(self, x, h):
        A = self.U - self.U.T - 0.01 * self.eye
        return h + self.eps * torch.tanh(h @ A.T + self.V(x))


class Clockwork(nn.Module):
    """Three states of different widths; the first one advances through all."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(N_IN, 5), nn.Linear(5 + 2, 2), nn.Linear(2 + 3, 3)

    def forward(self, x, state):
        a, b, c = state
        a = torch.tanh(self.a(x)) * 0.5 + a * 0.5
        b = torch.tanh(self.b(torch.cat([a, b], -1)))
        c = torch.tanh(self.c(torch.cat([b, c], -1)))
        return torch.cat([a, c], -1), (a, b, c)


class Elementwise(nn.Module):
    """No product of the state at all; a decay that is a function of a parameter."""

    def __init__(self):
        super().__init__()
        self.log_decay = nn.Parameter(torch.randn(N))
        self.W = nn.Linear(N_IN, N)

    def forward(self, x, h):
        decay = torch.exp(-torch.exp(self.log_decay))
        return h * decay + (1 - decay) * self.W(x)


class Tied(nn.Module):
    """One parameter under two names, used three times."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(N, N)
        self.second = nn.Linear(N, N)
        self.second.weight = self.first.weight
        self.W = nn.Linear(N_IN, N)

    def forward(self, x, h):
        return torch.tanh(
            self.second(torch.tanh(self.first(h) + self.W(x))) + h @ self.first.weight
        )


class Parametrised(nn.Module):
    def __init__(self):
        super().__init__()
        self.W = parametrizations.weight_norm(nn.Linear(N_IN, N))
        self.R = parametrizations.orthogonal(nn.Linear(N, N, bias=False))

    def forward(self, x, h):
        return torch.tanh(self.W(x) + self.R(h))


class FastWeights(nn.Module):
    """A matrix in each row's state."""

    def __init__(self):
        super().__init__()
        self.k, self.v, self.q = (nn.Linear(N_IN, 3, bias=False) for _ in range(3))

    def forward(self, x, state):
        A = state.view(-1, 3, 3)
        k = F.normalize(self.k(x), dim=-1)
        A = 0.9 * A + 0.5 * torch.einsum("bi,bj->bij", self.v(x), k)
        y = torch.bmm(A, self.q(x).unsqueeze(-1)).squeeze(-1)
        return y, A.flatten(1)


class Lists(nn.Module):
    """A Python loop over a ParameterList, one-tuple state, torch's convention."""

    def __init__(self):
        super().__init__()
        self.taps = nn.ParameterList([nn.Parameter(torch.randn(N)) for _ in range(3)])
        self.W = nn.Linear(N_IN, N)
        self.scale = torch.tensor(0.25)  # a plain attribute

    def forward(self, x, state):
        (h,) = state
        z = self.W(x)
        for tap in self.taps:
            z = torch.sin(z * self.scale + tap * h)
        return (z,)


CELLS = {
    "LSTMCell": (lambda: nn.LSTMCell(N_IN, N), (N, N)),
    "GRUCell": (lambda: nn.GRUCell(N_IN, N), N),
    "RNNCell": (lambda: nn.RNNCell(N_IN, N), N),
    "RNNCell-relu": (lambda: nn.RNNCell(N_IN, N, nonlinearity="relu", bias=False), N),
    "LstmByCat": (LstmByCat, (N, N)),
    "GruByDict": (GruByDict, N),
    "Einsum": (Einsum, N),
    "Functional": (Functional, N),
    "InPlace": (InPlace, N),
    "Sequential": (Sequential, N),
    "Attentive": (Attentive, N),
    "Antisymmetric": (Antisymmetric, N),
    "Clockwork": (Clockwork, (5, 2, 3)),
    "Elementwise": (Elementwise, N),
    "Tied": (Tied, N),
    "Parametrised": (Parametrised, N),
    "FastWeights": (FastWeights, 9),
    "Lists": (Lists, (N,)),
}


@pytest.mark.parametrize("name", CELLS)
def test_cell(name):
    make, sizes = CELLS[name]
    torch.manual_seed(3)
    compare(make(), N_IN, sizes)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, torch.float32) for n in CELLS]
    # PyTorch has no orthogonal parametrisation in bfloat16.
    + [(n, torch.bfloat16) for n in CELLS if n != "Parametrised"],
)
def test_other_dtypes(name, dtype):
    make, sizes = CELLS[name]
    torch.manual_seed(4)
    assert trace(make().to(dtype), N_IN, sizes, dtype).program.input_size == N_IN


def test_modules_need_no_preparation():
    for make, sizes in (CELLS["LSTMCell"], CELLS["GruByDict"], CELLS["Tied"]):
        preparation = trace(make(), N_IN, sizes, torch.float32).preparation
        assert preparation.instructions == ()


def test_parametrised_leaves_have_plain_names():
    cell = Parametrised()
    traced = trace(cell, N_IN, N, torch.float32)
    assert set(traced.preparation.leaves) == {"W.weight", "W.bias", "R.weight"}
    assert parametrize.is_parametrized(cell.W)


def test_plain_tensor_attributes_are_read_at_each_call():
    cell = Lists().double()
    traced = trace(cell, N_IN, (N,), torch.float64)
    assert "scale" in traced.preparation.leaves


def test_the_map_of_a_cat_is_divided():
    traced = trace(LstmByCat(), N_IN, (N, N), torch.float32)
    maps = [n for n in traced.program.nodes if n.op == "linear"]
    assert [traced.program.nodes[n.args[0]].op for n in maps] == ["x", "state"]
    assert [s.name for s in traced.program.statics] == [
        "gates.bias",
        "gates.weight[:, 0:4]",
        "gates.weight[:, 4:10]",
    ]


def test_where_is_the_users_line():
    traced = trace(LstmByCat(), N_IN, (N, N), torch.float32)
    places = {n.where.partition(":")[0] for n in traced.program.nodes if n.op == "sigmoid"}
    assert places == {"test_trace_cells.py"}


def test_conventions():
    assert trace(nn.LSTMCell(N_IN, N), N_IN, (N, N), torch.float32).returns_state_only
    assert trace(Lists().double(), N_IN, (N,), torch.float64).returns_state_only
    assert not trace(LstmByCat(), N_IN, (N, N), torch.float32).returns_state_only
    assert not trace(Sequential(), N_IN, N, torch.float32).returns_state_only


def test_a_trace_holds_after_freezing_changes():
    cell = Antisymmetric().double()
    cell.U.requires_grad_(False)
    traced = trace(cell, N_IN, N, torch.float64)
    assert not cell.U.requires_grad
    cell.U.requires_grad_(True)
    leaves = [getattr(cell, n) if "." not in n else None for n in traced.preparation.leaves]
    leaves = [
        cell.V.get_parameter(n[2:]) if n.startswith("V.") else t
        for n, t in zip(traced.preparation.leaves, leaves, strict=True)
    ]
    statics = traced.preparation.run(leaves)
    matrix = [
        s for s, p in zip(statics, traced.program.statics, strict=True) if p.kind is Kind.MATRIX
    ]
    assert all(m.requires_grad for m in matrix)


class Shuffled(nn.Module):
    def __init__(self, order):
        super().__init__()
        self.register_buffer("order", torch.tensor(order))
        self.W = nn.Linear(N_IN, N_IN)

    def forward(self, x, h):
        return torch.tanh(self.W(x) + h[:, self.order])


def test_indices_are_part_of_the_trace():
    cell, other = Shuffled([3, 0, 1, 2]), Shuffled([0, 1, 2, 3])
    traced = compare(cell, N_IN, N_IN)
    assert set(traced.baked) == {"order"}
    assert traced.fits(dict(cell.named_buffers()))
    assert not traced.fits(dict(other.named_buffers()))
    assert not traced.fits({})


def test_a_long_permutation_is_a_take():
    class Permuted(nn.Module):
        def forward(self, x, h):
            return torch.tanh(h.view(-1, 6, 7).transpose(1, 2).flatten(1) + x.sum(-1, keepdim=True))

    program = compare(Permuted(), N_IN, 42).program
    assert "take" in {n.op for n in program.nodes}


def test_constants_made_in_the_cell_are_not_shared_between_calls():
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.randn(N))

        def forward(self, x, h):
            w = torch.tensor([1.0, 2, 3, 4, 5, 6], dtype=h.dtype)
            w[1:] += self.p[1:]
            return torch.tanh(h * w)

    traced = compare(Written(), N_IN, N)
    p = torch.zeros(N, dtype=torch.float64)
    first = traced.preparation.run([p])[0].clone()
    assert torch.equal(traced.preparation.run([p])[0], first)


def test_constant_calls_are_made_once():
    class Constants(nn.Module):
        def forward(self, x, h):
            return torch.tanh(h @ (2 * torch.eye(N, dtype=h.dtype)).roll(1, 0))

    preparation = compare(Constants(), N_IN, N).preparation
    assert isinstance(preparation, Preparation)
    assert preparation.instructions == ()
    assert preparation.leaves == ()


def test_width_equal_to_a_batch_size():
    """Features that are multiples of primes: the tracer picks batch sizes that none divides."""

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.W, self.R = nn.Linear(13, 22), nn.Linear(22, 22)

        def forward(self, x, h):
            return torch.tanh(self.W(x) + self.R(h.view(-1, 11, 2).flatten(1)))

    compare(Wide(), 13, 22)


@pytest.mark.parametrize("sizes", [(1, 1), (1, 3), (3, 1)])
def test_one_feature(sizes):
    inputs, hidden = sizes
    compare(nn.LSTMCell(inputs, hidden), inputs, (hidden, hidden))
    compare(nn.GRUCell(inputs, hidden), inputs, hidden)


def test_tracing_imports_nothing_heavy():
    code = (
        "import sys, torch\n"
        "from ostinato.compiler.trace import trace\n"
        "trace(torch.nn.LSTMCell(3, 5), 3, (5, 5), torch.float32)\n"
        "print([m for m in ('sympy', 'torch._dynamo', 'torch.fx') if m in sys.modules])"
    )
    before = "import torch, sys; print([m for m in ('torch.fx',) if m in sys.modules])"
    found, base = (
        subprocess.run([sys.executable, "-c", c], capture_output=True, text=True, check=True).stdout
        for c in (code, before)
    )
    assert found == base
