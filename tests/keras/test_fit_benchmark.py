"""The benchmark of Keras's ``fit``: contestants on the torch backend, and the target's verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # the benchmarks aren't installed

from benchmarks import targets
from benchmarks.case import make_case, oracle, worst_error
from benchmarks.peers import prepare
from benchmarks.problems import GRIDS, SECOND, Problem


@pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])
def test_contestants_are_right(cell: str) -> None:
    case = make_case(Problem(cell, 4, 3, 5, 6, "fit"))
    want = oracle(case)
    for peer in ("ostinato_keras", "ostinato_recorded", "keras_torch"):
        runner = prepare(peer, case)
        error, where = worst_error(runner.collect(None), want, "float32")
        assert error <= 1, (peer, where)
        runner.call()
    wrong = {**want, "loss": want["loss"] * 1.001}
    assert worst_error(wrong, want, "float32")[0] > 1


def record(problem: Problem, contestant: str, seconds: float) -> dict[str, Any]:
    return {
        "suite": "keras",
        "threads": 2,
        "name": problem.name,
        "contestant": contestant,
        "status": "ok",
        "median_s": seconds,
    }


@pytest.mark.parametrize(("share", "verdict"), [(1.01, "met"), (0.99, "open")])
def test_target_nine(share: float, verdict: str) -> None:
    records = []
    for problem in GRIDS["keras"]:
        jax = 1.5 if problem.shape == SECOND else 3.0
        times = {"ostinato": 1.0, "ostinato_recorded": 1.0, "keras_torch": 10 * share}
        times["keras_jax"] = jax * share
        records += [record(problem, name, s) for name, s in times.items()]
    results = {"limits": [{"suite": "keras", "threads": 2}], "records": records}
    found = [f for f in targets.findings(results) if f.number == 9]
    assert len(found) == 24
    assert {f.verdict for f in found} == {verdict}
