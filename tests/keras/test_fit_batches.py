"""The benchmark of Keras's ``fit``: its fixed cost is spread over as many batches for everyone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # the benchmarks aren't installed

from benchmarks.case import FIT_BATCHES, make_case
from benchmarks.peers import UnsupportedError, prepare
from benchmarks.problems import Problem

PEERS = ("ostinato_keras", "ostinato_recorded", "keras_torch")


def test_all_contestants_have_the_same_number_of_batches() -> None:
    case = make_case(Problem("elman", 4, 3, 5, 6, "fit"))
    assert {prepare(peer, case).steps for peer in PEERS} == {FIT_BATCHES}


@pytest.mark.parametrize("peer", PEERS)
def test_what_keras_lacks_is_unsupported(peer: str) -> None:
    for problem in (Problem("own", 4, 3, 5, 6, "fit"), Problem("own", 4, 3, 5, 6, "step")):
        with pytest.raises(UnsupportedError):
            prepare(peer, make_case(problem))
