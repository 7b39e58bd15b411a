"""Evaluations and histories as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ostinato.cli.printing import counted, duration, figure, rate, table
from ostinato.cli.progress import named

if TYPE_CHECKING:
    from ostinato.tasks.task import Evaluation
    from ostinato.train import History


def evaluation_text(evaluation: Evaluation) -> str:
    """Notes, metrics and tables."""
    width = max(map(len, evaluation.metrics), default=0)
    lines = [*evaluation.notes, ""]
    lines += [
        f"  {named(name):<{width}}  {figure(value)}" for name, value in evaluation.metrics.items()
    ]
    for one in evaluation.tables:
        lines += ["", one.title, _indented(table(one.columns, one.rows))]
    return "\n".join(lines)


def history_text(history: History) -> str:
    """A table with a line an epoch."""
    metrics = list(dict.fromkeys(name for record in history.epochs for name in record.metrics))
    columns = ["epoch", "loss", *map(named, metrics), "gradient", "clipped", "time steps/s", "time"]
    rows = [
        [
            f"{record.epoch}" + ("*" if record.epoch == history.best_epoch else ""),
            figure(record.loss),
            *(figure(record.metrics[name]) if name in record.metrics else "-" for name in metrics),
            f"{record.grad_norm:.3g}",
            f"{record.clipped_share:.0%}",
            rate(record.steps_per_second),
            duration(record.seconds),
        ]
        for record in history.epochs
    ]
    return table(columns, rows)


def ending_text(history: History) -> str:
    """How training ended, in a sentence."""
    epochs = counted(len(history.epochs), "epoch")
    ended = {
        "finished": epochs,
        "early": f"{epochs}, the last ones without a better validation",
        "interrupted": f"interrupted after {epochs}",
    }[history.stopped]
    if history.best_epoch is None or history.best_value is None:
        return f"{ended}; the weights are the last ones"
    return f"{ended}; the weights are those of epoch {history.best_epoch}, the best by validation"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
