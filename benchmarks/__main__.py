"""The command line.

python -m benchmarks                          everything, one thread and two
python -m benchmarks --grid training --threads 2 --json results.json
python -m benchmarks table results.json       Markdown tables
python -m benchmarks table results.json --write docs/performance.md
python -m benchmarks --base main~3            this revision beside another, in turns
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import checkout, measure, report
from benchmarks.compare import COMPARED, DEFAULT, compare_revisions
from benchmarks.peers import OURS, PEERS
from benchmarks.problems import GRIDS, chosen
from benchmarks.results import SCHEMA, merged, read, save
from benchmarks.targets import summary
from benchmarks.tracing import traced
from benchmarks.watch import awake

if TYPE_CHECKING:
    from collections.abc import Callable

#: Suites whose figures don't come by the number of threads: run with the most alone.
ONCE = ("memory", "scaling")


def _at_least(least: float, kind: type) -> Callable[[str], Any]:
    """What argparse makes a finite ``int`` or ``float`` of a word with."""

    def number(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} isn't of type {kind.__name__}") from None
        if not (math.isfinite(value) and value >= least):
            raise argparse.ArgumentTypeError(f"{text} isn't {least} or more")
        return value

    return number


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--grid", nargs="+", choices=list(GRIDS), default=None, help="suites; all by default"
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=[p for p in PEERS if p != OURS],
        help="ours and these peers alone, also where a suite leaves them out (`memory` knows "
        "torch_nn alone); none: ours alone",
    )
    parser.add_argument(
        "--threads", nargs="+", type=_at_least(1, int), default=None, help="1 2 by default"
    )
    parser.add_argument("--match", default="", help="only problems whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="small problems, hardly any repeats")
    parser.add_argument(
        "--rounds", type=_at_least(1, int), default=9, help="turns of each contestant"
    )
    parser.add_argument(
        "--seconds",
        type=_at_least(0, float),
        default=1.0,
        help="that a contestant's timed calls of a problem take together, about: a turn has at "
        "least one, at most 40, and calls under 1 ms are timed several together",
    )
    parser.add_argument(
        "--patience",
        type=_at_least(0, float),
        default=0.0,
        metavar="S",
        help="seconds that a problem may take longer to have turns that nothing disturbs",
    )
    parser.add_argument(
        "--awake",
        action="store_true",
        help="keep the CPUs from sleeping (Linux; the superuser may): calmer on virtual machines",
    )
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument(
        "--base", metavar="REV", help=f"compare with this revision instead: {', '.join(COMPARED)}"
    )
    options = parser.parse_args(argv)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if options.threads is None:
        options.threads = [n for n in (1, 2) if n <= (cpus or 1)]
    if options.grid is None:
        options.grid = list(GRIDS if options.base is None else DEFAULT)
    error = _contradiction(options, cpus or 1)
    if error:
        parser.error(error)
    return options


def _contradiction(options: argparse.Namespace, cpus: int) -> str:
    """What can't be done, in one line; empty: all can."""
    for name in ("grid", "threads"):
        given = getattr(options, name)
        if len(set(given)) < len(given):
            return f"--{name} {' '.join(map(str, given))}: each once"
    if max(options.threads) > cpus:
        return f"--threads {max(options.threads)}: this process has {cpus} CPUs"
    if options.base is not None:
        other = [suite for suite in options.grid if suite not in COMPARED]
        if other:
            return f"--base compares {', '.join(COMPARED)}, not {', '.join(other)}"
        if options.peers is not None:
            return "--base compares ours with ours: it takes no --peers"
    if not any(_has(suite, options) for suite in options.grid):
        return f"--match {options.match}: no problem of {', '.join(options.grid)} is called so"
    if options.json is not None and not os.access(options.json.absolute().parent, os.W_OK):
        return f"--json {options.json}: no folder to write in"
    if options.json is not None and options.json.is_dir():
        return f"--json {options.json}: a folder, not a file"
    return ""


def _has(suite: str, options: argparse.Namespace) -> bool:
    """Whether a suite has anything to measure."""
    tracing = suite == "overhead" and options.base is None and traced(options.match)
    return bool(chosen(suite, options.quick, options.match) or tracing)


def run(options: argparse.Namespace, results: dict[str, Any]) -> bool:
    """Run the suites, each in a process for each number of threads; the results so far are always
    in the file. Gives whether all of them came to their end.
    """
    results["limits"] = []
    load = os.getloadavg()[0]
    whole = True
    for suite in filter(lambda suite: _has(suite, options), options.grid):
        for threads in [max(options.threads)] if suite in ONCE else options.threads:
            told = {
                "command": ["python", "-m", "benchmarks", *sys.argv[1:]],
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                **measure.revision(),
                "stale": checkout.stale(checkout.imported()),
                "versions": measure.versions(),
                "load": load,
            }
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "records.json"
                request = {"suite": suite, "threads": threads, "file": str(file)}
                for name in ("peers", "match", "quick", "rounds", "seconds", "patience"):
                    request[name] = getattr(options, name)
                command = [sys.executable, "-m", "benchmarks.worker", json.dumps(request)]
                try:
                    done = subprocess.run(command, cwd=measure.ROOT, check=False)
                finally:
                    if file.exists():
                        found = json.loads(file.read_text())
                        results["limits"].append(found["limits"] | told)
                        started = {"started": told["started"]}
                        results["records"] += [record | started for record in found["records"]]
                    if options.json is not None:
                        save(options.json, results)
            if done.returncode:
                print(f"{suite} on {threads} threads ended early", file=sys.stderr)
                whole = False
    return whole


def table(argv: list[str]) -> None:
    """The command ``table``.

    Raises:
        SystemExit: a file or page is absent, or not what it should be.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks table")
    parser.add_argument(
        "file", type=Path, nargs="+", help="JSON files of runs; a problem's last figures win"
    )
    parser.add_argument(
        "--write",
        type=Path,
        help="put the tables into this page, between marks; conditions and targets, too, where the "
        "files have all suites of the page",
    )
    options = parser.parse_args(argv)
    try:
        results = merged([read(file) for file in options.file])
        if options.write is None:
            print(report.markdown(results))
            return
        page, left = report.filled(options.write.read_text(), results)
    except OSError as error:
        raise SystemExit(f"{error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise SystemExit(str(error)) from None
    options.write.write_text(page)
    if left:
        print(f"left as they were, for want of records: {', '.join(left)}", file=sys.stderr)


def main(argv: list[str]) -> None:
    if argv[:1] == ["table"]:
        table(argv[1:])
        return
    options = arguments(argv)
    checkout.check(checkout.imported())
    if measure.without_limits():
        print(f"no limits and no watch: {measure.without_limits()}", file=sys.stderr)
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "quick": options.quick,
        "awake": options.awake,
        "machine": measure.machine(),
        "records": [],
    }
    whole = False
    try:
        with awake() if options.awake else nullcontext():
            if options.base is None:
                whole = run(options, results)
            else:
                compare_revisions(options, results)
                whole = True
    except KeyboardInterrupt:
        print("interrupted: these are the results so far", file=sys.stderr)
    if options.base is None:
        print(report.markdown(results))
        print(summary(results))
    else:
        print(report.comparison(results))
    red = [r for r in results["records"] if _red(r)]
    for record in red:
        print(f"{record['name']} [{record['threads']}]: {record['note']}", file=sys.stderr)
    if red or not whole:
        raise SystemExit(1)


def _red(record: dict[str, Any]) -> bool:
    """Whether ours is wrong or failed; in a comparison both sides are ours.

    For Keras ours may be missing as Keras is.
    """
    peer = record.get("peer", OURS)
    missing = peer == OURS and record["status"] == "missing"
    return missing or (peer.startswith(OURS) and record["status"] in ("wrong", "failed"))


if __name__ == "__main__":
    main(sys.argv[1:])
