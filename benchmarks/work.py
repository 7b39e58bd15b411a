"""What a problem costs at least: the floors in FLOP and in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.cells import GATES
from benchmarks.problems import review_lengths

if TYPE_CHECKING:
    from benchmarks.problems import Problem


@dataclass(frozen=True)
class Floor:
    """``flop``: multiplications and additions of all products, pointwise work not counted.

    ``bytes``: what must cross the boundary of the call however clever the engine is. Inference: the
    input is read, the output written, each parameter read. Training, besides: the output's
    cotangent read, the input's gradient written, the parameters' gradients written; the input read
    again for the weights' gradients, and the history of the state written and read (it is the
    output where the cell has one state). Everything else that forward keeps could be computed
    again from these.
    """

    flop: int
    bytes: int

    def seconds(self, flop_per_s: float, bytes_per_s: float) -> float:
        """No engine can be faster on a machine with these limits."""
        return max(self.flop / flop_per_s, self.bytes / bytes_per_s)


def row_steps(problem: Problem) -> int:
    """Steps of all rows: the sum of their lengths."""
    if problem.lengths == "full":
        return problem.T * problem.B
    return sum(review_lengths(problem.B, problem.T))


def floor(problem: Problem) -> Floor:
    """The floors of one problem; ``step`` counts as training without the input's gradient."""
    of_x, of_h = GATES[problem.cell]
    width, H, rows = problem.I, problem.H, row_steps(problem)
    size = 8 if problem.dtype == "float64" else 4
    x_product, h_product = 2 * rows * width * of_x * H, 2 * rows * H * of_h * H
    weights = (width * of_x + H * of_h) * H
    if problem.mode == "infer":
        return Floor(x_product + h_product, size * (rows * (width + H) + weights))
    states = 2 if "lstm" in problem.cell or problem.cell == "own" else 1
    dx = problem.mode == "train"
    history = 2 * rows * H * (states - 1)
    moved = (
        rows * (width + H)
        + rows * (width + H)
        + rows * H
        + dx * rows * width
        + history
        + 2 * weights
    )
    return Floor((2 + dx) * x_product + 3 * h_product, size * moved)
