"""Whether anything else disturbs the CPUs: other programs, or a virtual machine's other guests."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

from benchmarks.measure import limits_library

if TYPE_CHECKING:
    from collections.abc import Callable


class Watch:
    """Times a short loop of additions on each CPU of this process, and knows its best time.

    The loop keeps all integer units of a core at work, so that it takes longer both where another
    program has the CPU for a part of the time and where another guest has the core's second
    hardware thread, which no figure of the operating system tells.
    """

    #: A CPU is calm when the loop takes no more of its best time.
    BOUND = 1.15
    ROUNDS = 50_000  # some 40 us

    def __init__(self) -> None:
        affinity = hasattr(os, "sched_getaffinity")
        self._cpus: list[int | None] = [*sorted(os.sched_getaffinity(0))] if affinity else [None]
        self._pool = ThreadPoolExecutor(len(self._cpus))
        self._best = [float("inf")] * len(self._cpus)
        for _ in range(50):
            self.calm()
            time.sleep(1e-3)

    def calm(self) -> bool:
        """Whether nothing disturbs any of the CPUs now."""
        took = list(self._pool.map(self._probe, self._cpus))
        self._best = [min(pair) for pair in zip(self._best, took, strict=True)]
        return all(t <= self.BOUND * b for t, b in zip(took, self._best, strict=True))

    def _probe(self, cpu: int | None) -> float:
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})  # of this thread of the pool
        seconds: float = limits_library().add_rounds(self.ROUNDS)
        return seconds


@cache
def calm_check() -> Callable[[], bool] | None:
    """:meth:`Watch.calm` of this process's only watch; ``None`` where there is no C compiler."""
    return None if limits_library() is None else Watch().calm
