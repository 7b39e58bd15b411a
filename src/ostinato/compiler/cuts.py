"""Statics that lie in other tensors: halves of a weight, one of stacked matrices.

A cell that maps ``cat(x, h)`` by one weight has two statics, the columns for x and those for h. As
views made by PyTorch they would cost two operations a call, and backward a padded copy of each
gradient and a sum. So the engine is handed what such statics are cut from, their *source*, and
where each lies; it gives the source's gradient as a whole.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ostinato.compiler.ir import Cut, Source
from ostinato.compiler.preparation import Preparation, fill_in, function_name, tensors_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ostinato.compiler.ir import Program
    from ostinato.compiler.preparation import Instruction

#: Functions whose results lie in their one argument, and autograd knows it.
_VIEWS = frozenset(
    {
        "alias", "chunk", "narrow", "permute", "reshape", "select", "slice", "split",
        "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view",
    }
)  # fmt: skip

#: ``starts`` and ``dims`` of a :class:`Cut`.
_Box = tuple[tuple[int, ...], tuple[int, ...]]


def find_cuts(
    program: Program, preparation: Preparation, names: Sequence[str], leaves: Sequence[Tensor]
) -> tuple[Program, Preparation]:
    """The program with its sources and cuts, and what computes the sources.

    Args:
        program: whose statics ``preparation`` computes.
        preparation: as it was recorded.
        names: the recipe's names of slots.
        leaves: a tensor for each of ``preparation.leaves``.
    """
    if not preparation.instructions or any(i.writes for i in preparation.instructions):
        return program, preparation
    values = {**preparation.constants, **dict(zip(preparation.leaf_slots, leaves, strict=True))}
    # Where a slot lies: a source and a tensor in memory like the source's, without gaps.
    lies = {n: (n, torch.empty(t.shape)) for n, t in values.items()}
    with torch.no_grad():
        for i in preparation.instructions:
            values.update(zip(i.results, i.call(values), strict=True))
            own = {n: (n, torch.empty(values[n].shape)) for n in i.results}
            lies.update(_views(i, lies) or own)
    found: list[tuple[int, _Box]] = []
    for n in preparation.statics:
        source, view = lies[n]
        box = _box_of(view, torch.empty(values[source].shape))
        if box is None:  # elements here and there: it is handed over itself
            dims = range(values[n].dim())
            source, box = n, ((0,) * len(dims), tuple(dims))
        found.append((source, box))
    sources = list(dict.fromkeys(source for source, _ in found))
    cuts = [Cut(sources.index(source), *box) for source, box in found]
    handed = tuple(Source(names[n], tuple(values[n].shape)) for n in sources)
    return (
        replace(program, sources=handed, cuts=tuple(cuts)),
        _only(preparation, tuple(sources)),
    )


def cut_out(program: Program, sources: Sequence[Tensor]) -> list[Tensor]:
    """The statics of ``program``, as views of its sources that autograd knows."""
    if not program.cuts:
        return list(sources)
    statics = []
    for cut, spec in zip(program.cuts, program.statics, strict=True):
        size = dict(zip(cut.dims, spec.shape, strict=True))
        view = sources[cut.source]
        for dim, start in enumerate(cut.starts):
            view = view.narrow(dim, start, size.get(dim, 1))
        rest = [dim for dim in range(view.dim()) if dim not in size]
        order = [dim for dim in cut.dims if dim >= 0]
        statics.append(view.permute(*order, *rest).reshape(spec.shape))
    return statics


def _views(
    instruction: Instruction, lies: Mapping[int, tuple[int, Tensor]]
) -> dict[int, tuple[int, Tensor]]:
    """Where the results lie, if the instruction does nothing but look at a part; else nothing."""
    i = instruction
    if function_name(i.function) not in _VIEWS or not i.grad or len(i.reads) != 1:
        return {}
    source, lying = lies[i.reads[0]]
    env = {i.reads[0]: lying}
    results = tensors_in(i.function(*fill_in(i.args, env), **fill_in(i.kwargs, env)))
    at = lying.untyped_storage().data_ptr()
    if any(r.untyped_storage().data_ptr() != at for r in results):
        return {}
    return {n: (source, r) for n, r in zip(i.results, results, strict=True)}


def _box_of(view: Tensor, like: Tensor) -> _Box | None:
    """Starts and dims of ``view`` in a tensor that is like ``like``; ``None``: it is no box."""
    left, starts = view.storage_offset(), []
    for stride, size in zip(like.stride(), like.shape, strict=True):
        start = min(left // stride, size - 1) if stride else 0
        starts.append(start)
        left -= start * stride
    dims: list[int] = []
    for n, stride in zip(view.shape, view.stride(), strict=True):
        found = -1
        if n != 1:
            fits = [
                d
                for d, (own, size) in enumerate(zip(like.stride(), like.shape, strict=True))
                if own == stride and size > 1 and starts[d] + n <= size and d not in dims
            ]
            if len(fits) != 1:
                return None
            found = fits[0]
        dims.append(found)
    return None if left else (tuple(starts), tuple(dims))


def _only(preparation: Preparation, sources: tuple[int, ...]) -> Preparation:
    """What is left of ``preparation`` for these slots."""
    live, kept = set(sources), []
    for i in reversed(preparation.instructions):
        if live.intersection(i.results):
            kept.append(i)
            live.update(i.reads)
    return replace(
        preparation,
        statics=sources,
        instructions=tuple(reversed(kept)),
        constants={n: t for n, t in preparation.constants.items() if n in live},
    )
