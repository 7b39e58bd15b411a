"""Truncated BPTT in both senses, against plain PyTorch with ``detach``."""

from __future__ import annotations

import pytest
import torch

from helpers import (
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
from ostinato.errors import InputError
from ostinato.nn import Recurrent
from ostinato.truncated import detach_state, windows

F64 = torch.float64


@pytest.mark.parametrize("engine", ["eager", "auto"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [3, 0, 7, 1], [7, 7, 4, 2]], ids=str)
@pytest.mark.parametrize("bptt", [1, 2, 3, 7, 100])
def test_inside_a_call(bptt: int, lengths, reverse: bool, engine: str) -> None:
    for cell in (cells.LSTM(3, 4), cells.ResetBeforeGRU(3, 4)):
        randomise(cell.double())
        layer = Recurrent(cell, bptt=bptt, reverse=reverse, engine=engine)
        x, state = random_input(7, 4, 3), random_state(cell, 4, dtype=F64)
        own = dict(cell.named_parameters())
        for reset in (None, torch.rand(7, 4, generator=generator(6)) < 0.2):
            oracle = {"lengths": lengths, "reset": reset, "reverse": reverse, "bptt": bptt}
            want = run_and_differentiate(
                lambda x, s, cell=cell, o=oracle: plain_loop(cell, x, s, **o), x, state, own
            )
            got = run_and_differentiate(
                lambda x, s, layer=layer, r=reset: layer(x, s, lengths=lengths, reset=r),
                x,
                state,
                own,
            )
            assert_same_run(got, want)


@pytest.mark.parametrize("engine", ["eager", "auto"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bptt", [1, 3, 4])
def test_the_last_output_reaches_exactly_its_last_steps(bptt: int, reverse, engine: str) -> None:
    cell = randomise(cells.GRU(3, 4).double())
    layer = Recurrent(cell, bptt=bptt, reverse=reverse, engine=engine)
    lengths = [9, 4, 2, 1]
    x = random_input(9, 4, 3).requires_grad_()
    y, _ = layer(x, lengths=lengths)
    last = [0] * 4 if reverse else [n - 1 for n in lengths]
    sum(y[t, b].sum() for b, t in enumerate(last)).backward()
    for b, (t, length) in enumerate(zip(last, lengths, strict=True)):
        reached = x.grad[:, b].abs().sum(-1) > 0
        first = t if reverse else max(0, length - bptt)
        stop = min(length, bptt) if reverse else length
        want = torch.zeros(9, dtype=torch.bool)
        want[first:stop] = True
        assert torch.equal(reached, want), b


@pytest.mark.parametrize("engine", ["eager", "auto"])
@pytest.mark.parametrize("bptt", [2, 5])
def test_values_are_those_without(bptt: int, engine: str) -> None:
    cell = randomise(cells.LSTM(3, 4).double())
    x = random_input(6, 2, 3)
    assert_close(Recurrent(cell, bptt=bptt, engine=engine)(x), Recurrent(cell)(x))


@pytest.mark.parametrize("engine", ["eager", "auto"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, [11, 6, 0]], ids=str)
@pytest.mark.parametrize("size", [1, 4, 11, 50])
def test_windows_are_a_loop_with_detach(size: int, lengths, batch_first, engine: str) -> None:
    cell = randomise(cells.LSTM(3, 4).double())
    own = dict(cell.named_parameters())
    x, target = random_input(11, 3, 3), random_input(11, 3, 4, seed=8)
    start = random_state(cell, 3, dtype=F64)

    def error(y, target):
        return (y - target).square().sum()

    want, state = [], start
    for t in range(0, 11, size):
        rest = (
            None if lengths is None else [min(max(n - t, 0), len(x[t : t + size])) for n in lengths]
        )
        y, state = plain_loop(cell, x[t : t + size], state, lengths=rest)
        want.append(torch.autograd.grad(error(y, target[t : t + size]), list(own.values())))
        state = tuple(s.detach() for s in state)

    layer = Recurrent(cell, batch_first=batch_first, engine=engine)
    stream = (x, target)
    if batch_first:
        stream = tuple(s.transpose(0, 1) for s in stream)
    got = []
    for (part, goal), carry in windows(
        stream, size, state=start, lengths=lengths, batch_first=batch_first
    ):
        y, carry.state = layer(part, carry.state, lengths=carry.lengths)
        got.append(torch.autograd.grad(error(y, goal), list(own.values())))
        assert carry.stop - carry.start == part.shape[1 if batch_first else 0]
    assert_close(got, want, kind="gradient", times=10.0)  # errors of a hundred elements squared
    assert_close(carry.state, state)
    assert not any(s.requires_grad for s in carry.state)


def test_windows_of_one_tensor_and_of_nothing() -> None:
    parts = [(part, carry.start, carry.state) for part, carry in windows(torch.zeros(5, 1, 2), 2)]
    assert [len(p) for p, _, _ in parts] == [2, 2, 1]
    assert [s for _, s, _ in parts] == [0, 2, 4]
    assert all(state is None for _, _, state in parts)
    assert list(windows(torch.zeros(0, 1, 2), 2)) == []


def test_a_state_of_any_structure_is_detached() -> None:
    h = torch.ones(2, requires_grad=True) * 2
    a, (b, c) = detach_state((h, [h, None]))
    assert not a.requires_grad
    assert not b.requires_grad
    assert c is None
    with pytest.raises(InputError, match="got str"):
        detach_state("h")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((torch.zeros(4, 2, 3), 0), "size must be a number of steps >= 1, got 0"),
        ((torch.zeros(4, 2, 3), 2.0), "got 2.0"),
        ((torch.zeros(4), 2), "stream must be a tensor"),
        (((), 2), "non-empty sequence"),
        (((torch.zeros(4, 2), torch.zeros(5, 2)), 2), r"got \(4, 2\), \(5, 2\)"),
    ],
)
def test_bad_windows_are_named(arguments, match: str) -> None:
    with pytest.raises(InputError, match=match):
        windows(*arguments)


def test_bad_lengths_of_a_stream_are_named() -> None:
    with pytest.raises(InputError, match=r"got lengths\[1\] = 5"):
        windows(torch.zeros(4, 2, 3), 2, lengths=[4, 5])
