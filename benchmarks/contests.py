"""Who runs against whom in which suite, and the race itself: first the gate, then the clock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.case import Results, make_case, oracle
from benchmarks.measure import Effort, Turn, local_turn, race
from benchmarks.peers import OURS, checked, failure
from benchmarks.remote import Remote
from benchmarks.watch import calm_check
from benchmarks.work import floor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.problems import Problem

#: One measurement as it goes into the JSON file.
Record = dict[str, Any]

#: Contestants that need a process of their own, and its environment.
REMOTE = {
    "keras_jax": {"KERAS_BACKEND": "jax"},
    "keras_torch": {"KERAS_BACKEND": "torch"},
    "ostinato_keras": {"KERAS_BACKEND": "torch"},
    "ostinato_recorded": {"KERAS_BACKEND": "torch"},
}


@dataclass(frozen=True)
class Entry:
    """One contestant in one race; ``label`` is the peer's name unless a peer enters twice."""

    label: str
    peer: str
    problem: Problem
    threads: int


def _same(peers: Sequence[str]) -> Callable[[Problem, int], list[Entry]]:
    def entries(problem: Problem, threads: int) -> list[Entry]:
        return [Entry(peer, peer, problem, threads) for peer in peers]

    return entries


def _cells(problem: Problem, threads: int) -> list[Entry]:
    """Also our own LSTM, whose products are as many."""
    peers = _same((OURS, "torch_loop", "torch_compile", "jax_scan", "onnxruntime"))
    lstm = Entry("ostinato_lstm", OURS, replace(problem, cell="lstm"), threads)
    return [*peers(problem, threads), lstm]


def _lengths(problem: Problem, threads: int) -> list[Entry]:
    """Ragged in two forms, and the full batch that the target compares with."""
    full = replace(problem, lengths="full")
    return [
        *_same((OURS, "ostinato_packed", "torch_nn_packed"))(problem, threads),
        Entry("ostinato_full", OURS, full, threads),
        Entry("torch_nn_full", "torch_nn", full, threads),
    ]


def _scaling(problem: Problem, threads: int) -> list[Entry]:
    counts = sorted({1, threads})
    return [Entry(f"{peer}@{n}", peer, problem, n) for peer in (OURS, "torch_nn") for n in counts]


def _keras(problem: Problem, threads: int) -> list[Entry]:
    """Ours as after a change of the import alone, and with ``RecordedSteps`` besides."""
    ours = Entry(OURS, "ostinato_keras", problem, threads)
    return [ours, *_same(("ostinato_recorded", "keras_jax", "keras_torch"))(problem, threads)]


#: Suite -> who enters, for a problem and the most threads.
CONTESTS: dict[str, Callable[[Problem, int], list[Entry]]] = {
    "training": _same((OURS, "torch_nn", "jax_scan")),
    "inference": _same((OURS, "torch_nn", "jax_scan", "onnxruntime")),
    "cells": _cells,
    "lengths": _lengths,
    "overhead": _same((OURS, "torch_nn", "torch_loop", "jax_scan", "onnxruntime")),
    "streaming": _same((OURS, "torch_nn", "jax_scan", "onnxruntime")),
    "scaling": _scaling,
    "steps": _same((OURS, "torch_nn", "keras_jax", "keras_torch")),
    "keras": _keras,
}


def entries_of(
    suite: str, problem: Problem, threads: int, peers: Sequence[str] | None
) -> list[Entry]:
    """The suite's entries; ``peers``: ours and these, also ones that the suite leaves out."""
    entries = CONTESTS[suite](problem, threads)
    if peers is None:
        return entries
    kept = [e for e in entries if e.peer.startswith(OURS) or e.peer in peers]
    more = [p for p in peers if p not in {e.peer for e in kept}]
    return kept + [Entry(p, p, problem, threads) for p in more]


def contest(suite: str, problem: Problem, entries: Sequence[Entry], effort: Effort) -> list[Record]:
    """Check each entry against the oracle, then time those that are right.

    A record's ``status`` is ``ok``, ``wrong`` (not timed), ``missing`` (its library isn't
    installed), ``unsupported`` or ``failed`` (here or in its turn); ``note`` says more. ``error``
    is the largest error as a fraction of what is allowed.
    """
    records: list[Record] = []
    turns: dict[str, Turn] = {}
    remotes: list[Remote] = []
    wanted: dict[Problem, Results] = {}
    before = torch.get_num_threads()
    try:
        for entry in entries:
            record = _record(suite, problem, entry)
            records.append(record)
            torch.set_num_threads(entry.threads)
            try:
                turn, found = _enter(entry, wanted, remotes)
            except Exception as error:
                record |= failure(error)
                continue
            record |= found
            if record["status"] == "ok":
                turns[entry.label] = turn
        outcomes = race(turns, effort, calm_check())
    finally:
        torch.set_num_threads(before)
        for remote in remotes:
            remote.close()
    for record in records:
        outcome = outcomes.get(record["contestant"])
        if isinstance(outcome, Exception):
            record |= failure(outcome)
        elif outcome is not None:
            record |= outcome.asdict()
    return records


def _record(suite: str, problem: Problem, entry: Entry) -> Record:
    least = floor(entry.problem)
    return {
        "suite": suite,
        "name": problem.name,
        "contestant": entry.label,
        "peer": entry.peer,
        "problem": entry.problem.asdict(),
        "threads": entry.threads,
        "flop": least.flop,
        "bytes": least.bytes,
        "status": "ok",
        "note": "",
    }


def _enter(
    entry: Entry, wanted: dict[Problem, Results], remotes: list[Remote]
) -> tuple[Turn, dict[str, Any]]:
    """Set up, check; the turn to time and what the check found."""
    if entry.peer in REMOTE:
        remote = Remote(entry.threads, REMOTE[entry.peer])
        remotes.append(remote)
        return remote.turn, remote.prepare(entry.peer, entry.problem)
    case = make_case(entry.problem)
    if entry.problem not in wanted:
        wanted[entry.problem] = oracle(case)
    runner, found = checked(entry.peer, case, wanted[entry.problem])
    turn = local_turn(runner.call, runner.steps)

    def with_threads(calls: int, inner: int) -> list[float]:
        if torch.get_num_threads() != entry.threads:
            torch.set_num_threads(entry.threads)
        return turn(calls, inner)

    return with_threads, found
