"""Memory for what forward keeps and for long results, taken from blocks that the engine holds.

Memory that is new to a process is given to it page by page, at the first write of each: for a batch
of long sequences that can take longer than the work itself. A large tensor is therefore made of a
block that an earlier one has left, if there is one (``native/memory.cpp``); at most 256 MiB wait.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
from torch.utils import dlpack

from ostinato import _native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

#: Bytes from which a tensor of the engine's own is made of a block.
_LARGE = 1 << 20
#: The same for results, which belong to the caller: smaller ones the C library mostly keeps itself.
_LARGE_RESULT = 8 << 20


def empty(like: Tensor, shape: Sequence[int], strides: Sequence[int], *, own: bool) -> Tensor:
    """An uninitialised tensor without gaps, of ``like``'s dtype, on the CPU.

    Args:
        like: has the dtype.
        shape: its sizes.
        strides: in elements.
        own: whether no caller of the engine sees it. (A tensor on a block can't be resized.)

    Raises:
        MemoryError: the system has no more.
    """
    size = prod(shape) * like.element_size()
    if size < (_LARGE if own else _LARGE_RESULT):
        return like.new_empty_strided(shape, strides)
    try:
        capsule = _native.block(shape, strides, like.dtype is torch.float64)
    except MemoryError:
        raise MemoryError(
            f"no memory for {size} bytes, a tensor {tuple(shape)} of the time loop; use shorter "
            "sequences, smaller batches, or no gradients"
        ) from None
    made: Tensor = dlpack.from_dlpack(capsule)
    return made
