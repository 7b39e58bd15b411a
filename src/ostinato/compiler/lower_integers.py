"""What is known of whole numbers: of masks, counts and what a cell makes of them.

Rows are computed in the cell's own dtype. For a tensor of another one (``mask.int()``, a count)
that is right only as long as both dtypes hold its numbers exactly, so their range must be known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ostinato.compiler.builder import Value
    from ostinato.compiler.ir import Graph, Node


@dataclass(frozen=True, slots=True)
class Range:
    """All elements lie in ``low .. high`` and are, if ``whole``, whole numbers."""

    low: float
    high: float
    whole: bool = True

    @staticmethod
    def of(numbers: Sequence[float], *operands: Range) -> Range:
        """The range of ``numbers``, which are whole if all ``operands`` are."""
        return Range(min(numbers), max(numbers), all(r.whole for r in operands))

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest."""
        return self.low, self.high

    def within(self, low: float, high: float) -> bool:
        """Whether all are whole numbers from ``low`` to ``high``."""
        return self.whole and low <= self.low and self.high <= high


_TRUTH = Range(0.0, 1.0)


def _range(node: Node, args: Sequence[Range | None], run: int) -> Range | None:
    """The range of one node; ``run``: how many elements a sum adds up."""
    match node.op:
        case "lt" | "le" | "gt" | "ge" | "eq" | "ne":
            return _TRUTH
        case "const" | "fill":
            value = node.attrs["value"]
            return Range(value, value, value.is_integer()) if math.isfinite(value) else None
        case "where":
            args = args[1:]
    known = [a for a in args if a is not None]
    if len(known) < len(args) or not known:
        return None
    a, b = known[0], known[-1]
    match node.op:
        case "stop" | "amax" | "slice" | "take" | "expand":
            return a
        case "where" | "cat":
            return Range.of([n for r in known for n in r.ends], *known)
        case "neg":
            return Range(-a.high, -a.low, a.whole)
        case "abs":
            return Range(max(a.low, -a.high, 0.0), max(-a.low, a.high), a.whole)
        case "floor":
            return Range(math.floor(a.low), math.floor(a.high))
        case "add":
            return Range.of([a.low + b.low, a.high + b.high], a, b)
        case "sub":
            return Range.of([a.low - b.high, a.high - b.low], a, b)
        case "mul":
            return Range.of([m * n for m in a.ends for n in b.ends], a, b)
        case "max":
            return Range.of([max(a.low, b.low), max(a.high, b.high)], a, b)
        case "min":
            return Range.of([min(a.low, b.low), min(a.high, b.high)], a, b)
        case "div" if b.low > 0.0 or b.high < 0.0:
            return Range(*Range.of([m / n for m in a.ends for n in b.ends]).ends, whole=False)
        case "sum":
            return Range(a.low * run, a.high * run, a.whole)
        case "cumsum":
            return Range(min(a.low, a.low * run), max(a.high, a.high * run), a.whole)
    return None


#: By graph: the ranges of its nodes, as far as one has asked.
_known: WeakKeyDictionary[Graph, list[Range | None]] = WeakKeyDictionary()


def range_of(value: Value) -> Range | None:
    """What is known of ``value``; ``None``: it may be anything."""
    graph = value.builder.graph
    nodes, known = graph.nodes, _known.setdefault(graph, [])
    for node in nodes[len(known) : value.number + 1]:
        groups = node.attrs.get("groups", 0)
        run = nodes[node.args[0]].width // groups if groups else 1
        known.append(_range(node, [known[a] for a in node.args], run))
    return known[value.number]


def fits(value: Value, dtype: torch.dtype, own: torch.dtype) -> bool:
    """Whether ``value``, which is computed in ``own``, is the same in ``dtype``."""
    found = range_of(value)
    if found is None:
        return False
    limit = 2.0 / torch.finfo(own).eps  # beyond, not every whole number is there
    if dtype.is_floating_point:
        limit = min(limit, 2.0 / torch.finfo(dtype).eps)
        return found.within(-limit, limit)
    info = torch.iinfo(dtype)
    return found.within(max(info.min, -limit), min(info.max, limit))
