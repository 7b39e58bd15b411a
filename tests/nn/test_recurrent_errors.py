"""Recurrent: what it refuses and how it says so; how it finds out what a cell's state is."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from helpers import assert_close, generator, random_input
from ostinato import cells
from ostinato.errors import InputError
from ostinato.nn import Recurrent

X = torch.zeros(4, 2, 3)
H = torch.zeros(2, 5)


def lstm(**keywords) -> Recurrent:
    return Recurrent(cells.LSTM(3, 5), **keywords)


CALLS = {
    r"x must be .*\(T, B, I\).* got \(4, 2, 2, 3\)": lambda: lstm()(torch.zeros(4, 2, 2, 3)),
    r"x must be \(B, T, I\), .*got \(3,\)": lambda: lstm(batch_first=True)(torch.zeros(3)),
    r"x must be a tensor or a PackedSequence, got list": lambda: lstm()([1.0]),
    r"I = 3 = LSTM.input_size, got \(4, 2, 7\)": lambda: lstm()(torch.zeros(4, 2, 7)),
    r"x must have the dtype .*float32, got torch.float64": lambda: lstm()(X.double()),
    r"x must have the dtype .*float32, got torch.int64": lambda: lstm()(X.long()),
    r"x must be where .*cpu, got meta": lambda: lstm()(X.to("meta")),
    r"x must be a dense tensor, got torch.sparse_coo; .*x.to_dense\(\)": lambda: lstm()(
        X.to_sparse()
    ),
    r"x must be a dense tensor, got torch._mkldnn": lambda: lstm()(X.to_mkldnn()),
    r"got torch.jagged; pad it with .* and pass lengths": lambda: lstm()(
        torch.nested.nested_tensor([X[:, 0], X[:2, 1]], layout=torch.jagged)
    ),
    r"state\[1\] must be a dense tensor, got torch.sparse_coo": lambda: lstm()(
        X, (H, H.to_sparse())
    ),
    r"state must be a tuple of 2 tensors .*got a Tensor": lambda: lstm()(X, H),
    r"state must be a tuple of 2 tensors .*got a tuple of 1": lambda: lstm()(X, (H,)),
    r"state\[1\] must be \(B, n\) = \(2, 5\), got \(2, 4\)": lambda: lstm()(X, (H, H[:, 1:])),
    r"state\[0\] must be \(B, n\) = \(2, 5\), got \(1, 2, 5\)": lambda: lstm()(X, (H[None], H)),
    r"state\[0\] must be \(n,\) = \(5,\), got \(2, 5\)": lambda: lstm()(X[:, 0], (H, H)),
    r"state\[0\] must have x's dtype .*got torch.float64": lambda: lstm()(X, (H.double(), H)),
    r"state\[1\] must be .* got NoneType": lambda: lstm()(X, (H, None)),
    r"state must be one tensor of width 5, .*got a tuple": lambda: Recurrent(cells.GRU(3, 5))(
        X, (H,)
    ),
    r"lengths must be between 0 and T = 4, got lengths\[1\] = 5": lambda: lstm()(X, lengths=[4, 5]),
    r"got lengths\[0\] = -1 \(and 1 more such rows\)": lambda: lstm()(X, lengths=[-1, 9]),
    r"lengths must have an integer dtype, got torch.float32": lambda: lstm()(X, lengths=H[:, 0]),
    r"lengths must have an integer dtype, got torch.bool": lambda: lstm()(X, lengths=[True, True]),
    r"one entry a row, shape \(2,\), got \(3,\)": lambda: lstm()(X, lengths=[1, 2, 3]),
    r"lengths must be an integer tensor .*got int": lambda: lstm()(X, lengths=3),
    r"lengths must be integers, one a row": lambda: lstm()(X, lengths=["a", "b"]),
    r"lengths came with x without a batch axis": lambda: lstm()(X[:, 0], lengths=[4]),
    r"lengths came with a PackedSequence": lambda: lstm()(
        pack_sequence([X[:, 0], X[:2, 0]]), lengths=[4, 2]
    ),
    r"reset must be a bool tensor \(T, B\), got torch.float32": lambda: lstm()(X, reset=X[..., 0]),
    r"reset must be \(T, B\) = \(4, 2\), got \(2, 4\)": lambda: lstm()(
        X, reset=torch.zeros(2, 4, dtype=torch.bool)
    ),
    r"reset must be \(T,\) = \(4,\) like x, got \(4, 2\)": lambda: lstm()(
        X[:, 0], reset=torch.zeros(4, 2, dtype=torch.bool)
    ),
    r"cell must be a torch.nn.Module, .*pass an instance": lambda: Recurrent(cells.LSTM),
    r"engine must be one of .*got 'fast'": lambda: lstm(engine="fast"),
    r"bptt must be None .*got 0": lambda: lstm(bptt=0),
    r"bptt must be None .*got True": lambda: lstm(bptt=True),
    r"state_size=5 contradicts LSTM": lambda: lstm(state_size=5),
}


@pytest.mark.parametrize("match", CALLS)
def test_bad_calls_name_what_was_expected_and_what_came(match: str) -> None:
    with pytest.raises(InputError, match=match):
        CALLS[match]()


class Bare(nn.Module):
    """A cell from elsewhere: ``hidden_size``, nothing else; ``h -> h``."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size = 5
        self.W = nn.Linear(3 + 5, 5)

    def forward(self, x, h):
        return torch.tanh(self.W(torch.cat([x, h], -1)))


class Unpacks(Bare):
    def forward(self, x, state):
        h, c = state
        c = 0.5 * c + super().forward(x, h)
        return torch.tanh(c), c


class Indexes(Bare):
    def forward(self, x, state):
        c = 0.5 * state[1] + super().forward(x, state[0])
        return torch.tanh(c), (torch.tanh(c), c)


class OutputAndBare(Bare):
    def forward(self, x, h):
        h = super().forward(x, h)
        return h[:, :2], h


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize(
    ("cls", "pair", "width"),
    [(Bare, False, 5), (Unpacks, True, 5), (Indexes, True, 5), (OutputAndBare, False, 2)],
)
def test_a_cell_with_hidden_size_alone(cls, pair: bool, width: int, rows: int) -> None:
    cell = cls()
    x = torch.randn(4, rows, 3, generator=generator(0))
    before = torch.get_rng_state()
    y, state = Recurrent(cell)(x)
    assert torch.equal(torch.get_rng_state(), before)
    assert y.shape == (4, rows, width)
    assert isinstance(state, tuple) == pair
    size = (5, 5) if pair else 5
    assert_close(Recurrent(cell, state_size=size)(x), (y, state))


def test_state_size_settles_everything_else() -> None:
    class NoNames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.W = nn.Linear(3, 4)

        def forward(self, x, state):
            a, b = state
            return self.W(x), (a + 1, b + x[:, :2])

    x = random_input(4, 2, 3, dtype=torch.float32)
    y, (a, b) = Recurrent(NoNames(), state_size=(1, 2))(x)
    assert y.shape == (4, 2, 4)
    assert (a == 4).all()
    assert_close(b, x.sum(0)[:, :2])
    with pytest.raises(InputError, match=r"NoNames \(.*test_recurrent_errors.py:\d+\) doesn't say"):
        Recurrent(NoNames())(x)
    for bad in (0.5, (), (1, "a"), True, -1):
        with pytest.raises(InputError, match="state_size must be an int"):
            Recurrent(NoNames(), state_size=bad)(x)


def test_a_one_tuple_state_stays_a_tuple() -> None:
    class One(Bare):
        state_size = (5,)

        def forward(self, x, state):
            (h,) = state
            return (super().forward(x, h),)

    x = random_input(4, 2, 3, dtype=torch.float32)
    y, (h,) = Recurrent(One(), engine="eager")(x, (torch.zeros(2, 5),))
    assert_close(y[-1], h)


def test_a_cell_that_fails_both_ways_tells_both() -> None:
    class Broken(Bare):
        def forward(self, x, state):
            raise ValueError("no coffee")

    with pytest.raises(InputError, match=r"one tensor: ValueError: no coffee; with a pair: Value"):
        Recurrent(Broken())(X)


class Drifts(nn.Module):
    """Returns what the test wants it to return."""

    state_size = 5

    def __init__(self, change) -> None:
        super().__init__()
        self.change = change

    def forward(self, x, h):
        return self.change(h)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h: h[:, :4], r"state 0 was \(2, 5\) torch.float32 on cpu, came out as \(2, 4\)"),
        (lambda h: h.double(), r"came out as \(2, 5\) torch.float64"),
        (lambda h: (h, h, h), r"must return \(output, state\) or state alone, got \(a tensor"),
        (lambda h: {"h": h}, r"Drifts \(.*errors.py:\d+\) must return .* got dict"),
        (lambda h: (h[0], h), r"the output must be \(B, O\) with B = 2, got \(5,\)"),
        (lambda h: (h.mean(), h), r"the output must be \(B, O\) with B = 2, got \(\)"),
    ],
)
def test_a_state_that_changes_from_step_to_step(change, match: str) -> None:
    with pytest.raises(InputError, match=match):
        Recurrent(Drifts(change), engine="eager")(X)


def test_an_output_that_changes_from_step_to_step() -> None:
    outputs = iter([torch.zeros(2, 3), torch.zeros(2, 4)])
    with pytest.raises(InputError, match="keep its width and dtype"):
        Recurrent(Drifts(lambda h: (next(outputs), h)), engine="eager")(X)
