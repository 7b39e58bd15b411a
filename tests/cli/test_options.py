"""Options are the configuration's fields, and `--help` costs no import of PyTorch."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ostinato.cli import train
from ostinato.cli.main import COMMANDS, build_parser, main
from ostinato.cli.options import config_from
from ostinato.cli.usage import UsageError
from ostinato.errors import InputError
from ostinato.tasks.config import TrainConfig, option_fields
from ostinato.tasks.option import TASK_NAMES

if TYPE_CHECKING:
    from pathlib import Path

#: A value that isn't the default, by option.
VALUES: dict[str, Any] = {
    "text": "a",
    "label": "b",
    "time": "c",
    "value": ("d", "e"),
    "group": "f",
    "format": "csv",
    "bad_rows": "skip",
    "level": "char",
    "vocabulary": 77,
    "max_length": 5,
    "cell": "lstm",
    "hidden": 7,
    "layers": 2,
    "bidirectional": False,
    "embedding": 9,
    "dropout": 0.25,
    "pool": "last",
    "bptt": 11,
    "horizon": 4,
    "window": 8,
    "season": 12,
    "optimizer": "sgd",
    "lr": 0.5,
    "weight_decay": 0.1,
    "schedule": "linear",
    "warmup": 0.2,
    "epochs": 6,
    "batch_size": 3,
    "clip_norm": 2.0,
    "patience": 1,
    "seed": 4,
    "threads": 1,
    "out": "x",
    "log": "tensorboard",
}


def config_of(*words: str) -> TrainConfig:
    given = train.with_task(["train", *words])
    return config_from(build_parser("train").parse_args(given))


@pytest.mark.parametrize("task", TASK_NAMES)
def test_every_field_is_an_option(task: str) -> None:
    fields = set(option_fields(task)) - {"task", "data", "dataset"}
    assert fields <= set(VALUES)
    words = [task, "file.csv"]
    for name in fields:
        flag, value = "--" + name.replace("_", "-"), VALUES[name]
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-"))
            continue
        for one in value if isinstance(value, tuple) else [value]:
            words += [flag, str(one)]
    wanted = TrainConfig(task=task, data=("file.csv",), **{n: VALUES[n] for n in fields})
    assert config_of(*words) == wanted


def test_options_over_a_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('hidden = 32\nlr = 1\ndataset = "imdb"\n')
    found = config_of("classify", "--config", str(file), "--hidden", "8")
    assert (found.hidden, found.lr, found.dataset) == (8, 1.0, "imdb")
    found = config_of("classify", "my.csv", "--config", str(file))
    assert (found.data, found.dataset) == (("my.csv",), None)


def test_the_files_task(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"format": 1, "config": {"task": "tag", "hidden": 3}}))
    assert config_of("--config", str(file)).task == "tag"
    file.write_text(json.dumps({"hidden": 3}))
    with pytest.raises(UsageError, match="has no task"):
        config_of("--config", str(file))
    file.write_text(json.dumps({"hiden": 3}))
    with pytest.raises(InputError, match=r"config\.json.*did you mean 'hidden'"):
        config_of("tag", "--config", str(file))


@pytest.mark.parametrize("task", ["classify", "tag", "lm"])
def test_help_has_the_tasks_defaults(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", task, "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    from ostinato.tasks.registry import TASKS

    for name in ("cell", "hidden", "lr"):
        assert f"(default: {TASKS[task].defaults[name]})" in text


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([c, "--help"] for c in COMMANDS)])
def test_help_imports_no_torch(words: list[str]) -> None:
    code = (
        "import sys\nfrom ostinato.cli.main import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as e:\n    assert e.code == 0\n"
        "assert not {'torch', 'numpy', 'rich'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "ostinato" in done.stdout


def test_each_command_has_a_line_of_help() -> None:
    parser = build_parser(None)
    [commands] = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    assert list(commands.choices) == list(COMMANDS)
    assert all(action.help for action in commands._choices_actions)
