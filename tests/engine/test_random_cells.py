"""Cells put together at random, on the native engine against the eager loop.

Of slices, cats, products and a few functions, in orders that nobody would write: what one value's
place in memory does to another's shows here.
"""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from helpers import Run, assert_same_run, random_input, run_and_differentiate
from ostinato import Recurrent, _native

WIDTH, N = 5, 6


class _Random(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        choose = random.Random(seed)
        self.of_x = nn.ModuleList(nn.Linear(WIDTH, N * choose.choice([1, 2, 3])) for _ in range(2))
        self.of_h = nn.ModuleList(nn.Linear(N, N * choose.choice([1, 2])) for _ in range(3))
        self.out = nn.Linear(N, 3)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        choose = random.Random(self.seed)
        values = [h, *(m(x) for m in self.of_x), *(m(h) for m in self.of_h)]

        def part() -> Tensor:
            whole = choose.choice(values)
            start = choose.randrange(whole.shape[-1] - N + 1)
            start = choose.choice([start, start // N * N])
            return whole[:, start : start + N]

        makers = (
            lambda: part() + part(),
            lambda: part() - part(),
            lambda: -part(),
            lambda: torch.tanh(part()) * part(),
            lambda: torch.sigmoid(part() + part()),
            lambda: part() * part() + (-part()),
            lambda: torch.cat([part() for _ in range(choose.choice([2, 3]))], -1),
            lambda: choose.choice(list(self.of_h))(torch.tanh(part())),
        )
        for _ in range(choose.randrange(4, 12)):
            values.append(choose.choice(makers)())
        h = torch.tanh(sum(v[:, :N] for v in values[-4:]))
        return choose.choice([h, self.out(h), torch.cat([h, part()], -1)]), h


@pytest.mark.parametrize("seed", range(80))
def test_native_engine_agrees_with_the_eager_loop(seed: int) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(1 + seed % 2)
    _native.set_testing(poison=True, divide=["rows", "relay"][seed // 2 % 2])
    cell = _Random(seed).double()
    x, state = random_input(7, 5, WIDTH), 0.5 * random_input(1, 5, N)[0]
    ragged = {} if seed % 3 else {"lengths": [7, 3, 0, 5, 1]}

    def run(engine: str) -> Run:
        layer = Recurrent(cell, reverse=seed % 5 == 0, engine=engine, state_size=N)
        return run_and_differentiate(
            lambda x, s: layer(x, s, **ragged), x, state, dict(cell.named_parameters())
        )

    assert_same_run(run("native"), run("eager"), times=10)  # libm and ours differ by some ULP
