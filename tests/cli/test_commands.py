"""Every command from end to end; trainings and one of each command as processes, piped."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from command_line import Models, finish, start
from ostinato.cli.main import main
from ostinato.cli.printing import figure

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

TASKS = ("classify", "tag", "lm", "forecast")


def rows_of(text: str) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("task", TASKS)
def test_train(models: Models, task: str) -> None:
    done = models.trained[task]
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [line.split()[1] for line in epochs] == ["1/2", "2/2"]
    assert all("loss" in line and "gradient" in line and "clipped" in line for line in epochs)
    assert any(line.startswith("2 epochs") for line in lines)
    assert any(line.startswith("held out: ") for line in lines)
    assert f"the model is in {task}" in lines[-1]
    assert "\x1b" not in done.out + done.err  # lines for a pipe, not for a terminal
    names = {path.name for path in (models.folder / task).iterdir()}
    assert names == {"model.safetensors", "config.json", "vocabulary.json", "history.json"}


@pytest.mark.parametrize("command", ["evaluate", "show", "generate", "bench"])
def test_each_command_ends_well(models: Models, command: str) -> None:
    done = models.commands[command]
    assert done.code == 0, done.err
    assert done.err == ""
    assert "\x1b" not in done.out


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.usefixtures("here")
def test_evaluate_says_what_training_said(
    models: Models, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", task, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    report = models.trained[task].out.split("held out: ")[1]
    for name, value in found["metrics"].items():
        assert name.replace("_", " ") in report
        assert f"  {figure(value)}\n" in report
    for table in found["tables"]:
        assert table["title"] in report
    if task == "lm":
        text = models.commands["evaluate"].out
        assert f"bits per character  {figure(found['metrics']['bits_per_character'])}\n" in text


@pytest.mark.usefixtures("here")
def test_evaluate_on_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "classify", "reviews.csv"]) == 0
    assert capsys.readouterr().out.startswith("120 examples: reviews.csv")


@pytest.mark.usefixtures("here")
def test_predict_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "classify", "reviews.csv"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert len(rows) == 120
    assert {row["label"] for row in rows} <= {"good", "bad"}
    assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)


def test_predict_answers_a_line_before_the_next_one_comes(models: Models) -> None:
    process = start(
        *("predict", "classify", "-", "--format", "lines", "--as", "jsonl"),
        cwd=models.folder,
        stdin=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for text in ("lovely film great plot\n", "awful dull dull film\n"):
        process.stdin.write(text)
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert answer["label"] in ("good", "bad")
    rest = finish(process, "film\nzebra\n")
    assert rest.code == 0, rest.err
    assert [json.loads(line)["unknown"] for line in rest.out.splitlines()] == [0, 1]


def given(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """As standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


@pytest.mark.usefixtures("here")
def test_predict_from_a_pipe_without_being_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(monkeypatch, "tokens\nthe cat sees a dog\na fox hears\n")
    assert main(["predict", "tag"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [len(row["tags"].split()) for row in rows] == [5, 3]
    assert [row["unknown"] for row in rows] == ["0", "1"]


@pytest.mark.usefixtures("here")
def test_predict_bad_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "body,more\nlovely,1\nonly one column\ndull,2\n"
    given(monkeypatch, text)
    assert main(["predict", "classify", "-"]) == 1
    refused = capsys.readouterr()
    assert "standard input:3" in refused.err
    assert len(rows_of(refused.out)) == 1  # what came before is predicted
    given(monkeypatch, text)
    assert main(["predict", "classify", "-", "--bad-rows", "skip"]) == 0
    skipped = capsys.readouterr()
    # Lines of the output aren't lines of the input any more.
    assert [row["row"] for row in rows_of(skipped.out)] == ["standard input:2", "standard input:4"]
    assert "1 bad row left out" in skipped.err


@pytest.mark.usefixtures("here")
def test_forecast_predicts_ahead(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "forecast", "series.csv"]) == 0
    assert len(rows_of(capsys.readouterr().out)) == 6


@pytest.mark.usefixtures("here")
def test_generate(models: Models, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "lm", "--prompt", "the c", "--length", "30", "--seed", "3"]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert first == models.commands["generate"].out
    assert first.startswith("the c")
    assert len(first) == 5 + 30 + 1
    assert main([*words[:-1], "4"]) == 0
    assert capsys.readouterr().out != first
    assert main(["generate", "lm", "--prompt", "thé", "--length", "0"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "thé\n"
    assert "1 of the prompt's symbols are unknown: 'é'" in captured.err


def test_show(models: Models) -> None:
    text = models.commands["show"].out
    assert "encoder.layers.0.cell.weight_hh  48 x 16" in text
    assert "plan of encoder.layers.0\nGRU: input 64, state (16)\nengine       native" in text
    header = next(line for line in text.splitlines() if line.startswith("epoch"))
    assert "validation bits per character" in header


def test_bench(models: Models) -> None:
    text = models.commands["bench"].out
    for title in ("\nforward\n", "\nforward and backward\n"):
        table = text.split(title)[1].split("\n\n")[0].splitlines()
        assert {"ostinato", "torch loop", "torch.nn"} <= {line.split("  ")[0] for line in table}
    assert "our engine: native" in text


def test_a_training_reproduced_from_its_configuration(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--config", "lm/config.json", "--out", "again"]) == 0
    assert "the model is in again" in capsys.readouterr().out
    weights = [(here / name / "model.safetensors").read_bytes() for name in ("lm", "again")]
    assert weights[0] == weights[1]
