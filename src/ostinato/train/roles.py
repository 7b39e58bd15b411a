"""What each parameter of a cell does, read off the cell's traced program.

A linear map whose input depends on the state is recurrent; other linear maps are input maps; a
vector that is only ever added is a bias. A map's rows fall into gates where its result is cut. A
gate is a forget gate if it is a sigmoid, multiplies a state on that state's way to its new value,
and does nothing else (a GRU's update gate mixes old and new: it isn't one).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ostinato.compiler.ir import OPS, Group, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ostinato.compiler.ir import Program
    from ostinato.compiler.trace import Trace

    Features = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Places:
    """Elements of one parameter.

    Attributes:
        name: of the parameter in the cell.
        index: int64 positions in the flat parameter; of a map ``(out, in)``, of a bias ``(n,)``.
    """

    name: str
    index: Tensor


@dataclass
class Roles:
    """The roles of a cell's parameters.

    Attributes:
        recurrent, inputs: linear maps, one a gate.
        biases: vectors that are added.
        forget: for each forget gate, the biases that are added in it.
    """

    recurrent: list[Places] = field(default_factory=list)
    inputs: list[Places] = field(default_factory=list)
    biases: list[Places] = field(default_factory=list)
    forget: list[list[Places]] = field(default_factory=list)


def roles_of(
    trace: Trace, parameters: Mapping[str, nn.Parameter], others: Mapping[str, Tensor]
) -> Roles:
    """The roles of ``parameters``.

    What goes into the program through arithmetic (``U - U.T``) rather than as it is, whole or in
    parts, has no role.

    Args:
        trace: of the cell.
        parameters: those of ``trace.preparation.leaves`` that are parameters.
        others: the leaves that aren't.
    """
    return _Reader(trace.program, _statics(trace, parameters, others)).read()


def _statics(
    trace: Trace, parameters: Mapping[str, nn.Parameter], others: Mapping[str, Tensor]
) -> list[Places | None]:
    """Which elements of which parameter each static is made of.

    Every element gets a number, and the preparation is run on the numbers; a second time with the
    numbers shuffled, so that arithmetic can't pass for moving things about.
    """
    ends = np.cumsum([parameters[n].numel() for n in parameters])
    total = int(ends[-1]) if len(ends) else 0
    shuffled = torch.randperm(total, generator=torch.Generator().manual_seed(0)).double() + 1
    plain = torch.arange(1, total + 1, dtype=torch.float64)
    runs = []
    for numbers in (plain, shuffled):
        given = dict(others)
        for (name, parameter), end in zip(parameters.items(), ends.tolist(), strict=True):
            given[name] = numbers[end - parameter.numel() : end].view(parameter.shape)
        with torch.no_grad():
            runs.append(trace.preparation.run([given[n] for n in trace.preparation.leaves]))
    names = list(parameters)
    found: list[Places | None] = []
    for first, second in zip(*runs, strict=True):
        found.append(None)
        values = first.double()
        index = values.long() - 1
        exact = bool((index == values - 1).all() and (index >= 0).all() and (index < total).all())
        if not exact or not index.numel() or not torch.equal(shuffled[index], second.double()):
            continue
        owners = np.unique(np.searchsorted(ends, index.numpy().ravel(), side="right"))
        if len(owners) == 1:
            owner = int(owners[0])
            start = int(ends[owner]) - parameters[names[owner]].numel()
            found[-1] = Places(names[owner], index - start)
    return found


class _Reader:
    def __init__(self, program: Program, statics: list[Places | None]) -> None:
        self.nodes = program.nodes
        self.program = program
        self.statics = statics
        self.users: dict[int, list[int]] = {n: [] for n in range(len(self.nodes))}
        for number, node in enumerate(self.nodes):
            for argument in dict.fromkeys(node.args):
                self.users[argument].append(number)
        self.stateful: list[Features] = []  # which features of each row depend on the state
        for number in range(len(self.nodes)):
            self.stateful.append(self._depends(number))

    def read(self) -> Roles:
        roles = Roles()
        for number, node in enumerate(self.nodes):
            if node.op == "linear":
                self._read_map(number, roles)
            elif node.op == "static" and node.kind is Kind.VECTOR:
                added = all(self.nodes[u].op in ("add", "sub") for u in self.users[number])
                places = self.statics[node.attrs["index"]]
                if added and places is not None:
                    roles.biases.append(places)
        known = {(p.name, i) for p in roles.biases for i in p.index.tolist()}
        for k, new in enumerate(self.program.new_state):
            biases = self._forget_biases(k, new)
            whole = [p for p in biases if all((p.name, i) in known for i in p.index.tolist())]
            if whole:
                roles.forget.append(whole)
        return roles

    # ---- linear maps

    def _read_map(self, number: int, roles: Roles) -> None:
        node = self.nodes[number]
        row, matrix = node.args
        places = self.statics[self.nodes[matrix].attrs["index"]]
        if places is None:
            return
        groups, stateful = node.attrs["groups"], self.stateful[row]
        maps = places.index if groups > 1 else places.index.unsqueeze(0)
        maps = maps if node.attrs["transposed"] else maps.transpose(1, 2)  # (g, out, in)
        _, outputs, inputs = maps.shape
        cuts = self._cuts(number)
        for g, block in enumerate(maps):
            recurrent = torch.from_numpy(stateful[g * inputs : (g + 1) * inputs].copy())
            inner = [c - g * outputs for c in cuts if g * outputs < c < (g + 1) * outputs]
            edges = [0, *inner, outputs]
            for start, stop in pairwise(edges):
                for columns, target in ((recurrent, roles.recurrent), (~recurrent, roles.inputs)):
                    if columns.any():
                        target.append(Places(places.name, block[start:stop][:, columns]))

    def _cuts(self, number: int) -> list[int]:
        """Where a map's result is cut into gates, before or after operations on each feature."""
        cuts: set[int] = set()
        ends = {self.program.output, *self.program.new_state}
        todo, seen = [(number, 0)], set()
        while todo:
            current, offset = todo.pop()
            if (current, offset) in seen or current in ends:
                continue
            seen.add((current, offset))
            for user in self.users[current]:
                node = self.nodes[user]
                if node.op == "slice":
                    cuts |= {offset + node.attrs["start"], offset + node.attrs["stop"]}
                    todo.append((user, offset + node.attrs["start"]))
                elif (
                    OPS[node.op].group in (Group.POINTWISE, Group.NORMALISE)
                    and node.width == self.nodes[current].width
                ):
                    todo.append((user, offset))
        return sorted(cuts)

    def _depends(self, number: int) -> Features:
        node = self.nodes[number]
        width, spec = node.width, OPS[node.op]
        inputs = [self.stateful[a] for a in node.args]
        if not inputs:
            return np.full(width, node.op == "state")
        features: Features
        if spec.group is Group.POINTWISE:
            features = np.logical_or.reduce([np.broadcast_to(d, width) for d in inputs])
        elif node.op == "slice":
            features = inputs[0][node.attrs["start"] : node.attrs["stop"]]
        elif node.op == "cat":
            features = np.concatenate(inputs)
        elif node.op == "take":
            features = np.take(inputs[0], node.attrs["index"])
        elif node.op == "expand":
            features = np.repeat(inputs[0], width // len(inputs[0]))
        else:
            features = np.full(width, bool(inputs[0].any()))
        return features

    # ---- forget gates

    def _forget_biases(self, k: int, new: int) -> list[Places]:
        """The biases in the gate that multiplies state ``k`` on its way to its new value."""
        todo = [new]
        while todo:
            node = self.nodes[todo[-1]]
            number = todo.pop()
            if node.op == "add":
                todo += node.args
            elif node.op == "mul":
                for gate, other in (node.args, node.args[::-1]):
                    state = self.nodes[other]
                    own = state.op == "state" and state.attrs["index"] == k
                    if own and self.users[gate] == [number]:
                        return self._gate_biases(gate)
        return []

    def _gate_biases(self, gate: int) -> list[Places]:
        node, start, width = self.nodes[gate], 0, self.nodes[gate].width
        while node.op == "slice":
            start += node.attrs["start"]
            node = self.nodes[node.args[0]]
        if node.op != "sigmoid":
            return []
        found: list[Places] = []
        todo = [(node.args[0], start)]
        while todo:
            number, start = todo.pop()
            node = self.nodes[number]
            if node.op == "slice":
                todo.append((node.args[0], start + node.attrs["start"]))
            elif node.op == "add":
                todo += [(a, start) for a in node.args if self.nodes[a].width == node.width]
            elif node.op == "static" and node.kind is Kind.VECTOR:
                places = self.statics[node.attrs["index"]]
                if places is not None:
                    found.append(Places(places.name, places.index[start : start + width]))
        return found
