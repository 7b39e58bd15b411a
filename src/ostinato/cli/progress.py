"""How training goes on: a live bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ostinato.cli.printing import duration, figure, rate, say
from ostinato.errors import InputError
from ostinato.train import Callback

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ostinato.train import EpochRecord, History, Run, StepInfo

#: Seconds between two plain lines within an epoch.
_EVERY = 10.0
#: Times a second that the bar is drawn.
_FRAMES = 8
#: Steps that the shown loss, gradient norm and speed are averaged over, about.
_MEMORY = 50


class Averages:
    """Running means of what the steps say; the share of clipped steps is the epoch's."""

    def __init__(self) -> None:
        self.loss = self.norm = self.speed = 0.0
        self.clipped = 0
        self.batches = 0
        self._weight = 0.0

    def add(self, info: StepInfo) -> None:
        """Count one step."""
        if info.batch == 1:
            self.clipped = self.batches = 0
        self.batches += 1
        self.clipped += info.clipped
        # Divided by the weight, so that the first steps count in full.
        self._weight += (1.0 - self._weight) / _MEMORY
        share = 1.0 / (_MEMORY * self._weight)
        self.loss += share * (info.loss - self.loss)
        self.norm += share * (info.grad_norm - self.norm)
        self.speed += share * (info.steps / max(info.seconds, 1e-9) - self.speed)

    @property
    def clipped_share(self) -> float:
        """Of this epoch's steps, since the run started or was taken up."""
        return self.clipped / max(self.batches, 1)


class Progress(Callback):
    """Base of both: what they know and how it is worded.

    It is a context: leaving it clears the terminal, whatever happened.

    Args:
        unit: what a time step is: ``"tokens"`` or ``"time steps"``.
    """

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.averages = Averages()
        self.metric = ""
        self.last_step = 0
        self.total_steps = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to clear."""

    def on_start(self, run: Run) -> None:
        """See the base class."""
        self._first = self.last_step = run.step
        self.total_steps = run.steps
        if run.resumed is not None:
            self.line(f"resumed after step {run.resumed:,} of {run.steps:,}")

    def on_step(self, run: Run, info: StepInfo) -> None:
        """See the base class."""
        self.averages.add(info)
        self.last_step = info.step
        self.show(run, info)

    def on_epoch(self, run: Run, record: EpochRecord) -> None:
        """See the base class."""
        # The loss itself only where it is all there is.
        shown = {k: v for k, v in record.metrics.items() if k != "val_loss"} or record.metrics
        self.metric = "  ".join(f"{named(name)} {figure(value)}" for name, value in shown.items())
        parts = [f"epoch {record.epoch}/{run.epochs}", f"loss {figure(record.loss)}"]
        parts += [f"{named(name)} {figure(value)}" for name, value in record.metrics.items()]
        parts += [
            gradient(record.grad_norm, record.clipped_share),
            f"{rate(record.steps_per_second)} {self.unit}/s",
            duration(record.seconds),
        ]
        self.line("  ".join(parts))

    def left(self, run: Run, info: StepInfo) -> float:
        """Seconds to the end at the speed so far, validation included."""
        done = info.step - self._first
        return info.elapsed / done * (run.steps - info.step)

    def facts(self) -> list[str]:
        """What the last steps were like, and the last validation."""
        averages = self.averages
        return [
            f"loss {figure(averages.loss)}",
            *([self.metric] if self.metric else []),
            gradient(averages.norm, averages.clipped_share),
            f"{rate(averages.speed)} {self.unit}/s",
        ]

    def show(self, run: Run, info: StepInfo) -> None:
        """Say how far it is, if it is time."""

    def line(self, text: str) -> None:
        """A line that stays."""
        say(text)


class PlainProgress(Progress):
    """A line an epoch, and one every 10 seconds."""

    def __init__(self, unit: str) -> None:
        super().__init__(unit)
        self._next = _EVERY

    def show(self, run: Run, info: StepInfo) -> None:
        """See the base class."""
        if info.elapsed < self._next:
            return
        self._next = info.elapsed + _EVERY
        parts = [
            f"epoch {info.epoch}/{run.epochs}",
            f"step {info.step:,}/{run.steps:,}",
            *self.facts(),
            f"{duration(self.left(run, info))} left",
        ]
        self.line("  ".join(parts))


class LiveProgress(Progress):
    """A bar at the bottom of the terminal, and a line of facts; finished epochs stand above it."""

    def __init__(self, unit: str) -> None:
        super().__init__(unit)
        progress, live, group, self._text = _rich()
        # The facts have a line of their own: beside the bar, 80 columns have no room for them.
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=None),
            progress.TaskProgressColumn(text_format_no_percentage=""),
            progress.TextColumn("{task.fields[left]}"),
            expand=True,
        )
        self._task = self._bar.add_task("reading the data", total=None, left="")
        self._facts = self._text("")
        self._live = live.Live(
            group(self._bar, self._facts), transient=True, refresh_per_second=_FRAMES
        )

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        self._live.stop()

    def on_start(self, run: Run) -> None:
        """See the base class."""
        super().on_start(run)
        self._bar.update(self._task, total=run.steps, completed=run.step)

    def show(self, run: Run, info: StepInfo) -> None:
        """See the base class."""
        self._bar.update(
            self._task,
            completed=info.step,
            description=f"epoch {info.epoch}/{run.epochs}",
            left=f"{duration(self.left(run, info))} left",
        )
        self._facts.plain = "  ".join(self.facts())

    def on_end(self, run: Run, history: History) -> None:
        """See the base class."""
        if history.stopped != "interrupted":
            self._bar.update(self._task, description="measuring on the held-out part", left="")
            self._facts.plain = ""

    def line(self, text: str) -> None:
        """See the base class."""
        self._live.console.print(text, markup=False, highlight=False)


def progress_for(unit: str) -> Progress:
    """The live bar if standard output is a terminal, else lines.

    Raises:
        InputError: a terminal, but rich isn't installed.
    """
    return LiveProgress(unit) if sys.stdout.isatty() else PlainProgress(unit)


def named(metric: str) -> str:
    """A metric's name in words.

    >>> named("val_bits_per_character"), named("val_loss")
    ('validation bits per character', 'validation loss')
    """
    return metric.replace("val_", "validation ", 1).replace("_", " ")


def gradient(norm: float, clipped_share: float) -> str:
    """A gradient's norm and how often it was clipped."""
    return f"gradient {norm:.3g} ({clipped_share:.0%} clipped)"


def _rich() -> tuple[Any, Any, Any, Any]:
    try:
        from rich import live, progress
        from rich.console import Group
        from rich.text import Text
    except ImportError as error:
        raise InputError(
            "the live progress bar needs rich, which isn't installed: pip install "
            "'ostinato[train]', or send the output through a pipe: ostinato ... | cat"
        ) from error
    return progress, live, Group, Text
