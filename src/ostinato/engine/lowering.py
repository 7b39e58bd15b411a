"""From a step's plan to the native engine's code: where each value lives, and what runs.

The format is the one that ``native/plan.cpp`` reads, in the same order. A value's place is chosen
once: a stream if it is kept, the carried buffer if it is the new state, a buffer of the chunk if a
later phase needs it, a buffer of the step if another instruction does, and else a buffer of the
tile, which never leaves the first-level cache.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ostinato.compiler.ir import OPS, Group
from ostinato.compiler.schedule import (
    WITH_NORMALISE,
    Affine,
    Compute,
    Outer,
    Phase,
    Segment,
    is_view,
)

if TYPE_CHECKING:
    from ostinato.compiler.plan import StepPlan
    from ostinato.compiler.schedule import Instruction


class Space(enum.IntEnum):
    """Where a value lives; the numbers are ``native/plan.h``'s."""

    STREAM = 0
    CARRY_IN = 1
    CARRY_OUT = 2
    STEP = 3
    CHUNK = 4
    TILE = 5
    VECTOR = 6
    CONST = 7
    SUM = 8


@dataclass(frozen=True)
class Place:
    """An operand: a column offset into one of a space's buffers, or one column for all."""

    space: Space
    id: int
    offset: int = 0
    broadcast: bool = False

    def code(self) -> list[int]:
        """The operand in the engine's code."""
        return [int(self.space), self.id, self.offset, int(self.broadcast)]


@dataclass(frozen=True)
class MapSpec:
    """A static matrix as the engine packs it."""

    static: int
    transposed: bool
    groups: int
    k: int
    n: int


@dataclass(frozen=True)
class Lowered:
    """The engine's code and the order in which a call hands over memory."""

    code: list[int]
    consts: list[float]
    vectors: tuple[int, ...]  # statics
    maps: tuple[MapSpec, ...]
    sums: tuple[int, ...]  # backward nodes
    outers: tuple[int, ...]


_POINTWISE = """
    copy neg abs sign floor reciprocal sqrt rsqrt exp expm1 log log1p sin cos erf relu
    copy_past_cache
    add sub mul div max min pow lt le gt ge eq ne
    where mul_add neg_mul_add sigmoid_grad tanh_grad relu_grad sigmoid_grad_mul tanh_grad_mul
    mix sigmoid tanh sigmoid_add tanh_add sigmoid_mul_add tanh_mul_add mul_sigmoid mul_tanh
    mul_sigmoid_tanh mul_sigmoid_add
"""
_OTHERS = """
    sum amax cumsum cumsum_reverse expand take put moments normalise normalise_grad sum_rows
    sum_rows_mul normalise_mul_add normalise_grad_raw sum_rows_mul_normalise
"""
#: Numbers of the operations: ``native/kernels.h``'s ``Op``, then ``native/plan.h``'s codes.
_CODES = {name: code for code, name in enumerate(_POINTWISE.split())}
_CODES |= {name: 100 + i for i, name in enumerate(_OTHERS.split())}
_GEMM, _SEGMENT, _OUTER = 0, 1, 2
_END_OF_PHASE = 1 << 30


def lower(plan: StepPlan) -> Lowered:
    """Translate one direction of a plan."""
    return _Lowering(plan).run()


class _Lowering:
    def __init__(self, plan: StepPlan) -> None:
        self.plan = plan
        self.nodes = plan.schedule.graph.nodes
        self.graph = plan.schedule.graph
        self.stream_ids = {s.name: i for i, s in enumerate(plan.streams)}
        self.kept = {s.name for s in plan.streams if s.kept}
        self.place: dict[int, Place] = {}
        self.widths: dict[Space, list[int]] = {Space.STEP: [], Space.CHUNK: [], Space.TILE: []}
        self.consts: dict[str, int] = {}
        self.const_values: list[float] = []
        self.vectors: dict[int, int] = {}
        self.maps: dict[MapSpec, int] = {}
        self.sums: dict[int, int] = {}
        self.outers: dict[int, int] = {}
        self.tables: dict[tuple[int, ...], int] = {}
        self.carried = {n: k for k, n in enumerate(self.graph.carried_in) if n is not None}
        self.stores: dict[int, list[str]] = defaultdict(list)
        for number, name in self.graph.stores:
            self.stores[number].append(name)
        self.carry_slots: dict[int, list[int]] = defaultdict(list)
        for slot, number in enumerate(self.graph.carried_out):
            self.carry_slots[number].append(slot)
        self.copies: dict[tuple[Phase, int], list[list[int]]] = defaultdict(list)
        self.deferred_carry: dict[int, Place] = {}

    def run(self) -> Lowered:
        self._find_uses()
        self._place_all()
        phases = [self._phase_code(phase) for phase in Phase]
        code = [int(self.plan.backward), len(self.plan.streams)]
        for stream in self.plan.streams:
            source = -1 if stream.source is None else self.stream_ids[stream.source]
            code += [stream.width, int(stream.kept), source]
        code += _list(list(self.plan.carry))
        for space in (Space.STEP, Space.CHUNK, Space.TILE):
            code += _list(self.widths[space])
        code.append(len(self.maps))
        for spec in self.maps:
            code += [spec.groups, spec.k, spec.n]
        code += _list([self.nodes[n].width for n in self.sums])
        code.append(len(self.outers))
        for number in self.outers:
            node = self.nodes[number]
            groups = node.attrs["groups"]
            k, n = (self.nodes[a].width // groups for a in node.args)
            code += [groups, k, n]
        code.append(len(self.tables))
        for table in self.tables:
            code += _list(list(table))
        for instructions in phases:
            code.append(len(instructions))
            for instruction in instructions:
                code += instruction
        return Lowered(
            code,
            self.const_values,
            tuple(self.vectors),
            tuple(self.maps),
            tuple(self.sums),
            tuple(self.outers),
        )

    # -- uses and places -----------------------------------------------------------------------

    def _base(self, number: int) -> int:
        while is_view(self.nodes, number):
            number = self.nodes[number].args[0]
        return number

    def _find_uses(self) -> None:
        """For each value: where it is read, and whether as a matrix operand (rows in memory)."""
        self.uses: dict[int, set[tuple[Phase, int]]] = defaultdict(set)
        self.as_rows: set[int] = set()
        for phase in Phase:
            for position, instruction in enumerate(self.plan.schedule.phases[phase]):
                if isinstance(instruction, Affine):
                    reads = [t.row for t in instruction.terms]
                    if instruction.onto is not None:
                        reads.append(instruction.onto)
                elif isinstance(instruction, Outer):
                    reads = list(self.nodes[instruction.node].args)
                else:
                    reads = [a for compute in instruction.ops for a in compute.args]
                for number in map(self._base, reads):
                    self.uses[number].add((phase, position))
                    if not isinstance(instruction, Segment):
                        self.as_rows.add(number)
        self.copied: set[int] = set()  # read at the end of its segment, or of its phase
        for number in [*self.stores, *self.carry_slots]:
            base = self._base(number)
            self.copied.add(base)
            where = self.plan.schedule.segment_of.get(base)
            if base != number and where is not None:
                self.uses[base].add((where[0], _END_OF_PHASE))

    def _place_all(self) -> None:
        order = [
            (instruction, phase, position)
            for phase in Phase
            for position, instruction in enumerate(self.plan.schedule.phases[phase])
        ]
        self._place_cats(order)
        for instruction, phase, position in order:
            if isinstance(instruction, Affine):
                if instruction.onto is not None:
                    self.place[instruction.root] = self._operand(instruction.onto, phase)
                self._place_one(instruction.root, phase, position, in_segment=False)
            elif isinstance(instruction, Segment):
                tiles = _Tiles(self.widths[Space.TILE])
                self._place_segment(instruction, phase, position, tiles)
        self._place_copies()

    def _place_cats(self, order: list[tuple[Instruction, Phase, int]]) -> None:
        """Every ``cat`` before its parts, so that they are computed where it wants them."""
        for instruction, phase, position in reversed(order):
            if isinstance(instruction, Segment):
                for compute in reversed(instruction.ops):
                    if compute.op == "cat":
                        self._place_one(compute.node, phase, position)
                        self._place_parts(compute, phase, position)

    def _place_parts(self, cat: Compute, phase: Phase, position: int) -> None:
        whole = self.place[cat.node]
        # Buffers are this step's; a stream's rows may be elsewhere for each segment.
        everywhere = whole.space in (Space.STEP, Space.CHUNK)
        lasts = whole.space in (Space.CHUNK, Space.STREAM)  # until a later phase
        offset = 0
        for part in cat.args:
            node = self.nodes[part]
            made = self.plan.schedule.segment_of.get(part)
            if (
                made is not None
                and made[0] is phase
                and (everywhere or made[1] == position)
                and (lasts or all(use[0] <= phase for use in self.uses.get(part, ())))
                and part not in self.place
                and part not in self.stores
                and part not in self.carry_slots
                and node.op != "sum_rows"
            ):
                self.place[part] = replace(whole, offset=whole.offset + offset)
            offset += node.width

    def _place_segment(self, segment: Segment, phase: Phase, position: int, tiles: _Tiles) -> None:
        last_use: dict[int, int] = {}
        for index, compute in enumerate(segment.ops):
            for arg in map(self._base, compute.args):
                last_use[arg] = index
        ends: dict[int, list[int]] = defaultdict(list)
        for index, compute in enumerate(segment.ops):
            number = compute.node
            if self.nodes[number].op == "sum_rows":
                self.place[number] = Place(Space.SUM, self.sums.setdefault(number, len(self.sums)))
                continue
            if number not in self.place:
                self._place_one(number, phase, position, tiles=tiles)
            if self.place[number].space is Space.TILE and number not in self.copied:
                ends[last_use.get(number, index)].append(number)
            for done in ends.pop(index, []):
                tiles.free(self.place[done].id)

    def _place_one(
        self,
        number: int,
        phase: Phase,
        position: int,
        in_segment: bool = True,
        tiles: _Tiles | None = None,
    ) -> None:
        if number in self.place:
            return
        width = self.nodes[number].width
        names = self.stores.get(number, [])
        kept = [name for name in names if name in self.kept]
        slots = self.carry_slots.get(number, [])
        uses = self.uses.get(number, set())
        in_loop = phase is Phase.LOOP
        later = any(use[0] > phase for use in uses)
        local = in_segment and tiles is not None and number not in self.as_rows
        local = local and all(use == (phase, position) for use in uses)
        if kept:
            place = Place(Space.STREAM, self.stream_ids[kept[0]])
        elif slots and in_loop and not later:
            place = Place(Space.CARRY_OUT, slots[0])
        elif names and not uses and not slots:
            place = Place(Space.STREAM, self.stream_ids[names[0]])
        elif later or (slots and in_loop):
            place = self._buffer(Space.CHUNK, width)
        elif local and (in_loop or not (names or slots)):
            assert tiles is not None
            place = Place(Space.TILE, tiles.take(width))
        else:
            place = self._buffer(Space.STEP if in_loop else Space.CHUNK, width)
        self.place[number] = place

    def _buffer(self, space: Space, width: int) -> Place:
        self.widths[space].append(width)
        return Place(space, len(self.widths[space]) - 1)

    def _place_copies(self) -> None:
        """Values that must also be somewhere else than in their place."""
        for number, names in self.stores.items():
            for name in names:
                target = Place(Space.STREAM, self.stream_ids[name])
                self._copy_to(number, target)
        for number, slots in self.carry_slots.items():
            for slot in slots:
                self._copy_to(number, Place(Space.CARRY_OUT, slot), in_loop=True)
        for leaf, slot in self.carried.items():
            if any(phase is Phase.POST for phase, _ in self.uses.get(leaf, ())):
                width = self.plan.carry[slot]
                place = self._buffer(Space.CHUNK, width)
                self.copies[Phase.LOOP, -1].append(
                    self._copy_code(Place(Space.CARRY_IN, slot), place, width)
                )
                self.deferred_carry[leaf] = place

    def _copy_to(self, number: int, target: Place, in_loop: bool = False) -> None:
        if self.place.get(number) == target:
            return
        where = self.plan.schedule.segment_of.get(self._base(number))
        phase = where[0] if where is not None else Phase.LOOP
        if in_loop and phase is Phase.PRE:
            phase = Phase.LOOP
        if is_view(self.nodes, number) and phase is Phase.PRE:
            phase = Phase.LOOP
        same_segment = (
            where is not None
            and where[0] is phase
            and not is_view(self.nodes, number)
            and isinstance(self.plan.schedule.phases[phase][where[1]], Segment)
        )
        position = where[1] if same_segment and where is not None else -1
        source = self._operand(number, phase)
        self.copies[phase, position].append(
            self._copy_code(source, target, self.nodes[number].width)
        )

    def _copy_code(self, source: Place, target: Place, width: int) -> list[int]:
        return [_CODES["copy"], width, 0, *target.code(), 1, *source.code()]

    # -- operands ------------------------------------------------------------------------------

    def _operand(self, number: int, phase: Phase) -> Place:
        node = self.nodes[number]
        if node.op == "slice":
            inner = self._operand(node.args[0], phase)
            if inner.broadcast or inner.space is Space.CONST:
                return inner
            return replace(inner, offset=inner.offset + node.attrs["start"])
        if node.op == "stop":
            return self._operand(node.args[0], phase)
        if node.op == "expand" and is_view(self.nodes, number):
            return replace(self._operand(node.args[0], phase), broadcast=True)
        if node.op in ("const", "fill"):
            return Place(Space.CONST, self._const(node.attrs["value"]), 0, True)
        if node.op == "static":
            index = self.vectors.setdefault(node.attrs["index"], len(self.vectors))
            return Place(Space.VECTOR, index, 0, node.width == 1)
        if number in self.carried:
            if phase is Phase.POST:
                return self.deferred_carry[number]
            return Place(Space.CARRY_IN, self.carried[number])
        if number in self.plan.reads:
            return Place(Space.STREAM, self.stream_ids[self.plan.reads[number]])
        return self.place[number]

    def _const(self, value: float) -> int:
        key = repr(value)
        if key not in self.consts:
            self.consts[key] = len(self.const_values)
            self.const_values.append(value)
        return self.consts[key]

    def _source(self, number: int, cols: int, phase: Phase) -> list[int]:
        """A segment's operand; a single column serves wider results."""
        place = self._operand(number, phase)
        if cols > 1 and self.nodes[number].width == 1:
            place = replace(place, broadcast=True)
        return place.code()

    # -- code ----------------------------------------------------------------------------------

    def _phase_code(self, phase: Phase) -> list[list[int]]:
        out: list[list[int]] = []
        for position, instruction in enumerate(self.plan.schedule.phases[phase]):
            if isinstance(instruction, Affine):
                out += self._affine_code(instruction, phase)
            elif isinstance(instruction, Outer):
                out += self._outer_code(instruction.node, phase)
            else:
                ops: list[list[int]] = []
                for compute in instruction.ops:
                    ops += self._compute_code(compute, phase)
                ops += self.copies.pop((phase, position), [])
                if ops:
                    out.append(_segment_code(ops))
        rest = self.copies.pop((phase, -1), [])
        if rest:
            out.append(_segment_code(rest))
        return out

    def _affine_code(self, affine: Affine, phase: Phase) -> list[list[int]]:
        out: list[list[int]] = []
        target = self.place[affine.root]
        for i, term in enumerate(affine.terms):
            shape = self.nodes[term.matrix].shape
            k, n = shape[-2:] if not term.transposed else shape[-2:][::-1]
            spec = MapSpec(
                self.nodes[term.matrix].attrs["index"], term.transposed, term.groups, k, n
            )
            index = self.maps.setdefault(spec, len(self.maps))
            row = self._rows_operand(term.row, phase, out)
            bias = -1
            if i == 0 and affine.bias is not None:
                static = self.nodes[affine.bias].attrs["index"]
                bias = self.vectors.setdefault(static, len(self.vectors))
            accumulate = int(i > 0 or affine.onto is not None)
            out.append([_GEMM, index, *row.code(), *target.code(), bias, accumulate])
        return out

    def _outer_code(self, number: int, phase: Phase) -> list[list[int]]:
        out: list[list[int]] = []
        node = self.nodes[number]
        index = self.outers.setdefault(number, len(self.outers))
        a, dz = (self._rows_operand(arg, phase, out) for arg in node.args)
        out.append([_OUTER, index, *a.code(), *dz.code(), -1, 0])
        return out

    def _rows_operand(self, number: int, phase: Phase, out: list[list[int]]) -> Place:
        """An operand whose rows are in memory; a constant or broadcast one is written out."""
        place = self._operand(number, phase)
        if place.broadcast or place.space in (Space.CONST, Space.VECTOR):
            width = self.nodes[number].width
            buffer = self._buffer(Space.STEP if phase is Phase.LOOP else Space.CHUNK, width)
            out.append(_segment_code([self._copy_code(place, buffer, width)]))
            return buffer
        return place

    def _compute_code(self, compute: Compute, phase: Phase) -> list[list[int]]:
        node = self.nodes[compute.node]
        target = self.place[compute.node]
        width = node.width
        if compute.op == "cat":
            return self._cat_code(compute, phase)
        if OPS[node.op].group is Group.POINTWISE and compute.op not in WITH_NORMALISE:
            operands = [v for a in compute.args for v in self._source(a, width, phase)]
            return [[_CODES[compute.op], width, 0, *target.code(), len(compute.args), *operands]]
        sources = [self._operand(a, phase) for a in compute.args]
        arg, attrs = compute.args[0], node.attrs
        name, cols, extra = compute.op, width, 0
        if compute.op in WITH_NORMALISE:
            moments = compute.args[1 if name == "normalise_mul_add" else -1]
            extra = self.nodes[moments].width // 2
            if name == "normalise_grad_raw":  # with a gain of 1
                sources.insert(1, Place(Space.CONST, self._const(1.0), 0, True))
            name = name.replace("grad_mul", "grad")
        elif node.op == "sum_rows":
            pass
        elif name in ("sum", "amax", "moments"):
            cols, extra = self.nodes[arg].width, attrs["groups"]
            if name == "moments":
                sources.append(Place(Space.CONST, self._const(attrs["eps"]), 0, True))
        elif OPS[node.op].group is Group.NORMALISE:
            extra = self.nodes[compute.args[-1]].width // 2
            if name == "normalise_grad":  # with a gain of 1
                sources.insert(1, Place(Space.CONST, self._const(1.0), 0, True))
            name = node.op
        elif name == "cumsum":
            name, extra = "cumsum_reverse" if attrs["reverse"] else name, attrs["groups"]
        elif name == "expand":
            extra = self.nodes[arg].width
        else:
            extra = self.tables.setdefault(tuple(attrs["index"]), len(self.tables))
        codes = [v for source in sources for v in source.code()]
        return [[_CODES[name], cols, extra, *target.code(), len(sources), *codes]]

    def _cat_code(self, compute: Compute, phase: Phase) -> list[list[int]]:
        out = []
        whole = self.place[compute.node]
        offset = 0
        for part in compute.args:
            width = self.nodes[part].width
            target = replace(whole, offset=whole.offset + offset)
            source = self._operand(part, phase)
            if source != target and width > 0:
                out.append(self._copy_code(source, target, width))
            offset += width
        return out


class _Tiles:
    """Tile buffers of one segment, reused as their values die; all segments share them."""

    def __init__(self, widths: list[int]) -> None:
        self.widths = widths
        self.unused = list(range(len(widths)))

    def take(self, width: int) -> int:
        for index in self.unused:
            if self.widths[index] == width:
                self.unused.remove(index)
                return index
        self.widths.append(width)
        return len(self.widths) - 1

    def free(self, index: int) -> None:
        self.unused.append(index)


def _list(values: list[int]) -> list[int]:
    return [len(values), *values]


def _segment_code(ops: list[list[int]]) -> list[int]:
    return [_SEGMENT, len(ops), *(v for op in ops for v in op)]
