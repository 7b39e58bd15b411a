"""How soon the default model of ``ostinato train classify`` reads IMDB as well as wanted.

    python -m benchmarks.time_to_accuracy --json ours.json
    KERAS_BACKEND=jax python -m benchmarks.keras_imdb --json jax.json
    python -m benchmarks.time_to_accuracy table ours.json jax.json

The training is that of the command, with its validation and checkpoints. The clock starts before
the first import, and stands still while the accuracy on the held-out part is looked at, which is
done ``--checks`` times an epoch. ``benchmarks.keras_imdb`` does the same with Keras; the table has
both, at the accuracies ``--wanted``.
"""

from __future__ import annotations

import time

BEGIN = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

from benchmarks.report import table  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WANTED = (0.87, 0.88, 0.89)


@dataclass
class Curve:
    """Accuracy against time.

    Attributes:
        who: what learns.
        seed: of its training.
        begin: when the process started, of :func:`time.perf_counter`; moved on by pauses.
        ready: s until the data were read and the model built.
        checks: each with ``epoch``, ``seconds``, ``accuracy``, and ``cpu``, the process's CPU time
            (s of all its threads, pauses left out): where other processes are busy, it says more.
        batches: s of each training batch's end.
    """

    who: str
    seed: int
    begin: float
    ready: float = 0.0
    checks: list[dict[str, float]] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)
    paused_cpu: float = 0.0

    def now(self) -> float:
        """Seconds since the start of the process but for pauses."""
        return time.perf_counter() - self.begin

    def start(self) -> None:
        """The data are read, the model is built."""
        self.ready = self.now()
        print(f"{self.ready:8.1f} s  data read, model built", flush=True)

    def batch(self) -> float:
        """A batch is learnt; gives the time."""
        self.batches.append(self.now())
        return self.batches[-1]

    def check(self, epoch: float, accuracy: Callable[[], float]) -> None:
        """Look at the accuracy while the clock stands still."""
        seconds, cpu = self.now(), time.process_time()
        found = accuracy()
        self.begin += self.now() - seconds
        own = cpu - self.paused_cpu
        self.paused_cpu += time.process_time() - cpu
        self.checks.append({"epoch": epoch, "seconds": seconds, "accuracy": found, "cpu": own})
        print(
            f"{seconds:8.1f} s  epoch {epoch:.3f}: held-out accuracy {found:.4f}; "
            f"{self.median_batch() * 1e3:.1f} ms a batch, {own:.1f} s of CPU time",
            flush=True,
        )

    def median_batch(self) -> float:
        """Seconds from a batch's end to the next one's."""
        steps = [b - a for a, b in zip(self.batches[:-1], self.batches[1:], strict=True)]
        return statistics.median(steps) if steps else math.nan

    def to_json(self) -> dict[str, Any]:
        return {
            "who": self.who,
            "seed": self.seed,
            "ready": self.ready,
            "batch": self.median_batch(),
            "seconds": self.batches[-1] if self.batches else self.now(),
            "checks": self.checks,
        }


def reached(curve: dict[str, Any], wanted: float) -> float | None:
    """Seconds at the first check that was as good as wanted; None: none was."""
    return next((c["seconds"] for c in curve["checks"] if c["accuracy"] >= wanted), None)


def ours(curve: Curve, checks: int, **options: Any) -> None:
    """Train as ``ostinato train classify`` does.

    Args:
        curve: what is filled in.
        checks: of the accuracy, each epoch.
        options: of :class:`ostinato.tasks.config.TrainConfig`.
    """
    from ostinato.data.bad_rows import BadRows
    from ostinato.tasks.classify import Classify
    from ostinato.tasks.config import TrainConfig
    from ostinato.tasks.run import fit_prepared
    from ostinato.train import Callback, Run, StepInfo
    from ostinato.train.randomness import seed_everything

    seed_everything(curve.seed)
    task = Classify(TrainConfig(task="classify", seed=curve.seed, **options))
    task.read(BadRows())
    model = task.build()
    prepared = task.prepare(model, None)

    class Checks(Callback):
        def on_step(self, run: Run, info: StepInfo) -> None:
            curve.batch()
            done = info.batch + 1
            if (done * checks) // info.batches > ((done - 1) * checks) // info.batches:
                curve.check(info.epoch - 1 + done / info.batches, self.accuracy)

        def accuracy(self) -> float:
            training = model.training
            found = task.evaluate(model, None, BadRows()).metrics["accuracy"]
            model.train(training)
            return found

    curve.start()
    with tempfile.TemporaryDirectory() as folder:
        fit_prepared(model, prepared, task.config, callbacks=[Checks()], directory=Path(folder))


def markdown(curves: Sequence[dict[str, Any]], wanted: Sequence[float] = WANTED) -> str:
    """A line for each contestant, medians over its seeds; the first one is what others are held
    against: ``(5x, 6x)`` says how many times its time from the process's start, and from the
    moment when the data were read and the model built.
    """
    names = list(dict.fromkeys(curve["who"] for curve in curves))
    first = [curve for curve in curves if curve["who"] == names[0]]
    body = []
    for name in names:
        own = [curve for curve in curves if curve["who"] == name]
        best = statistics.median(max((c["accuracy"] for c in o["checks"]), default=0) for o in own)
        body.append(
            [
                name,
                str(len(own)),
                f"{_median(own, 'ready'):.1f}",
                f"{_median(own, 'batch') * 1e3:.1f}",
                *(_time(own, first, value) for value in wanted),
                f"{_median(own, 'seconds'):.1f}",
                f"{best:.4f}",
            ]
        )
    head = ["", "seeds", "ready, s", "ms a batch", *(f"{w:.0%} after, s" for w in wanted)]
    return table([*head, "all after, s", "best accuracy"], body)


def _time(own: list[dict[str, Any]], first: list[dict[str, Any]], wanted: float) -> str:
    times = [reached(curve, wanted) for curve in own]
    found = [t for t in times if t is not None]
    if len(found) < len(own):
        return f"not reached in {_median(own, 'seconds'):.0f}" if not found else "not by all seeds"
    base = [reached(curve, wanted) for curve in first]
    took = statistics.median(found)
    if own == first or None in base:
        return f"{took:.1f}"
    start = statistics.median(t for t in base if t is not None)
    later = took - _median(own, "ready"), start - _median(first, "ready")
    return f"{took:.1f} ({took / start:.1f}x, {later[0] / later[1]:.1f}x)"


def _median(curves: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(curve[key] for curve in curves))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.time_to_accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if argv[:1] == ["table"]:
        parser.add_argument("file", type=Path, nargs="+", help="JSON files, ours first")
        parser.add_argument("--wanted", type=float, nargs="+", default=WANTED)
        given = parser.parse_args(argv[1:])
        curves = [json.loads(file.read_text(encoding="utf-8")) for file in given.file]
        print(markdown(curves, given.wanted))
        return
    parser.add_argument("--checks", type=int, default=8, help="of the accuracy, each epoch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the result here")
    given = parser.parse_args(argv)
    curve = Curve("ostinato", given.seed, BEGIN)
    ours(curve, given.checks)
    if given.json is not None:
        given.json.write_text(json.dumps(curve.to_json(), indent=1) + "\n", encoding="utf-8")
    print(markdown([curve.to_json()]))


if __name__ == "__main__":
    main(sys.argv[1:])
