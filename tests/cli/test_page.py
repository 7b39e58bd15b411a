"""The page on the command line has every command and every option, and no others."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from ostinato.cli.main import COMMANDS, build_parser
from ostinato.cli.train import TASKS

PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()


def options_of(command: str, task: str | None = None) -> set[str]:
    [commands] = [
        a for a in build_parser(command)._actions if isinstance(a, argparse._SubParsersAction)
    ]
    parser = commands.choices[command]
    if task is not None:
        [tasks] = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        parser = tasks.choices[task]
    return {o for a in parser._actions for o in a.option_strings if o.startswith("--")}


def test_the_table_has_the_options_of_train() -> None:
    table = PAGE.split("### Options")[1].split("\n### ")[0]
    shown = set(re.findall(r"`(--[a-z-]+)`", table))
    assert shown == set().union(*(options_of("train", task) for task in TASKS))


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "train"])
def test_the_options_of_the_other_commands_are_on_the_page(command: str) -> None:
    everywhere = {"--help", "--traceback", "--threads", "--bad-rows"}
    lacking = {o for o in options_of(command) - everywhere if f"{o}" not in PAGE}
    assert f"ostinato {command}" in PAGE
    assert not lacking


def test_no_option_is_made_up() -> None:
    known = {"--no-deps", "--nproc-per-node"}  # pip's and torchrun's
    known |= set().union(*(options_of("train", task) for task in TASKS))
    known |= set().union(*(options_of(c) for c in COMMANDS if c != "train"))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE)) <= known
