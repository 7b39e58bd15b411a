"""The step program: one time step of a cell as a small list of operations on rows.

A program is in single-assignment form: node number = value number, arguments come before their
users. Four kinds of value exist:

========  ==============  ====================================================================
kind      shape           meaning
========  ==============  ====================================================================
ROW       ``(B, n)``      one row per sequence; ``B`` is never named, operations act on each row
VECTOR    ``(n,)``        the same for all rows: a bias, a peephole weight
MATRIX    ``(k, n)``      a linear map, or ``(g, k, n)``: ``g`` blocks of a block-diagonal map
SCALAR    ``()``          a constant or a scalar parameter
========  ==============  ====================================================================

What is a VECTOR, MATRIX or scalar parameter depends on parameters and buffers alone. It is a leaf
here (``static``); computing it from the parameters is the :class:`Preparation`'s work, done by
PyTorch once a call.

A backward step is a program too (see :mod:`ostinato.compiler.grad`): it has other leaves, and its
reductions over rows (``sum_rows``, ``outer_rows``) are the gradients of statics.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class Kind(enum.Enum):
    """What a value is, see the module's table."""

    ROW = "row"
    VECTOR = "vector"
    MATRIX = "matrix"
    SCALAR = "scalar"


class Group(enum.Enum):
    """Families of operations; each engine and each rule table treats a family alike."""

    LEAF = "leaf"
    POINTWISE = "pointwise"
    REDUCE = "reduce"  # over the features of a row
    SCAN = "scan"  # along the features of a row
    NORMALISE = "normalise"  # a row by its own mean and deviation
    MOVE = "move"  # rearranges the features of a row
    LINEAR = "linear"  # row times matrix
    ROWS = "rows"  # reduces over rows (and, run through time, over steps) to a gradient


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One line of the op table.

    ``arity`` is the number of arguments (``None``: one or more). ``attrs`` names the attributes
    that the node must carry. ``cost`` is the rough price of one element in cycles of a vector
    lane group, used to choose between keeping a value and computing it again.
    """

    group: Group
    arity: int | None
    attrs: tuple[str, ...] = ()
    cost: float = 0.0


def _pointwise(arity: int, cost: float = 1.0) -> OpSpec:
    return OpSpec(Group.POINTWISE, arity, (), cost)


#: Every operation there is. Comparisons and logic give 1.0 for true and 0.0 for false.
OPS: dict[str, OpSpec] = {
    # leaves
    "x": OpSpec(Group.LEAF, 0, ("width",)),  # this step's input row
    "state": OpSpec(Group.LEAF, 0, ("index", "width")),  # the state row that enters the step
    "static": OpSpec(Group.LEAF, 0, ("index", "kind", "shape")),
    "const": OpSpec(Group.LEAF, 0, ("value",)),  # SCALAR, a Python float
    "fill": OpSpec(Group.LEAF, 0, ("value", "width")),  # ROW whose elements are all `value`
    "dy": OpSpec(Group.LEAF, 0, ("width",)),  # backward: gradient of this step's output
    "dstate": OpSpec(Group.LEAF, 0, ("index", "width")),  # backward: of the state that leaves
    "saved": OpSpec(Group.LEAF, 0, ("node", "width")),  # backward: value of a forward ROW node
    # pointwise, one argument
    "neg": _pointwise(1),
    "abs": _pointwise(1),
    "sign": _pointwise(1),  # sign(0) = sign(NaN) = 0, as in torch.sign
    "floor": _pointwise(1),
    "reciprocal": _pointwise(1, 4.0),
    "sqrt": _pointwise(1, 6.0),
    "rsqrt": _pointwise(1, 8.0),
    "exp": _pointwise(1, 10.0),
    "expm1": _pointwise(1, 14.0),
    "log": _pointwise(1, 12.0),
    "log1p": _pointwise(1, 14.0),
    "sin": _pointwise(1, 16.0),
    "cos": _pointwise(1, 16.0),
    "tanh": _pointwise(1, 12.0),
    "sigmoid": _pointwise(1, 12.0),
    "erf": _pointwise(1, 14.0),
    "relu": _pointwise(1),  # max(a, 0), NaN stays NaN
    "stop": _pointwise(1),  # identity; gradients don't pass (detach, no_grad)
    # pointwise, two arguments
    "add": _pointwise(2),
    "sub": _pointwise(2),
    "mul": _pointwise(2),
    "div": _pointwise(2, 4.0),
    "max": _pointwise(2),  # NaN if either is NaN; ties: half the gradient to each, as torch.maximum
    "min": _pointwise(2),
    "pow": _pointwise(2, 60.0),
    "lt": _pointwise(2),
    "le": _pointwise(2),
    "gt": _pointwise(2),
    "ge": _pointwise(2),
    "eq": _pointwise(2),
    "ne": _pointwise(2),
    # pointwise, three arguments
    "where": _pointwise(3),  # args: condition (non-zero is true), a, b
    # reductions over features; attrs groups=g: (B, g*m) -> (B, g)
    "sum": OpSpec(Group.REDUCE, 1, ("groups",), 1.0),
    "amax": OpSpec(Group.REDUCE, 1, ("groups",), 1.0),
    # along features, within each of `groups` equal runs
    "cumsum": OpSpec(Group.SCAN, 1, ("groups", "reverse"), 4.0),
    # by mean and deviation: (B, g*m) -> (B, 2*g), the mean of each of g runs, then each
    # 1 / sqrt(var + eps) of the population variance
    "moments": OpSpec(Group.REDUCE, 1, ("groups", "eps"), 2.0),
    # args a, moments(a): (a - mean) / sqrt(var + eps). Its gradient counts what goes through the
    # moments, which have none of their own
    "normalise": OpSpec(Group.NORMALISE, 2, (), 2.0),
    # backward: args g, y = normalise(a, moments), moments: the gradient of a
    "normalise_grad": OpSpec(Group.NORMALISE, 3, (), 4.0),
    # moves
    "slice": OpSpec(Group.MOVE, 1, ("start", "stop"), 0.0),
    "cat": OpSpec(Group.MOVE, None, (), 0.5),
    "take": OpSpec(Group.MOVE, 1, ("index",), 2.0),  # out[:, j] = a[:, index[j]]
    "put": OpSpec(Group.MOVE, 1, ("index", "width"), 2.0),  # out[:, index[j]] += a[:, j]
    "expand": OpSpec(Group.MOVE, 1, ("width",), 0.5),  # (B, g) -> (B, width): each width/g times
    # row times matrix; W is (K, N), or (N, K) if transposed; groups=g: W is (g, K, N) / (g, N, K)
    # and acts block-diagonally on a row of g*K features
    "linear": OpSpec(Group.LINEAR, 2, ("transposed", "groups"), 0.0),
    # gradients of statics: reductions over all rows (and steps)
    "sum_rows": OpSpec(Group.ROWS, 1, (), 1.0),  # (B, n) -> VECTOR (n,)
    "outer_rows": OpSpec(Group.ROWS, 2, ("transposed", "groups"), 0.0),  # args a, dz -> like W
}


class IRError(AssertionError):
    """A program breaks a rule of the IR: a fault of ours, never of the user's cell."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation.

    ``shape`` leaves the batch out: ``(n,)`` for a ROW or VECTOR of ``n`` features. ``where`` is
    the user's ``file:line`` that gave rise to it, for reports.
    """

    op: str
    args: tuple[int, ...]
    kind: Kind
    shape: tuple[int, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    where: str = ""

    @property
    def width(self) -> int:
        """Number of features of a ROW or VECTOR (a SCALAR counts as one)."""
        return self.shape[0] if self.shape else 1


class Graph:
    """An append-only list of nodes that infers kinds and shapes and refuses illegal ones.

    Equal nodes are merged as they are added, so that the same subexpression has one number.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._numbers: dict[Any, int] = {}

    def add(self, op: str, *args: int, where: str = "", **attrs: Any) -> int:
        """Append ``op(*args)`` and return its number.

        Raises:
            IRError: unknown op, wrong number or kind of arguments, widths that don't fit.
        """
        spec = OPS.get(op)
        if spec is None:
            raise IRError(f"unknown op {op!r}")
        if spec.arity is not None and len(args) != spec.arity:
            raise IRError(f"{op} takes {spec.arity} arguments, got {len(args)}")
        if set(attrs) != set(spec.attrs):
            raise IRError(f"{op} needs attributes {spec.attrs}, got {tuple(attrs)}")
        if any(not 0 <= a < len(self.nodes) for a in args):
            raise IRError(f"{op} refers to a value that does not exist yet: {args}")
        key = (op, args, tuple(sorted((k, _hashable(v)) for k, v in attrs.items())))
        found = self._numbers.get(key)
        if found is not None:
            return found
        kind, shape = _infer(op, spec, [self.nodes[a] for a in args], attrs)
        self.nodes.append(Node(op, args, kind, shape, attrs, where))
        self._numbers[key] = len(self.nodes) - 1
        return len(self.nodes) - 1

    def const(self, value: float) -> int:
        """The SCALAR constant ``value``."""
        return self.add("const", value=float(value))

    def __getitem__(self, number: int) -> Node:
        return self.nodes[number]


def _hashable(value: Any) -> Any:
    # 0.0 and -0.0 are equal but not the same constant.
    return (value, str(value)) if isinstance(value, float) else value


def _infer(
    op: str, spec: OpSpec, args: list[Node], attrs: dict[str, Any]
) -> tuple[Kind, tuple[int, ...]]:
    if spec.group is Group.LEAF:
        if op == "static":
            return attrs["kind"], tuple(attrs["shape"])
        if op == "const":
            return Kind.SCALAR, ()
        return Kind.ROW, (attrs["width"],)
    if spec.group is Group.POINTWISE:
        return _infer_pointwise(op, args)
    row = args[0]
    if any(a.kind is not Kind.ROW for a in args[: 2 if spec.group is Group.ROWS else 1]):
        raise IRError(f"{op} acts on rows, got {[a.kind.value for a in args]}")
    if spec.group in (Group.REDUCE, Group.SCAN):
        groups = attrs["groups"]
        if groups < 1 or row.width % groups:
            raise IRError(f"{op}: {row.width} features don't divide into {groups} groups")
        if spec.group is Group.SCAN:
            return Kind.ROW, row.shape
        return Kind.ROW, (2 * groups if op == "moments" else groups,)
    if spec.group is Group.NORMALISE:
        return Kind.ROW, (_normalised_width(op, args),)
    if spec.group is Group.MOVE:
        return Kind.ROW, (_moved_width(op, args, attrs),)
    if spec.group is Group.LINEAR:
        return Kind.ROW, (linear_sizes(row, args[1], attrs)[1],)
    if op == "sum_rows":
        return Kind.VECTOR, row.shape
    g, k, n = attrs["groups"], row.width, args[1].width
    if k % g or n % g:
        raise IRError(f"outer_rows: {k} x {n} don't divide into {g} groups")
    block = (n // g, k // g) if attrs["transposed"] else (k // g, n // g)
    return Kind.MATRIX, block if g == 1 else (g, *block)


def _infer_pointwise(op: str, args: list[Node]) -> tuple[Kind, tuple[int, ...]]:
    if all(a.kind is not Kind.ROW for a in args):
        raise IRError(f"{op} of statics alone belongs into the preparation")
    width = max(a.width for a in args)
    for a in args:
        if a.kind is Kind.MATRIX or a.width not in (1, width):
            raise IRError(f"{op}: {[(b.kind.value, b.shape) for b in args]} don't broadcast")
    return Kind.ROW, (width,)


def _normalised_width(op: str, args: list[Node]) -> int:
    *wide, moments = args
    if any(a.kind is not Kind.ROW for a in args):
        raise IRError(f"{op} acts on rows, got {[a.kind.value for a in args]}")
    groups, odd = divmod(moments.width, 2)
    if len({a.width for a in wide}) > 1 or odd or not groups or wide[0].width % groups:
        raise IRError(f"{op}: {[a.width for a in wide]} features, {moments.width} moments")
    return wide[0].width


def _moved_width(op: str, args: list[Node], attrs: dict[str, Any]) -> int:
    width = args[0].width
    if op == "cat":
        if any(a.kind is not Kind.ROW for a in args):
            raise IRError("cat acts on rows")
        return sum(a.width for a in args)
    if op == "slice":
        start, stop = attrs["start"], attrs["stop"]
        if not 0 <= start <= stop <= width:
            raise IRError(f"slice {start}:{stop} of {width} features")
        return int(stop - start)
    if op == "expand":
        if not width or attrs["width"] % width:
            raise IRError(f"expand {width} features to {attrs['width']}")
        return int(attrs["width"])
    index, bound = attrs["index"], width if op == "take" else attrs["width"]
    if any(not 0 <= i < bound for i in index):
        raise IRError(f"{op}: index outside 0..{bound - 1}")
    if op == "put" and len(index) != width:
        raise IRError(f"put: {len(index)} indices for {width} features")
    return len(index) if op == "take" else int(attrs["width"])


def linear_sizes(row: Node, matrix: Node, attrs: dict[str, Any]) -> tuple[int, int]:
    """Features in and out of a ``linear`` node."""
    groups = attrs["groups"]
    if matrix.kind is not Kind.MATRIX or len(matrix.shape) != (2 if groups == 1 else 3):
        raise IRError(f"linear: {matrix.kind.value} {matrix.shape} with {groups} groups")
    if groups > 1 and matrix.shape[0] != groups:
        raise IRError(f"linear: {matrix.shape[0]} blocks for {groups} groups")
    k, n = matrix.shape[-2:]
    if attrs["transposed"]:
        k, n = n, k
    if row.width != groups * k:
        raise IRError(f"linear: a row of {row.width} features times a {groups} x {k} x {n} map")
    return groups * k, groups * n


@dataclass(frozen=True)
class StaticSpec:
    """What a ``static`` leaf stands for."""

    name: str  # for reports: "W.weight", "exp(log_decay)"
    kind: Kind
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor that statics are cut from."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a static lies in its source: from the element at ``starts`` on along ``dims``.

    ``dims`` has, for each dimension of the static, that of the source; -1: it has one element.
    """

    source: int
    starts: tuple[int, ...]
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """One forward step: ``(x, state) -> (output, new_state)``.

    ``nodes[output]`` and each ``nodes[k]`` for ``k`` in ``new_state`` are ROWs; ``statics[i]``
    describes the leaf ``static`` with ``index=i``.
    """

    nodes: tuple[Node, ...]
    statics: tuple[StaticSpec, ...]
    input_size: int
    state_sizes: tuple[int, ...]
    output: int
    new_state: tuple[int, ...]
    #: What engines are handed, and where each static lies in it; none: the statics themselves.
    sources: tuple[Source, ...] = ()
    cuts: tuple[Cut, ...] = ()
    #: What engines have made of this program, by their own keys: it lives as long as the program.
    made: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def output_size(self) -> int:
        """Features of the output row."""
        return self.nodes[self.output].width

    def asked(self, wanted: Sequence[bool]) -> frozenset[int]:
        """The statics whose gradients are asked for with those of these sources."""
        sources = [c.source for c in self.cuts] or range(len(self.statics))
        return frozenset(i for i, source in enumerate(sources) if wanted[source])


def print_nodes(nodes: tuple[Node, ...] | list[Node], keep: set[int] | None = None) -> str:
    """Nodes as text, one a line: ``%7 = mul(%3, %5) : row(128)  # cell.py:12``."""
    lines = []
    for number, node in enumerate(nodes):
        if keep is not None and number not in keep:
            continue
        parts = [f"%{a}" for a in node.args]
        for key, value in node.attrs.items():
            if key in ("width", "shape", "kind"):
                continue
            text = f"[{len(value)}]" if isinstance(value, tuple) and len(value) > 8 else str(value)
            parts.append(f"{key}={text}")
        shape = "x".join(map(str, node.shape))
        where = f"  # {node.where}" if node.where else ""
        lines.append(
            f"%{number} = {node.op}({', '.join(parts)}) : {node.kind.value}({shape}){where}"
        )
    return "\n".join(lines)
