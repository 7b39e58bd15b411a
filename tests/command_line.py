"""The command line as a process, on small data, and one small trained model of each task."""

from __future__ import annotations

import contextlib
import io
import math
import os
import random
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ostinato.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: One thread: the tests' models are tiny, and other tests run beside.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "100"}
COMMAND = [sys.executable, "-m", "ostinato"]


@dataclass
class Done:
    code: int
    out: str
    err: str


def start(*arguments: str, cwd: Path, stdin: int | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], text: str | None = None) -> Done:
    out, err = process.communicate(text, timeout=120)
    return Done(process.returncode, out, err)


def in_process(arguments: Sequence[str], cwd: Path) -> Done:
    """As :func:`start` and :func:`finish`, without a process of its own."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    return Done(code, out.getvalue(), err.getvalue())


def write_data(folder: Path) -> None:
    """``reviews.csv``, ``tags.conll``, ``text.txt`` and ``series.csv``: easy to learn."""
    chance = random.Random(0)
    kinds = {"good": ["fine", "lovely", "great"], "bad": ["dull", "poor", "awful"]}
    lines = ["body,kind"]
    for number in range(120):
        kind = chance.choice(list(kinds))
        words = [*chance.choices(["film", "plot", "cast"], k=4), *chance.choices(kinds[kind], k=3)]
        chance.shuffle(words)
        lines.append(f"{' '.join(words)} n{number},{kind}")
    (folder / "reviews.csv").write_text("\n".join(lines) + "\n")
    tags = {"the": "DET", "a": "DET", "cat": "NOUN", "dog": "NOUN", "sees": "VERB", "hears": "VERB"}
    sentences = []
    for _ in range(80):
        subject, object_ = chance.choices(["cat", "dog"], k=2)
        middle = chance.choice(["sees", "hears"])
        words = [chance.choice(["the", "a"]), subject, middle, chance.choice(["the", "a"]), object_]
        sentences.append(
            "\n".join(f"{word}\t{tags[word]}" for word in words[: chance.choice([3, 5])])
        )
    (folder / "tags.conll").write_text("\n\n".join(sentences) + "\n")
    (folder / "text.txt").write_text("the cat sat on the mat. a dog ate it!\n" * 300)
    values = [10 + math.sin(2 * math.pi * t / 12) + 0.01 * t for t in range(240)]
    rows = [f"{2000 + t // 12}-{t % 12 + 1:02d}-01,{value:.4f}" for t, value in enumerate(values)]
    (folder / "series.csv").write_text("\n".join(["month,level", *rows]) + "\n")


SMALL = ["--hidden", "16", "--epochs", "2", "--threads", "1"]
TRAININGS: dict[str, Sequence[str]] = {
    "classify": ["reviews.csv", "--text", "body", "--label", "kind"],
    "tag": ["tags.conll"],
    "lm": ["text.txt", "--batch-size", "4"],
    "forecast": ["series.csv", "--time", "month", "--value", "level", "--horizon", "6"],
}


COMMANDS: dict[str, Sequence[str]] = {
    "evaluate": ["evaluate", "lm", "--threads", "1"],
    "show": ["show", "lm"],
    "generate": ["generate", "lm", "--prompt", "the c", "--length", "30", "--seed", "3"],
    "bench": [
        *("bench", "--steps", "5", "--batch", "2", "--input", "3", "--hidden", "4"),
        *("--seconds", "0.02", "--threads", "1", "--cell", "gru"),
    ],
}


@dataclass
class Models:
    """The folder has the data, and each task's model under the task's name.

    ``trained``: what the training of each said; ``commands``: what other commands said.
    """

    folder: Path
    trained: dict[str, Done]
    commands: dict[str, Done]
