"""What the engine takes: any strides, but no tensor that doesn't fit the plan."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import ostinato
from helpers import assert_close, generator, random_input
from ostinato import _native
from ostinato.compiler.plan import Needs
from ostinato.engine.code import compiled
from ostinato.engine.native import Course

T, B, N, H = 5, 3, 2, 4  # steps, rows, features of the input and of the state


@pytest.fixture
def call() -> dict[str, Any]:
    """The arguments of a good call of an LSTM, forward and backward."""
    layer = ostinato.nn.LSTM(N, H)
    step = layer._bind().steps[0]
    trace = step.trace(N, torch.float32)
    code = compiled(trace.program, Needs(True, frozenset(range(4))))
    x = random_input(T, B, N).float()
    state = (torch.zeros(1, B, H), torch.zeros(B, H))
    sources = [s.detach() for s in step.sources(trace)]
    y, kept, *final = _native.forward(code, Course(), x, state, sources)
    assert [f.shape for f in final] == [(1, B, H), (B, H)]
    return {
        "code": code, "x": x, "state": state, "sources": sources, "y": y, "kept": kept,
        "dy": torch.ones(T, B, H), "dfinal": tuple(final),
    }  # fmt: skip


def _run(c: dict[str, Any], room: int = -1, **course: Any) -> Any:
    way = Course(**course)
    _native.forward(c["code"], way, c["x"], c["state"], c["sources"], room)
    return _native.backward(
        c["code"], way, c["x"], c["y"], c["kept"], c["state"], c["sources"], c["dy"], c["dfinal"]
    )


def test_a_good_call(call: dict[str, Any]) -> None:
    grads = _run(call)
    shapes = [t.shape for t in (call["x"], *call["state"], *call["sources"])]
    assert [g.shape for g in grads] == shapes
    assert len({g.data_ptr() for g in grads}) == len(grads)  # the biases' too, which are equal
    biases = [g for g in grads if g.dim() == 1]
    assert len(biases) == 2
    assert torch.equal(*biases)


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("x", torch.zeros(T, B, N + 1), "x"),
        ("x", torch.zeros(T, N), "x"),
        ("state", (torch.zeros(1, B, H), torch.zeros(B + 1, H)), "the state"),
        ("state", (torch.zeros(B, H), torch.zeros(B, H - 1)), "the state"),
        ("state", (torch.zeros(B, H), torch.zeros(B, H).double()), "the state"),
        ("state", (torch.zeros(B, H),), "the state"),
        ("state", (torch.zeros(B, H), torch.zeros(H)), "the state"),
        ("sources", [torch.zeros(4 * H, N)], "the number of sources"),
        ("y", torch.zeros(T - 1, B, H), "the output"),
        ("dy", torch.zeros(T, B, H + 1), "the output's gradient"),
        ("dy", torch.zeros(T, B, H).double(), "the output's gradient"),
        ("kept", torch.zeros(T * B * 5 * H).double(), "what is kept"),
        ("kept", torch.ones(T * B * 5 * H), "what is kept"),
        ("kept", -torch.ones(T * B * 5 * H + 1), "what is kept"),
        ("kept", torch.full((T * B * 5 * H + 1,), 1.5), "what is kept"),
        ("kept", torch.full((T * B * 5 * H + 1,), torch.inf), "what is kept"),
        ("kept", torch.full((T * B * 5 * H + 1,), torch.nan), "what is kept"),
        ("kept", None, "what is kept"),
        ("x", torch.zeros(T, B, N).half(), "x"),
        ("x", torch.zeros(T, B, N, dtype=torch.int32), "x"),
        ("dfinal", (torch.zeros(B, H), torch.zeros(B, 1)), "the state"),
    ],
)
def test_what_does_not_fit(call: dict[str, Any], name: str, value: Any, what: str) -> None:
    call[name] = value
    with pytest.raises(ValueError, match=f"call: {what} doesn't fit the plan"):
        _run(call)


def test_what_does_not_fit_together(call: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="what is kept doesn't fit"):
        _run(call, room=T * B - 1)
    with pytest.raises(ValueError, match="lengths doesn't fit"):
        _run(call, lengths=torch.tensor([T, T]))
    call["x"] = torch.zeros(T * B, N)
    with pytest.raises(ValueError, match="batch_sizes doesn't fit"):
        _run(call, batch_sizes=torch.tensor([B, B]))


def test_a_changed_static_is_named(call: dict[str, Any]) -> None:
    call["sources"][0] = torch.zeros(4 * H, N + 1)
    with pytest.raises(ostinato.InputError, match=r"weight_ih must be \(16, 2\) of torch.float32"):
        _run(call)
    call["sources"][0] = torch.zeros(4 * H, N).double()
    with pytest.raises(ostinato.InputError, match=r"got \(16, 2\) of torch.float64 on cpu"):
        _run(call)


@pytest.mark.parametrize("lengths", [None, [T, 0, 1], [0, 0, 2]])
def test_a_gradient_that_does_not_come_is_zero(call: dict[str, Any], lengths: Any) -> None:
    course = {} if lengths is None else {"lengths": torch.tensor(lengths)}
    h, c = call["dfinal"]
    for dy, dfinal in ((None, (h, c)), (call["dy"], (None, c)), (None, (h, None))):
        call["dy"], call["dfinal"] = dy, dfinal
        got = _run(call, **course)
        call["dy"] = torch.zeros(T, B, H) if dy is None else dy
        call["dfinal"] = tuple(torch.zeros(B, H) if d is None else d for d in dfinal)
        for grad, expected in zip(got, _run(call, **course), strict=True):
            assert torch.equal(grad, expected)


def test_any_strides_will_do(call: dict[str, Any]) -> None:
    """Rows with gaps, states and biases that aren't contiguous: copied, with the same results."""
    expected = _run(call)
    for name in ("x", "dy"):
        call[name] = call[name].expand(2, T, B, -1).permute(1, 2, 3, 0).contiguous()[..., 0]
    call["state"] = tuple(s.mT.contiguous().mT for s in call["state"])
    call["dfinal"] = tuple(s.mT.contiguous().mT for s in call["dfinal"])
    call["sources"] = [s.expand(2, *s.shape).movedim(0, -1).contiguous()[..., 0]
                       for s in call["sources"]]  # fmt: skip
    for name in ("x", "dy"):
        assert call[name].stride(-1) == 2
    for got, wanted in zip(_run(call), expected, strict=True):
        assert torch.equal(got, wanted)


def test_results_lie_as_the_caller_s_input() -> None:
    """Batch first, as a convolution leaves it: time is the axis whose elements are adjacent."""
    layer = ostinato.nn.GRU(N, H, batch_first=True)
    x = random_input(B, N, T).float().transpose(1, 2).requires_grad_()
    y, _ = layer(x)
    assert y.is_contiguous()
    plain, _ = layer(x.contiguous())
    assert torch.equal(y, plain)
    (dx,) = torch.autograd.grad(y.sum(), x)
    (expected,) = torch.autograd.grad(plain.sum(), x)
    assert torch.equal(dx, expected)


def test_a_tensor_that_left_a_transform() -> None:
    kept = []

    def square(x: torch.Tensor) -> torch.Tensor:
        kept.append(x)
        return (x**2).sum()

    torch.func.grad(square)(random_input(T, B, N).float())
    layer = ostinato.nn.RNN(N, H)
    y, _ = layer(kept[0])
    plain, _ = layer(random_input(T, B, N).float())
    assert torch.equal(y, plain)
    x = random_input(T, B, N).float()
    slope = torch.func.grad(lambda x: layer(x)[0].sum())(x)
    (want,) = torch.autograd.grad(layer(x.requires_grad_())[0].sum(), x)
    assert_close(slope, want)


@pytest.mark.parametrize(
    "make", [ostinato.nn.GRU, lambda i, h: ostinato.Recurrent(nn.GRUCell(i, h))]
)
def test_a_sign_kept_beside_the_memory(make: Any) -> None:
    """Of views as ``z.conj().imag``, in x, a state and an incoming gradient."""

    def negative(*shape: int) -> torch.Tensor:
        draw = torch.randn(*shape, 2, generator=generator(1))
        found = torch.view_as_complex(draw).conj().imag
        assert found.is_neg()
        return found

    for width in (1, 3):
        layer = make(width, width)
        lead = (1,) if isinstance(layer, nn.RNNBase) else ()
        given = negative(T, B, width), negative(*lead, B, width), negative(T, B, width)
        for _ in range(2):  # the second time by the shortcut
            found = []
            for x, h, dy in (given, [t.resolve_neg() for t in given]):
                x, h = x.detach().requires_grad_(), h.detach().requires_grad_()
                y, final = layer(x, h)
                found.append([y, final, *torch.autograd.grad(y, [x, h, *layer.parameters()], dy)])
            for got, want in zip(*found, strict=True):
                assert torch.equal(got, want)


def test_a_source_with_a_sign_beside_its_memory() -> None:
    class Conjugate(nn.Module):
        state_size = H

        def __init__(self) -> None:
            super().__init__()
            self.z = nn.Parameter(torch.randn(N, H, dtype=torch.complex64, generator=generator(2)))

        def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x @ self.z.conj().imag + h)

    cell = Conjugate()
    x = random_input(T, B, N).float()
    y, _ = ostinato.Recurrent(cell)(x)
    assert_close(y, ostinato.Recurrent(cell, engine="eager")(x)[0])


@pytest.mark.parametrize("what", ["x", "state", "weight", "gradient"])
def test_tensors_without_memory(what: str) -> None:
    """What has freed its storage, as sharded parameters do, or only stands for zeros."""

    def freed(t: torch.Tensor) -> torch.Tensor:
        t = t.detach().clone()
        t.untyped_storage().resize_(0)
        return t

    for layer in (ostinato.nn.GRU(N, H), ostinato.Recurrent(nn.GRUCell(N, H))):
        x = random_input(T, B, N).float()
        y, h = layer(x)
        layer(x)
        if what == "weight":
            next(layer.parameters()).untyped_storage().resize_(0)
        if what == "gradient":
            call = partial(y.backward, torch._efficientzerotensor(y.shape))
        else:
            call = partial(
                layer, freed(x) if what == "x" else x, freed(h) if what == "state" else h
            )
        with pytest.raises(RuntimeError, match="has no memory"):
            call()
