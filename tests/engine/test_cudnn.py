"""The path of CUDA devices for standard cells; here PyTorch's own layers run it on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from helpers import (
    assert_close,
    assert_same_run,
    random_input,
    random_state,
    randomise,
    run_and_differentiate,
)
from ostinato import cells
from ostinato.engine import Step
from ostinato.engine.cudnn import mode_of, run_cudnn
from ostinato.engine.eager import run_eager

CELLS = {
    "lstm": lambda: cells.LSTM(4, 5, dtype=torch.float64),
    "gru": lambda: cells.GRU(4, 5, bias=False, dtype=torch.float64),
    "rnn_tanh": lambda: nn.RNNCell(4, 5, dtype=torch.float64),
    "rnn_relu": lambda: cells.Elman(4, 5, nonlinearity="relu", dtype=torch.float64),
}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ragged", [None, [3, 7, 0, 5], [0, 0, 0, 0]])
@pytest.mark.parametrize("mode", CELLS)
def test_agrees_with_the_eager_loop(mode: str, ragged: list[int] | None, reverse: bool) -> None:
    cell = randomise(CELLS[mode]())
    assert mode_of(cell) == mode
    step = Step(cell)
    sized = cell if hasattr(cell, "state_size") else cells.Elman(4, 5)
    x, state = random_input(7, 4, 4), random_state(sized, 4, dtype=torch.float64)
    lengths = None if ragged is None else torch.tensor(ragged)

    def run(function: Any) -> Any:
        def call(x: torch.Tensor, state: Any) -> Any:
            parts = state if isinstance(state, tuple) else (state,)
            return function(step, x, parts, lengths=lengths, reverse=reverse)

        return run_and_differentiate(call, x, state, dict(cell.named_parameters()))

    assert_same_run(run(run_cudnn), run(run_eager))


def test_packed_data() -> None:
    step = Step(randomise(cells.LSTM(4, 5, dtype=torch.float64)))
    x, state = random_input(9, 1, 4)[:, 0], random_state(step.cell, 4, dtype=torch.float64)
    sizes = torch.tensor([4, 3, 2])
    got, want = (f(step, x, state, batch_sizes=sizes) for f in (run_cudnn, run_eager))
    assert_close(got, want)


def test_other_cells_have_no_mode() -> None:
    assert mode_of(cells.PeepholeLSTM(4, 5)) is None

    class Mine(cells.LSTM):
        """A subclass may compute anything."""

    assert mode_of(Mine(4, 5)) is None
