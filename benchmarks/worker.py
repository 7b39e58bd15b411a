"""One suite on so many threads, in a process that has as many CPUs; started by ``__main__``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import checkout
from benchmarks.results import save


def work(request: dict[str, Any]) -> None:
    """Run what ``request`` asks for and write the records to its file, problem by problem.

    Raises:
        SystemExit: what would be measured isn't of this checkout.
    """
    checkout.check(checkout.imported())
    # Before PyTorch and JAX are loaded, which look at the CPUs once.
    from benchmarks.measure import pin

    threads: int = request["threads"]
    pin(threads)

    import torch

    from benchmarks.contests import contest, entries_of
    from benchmarks.measure import Effort, copied_bytes_per_s, peak_flop_per_s, round_trip_s
    from benchmarks.memory import memory_records
    from benchmarks.problems import chosen
    from benchmarks.tracing import traced, tracing_records

    torch.set_num_threads(threads)
    suite: str = request["suite"]
    quick: bool = request["quick"]
    peers: list[str] | None = request["peers"]
    effort = Effort.asked(request)
    limits: dict[str, Any] = {"suite": suite, "threads": threads}
    result = {"limits": limits, "records": []}
    records: list[dict[str, Any]] = result["records"]  # type: ignore[assignment]

    def keep(more: list[dict[str, Any]]) -> None:
        records.extend(more)
        save(Path(request["file"]), result)
        for line in lines(more, limits):
            print(line, file=sys.stderr, flush=True)

    limits["flop_per_s"] = peak_flop_per_s(threads)
    limits["bytes_per_s"] = copied_bytes_per_s(threads)
    limits["round_trips_s"] = []
    for problem in chosen(suite, quick, request["match"]):
        round_trip = round_trip_s()
        if round_trip is not None:
            limits["round_trips_s"].append(round_trip)
        if suite == "memory":
            keep(memory_records(problem, threads, 1 if quick else 3, peers))
        else:
            entries = entries_of(suite, problem, threads, peers)
            keep(contest(suite, problem, entries, effort))
    names = traced(request["match"])
    if suite == "overhead" and names:
        keep(tracing_records(threads, 1 if quick else 5, names))
    # Whatever else the machine did at the beginning, it may not do at the end.
    again = peak_flop_per_s(threads)
    if again is not None:
        limits["flop_per_s"] = max(limits["flop_per_s"], again)
    keep([])


def lines(records: list[dict[str, Any]], limits: dict[str, Any]) -> list[str]:
    """A problem's outcome in a few words: progress, to read while it runs."""
    told = []
    for record in records:
        text = f"{record['name']} [{record['threads']}] {record['contestant']}: "
        if record["status"] != "ok":
            told.append(text + f"{record['status']}: {record['note']}")
        elif "peak_bytes" in record:
            told.append(text + f"peak {record['peak_bytes'] / 2**20:.1f} MiB")
        else:
            text += f"{record['median_s'] * 1e3:.3f} ms"
            peak = limits.get("flop_per_s")
            if record.get("flop"):
                rate = record["flop"] / record["median_s"]
                text += f", {rate / 1e9:.1f} GFLOP/s" + (f", {rate / peak:.0%}" if peak else "")
            if record.get("compile_s"):
                text += f", compiled in {record['compile_s']:.1f} s"
            told.append(text)
    return told


if __name__ == "__main__":
    try:
        work(json.loads(sys.argv[1]))
    except KeyboardInterrupt:  # it is for the process above, which tells of it
        sys.exit(130)
