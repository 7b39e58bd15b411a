"""Two revisions of ostinato in turns: the one that is imported, and another one built beside it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import measure
from benchmarks.measure import ROOT, Effort, race
from benchmarks.peers import OURS
from benchmarks.problems import Problem, chosen
from benchmarks.remote import Remote, RemoteError
from benchmarks.watch import calm_check

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

#: Suites that a comparison of revisions runs unless told otherwise.
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


def compare_revisions(options: argparse.Namespace) -> dict[str, Any]:
    """Ours against ours: every problem of the chosen suites, both sides checked first."""
    commit = _do(["git", "rev-parse", "--verify", f"{options.base}^{{commit}}"])
    results: dict[str, Any] = {
        "schema": 1,
        "base": commit,
        "revision": measure.revision(),
        "versions": measure.versions(),
        "machine": measure.machine(),
        "quick": options.quick,
        "awake": options.awake,
        "records": [],
    }
    with built(commit) as tree:
        for threads in options.threads:
            results["records"] += _side_by_side(options, threads, tree)
    return results


def _side_by_side(options: argparse.Namespace, threads: int, tree: Path) -> list[dict[str, Any]]:
    effort = (
        Effort.quick()
        if options.quick
        else Effort(options.rounds, options.seconds, patience=options.patience)
    )
    records = []
    with (
        Remote(threads, {"PYTHONPATH": str(tree / "src")}, pinned=True) as base,
        Remote(threads, {}, pinned=True) as this,
    ):
        found = Path(base.ask(do="where")["file"])
        if not found.is_relative_to(tree):
            raise SystemExit(f"the other revision's process imports {found}; see PYTHONPATH")
        for suite in options.grid or DEFAULT:
            for problem in chosen(suite, options.quick, options.match):
                record = {"suite": suite, "name": problem.name, "threads": threads, "note": ""}
                record |= _race(problem, {"base": base, "this": this}, effort)
                records.append(record)
                print(f"{problem.name} [{threads}] {record['status']}", file=sys.stderr, flush=True)
    return records


def _race(problem: Problem, sides: dict[str, Remote], effort: Effort) -> dict[str, Any]:
    for name, side in sides.items():
        try:
            found = side.prepare(OURS, problem)
        except RemoteError as error:
            return {"status": "failed", "note": f"{name}: {error}"}
        if not found["error"] <= 1:
            return {"status": "wrong", "note": f"{name}: too far from float64 in {found['where']}"}
    turns = {name: side.turn() for name, side in sides.items()}
    spreads = race(turns, effort, calm_check())
    timed = {
        name: {"status": "ok", "median_s": s.median, "low_s": s.low, "high_s": s.high}
        for name, s in spreads.items()
    }
    return {"status": "ok", **timed}
