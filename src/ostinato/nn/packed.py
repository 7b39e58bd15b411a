"""Packed sequences: other data over the same rows and lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.utils.rnn import PackedSequence

if TYPE_CHECKING:
    from torch import Tensor


def with_data(packed: PackedSequence, data: Tensor) -> PackedSequence:
    """``packed`` with other data, ``(N, ...)``.

    Not ``packed._replace(data=data)``: Dynamo hands that back as an empty tuple.
    """
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
