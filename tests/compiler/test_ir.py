"""Legality of programs: what the graph infers, merges and refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ostinato.compiler.ir import OPS, Graph, Group, IRError, Kind, print_nodes
from ostinato.compiler.trace import trace


def graph() -> tuple[Graph, dict[str, int]]:
    g = Graph()
    names = {
        "x": g.add("x", width=4),
        "h": g.add("state", index=0, width=6),
        "v": g.add("static", index=0, kind=Kind.VECTOR, shape=(4,)),
        "W": g.add("static", index=1, kind=Kind.MATRIX, shape=(4, 6)),
        "G": g.add("static", index=2, kind=Kind.MATRIX, shape=(2, 3, 5)),
        "s": g.add("static", index=3, kind=Kind.SCALAR, shape=()),
        "one": g.const(1.0),
    }
    names["o"] = g.add("moments", names["x"], groups=1, eps=0.1)
    return g, names


LEGAL = [
    ("neg", "x", {}, (4,)),
    ("add", "xv", {}, (4,)),
    ("add", "xs", {}, (4,)),
    ("sum", "h", {"groups": 3}, (3,)),
    ("cumsum", "h", {"groups": 2, "reverse": True}, (6,)),
    ("moments", "h", {"groups": 3, "eps": 0.1}, (6,)),
    ("normalise", "xo", {}, (4,)),
    ("normalise_grad", "xxo", {}, (4,)),
    ("slice", "h", {"start": 1, "stop": 3}, (2,)),
    ("cat", "xh", {}, (10,)),
    ("take", "x", {"index": (3, 3, 0, 1, 2)}, (5,)),
    ("put", "x", {"index": (3, 3, 0, 1), "width": 9}, (9,)),
    ("expand", "x", {"width": 12}, (12,)),
    ("linear", "xW", {"transposed": False, "groups": 1}, (6,)),
    ("linear", "hW", {"transposed": True, "groups": 1}, (4,)),
    ("linear", "hG", {"transposed": False, "groups": 2}, (10,)),
    ("outer_rows", "xh", {"transposed": False, "groups": 1}, (4, 6)),
    ("outer_rows", "xh", {"transposed": True, "groups": 2}, (2, 3, 2)),
    ("sum_rows", "x", {}, (4,)),
]

ILLEGAL = [
    ("nothing", "x", {}, "unknown op"),
    ("add", "x", {}, "takes 2 arguments"),
    ("neg", "x", {"width": 3}, "needs attributes"),
    ("add", "xh", {}, "don't broadcast"),
    ("add", "xW", {}, "don't broadcast"),
    ("add", "vs", {}, "belongs into the preparation"),
    ("sum", "h", {"groups": 4}, "don't divide"),
    ("sum", "v", {"groups": 1}, "acts on rows"),
    ("normalise", "xh", {}, "4. features, 6 moments"),
    ("normalise", "xv", {}, "acts on rows"),
    ("normalise_grad", "xho", {}, "4, 6. features, 2 moments"),
    ("cat", "xv", {}, "acts on rows"),
    ("slice", "x", {"start": 1, "stop": 5}, "slice 1:5"),
    ("expand", "x", {"width": 6}, "expand 4"),
    ("take", "x", {"index": (4,)}, "outside"),
    ("put", "x", {"index": (0, 1), "width": 4}, "2 indices for 4"),
    ("linear", "hW", {"transposed": False, "groups": 1}, "a row of 6"),
    ("linear", "hG", {"transposed": False, "groups": 3}, "2 blocks for 3"),
    ("linear", "xv", {"transposed": False, "groups": 1}, "vector"),
    ("outer_rows", "xh", {"transposed": False, "groups": 4}, "don't divide"),
    ("sum_rows", "v", {}, "acts on rows"),
]


@pytest.mark.parametrize(("op", "args", "attrs", "shape"), LEGAL)
def test_legal(op, args, attrs, shape):
    g, names = graph()
    node = g[g.add(op, *(names[a] for a in args), **attrs)]
    assert node.shape == shape
    group = OPS[op].group
    assert (node.kind is Kind.ROW) == (group is not Group.ROWS)


@pytest.mark.parametrize(("op", "args", "attrs", "message"), ILLEGAL)
def test_illegal(op, args, attrs, message):
    g, names = graph()
    with pytest.raises(IRError, match=message):
        g.add(op, *(names[a] for a in args), **attrs)


def test_argument_that_does_not_exist():
    with pytest.raises(IRError, match="does not exist"):
        Graph().add("neg", 0)


def test_equal_nodes_are_one():
    g, names = graph()
    first = g.add("mul", names["x"], names["v"])
    assert g.add("mul", names["x"], names["v"]) == first
    assert g.add("mul", names["v"], names["x"]) != first
    assert g.const(0.0) != g.const(-0.0)
    nan = float("nan")
    assert g.const(nan) == g.const(nan)


def test_printed_program():
    program = trace(nn.RNNCell(2, 3, bias=False), 2, 3, torch.float32).program
    lines = print_nodes(program.nodes).splitlines()
    assert lines[0] == "%0 = x() : row(2)"
    assert lines[-1].startswith(f"%{len(lines) - 1} = tanh(")
    assert print_nodes(program.nodes, keep={1}).startswith("%1 = ")
