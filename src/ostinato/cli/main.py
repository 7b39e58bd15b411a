"""The entry point: which command, and what its errors look like.

Exit codes: 0 done; 1 it failed, and one message on standard error says why; 2 the command line
itself is wrong; 130 interrupted by Ctrl-C; 141 the reader of the output went away.

PyTorch takes seconds to import, so each command's ``run`` imports what it needs; ``--help`` needs
none of it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import TYPE_CHECKING

from ostinato import __version__
from ostinato.cli import train
from ostinato.cli.interruption import INTERRUPTED, MESSAGE, ctrl_c
from ostinato.cli.usage import UsageError, unknown_options
from ostinato.errors import OstinatoError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

COMMANDS = ("train", "evaluate", "predict", "generate", "show", "cells", "bench")

_INTRODUCTION = """\
Recurrent networks on PyTorch: train one on your data, use it, look into it.

  ostinato train classify                        IMDB reviews, positive or negative
  ostinato train classify my.csv --text body --label kind --out my-model
  ostinato predict my-model new.csv > predictions.csv
"""


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """The command line; the arguments of the ``chosen`` command alone, to begin soon."""
    parser = argparse.ArgumentParser(
        prog="ostinato",
        description=_INTRODUCTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ostinato {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module: ModuleType = importlib.import_module(f"ostinato.cli.{name}")
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=_sentence(module.SUMMARY),
            allow_abbrev=False,
        )
        command.set_defaults(run=module.run)
        if name == chosen:
            module.configure(command)
        if name != "train":  # there each task has it
            add_traceback(command)
    return parser


def add_traceback(parser: argparse.ArgumentParser) -> None:
    """The option that all commands have."""
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the code an error came up"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; ``None``: the process's own.

    Returns:
        The exit code, see the module.

    Raises:
        SystemExit: with 2 for a wrong command line, with 0 after ``--help``.
    """
    # Idle threads wait in a busy loop unless they are told otherwise before PyTorch is imported.
    # Beside one other busy program a step of the IMDB classifier took 35 ms so and 26 ms without;
    # alone, 14.7 and 15.2 ms (2 processors).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser(next((word for word in given if not word.startswith("-")), None))
    traceback = "--traceback" in given
    try:
        with ctrl_c():
            args, unknown = parser.parse_known_args(train.with_task(given))
            if hasattr(args, "data") and not any(word.startswith("-") for word in unknown):
                # argparse takes positional arguments only up to the first option.
                args.data, unknown = [*(args.data or []), *unknown], []
            if unknown:
                raise UsageError(unknown_options(parser, args, unknown))
            args.command_line = given
            command: Callable[[argparse.Namespace], int] = args.run
            return command(args)
    except UsageError as error:
        print(f"ostinato: error: {error}\n{_help_hint(given)}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        # The reader has gone; what Python still holds back must not raise at exit again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(MESSAGE, end="", file=sys.stderr)
        return INTERRUPTED
    except (OstinatoError, OSError) as error:
        if traceback:
            raise
        print(f"ostinato: error{_process()}: {_in_words(error)}", file=sys.stderr)
        return 1


def _in_words(error: Exception) -> str:
    """Of the system's errors the file and what was wrong, without number and brackets."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    place = error.filename if error.filename is not None else "standard output"
    return f"{place}: {error.strerror}"


def _process() -> str:
    """Which of several processes it is, for torchrun's output is that of all."""
    return f" (process {os.environ.get('RANK')})" if _processes() > 1 else ""


def _processes() -> int:
    world = os.environ.get("WORLD_SIZE", "1")
    return int(world) if world.isdecimal() else 1


def _help_hint(given: Sequence[str]) -> str:
    words = [word for word in given[:2] if not word.startswith("-")]
    known = words[:1] if words and words[0] in COMMANDS else []
    if known == ["train"] and words[1:] and words[1] in train.TASKS:
        known = words
    return f"`{' '.join(['ostinato', *known, '--help'])}` lists the options"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
