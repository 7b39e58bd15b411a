"""Writes IR with operators, ``(g * y) * (1.0 - y)``, for the tracer's and the gradient's tables.

A :class:`Value` stands for a node of a graph under construction. Operations are simplified as they
are written: constants fold, ``a * 1`` is ``a``, a slice of a slice is one slice, and so on. No
simplification changes a result by more than a rounding of zero's sign, or what happens to NaN and
infinity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ostinato.compiler.ir import Graph, Kind, Node
from ostinato.compiler.semantics import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: As many copied runs of adjacent features are still a ``cat``; beyond, it is a ``take``.
_MAX_RUNS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A node of ``builder``'s graph, with arithmetic."""

    builder: Builder
    number: int

    @property
    def node(self) -> Node:
        """The node itself."""
        return self.builder.graph[self.number]

    @property
    def width(self) -> int:
        """Its features."""
        return self.node.width

    @property
    def is_row(self) -> bool:
        """Whether it is a ROW."""
        return self.node.kind is Kind.ROW

    @property
    def constant(self) -> float | None:
        """The number that all its elements are, if that is known."""
        return self.node.attrs["value"] if self.node.op in ("const", "fill") else None

    def same(self, other: Value) -> bool:
        """Whether both are one node."""
        return self.number == other.number

    def __neg__(self) -> Value:
        return self.builder.op("neg", self)

    def __add__(self, other: Value | float) -> Value:
        return self.builder.op("add", self, other)

    def __radd__(self, other: float) -> Value:
        return self.builder.op("add", other, self)

    def __sub__(self, other: Value | float) -> Value:
        return self.builder.op("sub", self, other)

    def __rsub__(self, other: float) -> Value:
        return self.builder.op("sub", other, self)

    def __mul__(self, other: Value | float) -> Value:
        return self.builder.op("mul", self, other)

    def __rmul__(self, other: float) -> Value:
        return self.builder.op("mul", other, self)

    def __truediv__(self, other: Value | float) -> Value:
        return self.builder.op("div", self, other)

    def __rtruediv__(self, other: float) -> Value:
        return self.builder.op("div", other, self)

    def __lt__(self, other: Value | float) -> Value:
        return self.builder.op("lt", self, other)

    def __le__(self, other: Value | float) -> Value:
        return self.builder.op("le", self, other)

    def __gt__(self, other: Value | float) -> Value:
        return self.builder.op("gt", self, other)

    def __ge__(self, other: Value | float) -> Value:
        return self.builder.op("ge", self, other)

    def eq(self, other: Value | float) -> Value:
        """1.0 where equal (``==`` is Python's own comparison)."""
        return self.builder.op("eq", self, other)

    def ne(self, other: Value | float) -> Value:
        """1.0 where not equal."""
        return self.builder.op("ne", self, other)


class Builder:
    """Appends operations to a graph.

    Args:
        where: gives the user's ``file:line`` for new nodes.
        on_static: computes a pointwise operation whose arguments are all statics; without it one
            of them is made a row.
    """

    def __init__(
        self,
        where: Callable[[], str] = lambda: "",
        on_static: Callable[[str, tuple[Value, ...]], Value] | None = None,
    ) -> None:
        self.graph = Graph()
        self._where = where
        self._on_static = on_static

    def leaf(self, op: str, **attrs: Any) -> Value:
        """A leaf other than a constant."""
        if attrs.get("width") == 0:
            return self.nothing
        return Value(self, self.graph.add(op, where=self._where(), **attrs))

    def const(self, value: float) -> Value:
        """The SCALAR ``value``."""
        return Value(self, self.graph.const(value))

    def fill(self, value: float, width: int) -> Value:
        """A ROW of ``width`` features, all ``value``."""
        value = value if width else 0.0
        return Value(self, self.graph.add("fill", value=float(value), width=width))

    @property
    def nothing(self) -> Value:
        """The ROW without features: whatever has none is this one, and no operation's argument."""
        return self.fill(0.0, 0)

    def _add(self, op: str, *args: Value, **attrs: Any) -> Value:
        return Value(
            self, self.graph.add(op, *(a.number for a in args), where=self._where(), **attrs)
        )

    # ---- pointwise

    def op(self, op: str, *operands: Value | float) -> Value:
        """A pointwise operation, simplified."""
        args = tuple(a if isinstance(a, Value) else self.const(a) for a in operands)
        if any(not a.width for a in args):
            return self.nothing
        constants = [a.constant for a in args]
        known = [c for c in constants if c is not None]
        if len(known) == len(args):
            value = _compute(op, known)
            rows = [a.width for a in args if a.is_row]
            return self.fill(value, max(rows)) if rows else self.const(value)
        simple = self._simplified(op, args, constants)
        if simple is not None:
            return simple
        # A filled row is a constant to a pointwise operation that another row gives its width.
        widest = max(a.width for a in args if a.constant is None)
        if any(a.is_row and a.constant is None for a in args):
            args = tuple(
                self.const(a.constant)
                if a.is_row and a.constant is not None and a.width <= widest
                else a
                for a in args
            )
        if not any(a.is_row for a in args):
            if self._on_static is not None:
                return self._on_static(op, args)
            first = next(i for i, a in enumerate(args) if a.constant is None)
            args = (*args[:first], self.row_of(args[first]), *args[first + 1 :])
        return self._add(op, *args)

    def _simplified(
        self, op: str, args: tuple[Value, ...], constants: list[float | None]
    ) -> Value | None:
        if op == "neg" and args[0].node.op == "neg":
            return Value(self, args[0].node.args[0])
        if op == "stop" and args[0].node.op in ("stop", "static"):
            return args[0] if args[0].node.op == "stop" else None
        if len(args) != 2:
            return None
        (a, b), (ca, cb) = args, constants
        if op in ("add", "sub") and b.node.op == "neg":
            return self.op("sub" if op == "add" else "add", a, Value(self, b.node.args[0]))
        if op == "add" and a.node.op == "neg":
            return self.op("sub", b, Value(self, a.node.args[0]))
        neutral = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0, "pow": 1.0}.get(op)
        if neutral is None:
            return None
        if cb == neutral and a.width >= b.width:
            return a
        if ca == neutral and op in ("add", "mul") and b.width >= a.width and b.is_row:
            return b
        return None

    def row_of(self, value: Value, width: int | None = None) -> Value:
        """``value`` as a ROW of ``width`` features (its own, if ``None``)."""
        width = value.width if width is None else width
        if value.constant is not None or not width:
            return self.fill(value.constant or 0.0, width)
        if not value.is_row:
            return self._add("add", self.fill(0.0, width), value)
        return self.expand(value, width)

    # ---- features

    def slice(self, a: Value, start: int, stop: int) -> Value:
        """Features ``start`` to ``stop``."""
        if (start, stop) == (0, a.width):
            return a
        node = a.node
        if start == stop:
            return self.nothing
        if node.op == "fill":
            return self.fill(node.attrs["value"], stop - start)
        if node.op == "slice":
            first = node.attrs["start"]
            return self.slice(Value(self, node.args[0]), first + start, first + stop)
        if node.op == "take":
            index = np.asarray(node.attrs["index"][start:stop])
            return self.gather(Value(self, node.args[0]), index)
        if node.op == "expand" and self.graph[node.args[0]].width == 1:
            return self.expand(Value(self, node.args[0]), stop - start)
        if node.op == "cat":
            parts, begin = [], 0
            for number in node.args:
                part = Value(self, number)
                low, high = max(start - begin, 0), min(stop - begin, part.width)
                if low < high:
                    parts.append(self.slice(part, low, high))
                begin += part.width
            return self.cat(parts)
        return self._add("slice", a, start=start, stop=stop)

    def cat(self, parts: Sequence[Value]) -> Value:
        """Features of all parts, one after the other."""
        flat: list[Value] = []
        for part in (p for p in parts if p.width):
            inner = [Value(self, n) for n in part.node.args] if part.node.op == "cat" else [part]
            for piece in inner:
                joined = self._joined(flat[-1], piece) if flat else None
                if joined is None:
                    flat.append(piece)
                else:
                    flat[-1] = joined
        if not flat:
            return self.nothing
        return flat[0] if len(flat) == 1 else self._add("cat", *flat)

    def _joined(self, left: Value, right: Value) -> Value | None:
        """Two neighbours in a ``cat`` as one value, if they are one."""
        a, b = left.node, right.node
        if a.op == b.op == "fill" and str(a.attrs["value"]) == str(b.attrs["value"]):
            return self.fill(a.attrs["value"], a.width + b.width)
        if a.op == b.op == "slice" and a.args == b.args and a.attrs["stop"] == b.attrs["start"]:
            return self.slice(Value(self, a.args[0]), a.attrs["start"], b.attrs["stop"])
        return None

    def expand(self, a: Value, width: int) -> Value:
        """Each feature ``width / a.width`` times."""
        if a.width == width:
            return a
        if a.constant is not None or not width:
            return self.fill(a.constant or 0.0, width)
        if a.node.op == "expand":
            return self.expand(Value(self, a.node.args[0]), width)
        return self._add("expand", a, width=width)

    def gather(self, a: Value, index: np.ndarray[Any, Any], broadcast: bool = False) -> Value:
        """Features ``index`` of ``a``, by the cheapest operation.

        ``broadcast``: a single feature may stand for any number of copies of it.
        """
        index = np.asarray(index, dtype=np.int64).reshape(-1)
        n = len(index)
        if a.constant is not None:
            return self.fill(a.constant, n)
        if not n:
            return self.nothing
        runs = _runs(index)
        if len(runs) == 1:
            return self.slice(a, *runs[0])
        if (index == index[0]).all():
            one = self.slice(a, int(index[0]), int(index[0]) + 1)
            return one if broadcast else self.expand(one, n)
        copies = _copies(index)
        if copies > 1:
            return self.expand(self.gather(a, index[::copies]), n)
        if len(runs) <= _MAX_RUNS:
            return self.cat([self.slice(a, *run) for run in runs])
        if a.node.op == "take":
            index = np.asarray(a.node.attrs["index"], dtype=np.int64)[index]
            a = Value(self, a.node.args[0])
        return self._add("take", a, index=tuple(index.tolist()))

    def put(self, a: Value, index: tuple[int, ...], width: int) -> Value:
        """Feature ``j`` added to feature ``index[j]`` of ``width`` zeros."""
        if width == len(index) == len(set(index)):
            return self.gather(a, np.argsort(np.asarray(index, dtype=np.int64)))
        return self._add("put", a, index=index, width=width)

    def reduce(self, op: str, a: Value, groups: int) -> Value:
        """``sum`` or ``amax`` over each of ``groups`` equal runs."""
        if a.width == groups:
            return a
        if not a.width:
            return self.fill(0.0, groups)
        if op == "amax" and a.constant is not None:
            return self.fill(a.constant, groups)
        return self._add(op, a, groups=groups)

    def cumsum(self, a: Value, groups: int, reverse: bool) -> Value:
        """Running sums along each of ``groups`` equal runs."""
        if not a.width:
            return a
        return self._add("cumsum", a, groups=groups, reverse=reverse)

    def normalise(self, a: Value, groups: int, eps: float) -> Value:
        """Each of ``groups`` equal runs less its mean, over the root of variance and ``eps``."""
        if a.constant is not None:
            return self.fill(0.0 * a.constant, a.width)
        return self._add("normalise", a, self._add("moments", a, groups=groups, eps=eps))

    def normalise_grad(self, g: Value, y: Value, moments: Value) -> Value:
        """The gradient of what was normalised to ``y``, from that of ``y``."""
        return self._add("normalise_grad", g, y, moments)

    # ---- maps

    def linear(self, a: Value, matrix: Value, transposed: bool, groups: int = 1) -> Value:
        """A row times a matrix, see the IR."""
        features = matrix.node.shape[-2 if transposed else -1] * groups
        if not a.width or not features:
            return self.fill(0.0, features)
        return self._add("linear", a, matrix, transposed=transposed, groups=groups)

    def outer_rows(self, a: Value, dz: Value, transposed: bool, groups: int = 1) -> Value:
        """The gradient of ``linear``'s matrix."""
        return self._add("outer_rows", a, dz, transposed=transposed, groups=groups)

    def sum_rows(self, a: Value) -> Value:
        """The sum over all rows."""
        return self._add("sum_rows", a)

    def copy(self, node: Node, args: Sequence[Value]) -> Value:
        """``node`` of another graph with these arguments, simplified."""
        attrs = node.attrs
        match node.op:
            case "const":
                return self.const(attrs["value"])
            case "fill":
                return self.fill(attrs["value"], attrs["width"])
            case "slice":
                return self.slice(args[0], attrs["start"], attrs["stop"])
            case "cat":
                return self.cat(args)
            case "expand":
                return self.expand(args[0], attrs["width"])
            case "take":
                return self.gather(args[0], np.asarray(attrs["index"]))
            case _:
                return self._add(node.op, *args, **attrs)


def prune(nodes: Sequence[Node], roots: Sequence[int]) -> tuple[tuple[Node, ...], dict[int, int]]:
    """The nodes that ``roots`` need, renumbered; the map gives new numbers for old ones."""
    live = set(roots)
    for number in reversed(range(len(nodes))):
        if number in live:
            live.update(nodes[number].args)
    at = {old: new for new, old in enumerate(sorted(live))}
    kept = [replace(nodes[n], args=tuple(at[a] for a in nodes[n].args)) for n in sorted(live)]
    return tuple(kept), at


def _runs(index: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """Maximal runs of adjacent features, as (start, stop)."""
    breaks = np.flatnonzero(np.diff(index) != 1) + 1
    starts = np.concatenate([[0], breaks])
    stops = np.concatenate([breaks, [len(index)]])
    return [(int(index[a]), int(index[b - 1]) + 1) for a, b in zip(starts, stops, strict=True)]


def _copies(index: np.ndarray[Any, Any]) -> int:
    """The largest k such that ``index`` repeats each of its elements k times in a row."""
    changes = np.flatnonzero(np.diff(index)) + 1
    lengths = np.diff(np.concatenate([[0], changes, [len(index)]]))
    return int(np.gcd.reduce(lengths))


def _compute(op: str, args: Sequence[float]) -> float:
    return float(FUNCTIONS[op](*(torch.tensor(a, dtype=torch.float64) for a in args)))
