"""Results with made-up figures, for the tests of what the benchmarks make of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks aren't installed

from benchmarks import contests
from benchmarks.contests import Entry
from benchmarks.results import SCHEMA

if TYPE_CHECKING:
    from benchmarks.problems import Problem


def results_of(
    records: list[dict[str, Any]], started: str = "2026-01-01T00:00:00+00:00", **told: Any
) -> dict[str, Any]:
    """As of a run with these records; ``told`` goes into the limits."""
    suites = {(r["suite"], r["threads"]) for r in records}
    common = {
        "command": ["python", "-m", "benchmarks"],
        "started": started,
        "commit": "0123456789abcdef",
        "changed": False,
        "stale": False,
        "versions": {"torch": "2.13", "jax": None},
        "load": 0.0,
        "flop_per_s": 4e11,
        "bytes_per_s": 4e10,
    }
    return {
        "schema": SCHEMA,
        "quick": False,
        "awake": False,
        "machine": {
            "cpu": "a CPU",
            "cpus": 2,
            "memory_bytes": 1 << 34,
            "system": "Linux 6",
            "python": "3.12",
        },
        "limits": [
            {"suite": suite, "threads": threads, **common, **told}
            for suite, threads in sorted(suites)
        ],
        "records": [record | {"started": started} for record in records],
    }


def timed(suite: str, problem: Problem, threads: int = 2, **seconds: float) -> list[dict[str, Any]]:
    """Records with made-up times."""
    return [
        {
            **contests._record(suite, problem, Entry(label, label, problem, threads)),
            "median_s": s,
            "low_s": s,
            "high_s": s,
            "samples": 1,
        }
        for label, s in seconds.items()
    ]
