"""Where the batch is in a tensor, and which features of a row its other elements are.

The tracer keeps each storage that holds rows as one flat row in the IR. A tensor, however it came
about (a view, a transposition, a split, a selection), is described by its offset, sizes and strides
alone: one of its dimensions steps from row to row, perhaps merged with a neighbour as in
``h.view(B * heads, d)``, and the positions of the other elements name the features.

Two shapes are used throughout: a tensor's *shape*, with the batch, and its *feature shape*, where
the batch's factor B is taken out: ``(B * heads, d)`` has feature shape ``(heads, d)``, ``(B, n)``
has ``(1, n)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

IntArray = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Axis:
    """The batch is in dimension ``dim``: element ``(o * B + b) * inner + j`` belongs to row b."""

    dim: int
    inner: int = 1


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a tensor lies in its storage."""

    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @staticmethod
    def of(tensor: Tensor) -> Geometry:
        """The geometry of ``tensor``."""
        return Geometry(int(tensor.storage_offset()), tuple(tensor.shape), tuple(tensor.stride()))

    @property
    def squeezed(self) -> Geometry:
        """The same without leading dimensions of size 1, down to a matrix."""
        drop = 0
        while drop < len(self.shape) - 2 and self.shape[drop] == 1:
            drop += 1
        return Geometry(self.offset, self.shape[drop:], self.stride[drop:])

    @property
    def transposed(self) -> Geometry:
        """The same with the last two dimensions exchanged."""
        (*lead, a, b), (*steps, s, t) = self.shape, self.stride
        return Geometry(self.offset, (*lead, b, a), (*steps, t, s))


def feature_shape(shape: Sequence[int], axis: Axis, batch: int) -> tuple[int, ...]:
    """``shape`` without the batch's factor."""
    return tuple(n // batch if d == axis.dim else n for d, n in enumerate(shape))


def without_batch(shape: Sequence[int], batch: int) -> tuple[int, ...]:
    """``shape`` with every multiple of the batch size divided by it."""
    return tuple(n // batch if n and n % batch == 0 else n for n in shape)


def batch_dims(shape: Sequence[int], batch: int) -> list[int]:
    """Dimensions whose size is a multiple of the batch size."""
    return [d for d, n in enumerate(shape) if n and n % batch == 0]


def positions(geometry: Geometry, axis: Axis, batch: int) -> IntArray:
    """Positions in the storage of the elements of row 0, in feature shape."""
    at = np.asarray(geometry.offset, dtype=np.int64)
    for d, (size, step) in enumerate(zip(geometry.shape, geometry.stride, strict=True)):
        i = np.arange(size, dtype=np.int64)
        if d == axis.dim:
            i = i.reshape(-1, batch, axis.inner)[:, 0, :].reshape(-1)
        at = at[..., None] + i * step
    return at


@dataclass(frozen=True)
class RowLayout:
    """How a storage holds rows: feature ``columns[p]`` of row b is at ``p + b * batch_stride``."""

    batch_stride: int
    columns: dict[int, int]

    @staticmethod
    def of(geometry: Geometry, axis: Axis, batch: int) -> RowLayout:
        """The layout of the storage of a fresh tensor, whose features are numbered in order."""
        at = positions(geometry, axis, batch).reshape(-1)
        columns = {int(p): j for j, p in enumerate(at)}
        return RowLayout(geometry.stride[axis.dim] * axis.inner, columns)

    def find(self, geometry: Geometry, batch: int) -> tuple[Axis, IntArray] | None:
        """Where the batch is in an alias, and its features in feature shape.

        ``None`` if it is not some features of all rows.
        """
        found = None
        for d in batch_dims(geometry.shape, batch):
            step, rest = geometry.stride[d], geometry.shape[d] // batch
            if step <= 0 or self.batch_stride % step:
                continue
            axis = Axis(d, self.batch_stride // step)
            if rest % axis.inner:
                continue
            at = positions(geometry, axis, batch)
            columns = [self.columns.get(p, -1) for p in at.reshape(-1).tolist()]
            if min(columns, default=0) < 0:
                continue
            if found is not None:
                return None
            found = axis, np.asarray(columns, dtype=np.int64).reshape(at.shape)
        return found


def spread(index: IntArray, axis: Axis, batch: int) -> IntArray:
    """Tags for a whole tensor from the tags (>= 1) of its features: ``tag * (B + 1) + b + 1``."""
    shape = list(index.shape)
    shape[axis.dim : axis.dim + 1] = [shape[axis.dim] // axis.inner, 1, axis.inner]
    b = np.arange(1, batch + 1).reshape(-1, 1, *[1] * (index.ndim - axis.dim - 1))
    full: IntArray = index.reshape(shape) * (batch + 1) + b
    whole = list(index.shape)
    whole[axis.dim] *= batch
    return full.reshape(whole)


def gathered(tags: IntArray, batch: int) -> tuple[Axis, IntArray] | None:
    """The inverse of :func:`spread` for what an operation made of tags.

    Returns:
        Where the batch is now, and the features' tags; ``None`` if the operation moved data
        between rows. Tags without a row (``b`` part 0) fit every row.
    """
    for d in batch_dims(tags.shape, batch):
        rest = tags.shape[d] // batch
        for inner in (i for i in range(1, rest + 1) if rest % i == 0):
            shape = list(tags.shape)
            shape[d : d + 1] = [rest // inner, batch, inner]
            split = tags.reshape(shape)
            row, feature = split % (batch + 1), split // (batch + 1)
            own = np.arange(1, batch + 1).reshape(-1, 1, *[1] * (tags.ndim - d - 1))
            first = feature.take([0], axis=d + 1)
            if (((row == own) | (row == 0)) & (feature == first)).all():
                reduced = first.reshape([rest if i == d else n for i, n in enumerate(tags.shape)])
                return Axis(d, inner), reduced
    return None


def numel(shape: Sequence[int]) -> int:
    """Number of elements."""
    return math.prod(shape)
