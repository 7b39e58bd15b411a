"""The benchmark of the loop's own time, on a small slice."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import loop_overhead

from ostinato.train import loop
from small_data import reviews, small


def test_a_step_is_its_parts(tmp_path: Path) -> None:
    plain = loop.measure_and_clip
    found = loop_overhead.measure(small(reviews(tmp_path / "r.csv", 100)), updates=25)
    assert loop.measure_and_clip is plain
    # Medians of parts, on a machine that may be busy: they needn't add up.
    step = found.pop("step")
    assert sorted(found) == [
        "batch",
        "forward, backward, optimiser",
        "loop (batch, norm and clipping, rest)",
        "norm and clipping",
        "share",
    ]
    assert found["batch"] < found["loop (batch, norm and clipping, rest)"] < step
    assert all(value > 0 for value in found.values())
    assert found["share"] < 1
