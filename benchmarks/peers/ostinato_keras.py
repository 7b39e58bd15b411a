"""Ours for Keras, as after a change of the import alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ostinato.keras
from benchmarks.peers import UnsupportedError
from benchmarks.peers.keras_fit import runner

if TYPE_CHECKING:
    from benchmarks.case import Case
    from benchmarks.peers import Runner


def prepare(case: Case) -> Runner:
    if case.problem.mode != "fit":
        raise UnsupportedError("the Keras door runs fit")
    return runner(case, ostinato.keras)
