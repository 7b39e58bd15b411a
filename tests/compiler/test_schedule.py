"""What a schedule promises, for the forward and backward step of every registered cell."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import CELL_CASES, CellCase
from ostinato.cells import LayerNormLSTM
from ostinato.compiler.ir import OPS, Graph, Group, Kind
from ostinato.compiler.plan import Needs, StepPlan, make_plan
from ostinato.compiler.schedule import (
    Affine,
    Outer,
    Phase,
    Segment,
    StepGraph,
    is_view,
    schedule,
)
from ostinato.engine import Step


def plans(case: CellCase) -> list[StepPlan]:
    program = Step(case.make(4, 5)).trace(4, torch.float32).program
    plan = make_plan(program, Needs(True, frozenset(range(len(program.statics)))))
    return [make_plan(program, None).forward, plan.forward, plan.backward]


@pytest.mark.parametrize("case", CELL_CASES, ids=str)
def test_each_value_is_computed_once_and_after_its_arguments(case: CellCase) -> None:
    for plan in plans(case):
        nodes, there = plan.schedule.graph.nodes, set()

        def ready(number: int, nodes=nodes, there=there) -> bool:
            if OPS[nodes[number].op].group is Group.LEAF or number in there:
                return True
            return is_view(nodes, number) and ready(nodes[number].args[0])

        for phase in Phase:
            for instruction in plan.schedule.phases[phase]:
                if isinstance(instruction, Affine):
                    made = [(instruction.root, [t.row for t in instruction.terms])]
                elif isinstance(instruction, Outer):
                    made = [(instruction.node, list(nodes[instruction.node].args))]
                else:
                    made = [(c.node, list(c.args)) for c in instruction.ops]
                for number, args in made:
                    assert number not in there
                    assert all(ready(a) for a in args), (phase, number)
                    there.add(number)
        wanted = [*plan.schedule.graph.carried_out, *plan.schedule.graph.reductions]
        wanted += [number for number, _ in plan.schedule.graph.stores]
        assert all(ready(number) for number in wanted)


@pytest.mark.parametrize("case", CELL_CASES, ids=str)
def test_no_product_of_the_input_and_no_weight_gradient_is_in_the_loop(case: CellCase) -> None:
    _, forward, backward = plans(case)
    nodes = forward.schedule.graph.nodes
    for instruction in forward.schedule.phases[Phase.LOOP]:
        if isinstance(instruction, Affine):
            assert all(nodes[t.row].op != "x" for t in instruction.terms)
    assert not any(isinstance(i, Outer) for i in backward.schedule.phases[Phase.LOOP])


def build() -> tuple[Graph, dict[str, int]]:
    g = Graph()
    names = {"x": g.add("x", width=2), "h": g.add("state", index=0, width=2)}
    for i, name in enumerate("WU"):
        names[name] = g.add("static", index=i, kind=Kind.MATRIX, shape=(2, 2))
    names["b"] = g.add("static", index=2, kind=Kind.VECTOR, shape=(2,))
    return g, names


def test_bias_joins_its_product() -> None:
    g, n = build()
    z = g.add("add", g.add("linear", n["h"], n["U"], transposed=False, groups=1), n["b"])
    out = g.add("tanh", z)
    result = schedule(StepGraph(g.nodes, (n["h"],), (out,), ((out, "y"),)))
    product, segment = result.phases[Phase.LOOP]
    assert isinstance(product, Affine)
    assert (product.root, product.bias) == (z, n["b"])
    assert isinstance(segment, Segment)
    assert [c.op for c in segment.ops] == ["tanh"]


def test_products_of_one_phase_are_added_in_place() -> None:
    g, n = build()
    square = g.add("mul", n["h"], n["h"])
    z = g.add(
        "add",
        g.add("linear", n["h"], n["U"], transposed=False, groups=1),
        g.add("linear", square, n["W"], transposed=False, groups=1),
    )
    result = schedule(StepGraph(g.nodes, (n["h"],), (z,), ()))
    affine = [i for i in result.phases[Phase.LOOP] if isinstance(i, Affine)]
    assert [len(a.terms) for a in affine] == [2]


def test_hoisted_and_looped_products_stay_apart() -> None:
    g, n = build()
    z = g.add(
        "add",
        g.add("linear", n["x"], n["W"], transposed=False, groups=1),
        g.add("linear", n["h"], n["U"], transposed=False, groups=1),
    )
    result = schedule(StepGraph(g.nodes, (n["h"],), (z,), ()))
    assert [type(i) for i in result.phases[Phase.PRE]] == [Affine]
    assert [type(i) for i in result.phases[Phase.LOOP]] == [Affine, Segment]


@pytest.mark.parametrize("swap", [False, True])
def test_gradient_patterns_are_fused(swap: bool) -> None:
    def mul(a: int, b: int) -> int:
        return g.add("mul", *((b, a) if swap else (a, b)))

    g, n = build()
    one = g.const(1.0)
    y = g.add("sigmoid", n["x"])
    sigmoid = mul(mul(n["h"], y), g.add("sub", one, y))
    t = g.add("tanh", n["x"])
    tanh = mul(sigmoid, g.add("sub", one, mul(t, t)))
    relu = g.add("where", g.add("gt", n["x"], g.const(0.0)), tanh, g.const(0.0))
    result = schedule(StepGraph(g.nodes, (n["h"],), (relu,), ()))
    (segment,) = result.phases[Phase.LOOP]
    assert [c.op for c in segment.ops] == [
        "sigmoid", "sigmoid_grad", "tanh", "tanh_grad", "relu_grad",
    ]  # fmt: skip


@pytest.mark.parametrize("shared", [False, True])
def test_gradient_patterns_take_in_a_product(shared: bool) -> None:
    """Unless something else needs it."""
    g, n = build()
    one = g.const(1.0)
    y = g.add("sigmoid", n["x"])
    arriving = g.add("mul", n["h"], n["x"])
    sigmoid = g.add("mul", g.add("mul", arriving, y), g.add("sub", one, y))
    product = g.add("mul", sigmoid, n["h"])
    tanh = g.add("mul", product, g.add("sub", one, g.add("mul", y, y)))
    result = schedule(StepGraph(g.nodes, (n["h"],), (tanh, *[arriving] * shared), ()))
    (segment,) = result.phases[Phase.LOOP]
    first = ["sigmoid", "mul", "sigmoid_grad"] if shared else ["sigmoid", "sigmoid_grad_mul"]
    assert [c.op for c in segment.ops] == [*first, "tanh_grad_mul"]
    assert segment.ops[-1].args == (sigmoid, n["h"], y)


@pytest.mark.parametrize("reader", [None, "sigmoid", "mul"])
def test_what_only_fused_operations_read_is_normalised_by_them(reader: str | None) -> None:
    """Unless another operation needs it."""
    g, n = build()
    a = g.add("tanh", n["h"])
    moments = g.add("moments", a, groups=1, eps=0.1)
    y = g.add("normalise", a, moments)
    affine = g.add("add", g.add("mul", n["b"], y), n["x"])
    gradient = g.add("normalise_grad", g.add("mul", affine, n["b"]), y, moments)
    plain = g.add("normalise_grad", n["x"], y, moments)
    total = g.add("sum_rows", g.add("mul", gradient, y))
    other = {None: [], "sigmoid": ["sigmoid", y], "mul": ["mul", y, y]}[reader]
    more = [g.add(*other)] if other else []
    result = schedule(StepGraph(g.nodes, (n["h"],), (gradient, plain, *more), (), (total,)))
    (segment,) = result.phases[Phase.LOOP]
    ops = {c.op: c.args for c in segment.ops}
    assert ("normalise" in ops) is (reader is not None)
    if reader is None:
        assert ops["normalise_mul_add"] == (a, moments, n["b"], n["x"])
        assert ops["normalise_grad_mul_raw"] == (affine, n["b"], a, moments)
        assert ops["normalise_grad_raw"] == (n["x"], a, moments)
        assert ops["sum_rows_mul_normalise"] == (gradient, a, moments)
    else:
        assert ops["normalise_grad_mul"] == (affine, n["b"], y, moments)


def test_the_product_is_kept_rather_than_what_it_is_normalised_to() -> None:
    program = Step(LayerNormLSTM(4, 24)).trace(4, torch.float32).program
    plan = make_plan(program, Needs(True, frozenset(range(len(program.statics)))))
    kept = {program.nodes[int(s.name[4:])].op for s in plan.kept if s.name.startswith("keep")}
    assert kept == {"linear", "moments", "sigmoid", "tanh"}


class Residual(nn.Module):
    """What is normalised is needed as it was, too."""

    def __init__(self) -> None:
        super().__init__()
        self.state_size = 5
        self.weight = nn.Parameter(torch.eye(5))
        self.gain = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        z = F.linear(state, self.weight)
        h = torch.tanh(F.layer_norm(z, (5,), self.gain)) + x * torch.sigmoid(z)
        return h, h


def test_a_product_with_other_readers_is_kept_only_if_they_need_it() -> None:
    program = Step(Residual()).trace(5, torch.float32).program
    plan = make_plan(program, Needs(True, frozenset(range(len(program.statics)))))
    kept = {program.nodes[int(s.name[4:])].op for s in plan.kept if s.name.startswith("keep")}
    assert "linear" not in kept
    assert "normalise" in kept
