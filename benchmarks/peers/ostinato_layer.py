"""Ours: the drop-in where torch.nn has the cell, else ``Recurrent(cell)``."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import ostinato
from benchmarks.case import Case, torch_layer
from benchmarks.peers.torch_shared import layer_parameters, torch_runner

if TYPE_CHECKING:
    from benchmarks.peers import Runner

DROP_INS = {"elman": "RNN", "gru": "GRU", "lstm": "LSTM"}


def prepare(case: Case) -> Runner:
    """Rows of different lengths go in as ``lengths``."""
    layer, drop_in = make_layer(case)
    parameters = layer_parameters(layer) if drop_in else dict(layer.cell.named_parameters())
    lengths = case.lengths
    if lengths is None:
        return torch_runner(case, layer, parameters, leading=drop_in)

    def with_lengths(x: Any, state: Any) -> Any:
        return layer(x, state, lengths=lengths)

    return torch_runner(case, with_lengths, parameters, leading=drop_in)


def make_layer(case: Case) -> tuple[Any, bool]:
    """The layer with the case's parameters, and whether it is a drop-in."""
    batch_first = case.problem.mode == "step"
    name = DROP_INS.get(case.problem.cell)
    if name is not None:
        return torch_layer(case, getattr(ostinato.nn, name), batch_first=batch_first), True
    return ostinato.Recurrent(copy.deepcopy(case.cell), batch_first=batch_first), False
