"""``ostinato bench``: one layer, ours beside what is installed, in a few seconds.

For figures to be quoted there is ``python -m benchmarks`` in the repository; this is the quick look
on your own machine.
"""

from __future__ import annotations

import gc
import statistics
import time
from typing import TYPE_CHECKING

from ostinato.cli.printing import rate, say, table
from ostinato.cli.usage import UsageError, at_least

if TYPE_CHECKING:
    import argparse

    from ostinato.cli.bench_peers import Contestant, Problem

SUMMARY = "time a recurrent layer beside what is installed: PyTorch, JAX, ONNX Runtime"

_ROUNDS = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("--cell", default="lstm", metavar="NAME", help="a registered cell (default: lstm)")
    add("--steps", type=at_least(1), default=100, metavar="T", help="steps (default: 100)")
    add(
        "--batch", type=at_least(1), default=64, metavar="B", help="rows of the batch (default: 64)"
    )
    add("--input", type=at_least(1), default=128, metavar="I", help="input size (default: 128)")
    add("--hidden", type=at_least(1), default=128, metavar="H", help="hidden size (default: 128)")
    add(
        "--threads",
        type=at_least(0),
        default=0,
        metavar="N",
        help="0: what PyTorch takes (default)",
    )
    add(
        "--seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="time for each contestant and mode (default: 1)",
    )
    add("--plan", action="store_true", help="also print the whole plan of our layer")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 1 if a result was wrong."""
    if not args.seconds > 0:
        raise UsageError(f"--seconds: expected a number above 0, got {args.seconds}")
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    from ostinato.cli.bench_peers import Problem, contestants

    problem = Problem(args.cell, args.steps, args.batch, args.input, args.hidden)
    running, left_out = contestants(problem)
    say(
        f"{problem.name}: {args.steps} steps, {args.batch} rows, input {args.input}, "
        f"hidden {args.hidden}, float32, {torch.get_num_threads()} threads"
    )
    wrong = False
    for mode, title in (("infer", "forward"), ("train", "forward and backward")):
        wrong |= _compare(problem, [c for c in running if mode in c.calls], mode, title, args)
    for name, why in left_out:
        say(f"left out: {name}, {why}")
    report = problem.layer.explain()
    say(f"\nour engine: {report.engine} ({report.reason}), instruction set {report.isa or 'none'}")
    if args.plan:
        say(f"\n{report}")
    return 1 if wrong else 0


def _compare(
    problem: Problem, running: list[Contestant], mode: str, title: str, args: argparse.Namespace
) -> bool:
    """Check, time and print one mode; true if a result was wrong."""
    right: list[Contestant] = []
    rows: list[list[str]] = []
    for contestant in running:
        verdict = problem.verdict(mode, contestant.calls[mode]())
        if verdict is None:
            right.append(contestant)
        else:
            rows.append([contestant.name, "wrong", "", "", verdict])
    times = _times(right, mode, args.seconds)
    ours = statistics.median(times["ostinato"]) if "ostinato" in times else None
    measured = []
    for name, seconds in times.items():
        ms = [s * 1e3 for s in seconds]
        low, middle, high = statistics.quantiles(ms, n=4)
        beside = "" if ours is None else f"{middle / (ours * 1e3):.2f}x"
        steps = rate(args.steps * args.batch / (middle / 1e3))
        measured.append(
            [name, f"{rate(middle)} ms", beside, steps, f"{rate(low)} to {rate(high)} ms"]
        )
    say(f"\n{title}")
    say(
        table(
            ["", "median", "beside ours", "steps a second", "quartiles"],
            [*measured, *rows],
        )
    )
    return bool(rows)


def _times(running: list[Contestant], mode: str, seconds: float) -> dict[str, list[float]]:
    """Seconds of each call. Contestants take turns, each round in the other order."""
    times: dict[str, list[float]] = {c.name: [] for c in running}
    gc.disable()
    try:
        for number in range(_ROUNDS):
            for contestant in running if number % 2 == 0 else reversed(running):
                call = contestant.calls[mode]
                call()  # what others left in the caches goes
                end = time.perf_counter() + seconds / _ROUNDS
                while True:
                    begin = time.perf_counter()
                    call()
                    now = time.perf_counter()
                    times[contestant.name].append(now - begin)
                    if now >= end:
                        break
    finally:
        gc.enable()
    return times
