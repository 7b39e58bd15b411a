"""The training loop's own time at the IMDB setting: all of a step but forward, backward, optimiser.

    python -m benchmarks.loop_overhead --threads 2

Trains the default classifier on the default data, IMDB's reviews (``pip install
'ostinato[train]'``), checkpoints and a callback included, and prints where the time of a step goes:
forward, backward and optimiser; making the batch; the gradient's norm and clipping; the rest. Times
are medians over the steps but for the first tenth, so that a pause of the machine's doesn't count;
the share of the loop is given by them, and over all steps with every pause and checkpoint.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ostinato.data import BadRows
from ostinato.tasks.classify import Classify
from ostinato.tasks.config import TrainConfig
from ostinato.train import Batches, Callback, Run, StepInfo, fit, loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The greatest share of a step that the loop may take.
LIMIT = 0.05


class Clock:
    """Adds up the time that calls of a function take, step by step."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps: list[float] = []

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.now += time.perf_counter() - start

        return timed

    def tick(self) -> None:
        self.steps.append(self.now)
        self.now = 0.0


class Steps(Callback):
    """Each step's time, and what of it is forward, backward and optimiser."""

    def __init__(self, clocks: list[Clock], updates: int) -> None:
        self.clocks = clocks
        self.updates = updates
        self.elapsed: list[float] = []
        self.work: list[float] = []

    def on_step(self, run: Run, info: StepInfo) -> None:
        self.elapsed.append(info.elapsed)
        self.work.append(info.seconds)
        for clock in self.clocks:
            clock.tick()
        if info.step == self.updates:
            run.stop()


class Timed:
    """Batches whose making is timed."""

    def __init__(self, batches: Batches, clock: Clock) -> None:
        self.batches, self.clock = batches, clock

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
        batches = self.batches.epoch(number, start)
        following = self.clock.around(lambda: next(batches, None))
        while (batch := following()) is not None:
            yield batch


def measure(config: TrainConfig, updates: int) -> dict[str, float]:
    """Milliseconds a step by what they are for, and the share of the loop, 0 to 1, of all steps."""
    task = Classify(config)
    task.read(BadRows())
    torch.manual_seed(0)
    model = task.build()
    prepared = task.prepare(model, None)
    batching, clipping = Clock(), Clock()
    seen = Steps([batching, clipping], updates)
    plain = loop.measure_and_clip
    loop.measure_and_clip = clipping.around(plain)
    try:
        with tempfile.TemporaryDirectory() as folder:
            fit(
                model,
                Timed(prepared.batches, batching),
                prepared.objective,
                epochs=-(-updates // len(prepared.batches)),
                lr=task.config.lr,
                schedule=task.config.schedule,
                callbacks=[seen],
                directory=Path(folder),
            )
    finally:
        loop.measure_and_clip = plain
    first = max(updates // 10, 1)
    whole = np.diff(seen.elapsed)[first - 1 :]
    own = whole - np.array(seen.work[first:])
    times = {
        "step": whole,
        "forward, backward, optimiser": seen.work[first:],
        "batch": batching.steps[first:],
        "norm and clipping": clipping.steps[first:],
        "loop (batch, norm and clipping, rest)": own,
    }
    result = {name: statistics.median(some) * 1e3 for name, some in times.items()}
    return {**result, "share": float(own.sum() / whole.sum())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--updates", type=int, default=400)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    result = measure(TrainConfig(task="classify"), given.updates)
    of_all = result.pop("share")
    for name, milliseconds in result.items():
        print(f"{name:40} {milliseconds:8.3f} ms")
    share = result["loop (batch, norm and clipping, rest)"] / result["step"]
    print(f"{'share of the loop, medians':40} {100 * share:8.2f} %  (at most {100 * LIMIT:g} %)")
    print(f"{'share of the loop, all steps':40} {100 * of_all:8.2f} %")


if __name__ == "__main__":
    main()
