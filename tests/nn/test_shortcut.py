"""Calls in which nothing is out of the ordinary, which a drop-in takes without a look at more."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import ostinato
from drop_in_kinds import KINDS, build_pair, compare_run, flat_state, make_input, make_state
from helpers import Marked, call_in_autocast
from ostinato.nn.drop_in import DropIn

if TYPE_CHECKING:
    from collections.abc import Callable

FLOAT = torch.float32

# torch's own, said once per process when its projected LSTM runs in float32
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")


class _LeftError(Exception):
    """The call has left the shortcut."""


def _used(kind: str, **options: Any) -> tuple[nn.RNNBase, DropIn]:
    """Torch's layer and ours, which has had a call."""
    theirs, ours = build_pair(kind, **options)
    ours(make_input("batched", ours, FLOAT))
    assert ours._bound.shortcut is not None
    return theirs, ours


def _close_other_ways(patch: pytest.MonkeyPatch) -> None:
    def leave(*_: Any) -> None:
        raise _LeftError

    for name in ("_bind", "_torch_forward"):
        patch.setattr(DropIn, name, leave)


def _tensors(result: Any) -> list[Tensor]:
    output, final = result
    return [output, *flat_state(final)]


@pytest.mark.parametrize("batch_first", [False, True], ids=["", "batch_first"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_ordinary_call(kind: str, batch_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken, with or without a state, and is right."""
    theirs, ours = _used(kind, batch_first=batch_first)
    x, state = make_input("batched", ours, FLOAT), make_state("batched", ours, FLOAT)
    _close_other_ways(monkeypatch)
    compare_run(theirs, ours, x, None)
    compare_run(theirs, ours, x, state)
    with torch.no_grad():
        for got, expected in zip(_tensors(ours(x)), _tensors(theirs(x)), strict=True):
            torch.testing.assert_close(got, expected)
            assert got.is_contiguous()  # batch first too, as x is
    # Those frozen get no gradient, found anew at each call.
    ours.weight_ih_l0.requires_grad_(False)
    y, _ = ours(x)
    y.sum().backward()
    assert ours.weight_ih_l0.grad is None
    assert ours.weight_hh_l0.grad is not None


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits(kind: str) -> None:
    _, ours = _used(kind)
    first_time = copy.deepcopy(ours)
    assert first_time._bound is None
    x, state = make_input("batched", ours, FLOAT), make_state("batched", ours, FLOAT)
    for got, expected in zip(_tensors(ours(x, state)), _tensors(first_time(x, state)), strict=True):
        assert torch.equal(got, expected)
        assert got.requires_grad == expected.requires_grad


@pytest.mark.parametrize("batch_first", [False, True], ids=["", "batch_first"])
@pytest.mark.parametrize("kind", KINDS)
def test_lengths(kind: str, batch_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = _used(kind, batch_first=batch_first)
    x, state = make_input("batched", ours, FLOAT), make_state("batched", ours, FLOAT)
    lengths = torch.tensor([4, 0, 6])
    want = _tensors(copy.deepcopy(ours)(x, state, lengths=lengths))
    _close_other_ways(monkeypatch)
    for got, expected in zip(_tensors(ours(x, state, lengths=lengths)), want, strict=True):
        assert torch.equal(got, expected)
    assert not torch.equal(ours(x, state)[0], want[0])


def _replace(layer: DropIn) -> None:
    layer.weight_hh_l0 = nn.Parameter(layer.weight_hh_l0.detach() * 2)


def _rearrange(layer: DropIn) -> None:
    layer.load_state_dict({k: v * 2 for k, v in layer.state_dict().items()}, assign=True)


@pytest.mark.parametrize(
    "change",
    [_replace, _rearrange, DropIn.double, lambda layer: setattr(layer, "batch_first", True)],
    ids=["another parameter", "all of them", "another dtype", "another layout"],
)
def test_a_layer_that_was_changed(change: Callable[[DropIn], Any]) -> None:
    _, ours = _used("LSTM")
    change(ours)
    afresh = copy.deepcopy(ours)
    x = make_input("batched", ours, ours.weight_ih_l0.dtype)
    for got, expected in zip(_tensors(ours(x)), _tensors(afresh(x)), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.parametrize(
    "call",
    [
        lambda layer, x: layer(x.as_subclass(Marked)),
        lambda layer, x: layer(x, make_state("batched", layer, FLOAT).as_subclass(Marked)),
        lambda layer, x: layer(x.to_sparse()),
        lambda layer, x: layer(x.to("meta")),
        lambda layer, x: layer(x, lengths=[6, 5, 4]),
        lambda layer, x: layer(x, lengths=torch.tensor([6, 7, 4])),
        lambda layer, x: torch.func.vmap(lambda row: layer(row)[0])(x.unsqueeze(2)),
        lambda layer, x: torch.func.grad(lambda x: layer(x)[0].sum())(x),
        lambda layer, x: torch.jit.trace(layer, x),
        call_in_autocast,
    ],
    ids=[
        "class of x", "class of the state", "sparse", "meta", "a list of lengths",
        "a length above T", "vmap", "grad", "trace", "autocast",
    ],
)  # fmt: skip
def test_out_of_the_ordinary(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = _used("GRU")
    _close_other_ways(monkeypatch)
    with pytest.raises(_LeftError):
        call(ours, make_input("batched", ours, FLOAT))


def test_the_engine_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = _used("GRU")
    ours.engine = "eager"
    _close_other_ways(monkeypatch)
    with pytest.raises(_LeftError):
        ours(make_input("batched", ours, FLOAT))


def test_a_tensor_that_left_a_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def square(x: Tensor) -> Tensor:
        kept.append(x)
        return (x**2).sum()

    _, ours = _used("GRU")
    torch.func.grad(square)(make_input("batched", ours, FLOAT))
    _close_other_ways(monkeypatch)
    with pytest.raises(_LeftError):
        ours(kept[0])


def test_layers_that_have_none() -> None:
    """More than one step: each is looked at."""
    for options in ({"num_layers": 2}, {"bidirectional": True}):
        _, ours = build_pair("GRU", **options)
        ours(make_input("batched", ours, FLOAT))
        assert ours._bound.shortcut is None


def test_a_second_derivative() -> None:
    theirs, ours = _used("LSTM", batch_first=True)
    theirs, ours = theirs.double(), ours.double()
    found = []
    for layer in (theirs, ours, ours):
        x = make_input("batched", layer, torch.float64).requires_grad_()
        y, _ = layer(x)
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), x)[0])
    for second in found[1:]:
        torch.testing.assert_close(second, found[0])


def test_pickled_and_copied() -> None:
    _, ours = _used("LSTM")
    x = make_input("batched", ours, FLOAT)
    for other in (copy.copy(ours), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(other(x)[0], ours(x)[0])


def test_explain_says_the_same() -> None:
    """A shortcut is no engine: what runs is what ran before."""
    layer = ostinato.nn.GRU(3, 5)
    before = str(layer.explain())
    layer(torch.zeros(4, 2, 3))
    assert str(layer.explain()) == before
