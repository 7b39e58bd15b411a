"""Step: when a cell is traced again, and cells bound to other tensors."""

from __future__ import annotations

import copy
import enum
import gc
import threading
import types
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from helpers import assert_close, generator, randomise
from ostinato import cells
from ostinato.compiler.substitute import substitute
from ostinato.engine import step as step_module
from ostinato.engine.step import Step
from ostinato.engine.structure import structure_of
from ostinato.errors import InputError, TraceError


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def twice(x):
    return 2 * x


class Any(nn.Module):
    """A cell with attributes of all sorts."""

    factor = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size = self.state_size = 4
        self.W = nn.Linear(3, 4)
        self.U = nn.Linear(4, 4, bias=False)
        self.register_buffer("shift", torch.zeros(4))
        self.flag, self.scale, self.text, self.colour = True, 0.0, "a", Colour.RED
        self.sizes, self.table, self.chosen = [1, 2], {"a": (1, 2.0)}, {3, 4}
        self.act, self.plain, self.dtype = torch.tanh, twice, torch.float32

    def forward(self, x, h):
        return self.act(self.W(x) + self.U(h) + self.shift) * self.factor


CHANGES = {
    "flag": lambda c: setattr(c, "flag", False),
    "type": lambda c: setattr(c, "flag", 1),
    "sign of zero": lambda c: setattr(c, "scale", -0.0),
    "text": lambda c: setattr(c, "text", "b"),
    "enum": lambda c: setattr(c, "colour", Colour.BLUE),
    "list": lambda c: c.sizes.append(3),
    "nested": lambda c: c.table.update(a=(1, 3.0)),
    "set": lambda c: c.chosen.add(5),
    "builtin": lambda c: setattr(c, "act", torch.relu),
    "function": lambda c: setattr(c, "plain", torch.neg),
    "new attribute": lambda c: setattr(c, "extra", 1),
    "dtype": lambda c: setattr(c, "dtype", torch.float64),
    "training": lambda c: c.eval(),
    "training of a part": lambda c: c.W.eval(),
    "module": lambda c: setattr(c, "W", nn.Linear(3, 4, bias=False)),
    "parameter's dtype": lambda c: c.double(),
    "parameter's shape": lambda c: setattr(c.W, "bias", nn.Parameter(torch.zeros(1))),
    "shared": lambda c: (
        setattr(c.U, "weight", nn.Parameter(torch.zeros(4, 4))) or setattr(c, "V", c.U)
    ),
    "buffer": lambda c: c.register_buffer("more", torch.zeros(2)),
    "hook": lambda c: c.W.register_forward_hook(lambda *a: None),
    "parametrisation": lambda c: parametrizations.weight_norm(c.U),
    "opaque": lambda c: setattr(c, "config", types.SimpleNamespace(a=1)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_the_structure(name: str) -> None:
    one, two = Any(), Any()
    assert structure_of(one).key == structure_of(two).key
    assert not structure_of(one).private
    hash(structure_of(one).key)
    CHANGES[name](two)
    assert structure_of(one).key != structure_of(two).key


def test_what_does_not_change_the_structure() -> None:
    cell = Any()
    key = structure_of(cell).key
    with torch.no_grad():
        cell.W.weight.add_(1)
        cell.shift.add_(1)
    cell.W.weight = nn.Parameter(torch.ones(4, 3))
    cell.requires_grad_(False)
    assert structure_of(cell).key == key
    assert structure_of(copy.deepcopy(cell)).key == key


def test_which_tensors_are_the_same_is_structure() -> None:
    one, two = Any(), Any()
    one.first = one.second = nn.Parameter(torch.zeros(4))
    two.first, two.second = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
    assert structure_of(one).key != structure_of(two).key


def test_class_attributes_are_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    key = structure_of(Any()).key
    monkeypatch.setattr(Any, "factor", 0.25)
    assert structure_of(Any()).key != key


def test_objects_are_looked_into_and_keep_the_trace_private() -> None:
    class Config:
        width = 3

    cell = Any()
    cell.config = Config()
    before = structure_of(cell)
    assert before.private
    assert before.alive()
    assert structure_of(cell).key == before.key
    cell.config.width = 4
    assert structure_of(cell).key != before.key
    del cell.config
    assert not before.alive()


def test_plain_tensors_count_by_version() -> None:
    cell = Any()
    cell.constant = torch.ones(4)
    before = structure_of(cell)
    assert before.private
    cell.constant.add_(1)
    assert structure_of(cell).key != before.key


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The cells that were traced, in place of tracing them."""
    traced = []

    def trace(cell, input_size, state_size, dtype):
        traced.append(cell)
        if getattr(cell, "untraceable", False):
            raise TraceError("cells.py:3: no", "second")
        return types.SimpleNamespace(baked={})

    monkeypatch.setattr(step_module, "trace", trace)
    monkeypatch.setattr(step_module, "_shared", type(step_module._shared)())
    return traced


def test_a_structure_is_traced_once(counted: list) -> None:
    one, two = Any(), Any()
    found = Step(one).trace(3, torch.float32)
    assert Step(one).trace(3, torch.float32) is found
    assert Step(two).trace(3, torch.float32) is found
    assert len(counted) == 1
    Step(one).trace(3, torch.float64)
    Step(one).trace(2, torch.float32)
    assert len(counted) == 3
    two.eval()
    assert Step(two).trace(3, torch.float32) is not found
    assert len(counted) == 4


def test_values_that_went_into_a_trace_must_stay(counted: list, monkeypatch) -> None:
    class Baked:
        def __init__(self, cell) -> None:
            self.baked = {"shift": cell.shift.clone()}

        def fits(self, tensors) -> bool:
            return torch.equal(tensors["shift"], self.baked["shift"])

    monkeypatch.setattr(step_module, "trace", lambda cell, *_: counted.append(cell) or Baked(cell))
    one, two = Any(), Any()
    found = Step(one).trace(3, torch.float32)
    assert Step(two).trace(3, torch.float32) is found
    two.shift.add_(1)
    assert Step(two).trace(3, torch.float32) is not found
    assert Step(one).trace(3, torch.float32) is found
    assert len(counted) == 2


def test_a_mould_is_traced_with_the_tensors_that_it_runs_with(counted: list) -> None:
    own = randomise(cells.GRU(3, 4))
    mould = cells.GRU(3, 4, device="meta")
    Step(mould, dict(own.named_parameters())).trace(3, torch.float32)
    assert counted[0].weight_hh is own.weight_hh


def test_private_structures_are_traced_for_each_cell(counted: list) -> None:
    one, two = Any(), Any()
    one.act = two.act = lambda x, k=3: k * x
    found = Step(one).trace(3, torch.float32)
    assert Step(one).trace(3, torch.float32) is found
    assert Step(two).trace(3, torch.float32) is not found
    assert len(counted) == 2


def test_a_refusal_is_remembered_and_repeated_unchanged(counted: list) -> None:
    cell = Any()
    cell.untraceable = True
    for _ in range(3):
        with pytest.raises(TraceError) as caught:
            Step(cell).trace(3, torch.float32)
        assert caught.value.args == ("cells.py:3: no", "second")
    assert len(counted) == 1


def with_references_to_itself() -> nn.Module:
    cell = Any()
    cell.method, cell.closure = cell.forward, lambda: cell
    return cell


def test_nothing_keeps_a_cell_alive(counted: list) -> None:
    cell = with_references_to_itself()
    Step(cell).trace(3, torch.float32)
    number, gone = id(cell), weakref.ref(cell)
    assert number in step_module._memos
    counted.clear()
    del cell
    gc.collect()
    assert gone() is None
    assert number not in step_module._memos


def test_threads_share_a_trace(counted: list) -> None:
    found, step = [], Step(Any())
    threads = [
        threading.Thread(target=lambda: found.append(Step(Any()).trace(3, torch.float32)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(t) for t in found}) == 1
    assert step.trace(3, torch.float32) is found[0]
    assert len(counted) == 1


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    draw = generator(0)
    return torch.randn(2, 3, generator=draw), torch.randn(2, 4, generator=draw)


def test_other_tensors_in_place_of_the_cells_own() -> None:
    cell, other = randomise(Any()), randomise(Any(), seed=1)
    x, h = _inputs()
    want = other(x, h)
    before = cell(x, h)
    tensors = {n: t.detach().clone().requires_grad_() for n, t in other.named_parameters()}
    output, (state,) = Step(cell, tensors).call(x, (h,))
    assert_close((output, state), (want, want))
    output.sum().backward()
    assert all(t.grad is not None for t in tensors.values())
    assert all(p.grad is None for p in cell.parameters())
    assert_close(cell(x, h), before)
    meta = cells.GRU(3, 4, device="meta")
    own = randomise(cells.GRU(3, 4))
    assert_close(Step(meta, dict(own.named_parameters())).call(x, (h,))[0], own(x, h))


def test_substitutes_reach_every_place_that_holds_the_tensor() -> None:
    class Holds(nn.Module):
        state_size = 4

        def __init__(self) -> None:
            super().__init__()
            self.W = nn.Linear(3, 4)
            self.parts = [self.W, (self.W.bias,)]
            self.table = {"act": self.activate}
            self.p = self.q = nn.Parameter(torch.ones(4))

        def activate(self, x):
            return self.p * x + self.q

        def forward(self, x, h):
            return self.table["act"](self.parts[0](x) + self.parts[1][0])

    cell = Holds()
    x, h = _inputs()
    tensors = {"W.bias": torch.full((4,), 7.0), "p": torch.full((4,), 2.0)}
    want = 2 * (x @ cell.W.weight.T + 14) + 2
    assert_close(Step(cell, tensors).call(x, (h,))[0], want)
    with pytest.raises(KeyError):
        substitute(cell, {"W.nothing": h})


def test_a_parametrised_parameter_goes_by_its_plain_name() -> None:
    cell = parametrizations.weight_norm(randomise(cells.GRU(3, 4)), "weight_hh")
    x, h = _inputs()
    want = cell(x, h)
    assert_close(Step(cell).call(x, (h,))[0], want)
    plain = cells.GRU(3, 4)
    plain.load_state_dict({n: getattr(cell, n) for n in plain.state_dict()})
    with torch.no_grad():
        plain.weight_hh.mul_(2)
    replaced = Step(cell, {"weight_hh": plain.weight_hh})
    assert_close(replaced.call(x, (h,))[0], plain(x, h))
    assert_close(cell(x, h), want)
    assert list(cell.state_dict()) == list(cell.state_dict())


def test_leaf_tensors_come_by_name() -> None:
    cell = parametrizations.weight_norm(nn.Linear(3, 4))
    names = types.SimpleNamespace(preparation=types.SimpleNamespace(leaves=("bias", "weight")))
    bias, weight = Step(cell, state_size=4).leaf_tensors(names)
    assert bias is cell.bias
    assert_close(weight, cell.weight)
    other = torch.zeros(4)
    assert Step(cell, {"bias": other}, state_size=4).leaf_tensors(names)[0] is other


def test_a_cell_without_a_state_is_refused() -> None:
    with pytest.raises(InputError, match="doesn't say what its state is"):
        Step(nn.Linear(3, 4))
    step = Step(cells.LSTM(3, 4))
    assert step.state_sizes == (4, 4)
    assert not step.bare
    assert Step(nn.GRUCell(3, 4)).bare
