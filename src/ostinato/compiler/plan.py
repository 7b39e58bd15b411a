"""A cell's plan: what forward keeps for backward, and the schedules of both.

What backward needs of forward is either *kept* (written to memory at every step) or *computed
again*. Free are: the input, the output (the caller holds it), and the state that enters a step,
once its history is kept at all. A value is computed again if that costs no product and less than
writing and reading it; the costs are those of the op table. Of a product that is only normalised,
the product itself is kept.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ostinato.compiler.grad import Backward, differentiate
from ostinato.compiler.ir import OPS, Graph, Group, Node, Program
from ostinato.compiler.schedule import Schedule, StepGraph, schedule

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Cost of keeping one element, in the op table's unit: a write and a read of memory beyond the
#: second-level cache, 128 bytes a vector of 16, at the 8 bytes a cycle that a core gets.
KEEP_COST = 16.0


@dataclass(frozen=True)
class Stream:
    """One row for each step and sequence. ``kept`` streams belong to the engine.

    Names: ``x``, ``y``, ``dy``, ``dx``; ``state3``: history of state 3 as it leaves each step;
    ``keep7``: forward node 7; ``prev3``: state 3 as it enters each step, which is another stream
    (``source``) one step back.
    """

    name: str
    width: int
    kept: bool = False
    source: str | None = None


@dataclass(frozen=True)
class StepPlan:
    """One direction: the schedule, its streams and which gradient each reduction belongs to.

    ``reads`` names the stream that stands behind a leaf; ``carry`` has the carried values' widths.
    """

    backward: bool
    schedule: Schedule
    streams: tuple[Stream, ...]
    reads: dict[int, str]
    carry: tuple[int, ...]
    dstatics: dict[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    """Which gradients are wanted besides the initial state's."""

    x: bool
    statics: frozenset[int]


@dataclass(frozen=True)
class Plan:
    """Forward, and backward where gradients are wanted."""

    program: Program
    forward: StepPlan
    backward: StepPlan | None

    @property
    def kept(self) -> tuple[Stream, ...]:
        """What forward writes for backward besides the output."""
        return tuple(s for s in self.forward.streams if s.kept)


def make_plan(program: Program, needs: Needs | None) -> Plan:
    """Plan one program; ``needs=None`` plans inference, where nothing is kept."""
    if needs is None:
        return Plan(program, _forward_plan(program, (), ()), None)
    chooser = _Chooser(program, differentiate(program), needs)
    backward = chooser.backward_plan()
    return Plan(program, _forward_plan(program, chooser.kept, chooser.history), backward)


def _forward_plan(program: Program, kept: Iterable[int], history: Iterable[int]) -> StepPlan:
    nodes = program.nodes
    leaves: list[int | None] = [None] * len(program.state_sizes)
    for number, node in enumerate(nodes):
        if node.op == "state":
            leaves[node.attrs["index"]] = number
    streams = [Stream("x", program.input_size), Stream("y", program.output_size)]
    stores = [(program.output, "y")]
    for k in history:
        name = f"state{k}"
        streams.append(Stream(name, program.state_sizes[k], kept=True))
        stores.append((program.new_state[k], name))
    for number in kept:
        name = f"keep{number}"
        streams.append(Stream(name, nodes[number].width, kept=True))
        stores.append((number, name))
    graph = StepGraph(nodes, tuple(leaves), program.new_state, tuple(stores))
    reads = {n: "x" for n, node in enumerate(nodes) if node.op == "x"}
    return StepPlan(False, schedule(graph), tuple(streams), reads, program.state_sizes)


class _Chooser:
    """Decides what is kept and writes the backward step in terms of what is there."""

    def __init__(self, program: Program, gradient: Backward, needs: Needs) -> None:
        self.program = program
        self.forward = program.nodes
        self.gradient = gradient
        self.needs = needs
        self.wanted = {i: n for i, n in gradient.dstatics.items() if i in needs.statics}
        roots = [n for n in gradient.dstate if n is not None]
        roots += [n for numbers in self.wanted.values() for n in numbers]
        if needs.x and gradient.dx is not None:
            roots.append(gradient.dx)
        self.live = _live(gradient.nodes, roots)
        self.history: tuple[int, ...] = ()
        self.kept: tuple[int, ...] = ()
        self.graph = Graph()
        self._copied: dict[int, int] = {}  # forward node -> node here
        self._choose()

    # -- what is kept --------------------------------------------------------------------------

    def _choose(self) -> None:
        needed = set()
        history = set()
        for number in self.live:
            node = self.gradient.nodes[number]
            if node.op == "saved":
                needed.add(node.attrs["node"])
            elif node.op == "state":
                history.add(node.attrs["index"])
        history |= {self.forward[n].attrs["index"] for n in needed if self.forward[n].op == "state"}
        self._history = history
        # Where the output is the new state, the output is its history.
        self._in_output = {k for k in history if self.program.new_state[k] == self.program.output}
        free = {self.program.output} | {self.program.new_state[k] for k in history}
        kept = self._normalised_products(needed)
        there = free | kept  # in the backward step anyway
        for number in sorted(needed):
            if number in free or OPS[self.forward[number].op].group is Group.LEAF:
                continue
            work = self._work_again(number, there)
            if self._cost(work) > KEEP_COST * self.forward[number].width:
                kept.add(number)
                work = {number}
            there |= work
        self._free = free
        self._kept = {n for n in kept if not self._covered(n, kept)}
        self.history = tuple(sorted(history - self._in_output))
        self.kept = tuple(sorted(self._kept))

    def _normalised_products(self, needed: set[int]) -> set[int]:
        """Products that are kept because what is needed is what they become by normalisation.

        A product writes its results into memory while it computes; what is normalised would be
        written by an operation that has nothing else to do but wait for memory.
        """
        users: dict[int, set[int]] = defaultdict(set)
        for number, node in enumerate(self.forward):
            for arg in node.args:
                users[arg].add(number)
        found = {self.forward[n].args[0] for n in needed if self.forward[n].op == "normalise"}
        return {
            n
            for n in found
            if self.forward[n].op == "linear"
            and all(self.forward[u].op in ("moments", "normalise") for u in users[n])
        }

    def _covered(self, number: int, kept: set[int]) -> bool:
        """A slice of a kept value needn't be kept itself."""
        node = self.forward[number]
        return node.op == "slice" and node.args[0] in kept

    def _work_again(self, number: int, there: set[int]) -> set[int]:
        """The forward nodes that computing one again takes, from those that are ``there``."""
        work: set[int] = set()
        stack = [number]
        while stack:
            current = stack.pop()
            if current not in there and current not in work:
                work.add(current)
                stack.extend(self.forward[current].args)
        return work

    def _cost(self, work: set[int]) -> float:
        total = 0.0
        for number in work:
            node = self.forward[number]
            if node.op == "linear" or (
                node.op == "state" and node.attrs["index"] not in self._history
            ):
                return float("inf")
            widths = [self.forward[a].width for a in node.args]
            total += OPS[node.op].cost * max([node.width, *widths])
        return total

    # -- the backward step ---------------------------------------------------------------------

    def backward_plan(self) -> StepPlan:
        here: dict[int, int] = {}
        for number in sorted(self.live):
            here[number] = self._translate(self.gradient.nodes[number], here)
        sizes = self.program.state_sizes
        carried_out = tuple(
            here[n] if n is not None else self.graph.add("fill", value=0.0, width=sizes[k])
            for k, n in enumerate(self.gradient.dstate)
        )
        stores: list[tuple[int, str]] = []
        if self.needs.x:
            dx = self.gradient.dx
            size = self.program.input_size
            stores.append(
                (
                    here[dx] if dx is not None else self.graph.add("fill", value=0.0, width=size),
                    "dx",
                )
            )
        leaves: list[int | None] = [None] * len(sizes)
        for number, node in enumerate(self.graph.nodes):
            if node.op == "dstate":
                leaves[node.attrs["index"]] = number
        dstatics = {i: tuple(here[n] for n in numbers) for i, numbers in self.wanted.items()}
        reductions = tuple(n for numbers in dstatics.values() for n in numbers)
        graph = StepGraph(self.graph.nodes, tuple(leaves), carried_out, tuple(stores), reductions)
        reads = {
            number: name
            for number, node in enumerate(self.graph.nodes)
            if (name := self._stream_behind(node)) is not None
        }
        return StepPlan(True, schedule(graph), self._streams(), reads, sizes, dstatics)

    def _stream_behind(self, node: Node) -> str | None:
        if node.op in ("x", "dy"):
            return node.op
        if node.op == "state":
            return f"prev{node.attrs['index']}"
        if node.op != "saved":
            return None
        number = node.attrs["node"]
        if number == self.program.output:
            return "y"
        for k in self.history:
            if self.program.new_state[k] == number:
                return f"state{k}"
        return f"keep{number}"

    def _streams(self) -> tuple[Stream, ...]:
        sizes = self.program.state_sizes
        streams = [
            Stream("x", self.program.input_size),
            Stream("y", self.program.output_size),
            Stream("dy", self.program.output_size),
        ]
        streams += [Stream(f"state{k}", sizes[k], kept=True) for k in self.history]
        streams += [Stream(f"keep{n}", self.forward[n].width, kept=True) for n in self.kept]
        for k in sorted(self._history):
            source = "y" if k in self._in_output else f"state{k}"
            streams.append(Stream(f"prev{k}", sizes[k], source=source))
        if self.needs.x:
            streams.append(Stream("dx", self.program.input_size))
        return tuple(streams)

    def _translate(self, node: Node, here: dict[int, int]) -> int:
        if node.op == "saved":
            return self._again(node.attrs["node"])
        args = (here[a] for a in node.args)
        return self.graph.add(node.op, *args, where=node.where, **node.attrs)

    def _again(self, number: int) -> int:
        """A forward value in the backward step: read from a stream, or computed again."""
        found = self._copied.get(number)
        if found is None:
            node = self.forward[number]
            if number in self._kept or number in self._free:
                found = self.graph.add("saved", node=number, width=node.width)
            else:
                args = [self._again(a) for a in node.args]
                found = self.graph.add(node.op, *args, where=node.where, **node.attrs)
            self._copied[number] = found
        return found


def _live(nodes: tuple[Node, ...], roots: Iterable[int]) -> set[int]:
    live: set[int] = set()
    stack = list(roots)
    while stack:
        number = stack.pop()
        if number not in live:
            live.add(number)
            stack.extend(nodes[number].args)
    return live
