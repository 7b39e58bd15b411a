"""Two revisions of ostinato in turns: the one that is imported, and another one built beside it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import checkout, measure
from benchmarks.measure import ROOT, Effort, race
from benchmarks.peers import OURS, failure
from benchmarks.problems import Problem, chosen
from benchmarks.remote import Remote
from benchmarks.results import save
from benchmarks.watch import calm_check

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

#: Suites whose problems our layer runs alone, and those of them unless told otherwise.
COMPARED = ("training", "inference", "cells", "lengths", "overhead", "streaming", "steps")
DEFAULT = ("training", "inference", "overhead")


@contextmanager
def built(base: str) -> Iterator[Path]:
    """A checkout of ``base`` in a temporary folder, its native module built in place.

    Raises:
        SystemExit: there is no such revision, or it can't be built here.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree, objects = Path(folder) / "tree", Path(folder) / "build"
        _do(["git", "worktree", "add", "--detach", str(tree), base])
        try:
            python = f"-DPython_EXECUTABLE={sys.executable}"
            configure = ["cmake", "-S", str(tree), "-B", str(objects), "-DOSTINATO_INPLACE=ON"]
            _do([*configure, python])
            _do(["cmake", "--build", str(objects), "--parallel"])
            yield tree
        finally:
            _do(["git", "worktree", "remove", "--force", str(tree)])


def _do(command: list[str]) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit(f"{command[0]} is needed and isn't there: pip install '.[dev]'") from None
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip()


def compare_revisions(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Ours against ours: every problem of the chosen suites, both sides checked first.

    Args:
        options: the command line's.
        results: get ``base``, ``revision``, ``versions`` and, one by one and each time written to
            the file, ``records``.

    Raises:
        SystemExit: there is no such revision, or a process has another one than it should.
    """
    commit = _do(["git", "rev-parse", "--verify", f"{options.base}^{{commit}}"])
    results |= {"base": commit, "versions": measure.versions()}
    results["revision"] = measure.revision() | {"stale": checkout.stale(checkout.imported())}
    with built(commit) as tree:
        for threads in options.threads:
            _side_by_side(options, threads, tree, results)


def _side_by_side(
    options: argparse.Namespace, threads: int, tree: Path, results: dict[str, Any]
) -> None:
    with (
        Remote(threads, {"PYTHONPATH": str(tree / "src")}, pinned=True) as base,
        Remote(threads, {}, pinned=True) as this,
    ):
        found = Path(base.ask(do="where")["file"])
        if not found.is_relative_to(tree):
            raise SystemExit(f"the other revision's process imports {found}; see PYTHONPATH")
        checkout.check(Path(this.ask(do="where")["file"]).parent)
        for suite in options.grid:
            for problem in chosen(suite, options.quick, options.match):
                record = {"suite": suite, "name": problem.name, "threads": threads}
                sides = {"base": base, "this": this}
                record |= _race(problem, sides, Effort.asked(vars(options)))
                results["records"].append(record)
                if options.json is not None:
                    save(options.json, results)
                print(f"{problem.name} [{threads}] {record['status']}", file=sys.stderr, flush=True)


def _race(problem: Problem, sides: dict[str, Remote], effort: Effort) -> dict[str, Any]:
    """A record's ``status`` and ``note``, and both sides' figures where both are right."""
    outcomes: dict[str, Any] = {}
    for name, side in sides.items():
        try:
            outcomes[name] = side.prepare(OURS, problem)
        except Exception as error:
            outcomes[name] = failure(error)
    if all(found["status"] == "ok" for found in outcomes.values()):
        turns = {name: side.turn for name, side in sides.items()}
        for name, outcome in race(turns, effort, calm_check()).items():
            if isinstance(outcome, Exception):
                outcomes[name] = failure(outcome)
            else:
                outcomes[name] |= outcome.asdict()
    for name, found in outcomes.items():
        if found["status"] != "ok":
            return {"status": found["status"], "note": f"{name}: {found['note']}"}
    return {"status": "ok", "note": "", **outcomes}
