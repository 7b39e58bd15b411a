"""JAX: ``lax.scan`` under ``jit``, the input's product hoisted by hand, gradients by ``vjp``.

``vjp`` with given cotangents is what ``value_and_grad`` does after the loss, so that no loss is
timed here either.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np
import torch

from benchmarks.case import Case, Results, named_results
from benchmarks.peers import Runner, UnsupportedError
from benchmarks.peers.jax_cells import CELLS


def prepare(case: Case) -> Runner:
    problem = case.problem
    if case.lengths is not None or problem.dtype != "float32":
        raise UnsupportedError("written for full batches in float32")
    if problem.mode not in ("train", "infer"):
        raise UnsupportedError(f"written for calls, time first, not for {problem.mode}")
    if problem.cell not in CELLS:
        raise UnsupportedError(f"{problem.cell} isn't written in JAX")
    hoist, step = CELLS[problem.cell]

    def forward(p: Any, x: Any, state: Any) -> Any:
        final, y = jax.lax.scan(lambda s, row: step(p, s, row), state, hoist(p, x))
        return y, final

    def differentiate(p: Any, x: Any, state: Any, cotangents: Any) -> Any:
        out, pull = jax.vjp(forward, p, x, state)
        return out, pull(cotangents)

    def array(tensor: torch.Tensor) -> Any:
        return jax.device_put(tensor.detach().numpy().copy())

    def turned(tensor: torch.Tensor) -> torch.Tensor:
        """From (out, in) to (in, out) and back; vectors as they are."""
        return tensor.T.contiguous() if tensor.dim() == 2 else tensor

    train = problem.mode == "train"
    parameters = {name: array(turned(value)) for name, value in case.parameters().items()}
    arguments: tuple[Any, ...] = (parameters, array(case.x), tuple(map(array, case.state)))
    if train:
        arguments += ((array(case.dy), tuple(map(array, case.dfinal))),)
    begin = time.perf_counter()
    compiled = jax.jit(differentiate if train else forward).lower(*arguments).compile()
    compile_s = time.perf_counter() - begin

    def call() -> Any:
        return jax.block_until_ready(compiled(*arguments))

    def collect(done: Any) -> Results:
        done = jax.tree.map(lambda a: torch.from_numpy(np.array(a)), done)
        if not train:
            return named_results(*done)
        (y, final), (dparameters, dx, dstate) = done
        grads = (dx, *dstate, *(turned(dparameters[name]) for name in parameters))
        return named_results(y, final, grads, parameters)

    return Runner(call, collect, compile_s)
