"""torch.nn on a packed sequence."""

from __future__ import annotations

from benchmarks.case import TORCH_LAYERS, Case, torch_layer
from benchmarks.peers import Runner, UnsupportedError
from benchmarks.peers.packed import packed_runner


def prepare(case: Case) -> Runner:
    if case.problem.cell not in TORCH_LAYERS:
        raise UnsupportedError(f"torch.nn has no {case.problem.cell}")
    return packed_runner(case, torch_layer(case, TORCH_LAYERS[case.problem.cell]))
