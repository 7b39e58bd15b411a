"""Whole trainings from the command line with their default options: what they reach, how fast.

    python -m benchmarks.tasks                                  all data sets, seeds 0 1 2
    python -m benchmarks.tasks imdb co2 --seeds 0 --json results.json
    python -m benchmarks.tasks imdb --cell lstm                 with other options of `train`

Each run is ``python -m ostinato train ...`` in a process of its own, timed from its start to its
end: imports, reading the data, training and the evaluation on the held-out part. The metrics are
what ``ostinato evaluate --json`` then says of the model. Medians over the seeds are held against
the targets. A JSON file that is there gets the new runs added, in the place of older ones of the
same data set, seed and options, so that the table can be made in pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import measure, report

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Load, without our own, from which on times are worth nothing. Our last run's is still in it.
BUSY = 2.5
COMMAND = [sys.executable, "-m", "ostinato"]


@dataclass(frozen=True)
class Goal:
    """What a model of one data set must reach.

    Attributes:
        name: of the data set.
        train: words after ``ostinato train``.
        metric: as ``ostinato evaluate`` calls it.
        at_least, at_most: its target; None: none of this kind.
        below: metrics of baselines, below each of which it must be.
        beside: metrics that are shown beside it.
        seconds: longest time of the whole command; None: it is only told.
    """

    name: str
    train: tuple[str, ...]
    metric: str
    at_least: float | None = None
    at_most: float | None = None
    below: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    seconds: float | None = None

    def target(self) -> str:
        parts = [
            *([f"≥ {self.at_least:g}"] if self.at_least is not None else []),
            *([f"≤ {self.at_most:g}"] if self.at_most is not None else []),
            *(f"below {_words(name)}" for name in self.below),
        ]
        return ", ".join(parts)

    def met(self, runs: Sequence[dict[str, Any]]) -> bool:
        """Whether the medians over the runs are within all bounds."""
        value = _median(runs, self.metric)
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and all(value < _median(runs, name) for name in self.below)
            and (self.seconds is None or _median(runs) <= self.seconds)
        )


_FORECAST = {"metric": "mae", "below": ("seasonal_naive_mae", "linear_ar_mae")}
#: Data set -> goal.
GOALS = {
    goal.name: goal
    for goal in (
        Goal("imdb", ("classify",), "accuracy", at_least=0.87, seconds=120),
        Goal("shakespeare", ("lm",), "bits_per_character", at_most=2.2, seconds=300),
        Goal(
            "japanese-vowels",
            ("classify", "--dataset", "japanese-vowels"),
            "accuracy",
            at_least=0.97,
        ),
        Goal(
            "hkcancor",
            ("tag",),
            "error_reduction",
            at_least=0.3,
            beside=("accuracy", "baseline_accuracy"),
        ),
        Goal("co2", ("forecast",), **_FORECAST),
        Goal("sunspots", ("forecast", "--dataset", "sunspots"), **_FORECAST),
    )
}


def run(goal: Goal, seed: int, more: Sequence[str] = ()) -> dict[str, Any]:
    """One training: ``name``, ``seed``, ``options``, ``seconds``, ``metrics``, ``notes``, what was
    run and on what; ``load`` is the machine's before it began.

    Args:
        goal: says what to train.
        seed: of the training.
        more: other options of ``ostinato train``.

    Raises:
        SystemExit: a command failed; shows what it said.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    load = os.getloadavg()[0]
    words = ["train", *goal.train, "--seed", str(seed), *more]
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder, "model"))
        begin = time.perf_counter()
        _said_by([*words, "--out", model])
        seconds = time.perf_counter() - begin
        evaluation = json.loads(_said_by(["evaluate", model, "--json"]))
    return {
        "name": goal.name,
        "seed": seed,
        "options": list(more),
        "command": words,
        "started": started,
        "load": load,
        "seconds": seconds,
        "metrics": evaluation["metrics"],
        "notes": evaluation["notes"],
        "revision": measure.revision(),
    }


def _said_by(words: list[str]) -> str:
    done = subprocess.run(
        [*COMMAND, *words], capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        raise SystemExit(
            f"`ostinato {' '.join(words)}` ended with {done.returncode}:\n{done.stdout[-2000:]}"
            f"{done.stderr}"
        )
    return done.stdout


def markdown(results: dict[str, Any], goals: dict[str, Goal] = GOALS) -> str:
    """Conditions, and a table with a line for each data set and choice of options."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in sorted(results["runs"], key=lambda r: r["seed"]):
        groups.setdefault((one["name"], " ".join(one["options"])), []).append(one)
    order = list(goals)
    body = [
        _line(goals[name], options, groups[name, options])
        for name, options in sorted(groups, key=lambda key: (order.index(key[0]), key[1]))
    ]
    head = ["data set", "metric", "by seed", "median", "target", "time", "limit", ""]
    machine = results["machine"]
    commits = {report.commit(one["revision"]) for one in results["runs"]}
    busiest = max(one["load"] for one in results["runs"])
    lines = [
        f"- {report.machine_line(machine)}, PyTorch {results['versions']['torch']}",
        f"- commit {', '.join(sorted(commits))}",
        "- time: of the whole command, each seed's and the median",
    ]
    if busiest > BUSY:
        lines.append(f"- the machine was busy when a run began (load {busiest:.1f})")
    return "\n".join(lines) + "\n\n" + report.table(head, body)


def _line(goal: Goal, options: str, runs: list[dict[str, Any]]) -> list[str]:
    seconds = [one["seconds"] for one in runs]
    told = [
        f"{_words(name)} {_median(runs, name):.4g}"
        for name in (*goal.below, *goal.beside)
        if name in runs[0]["metrics"]
    ]
    return [
        f"{goal.name} `{options}`" if options else goal.name,
        _words(goal.metric),
        " ".join(f"{one['metrics'][goal.metric]:.4g}" for one in runs),
        f"{_median(runs, goal.metric):.4g}" + (f" ({', '.join(told)})" if told else ""),
        goal.target(),
        f"{' '.join(f'{s:.0f}' for s in seconds)}: {_median(runs):.0f} s",
        "-" if goal.seconds is None else f"{goal.seconds:g} s",
        "met" if goal.met(runs) else "missed",
    ]


def _median(runs: Sequence[dict[str, Any]], metric: str | None = None) -> float:
    """Of a metric, or of the times."""
    return statistics.median(r["seconds"] if metric is None else r["metrics"][metric] for r in runs)


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def opened(path: Path | None) -> dict[str, Any]:
    """The results so far: those of the file, if it is there.

    Raises:
        SystemExit: they come from another machine or other versions.
    """
    here = {"schema": 1, "machine": measure.machine(), "versions": measure.versions()}
    if path is None or not path.exists():
        return {**here, "runs": []}
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    different = [key for key, value in here.items() if results.get(key) != value]
    if different:
        raise SystemExit(f"{path}: its {' and '.join(different)} aren't this run's; move it away")
    return results


def added(results: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The results with one more run, in the place of an older one like it."""
    alike = ("name", "seed", "options")
    kept = [r for r in results["runs"] if any(r[key] != new[key] for key in alike)]
    return {**results, "runs": [*kept, new]}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tasks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("data", nargs="*", metavar="DATA", help=f"{', '.join(GOALS)}; none: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="add the results to this file")
    options, more = parser.parse_known_args(argv)
    unknown = [name for name in options.data if name not in GOALS]
    if unknown:
        parser.error(f"no goal for {', '.join(unknown)}; there are: {', '.join(GOALS)}")
    results = opened(options.json)
    for name in options.data or GOALS:
        for seed in options.seeds:
            results = added(results, run(GOALS[name], seed, more))
            if options.json is not None:
                options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(markdown(results))


if __name__ == "__main__":
    main(sys.argv[1:])
