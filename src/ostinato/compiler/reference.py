"""Interprets step programs in PyTorch, in the plainest way: the oracle of everything else.

The table in :mod:`ostinato.compiler.semantics` gives each operation its meaning;
:func:`evaluate` runs a list of nodes on a batch of rows; :func:`run` runs a program through time,
row by row and step by step, forward and backward. Clarity over speed, float64 as a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ostinato.compiler.grad import differentiate
from ostinato.compiler.ir import Kind, Node, Program
from ostinato.compiler.semantics import FUNCTIONS

#: What leaves are called in an environment: ``("x",)``, ``("state", k)``, ``("static", i)``,
#: ``("dy",)``, ``("dstate", k)``, ``("saved", node)``.
Environment = Mapping[tuple[Any, ...], Tensor]


_LEAF_KEYS: dict[str, Callable[[Node], tuple[Any, ...]]] = {
    "x": lambda node: ("x",),
    "state": lambda node: ("state", node.attrs["index"]),
    "static": lambda node: ("static", node.attrs["index"]),
    "dy": lambda node: ("dy",),
    "dstate": lambda node: ("dstate", node.attrs["index"]),
    "saved": lambda node: ("saved", node.attrs["node"]),
}


def evaluate(nodes: Sequence[Node], env: Environment, like: Tensor) -> list[Tensor]:
    """The value of every node, in order.

    Args:
        nodes: a program in single-assignment form.
        env: values of the leaves, see :data:`Environment`.
        like: any ``(B, n)`` tensor: gives the number of rows, dtype and device of constants.

    Returns:
        One tensor a node: ``(B, n)`` for a ROW, the static's shape for statics, ``()`` for a
        constant.
    """
    values: list[Tensor] = []
    for node in nodes:
        if node.op == "const":
            value = like.new_tensor(node.attrs["value"])
        elif node.op == "fill":
            value = like.new_full((like.shape[0], node.width), node.attrs["value"])
        elif node.op in _LEAF_KEYS:
            value = env[_LEAF_KEYS[node.op](node)]
        else:
            value = FUNCTIONS[node.op](*(values[a] for a in node.args), **node.attrs)
        if node.kind is Kind.ROW and value.shape != (like.shape[0], node.width):
            # A pointwise operation may broadcast one feature to many, never anything else.
            value = value.expand(like.shape[0], node.width)
        values.append(value)
    return values


@dataclass
class Run:
    """What a program gives when it is run through time, and its gradients if asked for.

    ``output`` ``(T, B, O)``, ``state`` of ``(B, n_k)``, ``dx`` ``(T, B, I)``, ``dstate`` like the
    initial state, ``dstatics`` like the statics.
    """

    output: Tensor
    state: tuple[Tensor, ...]
    dx: Tensor | None = None
    dstate: tuple[Tensor, ...] = ()
    dstatics: tuple[Tensor, ...] = ()


@dataclass
class _Step:
    """One step of one row, remembered for the way back."""

    time: int
    values: list[Tensor]
    restarted: bool  # the state that entered was reset to zero
    cut: bool  # no gradient flows into the state that entered


def run(
    program: Program,
    statics: Sequence[Tensor],
    x: Tensor,
    state: Sequence[Tensor],
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reverse: bool = False,
    bptt: int | None = None,
    dy: Tensor | None = None,
    dstate: Sequence[Tensor] | None = None,
) -> Run:
    """Run ``program`` through time, one row after the other, and back if cotangents are given.

    Args:
        program: the forward step.
        statics: values of the program's statics.
        x: ``(T, B, I)``.
        state: initial state, tensors ``(B, n_k)``.
        lengths: ``(B,)`` steps of each row; the output past them is zero. ``None``: all T.
        reset: ``(T, B)`` of bool: before row b processes position t its state becomes zero.
        reverse: each row's valid part is processed from its last position to its first.
        bptt: the state that enters a row's own step ``u > 0`` is detached where
            ``(L - u) % bptt == 0``.
        dy: cotangent of the output, ``(T, B, O)``.
        dstate: cotangents of the final state. Gradients are computed if ``dy`` or ``dstate`` is
            given; the other counts as zero.
    """
    count, rows = x.shape[:2]
    output = x.new_zeros(count, rows, program.output_size)
    final = [s.clone() for s in state]
    history: list[list[_Step]] = []
    for b in range(rows):
        length = count if lengths is None else int(lengths[b])
        now = [s[b : b + 1] for s in state]
        steps = []
        for u in range(length):
            t = length - 1 - u if reverse else u
            restarted = reset is not None and bool(reset[t, b])
            if restarted:
                now = [torch.zeros_like(s) for s in now]
            row = x[t, b : b + 1]
            values = evaluate(program.nodes, forward_environment(row, now, statics), row)
            output[t, b] = values[program.output][0]
            now = [values[n] for n in program.new_state]
            cut = bptt is not None and u > 0 and (length - u) % bptt == 0
            steps.append(_Step(t, values, restarted, cut))
        for k, s in enumerate(now):
            final[k][b] = s[0]
        history.append(steps)
    result = Run(output, tuple(final))
    if dy is not None or dstate is not None:
        _run_back(program, statics, x, history, result, dy, dstate)
    return result


def forward_environment(
    x: Tensor, state: Sequence[Tensor], statics: Sequence[Tensor]
) -> dict[tuple[Any, ...], Tensor]:
    """The leaves of a forward step."""
    env: dict[tuple[Any, ...], Tensor] = {("x",): x}
    env.update({("state", k): s for k, s in enumerate(state)})
    env.update({("static", i): s for i, s in enumerate(statics)})
    return env


def backward_environment(
    statics: Sequence[Tensor], saved: Sequence[Tensor], dy: Tensor, dstate: Sequence[Tensor]
) -> dict[tuple[Any, ...], Tensor]:
    """The leaves of a backward step; ``saved`` are the values of all forward nodes."""
    env: dict[tuple[Any, ...], Tensor] = {("dy",): dy}
    env.update({("static", i): s for i, s in enumerate(statics)})
    env.update({("saved", n): v for n, v in enumerate(saved)})
    env.update({("dstate", k): s for k, s in enumerate(dstate)})
    return env


def _run_back(
    program: Program,
    statics: Sequence[Tensor],
    x: Tensor,
    history: list[list[_Step]],
    result: Run,
    dy: Tensor | None,
    dstate: Sequence[Tensor] | None,
) -> None:
    backward = differentiate(program)
    dx = torch.zeros_like(x)
    dstatics = [torch.zeros_like(s) for s in statics]
    dinitial = [torch.zeros_like(s) for s in result.state]
    for b, steps in enumerate(history):
        carried = [
            torch.zeros_like(s[b : b + 1]) if dstate is None else dstate[k][b : b + 1]
            for k, s in enumerate(result.state)
        ]
        for step in reversed(steps):
            row = result.output[step.time, b : b + 1]
            given = torch.zeros_like(row) if dy is None else dy[step.time, b : b + 1]
            env = backward_environment(statics, step.values, given, carried)
            values = evaluate(backward.nodes, env, row)
            if backward.dx is not None:
                dx[step.time, b] = values[backward.dx][0]
            for i, numbers in backward.dstatics.items():
                for n in numbers:
                    dstatics[i] += values[n].reshape(statics[i].shape)
            blocked = step.restarted or step.cut
            carried = [
                torch.zeros_like(s) if n is None or blocked else values[n]
                for s, n in zip(carried, backward.dstate, strict=True)
            ]
        for k, s in enumerate(carried):
            dinitial[k][b] = s[0]
    result.dx, result.dstate, result.dstatics = dx, tuple(dinitial), tuple(dstatics)
