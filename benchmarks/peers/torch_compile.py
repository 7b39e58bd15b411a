"""The plain PyTorch loop over time under ``torch.compile``, which unrolls it."""

from __future__ import annotations

import copy
from functools import partial

import torch

from benchmarks.case import Case, plain_loop
from benchmarks.peers import Runner, UnsupportedError, compiled
from benchmarks.peers.torch_shared import torch_runner


def prepare(case: Case) -> Runner:
    """Compiles; that is minutes for a hundred steps."""
    if case.lengths is not None or case.problem.mode == "step":
        raise UnsupportedError("the loop is for full batches, time first")
    cell = copy.deepcopy(case.cell)
    torch.compiler.reset()
    loop = torch.compile(partial(plain_loop, cell), dynamic=False)
    runner = torch_runner(case, loop, dict(cell.named_parameters()))
    runner.compile_s = compiled(runner.call)
    return runner
