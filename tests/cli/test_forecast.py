"""A forecast from a CSV file to the next values, its commands as processes."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import subprocess
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pytest

from command_line import finish, start
from ostinato.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

START = date(2026, 1, 1)
TRAIN = (
    *("train", "forecast", "sold.csv", "--value", "bread", "--value", "milk", "--group", "shop"),
    *("--horizon", "5", "--season", "7", "--window", "14", "--hidden", "8", "--epochs", "2"),
    *("--threads", "1", "--bad-rows", "skip", "--out", "model"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``sold.csv``: two shops' days, with a missing value and one that is no number."""
    draw = random.Random(0)
    lines = ["date,shop,bread,milk,remark"]
    for day in range(150):
        today = START + timedelta(day)
        for shop, level in (("Ost", 30), ("West", 900)):
            bread = f"{level * (1 + 0.3 * math.sin(2 * math.pi * day / 7)) + draw.gauss(0, 1):.2f}"
            milk = f"{level / 2 + draw.gauss(0, 1):.2f}"
            odd = {(40, "Ost"): "", (90, "West"): "sold out"}.get((day, shop), bread)
            lines.append(f"{today},{shop},{odd},{milk},none")
    (tmp_path / "sold.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_from_a_file_to_its_next_values(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = finish(start(*TRAIN, cwd=folder))
    assert done.code == 0, done.err
    assert "bread, milk" in done.out
    assert "14 past values, 5 steps ahead, a season of 7" in done.out
    assert "1 bad row left out: 'bread' isn't a finite number (sold.csv:183)" in done.out

    text = (folder / "sold.csv").read_text()
    asked = {
        "evaluate": start("evaluate", "model", "--json", "--bad-rows", "skip", cwd=folder),
        "show": start("show", "model", cwd=folder),
        "pipe": start(
            *("predict", "model", "-", "--as", "jsonl", "--bad-rows", "skip"),
            cwd=folder,
            stdin=subprocess.PIPE,
        ),
    }
    answers = {
        name: finish(process, text if name == "pipe" else None) for name, process in asked.items()
    }
    assert {answer.code for answer in answers.values()} == {0}, answers
    found = json.loads(answers["evaluate"].out)
    for name in ("bread_mae", "seasonal_naive_bread_mae", "linear_ar_milk_rmse", "mase"):
        assert f"{found['metrics'][name]:.4g}" in done.out
    assert [table["title"] for table in found["tables"]] == [
        "error of bread by steps ahead",
        "error of milk by steps ahead",
    ]
    assert "52 origins in 2 runs" in done.out
    assert "encoder.layers.0.cell.weight_hh  24 x 8" in answers["show"].out

    monkeypatch.chdir(folder)
    assert main(["predict", "model", "sold.csv", "--bad-rows", "skip"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == ["shop", "step", "time", "bread", "milk"]
    assert [(row["shop"], row["step"]) for row in rows] == [
        (shop, str(step)) for shop in ("Ost", "West") for step in range(1, 6)
    ]
    assert [row["time"] for row in rows] == [str(START + timedelta(150 + k)) for k in range(5)] * 2
    assert all(10 < float(row["bread"]) < 50 for row in rows[:5])
    assert all(400 < float(row["bread"]) < 1500 for row in rows[5:])
    piped = [json.loads(line) for line in answers["pipe"].out.splitlines()]
    assert [row["milk"] for row in piped] == [float(row["milk"]) for row in rows]
    assert main(["predict", "model", "sold.csv"]) == 1
    refused = capsys.readouterr()
    assert refused.out == ""
    assert refused.err.startswith("ostinato: error: sold.csv:183: 'bread' isn't a finite number")
