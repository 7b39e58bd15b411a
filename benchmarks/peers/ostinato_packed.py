"""Ours on a packed sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.peers import Runner, UnsupportedError
from benchmarks.peers.ostinato_layer import make_layer
from benchmarks.peers.packed import packed_runner

if TYPE_CHECKING:
    from benchmarks.case import Case


def prepare(case: Case) -> Runner:
    layer, drop_in = make_layer(case)
    if not drop_in:
        raise UnsupportedError("written for the drop-ins")
    return packed_runner(case, layer)
