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
    if case.lengths is not None or case.problem.mode == "step" or case.problem.dtype != "float32":
        raise UnsupportedError("written for full batches in float32, time first")
    hoist, step = CELLS[case.problem.cell]

    def forward(p: Any, x: Any, state: Any) -> Any:
        final, y = jax.lax.scan(lambda s, row: step(p, s, row), state, hoist(p, x))
        return y, final

    def differentiate(p: Any, x: Any, state: Any, cotangents: Any) -> Any:
        out, pull = jax.vjp(forward, p, x, state)
        return out, pull(cotangents)

    def array(tensor: torch.Tensor) -> Any:
        return jax.device_put(tensor.detach().numpy().copy())

    train = case.problem.mode == "train"
    parameters = {name: array(value) for name, value in case.parameters().items()}
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
        grads = (dx, *dstate, *(dparameters[name] for name in parameters))
        return named_results(y, final, grads, parameters)

    return Runner(call, collect, compile_s)
