"""The options of ``ostinato train``, made from the configuration's fields, and back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ostinato.cli.usage import UsageError
from ostinato.errors import InputError
from ostinato.tasks.config import TrainConfig, option_fields, option_type, read_config_file

if TYPE_CHECKING:
    from collections.abc import Sequence

_TITLES = {
    "data": "data",
    "model": "model",
    "training": "training",
    "output": "output",
}


def add_options(parser: argparse.ArgumentParser, task: str) -> None:
    """Give ``parser`` one option for each field that ``task`` knows.

    Only what is given ends up in the namespace, so that the file of ``--config`` can have the rest.
    """
    groups: dict[str, Any] = {}
    for name, field in option_fields(task).items():
        if name == "task":
            continue
        data = field.metadata
        title = _TITLES.get(data["group"], data["group"])
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        group = groups[title]
        kind = option_type(name)
        # argparse formats help with %.
        about: dict[str, Any] = {
            "help": data["help"].replace("%", "%%"),
            "default": argparse.SUPPRESS,
        }
        if name == "data":
            group.add_argument("data", nargs="*", metavar="DATA", **about)
            continue
        flag = "--" + name.replace("_", "-")
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **about)
            continue
        if data["choices"]:
            about["choices"] = data["choices"]
        elif data["metavar"] or kind in (int, float):
            about["metavar"] = data["metavar"] or "N"
        if kind in (int, float, str):
            group.add_argument(flag, type=kind, **about)
        else:
            group.add_argument(flag, action="append", **about)


class HelpWithDefaults(argparse.Action):
    """``--help`` of one task, with the task's own defaults, for which it must be imported."""

    def __init__(self, option_strings: Sequence[str], task: str, **rest: Any) -> None:
        rest.update(nargs=0, default=argparse.SUPPRESS, dest=argparse.SUPPRESS)
        super().__init__(option_strings, help="show this help and end", **rest)
        self.task = task

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the help and end the program."""
        from ostinato.tasks.registry import TASKS

        fields = option_fields(self.task)
        defaults = {name: field.default for name, field in fields.items()}
        defaults |= dict(TASKS[self.task].defaults)
        if defaults["epochs"] is None:
            defaults["epochs"] = "the fewer, the more data there is"
        for action in parser._actions:
            default = defaults.get(action.dest)
            if action.help and default is not None and default != ():
                shown = ("yes" if default else "no") if isinstance(default, bool) else default
                action.help += f" (default: {shown})"
        parser.print_help()
        parser.exit()


def config_from(args: argparse.Namespace) -> TrainConfig:
    """The configuration that the command line means: its options over the file of ``--config``.

    Raises:
        InputError: the file can't be read, or has a wrong name or value.
        UsageError: an option has a wrong value, or doesn't go with another.
    """
    values: dict[str, Any] = {}
    if args.config is not None:
        path = Path(args.config)
        values = read_config_file(path)
        written = values.setdefault("task", args.task)
        if written != args.task:
            raise UsageError(f"{path} is a configuration of the task {written}, not {args.task}")
        TrainConfig.from_dict(values, str(path))  # what is wrong in the file is told as the file's
    given = {
        name: value
        for name, value in vars(args).items()
        if name in option_fields(args.task) and not (name == "data" and not value)
    }
    # Data on the command line takes the place of the file's, whatever that says it is.
    if given.get("data"):
        values.pop("dataset", None)
    if given.get("dataset"):
        values.pop("data", None)
    try:
        return TrainConfig.from_dict({**values, **given, "task": args.task}, "options")
    except InputError as error:
        raise UsageError(_as_option(str(error).removeprefix("options: "))) from error


def _as_option(message: str) -> str:
    """An error about a field, told of the option that gives it: ``--batch-size: expected ...``."""
    name, colon, rest = message.partition(": ")
    if not colon or name not in option_fields():
        return message
    return f"--{name.replace('_', '-')}: {rest}"
