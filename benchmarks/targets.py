"""The nine targets, each with the suite that measures it: target, measured, verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contests import CONTESTS
from benchmarks.memory import RESOLUTION
from benchmarks.peers import OURS
from benchmarks.problems import FIFTH, FOURTH, GRIDS, SECOND, SIXTH, THIRD, Problem
from benchmarks.results import limits_of
from benchmarks.work import Floor, row_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Finding:
    """One line of a target's verdict: ``met`` is ``None`` where it wasn't measured (in full), and
    ``measured`` is ``-`` where it wasn't at all.
    """

    number: int
    target: str
    threads: int
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        if self.met is None:
            return "not measured" if self.measured == "-" else "not measured in full"
        return "met" if self.met else "open"


def by_problem(records: Records, suite: str, threads: int) -> dict[str, Records]:
    """The suite's records on so many threads, by problem."""
    found: dict[str, Records] = {}
    for record in records:
        if record["suite"] == suite and record["threads"] == threads:
            found.setdefault(record["name"], []).append(record)
    return found


def seconds(records: Records, contestant: str) -> float | None:
    """The median of a contestant that was right; ``None``: there is no such figure."""
    for record in records:
        if record["contestant"] == contestant and record["status"] == "ok":
            found: float | None = record.get("median_s")
            return found
    return None


def fastest_peer(records: Records) -> tuple[str, float] | None:
    """Of those that were right and aren't ours in another form."""
    timed = [
        (r["median_s"], r["contestant"])
        for r in records
        if r["status"] == "ok" and not r["contestant"].startswith(OURS) and "median_s" in r
    ]
    return (min(timed)[1], min(timed)[0]) if timed else None


def ratio(records: Records) -> float | None:
    """How many times ours is as fast as the fastest peer.

    ``None``, a ratio refused: ours was wrong or not measured, or no peer was right.
    """
    ours, peer = seconds(records, OURS), fastest_peer(records)
    return peer[1] / ours if ours is not None and peer is not None else None


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs))


def findings(results: dict[str, Any]) -> list[Finding]:
    """All targets, in order, for each number of threads that was measured."""
    counts = sorted({limits["threads"] for limits in results["limits"]})
    return [f for target in _TARGETS for f in target(results, counts)]


def _against_peers(
    number: int, suite: str, mean: float, least: float
) -> Callable[[dict[str, Any], list[int]], Iterator[Finding]]:
    text = f"{suite}: geometric mean >= {mean}x the fastest peer, no point below {least}x"

    def check(results: dict[str, Any], counts: list[int]) -> Iterator[Finding]:
        problems = {p.name: p for p in GRIDS[suite]}
        for threads in counts:
            points = by_problem(results["records"], suite, threads)
            own = {n: records for n, records in points.items() if n in problems}
            ratios = {n: r for n, records in own.items() if (r := ratio(records)) is not None}
            red = [n for n, records in own.items() if _wrong(records)]
            if red:
                yield Finding(number, text, threads, f"no result: {', '.join(red)}", False)
                continue
            if not ratios:
                yield Finding(number, text, threads, "-", None)
                continue
            worst = min(ratios, key=lambda n: ratios[n])
            average = geometric_mean(ratios.values())
            measured = (
                f"{average:.2f}x over {len(ratios)} of {len(problems)}; "
                f"least {ratios[worst]:.2f}x ({worst})"
            )
            most = _ceiling(results, own.values())
            if most is not None:
                measured += f"; {most:.2f}x if ours took its floor"
            absent = set().union(*(_absent(suite, problems[n], own[n]) for n in own))
            if absent:
                measured += f"; not everywhere: {', '.join(sorted(absent))}"
            # One point below its limit decides, and so does the mean of all points, which another
            # peer can only lower; that all is well takes all points and all peers.
            whole = len(ratios) == len(problems)
            met = None if absent or not whole else True
            if ratios[worst] < least or (whole and average < mean):
                met = False
            yield Finding(number, text, threads, measured, met)

    return check


def _absent(suite: str, problem: Problem, records: Records) -> set[str]:
    """The suite's entrants for a problem that have no figure and might have one."""
    settled = {r["contestant"] for r in records if r["status"] in ("ok", "unsupported")}
    return {e.label for e in CONTESTS[suite](problem, records[0]["threads"])} - settled


def _ceiling(results: dict[str, Any], points: Iterable[Records]) -> float | None:
    """The mean ratio if each call of ours took its floor."""
    most = []
    for records in points:
        peer = fastest_peer(records)
        limits = limits_of(results, records[0])
        peak, bandwidth = limits.get("flop_per_s"), limits.get("bytes_per_s")
        if peer is not None and peak and bandwidth:
            least = Floor(records[0]["flop"], records[0]["bytes"]).seconds(peak, bandwidth)
            most.append(peer[1] / least)
    return geometric_mean(most) if most else None


def _wrong(records: Records) -> bool:
    return any(r["contestant"] == OURS and r["status"] != "ok" for r in records)


def _near_peak(results: dict[str, Any], counts: list[int]) -> Iterator[Finding]:
    for shape, share in ((FIFTH, 0.70), (SIXTH, 0.60), (FOURTH, 0.55)):
        for cell in ("lstm", "gru"):
            name = Problem(cell, *shape).name
            for threads in counts:
                own = by_problem(results["records"], "training", threads).get(name, [])
                took = seconds(own, OURS)
                peak = limits_of(results, own[0]).get("flop_per_s") if own else None
                text = f"{name}: >= {share:.0%} of the FMA peak"
                if took is None or not peak:
                    yield Finding(3, text, threads, "-", None)
                    continue
                rate = own[0]["flop"] / took
                measured = f"{rate / peak:.0%} ({rate / 1e9:.0f} of {peak / 1e9:.0f} GFLOP/s)"
                yield Finding(3, text, threads, measured, rate / peak >= share)


def _any_cell(results: dict[str, Any], counts: list[int]) -> Iterator[Finding]:
    for threads in counts:
        points = by_problem(results["records"], "cells", threads)
        for cell in ("own", "lstm_layer_norm"):
            for shape in (THIRD, FOURTH):
                name = Problem(cell, *shape).name
                yield _quotient(
                    4, f"{name}: <= 1.25x the LSTM's time", threads,
                    seconds(points.get(name, []), OURS),
                    seconds(points.get(name, []), "ostinato_lstm"), lambda q: q <= 1.25,
                )  # fmt: skip
            name = Problem(cell, *THIRD).name
            yield _quotient(
                4, f"{name}: >= 20x its plain PyTorch loop", threads,
                seconds(points.get(name, []), "torch_loop"),
                seconds(points.get(name, []), OURS), lambda q: q >= 20,
            )  # fmt: skip


def _quotient(
    number: int,
    text: str,
    threads: int,
    over: float | None,
    under: float | None,
    met: Callable[[float], bool],
) -> Finding:
    if over is None or under is None:
        return Finding(number, text, threads, "-", None)
    return Finding(number, text, threads, f"{over / under:.2f}x", met(over / under))


def _lengths(results: dict[str, Any], counts: list[int]) -> Iterator[Finding]:
    for threads in counts:
        points = by_problem(results["records"], "lengths", threads)
        for problem in GRIDS["lengths"]:
            share = row_steps(problem) / (problem.T * problem.B)
            own = points.get(problem.name, [])
            for label in (OURS, "ostinato_packed"):
                took, full = seconds(own, label), seconds(own, "ostinato_full")
                how = "packed" if label != OURS else "lengths"
                yield _quotient(
                    5, f"{problem.name}, {how}: <= 1.15x its share of the full batch", threads,
                    took, None if full is None else full * share, lambda q: q <= 1.15,
                )  # fmt: skip


def _small(results: dict[str, Any], counts: list[int]) -> Iterator[Finding]:
    limits = {p.name: (25e-6 if p.mode == "infer" else 80e-6) for p in GRIDS["overhead"]}
    limits |= {"trace-new-cell": 1.5, "new-shape": 2e-3}
    for threads in counts:
        points = by_problem(results["records"], "overhead", threads)
        for name, limit in limits.items():
            took = seconds(points.get(name, []), OURS)
            measured = "-" if took is None else duration(took)
            met = None if took is None else took <= limit
            yield Finding(6, f"{name}: <= {duration(limit)}", threads, measured, met)


def _scaling(results: dict[str, Any], counts: list[int]) -> Iterator[Finding]:
    for problem in GRIDS["scaling"]:
        own = [
            r for r in results["records"] if r["suite"] == "scaling" and r["name"] == problem.name
        ]
        yield _quotient(
            7, f"{problem.name}: two threads >= 1.7x one", 2,
            seconds(own, f"{OURS}@1"), seconds(own, f"{OURS}@2"), lambda q: q >= 1.7,
        )  # fmt: skip


def _memory(results: dict[str, Any], counts: list[int]) -> Iterator[Finding]:
    for problem in GRIDS["memory"]:
        own = {
            r["contestant"]: r
            for r in results["records"]
            if r["suite"] == "memory" and r["name"] == problem.name and r["status"] == "ok"
        }
        text = f"{problem.name}: peak <= torch.nn's, what is kept is as told"
        if OURS not in own or "torch_nn" not in own:
            yield Finding(8, text, counts[-1] if counts else 0, "-", None)
            continue
        ours, theirs = own[OURS], own["torch_nn"]
        told = ours["kept_bytes"] == ours["told_bytes"]
        measured = (
            f"{ours['peak_bytes'] / 2**20:.2f} MiB, torch.nn {theirs['peak_bytes'] / 2**20:.2f}; "
            f"kept {ours['kept_bytes']} bytes, told {ours['told_bytes']}"
        )
        less = ours["peak_bytes"] <= theirs["peak_bytes"] + RESOLUTION
        yield Finding(8, text, ours["threads"], measured, less and told)


def _keras(results: dict[str, Any], counts: list[int]) -> Iterator[Finding]:
    least = {("keras_jax", SECOND): 1.5, ("keras_jax", FOURTH): 3.0}
    for threads in counts:
        points = by_problem(results["records"], "keras", threads)
        for problem in GRIDS["keras"]:
            own = points.get(problem.name, [])
            for peer in ("keras_jax", "keras_torch"):
                times = least.get((peer, problem.shape), 10.0)
                for label, how in ((OURS, "plain"), ("ostinato_recorded", "recorded")):
                    yield _quotient(
                        9, f"{problem.name}, {how}: >= {times}x {peer}", threads,
                        seconds(own, peer), seconds(own, label), lambda q, t=times: q >= t,
                    )  # fmt: skip


_TARGETS: tuple[Callable[[dict[str, Any], list[int]], Iterator[Finding]], ...] = (
    _against_peers(1, "training", 2.5, 1.1),
    _against_peers(2, "inference", 2.0, 1.0),
    _near_peak,
    _any_cell,
    _lengths,
    _small,
    _scaling,
    _memory,
    _keras,
)


def digits(value: float) -> str:
    """Three of them that count, never with an exponent."""
    return np.format_float_positional(float(f"{value:.3g}"), trim="-")


def duration(value: float) -> str:
    """With a unit that suits it."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1 or unit == "µs":
            return f"{digits(value * factor)} {unit}"
    raise AssertionError(value)


def rows(results: dict[str, Any]) -> list[list[str]]:
    """Of what was measured: target, what, threads, measured, verdict."""
    return [
        [str(f.number), f.target, str(f.threads), f.measured, f.verdict]
        for f in findings(results)
        if f.measured != "-"
    ]


def unmeasured(results: dict[str, Any]) -> list[int]:
    """Targets of which something, or all, has no figure."""
    return sorted({f.number for f in findings(results) if f.met is None})


def summary(results: dict[str, Any]) -> str:
    """The targets as lines of text, and the verdict on each whole one."""
    lines = [
        f"{number}. {text} [{threads}]: {measured}: {verdict}"
        for number, text, threads, measured, verdict in rows(results)
    ]
    found = findings(results)
    for number in sorted({f.number for f in found}):
        own = [f for f in found if f.number == number]
        missing = sum(f.met is None for f in own)
        met = sum(f.met is True for f in own)
        more = f", {missing} not measured (in full)" if missing else ""
        lines.append(f"target {number}: {met} of {len(own)} met{more}")
    return "\n".join(lines)
