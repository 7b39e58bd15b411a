"""Ours for Keras: as after a change of the import alone, and with recorded steps besides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ostinato.keras
from benchmarks.peers.keras_fit import runner

if TYPE_CHECKING:
    from benchmarks.case import Case
    from benchmarks.peers import Runner


def prepare(case: Case) -> Runner:
    return runner(case, ostinato.keras)


def prepare_recorded(case: Case) -> Runner:
    return runner(case, ostinato.keras, [ostinato.keras.RecordedSteps()])
