"""A command line that can't be meant so."""

from __future__ import annotations

import argparse
import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class UsageError(Exception):
    """What is wrong with the command line; ends the program with exit code 2."""


def at_least(low: int) -> Callable[[str], int]:
    """A type of arguments: whole numbers from ``low`` on.

    >>> at_least(1)("3")
    3
    """

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of {low} or more, got {text}"
            )
        return value

    return number


def unknown_options(
    parser: argparse.ArgumentParser, args: argparse.Namespace, unknown: Sequence[str]
) -> str:
    """What to say of the words that a command doesn't know: which one may be meant."""
    command, known = _chosen(parser, args)
    word = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
    if not word.startswith("-"):
        return f"{command}: there is one argument too many: {word}"
    near = difflib.get_close_matches(word, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{command} has no option {word}{hint}"


def _chosen(parser: argparse.ArgumentParser, args: argparse.Namespace) -> tuple[str, list[str]]:
    """The name and the options of the innermost command that was given."""
    for action in parser._actions:
        name = getattr(args, action.dest, None)
        if isinstance(action, argparse._SubParsersAction) and name in action.choices:
            return _chosen(action.choices[name], args)
    return parser.prog, [option for a in parser._actions for option in a.option_strings]
