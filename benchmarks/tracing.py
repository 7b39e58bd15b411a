"""How long a new cell takes to trace, and a traced one to meet a new shape, in a fresh process.

``python -m benchmarks.tracing`` is that process; it prints its figures as JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks.measure import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable


#: What :func:`measure` gives.
FIGURES = ("trace-new-cell", "trace-new-sizes", "new-shape")


def traced(match: str) -> list[str]:
    """The figures whose name contains ``match``."""
    return [name for name in FIGURES if match in name]


def tracing_records(threads: int, repeats: int, names: list[str]) -> list[dict[str, Any]]:
    """One record for each of these figures, over ``repeats`` fresh processes."""
    runs: list[dict[str, float]] = []
    for _ in range(repeats):
        command = [sys.executable, "-m", "benchmarks.tracing", str(threads)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            note = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return [_record(name, threads, status="failed", note=note) for name in names]
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    records = []
    for name in names:
        values = sorted(run[name] for run in runs)
        records.append(
            _record(
                name,
                threads,
                median_s=statistics.median(values),
                low_s=values[len(values) // 4],
                high_s=values[(3 * len(values)) // 4],
                samples=len(values),
            )
        )
    return records


def _record(name: str, threads: int, **found: Any) -> dict[str, Any]:
    base = {"suite": "overhead", "name": name, "contestant": "ostinato", "peer": "ostinato"}
    return {**base, "problem": None, "threads": threads, "status": "ok", "note": "", **found}


def measure(threads: int) -> dict[str, float]:
    """Seconds, for the benchmark's own cell.

    ``trace-new-cell``: the first forward and backward of a layer, less a second one: imports that
    only tracing needs, the trace, its proof, plans for training. ``trace-new-sizes``: the same for
    a second cell of another input and hidden size, when all is imported. ``new-shape``: the first
    call at T and B not seen before, less a second one.
    """
    import torch

    import ostinato
    from benchmarks.cells import OwnCell

    torch.set_num_threads(threads)

    def caller(layer: Any, x: Any) -> Callable[[], None]:
        def call() -> None:
            y, _ = layer(x)
            y.sum().backward()

        return call

    def first_of(call: Callable[[], None]) -> float:
        times = []
        for _ in range(6):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        return max(0.0, times[0] - statistics.median(times[1:]))

    # autograd's own threads and buffers are not tracing's
    plain = torch.nn.Linear(64, 64)
    plain(torch.randn(4, 64)).sum().backward()
    layer = ostinato.Recurrent(OwnCell(64, 64))
    found = {"trace-new-cell": first_of(caller(layer, torch.randn(20, 16, 64)))}
    other = ostinato.Recurrent(OwnCell(40, 48))
    found["trace-new-sizes"] = first_of(caller(other, torch.randn(20, 16, 40)))
    shapes = ((21, 16), (20, 17), (7, 3), (40, 1))
    firsts = [first_of(caller(layer, torch.randn(T, B, 64))) for T, B in shapes]
    found["new-shape"] = statistics.median(firsts)
    return found


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
