"""Whether anything else disturbs the CPUs: other programs, or a virtual machine's other guests."""

from __future__ import annotations

import os
import struct
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import limits_library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
        self._cpus = sorted(os.sched_getaffinity(0)) if affinity else []
        self._best = [float("inf")] * max(1, len(self._cpus))
        for _ in range(50):
            self.calm()
            time.sleep(1e-3)

    def calm(self) -> bool:
        """Whether nothing else disturbs any of the CPUs now."""
        # One by one and in the caller's thread: one of several threads, one for each CPU, would
        # share its CPU with the thread that starts them, and see that.
        took = [self._probe(cpu) for cpu in self._cpus or (None,)]
        if self._cpus:
            os.sched_setaffinity(0, self._cpus)
        self._best = [min(pair) for pair in zip(self._best, took, strict=True)]
        return all(t <= self.BOUND * b for t, b in zip(took, self._best, strict=True))

    def _probe(self, cpu: int | None) -> float:
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})  # of this thread alone
        seconds: float = limits_library().add_rounds(self.ROUNDS)
        return seconds


@cache
def calm_check() -> Callable[[], bool] | None:
    """:meth:`Watch.calm` of this process's only watch; ``None`` where there is no C compiler."""
    return None if limits_library() is None else Watch().calm


#: Who has it open says how many microseconds a CPU may take to wake.
LATENCY = Path("/dev/cpu_dma_latency")


@contextmanager
def awake() -> Iterator[None]:
    """No CPU of the machine sleeps meanwhile: Linux is asked to wake each without delay.

    When a CPU of a virtual machine sleeps, the host lends its core to others, and on waking it may
    share one with them for a while. On a machine where 1 to 52 % of looks were calm, 90 to 93 %
    were when its CPUs stayed awake. Threads that spin at the lowest priority do the same, but the
    kernel then lets a thread that wakes wait for a tick (4 ms) behind another.

    Raises:
        SystemExit: this isn't Linux, or this user may not ask.
    """
    try:
        file = LATENCY.open("wb", buffering=0)
    except OSError as error:
        raise SystemExit(f"--awake needs Linux, and leave to write to a device: {error}") from None
    with file:
        file.write(struct.pack("i", 0))
        yield
