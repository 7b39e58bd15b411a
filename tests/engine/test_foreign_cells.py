"""Cells as people write them, through time on the native engine, against the eager loop."""

from __future__ import annotations

import pytest
import torch

from foreign_cells import CELLS, N_IN
from helpers import Run, assert_same_run, random_input, run_and_differentiate
from ostinato import Recurrent


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [5, 0, 3]])
@pytest.mark.parametrize("name", CELLS)
def test_native_engine_agrees_with_the_eager_loop(
    name: str, lengths: list[int] | None, reverse: bool
) -> None:
    make, sizes = CELLS[name]
    torch.manual_seed(3)
    cell = make().double()
    parts = (sizes,) if isinstance(sizes, int) else sizes
    drawn = tuple(0.5 * random_input(1, 3, n, seed=k)[0] for k, n in enumerate(parts))
    state = drawn[0] if isinstance(sizes, int) else drawn
    x = random_input(5, 3, N_IN)
    ragged = {} if lengths is None else {"lengths": lengths}

    def run(engine: str) -> Run:
        layer = Recurrent(cell, reverse=reverse, engine=engine, state_size=sizes)
        return run_and_differentiate(
            lambda x, s: layer(x, s, **ragged), x, state, dict(cell.named_parameters())
        )

    assert_same_run(run("native"), run("eager"), times=10)  # libm and ours differ by some ULP
