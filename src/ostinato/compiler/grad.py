"""The backward step, derived from the forward step by a table: operation -> gradient rule.

One backward step takes the gradients of this step's output (``dy``) and of the state that leaves
it (``dstate``), and gives those of its input, of the state that entered, and of the statics. It
reads forward values as leaves ``saved``; whether these are kept or computed again is the planner's
choice.

Rules prefer the operation's result to its argument where either will do, and are written in the
form that engines recognise: ``(g * y) * (1 - y)`` for sigmoid, ``g * (1 - y * y)`` for tanh,
``where(y > 0, g, 0)`` for relu.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ostinato.compiler.builder import Builder, Value, prune
from ostinato.compiler.ir import Kind, Node, Program


@dataclass(frozen=True)
class Backward:
    """The backward step of a program.

    ``dx`` and ``dstate`` are ROWs (``None``: always zero). ``dstatics[i]`` are ROWS nodes whose sum
    is the gradient of static ``i``: in its own shape, but ``(1,)`` for a SCALAR.
    """

    nodes: tuple[Node, ...]
    dx: int | None
    dstate: tuple[int | None, ...]
    dstatics: dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class Context:
    """What a gradient rule sees of its node.

    ``args`` and ``result`` are the forward values as values of the backward graph; ``wanted[i]``
    says whether argument i passes gradients on.
    """

    builder: Builder
    node: Node
    args: tuple[Value, ...]
    result: Value
    wanted: tuple[bool, ...]


#: One gradient an argument, ``None`` for none. A gradient as wide as the node stands for an
#: argument of one feature too: it is summed afterwards.
Gradients = tuple[Value | None, ...]
Rule = Callable[[Context, Value], Gradients]


def _unary(rule: Callable[[Value, Value, Value], Value]) -> Rule:
    """A rule ``(g, y, a) -> gradient`` for an operation of one argument."""
    return lambda c, g: (rule(g, c.result, c.args[0]),)


def _only(g: Value, keep: Value) -> Value:
    """``g`` where ``keep`` is true, else zero: unlike ``g * keep`` it stops NaN and infinity."""
    return g.builder.op("where", keep, g, 0.0)


def _mul(c: Context, g: Value) -> Gradients:
    a, b = c.args
    if a.same(b):
        return (g * a) * 2.0, None
    return g * b if c.wanted[0] else None, g * a if c.wanted[1] else None


def _div(c: Context, g: Value) -> Gradients:
    # Not (g / b) * y, whose first factor may be infinite where y is 0.
    return g / c.args[1], -(g * (c.result / c.args[1])) if c.wanted[1] else None


def _extremum(c: Context, g: Value) -> Gradients:
    a, b = c.args
    shared = c.builder.op("where", a.eq(b), g * 0.5, g)
    lost, won = (a < b, a > b) if c.node.op == "max" else (a > b, a < b)
    da = c.builder.op("where", lost, 0.0, shared)
    return da, c.builder.op("where", won, 0.0, shared)


def _pow(c: Context, g: Value) -> Gradients:
    a, b = c.args
    da = db = None
    if c.wanted[0]:
        slope = g * (b * c.builder.op("pow", a, b - 1.0))
        da = _only(slope, b.ne(0.0)) if b.constant is None else slope
    if c.wanted[1]:
        db = g * (c.result * c.builder.op("log", a))
        if not a.constant:
            # 0 ** b is 0 for all b > 0: no slope, where the formula has 0 * -inf.
            db = c.builder.op("where", a.eq(0.0) * (b >= 0.0), 0.0, db)
    return da, db


def _where(c: Context, g: Value) -> Gradients:
    condition = c.args[0]
    da = _only(g, condition) if c.wanted[1] else None
    return None, da, c.builder.op("where", condition, 0.0, g) if c.wanted[2] else None


def _sum(c: Context, g: Value) -> Gradients:
    width = c.args[0].width
    return (g if g.width == 1 else c.builder.expand(g, width),)


def _amax(c: Context, g: Value) -> Gradients:
    a, groups = c.args[0], c.node.attrs["groups"]

    def spread(v: Value) -> Value:
        return v if groups == 1 else c.builder.expand(v, a.width)

    ties = a.eq(spread(c.result))
    count = c.builder.reduce("sum", ties, groups)  # 0 if one is NaN: then all gradients are
    return (spread(g / count) * ties,)


def _cumsum(c: Context, g: Value) -> Gradients:
    return (c.builder.cumsum(g, c.node.attrs["groups"], not c.node.attrs["reverse"]),)


def _normalise(c: Context, g: Value) -> Gradients:
    return c.builder.normalise_grad(g, c.result, c.args[1]), None


def _cat(c: Context, g: Value) -> Gradients:
    parts, start = [], 0
    for arg in c.args:
        parts.append(c.builder.slice(g, start, start + arg.width))
        start += arg.width
    return tuple(parts)


def _linear(c: Context, g: Value) -> Gradients:
    (a, w), attrs = c.args, c.node.attrs
    transposed, groups = attrs["transposed"], attrs["groups"]
    da = c.builder.linear(g, w, not transposed, groups) if c.wanted[0] else None
    return da, c.builder.outer_rows(a, g, transposed, groups) if c.wanted[1] else None


def _none(c: Context, g: Value) -> Gradients:
    return (None,) * len(c.args)


#: Gradient rules of all operations of the forward step. ``slice`` has none: gradients of the
#: slices of one value are put side by side, see :class:`_Cotangent`.
VJP: dict[str, Rule] = {
    "neg": _unary(lambda g, y, a: -g),
    "abs": _unary(lambda g, y, a: g * a.builder.op("sign", a)),
    "reciprocal": _unary(lambda g, y, a: -(g * (y * y))),
    "sqrt": _unary(lambda g, y, a: (g * 0.5) / y),
    "rsqrt": _unary(lambda g, y, a: (g * -0.5) * (y * (y * y))),
    "exp": _unary(lambda g, y, a: g * y),
    "expm1": _unary(lambda g, y, a: g * (y + 1.0)),
    "log": _unary(lambda g, y, a: g / a),
    "log1p": _unary(lambda g, y, a: g / (a + 1.0)),
    "sin": _unary(lambda g, y, a: g * a.builder.op("cos", a)),
    "cos": _unary(lambda g, y, a: -(g * a.builder.op("sin", a))),
    "tanh": _unary(lambda g, y, a: g * (1.0 - y * y)),
    "sigmoid": _unary(lambda g, y, a: (g * y) * (1.0 - y)),
    "erf": _unary(lambda g, y, a: g * (a.builder.op("exp", -(a * a)) * (2.0 / math.sqrt(math.pi)))),
    "relu": _unary(lambda g, y, a: _only(g, y > 0.0)),
    "add": lambda c, g: (g, g),
    "sub": lambda c, g: (g, -g if c.wanted[1] else None),
    "mul": _mul,
    "div": _div,
    "max": _extremum,
    "min": _extremum,
    "pow": _pow,
    "where": _where,
    "sum": _sum,
    "amax": _amax,
    "cumsum": _cumsum,
    "normalise": _normalise,
    "cat": _cat,
    "take": lambda c, g: (c.builder.put(g, c.node.attrs["index"], c.args[0].width),),
    "put": lambda c, g: (
        c.builder.gather(g, np.asarray(c.node.attrs["index"])) if c.node.attrs["index"] else None,
    ),
    "expand": lambda c, g: (c.builder.reduce("sum", g, c.args[0].width),),
    "linear": _linear,
    # what goes through moments is in the gradient of normalise, their only user
    **dict.fromkeys(
        ("stop", "sign", "floor", "lt", "le", "gt", "ge", "eq", "ne", "moments"), _none
    ),
}

#: Operations whose rules need the gradient at full width; to the others one feature may stand for
#: many equal ones.
_FULL_WIDTH = frozenset({"cumsum", "normalise", "cat", "take", "put", "expand", "linear", "slice"})

#: Operations that don't broadcast an argument of one feature.
_OWN_WIDTH = frozenset({"sum", "amax", "normalise", "linear", "cat", "expand"})


def differentiate(program: Program) -> Backward:
    """The backward step of ``program``.

    Before: a legal forward step. After: no dead node; a value that is used in disjoint slices has
    one gradient, put together by one ``cat``. Two gates cut from one product::

        %2 = linear(%0, %1)            %1 = dy()              ...
        %3 = slice(%2, 0, 4)     ->    %6 = cat(%4, %5)       the gradient of %2
        %4 = slice(%2, 4, 8)           %8 = outer_rows(%7, %6)

    Args:
        program: the forward step.

    Returns:
        The backward step, in a graph of its own.
    """
    return _Differentiation(program).run()


@dataclass
class _Cotangent:
    """Gradients that have come together for one value of ``width`` features."""

    builder: Builder
    width: int
    whole: list[Value] = field(default_factory=list)
    parts: dict[tuple[int, int], Value] = field(default_factory=dict)

    def add_part(self, start: int, stop: int, g: Value) -> None:
        """The gradient of features ``start`` to ``stop``."""
        known = self.parts.get((start, stop))
        self.parts[start, stop] = g if known is None else known + g

    def total(self) -> Value:
        """The sum; of one feature if all are equal."""
        layers: list[list[tuple[int, int]]] = []
        for span in sorted(self.parts):
            layer = next((a for a in layers if a[-1][1] <= span[0]), None)
            if layer is None:
                layers.append([span])
            else:
                layer.append(span)
        terms = [*self.whole, *map(self._put_together, layers)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def _put_together(self, spans: Sequence[tuple[int, int]]) -> Value:
        pieces, end = [], 0
        for start, stop in [*spans, (self.width, self.width)]:
            if end < start:
                pieces.append(self.builder.fill(0.0, start - end))
            if start < stop:
                pieces.append(self.builder.expand(self.parts[start, stop], stop - start))
            end = stop
        return self.builder.cat(pieces)


class _Differentiation:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.builder = Builder()
        self.cotangents: dict[int, _Cotangent] = {}
        self.matrices: dict[int, list[Value]] = defaultdict(list)
        self.active = _active(program.nodes)

    def run(self) -> Backward:
        program, builder = self.program, self.builder
        if program.output in self.active:
            self._receive(program.output, builder.leaf("dy", width=program.output_size))
        for k, number in enumerate(program.new_state):
            if number in self.active:
                width = program.nodes[number].width
                self._receive(number, builder.leaf("dstate", index=k, width=width))
        dx: Value | None = None
        dstate: list[Value | None] = [None] * len(program.state_sizes)
        dstatics: dict[int, list[Value]] = {}
        for number in reversed(range(len(program.nodes))):
            node, cotangent = program.nodes[number], self.cotangents.get(number)
            if number in self.matrices:
                dstatics[node.attrs["index"]] = self.matrices[number]
            if cotangent is None:
                continue
            g = cotangent.total()
            if node.op == "x":
                dx = builder.expand(g, node.width)
            elif node.op == "state":
                dstate[node.attrs["index"]] = builder.expand(g, node.width)
            elif node.op == "static":
                dstatics[node.attrs["index"]] = [builder.sum_rows(builder.expand(g, node.width))]
            else:
                self._pass_on(number, node, g)
        return self._finish(dx, dstate, dstatics)

    def _pass_on(self, number: int, node: Node, g: Value) -> None:
        if node.op in _FULL_WIDTH:
            g = self.builder.expand(g, node.width)
        if node.op == "slice":
            self._cotangent(node.args[0]).add_part(node.attrs["start"], node.attrs["stop"], g)
            return
        wanted = tuple(a in self.active for a in node.args)
        context = Context(
            self.builder,
            node,
            tuple(self._forward_value(a) for a in node.args),
            self._forward_value(number),
            wanted,
        )
        for i, piece in enumerate(VJP[node.op](context, g)):
            if piece is None or not wanted[i]:
                continue
            arg = self.program.nodes[node.args[i]]
            if arg.kind is Kind.MATRIX:
                self.matrices[node.args[i]].append(piece)
                continue
            if arg.width == 1 and node.op not in _OWN_WIDTH:
                # The argument was broadcast to the node's features.
                if piece.width > 1:
                    piece = self.builder.reduce("sum", piece, 1)
                elif node.width > 1:
                    piece = piece * float(node.width)
            self._receive(node.args[i], piece)

    def _cotangent(self, number: int) -> _Cotangent:
        found = self.cotangents.get(number)
        if found is None:
            width = self.program.nodes[number].width
            found = self.cotangents[number] = _Cotangent(self.builder, width)
        return found

    def _receive(self, number: int, g: Value) -> None:
        if g.constant != 0.0:
            self._cotangent(number).whole.append(g)

    def _forward_value(self, number: int) -> Value:
        node = self.program.nodes[number]
        if node.op == "const":
            return self.builder.const(node.attrs["value"])
        if node.op == "fill":
            return self.builder.fill(node.attrs["value"], node.width)
        if node.op == "static":
            return self.builder.leaf("static", **node.attrs)
        return self.builder.leaf("saved", node=number, width=node.width)

    def _finish(
        self,
        dx: Value | None,
        dstate: Sequence[Value | None],
        dstatics: dict[int, list[Value]],
    ) -> Backward:
        roots = [v for v in (dx, *dstate) if v is not None]
        roots += [v for values in dstatics.values() for v in values]
        nodes, at = prune(self.builder.graph.nodes, [v.number for v in roots])
        return Backward(
            nodes,
            None if dx is None else at[dx.number],
            tuple(None if v is None else at[v.number] for v in dstate),
            {i: tuple(at[v.number] for v in dstatics[i]) for i in sorted(dstatics)},
        )


def _active(nodes: Sequence[Node]) -> set[int]:
    """Values through which gradients reach x, the state or a static."""
    active: set[int] = set()
    for number, node in enumerate(nodes):
        passes = VJP.get(node.op) is not _none and any(a in active for a in node.args)
        if passes or node.op in ("x", "state", "static"):
            active.add(number)
    return active
