"""Cells that lend their equations to layers whose parameters are elsewhere."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ostinato.engine.surroundings import by_itself

if TYPE_CHECKING:
    from collections.abc import Callable

    from ostinato.cells.base import Cell


@lru_cache(maxsize=256)
def template(
    cell_type: Callable[..., Cell], *sizes: int, dtype: torch.dtype, **options: Any
) -> Cell:
    """A cell that lends its equations, for all layers of these sizes; its parameters are not used.

    They take no memory to speak of: all columns of a weight are the same one in memory. They have
    values, since tracing a cell compares what it gives with what its trace gives.
    """
    with by_itself():
        cell = cell_type(*sizes, **options, device="meta", dtype=dtype)
        for name, parameter in cell.named_parameters():
            column = torch.linspace(-0.5, 0.5, parameter.shape[0], dtype=dtype, device="cpu")
            column = column.view(-1, *[1] * (parameter.dim() - 1))
            cell._parameters[name] = nn.Parameter(column.expand(parameter.shape))
    return cell
