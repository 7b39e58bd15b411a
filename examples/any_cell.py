"""Train a cell of one's own on the adding problem, and time it beside the plain PyTorch loop.

The adding problem (Hochreiter and Schmidhuber, 1997): a sequence of pairs (value, mark), two marks
are 1; the target is the sum of the two marked values. Always answering 1 gives a mean squared
error of 1/6; an answer needs memory over the whole sequence.

    python examples/any_cell.py [--steps 50] [--updates 600]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from ostinato import Recurrent

BATCH, HIDDEN = 64, 64


class MyCell(nn.Module):
    """An LSTM whose forget gate sees the memory: one step, nothing but PyTorch.

    ``x`` (B, I), ``state`` a pair of (B, H) -> output (B, H) and the new state.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.state_size = (hidden_size, hidden_size)
        self.W = nn.Linear(input_size, 4 * hidden_size)
        self.R = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        self.p = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step."""
        h, c = state
        i, f, g, o = (self.W(x) + self.R(h)).chunk(4, -1)
        c = torch.sigmoid(f + self.p * c) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)


class Adder(nn.Module):
    """The cell through time, and a linear read-out of its last output: (T, B, 2) -> (B,)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Recurrent(MyCell(2, HIDDEN))
        self.read = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the two marked values."""
        y, _ = self.layer(x)
        return self.read(y[-1]).squeeze(1)


class PlainAdder(Adder):
    """The same without ostinato: a Python loop over the steps."""

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the two marked values."""
        h = c = x.new_zeros(x.shape[1], HIDDEN)
        for row in x:
            _, (h, c) = self.layer.cell(row, (h, c))
        return self.read(h).squeeze(1)


def draw(steps: int) -> tuple[Tensor, Tensor]:
    """Inputs (T, B, 2) and targets (B,): one mark in each half of the sequence."""
    value = torch.rand(steps, BATCH)
    mark = torch.zeros(steps, BATCH)
    rows = torch.arange(BATCH)
    mark[torch.randint(0, steps // 2, (BATCH,)), rows] = 1
    mark[torch.randint(steps // 2, steps, (BATCH,)), rows] = 1
    return torch.stack((value, mark), -1), (value * mark).sum(0)


def train(model: nn.Module, steps: int, updates: int) -> None:
    """Adam on fresh data; prints the mean error of the last tenth of the updates, now and then."""
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    every = max(1, updates // 6)
    errors: list[float] = []
    for update in range(1, updates + 1):
        x, target = draw(steps)
        error = (model(x) - target).square().mean()
        optimiser.zero_grad()
        error.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        errors.append(error.item())
        if update % every == 0:
            recent = statistics.mean(errors[-every // 2 :])
            print(f"update {update:5d}: mean squared error {recent:.4f}")


def gradients(model: nn.Module, x: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Of the mean squared error, with respect to the parameters."""
    return torch.autograd.grad((model(x) - target).square().mean(), list(model.parameters()))


def compare(model: Adder, steps: int) -> None:
    """Forward and backward of one batch both ways, in turns: first whether they agree, then ms."""
    plain = PlainAdder()
    plain.load_state_dict(model.state_dict())
    models = (model, plain)
    x, target = draw(steps)
    pairs = zip(*(gradients(m, x, target) for m in models), strict=True)
    worst = max(float((a - b).abs().max()) for a, b in pairs)
    print(f"largest difference between the gradients of the two: {worst:.1e}")
    if not worst < 1e-5:
        raise SystemExit("they don't agree: no times")
    times: tuple[list[float], ...] = ([], [])
    for _ in range(15):
        for m, own in zip(models, times, strict=True):
            start = time.perf_counter()
            gradients(m, x, target)
            own.append((time.perf_counter() - start) * 1e3)
    ours, theirs = map(statistics.median, times)
    print(
        f"forward and backward, {steps} steps of {BATCH} rows, {torch.get_num_threads()} threads: "
        f"ostinato {ours:.2f} ms, plain PyTorch loop {theirs:.2f} ms, {theirs / ours:.1f} times"
    )


def main() -> None:
    """Train, explain, compare."""
    parser = argparse.ArgumentParser(description="a cell of one's own on the adding problem")
    parser.add_argument("--steps", type=int, default=50, help="length of a sequence, at least 2")
    parser.add_argument("--updates", type=int, default=600, help="of the optimiser")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = Adder()
    print(f"{model.layer.explain(2)}\n")
    print(f"adding problem, {options.steps} steps; always answering 1 gives {1 / 6:.4f}")
    start = time.perf_counter()
    train(model, options.steps, options.updates)
    print(f"trained in {time.perf_counter() - start:.1f} s\n")
    compare(model, options.steps)


if __name__ == "__main__":
    main()
