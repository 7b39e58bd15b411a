"""``ostinato show``: what a model directory holds: layers, training, plans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ostinato.cli.model import add_model, load
from ostinato.cli.printing import count, say, table

if TYPE_CHECKING:
    import argparse

    from torch import nn

SUMMARY = "print a model's layers, training history and plans"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Print the model."""
    from ostinato.cli.report import ending_text, history_text
    from ostinato.nn import Recurrent

    task, model, history = load(args)
    say(f"{args.model}: {task.name}, {task.summary}\n")
    say(_options(task.config.to_dict()))
    say(f"\nlayers\n{_parameters(model)}")
    say(f"\ntraining (* the best): {ending_text(history)}")
    if history.epochs:
        say(history_text(history))
    for name, module in model.named_modules():
        if isinstance(module, Recurrent):
            say(f"\nplan of {name}\n{module.explain()}")
    return 0


def _options(options: dict[str, object]) -> str:
    width = max(map(len, options))
    return "\n".join(f"  {name:<{width}}  {_value(value)}" for name, value in options.items())


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _parameters(model: nn.Module) -> str:
    rows = [
        [name, " x ".join(map(str, p.shape)), count(p.numel())]
        for name, p in model.named_parameters()
    ]
    total = sum(p.numel() for p in model.parameters())
    return table(["parameter", "shape", "count"], [*rows, ["in all", "", count(total)]])
