"""The printed plan of each built-in cell is kept: a refactor shows no difference.

After a change that is meant, look at the difference that

    python -m pytest tests/compiler/test_golden_plans.py --renew && git diff tests/golden

leaves behind.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from helpers import CELL_CASES, CellCase
from ostinato.compiler.ir import Node, Program, print_nodes
from ostinato.compiler.plan import Needs, StepPlan, make_plan
from ostinato.compiler.schedule import Affine, Instruction, Outer, Phase, Segment
from ostinato.engine.explain import recurrence_kind
from ostinato.engine.step import Step

GOLDEN = Path(__file__).parents[1] / "golden"
INPUT, HIDDEN = 3, 4
BUILT_IN = [c for c in CELL_CASES if type(c.make(1, 1)).__module__.startswith("ostinato.")]
TITLES = {Phase.PRE: "hoisted", Phase.LOOP: "loop", Phase.POST: "deferred"}


def instruction_lines(instruction: Instruction) -> list[str]:
    if isinstance(instruction, Segment):
        return [
            f"%{c.node} = {c.op}({', '.join(f'%{a}' for a in c.args)})" for c in instruction.ops
        ]
    if isinstance(instruction, Outer):
        return [f"%{instruction.node} = weight gradient"]
    assert isinstance(instruction, Affine)
    terms = " + ".join(f"%{t.row} @ %{t.matrix}" for t in instruction.terms)
    if instruction.onto is not None:
        terms = f"%{instruction.onto} + {terms}"
    bias = "" if instruction.bias is None else f" + %{instruction.bias}"
    return [f"%{instruction.root} = {terms}{bias}"]


def nodes_text(nodes: tuple[Node, ...] | list[Node]) -> str:
    """Without the lines of the source, which move with every comment."""
    return print_nodes([dataclasses.replace(node, where="") for node in nodes])


def plan_text(plan: StepPlan) -> str:
    lines = []
    for phase, title in TITLES.items():
        lines.append(f"{title}:")
        for number, instruction in enumerate(plan.schedule.phases[phase]):
            lines += [f"  {number}  {line}" for line in instruction_lines(instruction)]
    streams = ", ".join(f"{s.name} ({s.width})" for s in plan.streams)
    return "\n".join([*lines, f"streams: {streams}"])


def golden_text(program: Program) -> str:
    plan = make_plan(program, Needs(True, frozenset(range(len(program.statics)))))
    statics = ", ".join(f"{i} {s.name}" for i, s in enumerate(program.statics))
    states = ", ".join(f"%{n}" for n in program.new_state)
    kept = ", ".join(f"{s.name} ({s.width})" for s in plan.kept) or "nothing"
    assert plan.backward is not None
    gradients = ", ".join(
        f"{i} {' + '.join(f'%{n}' for n in numbers)}"
        for i, numbers in plan.backward.dstatics.items()
    )
    return "\n".join(
        [
            f"input {INPUT}, hidden {HIDDEN}, recurrence {recurrence_kind(program)}",
            f"statics: {statics}",
            "",
            "== the step",
            nodes_text(program.nodes),
            f"output %{program.output}, new state {states}",
            "",
            "== forward",
            plan_text(plan.forward),
            f"kept: {kept}",
            "",
            "== the backward step",
            nodes_text(plan.backward.schedule.graph.nodes),
            f"gradients of statics: {gradients}",
            "",
            "== backward",
            plan_text(plan.backward),
            "",
        ]
    )


@pytest.mark.parametrize("case", BUILT_IN, ids=str)
def test_the_plan_is_the_one_that_is_kept(case: CellCase, renew: bool) -> None:
    cell = case.make(INPUT, HIDDEN)
    text = golden_text(Step(cell).trace(INPUT, torch.float32).program)
    path = GOLDEN / f"{case.name}.txt"
    if renew:
        path.write_text(text)
    assert text.splitlines() == path.read_text().splitlines(), "see --renew"


def test_nothing_else_is_kept() -> None:
    assert {p.name for p in GOLDEN.iterdir()} == {f"{case.name}.txt" for case in BUILT_IN}
