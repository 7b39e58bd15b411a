"""What goes wrong: one message that says why, the exit code, no traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from command_line import COMMAND, ENVIRONMENT, Models, finish, start
from ostinato.cli.main import main
from ostinato.errors import DataError


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one message of a command that fails."""
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("ostinato: error: ")
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "lm", "nothing.txt", "--out", "x"], ["nothing.txt", "no such file"]),
        (["evaluate", "nothing"], ["nothing", "no such directory"]),
        (["evaluate", "lm", "nothing.txt"], ["nothing.txt"]),
        (["predict", "classify", "nothing.csv"], ["nothing.csv"]),
        (["generate", "classify"], ["classify", "language model"]),
        (["generate", "lm", "--temperature", "-1"], ["temperature", "0 or more"]),
        (["generate", "lm", "--top-p", "0"], ["top_p"]),
        (["cells", "lsmt"], ["lsmt", "did you mean 'lstm'"]),
        (["train", "lm", "text.txt", "--cell", "lsmt", "--out", "x"], ["did you mean 'lstm'"]),
        (["train", "lm", "text.txt", "--cell", "os:path", "--out", "x"], ["os", "path"]),
        (["train", "lm", "text.txt", "--cell", ":Mine", "--out", "x"], ["':Mine'", "module:Class"]),
        (["train", "lm", "--dataset", "imdb", "--out", "x"], ["imdb", "classify", "shakespeare"]),
        (["train", "lm", "text.txt", "--out", "lm"], ["lm", "--overwrite", "--out"]),
        (
            ["train", "classify", "reviews.csv", "--text", "boddy", "--out", "x"],
            ["'boddy'", "'body', 'kind'"],
        ),
        (["bench", "--cell", "nope"], ["nope"]),
        (["train", "lm", "--config", "nothing.json"], ["nothing.json"]),
        (["train", "--config", "nothing.json"], ["nothing.json"]),
    ],
)
@pytest.mark.usefixtures("here")
def test_failures(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    message = failure(capsys, *arguments)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["required"]),
        (["tarin"], ["tarin"]),
        (["train"], ["TASK"]),
        (["train", "lm", "--hidden", "many"], ["--hidden", "many"]),
        (["train", "lm", "--hidden", "0"], ["--hidden: expected 1 or more", "train lm --help"]),
        (["train", "lm", "--batch-size", "0"], ["--batch-size: expected 1 or more"]),
        (["train", "lm", "--hiden", "3"], ["train lm has no option --hiden", "mean --hidden?"]),
        (["show", "lm", "more"], ["show: there is one argument too many: more"]),
        (["show", "lm", "--threads", "-1"], ["--threads", "0 or more"]),
        (["cells", "--hidden", "0"], ["--hidden", "1 or more"]),
        (["predict", "forecast", "series.csv", "--keep", "level"], ["--keep"]),
        (["train", "lm", "--pool", "last"], ["--pool"]),
        (["train", "lm", "a.txt", "--dataset", "shakespeare"], ["one of the two"]),
        (["train", "tag", "--config", "lm/config.json"], ["lm", "not tag"]),
        (["predict", "classify", "-", "reviews.csv"], ["standard input"]),
        (["bench", "--steps", "0"], ["--steps"]),
        (["generate", "lm", "--length", "-1"], ["--length", "0 or more"]),
    ],
)
@pytest.mark.usefixtures("here")
def test_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in message


def test_a_bad_row_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (here / "reviews.csv").read_text().splitlines()
    text[40] = "no label here"
    (here / "bad.csv").write_text("\n".join(text) + "\n")
    message = failure(
        capsys, "train", "classify", "bad.csv", "--text", "body", "--label", "kind", "--out", "x"
    )
    assert "bad.csv:41:" in message


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("model.safetensors", lambda data: data[:-1] + b"!", ["model.safetensors", "damaged"]),
        ("vocabulary.json", lambda data: data[:-9], ["vocabulary.json", "damaged"]),
        ("history.json", None, ["history.json", "missing"]),
        (
            "config.json",
            lambda data: json.dumps({**json.loads(data), "format": 99}).encode(),
            ["99", "newer"],
        ),
    ],
)
def test_damaged_and_newer_models_are_refused(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, change, words
) -> None:
    model = tmp_path / "model"
    shutil.copytree(here / "lm", model)
    file = model / name
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    for command in ("evaluate", "show", "generate"):
        message = failure(capsys, command, str(model))
        assert all(word in message for word in words), message


@pytest.mark.usefixtures("here")
def test_the_traceback_on_request() -> None:
    with pytest.raises(DataError):
        main(["evaluate", "lm", "nothing.txt", "--traceback"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_an_output_that_is_full() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "cells"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == "ostinato: error: standard output: No space left on device\n"


@pytest.mark.usefixtures("here")
def test_several_processes_say_which_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["evaluate", "nothing"]) == 1
    assert capsys.readouterr().err.startswith("ostinato: error (process 1): nothing")


def test_a_reader_that_goes_away(models: Models) -> None:
    process = start("generate", "lm", "--length", "20000", cwd=models.folder)
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    process.stdout = None
    done = finish(process)
    assert done.code == 141
    assert done.err == ""
