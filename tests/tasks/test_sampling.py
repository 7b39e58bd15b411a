"""Drawing the next symbol: which stay, in what proportion, from where the model goes on."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ostinato.errors import InputError
from ostinato.tasks.next_symbol import NextSymbol
from ostinato.tasks.sampling import Sampling, continue_sequence

LOGITS = torch.tensor([0.1, 0.4, 0.3, 0.2]).log()


@pytest.mark.parametrize(
    ("sampling", "wanted"),
    [
        (Sampling(), [0.1, 0.4, 0.3, 0.2]),
        (Sampling(temperature=0.5), [1 / 30, 16 / 30, 9 / 30, 4 / 30]),
        (Sampling(temperature=0), [0, 1, 0, 0]),
        (Sampling(temperature=1e-9), [0, 1, 0, 0]),
        (Sampling(temperature=1e9), [0.25, 0.25, 0.25, 0.25]),
        (Sampling(top_k=2), [0, 4 / 7, 3 / 7, 0]),
        (Sampling(top_k=99), [0.1, 0.4, 0.3, 0.2]),
        # The fewest symbols that reach it: 0.4 + 0.3 reach 0.69 but not 0.71.
        (Sampling(top_p=0.69), [0, 4 / 7, 3 / 7, 0]),
        (Sampling(top_p=0.71), [0, 4 / 9, 3 / 9, 2 / 9]),
        (Sampling(top_p=0.01), [0, 1, 0, 0]),
        (Sampling(top_p=1.0), [0.1, 0.4, 0.3, 0.2]),
        # After top-k, 0.4 has 4/7 of what is left.
        (Sampling(top_k=2, top_p=0.5), [0, 1, 0, 0]),
        (Sampling(top_k=2, top_p=0.6), [0, 4 / 7, 3 / 7, 0]),
    ],
)
def test_probabilities(sampling: Sampling, wanted: list[float]) -> None:
    found = sampling.probabilities(LOGITS)
    torch.testing.assert_close(found, torch.tensor(wanted).double(), atol=1e-6, rtol=0)


def test_equal_ones_stay_in_the_vocabularys_order() -> None:
    assert Sampling(top_k=2).probabilities(torch.zeros(5)).tolist() == [0.5, 0.5, 0, 0, 0]


def test_forbidden_symbols_have_none() -> None:
    found = Sampling(top_k=2).probabilities(LOGITS, forbidden=[1])
    torch.testing.assert_close(found, torch.tensor([0, 0, 0.6, 0.4]).double(), atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="no symbol to draw"):
        Sampling().probabilities(LOGITS, forbidden=[0, 1, 2, 3])
    with pytest.raises(InputError, match="NaN"):
        Sampling().probabilities(torch.tensor([0.0, math.nan]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.5},
    ],
)
def test_values_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_drawn_as_often_as_probable() -> None:
    class Always(nn.Module):
        """The same logits at each step."""

        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(LOGITS)

        def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
            return self.logits.expand(*x.shape, 4), state

    drawn = torch.tensor(list(islice(continue_sequence(Always(), [0], Sampling()), 4000)))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    # Four standard deviations of a share of 4,000 draws.
    torch.testing.assert_close(shares, LOGITS.exp(), atol=4 * 0.5 / math.sqrt(4000), rtol=0)


@pytest.fixture
def model() -> NextSymbol:
    torch.manual_seed(0)
    return NextSymbol(9, embedding=4, cell="lstm", hidden=8, layers=2, dropout=0.5)


def test_the_state_goes_on(model: NextSymbol) -> None:
    """Each greedy symbol is the most probable one after the whole of what was said."""
    with torch.no_grad():
        for parameter in model.parameters():  # or it would say the same all the time
            parameter.mul_(4)
    found = list(islice(continue_sequence(model, [3, 1], Sampling(temperature=0)), 12))
    said = [3, 1]
    model.eval()
    for symbol in found:
        with torch.no_grad():
            logits, _ = model(torch.tensor(said)[:, None])
        assert symbol == int(logits[-1, 0].argmax())
        said.append(symbol)
    assert len(set(found)) > 1


def test_a_long_prompt_goes_through_in_parts(
    model: NextSymbol, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = [k % 9 for k in range(50)]
    whole = list(islice(continue_sequence(model, prompt, Sampling(), seed=1), 20))
    monkeypatch.setattr("ostinato.tasks.sampling._PROMPT_STEPS", 7)
    assert list(islice(continue_sequence(model, prompt, Sampling(), seed=1), 20)) == whole


def test_one_step_a_symbol(model: NextSymbol) -> None:
    lengths: list[int] = []
    model.register_forward_pre_hook(lambda module, args: lengths.append(len(args[0])))
    list(islice(continue_sequence(model, [1, 2, 3], Sampling()), 5))
    assert lengths == [3, 1, 1, 1, 1]


def test_seeds_and_modes(model: NextSymbol) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    drawn = {
        seed: list(islice(continue_sequence(model, [1], Sampling(), seed=seed), 30))
        for seed in (0, 1)
    }
    assert drawn[0] != drawn[1]
    assert drawn[0] == list(islice(continue_sequence(model, [1], Sampling(), seed=0), 30))
    assert torch.equal(before, torch.random.get_rng_state())  # it has random numbers of its own
    assert model.training
    with pytest.raises(InputError, match="one symbol or more"):
        next(continue_sequence(model, [], Sampling()))
