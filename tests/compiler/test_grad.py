"""Gradient rules: each against autograd on the operation's own meaning, some by differences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ostinato.compiler import reference
from ostinato.compiler.builder import Builder, Value
from ostinato.compiler.grad import VJP, differentiate
from ostinato.compiler.ir import OPS, Group, Kind, Program, StaticSpec
from ostinato.compiler.semantics import FUNCTIONS
from tracing import close

if TYPE_CHECKING:
    from collections.abc import Callable

N = 6  # of x and of the only state


@dataclass
class Leaves:
    """What a program under test may use."""

    b: Builder
    x: Value
    h: Value
    v: Value  # VECTOR (N,)
    s: Value  # SCALAR
    W: Value  # MATRIX (N, N)
    blocks: Value  # MATRIX (2, 3, 4)


STATICS = (
    StaticSpec("v", Kind.VECTOR, (N,)),
    StaticSpec("s", Kind.SCALAR, ()),
    StaticSpec("W", Kind.MATRIX, (N, N)),
    StaticSpec("blocks", Kind.MATRIX, (2, 3, 4)),
)


def program_of(f: Callable[[Leaves], Value], through: Callable[[Value], Value] | None = None):
    """The step whose output and new state are ``f`` of the leaves."""
    b = Builder()
    x, h = b.leaf("x", width=N), b.leaf("state", index=0, width=N)
    statics = [b.leaf("static", index=i, kind=s.kind, shape=s.shape) for i, s in enumerate(STATICS)]
    out = b.row_of(f(Leaves(b, x, h, *statics)))
    total = b.op("tanh", b.reduce("sum", out, 1) * 0.3 + h * 0.5)
    return Program(tuple(b.graph.nodes), STATICS, N, (N,), out.number, (total.number,))


def draw(seed: int, *shape: int, positive: bool = False) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.abs() + 0.2 if positive else values


def check(program: Program, positive: bool = False, rows: int = 3) -> None:
    """One step of the differentiated program against autograd through the meaning of the ops."""
    x, h = (draw(k, rows, N, positive=positive).requires_grad_() for k in (1, 2))
    statics = [draw(10 + i, *s.shape, positive=positive) for i, s in enumerate(STATICS)]
    for s in statics:
        s.requires_grad_()
    env = {("x",): x, ("state", 0): h, **{("static", i): s for i, s in enumerate(statics)}}
    values = reference.evaluate(program.nodes, env, x)
    outputs = [values[program.output], values[program.new_state[0]]]
    cotangents = [draw(20 + k, *o.shape) for k, o in enumerate(outputs)]
    total = sum((o * c).sum() for o, c in zip(outputs, cotangents, strict=True))
    wanted = [x, h, *statics]
    want = torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)
    run = reference.run(
        program,
        [s.detach() for s in statics],
        x.detach()[None],
        [h.detach()],
        dy=cotangents[0][None],
        dstate=[cotangents[1]],
    )
    assert run.dx is not None
    names = ["x", "h", *(s.name for s in STATICS)]
    for name, a, b in zip(names, [run.dx[0], *run.dstate, *run.dstatics], want, strict=True):
        close(a, b, f"gradient of {name}", 1e-12)


def unary(op: str) -> Callable[[Leaves], Value]:
    return lambda k: k.b.op(op, k.x)


def binary(op: str) -> Callable[[Leaves], Value]:
    """All kinds of operands: rows, a row of one feature, a VECTOR, a SCALAR, a constant."""

    def f(k: Leaves) -> Value:
        one = k.b.reduce("sum", k.h, 1)
        pairs = [
            (k.x, k.h),
            (k.x, one),
            (one, k.x),
            (k.x, k.v),
            (k.v, k.x),
            (k.s, k.x),
            (k.x, k.s),
            (one, k.v),
            (one, k.s),
            (k.x, k.b.const(0.7)),
            (k.b.const(0.7), k.x),
            (k.x, k.x),
            (k.x, k.b.fill(0.7, N)),
        ]
        return k.b.cat([k.b.row_of(k.b.op(op, a, c), N) for a, c in pairs])

    return f


def _where(k: Leaves) -> Value:
    one = k.b.reduce("sum", k.h, 1)
    return k.b.cat(
        [
            k.b.op("where", k.x > 0.3, k.h, k.v),
            k.b.op("where", k.h > 0.3, k.s, one),
            k.b.op("where", one > 0.3, k.x, 0.5),
            k.b.op("where", k.v, k.x, k.h),
        ]
    )


def _moves(k: Leaves) -> Value:
    b = k.b
    index = (5, 0, 0, 3, 2, 5, 1)
    taken = b._add("take", k.x, index=index)
    put = b._add("put", k.h, index=(1, 1, 7, 0, 4, 1), width=8)
    return b.cat([taken, put, b.expand(k.x, 3 * N), b._add("slice", k.h, start=2, stop=5)])


def _overlapping(k: Leaves) -> Value:
    b = k.b
    z = k.x * k.h
    parts = [b.slice(z, 0, 3), b.slice(z, 2, 5), b.slice(z, 0, 3) * 2.0, b.slice(z, 4, 5)]
    return b.cat([*parts, z])


def _linear(k: Leaves) -> Value:
    b = k.b
    wide = b.linear(k.x, k.blocks, False, 2)
    z = b.linear(k.x, k.W, False) + b.linear(k.h, k.W, True)
    return b.cat([wide, b.linear(wide, k.blocks, True, 2), z])


def _normalised(k: Leaves) -> Value:
    b = k.b
    spread = b.expand(b.reduce("sum", b.normalise(k.h, 1, 0.1) * k.v, 1), N)
    return b.cat(
        [*(b.normalise(k.x, g, 0.1) * k.v for g in (1, 2, N)), b.normalise(spread, 2, 0.1)]
    )


PROGRAMS: dict[str, Callable[[Leaves], Value]] = {
    **{op: unary(op) for op, s in OPS.items() if s.group is Group.POINTWISE and s.arity == 1},
    **{op: binary(op) for op, s in OPS.items() if s.group is Group.POINTWISE and s.arity == 2},
    "where": _where,
    "sum": lambda k: k.b.cat([k.b.reduce("sum", k.x, g) for g in (1, 2, 3)]),
    "amax": lambda k: k.b.cat([k.b.reduce("amax", k.x, g) for g in (1, 2, 3)]),
    "cumsum": lambda k: k.b.cat([k.b.cumsum(k.x, g, r) for g in (1, 2) for r in (True, False)]),
    "moments": _normalised,
    "normalise": _normalised,
    "normalise_grad": _normalised,
    "slice": _overlapping,
    "cat": _moves,
    "take": _moves,
    "put": _moves,
    "expand": _moves,
    "linear": _linear,
    "sum_rows": lambda k: k.x * k.v,
    "outer_rows": _linear,
}


@pytest.mark.parametrize("op", PROGRAMS)
def test_gradient(op):
    check(program_of(PROGRAMS[op]), positive=op in ("sqrt", "rsqrt", "log", "log1p", "pow"))


def test_tables_are_complete():
    for op, spec in OPS.items():
        if spec.group is Group.LEAF:
            assert op not in FUNCTIONS
            continue
        assert op in FUNCTIONS
        assert op in PROGRAMS
        backward_only = spec.group is Group.ROWS or op == "normalise_grad"
        assert (op in VJP) == (not backward_only and op != "slice")
    assert set(VJP) | set(FUNCTIONS) <= set(OPS)


@pytest.mark.parametrize(
    "op", ["sigmoid", "erf", "rsqrt", "div", "pow", "amax", "linear", "slice", "normalise"]
)
def test_finite_differences(op):
    program = program_of(PROGRAMS[op])
    x, h = (draw(k, 2, N, positive=True) for k in (1, 2))
    statics = [draw(10 + i, *s.shape, positive=True) for i, s in enumerate(STATICS)]
    dy, dh = draw(21, 1, 2, program.output_size), draw(22, 2, N)

    def loss(x: torch.Tensor, h: torch.Tensor) -> float:
        run = reference.run(program, statics, x[None], [h])
        return float((run.output * dy).sum() + (run.state[0] * dh).sum())

    run = reference.run(program, statics, x[None], [h], dy=dy, dstate=[dh])
    assert run.dx is not None
    direction, step = draw(30, 2, N), 1e-6
    for gradient, moved in (
        (run.dx[0], lambda e: loss(x + e * direction, h)),
        (run.dstate[0], lambda e: loss(x, h + e * direction)),
    ):
        slope = (moved(step) - moved(-step)) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-6, abs=1e-6)


def ops_of(f: Callable[[Leaves], Value]) -> list[str]:
    return [n.op for n in differentiate(program_of(f)).nodes]


def test_disjoint_slices_have_one_wide_gradient():
    def gates(k: Leaves) -> Value:
        z = k.b.linear(k.x, k.W, False)
        parts = [k.b.slice(z, i, i + 2) for i in (0, 2, 4)]
        return k.b.op("sigmoid", parts[0]) * k.b.op("tanh", parts[1]) + parts[2]

    ops = ops_of(gates)
    assert ops.count("cat") == 1
    assert ops.count("linear") == 1
    assert ops.count("outer_rows") == 1


def test_engines_forms():
    """The forms that engines fuse, see ``FUSED`` in the schedule."""

    def form(op: str) -> str:
        backward = differentiate(program_of(lambda k: k.b.op(op, k.x)))

        def text(n: int) -> str:
            node = backward.nodes[n]
            if node.op == "const":
                return f"{node.attrs['value']:g}"
            if node.op in ("saved", "add"):
                return "y" if node.op == "saved" else "g"
            return f"{node.op}({', '.join(map(text, node.args))})"

        assert backward.dx is not None
        return text(backward.dx)

    assert form("sigmoid") == "mul(mul(g, y), sub(1, y))"
    assert form("tanh") == "mul(g, sub(1, mul(y, y)))"
    assert form("relu") == "where(gt(y, 0), g, 0)"


def test_what_has_no_gradient():
    backward = differentiate(program_of(lambda k: k.b.op("stop", k.x) + (k.x > 0.0)))
    assert backward.dx is None
    assert backward.dstate[0] is not None
    assert backward.dstatics == {}


def test_no_dead_nodes_and_shapes_of_gradients():
    for f in PROGRAMS.values():
        backward = differentiate(program_of(f))
        roots = {n for n in (backward.dx, *backward.dstate) if n is not None}
        roots |= {n for numbers in backward.dstatics.values() for n in numbers}
        used = roots | {a for n in backward.nodes for a in n.args}
        assert used == set(range(len(backward.nodes)))
        for i, numbers in backward.dstatics.items():
            for n in numbers:
                node = backward.nodes[n]
                assert OPS[node.op].group is Group.ROWS
                assert node.shape == (STATICS[i].shape or (1,))


def test_zero_gradients_where_formulas_have_nan():
    """The masked branch of ``where`` passes nothing, infinities in it included."""

    def f(k: Leaves) -> Value:
        zero = k.x * 0.0
        return k.b.op("where", k.b.op("eq", zero, 0.0), k.h, k.b.op("log", zero))

    run = reference.run(
        program_of(f),
        [draw(10 + i, *s.shape) for i, s in enumerate(STATICS)],
        draw(1, 1, 2, N),
        [draw(2, 2, N)],
        dy=draw(3, 1, 2, N),
    )
    assert run.dstate[0].isfinite().all()


# ---- the builder's simplifications


def test_simplifications():
    b = Builder()
    x, h = b.leaf("x", width=8), b.leaf("state", index=0, width=4)
    assert (x * 1.0).same(x)
    assert (x + 0.0).same(x)
    assert (0.0 + x).same(x)
    assert b.op("neg", -x).same(x)
    assert b.op("pow", x, 1.0).same(x)
    assert b.slice(x, 0, 8).same(x)
    assert b.slice(b.slice(x, 2, 7), 1, 3).same(b.slice(x, 3, 5))
    both = b.cat([x, h])
    assert b.slice(both, 8, 12).same(h)
    assert b.slice(both, 6, 10).same(b.cat([b.slice(x, 6, 8), b.slice(h, 0, 2)]))
    assert b.cat([b.slice(x, 0, 3), b.slice(x, 3, 8)]).same(x)
    assert b.slice(b.fill(2.0, 5), 1, 3).same(b.fill(2.0, 2))
    assert b.gather(x, np.arange(8)).same(x)
    assert b.gather(x, np.repeat(np.arange(8), 3)).same(b.expand(x, 24))
    assert b.gather(b.gather(x, np.arange(8)[::-1]), np.arange(8)[::-1]).same(x)
    assert b.normalise(b.fill(2.0, 6), 2, 0.1).same(b.fill(0.0, 6))
    assert b.op("exp", b.const(0.0)).constant == 1.0
    assert (b.fill(2.0, 3) * 4.0).same(b.fill(8.0, 3))
    assert (x * b.fill(2.0, 8)).same(x * 2.0)
    assert math.isnan(b.op("log", b.const(-1.0)).constant or 0.0)
