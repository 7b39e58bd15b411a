"""The comparator itself: what it must not let through."""

from __future__ import annotations

import pytest
import torch

from helpers import (
    CELL_CASES,
    TOLERANCE,
    Run,
    assert_close,
    assert_same_run,
    plain_loop,
    random_input,
    random_state,
    randomise,
)
from ostinato import cells

ONE = torch.tensor([1.0, -2.0, 3.0])


def test_equal_tensors_pass() -> None:
    assert_close(ONE, ONE.clone())
    assert_close((ONE, (ONE,)), (ONE.clone(), (ONE.clone(),)))
    assert_close(torch.tensor([1, 2]), torch.tensor([1, 2]))
    assert_close(torch.zeros(0, 3), torch.zeros(0, 3))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", ["value", "gradient"])
def test_the_table_is_the_limit(dtype: torch.dtype, kind: str) -> None:
    want = torch.zeros(3, dtype=dtype)
    limit = TOLERANCE[dtype][kind]
    assert_close(want + 0.9 * limit, want, kind=kind)
    with pytest.raises(AssertionError, match="error"):
        assert_close(want + 1.2 * limit, want, kind=kind)
    assert_close(want + 1.2 * limit, want, kind=kind, times=2.0)


@pytest.mark.parametrize(
    ("got", "match"),
    [
        (torch.tensor([1.0, float("nan"), 3.0]), "NaN"),
        (torch.tensor([1.0, float("inf"), 3.0]), "infinities"),
        (torch.tensor([[1.0, -2.0, 3.0]]), "shape"),
        (torch.tensor([1.0, -2.0]), "shape"),
        (ONE.double(), "dtype"),
        (ONE.bfloat16(), "dtype"),
        (ONE.tolist(), "expected a tensor"),
        (None, "expected a tensor"),
        (ONE.flip(0), "error"),
        (ONE + 1e-3, "error"),
    ],
    ids=str,
)
def test_refuses(got: object, match: str) -> None:
    with pytest.raises(AssertionError, match=match):
        assert_close(got, ONE)


def test_refuses_nan_on_both_sides() -> None:
    bad = torch.tensor([float("nan")])
    with pytest.raises(AssertionError, match="NaN"):
        assert_close(bad, bad)


def test_refuses_infinities_of_the_other_sign() -> None:
    inf = torch.tensor([float("inf")])
    assert_close(inf, inf)
    with pytest.raises(AssertionError, match="infinities"):
        assert_close(-inf, inf)


def test_refuses_another_structure() -> None:
    with pytest.raises(AssertionError, match="2 items, got 1"):
        assert_close((ONE,), (ONE, ONE))
    with pytest.raises(AssertionError, match="tuple"):
        assert_close(ONE, (ONE,))
    with pytest.raises(AssertionError, match="None"):
        assert_close(ONE, None)


def test_refuses_integers_that_differ() -> None:
    with pytest.raises(AssertionError, match="is not"):
        assert_close(torch.tensor([1]), torch.tensor([2]))


@pytest.mark.parametrize("case", [c for c in CELL_CASES if len(c.make(1, 1).GATES) > 1], ids=str)
def test_permuted_gates_are_seen(case) -> None:
    """With the random weights that all tests use, two gates exchanged is an error."""
    cell = randomise(case.make(3, 4).double())
    swapped = randomise(case.make(3, 4).double())
    with torch.no_grad():
        for name, parameter in swapped.named_parameters():
            if name.startswith(("weight_ih", "weight_hh", "bias_ih", "bias_hh", "gain_ih")):
                blocks = list(parameter.chunk(len(cell.GATES)))
                blocks[0], blocks[1] = blocks[1].clone(), blocks[0].clone()
                parameter.copy_(torch.cat(blocks))
    x = random_input(3, 2, 3)
    state = random_state(cell, 2, dtype=torch.float64)
    want, got = plain_loop(cell, x, state)[0], plain_loop(swapped, x, state)[0]
    with pytest.raises(AssertionError, match="error"):
        assert_close(got, want)


def test_the_dynamics_are_alive() -> None:
    """A change of the initial state is still seen after the longest run that tests use."""
    for case in CELL_CASES:
        cell = randomise(case.make(3, 5).double())
        x = random_input(7, 2, 3)
        state = random_state(cell, 2, dtype=torch.float64)
        other = random_state(cell, 2, seed=9, dtype=torch.float64)
        far = plain_loop(cell, x, state)[0][-1] - plain_loop(cell, x, other)[0][-1]
        assert far.abs().max() > 1e-4, case


def _run(**changed: object) -> Run:
    fields: dict = {
        "output": ONE,
        "state": (ONE,),
        "dx": ONE,
        "dstate": (ONE,),
        "dparameters": {"w": ONE},
    }
    return Run(**(fields | changed))


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"output": ONE + 1}, "output"),
        ({"state": (ONE + 1,)}, "final state"),
        ({"dx": ONE + 1}, "dx"),
        ({"dx": None}, "dx"),
        ({"dstate": (ONE + 1,)}, "dstate"),
        ({"dparameters": {"w": ONE + 1}}, "dw"),
        ({"dparameters": {"w": None}}, "dw"),
    ],
    ids=str,
)
def test_runs_are_compared_in_full(changed: dict, match: str) -> None:
    assert_same_run(_run(), _run())
    with pytest.raises(AssertionError, match=match):
        assert_same_run(_run(**changed), _run())


def test_the_plain_loop_knows_both_conventions() -> None:
    lstm = cells.LSTM(2, 3)
    x, state = torch.zeros(2, 1, 2), (torch.ones(1, 3), torch.ones(1, 3))

    class Ours(torch.nn.Module):
        def forward(self, x, state):
            h, c = lstm(x, state)
            return h, (h, c)

    assert_close(plain_loop(Ours(), x, state), plain_loop(lstm, x, state))
