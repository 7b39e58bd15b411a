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
import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import measure, report
from benchmarks.compare import compare_revisions
from benchmarks.peers import OURS, PEERS
from benchmarks.problems import GRIDS
from benchmarks.targets import summary
from benchmarks.watch import awake

#: Suites whose figures don't come by the number of threads: run with the most alone.
ONCE = ("memory", "scaling")


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
        help="these peers alone, also where a suite leaves them out; none: ours alone",
    )
    parser.add_argument("--threads", nargs="+", type=int, default=None, help="1 2 by default")
    parser.add_argument("--match", default="", help="only problems whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="small problems, hardly any repeats")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contestant")
    parser.add_argument("--seconds", type=float, default=1.0, help="timed, for each contestant")
    parser.add_argument(
        "--patience",
        type=float,
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
    parser.add_argument("--base", metavar="REV", help="compare with this revision instead")
    options = parser.parse_args(argv)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if options.threads is None:
        options.threads = [n for n in (1, 2) if n <= (cpus or 1)]
    elif max(options.threads) > (cpus or 1) or min(options.threads) < 1:
        parser.error(f"--threads {max(options.threads)}: this process has {cpus} CPUs")
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the suites, each in a process for each number of threads; the results so far are always
    in the file.
    """
    results: dict[str, Any] = {
        "schema": 1,
        "command": ["python", "-m", "benchmarks", *sys.argv[1:]],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": options.quick,
        "revision": measure.revision(),
        "versions": measure.versions(),
        "machine": measure.machine(),
        "load": os.getloadavg()[0],
        "awake": options.awake,
        "limits": [],
        "records": [],
    }
    for suite in options.grid or list(GRIDS):
        for threads in [max(options.threads)] if suite in ONCE else options.threads:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "records.json"
                request = {
                    "suite": suite,
                    "threads": threads,
                    "peers": options.peers,
                    "match": options.match,
                    "quick": options.quick,
                    "rounds": options.rounds,
                    "seconds": options.seconds,
                    "patience": options.patience,
                    "file": str(file),
                }
                command = [sys.executable, "-m", "benchmarks.worker", json.dumps(request)]
                done = subprocess.run(command, cwd=measure.ROOT, check=False)
                if file.exists():
                    found = json.loads(file.read_text())
                    results["limits"].append(found["limits"])
                    results["records"] += found["records"]
                if done.returncode:
                    print(f"{suite} on {threads} threads ended early", file=sys.stderr)
            if options.json is not None:
                options.json.write_text(json.dumps(results, indent=1) + "\n")
    return results


def table(argv: list[str]) -> None:
    """The command ``table``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks table")
    parser.add_argument("file", type=Path, nargs="+", help="JSON files of runs; later ones win")
    parser.add_argument("--write", type=Path, help="put the tables into this page, between marks")
    options = parser.parse_args(argv)
    results = report.merged([json.loads(file.read_text()) for file in options.file])
    if options.write is None:
        print(report.markdown(results))
    else:
        options.write.write_text(report.filled(options.write.read_text(), results))


def main(argv: list[str]) -> None:
    if argv[:1] == ["table"]:
        table(argv[1:])
        return
    options = arguments(argv)
    with awake() if options.awake else nullcontext():
        results = run(options) if options.base is None else compare_revisions(options)
    if options.base is None:
        print(report.markdown(results))
        print(summary(results))
        return
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(report.comparison(results))


if __name__ == "__main__":
    main(sys.argv[1:])
