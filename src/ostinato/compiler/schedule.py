"""From a step's nodes to phases of instructions.

A step, forward or backward, is run through time with some values *carried* from one step to the
next. The schedule divides its nodes into three phases:

- ``PRE`` (hoisted): linear maps that don't depend on a carried value, and what leads to them. They
  run before the loop, on all rows of a chunk of time steps at once.
- ``LOOP``: what a step must do in its turn.
- ``POST`` (deferred): linear maps and weight gradients on which no carried value depends, and what
  follows from them. They run after the loop, on all rows of the chunk at once.

Within a phase, matrix products alternate with *segments*: pointwise work, reductions over features
and moves, which an engine runs fused, tile of rows by tile of rows.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ostinato.compiler.ir import OPS, Group, Kind, Node

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Phase(enum.IntEnum):
    """When a node runs relative to the loop over time."""

    PRE = 0
    LOOP = 1
    POST = 2


@dataclass(frozen=True)
class StepGraph:
    """A step to be scheduled.

    ``carried_in[k]`` is the leaf that stands for carried value ``k`` (``None``: never read),
    ``carried_out[k]`` the node that replaces it. ``stores`` are nodes to be written to a named
    stream at every step; ``reductions`` are ROWS nodes.
    """

    nodes: Sequence[Node]
    carried_in: tuple[int | None, ...]
    carried_out: tuple[int, ...]
    stores: tuple[tuple[int, str], ...]
    reductions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Term:
    """One product of an affine map: ``row @ matrix``."""

    node: int  # the IR node `linear`
    row: int
    matrix: int
    transposed: bool
    groups: int


@dataclass
class Affine:
    """``onto + sum of products + bias``, computed in place, standing for the node ``root``.

    ``onto`` is a hoisted affine map that nothing else reads, or a slice of one: the products are
    added in its memory.
    """

    root: int
    terms: list[Term]
    bias: int | None = None
    onto: int | None = None


@dataclass(frozen=True)
class Compute:
    """One operation of a segment, an IR op or a fused one (see ``FUSED``)."""

    node: int
    op: str
    args: tuple[int, ...]


@dataclass
class Segment:
    """Pointwise work, reductions over features and moves, in order."""

    ops: list[Compute] = field(default_factory=list)


@dataclass(frozen=True)
class Outer:
    """A weight gradient: ``sum over rows of row^T dz``."""

    node: int


Instruction = Affine | Segment | Outer

#: A fused operation (see ``FUSED``), its arguments, and the nodes that become part of it.
Fusion = tuple[str, tuple[int, ...], list[int]]

#: Operations that only engines know: what they are in IR operations.
FUSED = {
    "mul_add": "add(mul(a, b), c)",
    "neg_mul_add": "sub(c, mul(a, b))",
    "sigmoid_grad": "mul(mul(g, y), sub(1, y))",
    "tanh_grad": "mul(g, sub(1, mul(y, y)))",
    "relu_grad": "where(gt(y, 0), g, 0)",
    "sigmoid_grad_mul": "mul(mul(mul(a, b), y), sub(1, y))",
    "tanh_grad_mul": "mul(mul(a, b), sub(1, mul(y, y)))",
    "sigmoid_add": "sigmoid(add(a, b))",
    "tanh_add": "tanh(add(a, b))",
    "sigmoid_mul_add": "sigmoid(add(mul(a, b), c))",
    "tanh_mul_add": "tanh(add(mul(a, b), c))",
    "mul_sigmoid": "mul(a, sigmoid(b))",
    "mul_tanh": "mul(a, tanh(b))",
    "mul_sigmoid_tanh": "mul(sigmoid(a), tanh(b))",
    "mul_sigmoid_add": "add(mul(a, sigmoid(b)), c)",
    "mix": "add(mul(sub(1, a), b), mul(a, c))",
    "sum_rows_mul": "sum_rows(mul(a, b))",
    "normalise_grad_mul": "normalise_grad(mul(a, b), y, moments)",
    "normalise_mul_add": "add(mul(normalise(a, moments), b), c)",
    "normalise_grad_raw": "normalise_grad(g, normalise(a, moments), moments)",
    "normalise_grad_mul_raw": "normalise_grad(mul(a, b), normalise(c, moments), moments)",
    "sum_rows_mul_normalise": "sum_rows(mul(a, normalise(b, moments)))",
}

#: Those that normalise what they read, for each element as it is read.
WITH_NORMALISE = frozenset(name for name, meaning in FUSED.items() if "normalise(" in meaning)


@dataclass(frozen=True)
class Schedule:
    """The phases of a step; ``absorbed`` nodes are part of another instruction."""

    graph: StepGraph
    phase: dict[int, Phase]
    phases: tuple[tuple[Instruction, ...], ...]
    segment_of: dict[int, tuple[Phase, int]]  # node -> (phase, position of its instruction)


def schedule(graph: StepGraph) -> Schedule:
    """Divide ``graph`` into phases and instructions.

    Before: any legal graph. After: every live node is computed by exactly one instruction of one
    phase (or is a leaf, or a view of another node: ``slice``, ``stop``), after its arguments.
    """
    return _Scheduler(graph).run()


def is_view(nodes: Sequence[Node], number: int) -> bool:
    """Whether a node needs no work: its value is part of, or all of, its argument's memory."""
    node = nodes[number]
    return node.op in ("slice", "stop") or (node.op == "expand" and nodes[node.args[0]].width == 1)


class _Scheduler:
    def __init__(self, graph: StepGraph) -> None:
        self.graph = graph
        self.nodes = graph.nodes
        roots = [*graph.carried_out, *(n for n, _ in graph.stores), *graph.reductions]
        self.live = _ancestors(self.nodes, roots)
        self.order = sorted(self.live)
        self.users: dict[int, list[int]] = defaultdict(list)
        for number in self.order:
            for arg in self.nodes[number].args:
                self.users[arg].append(number)
        self.roots = set(roots)
        self.fused: dict[int, Compute] = {}
        self.absorbed: set[int] = set()

    def run(self) -> Schedule:
        self.affines: dict[int, Affine] = {}
        self._collect_affines()
        self._assign_phases()
        self._join_affines()
        self._add_onto_hoisted()
        self._fuse_pointwise()
        self._fold_normalise()
        segment_of: dict[int, tuple[Phase, int]] = {}
        phases = []
        for phase in Phase:
            instructions = self._instructions(phase)
            for position, instruction in enumerate(instructions):
                if isinstance(instruction, Segment):
                    for compute in instruction.ops:
                        segment_of[compute.node] = (phase, position)
                elif isinstance(instruction, Affine):
                    segment_of[instruction.root] = (phase, position)
                else:
                    segment_of[instruction.node] = (phase, position)
            phases.append(tuple(instructions))
        return Schedule(self.graph, self.phase, tuple(phases), segment_of)

    def _single_use(self, number: int) -> bool:
        return len(self.users[number]) == 1 and number not in self.roots

    # -- affine maps ---------------------------------------------------------------------------

    def _collect_affines(self) -> None:
        """Each `linear` becomes an affine map; an added bias that nothing else needs joins it."""
        for number in self.order:
            node = self.nodes[number]
            if node.op == "linear":
                row, matrix = node.args
                term = Term(number, row, matrix, node.attrs["transposed"], node.attrs["groups"])
                self.affines[number] = Affine(number, [term])
            elif node.op == "add":
                for inner, bias in (node.args, node.args[::-1]):
                    affine = self.affines.get(inner)
                    if (
                        affine is not None
                        and affine.bias is None
                        and self._single_use(inner)
                        and self.nodes[bias].op == "static"
                        and self.nodes[bias].width == node.width
                    ):
                        self._replace_root([inner], number, affine.terms, bias)
                        break

    def _join_affines(self) -> None:
        """``add`` of two affine maps of the same phase becomes one map that accumulates."""
        for number in self.order:
            node = self.nodes[number]
            if node.op != "add" or number in self.affines:
                continue
            left, right = (self.affines.get(a) for a in node.args)
            if left is None or right is None or left is right:
                continue
            same = self.phase[left.root] == self.phase[right.root] == self.phase[number]
            if (
                same
                and self._single_use(left.root)
                and self._single_use(right.root)
                and (left.bias is None or right.bias is None)
            ):
                bias = left.bias if left.bias is not None else right.bias
                terms = left.terms + right.terms
                self._replace_root([left.root, right.root], number, terms, bias)

    def _add_onto_hoisted(self) -> None:
        """``hoisted + product``, where nothing else needs either, is summed by the product itself.

        Before, for an LSTM: ``%6 = x @ W + b`` hoisted; in the loop ``%10 = h @ R + b`` and
        ``%11 = add(%6, %10)``. After: ``%11 = %6 + h @ R + b``. Of a hoisted map whose slices are
        needed apart, as a GRU's are, a product is added to one slice.
        """
        for number in self.order:
            node = self.nodes[number]
            if node.op != "add" or number in self.affines or number in self.roots:
                continue
            for hoisted, product in (node.args, node.args[::-1]):
                affine = self.affines.get(product)
                if affine is None or affine.onto is not None or not self._is_apart(hoisted):
                    continue
                if (
                    self.phase[product] is self.phase[number] is Phase.LOOP
                    and self.nodes[hoisted].width == self.nodes[product].width
                    and self._single_use(product)
                ):
                    self._replace_root([product], number, affine.terms, affine.bias)
                    self.affines[number].onto = hoisted
                    break

    def _is_apart(self, number: int) -> bool:
        """Whether this is a hoisted map, or a slice of one, whose elements have a single use."""
        node = self.nodes[number]
        base = node.args[0] if node.op == "slice" else number
        if base not in self.affines or self.phase[base] is not Phase.PRE:
            return False
        if base == number or not self._single_use(number):
            return self._single_use(number)
        start, stop = node.attrs["start"], node.attrs["stop"]
        others = [self.nodes[n] for n in self.users[base] if n != number]
        return base not in self.roots and all(
            n.op == "slice" and (n.attrs["stop"] <= start or n.attrs["start"] >= stop)
            for n in others
        )

    def _replace_root(
        self, inner: list[int], root: int, terms: list[Term], bias: int | None
    ) -> None:
        for number in inner:
            del self.affines[number]
            self.absorbed.add(number)
        self.affines[root] = Affine(root, terms, bias)

    # -- phases --------------------------------------------------------------------------------

    def _assign_phases(self) -> None:
        nodes = self.nodes
        carried = {n for n in self.graph.carried_in if n is not None}
        depends: set[int] = set()
        for number in self.order:
            if number in carried or any(a in depends for a in nodes[number].args):
                depends.add(number)
        products = [t.node for a in self.affines.values() for t in a.terms]
        hoisted = _ancestors(nodes, [n for n in products if n not in depends])
        # A bias joins its product, whichever phase that is in.
        hoisted |= {r for r, a in self.affines.items() if a.terms[0].node in hoisted}
        core = _ancestors(nodes, self.graph.carried_out)
        self.phase = {}
        for number in self.order:
            node = nodes[number]
            if OPS[node.op].group is Group.LEAF:
                continue
            if number in hoisted:
                self.phase[number] = Phase.PRE
            elif number not in core and (
                node.op in ("linear", "outer_rows")
                or any(self.phase.get(a) is Phase.POST for a in node.args)
            ):
                self.phase[number] = Phase.POST
            else:
                self.phase[number] = Phase.LOOP

    # -- fusion of pointwise pairs -------------------------------------------------------------

    def _fuse_pointwise(self) -> None:
        for number in reversed(self.order):
            if number in self.absorbed or number in self.affines:
                continue
            found = self._match(number)
            if found is None:
                continue
            op, args, inner = found
            if all(self.phase.get(i) == self.phase[number] for i in inner):
                self.fused[number] = Compute(number, op, args)
                self.absorbed.update(inner)

    def _fold_normalise(self) -> None:
        """What only other operations of the phase read that can normalise on their own is left out.

        Two operations an element each time cost less than to write the result and read it again.
        """
        readers: dict[int, list[int]] = defaultdict(list)
        for number in self.order:
            if number in self.phase and number not in self.absorbed:
                for arg in set(self._inputs(number)):
                    readers[arg].append(number)
        for number in self.order:
            if self.nodes[number].op != "normalise" or number in self.roots:
                continue
            found = {r: self._with_normalise(r, number) for r in readers[number]}
            if all(found.values()):
                self.fused.update({r: c for r, c in found.items() if c is not None})
                self.absorbed.add(number)

    def _with_normalise(self, reader: int, number: int) -> Compute | None:
        """The operation ``reader`` if it normalises on its own what ``number`` is for it now."""
        if self.phase[reader] is not self.phase[number] or reader in self.affines:
            return None
        compute, width = self._compute(reader), self.nodes[number].width
        a, moments = self.nodes[number].args
        others = [n for n in compute.args if n != number]
        if len(others) != len(compute.args) - 1 or self.nodes[reader].width != width:
            return None
        if compute.op == "mul_add" and compute.args[2] != number:
            if all(self.nodes[n].width == width for n in others):
                return Compute(reader, "normalise_mul_add", (a, moments, *others))
        elif compute.op == "sum_rows_mul":
            return Compute(reader, "sum_rows_mul_normalise", (*others, a, moments))
        elif compute.op.startswith("normalise_grad") and compute.args[-2:] == (number, moments):
            return Compute(reader, f"{compute.op}_raw", (*others[:-1], a, moments))
        return None

    def _match(self, number: int) -> Fusion | None:
        node = self.nodes[number]
        if node.op == "add":
            mix = self._match_mix(number)
            if mix is not None:
                return mix
            for product, other in (node.args, node.args[::-1]):
                if self._is_product(product, node.width):
                    gated = self._match_gate(product, "sigmoid")
                    if gated is not None:
                        a, b, gate = gated
                        return "mul_sigmoid_add", (a, b, other), [product, gate]
                    return "mul_add", (*self.nodes[product].args, other), [product]
        elif node.op == "sub" and self._is_product(node.args[1], node.width):
            return "neg_mul_add", (*self.nodes[node.args[1]].args, node.args[0]), [node.args[1]]
        elif node.op == "mul":
            gradient = self._match_activation_gradient(node)
            if gradient is None:
                return self._match_gated(number)
            return self._with_product(number, gradient)
        elif node.op == "where":
            return self._match_relu_gradient(node)
        elif node.op in ("sigmoid", "tanh"):
            return self._match_activation_of_sum(number)
        elif node.op in ("sum_rows", "normalise_grad"):
            product, *rest = node.args
            factors = self.nodes[product].args
            alike = all(self.nodes[f].width == node.width for f in factors)
            if self._is_product(product, node.width) and alike:
                return f"{node.op}_mul", (*factors, *rest), [product]
        return None

    def _match_mix(self, number: int) -> Fusion | None:
        """``(1 - a) * b + a * c``, as a gate mixes an old and a new value."""
        node, nodes = self.nodes[number], self.nodes
        if not all(self._is_product(arg, node.width) for arg in node.args):
            return None
        for left, right in (node.args, node.args[::-1]):
            for rest, b in (nodes[left].args, nodes[left].args[::-1]):
                gates = nodes[right].args
                if nodes[rest].op != "sub" or not self._is_const(nodes[rest].args[0], 1.0):
                    continue
                a = nodes[rest].args[1]
                if a not in gates or nodes[rest].width != nodes[a].width:
                    continue
                c = gates[1] if gates[0] == a else gates[0]
                inner = [left, right, *([rest] if self._single_use(rest) else [])]
                if all(self.phase.get(i) is self.phase[number] for i in inner):
                    return "mix", (a, b, c), inner
        return None

    def _match_gated(self, number: int) -> Fusion | None:
        """A product with sigmoids or tanhs that nothing else needs."""
        tanh = self._match_gate(number, "tanh")
        sigmoid = self._match_gate(number, "sigmoid")
        if tanh is not None and sigmoid is not None:
            return "mul_sigmoid_tanh", (sigmoid[1], tanh[1]), [sigmoid[2], tanh[2]]
        for op, found in (("mul_tanh", tanh), ("mul_sigmoid", sigmoid)):
            if found is not None:
                a, b, gate = found
                return op, (a, b), [gate]
        return None

    def _match_gate(self, product: int, op: str) -> tuple[int, int, int] | None:
        """Of a product with a gate, ``a * op(b)``: a, b and the gate.

        Not where the gate's argument is a sum that becomes part of the gate.
        """
        node = self.nodes[product]
        for a, gate in (node.args, node.args[::-1]):
            if (
                self.nodes[gate].op == op
                and self.nodes[gate].width == node.width
                and self._single_use(gate)
                and self.phase[gate] is self.phase[product]
                and self._match_activation_of_sum(gate) is None
            ):
                return a, self.nodes[gate].args[0], gate
        return None

    def _match_activation_of_sum(self, number: int) -> Fusion | None:
        """A gate's function of a sum that nothing else needs."""
        node, (total,) = self.nodes[number], self.nodes[number].args
        fusable = (
            self.nodes[total].op == "add"
            and self._single_use(total)
            and total not in self.absorbed
            and total not in self.affines
            and self.phase[total] is self.phase[number]
        )
        if not fusable:
            return None
        found = self._match(total)
        if found is None or any(self.phase.get(i) is not self.phase[number] for i in found[2]):
            return f"{node.op}_add", self.nodes[total].args, [total]
        op, args, inner = found
        # What normalises is folded into mul_add, not into this.
        if op != "mul_add" or any(self.nodes[a].op == "normalise" for a in args):
            return None
        return f"{node.op}_mul_add", args, [total, *inner]

    def _is_product(self, number: int, width: int) -> bool:
        node = self.nodes[number]
        return (
            node.op == "mul"
            and node.width == width
            and self._single_use(number)
            and number not in self.absorbed
            and self._match_activation_gradient(node) is None
        )

    def _match_activation_gradient(self, node: Node) -> Fusion | None:
        """Fusion of the sigmoid's and tanh's gradients; ``1 - y`` may serve others as well."""
        nodes = self.nodes
        for left, right in (node.args, node.args[::-1]):
            factor = nodes[right]
            if factor.op != "sub" or not self._is_const(factor.args[0], 1.0):
                continue
            y = factor.args[1]
            square = nodes[y]
            if nodes[left].width != node.width or nodes[right].width != node.width:
                continue
            if (
                square.op == "mul"
                and square.args[0] == square.args[1]
                and self._single_use(y)
                and self._single_use(right)
            ):
                return "tanh_grad", (left, square.args[0]), [right, y]
            product = nodes[left]
            if product.op == "mul" and y in product.args and self._single_use(left):
                g = product.args[1] if product.args[0] == y else product.args[0]
                inner = [left, right] if self._single_use(right) else [left]
                return "sigmoid_grad", (g, y), inner
        return None

    def _with_product(self, number: int, gradient: Fusion) -> Fusion:
        """The gradient times what arrives, if that is a product that nothing else needs."""
        op, (g, y), inner = gradient
        if not self._is_product(g, self.nodes[number].width):
            return gradient
        if self.phase[g] is not self.phase[number]:
            return gradient
        return f"{op}_mul", (*self.nodes[g].args, y), [*inner, g]

    def _match_relu_gradient(self, node: Node) -> Fusion | None:
        condition, g, zero = node.args
        test = self.nodes[condition]
        if test.op == "gt" and self._is_const(test.args[1], 0.0) and self._is_const(zero, 0.0):
            inner = [condition] if self._single_use(condition) else []
            return "relu_grad", (g, test.args[0]), inner
        return None

    def _is_const(self, number: int, value: float) -> bool:
        node = self.nodes[number]
        return node.op in ("const", "fill") and node.attrs["value"] == value

    # -- instructions --------------------------------------------------------------------------

    def _instructions(self, phase: Phase) -> list[Instruction]:
        """Products by level (how many products lead to them), segments between, as late as can be.

        Late, so that a value lives in one segment wherever it can and never leaves the cache.
        """
        mine = [n for n in self.order if self.phase.get(n) is phase and n not in self.absorbed]
        level: dict[int, int] = {}
        for number in mine:
            arrive = [level.get(a, 0) for a in self._inputs(number)]
            level[number] = max(arrive, default=0) + (1 if self._is_product_node(number) else 0)
        top = max(level.values(), default=0)
        late: dict[int, int] = {}
        mine_set = set(mine)
        consumers: dict[int, list[int]] = defaultdict(list)
        for number in mine:
            for arg in self._inputs(number):
                if arg in mine_set:
                    consumers[arg].append(number)
        for number in reversed(mine):
            if self._is_product_node(number):
                late[number] = level[number]
                continue
            bounds = [
                late[c] - 1 if self._is_product_node(c) else late[c] for c in consumers[number]
            ]
            late[number] = min(bounds, default=top)
        instructions: list[Instruction] = []
        for current in range(top + 1):
            at_level = [n for n in mine if late[n] == current and not is_view(self.nodes, n)]
            for number in at_level:
                if number in self.affines:
                    instructions.append(self.affines[number])
                elif self.nodes[number].op == "outer_rows":
                    instructions.append(Outer(number))
            ops = [self._compute(n) for n in at_level if not self._is_product_node(n)]
            if ops:
                instructions.append(Segment(ops))
        return instructions

    def _is_product_node(self, number: int) -> bool:
        return number in self.affines or self.nodes[number].op == "outer_rows"

    def _inputs(self, number: int) -> tuple[int, ...]:
        affine = self.affines.get(number)
        if affine is not None:
            return tuple(t.row for t in affine.terms)
        return self._compute(number).args

    def _compute(self, number: int) -> Compute:
        fused = self.fused.get(number)
        return fused or Compute(number, self.nodes[number].op, self.nodes[number].args)


def _ancestors(nodes: Sequence[Node], roots: Iterable[int]) -> set[int]:
    seen: set[int] = set()
    stack = list(roots)
    while stack:
        number = stack.pop()
        if number not in seen:
            seen.add(number)
            stack.extend(nodes[number].args)
    return seen


def rows_only(nodes: Sequence[Node], numbers: Iterable[int]) -> list[int]:
    """Those of ``numbers`` that are ROWs."""
    return [n for n in numbers if nodes[n].kind is Kind.ROW]
