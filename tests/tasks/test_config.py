"""The configuration: its checks, its defaults, and that a file gives back what was saved."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ostinato.errors import InputError
from ostinato.tasks.config import TrainConfig, option_fields, option_type, read_config_file
from ostinato.tasks.registry import TASKS

if TYPE_CHECKING:
    from pathlib import Path


def test_saved_and_read_back() -> None:
    config = TrainConfig(task="tag", data=["a.conll", "b.conll"], hidden=7, lr=0.5, bad_rows="skip")
    again = TrainConfig.from_json(config.to_json())
    assert again == config
    assert again.data == ("a.conll", "b.conll")
    assert again.hidden == 7
    assert again.lr == 0.5
    assert again.epochs is None


def test_toml_and_json_files_mean_the_same(tmp_path: Path) -> None:
    toml, js = tmp_path / "run.toml", tmp_path / "run.json"
    toml.write_text('task = "classify"\nlr = 1\nvalue = ["x", "y"]\n')
    js.write_text('{"task": "classify", "lr": 1, "value": ["x", "y"]}')
    first, second = TrainConfig.from_file(toml), TrainConfig.from_file(js)
    assert first == second
    assert first.value == ("x", "y")
    assert isinstance(first.lr, float)


def test_the_config_of_a_model_directory_is_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"format": 1, "config": {"task": "lm", "bptt": 9}}))
    assert read_config_file(path) == {"task": "lm", "bptt": 9}
    assert TrainConfig.from_file(path).bptt == 9


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hiden": 3}, "no option is called 'hiden'; did you mean 'hidden'"),
        ({"hidden": "3"}, "hidden: expected int, got '3'"),
        ({"hidden": 0}, "hidden: expected 1 or more, got 0"),
        ({"hidden": True}, "hidden: expected int, got True"),
        ({"lr": float("nan")}, "lr: expected a number above 0, got nan"),
        ({"lr": -1.0}, "lr: expected a number above 0"),
        ({"dropout": 1.0}, "dropout: expected a number from 0 to below 1"),
        ({"pool": "sum"}, "pool: expected one of last, mean, max"),
        ({"task": "sing"}, "task: expected one of classify, tag, lm, forecast, got 'sing'"),
        ({"data": "a.csv"}, "data: expected a list of names, got 'a.csv'"),
        ({"seed": None}, "seed: expected int, got None"),
        ({"data": ["a.csv"], "dataset": "imdb"}, "got files (a.csv) and the data set 'imdb'"),
        ({"task": "tag", "horizon": 3}, "horizon is an option of forecast"),
    ],
)
def test_what_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainConfig.from_dict(given, "run.toml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("run.toml: ")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.toml", "= 3", "is not TOML"),
        ("a.json", "[1]", "expected an object of names and values"),
    ],
)
def test_files_that_are_no_configuration(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        TrainConfig.from_file(path)
    with pytest.raises(InputError, match=r"nothing\.json: can't be read"):
        TrainConfig.from_file(tmp_path / "nothing.json")


def test_settle_fills_in_what_is_missing_and_known() -> None:
    config = TrainConfig(task="tag", hidden=3).settle({"hidden": 9, "epochs": 4, "bptt": 5})
    assert config.hidden == 3
    assert config.epochs == 4
    assert config.bptt is None


def test_every_task_has_a_default_for_each_of_its_options_or_decides_by_the_data() -> None:
    by_the_data = {"epochs", "window", "season", "horizon"}
    for name, task in TASKS.items():
        unsettled = {
            n
            for n, f in option_fields(name).items()
            if f.metadata["settled"] and n not in task.defaults
        }
        assert unsettled <= by_the_data, name
        # The defaults are values that the checks let pass.
        TrainConfig(task=name).settle(task.defaults)


def test_option_types() -> None:
    assert option_type("data") == tuple[str, ...]
    assert option_type("text") is str
    assert option_type("lr") is float
    assert option_type("bidirectional") is bool
    assert "text" in option_fields("classify")
    assert "text" not in option_fields("forecast")


def test_no_such_task() -> None:
    with pytest.raises(InputError, match="no task is called 'sing'; there are: classify, tag"):
        TASKS["sing"]
    assert "sing" not in TASKS
    assert list(TASKS) == ["classify", "tag", "lm", "forecast"]
