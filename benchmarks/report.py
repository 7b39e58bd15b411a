"""Markdown from results: a table for each suite, the targets, and the pages they go into."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from benchmarks import targets
from benchmarks.peers import OURS
from benchmarks.problems import GRIDS
from benchmarks.results import belongs, limits_of
from benchmarks.targets import digits
from benchmarks.work import Floor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: What stands between such marks in a page is written by ``table --write``.
_MARKED = re.compile(r"(<!-- measured: ([\w-]+) -->\n).*?(<!-- end measured -->)", re.DOTALL)

_AWAKE = "CPUs kept awake (`--awake`)"


def table(head: list[str], body: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine_line(machine: dict[str, Any]) -> str:
    return (
        f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['system']}, Python {machine['python']}"
    )


def commit(revision: dict[str, Any]) -> str:
    """A checkout's commit, and what more there is to say of what was built of it."""
    changed = " with changes" if revision["changed"] else ""
    stale = ", the compiled module older than a file of native/" if revision.get("stale") else ""
    return (revision["commit"] or "unknown")[:12] + changed + stale


def conditions(results: dict[str, Any]) -> str:
    """Where and with what the figures were measured."""
    lines = [machine_line(results["machine"]), *_by_suite(results, lambda r: f"commit {commit(r)}")]
    lines += _by_suite(results, _libraries)
    for limits in results["limits"]:
        if limits.get("flop_per_s") and limits.get("bytes_per_s"):
            lines.append(
                f"{limits['suite']}, {limits['threads']} threads, {limits['started']}: "
                f"FMA peak measured {limits['flop_per_s'] / 1e9:.0f} GFLOP/s, "
                f"copy {limits['bytes_per_s'] / 1e9:.1f} GB/s"
                f"{_round_trips(limits)}{_undisturbed(results, limits)}"
            )
    if results["awake"]:
        lines.append(_AWAKE)
    if results["quick"]:
        lines.append("a quick run: small problems, no figures to quote")
    return "\n".join(f"- {line}" for line in lines + _by_suite(results, _busy))


def _libraries(limits: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {version or '(not installed)'}" for name, version in limits["versions"].items()
    )


def _busy(limits: dict[str, Any]) -> str:
    load = limits["load"]
    return f"the machine was busy when this began (load {load:.1f})" if load > 0.5 else ""


def _by_suite(results: dict[str, Any], tell: Callable[[dict[str, Any]], str]) -> list[str]:
    """What there is to tell, each with the suites that it is true of unless it is of all."""
    groups: dict[str, list[str]] = {}
    for limits in results["limits"]:
        records = [r for r in results["records"] if r["suite"] == limits["suite"]]
        of_these = {r["name"] for r in records if belongs(r, limits)}
        rest = {r["name"] for r in records if r["threads"] == limits["threads"]} - of_these
        part = f" ({', '.join(sorted(of_these))})" if rest else ""
        suite = f"{limits['suite']} [{limits['threads']}]{part}"
        groups.setdefault(tell(limits), []).append(suite)
    if len(groups) == 1:
        return [text for text in groups if text]
    return [f"{text}: {', '.join(suites)}" for text, suites in groups.items() if text]


def _round_trips(limits: dict[str, Any]) -> str:
    """How long two CPUs took to hear from each other, problem by problem."""
    trips = sorted(limits.get("round_trips_s", ()))
    if not trips:
        return ""
    low, middle, high = (trips[i] * 1e9 for i in (0, len(trips) // 2, -1))
    return f", a round trip between CPUs {middle:.0f} ns ({low:.0f} to {high:.0f})"


def _undisturbed(results: dict[str, Any], limits: dict[str, Any]) -> str:
    """How many of a suite's problems have figures of undisturbed turns alone."""
    calm = {r["name"]: r["calm"] for r in results["records"] if belongs(r, limits) and "calm" in r}
    if not calm:
        return ""
    return f"; {sum(calm.values())} of {len(calm)} problems in undisturbed turns alone"


def suite_table(results: dict[str, Any], suite: str) -> str:
    """Times in ms as median and (quartiles); GFLOP/s and share of the peak are ours."""
    if suite == "memory":
        return _memory_table(results)
    records = [r for r in results["records"] if r["suite"] == suite]
    if suite == "scaling":
        # Each entry has its own number of threads.
        groups = [(0, records)] if records else []
    else:
        counts = sorted({r["threads"] for r in records})
        groups = [(n, [r for r in records if r["threads"] == n]) for n in counts]
    parts = []
    for threads, own in groups:
        title = f"{threads} thread{'s' * (threads != 1)}:\n\n" if threads else ""
        parts.append(title + _times_table(results, suite, own))
    return "\n\n".join(parts) or "Not measured."


def _times_table(results: dict[str, Any], suite: str, records: list[dict[str, Any]]) -> str:
    labels = list(dict.fromkeys(r["contestant"] for r in records))
    most = max(r["threads"] for r in records)
    ours = f"{OURS}@{most}" if suite == "scaling" else OURS
    head = ["problem", *(f"{label}, ms" for label in labels), "GFLOP/s", "of peak", "floor, ms"]
    body = []
    names = list(dict.fromkeys(r["name"] for r in records))
    for name in names:
        own = [r for r in records if r["name"] == name]
        mine = next((r for r in own if r["contestant"] == ours), own[0])
        took = targets.seconds(own, ours)
        rate = mine["flop"] / took if took and mine.get("flop") else None
        limits = limits_of(results, mine)
        peak, bandwidth = limits.get("flop_per_s"), limits.get("bytes_per_s")
        least = "-"
        if peak and bandwidth and mine.get("flop"):
            least = digits(1e3 * Floor(mine["flop"], mine["bytes"]).seconds(peak, bandwidth))
        by_label = {r["contestant"]: r for r in own}
        row = [name, *(_cell(by_label.get(label)) for label in labels)]
        row += [
            f"{rate / 1e9:.0f}" if rate else "-",
            f"{rate / peak:.0%}" if rate and peak else "-",
        ]
        row.append(least)
        if suite != "scaling":
            row.append(_lead(own))
        body.append(row)
    if suite != "scaling":
        head.append("fastest peer")
    notes = _notes(records)
    return table(head, body) + (f"\n\n{notes}" if notes else "")


def _cell(record: dict[str, Any] | None) -> str:
    if record is None:
        return "-"
    if record["status"] != "ok":
        return record["status"]
    median, low, high = (digits(1e3 * record[k]) for k in ("median_s", "low_s", "high_s"))
    return f"{median} ({low} to {high})"


def _lead(records: list[dict[str, Any]]) -> str:
    peer, times = targets.fastest_peer(records), targets.ratio(records)
    if peer is None:
        return "-"
    return f"{peer[0]}, {times:.2f}x" if times is not None else f"{peer[0]}, no ratio"


def _notes(records: list[dict[str, Any]]) -> str:
    """Why contestants have no figure, and how long compilers took."""
    lines = []
    for contestant in dict.fromkeys(r["contestant"] for r in records):
        own = [r for r in records if r["contestant"] == contestant]
        for status in ("missing", "failed", "wrong"):
            told = {r["note"] for r in own if r["status"] == status}
            lines += [f"- {contestant}: {status}: {note}" for note in sorted(told)]
        compiled = [r["compile_s"] for r in own if r.get("compile_s")]
        if compiled:
            lines.append(
                f"- {contestant}: compiling took {min(compiled):.1f} to {max(compiled):.1f} s, "
                "not counted"
            )
    return "\n".join(lines)


def _memory_table(results: dict[str, Any]) -> str:
    records = [r for r in results["records"] if r["suite"] == "memory"]
    body = []
    for name in dict.fromkeys(r["name"] for r in records):
        own = {r["contestant"]: r for r in records if r["name"] == name}
        mine = own[OURS]
        peaks = [_peak(own.get(contestant)) for contestant in (OURS, "torch_nn")]
        kept = [
            f"{mine[k] / 2**20:.2f}" if k in mine else "-" for k in ("kept_bytes", "told_bytes")
        ]
        body.append([name, *peaks, *kept])
    head = ["problem", "ostinato, MiB", "torch.nn, MiB", "kept, MiB", "explain() says, MiB"]
    return table(head, body) if body else "Not measured."


def _peak(record: dict[str, Any] | None) -> str:
    if record is None:
        return "-"
    return f"{record['peak_bytes'] / 2**20:.2f}" if record["status"] == "ok" else record["status"]


def targets_table(results: dict[str, Any]) -> str:
    body = targets.rows(results)
    missing = targets.unmeasured(results)
    parts = [table(["target", "what", "threads", "measured", "verdict"], body)] if body else []
    if missing:
        parts.append(f"Not measured, or not in full: {', '.join(map(str, missing))}.")
    return "\n\n".join(parts)


def section(results: dict[str, Any], name: str) -> str:
    """What a mark of this name stands for: ``conditions``, ``targets`` or a suite.

    Raises:
        ValueError: none of these.
    """
    if name == "conditions":
        return conditions(results)
    if name == "targets":
        return targets_table(results)
    if name not in GRIDS:
        raise ValueError(f"no section is called {name!r}; there are: {', '.join(sections())}")
    return suite_table(results, name)


def sections() -> list[str]:
    return ["conditions", "targets", *GRIDS]


def markdown(results: dict[str, Any]) -> str:
    """All sections that have something to say."""
    measured = {r["suite"] for r in results["records"]}
    names = [n for n in sections() if n not in GRIDS or n in measured]
    return "\n\n".join(f"## {name}\n\n{section(results, name)}" for name in names)


def filled(page: str, results: dict[str, Any]) -> tuple[str, list[str]]:
    """The page with its marked sections written anew, and the names of those left as they were.

    These are suites without records and, where there are such, conditions and targets, which speak
    of all that the page shows.

    Raises:
        ValueError: nothing is marked, or with a name that no section has.
    """
    marked = [match[2] for match in _MARKED.finditer(page)]
    if not marked:
        raise ValueError("the page has no <!-- measured: NAME --> ... <!-- end measured -->")
    measured = {r["suite"] for r in results["records"]}
    left = [name for name in marked if name in GRIDS and name not in measured]
    if left:
        left += [name for name in marked if name in ("conditions", "targets")]

    def written(match: re.Match[str]) -> str:
        name = match[2]
        return match[0] if name in left else f"{match[1]}{section(results, name)}\n{match[3]}"

    return _MARKED.sub(written, page), left


def comparison(results: dict[str, Any]) -> str:
    """Two revisions side by side; above 1: this one is faster."""
    body = []
    for record in results["records"]:
        row = [record["name"], str(record["threads"])]
        if record["status"] != "ok":
            body.append([*row, "-", "-", record["note"] or record["status"], ""])
            continue
        base, this = record["base"], record["this"]
        # The quartiles' ranges overlap: the difference may be chance.
        apart = base["low_s"] > this["high_s"] or this["low_s"] > base["high_s"]
        times = base["median_s"] / this["median_s"]
        body.append(
            [*row, _cell(base), _cell(this), f"{times:.3f}x", "" if apart else "within spread"]
        )
    head = ["problem", "threads", "base, ms", "this, ms", "speed-up", ""]
    lines = [f"base: commit {results['base'][:12]}", f"this: commit {commit(results['revision'])}"]
    if results["awake"]:
        lines.append(_AWAKE)
    return "\n".join(f"- {line}" for line in lines) + "\n\n" + table(head, body)
