"""Cells that weren't written for ostinato, the way people write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

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


class Slices(nn.Module):
    """Products are added to parts of one map of x: apart, overlapping, and one that comes twice."""

    def __init__(self):
        super().__init__()
        self.x = nn.Linear(N_IN, 4 * N)
        self.h = nn.ModuleList(nn.Linear(N, N) for _ in range(3))

    def forward(self, x, h):
        z = self.x(x)
        apart = torch.sigmoid(z[:, :N] + self.h[0](h))
        overlapping = torch.tanh(z[:, N : 2 * N] + self.h[1](h)) * z[:, N + 2 : 2 * N + 2].sin()
        twice = torch.tanh(z[:, 3 * N :] + self.h[2](h)) - z[:, 3 * N :]
        h = h - apart * (overlapping - (-twice))
        return torch.cat([h, apart, h], -1), h


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
    "Slices": (Slices, N),
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
