"""Each parameter gets the values of its role, whatever the cell."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import ostinato
from ostinato import Recurrent, cells
from ostinato.cells import registry
from ostinato.train import initialise

I, H = 3, 6  # noqa: E741


def assert_orthogonal(matrix: Tensor) -> None:
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    assert torch.allclose(small @ small.T, torch.eye(len(small)), atol=1e-5)


def assert_glorot(matrix: Tensor) -> None:
    """Inside the bound, and near it somewhere, unlike under a smaller one."""
    bound = math.sqrt(6 / sum(matrix.shape))
    assert matrix.abs().max() <= bound
    assert matrix.abs().max() > 0.7 * bound


def spoilt(module: nn.Module) -> nn.Module:
    """With parameters that no initialisation would give."""
    for p in module.parameters():
        nn.init.constant_(p, 9.0)
    return module


FORGET = {"lstm", "lstm_layer_norm", "lstm_peephole", "lstm_projected"}


@pytest.mark.parametrize("name", list(registry.names()))
def test_every_cell(name: str) -> None:
    torch.manual_seed(0)
    cell: Any = spoilt(registry.get(name)(I, H))
    initialise(Recurrent(cell))
    gates = len(cell.GATES)
    for block in cell.weight_ih.chunk(gates):
        assert_glorot(block)
    hidden = getattr(cell, "weight_hh", None)
    if hidden is not None and hidden.dim() == 2:
        blocks = hidden.chunk(gates)
        for block in blocks:
            assert_orthogonal(block)
        if gates > 1:
            assert not torch.equal(blocks[0], blocks[1])
    total = sum(p for n, p in cell.named_parameters() if n in ("bias_ih", "bias_hh"))
    want = torch.zeros(gates, H)
    if name in FORGET:
        want[cell.GATES.index("f")] = 1
    assert torch.equal(total, want.flatten())
    for rest in ("gain_ih", "peep_f"):
        if hasattr(cell, rest):
            assert (getattr(cell, rest) == 9).all(), "gains and peepholes are left"


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("module", [nn, ostinato.nn], ids=["torch", "ostinato"])
def test_layers_of_torch(kind: str, module: Any) -> None:
    layer = spoilt(getattr(module, kind)(I, H, num_layers=2, bidirectional=True))
    report = initialise(layer)
    assert not report.left
    gates = {"RNN": 1, "LSTM": 4, "GRU": 3}[kind]
    for name, p in layer.named_parameters():
        if "bias" in name:
            want = torch.zeros(gates, H)
            if kind == "LSTM" and "ih" in name:
                want[1] = 1
            assert torch.equal(p, want.flatten()), name
        else:
            for block in p.chunk(gates):
                (assert_orthogonal if "hh" in name else assert_glorot)(block)


def test_projection_of_torch() -> None:
    layer = spoilt(nn.LSTM(I, H, proj_size=2))
    initialise(layer)
    assert_orthogonal(layer.weight_hr_l0)  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_cells_of_torch(cell: Any) -> None:
    made = spoilt(cell(I, H))
    initialise(Recurrent(made))
    for block in made.weight_hh.split(H):  # type: ignore[operator, union-attr]
        assert_orthogonal(block)


class Joined(nn.Module):
    """One map of input and state together, as in the README; the gates in an odd order."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.hidden_size = I, H
        self.gates = nn.Linear(I + H, 2 * H)
        self.decay = nn.Parameter(torch.zeros(H))

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        z, n = self.gates(torch.cat([x, h], -1)).chunk(2, -1)
        h = torch.lerp(h, torch.tanh(n), torch.sigmoid(z)) * torch.exp(-self.decay.exp())
        return h, h


def test_a_map_of_input_and_state_together() -> None:
    cell = Joined()
    spoilt(cell)
    report = initialise(Recurrent(cell))
    for gate in cell.gates.weight.chunk(2):
        assert_glorot(gate[:, :I])
        assert_orthogonal(gate[:, I:])
    assert not cell.gates.bias.any()
    assert (cell.decay == 9).all()
    assert str(report) == (
        "cell.gates.weight: Glorot uniform, 2 maps 3 -> 6; orthogonal, 2 maps 6 -> 6\n"
        "cell.gates.bias: 0\n"
        "cell.decay: left, no role that has a rule"
    )


class Skew(nn.Module):
    """The recurrent map is computed from a parameter; half of another is the input map."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.hidden_size = I, H
        self.U = nn.Parameter(torch.zeros(H, H))
        self.W = nn.Parameter(torch.zeros(2, I, H))

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(x @ self.W[1] + h @ (self.U - self.U.T))
        return h, h


def test_a_map_that_is_computed_is_left() -> None:
    cell = Skew()
    spoilt(cell)
    report = initialise(Recurrent(cell))
    assert (cell.U == 9).all()
    assert (cell.W[0] == 9).all()
    assert_glorot(cell.W[1])
    assert list(report.left) == ["cell.U"]


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.hidden_size = I, H
        self.inside = nn.Linear(I, H)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        if float(x.sum()) > 0:
            h = -h
        h = torch.tanh(self.inside(x) + h)
        return h, h


def test_a_cell_that_cannot_be_traced_is_left_and_said_so() -> None:
    cell = Untraceable()
    spoilt(cell)
    report = initialise(nn.Sequential(Recurrent(cell, engine="eager"), nn.Linear(H, 2)))
    assert (cell.inside.weight == 9).all()
    assert "it can't be traced" in report.left["0.cell"]
    assert set(report.done) == {"1.weight", "1.bias"}


def test_parametrised_weights_are_left() -> None:
    cell = cells.GRU(I, H)
    parametrizations.orthogonal(cell, "weight_hh")
    before = cell.weight_hh.clone()
    report = initialise(Recurrent(cell))
    assert torch.equal(cell.weight_hh, before)
    assert_glorot(cell.weight_ih[:H])
    assert any("weight_hh" in name for name in report.left)


def test_a_whole_model_and_the_same_numbers_from_the_same_seed() -> None:
    def build() -> nn.Module:
        return nn.ModuleDict(
            {
                "embedding": nn.Embedding(10, I),
                "layer": ostinato.Bidirectional(Recurrent(cells.LSTM(I, H))),
                "head": nn.Linear(2 * H, 4),
            }
        )

    first, second = build(), build()
    for model in (first, second):
        torch.manual_seed(5)
        report = initialise(model)
    second["embedding"].load_state_dict(first["embedding"].state_dict())  # type: ignore[index]
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert list(report.left) == ["embedding.weight"]
    assert len(report.done) == 10


def test_a_shared_cell_is_drawn_once() -> None:
    cell = cells.GRU(H, H)
    report = initialise(nn.ModuleList([Recurrent(cell), Recurrent(cell)]))
    assert list(report.done) == [
        f"0.cell.{n}" for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    assert not report.left
