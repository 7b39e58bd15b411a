"""Calls of a user's cell in which nothing is out of the ordinary, taken without a look at more."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_sequence

from helpers import (
    CELL_CASES,
    Marked,
    call_in_autocast,
    random_input,
    random_state,
    randomise,
    run_and_differentiate,
)
from ostinato import Recurrent, cells
from ostinato.engine.parts import lasting_parts

if TYPE_CHECKING:
    from collections.abc import Callable

I, H = 3, 5  # noqa: E741


class Leaky(nn.Module):
    """A cell with something of each kind that a cell may hold."""

    share = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.state_size = H
        self.leak = 0.25
        self.squash = torch.tanh
        self.map = nn.Linear(I + H, H)
        self.register_buffer("offset", torch.linspace(0, 1, H))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        new = self.squash(self.map(torch.cat([x, h], -1)) + self.offset)
        new = new if self.training else 2 * new
        return self.leak * h + self.share * new


class Stronger(Leaky):
    share = 0.75


class _LeftError(Exception):
    """The call has left the shortcut."""


def _close_other_ways(patch: pytest.MonkeyPatch) -> None:
    def leave(*_: Any) -> None:
        raise _LeftError

    patch.setattr(Recurrent, "_step", leave)


def _used(cell: nn.Module | None = None, **options: Any) -> Recurrent:
    """A layer that has had a call."""
    layer = Recurrent(Leaky() if cell is None else cell, **options)
    layer(random_input(4, 2, I).float())
    assert layer._shortcut is not None
    return layer


def _x(layer: Recurrent) -> Tensor:
    x = random_input(4, 2, I).to(next(layer.parameters()).dtype)
    return x.transpose(0, 1) if layer.batch_first else x


def _run(layer: Recurrent, **given: Tensor) -> list[Tensor]:
    """Output, state and all gradients of an ordinary call."""
    x = _x(layer)
    state = random_state(layer.cell, 2, dtype=x.dtype)
    own = dict(layer.cell.named_parameters())
    run = run_and_differentiate(partial(layer, **given), x, state, own)
    return [run.output, *run.state, run.dx, *run.dstate, *run.dparameters.values()]


def _assert_same_bits(got: list[Tensor], want: list[Tensor]) -> None:
    assert len(got) == len(want) > 3
    assert all(torch.equal(g, w) for g, w in zip(got, want, strict=True))


@pytest.mark.parametrize(
    "options", [{}, {"batch_first": True}, {"reverse": True}, {"bptt": 2}], ids=str
)
@pytest.mark.parametrize("case", CELL_CASES, ids=str)
def test_an_ordinary_call(case: Any, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken, and the same bits as what the layer does otherwise."""
    layer = Recurrent(randomise(case.make(I, H)), **options)
    first = _run(layer)
    assert layer._shortcut is not None
    _close_other_ways(monkeypatch)
    _assert_same_bits(_run(layer), first)
    with torch.inference_mode():
        y, state = layer(_x(layer))
        again, after = layer(_x(layer), state)
    assert type(after) is type(state) is type(random_state(layer.cell, 2, dtype=torch.float32))
    assert not torch.equal(again, y)  # goes on from that state
    assert again.shape == first[0].shape


def test_no_state_is_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    for cell, zeros in (
        (cells.GRU(I, H), torch.zeros(2, H)),
        (cells.ProjectedLSTM(I, H, proj_size=2), (torch.zeros(2, 2), torch.zeros(2, H))),
    ):
        layer = _used(cell)
        x = random_input(4, 2, I).float()
        with monkeypatch.context() as patch:
            _close_other_ways(patch)
            got, want = layer(x), layer(x, zeros)
        assert torch.equal(got[0], want[0])
        assert type(got[1]) is type(want[1])


RAGGED: dict[str, dict[str, Tensor]] = {
    "lengths": {"lengths": torch.tensor([2, 4])},
    "none": {"lengths": torch.tensor([0, 0])},
    "every other length": {"lengths": torch.tensor([1, 9, 3, 9])[::2]},
    "reset": {"reset": torch.tensor([[0, 1], [0, 0], [1, 0], [0, 1]], dtype=torch.bool)},
    "both": {
        "lengths": torch.tensor([3, 2]),
        "reset": torch.tensor([[1, 1], [0, 0], [1, 0], [0, 1]], dtype=torch.bool),
    },
}


@pytest.mark.parametrize(
    "options", [{}, {"batch_first": True}, {"reverse": True}, {"bptt": 2}], ids=str
)
@pytest.mark.parametrize("kind", RAGGED)
def test_lengths_and_resets(kind: str, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = dict(RAGGED[kind])
    if "reset" in given and "batch_first" in options:
        given["reset"] = given["reset"].t()
    layer = Recurrent(randomise(cells.LSTM(I, H)), **options)
    first = _run(layer, **given)
    assert layer._shortcut is not None
    _close_other_ways(monkeypatch)
    _assert_same_bits(_run(layer, **given), first)
    assert layer._shortcut.native.taken == 1
    assert not torch.equal(_run(layer)[0], first[0])


def test_an_argument_out_of_the_ordinary_is_no_change() -> None:
    layer = _used()
    before = layer._shortcut
    x = random_input(4, 2, I).float()
    for _ in range(3):
        layer(x, lengths=[4, 2])
        layer(x)
    assert layer._shortcut is before
    assert before is not None
    assert before.native.taken == 3


def test_frozen_parameters_get_no_gradient() -> None:
    layer = _used()
    layer.cell.map.weight.requires_grad_(False)
    layer(random_input(4, 2, I).float())[0].sum().backward()
    assert layer.cell.map.weight.grad is None
    assert layer.cell.map.bias.grad is not None


CHANGES: dict[str, Callable[[Recurrent], Any]] = {
    "a parameter": lambda r: setattr(r.cell.map, "bias", nn.Parameter(torch.ones(H))),
    "all parameters": lambda r: r.load_state_dict(
        {k: v * 2 for k, v in r.state_dict().items()}, assign=True
    ),
    "a buffer": lambda r: setattr(r.cell, "offset", torch.ones(H)),
    "the dtype": Recurrent.double,
    "a number": lambda r: setattr(r.cell, "leak", 0.75),
    "a function": lambda r: setattr(r.cell, "squash", torch.sigmoid),
    "one attribute more": lambda r: setattr(r.cell, "more", [1]),
    "the training flag": Recurrent.eval,
    "a module inside": lambda r: setattr(r.cell, "map", nn.Linear(I + H, H)),
    "the cell": lambda r: setattr(r, "cell", Stronger()),
    "the cell's class": lambda r: setattr(r.cell, "__class__", Stronger),
    "a hook": lambda r: r.cell.map.register_forward_hook(_doubled),
    "a hook before": lambda r: r.cell.map.register_forward_pre_hook(_doubled_input),
    "a parametrisation": lambda r: parametrizations.weight_norm(r.cell.map),
    "reverse": lambda r: setattr(r, "reverse", True),
    "bptt": lambda r: setattr(r, "bptt", 1),
    "the engine": lambda r: setattr(r, "engine", "eager"),
    "the state": lambda r: setattr(r, "state_size", H),
}


def _doubled(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
    return output * 2


def _doubled_input(module: nn.Module, arguments: Any) -> Any:
    return (arguments[0] * 2,)


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_seen(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = _used()
    CHANGES[change](layer)
    afresh = copy.deepcopy(layer)
    with monkeypatch.context() as patch:
        _close_other_ways(patch)
        with pytest.raises(_LeftError):
            _run(layer)
    for _ in range(2):  # looked at, then taken again where that can be
        _assert_same_bits(_run(layer), _run(afresh))


def test_a_class_attribute_that_was_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = _used()
    before = _run(layer)
    monkeypatch.setattr(Leaky, "share", 0.125)
    changed = _run(layer)
    assert not torch.equal(changed[0], before[0])
    _assert_same_bits(changed, _run(copy.deepcopy(layer)))


def test_a_parameter_of_another_shape_is_told() -> None:
    layer = _used(cells.GRU(I, H))
    layer.cell.weight_hh.data = torch.zeros(3 * H, H + 1)
    with pytest.raises(RuntimeError):
        layer(random_input(4, 2, I).float())


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.parametrize(
    "call",
    [
        lambda layer, x: layer(x.as_subclass(Marked)),
        lambda layer, x: layer(x, torch.zeros(2, H).as_subclass(Marked)),
        lambda layer, x: layer(x, lengths=[4, 2]),
        lambda layer, x: layer(x, lengths=torch.tensor([4, 2], dtype=torch.int32)),
        lambda layer, x: layer(x, lengths=torch.tensor([4, 2]).as_subclass(Marked)),
        lambda layer, x: layer(x, lengths=torch.tensor([4, 2, 1])),
        lambda layer, x: layer(x, lengths=torch.tensor([[4, 2]])),
        lambda layer, x: layer(x, lengths=torch.tensor([4, 5])),
        lambda layer, x: layer(x, lengths=torch.tensor([-1, 4])),
        lambda layer, x: layer(x, reset=torch.ones(4, 2, dtype=torch.uint8)),
        lambda layer, x: layer(x, reset=torch.ones(2, 4, dtype=torch.bool)),
        lambda layer, x: layer(x, reset=torch.ones(4, dtype=torch.bool)),
        lambda layer, x: layer(x[:, 0]),
        lambda layer, x: layer(pack_sequence([x[:, 0], x[:2, 1]])),
        lambda layer, x: layer(x, [torch.zeros(2, H)]),
        lambda layer, x: layer(x, torch.zeros(2, H, dtype=torch.float64)),
        lambda layer, x: layer(x[:0]),
        lambda layer, x: torch.func.vmap(lambda row: layer(row)[0])(x.unsqueeze(2)),
        lambda layer, x: torch.func.grad(lambda x: layer(x)[0].sum())(x),
        lambda layer, x: torch.jit.trace(layer, x),
        call_in_autocast,
    ],
    ids=[
        "class of x", "class of the state", "a list of lengths", "dtype of lengths",
        "class of lengths", "lengths of more rows", "a matrix of lengths", "a length above T",
        "a length below 0", "dtype of reset", "shape of reset", "one row's reset", "no batch",
        "packed", "list for a state", "dtype of the state", "no steps", "vmap", "grad", "trace",
        "autocast",
    ],
)  # fmt: skip
def test_out_of_the_ordinary(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = _used()
    _close_other_ways(monkeypatch)
    with pytest.raises(_LeftError):
        call(layer, random_input(4, 2, I).float())


class ComputedSize(Leaky):
    @property
    def input_size(self) -> int:
        return I


def _with(name: str, value: Any) -> Leaky:
    cell = Leaky()
    setattr(cell, name, value)
    return cell


def _hooked() -> Leaky:
    cell = Leaky()
    cell.register_forward_hook(_doubled)
    return cell


@pytest.mark.parametrize(
    "make",
    [
        ComputedSize,
        _hooked,
        lambda: _with("more", [1.0]),
        lambda: _with("more", torch.ones(H)),
        lambda: _with("more", (1, ([],))),
        lambda: _with("map", parametrizations.weight_norm(nn.Linear(I + H, H))),
    ],
    ids=["computed size", "hook", "list", "tensor", "list inside", "parametrisation"],
)
def test_what_may_change_in_itself_is_looked_at(make: Callable[[], nn.Module]) -> None:
    cell = make()
    assert lasting_parts(cell) is None
    layer = Recurrent(cell)
    layer(random_input(4, 2, I).float())
    assert layer._shortcut is None


def test_what_is_computed_from_parameters_is_computed_anew() -> None:
    layer = _used(cells.MGU(I, H))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(2)
    _assert_same_bits(_run(layer), _run(copy.deepcopy(layer)))


def test_a_cell_that_always_changes_is_written_down_seldom(monkeypatch: Any) -> None:
    written = []

    def count(cell: nn.Module) -> Any:
        written.append(cell)
        return lasting_parts(cell)

    monkeypatch.setattr("ostinato.nn.recurrent.lasting_parts", count)
    layer = Recurrent(Leaky())
    x = random_input(4, 2, I).float()
    for k in range(40):
        layer.cell.leak = k / 64
        layer(x)
    assert len(written) == 6  # calls 1, 2, 4, 8, 16, 32
    for _ in range(40):
        layer(x)
    assert len(written) == 7  # call 64, and from there on they are taken
    layer.eval()
    layer(x)
    assert len(written) == 8  # at once, since calls had been taken


def test_attributes_that_were_copied_are_not_the_layer() -> None:
    layer, other = _used(), Recurrent(Leaky())
    kept = other.cell
    other.__dict__.update({**layer.__dict__, "_modules": {"cell": kept}})
    assert other._shortcut is layer._shortcut
    x = random_input(4, 2, I).float()
    assert torch.equal(other(x)[0], Recurrent(kept)(x)[0])
    assert not torch.equal(other(x)[0], layer(x)[0])


def test_pickled_and_copied() -> None:
    layer = _used()
    x = random_input(4, 2, I).float()
    for other in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other._shortcut is None
        assert torch.equal(other(x)[0], layer(x)[0])
        assert other._shortcut is not None


def test_a_second_derivative() -> None:
    found = []
    layer = _used().double()
    for given in (copy.deepcopy(layer), layer, layer):
        x = random_input(4, 2, I).requires_grad_()
        (slope,) = torch.autograd.grad(given(x)[0].square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), x)[0])
    for second in found[1:]:
        assert torch.equal(second, found[0])


def test_explain_says_the_same() -> None:
    layer = Recurrent(Leaky())
    before = str(layer.explain(I))
    layer(random_input(4, 2, I).float())
    assert str(layer.explain(I)) == before
