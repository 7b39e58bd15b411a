"""Each cell against its paper's equations, written here once more in numpy, gate by gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers import CELL_CASES, assert_close, random_input, random_state, randomise
from ostinato import cells
from ostinato.cells import registry

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray
I, H, B = 3, 5, 4  # noqa: E741  # the names of the equations


def sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def relu(a: Array) -> Array:
    return np.where(a > 0, a, 0)


def norm(a: Array, gain: Array, shift: Array, eps: float = 1e-5) -> Array:
    out = np.empty_like(a)
    for row in range(len(a)):
        mean = sum(a[row]) / a.shape[1]
        variance = sum((a[row] - mean) ** 2) / a.shape[1]
        out[row] = gain * (a[row] - mean) / np.sqrt(variance + eps) + shift
    return out


class Gates:
    """Rows of the parameters of one cell by gate: ``g.W("i")``, ``g.sums("i", x, h)``."""

    def __init__(self, cell: nn.Module) -> None:
        self.order = cell.GATES
        self.p = {n: v.detach().numpy() for n, v in cell.named_parameters()}

    def part(self, name: str, gate: str) -> Array:
        if name not in self.p:  # bias=False
            return np.zeros(1)
        rows = len(self.p[name]) // len(self.order)
        k = self.order.index(gate)
        return self.p[name][k * rows : (k + 1) * rows]

    def of_x(self, gate: str, x: Array) -> Array:
        return x @ self.part("weight_ih", gate).T + self.part("bias_ih", gate)

    def of_h(self, gate: str, h: Array) -> Array:
        return h @ self.part("weight_hh", gate).T + self.part("bias_hh", gate)

    def sums(self, gate: str, x: Array, h: Array) -> Array:
        return self.of_x(gate, x) + self.of_h(gate, h)

    def normed(self, side: str, gates: str, a: Array) -> Array:
        """LN over the rows of several gates at once, ``side`` is "ih" or "hh"."""
        maps = np.concatenate([self.part(f"weight_{side}", g) for g in gates])
        gain = np.concatenate([self.part(f"gain_{side}", g) for g in gates])
        shift = np.concatenate([self.part(f"bias_{side}", g) for g in gates])
        return norm(a @ maps.T, gain, shift if shift.size == gain.size else np.zeros(1))


def elman(g: Gates, x: Array, h: Array) -> Array:
    return np.tanh(g.sums("h", x, h))


def elman_relu(g: Gates, x: Array, h: Array) -> Array:
    return relu(g.sums("h", x, h))


def lstm(g: Gates, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    c = sigmoid(g.sums("f", x, h)) * c + sigmoid(g.sums("i", x, h)) * np.tanh(g.sums("g", x, h))
    return sigmoid(g.sums("o", x, h)) * np.tanh(c), c


def lstm_peephole(g: Gates, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    i = sigmoid(g.sums("i", x, h) + g.p["peep_i"] * c)
    f = sigmoid(g.sums("f", x, h) + g.p["peep_f"] * c)
    new = f * c + i * np.tanh(g.sums("g", x, h))
    return sigmoid(g.sums("o", x, h) + g.p["peep_o"] * new) * np.tanh(new), new


def lstm_coupled(g: Gates, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    i = sigmoid(g.sums("i", x, h))
    c = (1 - i) * c + i * np.tanh(g.sums("g", x, h))
    return sigmoid(g.sums("o", x, h)) * np.tanh(c), c


def lstm_projected(g: Gates, x: Array, r: Array, c: Array) -> tuple[Array, Array]:
    m, c = lstm(g, x, r, c)
    return m @ g.p["weight_hr"].T, c


def lstm_layer_norm(g: Gates, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    z = g.normed("ih", "ifgo", x) + g.normed("hh", "ifgo", h)
    i, f, u, o = (z[:, k * H : (k + 1) * H] for k in range(4))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(u)
    return sigmoid(o) * np.tanh(norm(c, g.p["gain_c"], g.p.get("bias_c", 0.0))), c


def gru(g: Gates, x: Array, h: Array) -> Array:
    r, z = sigmoid(g.sums("r", x, h)), sigmoid(g.sums("z", x, h))
    n = np.tanh(g.of_x("n", x) + r * g.of_h("n", h))
    return (1 - z) * n + z * h


def gru_reset_before(g: Gates, x: Array, h: Array) -> Array:
    r, z = sigmoid(g.sums("r", x, h)), sigmoid(g.sums("z", x, h))
    n = np.tanh(g.of_x("n", x) + g.of_h("n", r * h))
    return (1 - z) * n + z * h


def gru_layer_norm(g: Gates, x: Array, h: Array) -> Array:
    rz = sigmoid(g.normed("ih", "rz", x) + g.normed("hh", "rz", h))
    r, z = rz[:, :H], rz[:, H:]
    n = np.tanh(g.normed("ih", "n", x) + r * g.normed("hh", "n", h))
    return (1 - z) * n + z * h


def mgu(g: Gates, x: Array, h: Array) -> Array:
    f = sigmoid(g.sums("f", x, h))
    return (1 - f) * h + f * np.tanh(g.of_x("n", x) + g.of_h("n", f * h))


def ligru(g: Gates, x: Array, h: Array) -> Array:
    a = g.normed("ih", "zn", x)
    z = sigmoid(a[:, :H] + h @ g.part("weight_hh", "z").T)
    return z * h + (1 - z) * relu(a[:, H:] + h @ g.part("weight_hh", "n").T)


def indrnn(g: Gates, x: Array, h: Array) -> Array:
    return relu(g.of_x("h", x) + g.p["weight_hh"] * h)


def mingru(g: Gates, x: Array, h: Array) -> Array:
    z = sigmoid(g.of_x("z", x))
    return (1 - z) * h + z * g.of_x("n", x)


ORACLES: dict[str, Callable[..., Any]] = {
    "elman-tanh": elman,
    "elman-relu": elman_relu,
    "lstm": lstm,
    "lstm_peephole": lstm_peephole,
    "lstm_coupled": lstm_coupled,
    "lstm_projected": lstm_projected,
    "lstm_layer_norm": lstm_layer_norm,
    "gru": gru,
    "gru_reset_before": gru_reset_before,
    "gru_layer_norm": gru_layer_norm,
    "mgu": mgu,
    "ligru": ligru,
    "indrnn": indrnn,
    "mingru": mingru,
}


def test_every_cell_has_an_oracle() -> None:
    assert set(ORACLES) == {case.name for case in CELL_CASES}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", CELL_CASES, ids=str)
def test_two_steps_are_the_equations(case, bias: bool) -> None:
    cell = randomise(case.make(I, H, bias=bias).double())
    gates, oracle = Gates(cell), ORACLES[case.name]
    state = random_state(cell, B, dtype=torch.float64)
    arrays = [s.numpy() for s in ([state] if isinstance(state, torch.Tensor) else state)]
    for x in random_input(2, B, I):
        state = cell(x, state)
        arrays = oracle(gates, x.numpy(), *arrays)
        arrays = [arrays] if isinstance(arrays, np.ndarray) else list(arrays)
        got = [state] if isinstance(state, torch.Tensor) else list(state)
        assert_close(got, [torch.from_numpy(a) for a in arrays])


TORCH_CELLS = {
    "elman-tanh": lambda **k: nn.RNNCell(I, H, **k),
    "elman-relu": lambda **k: nn.RNNCell(I, H, nonlinearity="relu", **k),
    "lstm": lambda **k: nn.LSTMCell(I, H, **k),
    "gru": lambda **k: nn.GRUCell(I, H, **k),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", TORCH_CELLS)
def test_parameters_and_results_are_torchs(name: str, bias: bool) -> None:
    (case,) = [c for c in CELL_CASES if c.name == name]
    ours = randomise(case.make(I, H, bias=bias).double())
    theirs = TORCH_CELLS[name](bias=bias).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x, state = random_input(1, B, I)[0], random_state(ours, B, dtype=torch.float64)
    assert_close(ours(x, state), theirs(x, state))


@pytest.mark.parametrize("name", TORCH_CELLS)
def test_the_initialisation_is_torchs(name: str) -> None:
    (case,) = [c for c in CELL_CASES if c.name == name]
    torch.manual_seed(0)
    ours = case.make(I, H).state_dict()
    torch.manual_seed(0)
    theirs = TORCH_CELLS[name]().state_dict()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


def test_initialisations_of_their_own() -> None:
    cell = cells.LiGRU(8, 16)
    for U in cell.weight_hh.detach().chunk(2):
        assert_close(U @ U.T, torch.eye(16), times=2.0)
    limit = (6 / (8 + 16)) ** 0.5
    assert cell.weight_ih.abs().max() <= limit
    assert cell.weight_ih.abs().max() > 0.8 * limit
    u = cells.IndRNN(3, 200).weight_hh
    assert u.min() >= 0
    assert u.max() <= 1
    assert u.max() > 0.5
    for cls in (cells.LayerNormLSTM, cells.LayerNormGRU, cells.LiGRU):
        for name, parameter in cls(3, 4).named_parameters():
            if name.startswith("gain"):
                assert (parameter == 1).all(), name
            elif name.startswith("bias"):
                assert (parameter == 0).all(), name


@pytest.mark.parametrize("case", CELL_CASES, ids=str)
def test_one_step_by_finite_differences(case) -> None:
    cell = randomise(case.make(2, 3).double())
    x = random_input(1, 2, 2)[0].requires_grad_()
    state = random_state(cell, 2, dtype=torch.float64)
    bare = isinstance(state, torch.Tensor)
    parts = [s.requires_grad_() for s in ([state] if bare else state)]
    names, parameters = zip(*cell.named_parameters(), strict=True)

    def step(x: torch.Tensor, *rest: torch.Tensor) -> Any:
        own = dict(zip(names, rest[len(parts) :], strict=True))
        entering = rest[0] if bare else tuple(rest[: len(parts)])
        return torch.func.functional_call(cell, own, (x, entering))

    assert torch.autograd.gradcheck(step, (x, *parts, *parameters))


@pytest.mark.parametrize("entry", registry.CELLS.values(), ids=lambda e: e.name)
def test_every_cell_says_what_it_is(entry) -> None:
    cell = entry.cls(3, 4, True)
    text = entry.cls.__doc__
    for word in ("math::", "Source:", "Differences:", "Call:", "Parameters:", "Raises:", ">>>"):
        assert word in text, word
    assert len(set(cell.GATES)) == len(cell.GATES) > 0
    assert len(cell.weight_ih) == len(cell.GATES) * 4
    assert cell.input_size == 3
    assert cell.hidden_size == 4
    assert repr(cell).startswith(f"{entry.cls.__name__}(3, 4")
    assert "bias=False" in repr(entry.cls(3, 4, False))
    assert not any(n.startswith("bias") for n, _ in entry.cls(3, 4, False).named_parameters())
    meta = entry.cls(3, 4, device="meta", dtype=torch.float64)
    assert all(p.is_meta and p.dtype == torch.float64 for p in meta.parameters())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: cells.LSTM(0, 3), "input_size must be an int >= 1, got 0"),
        (lambda: cells.GRU(3, 2.0), "hidden_size must be an int >= 1, got 2.0"),
        (lambda: cells.MGU(3, True), "hidden_size must be an int >= 1, got True"),
        (lambda: cells.ProjectedLSTM(3, 4, proj_size=0), "proj_size"),
        (lambda: cells.Elman(3, 4, nonlinearity="gelu"), "'tanh' or 'relu', got 'gelu'"),
    ],
)
def test_bad_sizes_are_named(make, match: str) -> None:
    from ostinato.errors import InputError

    with pytest.raises(InputError, match=match):
        make()
