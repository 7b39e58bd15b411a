"""The registry of problems: cell, sizes, what is asked; no device, no library, no thread count."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist, mean, median
from typing import Any

import numpy as np

#: (T, B, I, H) of the grid, in the order that the targets call first, second, ...
SHAPES = (
    (100, 32, 32, 8),
    (100, 32, 100, 32),
    (100, 32, 64, 64),
    (100, 64, 128, 128),
    (100, 64, 256, 256),
    (64, 32, 512, 512),
    (256, 1, 64, 64),
    (256, 1, 256, 256),
)
SECOND, THIRD, FOURTH, FIFTH, SIXTH = SHAPES[1:6]
#: Of calls that come one after another as their input does: a step, or a few.
STREAMED = (
    (1, 1, 64, 64),
    (1, 1, 256, 256),
    (1, 1, 512, 512),
    (1, 1, 1024, 1024),
    (4, 1, 1024, 1024),
    (1, 16, 512, 512),
)

#: The cells that every peer has, by the names of ostinato's registry.
STANDARD = ("elman", "gru", "lstm")
#: The cells of the grid ``cells``; ``own``, like ``cat``, is defined in ``benchmarks/cells.py``.
SPECIAL = ("lstm_layer_norm", "lstm_peephole", "gru_reset_before", "indrnn", "mingru", "own")

#: Lengths of reviews in words: the most steps, and what the drawn lengths must come to.
LONGEST, MEDIAN, MEAN = 1000, 174, 230


@dataclass(frozen=True)
class Problem:
    """One thing to compute.

    ``mode``: ``train`` (output, final state, and the gradients of input, initial state and all
    parameters), ``infer`` (output and final state, nothing kept), ``step`` (a whole training
    step: batch-first input, mean squared error, plain gradient descent), or ``fit`` (one step of
    Keras's ``fit``: the layer's last output into one number, squared error, gradient descent).
    ``lengths``: ``full``, or ``reviews`` for :func:`review_lengths`.
    """

    cell: str
    T: int
    B: int
    I: int  # noqa: E741
    H: int
    mode: str = "train"
    dtype: str = "float32"
    lengths: str = "full"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self.T, self.B, self.I, self.H)

    @property
    def name(self) -> str:
        ragged = "" if self.lengths == "full" else f"-{self.lengths}"
        narrow = "" if self.dtype == "float32" else f"-{self.dtype}"
        return f"{self.cell}-{self.mode}-{self.T}x{self.B}x{self.I}x{self.H}{ragged}{narrow}"

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


def _grid(
    cells: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], **rest: str
) -> list[Problem]:
    return [Problem(cell, *shape, **rest) for cell, shape in itertools.product(cells, shapes)]


_REVIEWS = (LONGEST, 64, 128, 128)

#: Suite -> its problems. A suite that measures the same problem in several ways lists it once.
GRIDS: dict[str, list[Problem]] = {
    "training": _grid(STANDARD, SHAPES),
    "inference": _grid(STANDARD, SHAPES, mode="infer"),
    "cells": [
        *_grid(SPECIAL, (THIRD, FOURTH)),
        *_grid(SPECIAL, (THIRD, FOURTH), mode="infer"),
    ],
    "lengths": [
        *_grid(("lstm", "gru"), (_REVIEWS,), lengths="reviews"),
        *_grid(("lstm", "gru"), (_REVIEWS,), lengths="reviews", mode="infer"),
    ],
    "overhead": [
        *_grid((*STANDARD, *SPECIAL, "cat"), ((1, 1, 8, 8),), mode="infer"),
        *_grid((*STANDARD, *SPECIAL, "cat"), ((1, 1, 8, 8),)),
    ],
    "streaming": _grid(STANDARD, STREAMED, mode="infer"),
    "memory": _grid(("lstm", "gru"), SHAPES),
    "scaling": [
        *_grid(STANDARD, (FOURTH, FIFTH)),
        *_grid(STANDARD, (FOURTH, FIFTH), mode="infer"),
    ],
    "steps": _grid(STANDARD, (THIRD, FOURTH), mode="step"),
    "keras": _grid(STANDARD, (SECOND, FOURTH), mode="fit"),
}


def small(problem: Problem) -> Problem:
    """A problem of the same kind that takes next to no time: what ``--quick`` runs."""
    return replace(
        problem,
        T=min(problem.T, 12),
        B=min(problem.B, 5),
        I=min(problem.I, 10),
        H=min(problem.H, 9),
    )


def review_lengths(rows: int = 64, longest: int = LONGEST, seed: int = 0) -> list[int]:
    """Lengths as of film reviews: median 174, mean 230, the longest 1,000.

    One draw from each of ``rows`` equally likely slices of a log-normal distribution, so that a
    batch has the distribution's shape; the last is the longest. Scaled down for a shorter
    ``longest``.
    """
    sigma = (2 * np.log(MEAN / MEDIAN)) ** 0.5
    draw = np.random.default_rng(seed)
    at = (np.arange(rows) + draw.uniform(0.25, 0.75, rows)) / rows
    # A touch wider than sigma: clipping takes from the mean.
    words = [MEDIAN * np.exp(1.04 * sigma * NormalDist().inv_cdf(q)) for q in at]
    lengths = [max(1, min(longest, round(w * longest / LONGEST))) for w in words]
    lengths[-1] = longest
    if (rows, longest) == (64, LONGEST):
        assert abs(median(lengths) - MEDIAN) <= 4, median(lengths)
        assert abs(mean(lengths) - MEAN) <= 4, mean(lengths)
        assert max(lengths) == LONGEST
    return [int(n) for n in draw.permutation(lengths)]


def chosen(suite: str, quick: bool, match: str = "") -> list[Problem]:
    """A suite's problems whose names contain ``match``; with ``quick`` made small, each once."""
    problems = [p for p in GRIDS[suite] if match in p.name]
    return list(dict.fromkeys(map(small, problems))) if quick else problems
