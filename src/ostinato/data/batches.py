"""Batches of examples of different lengths: shuffled, similar lengths together, shared out."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ostinato.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from numpy.typing import NDArray

#: Batches whose rows are sorted by length together: few enough that each epoch's batches are
#: others, enough that little is padded.
POOL = 50
#: The target of a step that has none, ``torch.nn.functional.cross_entropy``'s ``ignore_index``.
NO_TARGET = -100


@dataclass(frozen=True)
class Batch:
    """What one process sees of a global batch. T is the longest row here, B the rows here.

    Attributes:
        x: ``(T, B)`` int64 or ``(T, B, C)`` float32; zero past a row's length.
        lengths: ``(B,)`` int64, valid steps of each row.
        target: ``(B,)`` or ``(B, ...)``, one target a row; or ``(T, B)`` int64, one a step,
            ``-100`` past the row's length; or None.
        rows: ``(B,)`` int64, which examples these are (which streams, in a stream's batch).
        batch_rows: rows of the global batch.
        share: ``(B,)`` int64, where these rows stand in the global batch.
        terms: terms of the loss here: targets that aren't ``-100``.
        all_terms: terms of the loss in the global batch.
        steps: valid steps here.
        fresh: whether the state starts at zero; False for a stream's later windows.
    """

    x: Tensor
    lengths: Tensor
    target: Tensor | None
    rows: Tensor
    batch_rows: int
    share: Tensor
    terms: int
    all_terms: int
    steps: int
    fresh: bool = True

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The batch with its tensors on ``device``."""
        tensors: dict[str, Any] = {
            field.name: value.to(device, non_blocking=non_blocking)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **tensors)


def check_share(rank: int, world: int, smallest: int) -> None:
    """Refuse a rank that isn't one, and more processes than the smallest batch has rows."""
    if not 0 <= rank < world:
        raise InputError(f"expected 0 <= rank < world, got rank {rank}, world {world}")
    if smallest < world:
        raise InputError(
            f"{world} processes, but the smallest batch has {smallest} rows: each process needs "
            "one; take a larger batch size or fewer processes"
        )


class RaggedBatches:
    """Batches of sequences that have different lengths.

    An epoch is a pure function of ``(seed, number)``: the examples are shuffled, pools of 50
    batches are sorted by length, so that the rows of a batch are about equally long and little is
    padded, and the batches are shuffled. Batches differ in size by at most one row. A global
    batch's rows are dealt to the processes in turn, ``rows[rank::world]``, so that the global
    batches don't depend on how many processes there are.

    Args:
        inputs: N arrays: integers ``(T,)``, or floats ``(T, C)``; T ≥ 1 may differ.
        targets: an array ``(N,)`` or ``(N, ...)``, one target a row; or a list of N integer
            arrays ``(T,)``, one target a step, -100 where there is none; or None.
        batch_size: rows of a global batch, at most.
        seed: of the shuffling.
        shuffle: without it every epoch has the same batches (:attr:`Batch.rows` says of what).
        rank, world: this process's number and how many there are.

    Raises:
        InputError: no examples, an empty sequence, shapes that don't fit; names the example.

    Example:
        >>> data = RaggedBatches([np.array([5, 6, 7]), np.array([8])], np.array([1, 0]), 2)
        >>> [batch] = data.epoch(0)
        >>> batch.x.shape, sorted(batch.lengths.tolist())
        (torch.Size([3, 2]), [1, 3])
    """

    def __init__(
        self,
        inputs: Sequence[NDArray[Any]],
        targets: NDArray[Any] | Sequence[NDArray[Any]] | None,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size: expected 1 or more, got {batch_size}")
        if not len(inputs):
            raise InputError("no examples to make batches of")
        _check_inputs(inputs)
        self._inputs = inputs
        self._lengths = np.array([len(one) for one in inputs], dtype=np.int64)
        if isinstance(targets, np.ndarray):
            kind = np.float32 if np.issubdtype(targets.dtype, np.floating) else np.int64
            targets = targets.astype(kind, copy=False)
        self._targets = targets
        self._per_step = targets is not None and not isinstance(targets, np.ndarray)
        self._terms = self._count_terms()
        self._batches = -(-len(inputs) // batch_size)
        check_share(rank, world, len(inputs) // self._batches)
        self._seed, self._shuffle = seed, shuffle
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        return self._batches

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return len(self._inputs)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch ``number``, from batch ``start`` on; the skipped ones cost nothing.

        Args:
            number: 0 or more.
            start: how many batches to leave out.
        """
        for rows in self._plan(number)[start:]:
            yield self._batch(rows)

    def _plan(self, number: int) -> list[NDArray[np.int64]]:
        """The rows of each global batch."""
        random = np.random.Generator(np.random.PCG64([self._seed, number]))
        count = len(self._inputs)
        order = random.permutation(count) if self._shuffle else np.arange(count)
        edges = (np.arange(self._batches + 1) * count // self._batches).tolist()
        batches: list[NDArray[np.int64]] = []
        for first in range(0, self._batches, POOL):
            inner = edges[first : first + POOL + 1]
            pool = order[inner[0] : inner[-1]]
            pool = pool[np.argsort(self._lengths[pool], kind="stable")]
            cuts = [edge - inner[0] for edge in inner]
            batches += [pool[a:b] for a, b in itertools.pairwise(cuts)]
        if self._shuffle:
            batches = [batches[i] for i in random.permutation(self._batches)]
        return batches

    def _batch(self, all_rows: NDArray[np.int64]) -> Batch:
        share = np.arange(self._rank, len(all_rows), self._world)
        rows = all_rows[share]
        lengths = self._lengths[rows]
        return Batch(
            x=_pad([self._inputs[i] for i in rows], int(lengths.max()), 0),
            lengths=torch.from_numpy(lengths),
            target=self._target(rows, int(lengths.max())),
            rows=torch.from_numpy(rows),
            batch_rows=len(all_rows),
            share=torch.from_numpy(share),
            terms=int(self._terms[rows].sum()),
            all_terms=int(self._terms[all_rows].sum()),
            steps=int(lengths.sum()),
        )

    def _target(self, rows: NDArray[np.int64], steps: int) -> Tensor | None:
        if self._targets is None:
            return None
        if isinstance(self._targets, np.ndarray):
            return torch.from_numpy(self._targets[rows])
        return _pad([self._targets[i] for i in rows], steps, NO_TARGET)

    def _count_terms(self) -> NDArray[np.int64]:
        """Terms of the loss of each example."""
        targets, count = self._targets, len(self._inputs)
        if targets is None:
            return np.zeros(count, dtype=np.int64)
        if len(targets) != count:
            raise InputError(f"{count} inputs, but {len(targets)} targets")
        if isinstance(targets, np.ndarray):
            return np.full(count, targets[0].size, dtype=np.int64)
        for i, (target, steps) in enumerate(zip(targets, self._lengths, strict=True)):
            if target.shape != (steps,) or not np.issubdtype(target.dtype, np.integer):
                raise InputError(
                    f"target {i}: expected integers ({steps},), one a step of its input, got "
                    f"{target.dtype} {target.shape}"
                )
        return np.array([(target != NO_TARGET).sum() for target in targets], dtype=np.int64)


def _check_inputs(inputs: Sequence[NDArray[Any]]) -> None:
    first = inputs[0]
    integers = np.issubdtype(first.dtype, np.integer)
    for i, one in enumerate(inputs):
        fits = one.ndim == (1 if integers else 2) and one.shape[1:] == first.shape[1:]
        if not fits or np.issubdtype(one.dtype, np.integer) != integers:
            raise InputError(
                f"input {i}: expected integers (T,) or floats (T, C), all alike, got "
                f"{one.dtype} {one.shape} (input 0 is {first.dtype} {first.shape})"
            )
        if not len(one):
            raise InputError(f"input {i} has no steps")


def _pad(rows: list[NDArray[Any]], steps: int, filling: int) -> Tensor:
    """``(T, B, ...)``, time-major, from rows ``(T_b, ...)``."""
    first = rows[0]
    dtype = np.int64 if np.issubdtype(first.dtype, np.integer) else np.float32
    # Rows are contiguous while they are written; the transposition is one pass over the batch.
    padded = np.full((len(rows), steps, *first.shape[1:]), filling, dtype=dtype)
    for b, row in enumerate(rows):
        padded[b, : len(row)] = row
    return torch.from_numpy(np.ascontiguousarray(padded.swapaxes(0, 1)))
