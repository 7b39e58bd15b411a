"""What the commands that use a model have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ostinato.cli.usage import at_least

if TYPE_CHECKING:
    import argparse

    from torch import nn

    from ostinato.tasks.task import Task
    from ostinato.train import History


def add_model(parser: argparse.ArgumentParser) -> None:
    """The argument ``MODEL`` and the option ``--threads``."""
    parser.add_argument("model", metavar="MODEL", help="a model's directory")
    parser.add_argument(
        "--threads",
        type=at_least(0),
        default=0,
        metavar="N",
        help="processor threads; 0: PyTorch's choice (default)",
    )


def add_bad_rows(parser: argparse.ArgumentParser) -> None:
    """The option ``--bad-rows``."""
    parser.add_argument(
        "--bad-rows",
        choices=("fail", "skip"),
        default="fail",
        help="stop at a row that can't be used (default), or count it and go on",
    )


def load(args: argparse.Namespace) -> tuple[Task, nn.Module, History]:
    """The model that the command line names.

    Raises:
        ModelError: there is none, or it is damaged or newer.
    """
    import torch

    from ostinato.tasks import model_directory

    if args.threads > 0:
        torch.set_num_threads(args.threads)
    return model_directory.load(Path(args.model))
