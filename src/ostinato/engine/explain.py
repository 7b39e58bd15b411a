"""What an engine does with a cell, as an object and as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ostinato import _native
from ostinato.compiler.ir import OPS, Group, Kind, Node, Program
from ostinato.compiler.plan import Needs, StepPlan
from ostinato.compiler.schedule import Affine, Compute, Outer, Phase, Segment
from ostinato.engine.choose import choose
from ostinato.engine.code import compiled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ostinato.engine.step import Step


@dataclass(frozen=True)
class Work:
    """One direction of a plan: its instructions by phase, as text, and what a step costs.

    ``flop`` counts a product's multiplications and additions and one for each pointwise element;
    ``row_bytes`` is what a step reads and writes of rows in memory (input, output, kept values),
    ``weight_bytes`` what it reads of the maps inside the loop. FLOP and ``row_bytes`` are for each
    step of each row, ``weight_bytes`` for each step. ``units``: with few rows threads divide the
    step's values, each of which is runs of so many columns; 0: an operation wants whole rows of
    some value, and it can't be divided so.
    """

    hoisted: tuple[str, ...]
    loop: tuple[str, ...]
    deferred: tuple[str, ...]
    flop: int
    row_bytes: int
    weight_bytes: int
    units: int


@dataclass(frozen=True)
class Report:
    """How a cell runs. ``str(report)`` is the readable form.

    ``recurrence`` is ``"dense"``, ``"block-diagonal"``, ``"elementwise"`` (no product inside the
    loop), ``"affine"`` (elementwise, and the new state is affine in the old, so that a parallel
    scan would be possible) or ``"none"`` (no state enters). ``kept`` maps each value that forward
    keeps for backward to its features; the output itself isn't counted. ``kept_bytes`` are for
    each step of each row, ``kept_bytes_a_call`` once: how those rows lie in memory. Without a
    trace, the plan's fields are ``None`` or empty.
    """

    cell: str
    engine: str
    reason: str
    slow: bool
    dtype: torch.dtype
    device: torch.device
    input_size: int
    state_sizes: tuple[int, ...]
    reverse: bool = False
    isa: str | None = None
    recurrence: str | None = None
    forward: Work | None = None
    backward: Work | None = None
    kept: dict[str, int] = field(default_factory=dict)
    kept_bytes: int = 0
    kept_bytes_a_call: int = 0

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.state_sizes))
        lines = [
            f"{self.cell}: input {self.input_size}, state ({sizes})"
            + (", in reverse" if self.reverse else ""),
            f"engine       {self.engine}" + (" (slow path)" if self.slow else ""),
            f"why          {self.reason}",
            f"arithmetic   {self.dtype} on {self.device}"
            + (f", instruction set {self.isa}" if self.isa else ""),
        ]
        if self.forward is None or self.backward is None:
            return "\n".join(lines)
        lines.append(f"recurrence   {self.recurrence}")
        lines += _work_lines("forward", self.forward)
        kept = ", ".join(f"{name} ({width})" for name, width in self.kept.items())
        lines.append(
            f"kept         {kept or 'nothing'} besides the output: "
            f"{self.kept_bytes} bytes a step and row"
            + (f", {self.kept_bytes_a_call} a call" if self.kept else "")
        )
        lines += _work_lines("backward", self.backward)
        lines.append(f"few rows     {_division(self.forward.units, self.backward.units)}")
        return "\n".join(lines)


def _division(forward: int, backward: int) -> str:
    if forward == backward == 0:
        return "an operation wants whole rows: threads can't divide units"
    if forward == backward:
        return f"threads divide units, of {forward}"
    found = {"forward": forward, "backward": backward}
    return "threads divide units, " + ", ".join(
        f"{name} of {units}" if units else f"{name} they can't" for name, units in found.items()
    )


def _work_lines(name: str, work: Work) -> list[str]:
    lines = [
        f"{name:<12} {work.flop} FLOP and {work.row_bytes} bytes a step and row, "
        f"{work.weight_bytes} bytes of weights a step"
    ]
    for title, instructions in (
        ("hoisted", work.hoisted),
        ("loop", work.loop),
        ("deferred", work.deferred),
    ):
        first = f"  {title:<10} "
        if not instructions:
            lines.append(first + "nothing")
        for text in instructions:
            lines.append(first + text)
            first = " " * 13
    return lines


def explain(
    step: Step,
    input_size: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    engine: str = "auto",
    reverse: bool = False,
) -> Report:
    """Say what :func:`ostinato.engine.recurrence` would do with ``step``, for training.

    Raises:
        InputError: ``engine="native"`` can't run on this device or dtype.
        TraceError: ``engine="native"`` and the cell can't be traced.
    """
    device = torch.device(device)
    choice = choose(step, input_size, dtype, device, engine)
    base = Report(
        cell=type(step.cell).__name__,
        engine=choice.engine,
        reason=choice.reason,
        slow=choice.slow,
        dtype=dtype,
        device=device,
        input_size=input_size,
        state_sizes=step.state_sizes,
        reverse=reverse,
    )
    if choice.trace is None:
        return base
    program = choice.trace.program
    everything = Needs(True, frozenset(range(len(program.statics))))
    code = compiled(program, everything)
    plan = code.plan
    assert plan.backward is not None
    assert code.backward is not None
    size = torch.empty((), dtype=dtype).element_size()
    kept = {_kept_name(program, s.name): s.width for s in plan.kept}
    return Report(
        **{
            **base.__dict__,
            "isa": _native.isa(),
            "recurrence": recurrence_kind(program),
            "forward": _work(plan.forward, program, size, code.forward.units),
            "backward": _work(plan.backward, program, size, code.backward.units),
            "kept": kept,
            "kept_bytes": sum(kept.values()) * size,
            "kept_bytes_a_call": size if kept else 0,
        }
    )


def recurrence_kind(program: Program) -> str:
    """How the new state depends on the old, see :class:`Report`."""
    nodes = program.nodes
    degree: list[int] = []  # in the old state: 0, 1 (affine), 2 (anything else)
    products = set()
    for node in nodes:
        degree.append(_degree(node, [degree[a] for a in node.args]))
    stack = list(program.new_state)
    seen: set[int] = set()
    while stack:
        number = stack.pop()
        if number in seen:
            continue
        seen.add(number)
        node = nodes[number]
        if node.op == "linear" and degree[node.args[0]] > 0:
            products.add(node.attrs["groups"])
        stack.extend(node.args)
    if products:
        return "dense" if 1 in products else "block-diagonal"
    highest = max((degree[n] for n in program.new_state), default=0)
    return ("none", "affine", "elementwise")[highest]


def _degree(node: Node, args: list[int]) -> int:
    if node.op == "state":
        return 1
    if max(args, default=0) == 0:
        return 0
    if node.op in ("add", "sub", "neg", "slice", "cat", "stop", "take", "put", "expand", "linear"):
        return max(args)
    if node.op == "mul" and min(args) == 0:
        return max(args)
    if node.op == "div" and args[1] == 0:
        return args[0]
    if node.op == "where" and args[0] == 0:
        return max(args)
    return 2


def _kept_name(program: Program, stream: str) -> str:
    if stream.startswith("state"):
        return f"state {stream.removeprefix('state')}"
    number = int(stream.removeprefix("keep"))
    node = program.nodes[number]
    return f"%{number} {node.op}" + (f" at {node.where}" if node.where else "")


def _work(plan: StepPlan, program: Program, size: int, units: int) -> Work:
    nodes = plan.schedule.graph.nodes
    texts: dict[Phase, list[str]] = {phase: [] for phase in Phase}
    flop = weights = 0
    for phase in Phase:
        for instruction in plan.schedule.phases[phase]:
            if isinstance(instruction, Segment):
                texts[phase].append(_segment_text(instruction))
                flop += sum(_elements(nodes, compute) for compute in instruction.ops)
                continue
            if isinstance(instruction, Outer):
                a, dz = (nodes[i].width for i in nodes[instruction.node].args)
                groups = nodes[instruction.node].attrs["groups"]
                flop += 2 * a * dz // groups
                texts[phase].append(f"weight gradient {a} x {dz}")
                continue
            for term in instruction.terms:
                matrix = nodes[term.matrix]
                count = 1
                for extent in matrix.shape:
                    count *= extent
                flop += 2 * count
                if phase is Phase.LOOP:
                    weights += count * size
            texts[phase].append(_affine_text(instruction, nodes, program))
    row_bytes = sum(s.width for s in plan.streams) * size
    return Work(
        tuple(texts[Phase.PRE]),
        tuple(texts[Phase.LOOP]),
        tuple(texts[Phase.POST]),
        flop,
        row_bytes,
        weights,
        units,
    )


def _affine_text(affine: Affine, nodes: Sequence[Node], program: Program) -> str:
    parts = []
    for term in affine.terms:
        name = program.statics[nodes[term.matrix].attrs["index"]].name
        width = nodes[affine.root].width
        parts.append(f"{nodes[term.row].width} -> {width} by {name}")
    text = "product " + " + ".join(parts)
    if affine.bias is not None:
        text += f" + {program.statics[nodes[affine.bias].attrs['index']].name}"
    return text if affine.onto is None else text + ", added to the hoisted one"


def _segment_text(segment: Segment) -> str:
    names = [c.op for c in segment.ops]
    counted = {name: names.count(name) for name in dict.fromkeys(names)}
    listed = ", ".join(name if n == 1 else f"{n} {name}" for name, n in counted.items())
    return f"fused {listed}"


def _elements(nodes: Sequence[Node], compute: Compute) -> int:
    node = nodes[compute.node]
    group = OPS[node.op].group
    if group in (Group.REDUCE, Group.ROWS):
        return nodes[node.args[0]].width
    alike = (Group.POINTWISE, Group.SCAN, Group.NORMALISE)
    return node.width if group in alike and node.kind is Kind.ROW else 0
