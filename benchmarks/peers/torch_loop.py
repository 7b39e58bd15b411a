"""The cell as a plain PyTorch loop over time: what one writes without ostinato."""

from __future__ import annotations

import copy
from functools import partial

from benchmarks.case import Case, plain_loop
from benchmarks.peers import Runner, UnsupportedError
from benchmarks.peers.torch_shared import torch_runner


def prepare(case: Case) -> Runner:
    if case.lengths is not None or case.problem.mode == "step":
        raise UnsupportedError("the loop is for full batches, time first")
    cell = copy.deepcopy(case.cell)
    return torch_runner(case, partial(plain_loop, cell), dict(cell.named_parameters()))
