"""Algebraic clean-ups of a forward step, before it is differentiated."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ostinato.compiler.builder import Builder, Value, prune
from ostinato.compiler.ir import Kind, Node, Program, StaticSpec
from ostinato.compiler.preparation import Recipe, Slot

if TYPE_CHECKING:
    from collections.abc import Sequence


def simplify(program: Program, recipe: Recipe, slots: Sequence[int]) -> tuple[Program, list[int]]:
    """The same step with fewer and better operations.

    A linear map of ``cat(x, h)`` is divided: the part of x can be computed before the loop::

        %3 = cat(%0, %1)                 %4 = linear(%0, %2[:4])
        %4 = linear(%3, %2)       ->     %5 = linear(%1, %2[4:])
                                         %6 = add(%4, %5)

    Dead nodes and statics go; slices of slices, of cats and the like fold (see
    :class:`~ostinato.compiler.builder.Builder`).

    Args:
        program: the forward step.
        recipe: where parts of statics are cut out, differentiably.
        slots: the recipe's slot for each static.

    Returns:
        The new program and its statics' slots.
    """
    work = _Simplification(program, recipe, slots)
    return work.run()


class _Simplification:
    def __init__(self, program: Program, recipe: Recipe, slots: Sequence[int]) -> None:
        self.program = program
        self.recipe = recipe
        self.slots = list(slots)
        self.statics = list(program.statics)
        # Of the node at hand. In a list, so that the builder needn't hold on to this object.
        self.where = where = [""]
        self.builder = Builder(lambda: where[0])
        self.parts: dict[tuple[int, int, int, int], int] = {}

    def run(self) -> tuple[Program, list[int]]:
        program = self.program
        roots = [program.output, *program.new_state]
        nodes, at = prune(program.nodes, roots)
        timeless = _timeless(nodes)
        values: list[Value] = []
        for node in nodes:
            self.where[0] = node.where
            args = [values[a] for a in node.args]
            if node.op == "linear":
                values.append(self._linear(node, args, nodes, timeless))
            else:
                values.append(self.builder.copy(node, args))
        found = [values[at[n]].number for n in roots]
        return self._finish(found)

    def _linear(
        self, node: Node, args: list[Value], nodes: Sequence[Node], timeless: Sequence[bool]
    ) -> Value:
        row = nodes[node.args[0]]
        transposed = node.attrs["transposed"]
        if row.op != "cat" or node.attrs["groups"] != 1:
            return self.builder.copy(node, args)
        # Neighbours of one sort, of x alone or of the state too, stay together.
        runs: list[list[int]] = []
        for i, number in enumerate(row.args):
            if runs and timeless[row.args[runs[-1][-1]]] == timeless[number]:
                runs[-1].append(i)
            else:
                runs.append([i])
        if len(runs) == 1:
            return self.builder.copy(node, args)
        static = args[1].node.attrs["index"]
        widths = [nodes[n].width for n in row.args]
        total: Value | None = None
        for run in runs:
            start, size = sum(widths[: run[0]]), sum(widths[i] for i in run)
            part = self.builder.slice(args[0], start, start + size)
            term = self.builder.linear(
                part, self._part(static, start, size, transposed), transposed
            )
            total = term if total is None else total + term
        assert total is not None
        return total

    def _part(self, static: int, start: int, size: int, transposed: bool) -> Value:
        spec, dim = self.statics[static], 1 if transposed else 0
        key = (static, dim, start, size)
        shape = (spec.shape[0], size) if transposed else (size, spec.shape[1])
        if key not in self.parts:
            ends = f"{start}:{start + size}"
            name = f"{spec.name}[{':, ' if transposed else ''}{ends}]"
            source = self.slots[static]
            slot = self.recipe.new_slot(self.recipe.storages[source], name)
            self.recipe.add(torch.narrow, (Slot(source), dim, start, size), {}, [slot])
            self.parts[key] = len(self.statics)
            self.statics.append(StaticSpec(name, Kind.MATRIX, shape))
            self.slots.append(slot)
        return self.builder.leaf("static", index=self.parts[key], kind=Kind.MATRIX, shape=shape)

    def _finish(self, roots: Sequence[int]) -> tuple[Program, list[int]]:
        nodes, at = prune(self.builder.graph.nodes, roots)
        used = sorted({n.attrs["index"] for n in nodes if n.op == "static"})
        renumbered = {old: new for new, old in enumerate(used)}
        nodes = tuple(
            replace(n, attrs={**n.attrs, "index": renumbered[n.attrs["index"]]})
            if n.op == "static"
            else n
            for n in nodes
        )
        program = replace(
            self.program,
            nodes=nodes,
            statics=tuple(self.statics[i] for i in used),
            output=at[roots[0]],
            new_state=tuple(at[n] for n in roots[1:]),
        )
        return program, [self.slots[i] for i in used]


def _timeless(nodes: Sequence[Node]) -> list[bool]:
    """Which values don't depend on the state."""
    result: list[bool] = []
    for node in nodes:
        result.append(node.op != "state" and all(result[a] for a in node.args))
    return result
