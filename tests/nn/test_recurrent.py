"""Recurrent: any cell through time, against loops in plain PyTorch and against torch.nn."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from helpers import (
    CELL_CASES,
    assert_close,
    assert_same_run,
    generator,
    plain_loop,
    random_input,
    random_state,
    randomise,
    run_and_differentiate,
)
from ostinato import cells
from ostinato.nn import Recurrent

F64 = torch.float64
ENGINES = ("eager", "auto")


def compare(cell, x, state, *, lengths=None, reset=None, reverse=False) -> None:
    """All engines against the plain loop: values and all gradients."""
    own = dict(cell.named_parameters())
    oracle = {"lengths": lengths, "reset": reset, "reverse": reverse}
    want = run_and_differentiate(lambda x, s: plain_loop(cell, x, s, **oracle), x, state, own)
    for engine in ENGINES:
        layer = Recurrent(cell, reverse=reverse, engine=engine)
        got = run_and_differentiate(
            lambda x, s, layer=layer: layer(x, s, lengths=lengths, reset=reset), x, state, own
        )
        assert_same_run(got, want)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [7, 7, 7], [2, 0, 7], [7, 5, 1], [0, 0, 0]], ids=str)
@pytest.mark.parametrize("case", CELL_CASES, ids=str)
def test_lengths_and_reverse_and_reset(case, lengths, reverse: bool) -> None:
    cell = randomise(case.make(3, 5).double())
    x, state = random_input(7, 3, 3), random_state(cell, 3, dtype=F64)
    compare(cell, x, state, lengths=lengths, reverse=reverse)
    if lengths is None or 0 < sum(lengths) < 21:
        reset = torch.rand(7, 3, generator=generator(5)) < 0.3
        compare(cell, x, state, lengths=lengths, reverse=reverse, reset=reset)


@pytest.mark.parametrize("steps", [1, 2])
def test_few_steps(steps: int) -> None:
    cell = randomise(cells.LSTM(3, 5).double())
    for reverse in (False, True):
        x, state = random_input(steps, 2, 3), random_state(cell, 2, dtype=F64)
        compare(cell, x, state, reverse=reverse)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("case", CELL_CASES, ids=str)
def test_no_steps_or_no_rows(case, shape, engine: str) -> None:
    cell = randomise(case.make(3, 5).double())
    x, state = random_input(*shape, 3).requires_grad_(), random_state(cell, shape[1], dtype=F64)
    for lengths in (None, [0] * shape[1]):
        y, final = Recurrent(cell, engine=engine)(x, state, lengths=lengths)
        width = cell.state_size if isinstance(cell.state_size, int) else cell.state_size[0]
        assert y.shape == (*shape, width)
        assert_close(final, state)
        y.sum().backward()
        assert all(p.grad is None or not p.grad.any() for p in cell.parameters())


@pytest.mark.parametrize("engine", ENGINES)
def test_what_lies_past_a_row_is_never_looked_at(engine: str) -> None:
    cell = randomise(cells.GRU(3, 5).double())
    x = random_input(4, 2, 3)
    x[2:, 1] = float("nan")
    x.requires_grad_()
    y, h = Recurrent(cell, engine=engine)(x, lengths=[4, 2])
    (y.sum() + h.sum()).backward()
    assert y.isfinite().all()
    assert (y[2:, 1] == 0).all()
    assert x.grad.isfinite().all()
    assert (x.grad[2:, 1] == 0).all()
    assert all(p.grad.isfinite().all() for p in cell.parameters())


@pytest.mark.parametrize("engine", ENGINES)
def test_nan_in_a_row_stays_in_the_row(engine: str) -> None:
    cell = randomise(cells.LSTM(3, 5).double())
    x = random_input(4, 2, 3)
    x[1, 0, 2] = float("nan")
    y, (h, _) = Recurrent(cell, engine=engine)(x)
    assert y[0].isfinite().all()
    assert y[1:, 0].isnan().all()
    assert h[0].isnan().all()
    assert y[:, 1].isfinite().all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", [torch.tensor, list, tuple], ids=lambda f: f.__name__)
def test_forms_of_lengths(make, engine: str) -> None:
    layer = Recurrent(randomise(cells.GRU(3, 5)), engine=engine)
    x = random_input(6, 3, 3, dtype=torch.float32)
    want = layer(x, lengths=torch.tensor([2, 6, 0]))
    assert_close(layer(x, lengths=make([2, 6, 0])), want)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16):
        assert_close(layer(x, lengths=torch.tensor([2, 6, 0], dtype=dtype)), want)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["lengths", "reset"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_what_was_given_is_the_callers_again(batch_first: bool, name: str, engine: str) -> None:
    """Backward goes by what came in, whatever has been written there since."""
    layer = Recurrent(randomise(cells.GRU(3, 5)), batch_first=batch_first, engine=engine)
    reset = torch.rand(6, 6, generator=generator(5)) < 0.3
    given = {"lengths": torch.tensor([2, 6, 0, 5, 3, 1]), "reset": reset}
    found = []
    for is_overwritten in (False, True, True):  # the last time by the shortcut
        x = random_input(6, 6, 3, dtype=torch.float32).requires_grad_()
        copied = {k: v.clone() for k, v in given.items()}
        used = layer if len(found) == 2 else copy.deepcopy(layer)
        y, _ = used(x, **copied)
        if is_overwritten:
            copied[name].fill_(1)
        found += torch.autograd.grad(y.square().sum(), x)
        layer = used
    assert all(torch.equal(f, found[0]) for f in found)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("reverse", [False, True])
def test_layouts_of_the_input_agree(reverse: bool, engine: str) -> None:
    cell = randomise(cells.LSTM(3, 5).double())
    layer = Recurrent(cell, reverse=reverse, engine=engine)
    first = Recurrent(cell, reverse=reverse, engine=engine, batch_first=True)
    x, state = random_input(6, 3, 3), random_state(cell, 3, dtype=F64)
    reset = torch.rand(6, 3, generator=generator(5)) < 0.3
    want, final = layer(x, state, lengths=[6, 2, 4], reset=reset)
    y, got = first(x.transpose(0, 1), state, lengths=[6, 2, 4], reset=reset.t())
    assert_close((y.transpose(0, 1), got), (want, final))
    wide = torch.zeros(6, 3, 7, dtype=F64)
    wide[..., 1::2] = x
    assert_close(layer(wide[..., 1::2], state, lengths=[6, 2, 4], reset=reset), (want, final))
    one = tuple(s[1] for s in state)
    y, (h, c) = layer(x[:2, 1], one, reset=reset[:2, 1])
    assert_close(y, want[:2, 1])
    assert_close((h, c), (final[0][1], final[1][1]))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("is_sorted", [True, False])
def test_packed_sequences(is_sorted: bool, reverse: bool, engine: str) -> None:
    cell = randomise(cells.LSTM(3, 5).double())
    layer = Recurrent(cell, reverse=reverse, engine=engine)
    lengths = [6, 4, 1] if is_sorted else [4, 1, 6]
    x, state = random_input(6, 3, 3), random_state(cell, 3, dtype=F64)
    reset = torch.rand(6, 3, generator=generator(5)) < 0.3
    packed = pack_padded_sequence(x, lengths, enforce_sorted=is_sorted)
    for keywords in ({}, {"reset": reset}):
        y, final = layer(packed, state, **keywords)
        assert isinstance(y, PackedSequence)
        want = layer(x, state, lengths=lengths, **keywords)
        assert_close((pad_packed_sequence(y)[0], final), want)
    assert_close(layer(packed)[1], layer(x, lengths=lengths)[1])


PAIRS = {
    "elman-tanh": (lambda: cells.Elman(3, 5), lambda **k: nn.RNN(3, 5, **k)),
    "elman-relu": (
        lambda: cells.Elman(3, 5, nonlinearity="relu"),
        lambda **k: nn.RNN(3, 5, nonlinearity="relu", **k),
    ),
    "lstm": (lambda: cells.LSTM(3, 5), lambda **k: nn.LSTM(3, 5, **k)),
    "gru": (lambda: cells.GRU(3, 5), lambda **k: nn.GRU(3, 5, **k)),
    "lstm_projected": (
        lambda: cells.ProjectedLSTM(3, 5, proj_size=2),
        lambda **k: nn.LSTM(3, 5, proj_size=2, **k),
    ),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("lengths", [None, [4, 6, 1]], ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_torchs_layers_agree(name: str, lengths, engine: str) -> None:
    """Forward with the first direction of torch's layer, reverse with its second."""
    ours = PAIRS[name][0]().double()
    theirs = randomise(PAIRS[name][1](bidirectional=True).double())
    x = random_input(6, 3, 3)
    if lengths is None:
        want, final = theirs(x)
    else:
        packed, final = theirs(pack_padded_sequence(x, lengths, enforce_sorted=False))
        want = pad_packed_sequence(packed)[0]
    final = (final,) if isinstance(final, torch.Tensor) else final
    for direction, suffix in enumerate(["_l0", "_l0_reverse"]):
        own = theirs.state_dict()
        ours.load_state_dict({n: own[n + suffix] for n in ours.state_dict()})
        y, state = Recurrent(ours, reverse=direction == 1, engine=engine)(x, lengths=lengths)
        width = y.shape[-1]
        assert_close(y, want[..., direction * width : (direction + 1) * width])
        state = (state,) if isinstance(state, torch.Tensor) else state
        assert_close(state, tuple(s[direction] for s in final))


@pytest.mark.parametrize("cls", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_torchs_cells_run_as_they_are(cls) -> None:
    cell = randomise(cls(3, 5).double())
    state = torch.randn(2, 5, generator=generator(4), dtype=F64)
    state = (state, state.flip(0)) if cls is nn.LSTMCell else state
    compare(cell, random_input(5, 2, 3), state, lengths=[5, 3])


@pytest.mark.parametrize("case", CELL_CASES, ids=str)
def test_finite_differences_through_time(case) -> None:
    cell = randomise(case.make(2, 2).double())
    layer = Recurrent(cell, engine="eager")
    x, state = random_input(3, 2, 2).requires_grad_(), random_state(cell, 2, dtype=F64)
    bare = isinstance(state, torch.Tensor)
    parts = [s.requires_grad_() for s in ([state] if bare else state)]
    reset = torch.tensor([[0, 0], [0, 1], [0, 0]], dtype=torch.bool)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def call(x, *rest):
        own = dict(zip(names, rest[len(parts) :], strict=True))
        entering = rest[0] if bare else tuple(rest[: len(parts)])
        keywords = {"lengths": [3, 2], "reset": reset}
        y, final = torch.func.functional_call(layer, own, (x, entering), keywords)
        return (y, final) if bare else (y, *final)

    assert torch.autograd.gradcheck(call, (x, *parts, *parameters))


def test_second_derivatives() -> None:
    cell = randomise(cells.PeepholeLSTM(2, 2).double())
    x = random_input(2, 1, 2).requires_grad_()
    layer = Recurrent(cell)
    assert torch.autograd.gradgradcheck(lambda x: layer(x, lengths=[2])[0], (x,))


class _Readout(nn.Module):
    """Its output's weight has no part in the state."""

    def __init__(self):
        super().__init__()
        self.state_size = 4
        self.inner, self.out = nn.Linear(7, 4), nn.Linear(4, 2)

    def forward(self, x, h):
        h = torch.tanh(self.inner(torch.cat([x, h], -1)))
        return self.out(h), h


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_parameter_that_the_differentiated_result_does_not_need(create_graph):
    """Zeros, as with a first derivative, not an error that it is unused."""
    layer = Recurrent(_Readout(), engine="native")
    _, h = layer(torch.randn(5, 2, 3))
    inner, out = layer.cell.inner.weight, layer.cell.out.weight
    found = torch.autograd.grad(h.sum(), [inner, out], create_graph=create_graph)
    assert found[0].abs().sum() > 0
    assert torch.equal(found[1], torch.zeros(2, 4))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("at", [0, 3, 6])
def test_cut_in_two_and_carried_on(at: int, engine: str) -> None:
    layer = Recurrent(randomise(cells.LSTM(3, 5).double()), engine=engine)
    x = random_input(6, 2, 3)
    y, final = layer(x)
    first, between = layer(x[:at])
    second, last = layer(x[at:], between)
    assert_close(torch.cat([first, second]), y)
    assert_close(last, final)


def test_copies_and_state_dicts() -> None:
    layer = Recurrent(cells.PeepholeLSTM(3, 5), batch_first=True, reverse=True, bptt=4)
    x = random_input(2, 4, 3, dtype=torch.float32)
    want = layer(x)
    assert all(key.startswith("cell.") for key in layer.state_dict())
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    copies = [
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(file, weights_only=False),
    ]
    for other in copies:
        assert other.cell is not layer.cell
        assert_close(other(x), want)
        assert repr(other) == repr(layer)
    fresh = Recurrent(cells.PeepholeLSTM(3, 5), batch_first=True, reverse=True)
    fresh.load_state_dict(layer.state_dict())
    assert_close(fresh(x), want)
    assert "batch_first=True, reverse=True, bptt=4" in repr(layer)
    assert repr(Recurrent(cells.GRU(3, 5))).count("=") == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_parametrised_weights_are_computed_once_a_call(engine: str) -> None:
    calls = []

    class Count(nn.Module):
        def forward(self, W):
            calls.append(W)
            return W.tanh()

    cell = randomise(cells.GRU(3, 5).double())
    plain = copy.deepcopy(cell)
    with torch.no_grad():
        plain.weight_hh.tanh_()
    parametrize.register_parametrization(cell, "weight_hh", Count())
    layer = Recurrent(cell, engine=engine)
    x = random_input(6, 2, 3)
    layer(x)  # may trace
    calls.clear()
    y, h = layer(x, lengths=[6, 3])
    assert len(calls) == 1
    want = Recurrent(plain)(x, lengths=[6, 3])
    assert_close((y, h), want)
    original = cell.parametrizations.weight_hh.original
    (got,) = torch.autograd.grad(y.square().sum(), original)
    (dW,) = torch.autograd.grad(want[0].square().sum(), plain.weight_hh)
    assert_close(got, dW * (1 - original.tanh() ** 2), kind="gradient")


@pytest.mark.parametrize("apply", ["weight_norm", "spectral_norm", "orthogonal"])
def test_torchs_parametrisations(apply: str) -> None:
    cell = randomise(cells.GRU(5, 5).double())
    getattr(parametrizations, apply)(cell, "weight_hh")
    cell.eval()  # spectral_norm in training changes its buffers with each use
    compare(cell, random_input(4, 2, 5), random_state(cell, 2, dtype=F64))


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_parameters_and_gradients_of_inputs_alone(engine: str) -> None:
    cell = randomise(cells.LSTM(3, 5).double()).requires_grad_(False)
    layer = Recurrent(cell, engine=engine)
    x = random_input(4, 2, 3)
    assert not layer(x)[0].requires_grad
    x.requires_grad_()
    layer(x)[0].sum().backward()
    assert x.grad.abs().sum() > 0
    cell.weight_hh.requires_grad_()
    layer(x.detach())[0].sum().backward()
    assert cell.weight_hh.grad.abs().sum() > 0
    assert cell.weight_ih.grad is None
    with torch.inference_mode():
        assert layer(x)[0].is_inference()


@pytest.mark.parametrize("engine", ENGINES)
def test_autocast_keeps_the_parameters_dtype(engine: str) -> None:
    layer = Recurrent(randomise(cells.LSTM(3, 5)), engine=engine)
    x = random_input(4, 2, 3, dtype=torch.float32)
    state = random_state(layer.cell, 2, dtype=torch.bfloat16)
    want = layer(x.bfloat16().float(), tuple(s.float() for s in state))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, (h, c) = layer(x.bfloat16(), state)
    assert_close((y, (h, c)), want)
    y.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_run_eagerly(dtype: torch.dtype) -> None:
    cell = randomise(cells.GRU(3, 5))
    want = Recurrent(cell)(random_input(4, 2, 3, dtype=torch.float32))
    got = Recurrent(cell.to(dtype))(random_input(4, 2, 3, dtype=dtype))
    assert_close(got, tuple(w.to(dtype) for w in want), times=2.0)  # four steps of rounding


@pytest.mark.parametrize("kind", [cells.GRU, cells.LSTM])
def test_a_second_derivative_where_the_state_was_made_from_x(kind) -> None:
    """A gradient goes through each place where x came in, once."""
    cell = randomise(kind(3, 5).double())
    x, W = random_input(4, 2, 3), random_input(1, 3, 5)[0]
    found = []
    for run in (lambda x, s: plain_loop(cell, x, s), Recurrent(cell, engine="native")):
        given = x.clone().requires_grad_()
        h = torch.tanh(given[0] @ W)
        y, _ = run(given, h if kind is cells.GRU else (h, h * 2))
        (slope,) = torch.autograd.grad(y.square().sum(), given, create_graph=True)
        wanted = [given, *cell.parameters()]
        found.append([slope, *torch.autograd.grad(slope.square().sum(), wanted)])
    assert_close(found[1], found[0], kind="gradient", times=100)  # of gradients of gradients
