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

    ``bytes``: what crosses the boundary of the call, and what a training call of one forward and
    one backward keeps in between; :func:`floor` names each part. Everything else that forward keeps
    could be computed again from it.
    """

    flop: int
    bytes: int

    def seconds(self, flop_per_s: float, bytes_per_s: float) -> float:
        """What a call would take with one of the two limits reached all the time.

        An estimate and no bound: what stays in a cache from one call to the next moves faster than
        a copy through memory, and an engine may keep less and compute it again.
        """
        return max(self.flop / flop_per_s, self.bytes / bytes_per_s)


def row_steps(problem: Problem) -> int:
    """Steps of all rows: the sum of their lengths."""
    if problem.lengths == "full":
        return problem.T * problem.B
    return sum(review_lengths(problem.B, problem.T))


def floor(problem: Problem) -> Floor:
    """The floors of one problem; ``step`` and ``fit`` count as training without the input's
    gradient, and nothing that comes after the layer counts.
    """
    of_x, of_h = GATES[problem.cell]
    width, H, rows = problem.I, problem.H, row_steps(problem)
    size = 8 if problem.dtype == "float64" else 4
    x_product, h_product = 2 * rows * width * of_x * H, 2 * rows * H * of_h * H
    weights = (width * of_x + H * of_h) * H
    x = rows * width
    h = rows * H
    # Of `fit`'s output only the last step's is there, one row for each of the batch.
    y = problem.B * H if problem.mode == "fit" else h
    forward = x + y + weights  # read, written, read
    if problem.mode == "infer":
        return Floor(x_product + h_product, size * forward)
    cells = h if "lstm" in problem.cell or problem.cell == "own" else 0  # the second state
    dx = x if problem.mode == "train" else 0
    history = (h if problem.mode == "fit" else 0) + cells  # written; elsewhere `h` is the output
    backward = x + h + cells + y + dx + weights  # three read, dy read, dx and dW written
    products = (3 if dx else 2) * x_product + 3 * h_product
    return Floor(products, size * (forward + history + backward))
